"""Building beyond the numbered tests of §12 (see ``tests/conformance``): what is read, what is refused, what is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.audit import builder
from runtime.audit.builder import build, main, run_files, static_files
from runtime.audit.closure import closure
from runtime.audit.gate.layout import REQUIRED
from runtime.audit.gate.limits import MAX_ENTRIES, MAX_FILE_BYTES
from runtime.audit.gate.manifest import MANIFEST
from runtime.kernel.errors import Refused
from tests.support.files import put

LEAST = {path: b"" for path in REQUIRED if path != MANIFEST}


def refused(code: str) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, check=lambda error: error.code == code)


def unpacked(root: Path) -> Path:
    """An extracted bundle that holds the least a bundle can."""
    files = {**LEAST, "run/run.json": b"{}\n"}
    for path, data in {**files, MANIFEST: builder.manifest(files)}.items():
        put(root, path, data.decode())
    return root


def test_nothing_of_the_product_but_the_closure_comes_along() -> None:
    files = static_files()
    assert {
        "runtime/kernel/canonical.py",
        "runtime/orchestration/state_hash.py",
        "runtime/tests/rig.py",
    } <= files.keys()
    folders = {path.split("/")[1] for path in files if path.startswith("runtime/") and path.count("/") > 1}
    assert folders == {"audit", "governance", "kernel", "orchestration", "tests"}
    assert not [path for path in files if "bundle_files" in path or "builder" in path]


def test_imports_are_followed_wherever_they_stand() -> None:
    files = {
        "runtime/__init__.py": b"",
        "runtime/a/__init__.py": b"from .low import x\n",
        "runtime/a/low.py": b"def f():\n    from ..b import one, name\n",
        "runtime/b/__init__.py": b"name = 1\n",
        "runtime/b/one.py": b"import json, runtime.c.deep\n",
        "runtime/c/__init__.py": b"",
        "runtime/c/deep.py": b"if False:\n    from . import side\n",
        "runtime/c/side.py": b"from runtime import a\n",
        "runtime/unused.py": b"import yaml\n",
    }
    found = closure(["runtime.a"], files.get)
    assert found == {path: data for path, data in files.items() if path != "runtime/unused.py"}


@pytest.mark.parametrize(
    ("source", "code", "where"),
    [
        (b"import json\nimport numpy.linalg\n", "IMPORT_CLOSURE", "runtime/a.py:2"),
        (b"from runtime.b import x\n", "IMPORT_CLOSURE", "runtime/a.py:1"),
        (b"from .b import x\n", "IMPORT_CLOSURE", "runtime/a.py:1"),
        (b"from ... import x\n", "IMPORT_CLOSURE", "runtime/a.py:1"),
        (b"def\n", "PY_SYNTAX", "runtime/a.py"),
        (b"x = '\0'\n", "PY_SYNTAX", "runtime/a.py"),
        (None, "BUNDLE_FILE_MISSING", "runtime/a.py"),
    ],
)
def test_what_does_not_come_along_is_named_with_its_place(source: bytes | None, code: str, where: str) -> None:
    with refused(code) as caught:
        closure(["runtime.a"], {"runtime/__init__.py": b"", "runtime/a.py": source}.get)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "more",
    [
        {"run/large": b"x" * (MAX_FILE_BYTES + 1)},
        {f"run/{number}": b"" for number in range(MAX_ENTRIES)},
        {f"run/{number}": b"x" * MAX_FILE_BYTES for number in range(9)},
    ],
    ids=["one file", "number", "sum"],
)
def test_limits(more: dict[str, bytes]) -> None:
    with refused("BUNDLE_TOO_LARGE"):
        build(LEAST, more)


def test_a_run_folder_becomes_run_and_holds_files_only(tmp_path: Path) -> None:
    with refused("BUNDLE_FILE_MISSING"):
        run_files(tmp_path / "nowhere")
    put(tmp_path, "run.json", "{}\n")
    put(tmp_path, "artifacts/ab/x", "x")
    assert run_files(tmp_path) == {"run/artifacts/ab/x": b"x", "run/run.json": b"{}\n"}
    os.mkfifo(tmp_path / "pipe")
    with refused("BUNDLE_FILE_KIND"):
        run_files(tmp_path)
    (tmp_path / "pipe").unlink()
    (tmp_path / os.fsdecode(b"\xff")).touch()
    with refused("BUNDLE_FILE_KIND"):
        run_files(tmp_path)
    (tmp_path / os.fsdecode(b"\xff")).unlink()
    put(tmp_path, "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with refused("BUNDLE_TOO_LARGE"):
        run_files(tmp_path)


def test_one_name_for_two_files_is_refused() -> None:
    with refused("BUNDLE_FILE_KIND"):
        build(LEAST, {"pytest.ini": b""})


def test_an_extracted_bundle_is_what_its_manifest_says_or_nothing(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "bundle")
    put(root, "left/behind.txt", "x")
    assert static_files(root) == {**LEAST, "run/run.json": b"{}\n"}
    (root / "run/run.json").write_text("[]\n")
    with refused("BUNDLE_MANIFEST"):
        static_files(root)
    (root / "run/run.json").unlink()
    with refused("BUNDLE_FILE_MISSING"):
        static_files(root)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "run/../../secret", "run\\x", "run//x", ""])
def test_no_manifest_leads_outside(tmp_path: Path, path: str) -> None:
    root = unpacked(tmp_path / "bundle")
    put(tmp_path, "secret", "s")
    put(root, MANIFEST, f"{'0' * 64}  {path}\n")
    with refused("BUNDLE_MANIFEST"):
        static_files(root)


def test_a_folder_on_the_way_that_is_a_link(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "bundle")
    (root / "run").rename(tmp_path / "run")
    (root / "run").symlink_to(tmp_path / "run")
    with refused("BUNDLE_FILE_KIND"):
        static_files(root)


def test_a_bundle_never_replaces_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = put(tmp_path, "b.zip", "mine")
    assert main(["--out", str(out)]) == 3
    assert "BUNDLE_EXISTS" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b.zip": "mine"}


@pytest.mark.parametrize(
    "arguments", [[], ["--out"], ["--ou", "x"], ["--out", "nowhere/at/all/b.zip"]], ids=["none", "no value", "short", "place"]
)  # fmt: skip
def test_what_could_not_be_tried_exits_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 3
