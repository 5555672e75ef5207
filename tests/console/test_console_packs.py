"""``quarterdeck packs``: what there is, what would be loaded, and whose code an operator lets run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from console.cli import main
from console.model.home import preview_rows, untrusted_line
from runtime.blocks.packs.folders import pack_digest
from runtime.blocks.wire import FrameType, frame
from runtime.host.api import MissionInfo, MissionPack
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
    assert deck("packs", "list", str(tmp_path / "none"))[1]["code"] == "PACK_FOLDER"
    assert not (tmp_path / "store").exists()
    code, refused = deck("packs", "trust", str(tmp_path / "none"), "--yes")
    assert (code, refused["code"]) == (2, "plugin.manifest_invalid")


def test_a_pack_is_found_by_its_own_folder_and_by_its_missions(tmp_path: Path, deck: Deck) -> None:
    for name in ("one", "two"):
        write_pack(tmp_path / "blocks" / name, name, HEALTHY.replace("sample_", f"{name}_"))
    for folder, names in ((tmp_path, ["one", "two"]), (tmp_path / "blocks" / "two", ["two"])):
        listed = deck("packs", "list", str(folder))[1]["packs"]
        assert [Path(pack["path"]).name for pack in listed] == names


def test_an_author_builds_the_manifest_anew(tmp_path: Path, deck: Deck) -> None:
    assert deck("init", "block", "mark_up", str(tmp_path))[0] == 0
    home = tmp_path / "blocks" / "mark_up"
    before, source = pack_digest(home), home / "mark_up.py"
    text = source.read_text().replace("mark: str", "sign: str").replace("self.mark", "self.sign") + "\nprint('loud')\n"
    source.write_text(text)
    code, built = deck("packs", "build", str(home))
    assert (code, built["types"], built["digest"]) == (0, ["mark_up"], pack_digest(home))
    assert built["digest"] != before
    assert b"sign" in (home / "pack.bin").read_bytes()
    assert {path.name for path in home.iterdir()} == {"mark_up.py", "test_mark_up.py", "pack.bin"}, "nothing is left"
    # Another name for the module is told once, and kept from then on.
    source.rename(home / "renamed.py")
    assert deck("packs", "build", str(home))[1]["code"] == "plugin.missing_symbol"
    assert deck("packs", "build", str(home), "--module", "renamed")[1]["code"] == "plugin.manifest_mismatch"
    (home / "renamed.py").write_text(text.replace("[MarkUp])", "[MarkUp], module='renamed')"))
    assert deck("packs", "build", str(home), "--module", "renamed")[0] == 0
    assert deck("packs", "build", str(home))[0] == 0


def test_building_mends_a_broken_manifest_and_leaves_a_good_one_when_the_code_is_broken(
    tmp_path: Path, deck: Deck, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "sample"
    write_pack(home, "sample", HEALTHY)
    good = (home / "pack.bin").read_bytes()
    (home / "sample.py").write_text("x = (")
    code, told = deck("packs", "build", str(home))
    assert (code, told["code"]) == (2, "plugin.import_failed")
    assert "sample.py, line 1" in told["message"]
    assert (home / "pack.bin").read_bytes() == good
    (home / "pack.bin").write_bytes(b"junk")
    assert main(["packs", "list", str(home), "--store", str(tmp_path / "store")]) == 0
    assert f"quarterdeck packs build {home}" in capsys.readouterr().out
    assert deck("packs", "build", str(home))[1]["code"] == "plugin.import_failed"
    (home / "sample.py").unlink()
    write_pack(home, "sample", HEALTHY)
    (home / "pack.bin").write_bytes(b"junk")
    assert deck("packs", "build", str(home))[0] == 0
    assert (home / "pack.bin").read_bytes() == good


def test_a_mission_shows_the_packs_it_uses_and_whether_they_are_trusted() -> None:
    packs = [MissionPack(name=name, version="1", path=f"/m/{name}", digest="sha256:00") for name in ("a", "b")]
    mission = MissionInfo(name="m", path="/m", packs=(replace(packs[0], trust="confined"), packs[1]))
    shown = ["".join(text for text, _ in row) for row in preview_rows(mission)]
    assert "packs     a 1: trusted, in a confined process" in shown
    assert "          b 1: nobody trusts it, so a launch is refused" in shown
    assert untrusted_line(mission).endswith("quarterdeck packs trust /m/b")
    assert untrusted_line(replace(mission, packs=mission.packs[:1])) == ""


def test_plan_says_that_a_pack_is_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pack(tmp_path / "blocks" / "sample", "sample", HEALTHY)
    (tmp_path / "mission.yaml").write_text(
        "mission: m\nversion: '1'\nworkspace: {kind: none}\nblocks: {say: {type: sample_shout}}\n"
    )
    assert main(["plan", str(tmp_path), "--store", str(tmp_path / "store")]) == 0
    told = capsys.readouterr()
    assert "pack sample 1.0: nobody trusts it" in told.out
    assert f"quarterdeck packs trust {tmp_path / 'blocks' / 'sample'}" in told.err


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
    code, told = deck("packs", "verify", str(tmp_path / "blocks"))
    assert (code, told["packs"][0]["code"], told["packs"][0]["loaded"]) == (0, "plugin.already_loaded", True)
