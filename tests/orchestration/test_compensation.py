"""Undo: the grammar of its declaration, its fit, its effect and its proof. The numbered rows of operations spec §6 are in
`tests/conformance/operations/test_section_6.py`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.governance.path_io import TEMPORARY_PREFIX as TICKET_PREFIX
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    OperationPlan,
    OperationReceipt,
    PlannedPath,
)
from runtime.orchestration.compensation import InvalidCompensation, fit, validate_compensation, writes
from runtime.orchestration.operation_ports import HandlerOutcome, RunCall, WorkspaceState
from runtime.orchestration.snapshots import TEMPORARY_PREFIX, Snapshot, remove_leftovers, take
from runtime.orchestration.undo import CompensationOutcome
from tests.support.operation_rig import FakeHandler, Rig
from tests.support.repositories import repository, sh

C = CompensationType


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    git = repository(tmp_path / "tree", {"a.txt": "one\n", "b.txt": "b\n", ".gitignore": "ignored/\n"})
    return Rig(tmp_path / "tree", git=git)


def receipt_of(rig: Rig, index: int = 0) -> OperationReceipt:
    return OperationReceipt.from_record(rig.receipts()[index])


async def undo(rig: Rig, index: int = 0) -> CompensationOutcome:
    return await rig.executor.compensate(receipt_of(rig, index))


# grammar


@pytest.mark.parametrize(
    ("kind", "command", "code"),
    [
        ("teleport", "", "COMP_TYPE"),
        (C.GIT_CHECKOUT, "git checkout -- --force", "COMP_COMMAND"),
        (C.GIT_CHECKOUT, "git checkout --", "COMP_COMMAND"),
        (C.GIT_CHECKOUT, "git checkout -- 'a", "COMP_COMMAND"),
        (C.GIT_CHECKOUT, "git checkout -- a\nb", "COMP_COMMAND"),
        (C.GIT_CHECKOUT, " git checkout -- a", "COMP_COMMAND"),
        (C.GIT_CHECKOUT, "git checkout -- ../a", "COMP_PATH"),
        (C.GIT_CHECKOUT, "git checkout -- /a", "COMP_PATH"),
        (C.GIT_CHECKOUT, "git checkout -- .git/config", "COMP_PATH"),
        (C.GIT_RESET_HEAD, "git reset HEAD a", "COMP_COMMAND"),
        (C.GIT_RESET_SOFT, "git reset --soft HEAD~0", "COMP_COMMAND"),
        (C.GIT_RESET_SOFT, "git reset --soft HEAD~21", "COMP_COMMAND"),
        (C.GIT_RESET_SOFT, "git reset --soft main", "COMP_COMMAND"),
        (C.GIT_RESET_HARD, "git reset --hard HEAD~1 x", "COMP_COMMAND"),
        (C.GIT_CLEAN, "git clean -fdx", "COMP_COMMAND"),
        (C.FILESYSTEM_DELETE, "fs_delete", "COMP_COMMAND"),
        (C.FILESYSTEM_DELETE, "fs_delete a/./b", "COMP_PATH"),
        (C.NONE, "git clean -fd", "COMP_COMMAND"),
        (C.CUSTOM_VALIDATED, "anything", "COMP_NOT_WHITELISTED"),
        (C.GIT_CLEAN, None, "COMP_COMMAND"),
    ],
)
def test_declarations_that_are_none(kind: object, command: object, code: str) -> None:
    with pytest.raises(InvalidCompensation) as caught:
        validate_compensation(kind, command)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("kind", "command", "paths", "target"),
    [
        ("none", "none", (), None),
        ("git_checkout", "git checkout -- .", (), None),
        ("git_checkout", "git checkout -- a 'b c'", ("a", "b c"), None),
        ("git_reset_head", "git reset HEAD", (), None),
        ("git_reset_head", "git reset HEAD -- a a", ("a",), None),
        ("git_reset_soft", "git reset --soft HEAD~20", (), "HEAD~20"),
        ("git_reset_hard", "git reset --hard " + "a" * 40, (), "a" * 40),
        ("git_clean", "git clean -fd -- x", ("x",), None),
        ("fs_restore", "fs_restore x/y", ("x/y",), None),
    ],
)
def test_declarations_that_are_some(kind: str, command: str, paths: tuple[str, ...], target: str | None) -> None:
    parsed = validate_compensation(kind, command)
    assert (parsed.type.value, parsed.paths, parsed.target) == (kind, paths, target)


def test_a_custom_declaration_is_its_typed_equivalent() -> None:
    parsed = validate_compensation("custom", "git reset --soft HEAD~1")
    assert (parsed.type, parsed.declared, parsed.target) == (C.GIT_RESET_SOFT, C.CUSTOM_VALIDATED, "HEAD~1")


@given(st.sampled_from(list(C)), st.text(max_size=40))
def test_text_that_matches_no_template_is_never_accepted(kind: CompensationType, command: str) -> None:
    code = ""
    try:
        parsed = validate_compensation(kind, command)
    except InvalidCompensation as error:
        code = error.code
    else:
        assert command in ("", "none") or command.split()[0] in ("git", "fs_delete", "fs_restore")
        assert parsed.declared is kind
    assert code == "" or code.startswith("COMP_")


def plan(*paths: str, **options: object) -> OperationPlan:
    return OperationPlan(Effect.WRITE, tuple(PlannedPath(path, Access.WRITE) for path in paths), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "command", "shape", "code"),
    [
        (C.NONE, "", plan("a"), "COMP_REQUIRED"),
        (C.FILESYSTEM_DELETE, "fs_delete b", plan("a"), "COMP_PATH"),
        (C.FILESYSTEM_DELETE, "fs_delete a", plan("a", "b"), "COMP_UNSUITABLE"),
        (C.GIT_RESET_SOFT, "git reset --soft HEAD~1", plan("a"), "COMP_UNSUITABLE"),
        (C.GIT_RESET_HARD, "git reset --hard HEAD~1", plan("a"), "COMP_UNSUITABLE"),
        (C.FILESYSTEM_RESTORE, "fs_restore a", plan("a", writes_index=True), "COMP_UNSUITABLE"),
        (C.GIT_RESET_HEAD, "git reset HEAD", plan("a", writes_ref=True), "COMP_UNSUITABLE"),
    ],
)
def test_declarations_that_do_not_fit(kind: CompensationType, command: str, shape: OperationPlan, code: str) -> None:
    with pytest.raises(InvalidCompensation) as caught:
        fit(validate_compensation(kind, command), shape)
    assert caught.value.code == code


def test_a_tree_mark_stands_for_its_folder() -> None:
    assert writes(plan("build/.quarterdeck-tree", "a")) == ("a", "build")


# the algorithm, on a real repository


async def test_folders_made_on_the_way_go_again_although_no_pattern_covers_them(rig: Rig) -> None:
    narrow = Envelope(allowed_paths=["deep/er/*.txt"], allowed_tools=["filesystem"], allowed_roles=["runner"])
    rig.envelope = narrow
    rig.build()
    for name in ("a", "b"):
        params = {"path": f"deep/er/{name}.txt", "content": "x", "create_parents": True}
        assert (await rig.tool("filesystem.write_file", id=f"s1.{name}", **params)).ok
    (rig.root / "deep/mine.txt").write_text("the operator's")
    assert (await undo(rig, 1)).verified
    assert (rig.root / "deep/er").is_dir()  # the other file is still in it
    assert (await undo(rig, 0)).verified
    assert [item.name for item in (rig.root / "deep").iterdir()] == ["mine.txt"]


async def test_an_undo_removes_no_folder_that_was_replaced_by_a_link(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    await rig.tool("filesystem.write_file", path="deep/er/new.txt", content="x", create_parents=True)
    shutil.rmtree(rig.root / "deep")
    (rig.root / "deep").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "er").mkdir()
    outcome = await undo(rig)
    assert not outcome.verified
    assert (tmp_path / "er").is_dir()


@pytest.mark.parametrize(
    ("kind", "command", "path"),
    [
        (C.GIT_CHECKOUT, "git checkout -- .", "a.txt"),
        (C.FILESYSTEM_DELETE, "fs_delete a.txt", "a.txt"),
        (C.GIT_CLEAN, "git clean -fd", "b.txt"),
        (C.GIT_RESET_HARD, "git reset --hard " + "a" * 40, "b.txt"),
    ],
)
async def test_unsuitable_undo_is_refused_before_anything_happens(
    rig: Rig, kind: CompensationType, command: str, path: str
) -> None:
    (rig.root / "a.txt").write_text("already changed\n")
    before = {item.name: item.read_text() for item in rig.root.glob("*.txt")}
    params = {"tool": "filesystem.write_file", "path": path, "content": "x"}
    with pytest.raises(InvalidCompensation, match="COMP_UNSUITABLE"):
        await rig.do("tool_invoke", params, undo=(kind, command))
    assert {item.name: item.read_text() for item in rig.root.glob("*.txt")} == before
    assert rig.kinds() == ["operation_denied", "receipt"]


async def test_checkout_sets_a_tracked_file_back(rig: Rig) -> None:
    params = {"tool": "filesystem.write_file", "path": "a.txt", "content": "two\n"}
    assert (await rig.do("tool_invoke", params, undo=(C.CUSTOM_VALIDATED, "git checkout -- ."))).ok
    assert rig.receipts()[0]["compensation_type"] == "custom"
    assert (await undo(rig)).verified
    assert (rig.root / "a.txt").read_text() == "one\n"


async def test_a_hard_reset_needs_and_leaves_a_clean_tree(rig: Rig) -> None:
    head = sh(rig.root, "rev-parse", "HEAD")
    params = {"tool": "filesystem.write_file", "path": "a.txt", "content": "two\n"}
    assert (await rig.do("tool_invoke", params, undo=(C.GIT_RESET_HARD, f"git reset --hard {head}"))).ok
    outcome = await undo(rig)
    assert outcome.verified
    assert outcome.checks["clean"]
    assert sh(rig.root, "status", "--porcelain") == ""


async def test_compensate_all_stops_at_the_first_undo_that_fails(rig: Rig) -> None:
    for index, name in enumerate(("x.txt", "y.txt", "z.txt")):
        await rig.tool("filesystem.write_file", id=f"s1.{index}", path=name, content=name)
    (rig.root / "y.txt").write_text("operator")
    outcomes = await rig.executor.compensate_all([OperationReceipt.from_record(item) for item in rig.receipts()])
    assert [item.code for item in outcomes] == [None, "COMP_DRIFT"]
    assert (rig.root / "x.txt").exists()


async def test_staging_over_a_staged_version_cannot_be_undone_and_is_refused(rig: Rig) -> None:
    (rig.root / "a.txt").write_text("staged\n")
    sh(rig.root, "add", "a.txt")
    (rig.root / "a.txt").write_text("newer\n")
    with pytest.raises(InvalidCompensation, match="COMP_UNSUITABLE"):
        await rig.tool("git.add", paths=["a.txt"])
    assert sh(rig.root, "show", ":a.txt") == "staged"


FOLDER = (PlannedPath("ignored", Access.EXECUTE), PlannedPath("ignored/.quarterdeck-tree", Access.WRITE))


def leaving(
    rig: Rig,
    work: Callable[[Path], None],
    *,
    code: str | None = None,
    paths: tuple[PlannedPath, ...] = FOLDER,
) -> None:
    """Let ``process.run`` be ``work`` on ``ignored``, which it may write."""

    async def run(call: RunCall) -> HandlerOutcome:
        work(rig.root / "ignored")
        return HandlerOutcome(code=code)

    rig.extra = {"tool_invoke": FakeHandler(OperationPlan(Effect.WRITE, paths, tool="process.run"), run)}
    rig.__post_init__()


async def test_ignored_folders_are_restored_from_the_snapshot_too(rig: Rig) -> None:
    (rig.root / "ignored/stays").mkdir(parents=True)
    (rig.root / "ignored/keep").write_text("1")

    def work(folder: Path) -> None:
        (folder / "keep").write_text("2")
        (folder / "more").mkdir()
        (folder / "more/x").write_text("x")
        (folder / "stays").chmod(0o700)

    leaving(rig, work, code="OP_FAILED")
    result = await rig.do("tool_invoke", {}, undo=(C.FILESYSTEM_RESTORE, "fs_restore ignored"))
    assert result.compensation_status == "completed"
    assert (rig.root / "ignored/keep").read_text() == "1"
    assert not (rig.root / "ignored/more").exists()


def picture(top: Path) -> dict[str, bytes | None]:
    """Everything below ``top``: a file's content, a link's target after an arrow, None for a folder."""
    return {
        str(path.relative_to(top)): b"-> " + os.fsencode(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in top.rglob("*")
    }


async def test_links_a_command_left_go_and_links_it_took_come_back(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("theirs")
    folder = rig.root / "ignored"
    (folder / "kept/deep").mkdir(parents=True)
    (folder / "kept/deep/file").write_text("deep")
    (folder / "file").write_text("mine")
    for name in ("removed", "retargeted", "to_file", "to_dir"):
        (folder / name).symlink_to(outside / "folder" / os.fsdecode(b"\xff" + name.encode()))

    def work(folder: Path) -> None:
        (folder / "new").symlink_to(outside / "file")
        (folder / "new_dir").symlink_to(outside / "folder")
        (folder / "made/bin").mkdir(parents=True)
        (folder / "made/bin/loop").symlink_to("loop")
        for name in ("removed", "retargeted", "to_file", "to_dir", "file"):
            (folder / name).unlink()
        (folder / "retargeted").symlink_to(outside / "file")
        (folder / "to_file").write_text("file now")
        (folder / "to_dir").mkdir()
        (folder / "to_dir/inner").symlink_to("../kept")
        (folder / "file").symlink_to(outside / "file")
        shutil.rmtree(folder / "kept")
        (folder / "kept").symlink_to(outside / "folder")

    before, elsewhere = picture(folder), picture(outside)
    leaving(rig, work, code="OP_FAILED")
    result = await rig.do("tool_invoke", {}, undo=(C.FILESYSTEM_RESTORE, "fs_restore ignored"))
    assert result.compensation_status == "completed"
    assert picture(folder) == before
    assert picture(outside) == elsewhere


async def test_a_folder_of_links_that_was_made_goes_as_a_whole(rig: Rig, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        folder.mkdir()
        (folder / "up").symlink_to(tmp_path)

    leaving(rig, work, code="OP_FAILED", paths=(PlannedPath("ignored", Access.CREATE),))
    result = await rig.do("tool_invoke", {}, undo=(C.FILESYSTEM_DELETE, "fs_delete ignored"))
    assert result.compensation_status == "completed"
    assert not os.path.lexists(rig.root / "ignored")


async def test_a_link_changed_by_hand_is_drift(rig: Rig) -> None:
    link = rig.root / "ignored/l"
    link.parent.mkdir()
    leaving(rig, lambda folder: (folder / "l").symlink_to("made"))
    assert (await rig.do("tool_invoke", {}, undo=(C.FILESYSTEM_RESTORE, "fs_restore ignored"))).ok
    link.unlink()
    link.symlink_to("theirs")
    assert (await undo(rig)).code == "COMP_DRIFT"
    assert link.readlink() == Path("theirs")


# snapshots


def test_a_snapshot_survives_its_record_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_bytes(b"\xff")
    (tmp_path / "d/l").symlink_to("/etc/passwd")
    kept: list[bytes] = []
    shot = take(tmp_path, ["d", "no/such"], kept.append)
    assert Snapshot.from_record(shot.record()) == shot
    assert kept == [b"\xff", b"/etc/passwd"]
    assert {path: entry.kind for path, entry in shot.entries.items()} == {
        "d": "dir",
        "d/e": "dir",
        "d/e/f": "file",
        "d/l": "symlink",
        "no/such": "missing",
    }
    assert shot.new_dirs == ("no",)


def test_a_snapshot_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.orchestration.snapshots.MAX_SNAPSHOT_BYTES", 10)
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(Exception, match="COMP_SNAPSHOT_LIMIT"):
        take(tmp_path, ["big"])


def test_leftovers_of_a_torn_write_are_recognised_by_name(tmp_path: Path) -> None:
    from runtime.governance.path_io import temporary_file

    assert TEMPORARY_PREFIX == TICKET_PREFIX
    parent = os.open(tmp_path, os.O_RDONLY)
    with temporary_file(parent, "a.txt") as (name, _):
        (tmp_path / "other").write_text("stays")
        remove_leftovers(tmp_path, "b.txt")
        assert (tmp_path / name).exists()
        remove_leftovers(tmp_path, "a.txt")
        assert not (tmp_path / name).exists()
    os.close(parent)
    assert (tmp_path / "other").exists()


def test_two_states_are_compared_path_by_path() -> None:
    one = WorkspaceState(head=None, ref=None, index=None, worktree={"a": "1", "b": "1"})
    two = WorkspaceState(head=None, ref=None, index=None, worktree={"b": "2", "c": "1"})
    assert one.changed(two) == ("a", "b", "c")
    assert WorkspaceState.from_record(one.record()) == one
