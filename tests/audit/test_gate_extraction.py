"""Extraction by the gate's own hands: what it makes, what it never follows, what it finds afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.audit.gate.extraction import differences, extract
from runtime.kernel.errors import Refused

FILES = {"a.txt": b"hi\n", "b/c/d.py": b"", "b/e": b"x" * 100_000}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_files_are_there_with_their_modes_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        assert extract(FILES, root) == []
    finally:
        os.umask(before)
    modes = {path.relative_to(root).as_posix(): path.stat().st_mode & 0o7777 for path in root.rglob("*")}
    assert modes == {"a.txt": 0o644, "b": 0o755, "b/c": 0o755, "b/c/d.py": 0o644, "b/e": 0o644}


@pytest.mark.parametrize("place", ["a.txt", "b", "b/e"])
def test_a_link_in_the_way_is_not_followed(root: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to(target if place == "b" else target / "new")
    assert [fault.code for fault in extract(FILES, root)] == ["EXTRACT_CLASH"]
    assert list(target.iterdir()) == []


def test_a_file_in_the_way_is_not_replaced(root: Path) -> None:
    (root / "a.txt").write_text("mine")
    assert [fault.code for fault in extract(FILES, root)] == ["EXTRACT_CLASH"]
    assert (root / "a.txt").read_text() == "mine"


def test_what_else_lies_there_is_a_difference(root: Path) -> None:
    (root / "more").mkdir()
    assert [(fault.code, fault.where) for fault in extract(FILES, root)] == [("EXTRACT_DIFFERS", "more")]


def test_what_the_system_refuses_says_nothing_about_the_bundle(root: Path) -> None:
    with pytest.raises(Refused, match="EXTRACT_IO"):
        extract({"x" * 300: b""}, root)


def test_every_kind_of_difference_is_found(root: Path) -> None:
    files = {**FILES, "f": b"f", "g": b"g", "h": b"h", "i/j": b""}
    extract(files, root)
    (root / "a.txt").write_bytes(b"ho\n")
    (root / "b/e").unlink()
    (root / "f").unlink()
    (root / "f").symlink_to("g")
    (root / "h").chmod(0o755)
    os.link(root / "g", root / "b/link")
    (root / "i/j").unlink()
    (root / "i").rmdir()
    (root / "i").write_bytes(b"")
    found = dict(differences(root, files))
    assert found == {
        "a.txt": "has another content",
        "b/e": "is gone",
        "b/link": "was not in the bundle",
        "f": "is no ordinary file",
        "g": "is no ordinary file",
        "h": "has another mode",
        "i": "is no folder any more",
        "i/j": "is gone",
    }
