"""Where a run works: roots, private copies, isolated work trees (ruling R47, relaxation 10)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Refused
from runtime.kernel.ids import NO_COMMIT
from runtime.orchestration import workspace as workspace_module
from runtime.orchestration.git import Git
from runtime.orchestration.state_hash import state_entries
from runtime.orchestration.workspace import Workspace, WorkspaceKind, WorkspaceRequest, copy_tree, prepare
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import repository, sh

RUN = "00000000-0000-4000-8000-000000000001"


def git_at(root: Path) -> Git:
    return Git(root, PlainRunner())


async def prepared(tmp_path: Path, mission_dir: Path, run_id: str = RUN, **request: object) -> Workspace:
    return await prepare(
        WorkspaceRequest(**request),  # type: ignore[arg-type]
        mission_dir=mission_dir,
        work_dir=tmp_path / "state/work",
        run_id=run_id,
        git_at=git_at,
        clock=ManualClock(),
    )


def put(root: Path, path: str, text: str = "", mode: int = 0o644) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    (root / path).chmod(mode)


async def test_a_mission_without_paths_gets_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    for request in ({"kind": WorkspaceKind.NONE}, {"allows_paths": False}):
        space = await prepared(tmp_path, tmp_path, **request)
        assert (space.kind, space.git, space.baseline_commit) == (WorkspaceKind.NONE, None, NO_COMMIT)
        assert list(space.root.iterdir()) == []
        assert space.root.is_relative_to(tmp_path / "state/work" / RUN)
        assert stat.S_IMODE((tmp_path / "state/work" / RUN).stat().st_mode) == 0o700
        assert space.describe() == {"kind": "none", "root": ".", "isolated": False}


async def test_the_default_root_is_the_top_level_or_the_missions_folder(tmp_path: Path) -> None:
    put(tmp_path, "plain/m/mission.yaml")
    space = await prepared(tmp_path, tmp_path / "plain/m")
    assert (space.kind, space.root, space.private) == (WorkspaceKind.FOLDER, tmp_path / "plain/m", False)
    git = repository(tmp_path / "r", {"missions/m/mission.yaml": ""})
    space = await prepared(tmp_path, git.root / "missions/m")
    assert (space.kind, space.root) == (WorkspaceKind.GIT, git.root)
    assert space.baseline_commit == await git.head()


async def test_an_explicit_root_is_relative_to_the_mission(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"sub/a": ""})
    mission = tmp_path / "missions"
    mission.mkdir()
    assert (await prepared(tmp_path, mission, root="../r/sub")).root == git.root  # relaxation 10
    folder = await prepared(tmp_path, mission, root=str(git.root / "sub"), kind=WorkspaceKind.FOLDER)
    assert (folder.kind, folder.root) == (WorkspaceKind.FOLDER, git.root / "sub")
    with pytest.raises(Refused, match="ROOT_MISSING"):
        await prepared(tmp_path, mission, root="../none")
    with pytest.raises(Refused, match="REPO_NOT_GIT"):
        await prepared(tmp_path, mission, kind=WorkspaceKind.GIT)


async def test_a_private_copy_leaves_the_original_alone(tmp_path: Path) -> None:
    mission = tmp_path / "m"
    put(mission, "files/a.txt", "one")
    put(mission, "files/deep/run.sh", "#!/bin/sh", 0o755)
    (mission / "files/link").symlink_to("deep/run.sh")
    put(mission, "files/.git/config", "not copied")
    before = state_entries(["files"], mission)
    space = await prepared(tmp_path, mission, source="files")
    assert space.private
    assert space.describe() == {"kind": "folder", "root": ".", "isolated": False, "from": "files"}
    (space.root / "a.txt").write_text("two")
    assert state_entries(["files"], mission) == before
    assert stat.S_IMODE((space.root / "deep/run.sh").stat().st_mode) == 0o755
    assert (space.root / "link").readlink() == Path("deep/run.sh")
    assert not (space.root / ".git").exists()
    again = await prepared(tmp_path, mission, source="files")
    assert (again.root, (again.root / "a.txt").read_text()) == (space.root, "two")
    other = await prepared(tmp_path, mission, run_id=RUN[:-1] + "2", source="files")
    assert (other.root / "a.txt").read_text() == "one"


async def test_init_git_commits_a_baseline_that_is_the_same_every_time(tmp_path: Path) -> None:
    mission = tmp_path / "m"
    put(mission, "files/a.txt", "one")
    put(mission, "files/.gitignore", "*.pyc\n")
    put(mission, "files/x.pyc", "")
    spaces = [await prepared(tmp_path, mission, run_id=f"run-{n}", source="files", init_git=True) for n in range(2)]
    assert spaces[0].kind is WorkspaceKind.GIT
    assert spaces[0].baseline_commit == spaces[1].baseline_commit != NO_COMMIT
    git = spaces[0].git
    assert git is not None
    assert (await git.snapshot()).lines == ()
    assert (await git.ls_files()).paths == (".gitignore", "a.txt")
    assert sh(spaces[0].root, "log", "--format=%an %ae %aI %s") == (
        "Quarterdeck quarterdeck@localhost 2026-01-01T00:00:00+00:00 Baseline of a private copy"
    )


async def test_an_interrupted_copy_is_built_anew(tmp_path: Path) -> None:
    mission = tmp_path / "m"
    put(mission, "files/a.txt", "one")
    put(tmp_path / "state/work" / RUN, "tree.partial/left over", "")
    space = await prepared(tmp_path, mission, source="files", init_git=True)
    assert sorted(path.name for path in space.root.iterdir()) == [".git", "a.txt"]
    assert not (space.root.parent / "tree.partial").exists()


async def test_an_isolated_work_tree_starts_at_head_and_is_found_again(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1"})
    (git.root / "a").write_text("the operator's edit")
    put(tmp_path / "state/work" / RUN, "tree.partial/left over", "")
    space = await prepared(tmp_path, git.root, isolated=True)
    assert (space.isolated, space.private, space.baseline_commit) == (True, True, await git.head())
    assert space.describe() == {"kind": "git", "root": ".", "isolated": True}
    assert (space.root / "a").read_text() == "1"
    (space.root / "a").write_text("2")
    assert space.git is not None
    await space.git.add(["a"])
    commit = await space.git.commit("in isolation")
    assert (git.root / "a").read_text() == "the operator's edit"
    assert f"worktree {space.root}\n" in sh(git.root, "worktree", "list", "--porcelain")
    assert await git.head() == space.baseline_commit
    again = await prepared(tmp_path, git.root, isolated=True)
    assert (again.root, again.baseline_commit) == (space.root, commit)
    (tmp_path / "unborn").mkdir()
    sh(tmp_path / "unborn", "init", "-q")
    with pytest.raises(Refused, match="REPO_UNBORN"):
        await prepared(tmp_path, tmp_path / "unborn", run_id="run-2", isolated=True)


async def test_checking_out_an_isolated_tree_runs_no_filter(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1", ".gitattributes": "a filter=evil\n"})
    sh(git.root, "config", "filter.evil.smudge", f"touch {tmp_path}/ran; cat")
    with pytest.raises(Refused, match="GIT_UNSAFE_CONFIG"):
        await prepared(tmp_path, git.root, isolated=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "deep/../../outside", "{files}/deep/a"])
def test_links_out_of_the_copied_folder_are_refused(tmp_path: Path, target: str) -> None:
    put(tmp_path, "outside", "secret")
    put(tmp_path, "files/deep/a", "")
    (tmp_path / "files/link").symlink_to(target.format(files=tmp_path / "files"))
    with pytest.raises(Refused, match="WORKSPACE_LINK"):
        copy_tree(tmp_path / "files", tmp_path / "copy")


def test_links_that_lead_in_a_circle_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").symlink_to("b")
    (tmp_path / "files/b").symlink_to("a")
    copy_tree(tmp_path / "files", tmp_path / "copy")
    assert (tmp_path / "copy/a").readlink() == Path("b")


def test_what_cannot_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "files/a", "12345")
    put(tmp_path, "files/b", "12345")
    for number, missing in enumerate(("none", "files/a")):
        with pytest.raises(Refused, match="WORKSPACE_SOURCE"):
            copy_tree(tmp_path / missing, tmp_path / f"copy{number}")
    monkeypatch.setattr(workspace_module, "MAX_COPY_BYTES", 9)
    with pytest.raises(Refused, match="WORKSPACE_LIMIT"):
        copy_tree(tmp_path / "files", tmp_path / "too big")
    monkeypatch.undo()
    monkeypatch.setattr(workspace_module, "MAX_COPY_ENTRIES", 1)
    with pytest.raises(Refused, match="WORKSPACE_LIMIT"):
        copy_tree(tmp_path / "files", tmp_path / "too many")
    monkeypatch.undo()
    os.mkfifo(tmp_path / "files/pipe")
    with pytest.raises(Refused, match="WORKSPACE_SPECIAL"):
        copy_tree(tmp_path / "files", tmp_path / "special")
