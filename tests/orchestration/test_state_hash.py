"""State hashes: links, limits, instability, fingerprints (operations spec §5; numbered rows in tests/conformance)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.kernel.canonical import digest
from runtime.kernel.errors import Refused
from runtime.orchestration import state_hash
from runtime.orchestration.state_hash import (
    Fingerprint,
    TreeFacts,
    compute_state_hash,
    state_entries,
    workspace_fingerprint,
)
from runtime.orchestration.tree_probe import workspace_state
from tests.support.files import put


def test_git_and_excluded_folders_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "d/a", "1")
    before = compute_state_hash(["d"], tmp_path, exclude=["d/state"])
    put(tmp_path, "d/.git/x", "1")
    put(tmp_path, "d/state/x", "1")
    assert compute_state_hash(["d"], tmp_path, exclude=["d/state"]) == before


def test_nothing_is_read_behind_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/a", "secret")
    root = tmp_path / "tree"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real")
    with pytest.raises(Refused, match="STATE_UNREADABLE"):
        compute_state_hash(["linked/a"], root)
    assert state_entries(["linked/a"], root, links_hide=True) == ({"path": "linked/a", "kind": "missing"},)


def test_a_file_in_place_of_a_folder_hides_what_was_below(tmp_path: Path) -> None:
    put(tmp_path, "a", "x")
    assert state_entries(["a/b"], tmp_path) == ({"path": "a/b", "kind": "missing"},)


def test_special_files_have_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="STATE_UNREADABLE"):
        compute_state_hash(["pipe"], tmp_path)
    with pytest.raises(Refused, match="STATE_UNREADABLE"):
        compute_state_hash(["a"], tmp_path / "nowhere")


def test_names_that_are_not_text_are_kept_apart(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(odd)).write_text("x")
    put(tmp_path, "\\xff", "x")
    entries = state_entries([os.fsdecode(b"\xff"), "\\xff"], tmp_path)
    assert [entry["path"] for entry in entries] == ["\\xff", "\\xff"]
    assert [entry.get("raw") for entry in entries] == [None, "ff"]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put(tmp_path, f"d/{name}", "12345")
    monkeypatch.setattr(state_hash, "MAX_ENTRIES", 3)
    with pytest.raises(Refused, match="STATE_LIMIT"):
        compute_state_hash(["d"], tmp_path)
    monkeypatch.setattr(state_hash, "MAX_ENTRIES", 4)
    compute_state_hash(["d"], tmp_path)
    monkeypatch.setattr(state_hash, "MAX_TOTAL_BYTES", 14)
    with pytest.raises(Refused, match="STATE_LIMIT"):
        compute_state_hash(["d"], tmp_path)


def test_a_file_that_changes_while_read_is_tried_again_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path, "a", "x")
    real, reads, text = os.read, 0, "y"

    def meddling(descriptor: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads <= meddle_until:
            file.write_text(text * (reads if text == "y" else 1))
        return real(descriptor, size)

    monkeypatch.setattr(os, "read", meddling)
    meddle_until = 1
    assert compute_state_hash(["a"], tmp_path)
    for written in ("y", "\0"):  # growing, and the same size with another time
        text = written
        file.write_text("x")
        reads, meddle_until = 0, 100
        with pytest.raises(Refused, match="STATE_UNSTABLE"):
            compute_state_hash(["a"], tmp_path)


class _View:
    def __init__(self, **facts: object) -> None:
        base: dict[str, object] = {
            "head": "0" * 40,
            "ref": None,
            "index": "i",
            "changed": (),
            "staged": {},
            "flags": (),
        }
        self._facts = TreeFacts(**{**base, **facts})  # type: ignore[arg-type]

    async def tree_facts(self) -> TreeFacts:
        return self._facts


async def test_the_fingerprint_covers_each_of_its_parts(tmp_path: Path) -> None:
    put(tmp_path, "a", "x")
    plain = await workspace_fingerprint(tmp_path, _View())
    assert plain.clean
    assert plain.digest == digest(
        {"schema": "workspace/1", "head": "0" * 40, "ref": None, "index": "i", "worktree": [], "flags": []}
    )
    variants = [{"head": "1" * 40}, {"ref": "refs/heads/x"}, {"index": "j"}, {"changed": ("a",)}, {"flags": ("a",)}]
    digests = {(await workspace_fingerprint(tmp_path, _View(**change))).digest for change in variants}
    assert len(digests | {plain.digest}) == len(variants) + 1


def changed(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    return workspace_state(before).changed(workspace_state(after))


async def test_a_comparison_names_content_presence_and_index(tmp_path: Path) -> None:
    for name in ("kept", "edited", "gone", "staged"):
        put(tmp_path, name, "1")
    before = await workspace_fingerprint(tmp_path, _View(changed=("kept", "edited", "gone", "staged")))
    put(tmp_path, "edited", "2")
    put(tmp_path, "new", "1")
    (tmp_path / "gone").unlink()
    after = await workspace_fingerprint(
        tmp_path, _View(changed=("kept", "edited", "gone", "new", "staged"), staged={"staged": "100644 x"})
    )
    assert changed(before, after) == ("edited", "gone", "new", "staged")
    assert changed(after, after) == ()


async def test_without_git_it_is_the_metadata_of_the_writable_roots(tmp_path: Path) -> None:
    file = put(tmp_path, "out/a", "1")
    put(tmp_path, "src/b", "1")

    async def look() -> Fingerprint:
        return await workspace_fingerprint(tmp_path, None, writable=["out", "none"])

    first = await look()
    assert (first.head, first.ref, first.index) == (None, None, None)
    assert set(first.worktree) == {"out", "out/a", "none"}
    put(tmp_path, "src/b", "2")
    assert (await look()).digest == first.digest
    os.utime(file, ns=(1, 1))
    assert changed(first, await look()) == ("out/a",)
