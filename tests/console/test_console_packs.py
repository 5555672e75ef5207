"""``quarterdeck packs``: what there is, what would be loaded, and whose code an operator lets run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console.cli import main
from runtime.blocks.packs.folders import pack_digest
from runtime.blocks.wire import FrameType, frame
from tests.support.packs import HEALTHY, write_pack
from tests.support.sandboxing import denied

Deck = Callable[..., tuple[int, Any]]


@pytest.fixture
def deck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Deck:
    """Runs a verb on a store of its own: exit code and what it printed as JSON."""

    def run(*words: str) -> tuple[int, Any]:
        code = main([*words, "--store", str(tmp_path / "store"), "--json"])
        return code, json.loads(capsys.readouterr().out or "null")

    return run


def eight_broken(folder: Path) -> dict[str, str]:
    """Packs that nothing can be loaded of: name → code."""
    packs: dict[str, tuple[str, Callable[[bytes], bytes] | None]] = {
        "checksum": ("plugin.checksum", lambda data: data[:-1] + b"?"),
        "cut": ("plugin.truncated", lambda data: data[:-1]),
        "encoding": ("plugin.bad_encoding", lambda data: frame(FrameType.MANIFEST, b"\xc1")),
        "escape": ("plugin.path_escape", None),
        "magic": ("plugin.bad_magic", lambda data: b"ZIP" + data[3:]),
        "missing": ("plugin.manifest_missing", None),
        "rival": ("plugin.type_conflict", None),
        "stranger": ("plugin.untrusted", None),
    }
    for name, (_, spoil) in packs.items():
        write_pack(folder / name, "sample", HEALTHY.replace("1.0", "2.0") if name == "rival" else HEALTHY)
        manifest = folder / name / "pack.bin"
        if spoil is not None:
            manifest.write_bytes(spoil(manifest.read_bytes()))
    (folder / "missing" / "pack.bin").unlink()
    (folder / "escape" / "more").symlink_to("/etc")
    (folder / "stranger" / "more.py").write_text("")
    return {name: code for name, (code, _) in packs.items()}


def test_of_nine_packs_only_the_healthy_one_is_loaded(tmp_path: Path, deck: Deck) -> None:
    folder = tmp_path / "blocks"
    broken = eight_broken(folder)
    about = write_pack(folder / "a-healthy", "sample", HEALTHY)
    for name in ("a-healthy", "rival"):
        assert deck("packs", "trust", str(folder / name), "--yes")[0] == 0
    wanted = {"a-healthy": None, **broken}
    code, listed = deck("packs", "list", str(folder))
    assert (code, {Path(pack["path"]).name: pack["code"] for pack in listed["packs"]}) == (0, wanted)
    assert [pack["types"] for pack in listed["packs"] if pack["loaded"]] == [list(about.type_ids)]
    assert all(pack["message"] for pack in listed["packs"] if not pack["loaded"])
    if denied("B") is None:
        code, verified = deck("packs", "verify", str(folder))
        assert (code, {Path(pack["path"]).name: pack["code"] for pack in verified["packs"]}) == (1, wanted)


def test_verify_imports_what_is_trusted_and_nothing_else(tmp_path: Path, deck: Deck) -> None:
    if (reason := denied("B")) is not None:
        pytest.skip(reason)
    folder, ran = tmp_path / "blocks", tmp_path / "ran"
    codes = {
        "fails": ("raise SystemExit(0)", "plugin.import_failed"),
        "lacks": ("", "plugin.missing_symbol"),
        "lies": (HEALTHY.replace("louder", "softer"), "plugin.manifest_mismatch"),
        "strange": (f"open({str(ran)!r}, 'w')", "plugin.untrusted"),
    }
    for name, (code, _) in codes.items():
        types = HEALTHY.replace("sample_", f"{name}_")
        write_pack(folder / name, "sample", types, code=code.replace("sample_", f"{name}_"))
        if name != "strange":
            assert deck("packs", "trust", str(folder / name), "--yes", "--in-process")[0] == 0
    code, verified = deck("packs", "verify", str(folder))
    found = {Path(pack["path"]).name: pack["code"] for pack in verified["packs"]}
    assert (code, found) == (1, {name: code for name, (_, code) in codes.items()})
    assert not ran.exists()


def test_an_operator_is_shown_what_is_trusted_and_asked(
    tmp_path: Path, deck: Deck, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "blocks" / "sample"
    about = write_pack(folder, "sample", HEALTHY)
    verb = ["packs", "trust", str(folder), "--store", str(tmp_path / "store")]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(verb) == 3, "nobody is at a terminal"
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("sample 1.0", pack_digest(folder), ", ".join(about.type_ids), "--yes"))
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(verb) == 3
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main([*verb, "--in-process"]) == 0
    assert "INSIDE" in capsys.readouterr().err
    assert deck("packs", "list", str(folder.parent))[1]["packs"][0]["trust"] == "in_process"
    assert deck("packs", "untrust", str(folder))[1]["done"]
    assert deck("packs", "untrust", pack_digest(folder))[0] == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_store_is_needed_to_look(tmp_path: Path, deck: Deck) -> None:
    write_pack(tmp_path / "blocks" / "sample", "sample", HEALTHY)
    assert deck("packs", "list", str(tmp_path / "blocks"))[1]["packs"][0]["code"] == "plugin.untrusted"
    assert deck("packs", "list", str(tmp_path / "none")) == (0, {"packs": []})
    assert not (tmp_path / "store").exists()
    code, refused = deck("packs", "trust", str(tmp_path / "none"), "--yes")
    assert (code, refused["code"]) == (2, "plugin.manifest_invalid")


def test_the_schema_of_a_mission_knows_the_packs_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pack(tmp_path / "blocks" / "sample", "sample", HEALTHY)
    assert main(["schema", str(tmp_path)]) == 0
    shout = json.loads(capsys.readouterr().out)["$defs"]["block_sample_shout"]
    assert shout["description"] == "Says it louder."
    assert "mark" in shout["properties"]


def test_the_built_ins_are_written_as_a_pack_that_is_the_same(tmp_path: Path, deck: Deck) -> None:
    place = deck("packs", "export", str(tmp_path / "blocks"))[1]["path"]
    assert Path(place, "pack.bin").is_file()
    assert deck("packs", "export", str(tmp_path / "blocks"))[0] == 2, "nothing is overwritten"
    assert deck("packs", "list", str(tmp_path / "blocks"))[1]["packs"] == []
