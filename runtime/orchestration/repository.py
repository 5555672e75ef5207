"""May a run start on this repository? Looks for everything that would make "clean" or "undone" a lie later.

Order matters only for the operator, who gets the most basic problem first. A dirty tree is refused only where the
plan adds, commits or undoes through git (rulings, relaxation 1); otherwise what is there becomes the baseline.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.kernel.errors import Refused
from runtime.orchestration.git import Git, GitFolders, find_toplevel, git_folders
from runtime.orchestration.git_parse import GitIndex, GitStatus

#: Files in git's folder that show an unfinished operation, and its name.
_IN_PROGRESS: Final = (
    ("MERGE_HEAD", "merge"),
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
)
#: How many paths a message names.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFacts:
    """What the checks found. ``notes`` name configuration that was neutralised."""

    head: str
    ref: str | None
    dirty: tuple[str, ...]
    config_digest: str
    notes: tuple[str, ...]


async def check_repository(git: Git, *, require_clean: bool) -> RepositoryFacts:
    """Run the checks of operations spec §10.5.

    Raises `Refused`: ``REPO_NOT_GIT``, ``REPO_ROOT_MISMATCH``, ``REPO_IN_PROGRESS``, ``REPO_INDEX_LOCKED``,
    ``REPO_UNBORN``, ``REPO_HIDDEN_BITS``, ``REPO_DIRTY``, and what git raises.
    """
    folders = _located(git.root)
    _require_idle(git.root, folders)
    config = await git.local_config()
    if await git.toplevel() != git.root.resolve():
        raise Refused(
            "REPO_ROOT_MISMATCH",
            "git places the work tree elsewhere",
            where=str(git.root),
            hint="remove core.worktree from the repository's configuration",
        )
    status, index = await git.snapshot(), await git.ls_files()
    if status.head is None:
        raise Refused(
            "REPO_UNBORN", "the repository has no commit yet", where=str(git.root), hint="make a first commit"
        )
    hidden = await asyncio.to_thread(_hidden, git.root, index)
    if hidden:
        raise Refused(
            "REPO_HIDDEN_BITS",
            f"git is told not to look at {_listed(hidden)}",
            hint="git update-index --no-assume-unchanged --no-skip-worktree PATH",
        )
    dirty = _dirty(status)
    if require_clean and dirty:
        raise Refused(
            "REPO_DIRTY",
            f"the mission commits or resets, and the work tree has changes: {_listed(dirty)}",
            where=str(git.root),
            hint="commit, stash or ignore them first",
        )
    return RepositoryFacts(
        head=status.head, ref=status.ref, dirty=dirty, config_digest=config.digest, notes=config.notes
    )


def _located(root: Path) -> GitFolders:
    folders = git_folders(root)
    if folders is not None:
        return folders
    above = find_toplevel(root)
    if above is not None:
        raise Refused(
            "REPO_ROOT_MISMATCH",
            f"the top level of this work tree is {above}",
            where=str(root),
            hint="use that as root",
        )
    raise Refused(
        "REPO_NOT_GIT",
        "this is not a git work tree",
        where=str(root),
        hint="git init it, or say `workspace: {kind: folder}`",
    )


def _require_idle(root: Path, folders: GitFolders) -> None:
    for name, what in _IN_PROGRESS:
        if os.path.lexists(folders.own / name):
            raise Refused("REPO_IN_PROGRESS", f"a {what} is in progress", where=str(root), hint="finish or abort it")
    lock = folders.own / "index.lock"
    if os.path.lexists(lock):
        raise Refused(
            "REPO_INDEX_LOCKED",
            "another git is changing the index, or was killed while doing so",
            where=str(lock),
            hint="wait for it; if no git is running, remove the file",
        )


def _hidden(root: Path, index: GitIndex) -> tuple[str, ...]:
    """Paths whose changes git would not report. Skipped and absent is a sparse checkout, which hides nothing."""
    return tuple(sorted({*index.assumed, *_present(root, index.skipped)}))


def _present(root: Path, paths: tuple[str, ...]) -> Iterator[str]:
    return (path for path in paths if os.path.lexists(root / path))


def _dirty(status: GitStatus) -> tuple[str, ...]:
    return tuple(line.path for line in status.lines)


def _listed(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(repr(path) for path in paths[:_SHOWN]) + more
