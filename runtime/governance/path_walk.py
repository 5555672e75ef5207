"""Walking to a path by held directory descriptors (operations spec §8.5, F1–F9).

Names are looked at before they are opened: on Linux, opening a link with "directory" and "no-follow" reports "not a
directory", so an error number cannot tell a link from a file, and opening a fifo would block. Each directory is
opened relative to its verified parent and compared with what was seen, so no component can be swapped unnoticed.
Everything here blocks; callers use worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from runtime.governance.path_lexical import Finding
from runtime.kernel.errors import Refused
from runtime.kernel.globs import folded
from runtime.kernel.model import Access

#: Descriptor-anchored work needs these; elsewhere every file access is denied.
SUPPORTED: Final = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
MAX_LINK_HOPS: Final = 8  # operations spec §8.5
_PSEUDO_FILESYSTEMS: Final = ("/proc", "/sys", "/dev")
_DIRECTORY: Final = (
    os.O_RDONLY
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
_LOOK_ONLY: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_IS_LINK: Final = "a component is a symbolic link"
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


class PathDenied(Exception):
    """A walk ended with a finding. Internal to this room; `EnvelopeEnforcer` turns it into a verdict."""

    def __init__(self, code: str, text: str, **evidence: Any) -> None:
        super().__init__(code, text)
        self.finding = Finding(code, text, evidence)


@dataclass(frozen=True, slots=True)
class Identity:
    """What one file-system object was when it was looked at. Any difference later is a race."""

    device: int
    inode: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    nlink: int

    @classmethod
    def of(cls, info: os.stat_result) -> Self:
        return cls(
            device=info.st_dev,
            inode=info.st_ino,
            mode=info.st_mode,
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            ctime_ns=info.st_ctime_ns,
            nlink=info.st_nlink,
        )

    def same_object(self, info: os.stat_result) -> bool:
        """Is ``info`` the same object, changed or not?"""
        return (self.device, self.inode) == (info.st_dev, info.st_ino)


class Root:
    """The workspace root, resolved and opened once.

    Raises `Refused` ``ROOT_FORBIDDEN`` for a root that is missing, not a directory, ``/``, the home directory or below
    a process, system or device file system; ``ENFORCER_UNSUPPORTED_PLATFORM`` where descriptors cannot anchor paths.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not SUPPORTED:
            raise Refused("ENFORCER_UNSUPPORTED_PLATFORM", "this system offers no descriptor-anchored file access")
        try:
            self.path = Path(path).resolve(strict=True)
            self._refuse_forbidden()
            self.fd = os.open(self.path, _DIRECTORY)
        except OSError as error:
            raise Refused("ROOT_FORBIDDEN", f"the workspace root cannot be opened: {_named(error)}") from error
        self.identity = Identity.of(os.fstat(self.fd))
        self.mount = _mount_id(self.fd)

    def _refuse_forbidden(self) -> None:
        why = None
        if not self.path.is_dir():
            why = "is not a directory"
        elif self.path == self.path.parent:
            why = "is a file-system root"
        elif self.path == _home():
            why = "is the home directory"
        elif any(self.path.is_relative_to(place) for place in _PSEUDO_FILESYSTEMS):
            why = "lies in a process, system or device file system"
        if why is not None:
            hint = "point the mission at a project folder"
            raise Refused("ROOT_FORBIDDEN", f"the workspace root {why}", hint=hint)

    def verify(self) -> None:
        """F1: the name still leads to the directory opened at the start."""
        with _translated():
            if not self.identity.same_object(self.path.lstat()):
                raise PathDenied("ROOT_CHANGED", "the workspace root is no longer the directory the run started in")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class Place:
    """Where a walk ended: the held parent directory and what stands there under ``name``.

    ``missing`` are parent directories that do not exist yet, below ``parent_fd``; then ``found`` is None.
    """

    parent_fd: int
    parent: Identity
    name: str
    missing: tuple[str, ...]
    found: Identity | None

    def close(self) -> None:
        if self.parent_fd >= 0:
            os.close(self.parent_fd)
            self.parent_fd = -1


def walk(
    root: Root, parts: Sequence[str], *, creating: bool = False, parents: bool = False, link: bool = False
) -> Place:
    """Go to the parent of ``parts`` following no link, and look at the last name.

    ``creating`` only chooses the code of F8; ``parents`` tolerates missing parent directories; ``link`` tolerates that
    the last name, never one before it, is a link.
    Raises `PathDenied` with F1–F5, F8 or F9.
    """
    root.verify()
    with _translated():
        held = os.open(".", _DIRECTORY, dir_fd=root.fd)
        try:
            for index, name in enumerate(parts[:-1]):
                info = look(held, name, creating=creating)
                if info is None:
                    if not parents:
                        raise PathDenied("PATH_PARENT_MISSING", "a parent directory does not exist")
                    missing = tuple(parts[index:-1])
                    return Place(held, Identity.of(os.fstat(held)), parts[-1], missing, None)
                below = open_directory(root, held, name, info)
                os.close(held)
                held = below
            found = look(held, parts[-1], creating=creating)
            if found is not None:
                if not link:
                    _refuse_link(found)
                _refuse_mount(root, held, parts[-1], found)
            identity = None if found is None else Identity.of(found)
            return Place(held, Identity.of(os.fstat(held)), parts[-1], (), identity)
        except BaseException:
            os.close(held)
            raise


def look(directory: int, name: str, *, creating: bool = False) -> os.stat_result | None:
    """What stands under exactly ``name``, not following links; None when nothing does. F8 is checked here."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        info = None
    sibling, wanted = None, folded(name)
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name == name:
                return info
            if folded(entry.name) == wanted:
                sibling = entry.name
    if sibling is None:
        return info  # absent; or created or removed while we looked, which use of the ticket will notice
    if creating:
        raise PathDenied("PATH_CASE_COLLISION", "a name differing only in case or normalisation exists")
    raise PathDenied("PATH_CASE_MISMATCH", "only a name differing in case or normalisation exists")


def open_directory(root: Root, parent: int, name: str, seen: os.stat_result) -> int:
    """Open the directory ``name`` that was ``seen``, refusing links, mounts and nested repositories (F2–F5)."""
    _refuse_link(seen)
    if not stat.S_ISDIR(seen.st_mode):
        raise PathDenied("PATH_NOT_DIRECTORY", "a parent is not a directory")
    if seen.st_dev != root.identity.device:
        raise PathDenied("PATH_MOUNT", "a component lies on another file system")
    opened = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        if not Identity.of(seen).same_object(os.fstat(opened)):
            raise PathDenied("PATH_RACE", "a directory was replaced while it was opened")
        _refuse_other_mount(root, opened)
        if _exists(opened, ".git"):
            raise PathDenied("PATH_NESTED_REPO", "a directory on the way is a repository of its own")
    except BaseException:
        os.close(opened)
        raise
    return opened


def examine(
    root: Root,
    place: Place,
    access: Access,
    *,
    strict_links: bool = False,
    directory: bool = False,
    link: bool = False,
) -> Finding | None:
    """F6 and F7 for the object a walk ended at. ``directory`` says that DELETE means an (empty) directory, ``link``
    that it means a symbolic link itself; a link's further names are harmless, since its target cannot be changed."""
    found = place.found
    if found is None:
        creates = access in (Access.CREATE, Access.WRITE)
        return None if creates else Finding("PATH_MISSING", "there is nothing under this name")
    if access is Access.CREATE:
        return Finding("PATH_EXISTS", "something exists under this name already")
    if stat.S_ISLNK(found.mode) and not (link and access is Access.DELETE):
        return Finding("PATH_SYMLINK", _IS_LINK)
    if link:
        return None if stat.S_ISLNK(found.mode) else Finding("PATH_NOT_LINK", "this is no link, a link was expected")
    if stat.S_ISDIR(found.mode):
        if not (access in (Access.LIST, Access.EXECUTE) or (directory and access is Access.DELETE)):
            return Finding("PATH_IS_DIRECTORY", "this is a directory, a file was expected")
        return _nested_repository(root, place)
    if not stat.S_ISREG(found.mode):
        return Finding("PATH_SPECIAL_FILE", "this is a fifo, a socket or a device")
    if access is Access.LIST or directory:
        return Finding("PATH_NOT_DIRECTORY", "this is a file, a directory was expected")
    if found.mode & _SET_ID:
        return Finding("PATH_SPECIAL_MODE", "the file carries a set-id bit")
    if found.nlink > 1 and (strict_links or access is not Access.READ):
        return Finding("PATH_HARDLINK", "the file has further names", {"nlink": found.nlink})
    return None


def resolve_links(root: Root, parts: Sequence[str]) -> tuple[str, ...]:
    """Replace links by their targets, inside the root only; for reading with ``reject_symlinks`` false.

    A step up leaves a directory that was really entered, as the system itself would do. Raises `PathDenied`
    ``PATH_SYMLINK_ESCAPE``, ``PATH_SYMLINK_LOOP`` or what the walk itself found. The result may be missing.
    """
    todo, done, hops = list(reversed(parts)), list[str](), 0
    with _translated(), _Stack(root) as stack:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if not done:
                    raise PathDenied("PATH_SYMLINK_ESCAPE", "a link leads out of the workspace")
                done.pop()
                stack.leave()
                continue
            info = look(stack.top, name)
            if info is not None and stat.S_ISLNK(info.st_mode):
                hops += 1
                todo.extend(reversed(_target(stack.top, name, hops)))
                continue
            done.append(name)
            if info is None:
                return (*done, *reversed(todo))
            if todo:
                stack.enter(name, info)
    return tuple(done)


def _target(directory: int, name: str, hops: int) -> list[str]:
    if hops > MAX_LINK_HOPS:
        raise PathDenied("PATH_SYMLINK_LOOP", f"more than {MAX_LINK_HOPS} links lead to this name")
    target = os.readlink(name, dir_fd=directory)
    if target.startswith("/"):
        raise PathDenied("PATH_SYMLINK_ESCAPE", "a link has an absolute target")
    return target.split("/")


class _Stack:
    """Open directories from the root down to where a link resolution stands."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._open: list[int] = []

    @property
    def top(self) -> int:
        return self._open[-1]

    def enter(self, name: str, seen: os.stat_result) -> None:
        self._open.append(open_directory(self._root, self.top, name, seen))

    def leave(self) -> None:
        os.close(self._open.pop())

    def __enter__(self) -> Self:
        self._open.append(os.open(".", _DIRECTORY, dir_fd=self._root.fd))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self.leave()


@contextmanager
def _translated() -> Iterator[None]:
    """F9: any other operating-system error denies."""
    try:
        yield
    except OSError as error:
        raise PathDenied("PATH_IO", f"the file system answered {_named(error)}") from error


def _named(error: OSError) -> str:
    """The error's symbolic name; its text would carry an absolute path into the records."""
    return errno.errorcode.get(error.errno or 0, "an unknown error")


def _refuse_link(info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise PathDenied("PATH_SYMLINK", _IS_LINK)


def _refuse_mount(root: Root, parent: int, name: str, seen: os.stat_result) -> None:
    """F4 for the final object; a file, too, can be bind-mounted over."""
    if seen.st_dev != root.identity.device:
        raise PathDenied("PATH_MOUNT", "the object lies on another file system")
    if root.mount is None or not hasattr(os, "O_PATH"):
        return
    opened = os.open(name, _LOOK_ONLY, dir_fd=parent)
    try:
        if not Identity.of(seen).same_object(os.fstat(opened)):
            raise PathDenied("PATH_RACE", "the object was replaced while it was looked at")
        _refuse_other_mount(root, opened)
    finally:
        os.close(opened)


def _refuse_other_mount(root: Root, opened: int) -> None:
    """A bind mount of the same file system keeps the device number; only the mount's own number tells."""
    mount = None if root.mount is None else _mount_id(opened)
    if mount != root.mount:
        raise PathDenied("PATH_MOUNT", "a component is a mount point")


def _mount_id(opened: int) -> int | None:
    """Linux's mount number of a descriptor; None where /proc does not tell, and then device numbers decide alone."""
    try:
        lines = Path(f"/proc/self/fdinfo/{opened}").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("mnt_id:")), None)


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:
        return None  # this account has no home directory that could be put at risk


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _nested_repository(root: Root, place: Place) -> Finding | None:
    try:
        with _translated():
            seen = os.stat(place.name, dir_fd=place.parent_fd, follow_symlinks=False)
            os.close(open_directory(root, place.parent_fd, place.name, seen))
    except PathDenied as denied:
        return denied.finding
    return None
