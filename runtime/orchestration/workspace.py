"""Which files a run works on, and where they are (rulings R47, relaxation 10).

A run works in the operator's own tree, in a private copy, or in a git worktree of its own. The private kinds live in
the state folder under the run's id, are built beside their final name and renamed into place, so that what exists
under that name is always whole; a resumed run finds it again instead of building another. The operator's files are
only ever read here, and links are never followed out of the folder that is copied.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.ids import NO_COMMIT
from runtime.orchestration.git import Git, find_toplevel

#: Private copies are bounded like state hashes, so that every copy can also be hashed (operations spec §15).
MAX_COPY_ENTRIES: Final = 20_000
MAX_COPY_BYTES: Final = 256 * 1024 * 1024

_FOLDER_MODE: Final = 0o700
_PERMISSIONS: Final = 0o777
_BASELINE_MESSAGE: Final = "Baseline of a private copy\n"
_TREE: Final = "tree"
_PARTIAL: Final = "tree.partial"
#: Beside the private tree, so that what a run leaves never lies in what it works on.
_OUTPUT: Final = "out"


class WorkspaceKind(Enum):
    """``none``: no files at all; ``folder``: files without history; ``git``: a repository's work tree."""

    NONE = "none"
    FOLDER = "folder"
    GIT = "git"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRequest:
    """What the mission file says, references resolved. ``kind`` None: what the root turns out to be, or ``none``
    when the mission allows no paths (``allows_paths`` false). ``source`` is the file's ``from``."""

    kind: WorkspaceKind | None = None
    root: str | None = None
    source: str | None = None
    init_git: bool = False
    isolated: bool = False
    allows_paths: bool = True

    @property
    def private(self) -> bool:
        """Does the run get files of its own, so that nothing shared needs a lock?"""
        return self.source is not None or self.isolated


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where a run works. ``baseline_commit`` is 40 zeros without git; ``git`` is None then too.

    ``output`` is the run's own folder for what it leaves beside the tree; it exists once something was written.
    """

    kind: WorkspaceKind
    root: Path
    output: Path
    baseline_commit: str
    git: Git | None = None
    private: bool = False
    isolated: bool = False
    source: str | None = None

    def describe(self) -> dict[str, Any]:
        """The ``workspace`` member of ``journal_opened``: no absolute path, nothing of this machine."""
        told: dict[str, Any] = {"kind": self.kind.value, "root": ".", "isolated": self.isolated}
        return {**told, "from": self.source} if self.source is not None else told


GitFactory = Callable[[Path], Git]


async def prepare(
    request: WorkspaceRequest,
    *,
    mission_dir: Path,
    work_dir: Path,
    run_id: str,
    git_at: GitFactory,
    clock: Clock,
    our_git_at: GitFactory | None = None,
) -> Workspace:
    """Resolve the root and build what is private. ``work_dir`` is the state folder's ``work/``.

    ``git_at`` makes a `Git` with the operator's settings, ``our_git_at`` one with none, for baseline commits that
    are the same everywhere; it defaults to ``git_at``. A private tree that already exists under ``run_id`` is used
    as it is. Raises `Refused`: ``ROOT_MISSING``, ``WORKSPACE_*``, ``REPO_NOT_GIT``, and what git raises.
    """
    place = work_dir / run_id
    output = place / _OUTPUT
    if request.source is not None:
        return await _copied(request, mission_dir, place, our_git_at or git_at, git_at, clock)
    kind = request.kind
    if kind is WorkspaceKind.NONE or (kind is None and not _names_files(request)):
        return Workspace(kind=WorkspaceKind.NONE, root=_private_folder(place), output=output, baseline_commit=NO_COMMIT)
    root = resolve_root(request.root, mission_dir)
    toplevel = find_toplevel(root)
    if kind is None:
        kind = WorkspaceKind.GIT if toplevel is not None else WorkspaceKind.FOLDER
    if kind is WorkspaceKind.FOLDER and not request.isolated:
        return Workspace(kind=kind, root=root, output=output, baseline_commit=NO_COMMIT)
    if toplevel is None:
        raise Refused("REPO_NOT_GIT", "the workspace is not in a git work tree", where=str(root), hint="git init it")
    if request.isolated:
        return await _isolated(toplevel, place, git_at)
    git = git_at(toplevel)
    baseline = await git.head() or NO_COMMIT
    return Workspace(kind=kind, root=toplevel, output=output, baseline_commit=baseline, git=git)


def source_root(request: WorkspaceRequest, mission_dir: Path) -> Path:
    """The operator's own folder a run works on, or that its private files are made from: where changes concern it.

    Raises `Refused` ``ROOT_MISSING``.
    """
    if request.source is not None:
        return resolve_root(request.source, mission_dir)
    root = resolve_root(request.root, mission_dir)
    if request.kind is WorkspaceKind.FOLDER and not request.isolated:
        return root
    return find_toplevel(root) or root


def resolve_root(root: str | None, mission_dir: Path) -> Path:
    """The folder meant: ``root`` relative to the mission file, else the top level holding it, else its folder.

    Raises `Refused` ``ROOT_MISSING``.
    """
    if root is None:
        return find_toplevel(mission_dir) or mission_dir.resolve()
    chosen = (mission_dir / Path(root).expanduser()).resolve()
    if not chosen.is_dir():
        raise Refused(
            "ROOT_MISSING", "the workspace root is not a folder", where=str(chosen), hint="create or correct it"
        )
    return chosen


def _names_files(request: WorkspaceRequest) -> bool:
    return request.allows_paths or request.root is not None or request.isolated


def _private_folder(place: Path) -> Path:
    """An empty folder of the run's own, for processes of a mission that has no files."""
    place.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    folder = place / _TREE
    folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    return folder


async def _copied(
    request: WorkspaceRequest,
    mission_dir: Path,
    place: Path,
    our_git_at: GitFactory,
    git_at: GitFactory,
    clock: Clock,
) -> Workspace:
    source = mission_dir / str(request.source)
    tree, partial = place / _TREE, place / _PARTIAL
    if not tree.exists():
        await asyncio.to_thread(_start_over, place, partial)
        await asyncio.to_thread(copy_tree, source, partial)
        if request.init_git:
            await our_git_at(partial).init(_BASELINE_MESSAGE, when=clock.now())
        partial.rename(tree)
    git = git_at(tree) if request.init_git else None
    return Workspace(
        kind=WorkspaceKind.GIT if git is not None else WorkspaceKind.FOLDER,
        root=tree,
        output=place / _OUTPUT,
        baseline_commit=(await git.head() or NO_COMMIT) if git is not None else NO_COMMIT,
        git=git,
        private=True,
        source=request.source,
    )


async def _isolated(toplevel: Path, place: Path, git_at: GitFactory) -> Workspace:
    tree, partial = place / _TREE, place / _PARTIAL
    source = git_at(toplevel)
    head = await source.head()
    if head is None:
        raise Refused(
            "REPO_UNBORN", "the repository has no commit yet", where=str(toplevel), hint="make a first commit"
        )
    if not tree.exists():
        await asyncio.to_thread(_start_over, place, partial)
        await source.worktree_add(partial, head)
        await source.worktree_move(partial, tree)
    git = git_at(tree)
    return Workspace(
        kind=WorkspaceKind.GIT,
        root=tree,
        output=place / _OUTPUT,
        baseline_commit=await git.head() or NO_COMMIT,
        git=git,
        private=True,
        isolated=True,
    )


def _start_over(place: Path, partial: Path) -> None:
    """Make room for a copy; what an interrupted launch left half-built is nobody's work."""
    place.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if partial.exists():
        shutil.rmtree(partial)


def copy_tree(source: Path, target: Path) -> None:
    """Copy ``source`` to the new folder ``target``: files with their permissions, links as links, ``.git`` left out.

    Blocking. Raises `Refused`: ``WORKSPACE_SOURCE`` (not a folder, or unreadable), ``WORKSPACE_LINK`` (a link leads
    out), ``WORKSPACE_SPECIAL`` (a socket, pipe or device), ``WORKSPACE_LIMIT``.
    """
    if source.is_symlink() or not source.is_dir():
        raise Refused("WORKSPACE_SOURCE", "the folder to copy is not there", where=str(source), hint="check `from`")
    copy = _Copy(source.resolve())
    try:
        copy.folder(copy.top, target)
    except OSError as error:
        raise Refused("WORKSPACE_SOURCE", f"cannot be copied: {error.strerror}", where=str(error.filename)) from error


class _Copy:
    """One bounded copy."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._entries = 0
        self._bytes = 0

    def folder(self, source: Path, target: Path) -> None:
        target.mkdir(mode=_FOLDER_MODE)
        with os.scandir(source) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name != ".git":
                self._entry(Path(entry.path), target / entry.name, entry.stat(follow_symlinks=False))
        # Last, so that a folder without write permission can still be filled.
        target.chmod(stat.S_IMODE(source.stat().st_mode) & _PERMISSIONS)

    def _entry(self, source: Path, target: Path, info: os.stat_result) -> None:
        self._count(info)
        if stat.S_ISLNK(info.st_mode):
            self._link(source, target)
        elif stat.S_ISDIR(info.st_mode):
            self.folder(source, target)
        elif stat.S_ISREG(info.st_mode):
            shutil.copyfile(source, target, follow_symlinks=False)
            target.chmod(stat.S_IMODE(info.st_mode) & _PERMISSIONS)
        else:
            raise Refused("WORKSPACE_SPECIAL", "only files, folders and links can be copied", where=str(source))

    def _link(self, source: Path, target: Path) -> None:
        pointer = source.readlink()
        # realpath, unlike Path.resolve, also answers for links that lead in a circle.
        end = Path(os.path.realpath(source.parent / pointer))
        if pointer.is_absolute() or not end.is_relative_to(self.top):
            raise Refused("WORKSPACE_LINK", "the link leads out of the folder that is copied", where=str(source))
        target.symlink_to(pointer)

    def _count(self, info: os.stat_result) -> None:
        self._entries += 1
        self._bytes += info.st_size if stat.S_ISREG(info.st_mode) else 0
        if self._entries > MAX_COPY_ENTRIES or self._bytes > MAX_COPY_BYTES:
            raise Refused(
                "WORKSPACE_LIMIT",
                f"the folder holds more than {MAX_COPY_ENTRIES} entries or {MAX_COPY_BYTES} bytes",
                where=str(self.top),
                hint="use `isolated: true` for a repository, or a smaller folder",
            )
