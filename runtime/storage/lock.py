"""The store lock: one process writes, everybody else observes (rulings R33 to R35).

Liveness comes from the kernel's advisory lock and from nothing else: pids are reused, heartbeats lag, files
survive a crash. What the file says (pid, host, since when) is for people and for finding the control socket.
The file is never removed, because two processes could then hold "the" lock on two different files.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import psutil

from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import IdSource
from runtime.storage.faults import os_faults
from runtime.storage.layout import FILE_MODE, StateDir

#: A liveness probe holds a shared lock for microseconds, unless it is descheduled just then; an owner-to-be
#: outlasts 200 ms of probing. A real holder is recognised at once.
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.002
#: More than any honest holder writes.
_MAX_CONTENT: Final = 16 * 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """What the holder wrote into the lock file. For display and for reaching it, never for deciding."""

    pid: int
    process_start: str
    boot_id: str
    host: str
    nonce: str
    started_at: str
    socket: str


def this_process(state: StateDir, clock: Clock, ids: IdSource) -> LockHolder:
    """Describe the calling process."""
    return LockHolder(
        pid=os.getpid(),
        process_start=f"{psutil.Process().create_time():.2f}",
        boot_id=_boot_id(),
        host=socket.gethostname(),
        nonce=ids.uuid(),
        started_at=timestamp(clock.now()),
        socket=str(state.socket),
    )


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux: the start time of the machine identifies the boot well enough for display
        return f"boot-{psutil.boot_time():.0f}"


class StoreLock:
    """An exclusive advisory lock on ``store.lock``, for the life of the store."""

    def __init__(self, path: Path, me: LockHolder) -> None:
        self._path = path
        self._me = me
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock or raise ``STORE_LOCKED`` naming the holder. Does not wait for a holder; call it off the
        loop all the same, for it touches the disk."""
        if self._descriptor is not None:
            raise StorageError("STORE_LOCKED", "this process already holds the store", where=str(self._path))
        with os_faults(self._path, "open the store lock"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, FILE_MODE)
        try:
            if not _lock_exclusive(descriptor, self._path):
                raise _locked(self._path)
            with os_faults(self._path, "write the store lock"):
                _require_same_file(descriptor, self._path)
                _overwrite(descriptor, json.dumps(asdict(self._me), sort_keys=True).encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Empty the file and let go. Does nothing when the lock is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            with os_faults(self._path, "clear the store lock"):
                _overwrite(descriptor, b"")
        finally:
            os.close(descriptor)

    def read_holder(self) -> LockHolder | None:
        return read_holder(self._path)


def read_holder(path: Path) -> LockHolder | None:
    """What the lock file says, or None when it is missing, empty or unreadable as a holder."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_CONTENT))
        values = {part.name: content[part.name] for part in fields(LockHolder)}
        return LockHolder(**values) if isinstance(values["pid"], int) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_held(path: Path) -> bool:
    """Does any process, this one included, hold the lock right now?"""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError("STORE_IO", f"cannot look at the store lock: {error}", where=str(path)) from error
    try:
        return not _try(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def _lock_exclusive(descriptor: int, path: Path) -> bool:
    """Only a prober's shared lock may be in the way; a shared lock of our own tells it from a holder's."""
    for _ in range(_ATTEMPTS):
        if _try(descriptor, fcntl.LOCK_EX, path):
            return True
        if not _try(descriptor, fcntl.LOCK_SH, path):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_PAUSE_SECONDS)
    return False


def _try(descriptor: int, kind: int, path: Path) -> bool:
    try:
        with os_faults(path, "lock the store"):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except StorageError as error:
        if isinstance(error.__cause__, BlockingIOError):
            return False
        raise
    return True


def _require_same_file(descriptor: int, path: Path) -> None:
    mine, there = os.fstat(descriptor), path.lstat()
    if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
        raise _locked(path)


def _overwrite(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.fsync(descriptor)


def _locked(path: Path) -> StorageError:
    holder = read_holder(path)
    who = f"process {holder.pid} on {holder.host} since {holder.started_at}" if holder else "another process"
    return StorageError(
        "STORE_LOCKED",
        f"the store is held by {who}",
        where=str(path.parent),
        hint="observe it, send it commands, end it, or choose another folder with --store",
    )
