"""Looking at watched files: which there are, and what is in them. Blocking: called in worker threads.

A look is bounded: so many files, so many folder entries, so many bytes of content; more is refused with what to
narrow, never silently left out. Contents are read again only when size, time or identity of a file changed. Files
larger than `MAX_FILE_BYTES` are compared by size and time instead of content. Links are not followed: one counts as
the text it holds.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.missions.watch_rules import Mark, Places, WatchRules, places

MAX_FILES: Final = 20_000
#: Entries of folders gone through to find those files.
MAX_ENTRIES: Final = 200_000
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
#: Content read for one look, at most; a quiet tree reads none.
MAX_TOTAL_BYTES: Final = 2 * 1024 * 1024 * 1024
_CHUNK: Final = 1024 * 1024
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Identity of a folder: another one under the same name has other files.
Identity = tuple[int, int]


def shown(path: str) -> str:
    """A path as text that can be recorded: bytes that are no characters are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def identity(folder: Path) -> Identity | None:
    """Which folder is at this path; None when there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def survey(root: Path, rules: WatchRules) -> tuple[Places, dict[Path, Identity]]:
    """Where to listen now, and which folders those are. Raises `Refused` ``WATCH_ROOT`` when the root is gone."""
    here = identity(root)
    if here is None:
        raise Refused("WATCH_ROOT", "the watched folder is not there", where=str(root), hint="bring it back and rearm")
    found = places(rules, lambda folder: identity(root / folder) is not None)
    named = {root / folder: identity(root / folder) for folder in (*found.deep, *found.flat)}
    return found, {root: here, **{path: item for path, item in named.items() if item is not None}}


@dataclass(slots=True)
class Looker:
    """Looks at one root, remembering which names concern the watch. One look at a time."""

    root: Path
    rules: WatchRules
    _counts: dict[str, bool] = field(default_factory=dict)

    def look(self, found: Places, known: Mapping[str, Mark]) -> dict[str, Mark]:
        """The files there are, by relative path; ``known`` is the last look. Raises `Refused` ``WATCH_TOO_MANY``."""
        walk = _Walk(self, known)
        for folder in found.deep:
            walk.folder(folder, deep=True)
        for folder in found.flat:
            walk.folder(folder, deep=False)
        return walk.marks

    def counts(self, path: str) -> bool:
        answer = self._counts.get(path)
        if answer is None:
            if len(self._counts) >= MAX_ENTRIES:
                self._counts.clear()
            answer = self._counts[path] = self.rules.counts(path)
        return answer


class _Walk:
    """One look."""

    def __init__(self, looker: Looker, known: Mapping[str, Mark]) -> None:
        self.marks: dict[str, Mark] = {}
        self._looker = looker
        self._known = known
        self._entries = 0
        self._bytes = 0

    def folder(self, start: str, *, deep: bool) -> None:
        waiting = [start]
        while waiting:
            below = self._files_of(waiting.pop())
            if deep:
                waiting.extend(below)

    def _files_of(self, folder: str) -> list[str]:
        """Take in the files of one folder; returns the folders in it. One that cannot be read holds nothing."""
        below: list[str] = []
        try:
            with os.scandir(self._looker.root / folder) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > MAX_ENTRIES:
                        raise self._too_many(f"more than {MAX_ENTRIES} files and folders have to be gone through")
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if not self._looker.rules.unseen(path):
                            below.append(path)
                    elif self._looker.counts(path):
                        self._file(entry, path)
        except OSError:
            # Gone between two looks, or closed to us: either way there is nothing to see in it.
            return below
        return below

    def _file(self, entry: os.DirEntry[str], path: str) -> None:
        mark = _mark(entry.path, entry.stat(follow_symlinks=False), self._known.get(path), self._count)
        if mark is None:
            return
        self.marks[path] = mark
        if len(self.marks) > MAX_FILES:
            raise self._too_many(f"the patterns match more than {MAX_FILES} files")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_TOTAL_BYTES:
            raise self._too_many(f"more than {MAX_TOTAL_BYTES // 2**20} MiB would have to be read")

    def _too_many(self, what: str) -> Refused:
        rules = self._looker.rules
        return Refused(
            "WATCH_TOO_MANY",
            f"{what} for {', '.join(rules.paths)}",
            where=str(self._looker.root),
            hint="narrow `watch.paths`, or leave folders out with `watch.exclude`",
        )


def marks_of(paths: Iterable[Path], known: Mapping[str, Mark]) -> dict[str, Mark]:
    """Marks of single files, by their absolute path; those that are not there are left out."""
    found: dict[str, Mark] = {}
    for path in map(str, paths):
        try:
            mark = _mark(path, os.lstat(path), known.get(path))
        except OSError:
            continue
        if mark is not None:
            found[path] = mark
    return found


def _mark(
    path: str, found: os.stat_result, known: Mark | None, count: Callable[[int], None] | None = None
) -> Mark | None:
    """What the file is now; ``known`` itself when nothing about it changed, None when it is no file.

    ``count`` is told how many bytes are going to be read.
    """
    stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    if known is not None and known.stamp == stamp:
        return known
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        return None
    if count is not None and found.st_size <= MAX_FILE_BYTES:
        count(found.st_size)
    try:
        return Mark(_content_of(path, found), stamp)
    except PermissionError:
        return Mark(_by_time(found), stamp)
    except OSError:
        return None  # it went while we looked


def _content_of(path: str, found: os.stat_result) -> str:
    if stat.S_ISLNK(found.st_mode):
        return digest_bytes(os.fsencode(os.readlink(path)))  # noqa: PTH115  # a Path per file is most of a look
    return _by_time(found) if found.st_size > MAX_FILE_BYTES else _read(path)


def _by_time(found: os.stat_result) -> str:
    return f"size:{found.st_size} mtime:{found.st_mtime_ns}"


def _read(path: str) -> str:
    """Never more than the limit, even of a file that grows; never blocked by what is no file any more."""
    descriptor = os.open(path, _FLAGS)
    try:
        hasher, left = hashlib.sha256(), MAX_FILE_BYTES
        while left > 0 and (chunk := os.read(descriptor, min(_CHUNK, left))):
            hasher.update(chunk)
            left -= len(chunk)
    finally:
        os.close(descriptor)
    return f"sha256:{hasher.hexdigest()}"
