"""Files that are only appended to: by one process at a time, whole pieces, on disk when it returns. Blocking."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from runtime.kernel.errors import Refused

#: Anybody may read a witness; it tells nothing but sizes and hashes.
_MODE: Final = 0o644
_SIDE_NAME: Final = 16
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def content(path: Path) -> bytes:
    """All of it; nothing where there is no file. Raises `Refused` ``SINK_TROUBLE`` for what is no file, `OSError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        _check_file(descriptor, path)
        return file.read()


class Appending:
    """One file, open and locked. Build with `appending`."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @property
    def mark(self) -> tuple[int, int, int]:
        """Changes whenever somebody else writes: inode, size, time of the last change in ns."""
        found = os.fstat(self._descriptor)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def content(self) -> bytes:
        return b"".join(iter(lambda: os.read(self._descriptor, 1024 * 1024), b""))

    def cut(self, torn: bytes) -> None:
        """Take away what an interrupted write left at the end, kept in a file beside."""
        side = self._path.with_name(f"{self._path.name}.torn-{hashlib.sha256(torn).hexdigest()[:_SIDE_NAME]}")
        # The name tells the content: one that is there already was kept before.
        with suppress(FileExistsError):
            descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, _MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(torn)
                file.flush()
                os.fsync(descriptor)
        os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - len(torn))

    def append(self, data: bytes) -> None:
        if os.write(self._descriptor, data) != len(data):
            raise Refused("SINK_TROUBLE", f"{self._path} took only a part; is the disk full?")
        os.fsync(self._descriptor)


@contextmanager
def appending(path: Path) -> Iterator[Appending]:
    """Hold ``path``, made when it is not there yet. Raises `Refused` ``SINK_TROUBLE``, `OSError`."""
    made = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _FLAGS, _MODE)
    try:
        _check_file(descriptor, path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("SINK_TROUBLE", f"{path} is being written by another process") from None
        if made:
            _sync(path.parent)
        yield Appending(descriptor, path)
    finally:
        os.close(descriptor)


def _check_file(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise Refused("SINK_TROUBLE", f"{path} is no regular file")


def _sync(folder: Path) -> None:
    """A new file's name is on disk, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
