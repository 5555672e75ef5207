"""Where journal bytes go when there is no database: memory for tests and libraries, JSON lines for bundles.

The file store's promise is that a line is either wholly there or recognisably torn: append-only descriptor, one
write call and one fsync per line, an exclusive advisory lock, private modes. It blocks; under a running event
loop the database store is the one to use. Standard library and kernel only: the evidence bundle carries it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.kernel.errors import JournalError
from runtime.kernel.ports import Durable, Settled, StoredEntry
from runtime.orchestration.journal_format import MAX_LINE_BYTES

if sys.platform != "win32":
    import fcntl

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_CHUNK: Final = 1024 * 1024


class MemoryJournalStore:
    """Keeps entries in a list."""

    def __init__(self) -> None:
        self.entries: list[StoredEntry] = []

    def append(self, entry: StoredEntry) -> Durable:
        self.entries.append(entry)
        return Settled()


@dataclass(frozen=True, slots=True)
class TornTail:
    """An interrupted last line that was set aside."""

    bytes: int
    sha256: str
    kept_in: Path


class JsonlJournalStore:
    """One journal as one file of canonical lines. Owns the file's lock from construction to `close`.

    Raises `JournalError`: ``J_LOCKED`` when another process or task appends, ``J_IO`` when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False
        self._descriptor = _open_locked(path)

    def append(self, entry: StoredEntry) -> Durable:
        """Write one line and wait until it is on disk. After a failure nothing more is accepted.

        Raises `JournalError` ``J_LINE_TOO_LONG`` or ``J_IO``.
        """
        if len(entry.body) > MAX_LINE_BYTES:
            raise JournalError(
                "J_LINE_TOO_LONG", f"entry {entry.seq} has {len(entry.body)} bytes, limit {MAX_LINE_BYTES}"
            )
        if self._failed:
            raise JournalError(
                "J_IO", f"{self.path.name} accepts nothing after a failed write", hint="reopen the journal"
            )
        line = entry.body + b"\n"
        try:
            written = os.write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            self._failed = True
            raise JournalError("J_IO", f"writing entry {entry.seq} failed: {error.strerror}") from error
        if written != len(line):
            self._failed = True
            raise JournalError(
                "J_IO", f"entry {entry.seq} was only written in part", hint="free disk space, then reopen"
            )
        return Settled()

    def read(self) -> bytes:
        """All bytes of the file."""
        return self.path.read_bytes()

    def set_torn_tail_aside(self, *, known_seq: int | None = None) -> TornTail | None:
        """Cut an interrupted last line off, after copying it to a side file (operations spec §7.6).

        ``known_seq`` is the newest entry anything else refers to; losing that one is not a torn tail but a loss.
        Raises `JournalError` ``J_TRUNCATED``.
        """
        data = self.read()
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return None
        kept = data.count(b"\n", 0, end)
        if known_seq is not None and known_seq >= kept:
            raise JournalError(
                "J_TRUNCATED", f"entry {known_seq} is known elsewhere, but only {kept} whole entries are left"
            )
        torn = data[end:]
        name = hashlib.sha256(torn).hexdigest()
        side = self.path.with_name(f"{self.path.name}.torn-{name[:16]}")
        _write_private(side, torn)
        os.ftruncate(self._descriptor, end)
        os.fsync(self._descriptor)
        return TornTail(len(torn), f"sha256:{name}", side)

    def close(self) -> None:
        """Give the lock back. Closing twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        self._failed = True
        if descriptor >= 0:
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, _FILE_MODE)
    except OSError as error:
        raise JournalError("J_IO", f"cannot open {path.name}: {error.strerror}") from error
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise JournalError("J_LOCKED", f"{path.name} is open for appending elsewhere") from None
    return descriptor


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), _FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view[:_CHUNK]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
