"""Pictures of the paths an operation will change, taken before it starts, so that an undo can put them back.

Reading goes down from the root one component at a time, by descriptor and without following links: a snapshot must
never hold what lies outside the workspace. Blocking; callers use a worker thread. Contents go to the artifact store
under their own digest, the listing is one record (schema ``snapshot/1``).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused

#: Operations spec §15: contents kept for one operation, and entries walked.
MAX_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024
MAX_SNAPSHOT_ENTRIES: Final = 20_000
#: How path tickets name their temporary files (`runtime.governance.path_io`; a test compares the two).
TEMPORARY_PREFIX: Final = ".quarterdeck-"
_OPEN_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """One path: ``kind`` is file, dir, symlink, other or missing; ``digest`` names a file's content, or a link's
    target."""

    kind: str
    mode: int = 0
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stood at the named paths (``roots``) and below them. ``new_dirs`` are parents that did not exist."""

    roots: tuple[str, ...] = ()
    entries: Mapping[str, Entry] = field(default_factory=dict)
    new_dirs: tuple[str, ...] = ()

    def missing(self, path: str) -> bool:
        return self.entries.get(path, Entry("missing")).kind == "missing"

    def below(self, root: str) -> dict[str, Entry]:
        """The entries at and below ``root``, parents first."""
        chosen = (path for path in self.entries if path == root or path.startswith(root + "/"))
        return {path: self.entries[path] for path in sorted(chosen)}

    def record(self) -> dict[str, Any]:
        return {
            "schema": "snapshot/1",
            "roots": list(self.roots),
            "new_dirs": list(self.new_dirs),
            "entries": {path: [item.kind, item.mode, item.digest] for path, item in self.entries.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Snapshot:
        entries = {path: Entry(kind, mode, digest) for path, (kind, mode, digest) in record["entries"].items()}
        return cls(tuple(record["roots"]), entries, tuple(record["new_dirs"]))


def take(root: Path, paths: Sequence[str], keep: Callable[[bytes], object] | None = None) -> Snapshot:
    """Look at ``paths``; with ``keep``, hand over every file's content and every link's target (an artifact store's ``put``).

    Raises `Refused` ``COMP_SNAPSHOT_LIMIT`` when contents exceed 64 MiB, ``STATE_UNREADABLE`` when something
    cannot be read.
    """
    walk = _Walk(keep)
    new_dirs: dict[str, None] = {}
    for path in paths:
        try:
            with _parent(root, path) as (descriptor, name):
                walk.visit(descriptor, name, path)
        except FileNotFoundError:
            walk.entries[path] = Entry("missing")
            new_dirs.update(dict.fromkeys(_missing_parents(root, path)))
        except OSError as error:
            raise Refused("STATE_UNREADABLE", f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    return Snapshot(tuple(paths), walk.entries, tuple(new_dirs))


def kind(root: Path, path: object) -> str:
    """``file``, ``dir``, ``symlink``, ``other`` or ``missing``; whatever cannot be reached counts as missing.

    For planning only: what the path really may be used for is the enforcer's business.
    """
    if not isinstance(path, str) or "\0" in path:
        return "missing"
    try:
        with _parent(root, path) as (descriptor, name):
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
    except (OSError, Refused, UnicodeEncodeError):
        return "missing"
    names = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "dir"), (stat.S_ISLNK, "symlink"))
    return next((word for test, word in names if test(mode)), "other")


def remove_leftovers(root: Path, path: str) -> None:
    """Remove the temporary files a crash between writing and renaming ``path`` left beside it."""
    mark = TEMPORARY_PREFIX + hashlib.sha256(path.rpartition("/")[2].encode()).hexdigest()[:16] + "-"
    try:
        with _parent(root, path) as (descriptor, _), os.scandir(descriptor) as found:
            for item in list(found):
                if item.name.startswith(mark) and item.is_file(follow_symlinks=False):
                    os.unlink(item.name, dir_fd=descriptor)
    except FileNotFoundError:
        return


class _Walk:
    def __init__(self, keep: Callable[[bytes], object] | None) -> None:
        self.entries: dict[str, Entry] = {}
        self._keep = keep
        self._bytes = 0

    def visit(self, parent: int, name: str, path: str) -> None:
        if len(self.entries) >= MAX_SNAPSHOT_ENTRIES:
            raise Refused("COMP_SNAPSHOT_LIMIT", f"more than {MAX_SNAPSHOT_ENTRIES} entries to keep for an undo")
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISREG(found.st_mode):
            self.entries[path] = Entry("file", mode, self._content(parent, name, found.st_size))
        elif stat.S_ISDIR(found.st_mode):
            self.entries[path] = Entry("dir", mode)
            self._children(parent, name, path)
        elif stat.S_ISLNK(found.st_mode):
            self.entries[path] = Entry("symlink", mode, self._kept(os.readlink(os.fsencode(name), dir_fd=parent)))
        else:
            self.entries[path] = Entry("other", mode)

    def _children(self, parent: int, name: str, path: str) -> None:
        descriptor = os.open(name, _OPEN_DIR, dir_fd=parent)
        try:
            with os.scandir(descriptor) as found:
                names = sorted(item.name for item in found if item.name != ".git")
            for child in names:
                self.visit(descriptor, child, f"{path}/{child}")
        finally:
            os.close(descriptor)

    def _content(self, parent: int, name: str, size: int) -> str:
        if self._bytes + size > MAX_SNAPSHOT_BYTES:
            raise Refused("COMP_SNAPSHOT_LIMIT", f"more than {MAX_SNAPSHOT_BYTES} bytes to keep for an undo")
        with os.fdopen(os.open(name, _OPEN_FILE, dir_fd=parent), "rb") as stream:
            return self._kept(stream.read(MAX_SNAPSHOT_BYTES - self._bytes + 1))

    def _kept(self, data: bytes) -> str:
        self._bytes += len(data)
        if self._bytes > MAX_SNAPSHOT_BYTES:
            raise Refused("COMP_SNAPSHOT_LIMIT", f"more than {MAX_SNAPSHOT_BYTES} bytes to keep for an undo")
        if self._keep is not None:
            self._keep(data)
        return digest_bytes(data)


@contextmanager
def _parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    *parents, name = path.split("/")
    if any(part in ("", ".", "..") for part in (*parents, name)):
        raise Refused("PATH_NOT_NORMAL", f"{path!r} is not a workspace-relative path in normal form")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            deeper = os.open(part, _OPEN_DIR, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor, name
    finally:
        os.close(descriptor)


def _missing_parents(root: Path, path: str) -> list[str]:
    parts = path.split("/")[:-1]
    parents = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return [parent for parent in parents if not (root / parent).exists()]
