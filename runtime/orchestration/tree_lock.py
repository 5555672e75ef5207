"""One work tree, one writer: a lock whose truth is the kernel's, and whose file only tells who holds it.

Process ids prove nothing (they are reused, and "permission denied" means alive), so liveness is an advisory lock
held for the life of the run. The file's content appears together with the lock, by linking a complete and already
locked file into place; an empty or broken file is therefore never our own half-finished start, and never "free".
Content left behind by a dead exclusive holder is handed to recovery before it is replaced. The file lives outside
the work tree, so that locking never makes the tree dirty.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Halted, Refused
from runtime.kernel.ids import IdSource

if sys.platform != "win32":
    import fcntl

SCHEMA: Final = "run-lock/1"
_MEMBERS: Final = frozenset(
    {
        "schema",
        "mode",
        "run_id",
        "run_id_audit",
        "pid",
        "process_start",
        "boot_id",
        "host",
        "nonce",
        "started_at",
        "mission_type",
    }
)
_MAX_BYTES: Final = 64 * 1024
_FILE_MODE: Final = 0o600
_OPEN: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
#: Another process may replace or release the file between our look and our lock; each round means one did.
_ROUNDS: Final = 50


class LockMode(Enum):
    """Shared for runs that only read or execute, exclusive for writers (ruling R36)."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class LockHeld(Refused):
    """Somebody else works in this tree; ``holder`` says who, as far as the file tells."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        who = f"run {holder.get('run_id_audit', 'unknown')}"
        place = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"
        since = holder.get("started_at", "an unknown time")
        super().__init__(
            "LOCK_HELD",
            f"the work tree is in use by {who} ({place}, since {since})",
            hint="wait for it to end, cancel it, or use --wait",
        )
        self.holder = holder


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOwner:
    """Who wants the lock: ``run_id`` is the recipe hash, ``run_id_audit`` the run itself."""

    run_id: str
    run_id_audit: str
    mission_type: str


def tree_key(root: Path) -> str:
    """The identity of a work tree: device and inode of its root, whatever path leads there."""
    try:
        found = root.stat()
    except OSError as error:
        raise Refused("ROOT_MISSING", f"the work tree cannot be opened: {error.strerror}", where=str(root)) from error
    return f"{found.st_dev:x}-{found.st_ino:x}"


class TreeLock:
    """The lock of one work tree. ``folder`` is the state folder's ``locks/``. Owned by one run."""

    def __init__(self, folder: Path, root: Path, *, clock: Clock, ids: IdSource) -> None:
        self.path = folder / f"{tree_key(root)}.lock"
        self._clock = clock
        self._ids = ids
        self._descriptor = -1
        self._mode = LockMode.EXCLUSIVE
        self._stale: Mapping[str, Any] | None = None

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    @property
    def stale(self) -> Mapping[str, Any] | None:
        """The record of a dead exclusive holder, found by `acquire` and still in the file."""
        return self._stale

    def acquire(self, mode: LockMode, owner: LockOwner) -> Mapping[str, Any] | None:
        """Take the lock without waiting; returns the stale record, if one is there, and leaves it in place.

        An exclusive owner calls `claim` once recovery has dealt with a stale record. Raises `LockHeld`, or `Refused`
        ``LOCK_CORRUPT`` (the bytes stay as they are), ``LOCK_IO``, ``LOCK_BUSY`` when others keep winning.
        """
        if self.held:
            raise LockHeld(self._read(self._descriptor) or {})
        self._mode = mode
        try:
            for _ in range(_ROUNDS):
                if self._try(mode, owner):
                    return self._stale
        except OSError as error:
            raise Refused("LOCK_IO", f"the run lock cannot be used: {error.strerror}", where=str(self.path)) from error
        raise Refused("LOCK_BUSY", "the run lock changed hands too often to be taken", where=str(self.path))

    def claim(self, owner: LockOwner) -> None:
        """Replace a stale record by ``owner``'s, after recovery. Without a stale record nothing happens."""
        if self._stale is None or self._mode is LockMode.SHARED:
            return
        self.check()
        fresh, temporary = self._prepared(LockMode.EXCLUSIVE, owner)
        temporary.replace(self.path)
        os.close(self._descriptor)
        self._descriptor, self._stale = fresh, None

    def check(self) -> None:
        """Still ours? Call before every effect. Raises `Halted` ``LOCK_LOST``."""
        if not self.held or not self._is_current(self._descriptor):
            raise Halted("LOCK_LOST", "the run lock was removed or replaced while the run held it")

    def release(self) -> None:
        """Give the lock back; the file goes unless other readers hold it or a stale record still waits."""
        if not self.held:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            # Only the last holder removes the file, and only while nobody can put another in its place.
            alone = self._stale is None and _flock(descriptor, LockMode.EXCLUSIVE)
            if alone and self._is_current(descriptor):
                self.path.unlink(missing_ok=True)
        finally:
            self._stale = None
            os.close(descriptor)

    # -- one round -----------------------------------------------------------------------------------------------

    def _try(self, mode: LockMode, owner: LockOwner) -> bool:
        """One attempt; False means the file changed under us and another look is needed."""
        try:
            descriptor = os.open(self.path, _OPEN)
        except FileNotFoundError:
            return self._create(mode, owner)
        keep = False
        try:
            keep = self._adopt(descriptor, mode, owner)
        finally:
            if not keep:
                os.close(descriptor)
        return keep

    def _create(self, mode: LockMode, owner: LockOwner) -> bool:
        descriptor, temporary = self._prepared(mode, owner)
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            os.close(descriptor)
            return False
        finally:
            temporary.unlink()
        self._descriptor = descriptor
        return True

    def _adopt(self, descriptor: int, mode: LockMode, owner: LockOwner) -> bool:
        if not _flock(descriptor, mode):
            if not self._is_current(descriptor):
                return False
            raise LockHeld(self._read(descriptor) or {})
        if not self._is_current(descriptor):
            return False
        record = self._read(descriptor)
        if record is None:
            raise Refused(
                "LOCK_CORRUPT",
                "the run lock holds no readable record, so it cannot be told whether an earlier run needs repair",
                where=str(self.path),
                hint="check that no run uses the tree and remove the file",
            )
        self._stale = record if record["mode"] == LockMode.EXCLUSIVE.value else None
        self._descriptor = descriptor
        if self._stale is None and mode is LockMode.EXCLUSIVE:
            self._replace_readers_record(owner)
        return True

    def _replace_readers_record(self, owner: LockOwner) -> None:
        """A dead reader leaves nothing to repair: its record makes way at once."""
        fresh, temporary = self._prepared(LockMode.EXCLUSIVE, owner)
        temporary.replace(self.path)
        os.close(self._descriptor)
        self._descriptor = fresh

    def _prepared(self, mode: LockMode, owner: LockOwner) -> tuple[int, Path]:
        """A complete, already locked file beside the real one, ready to be moved into place."""
        nonce = self._ids.uuid()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{nonce}")
        descriptor = os.open(temporary, _OPEN | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            os.write(descriptor, canonical_bytes(self._record(mode, owner, nonce)))
            os.fsync(descriptor)
            _flock(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor, temporary

    def _record(self, mode: LockMode, owner: LockOwner, nonce: str) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "mode": mode.value,
            "run_id": owner.run_id,
            "run_id_audit": owner.run_id_audit,
            "mission_type": owner.mission_type,
            "nonce": nonce,
            "started_at": timestamp(self._clock.now()),
            **process_facts(),
        }

    def _read(self, descriptor: int) -> Mapping[str, Any] | None:
        try:
            record = parse_strict(os.pread(descriptor, _MAX_BYTES, 0))
        except CanonicalizationError:
            return None
        if not isinstance(record, dict) or not record.keys() >= _MEMBERS or record["schema"] != SCHEMA:
            return None
        return record

    def _is_current(self, descriptor: int) -> bool:
        """Is the file under our name still the one we have open?"""
        ours = os.fstat(descriptor)
        try:
            named = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(named.st_mode) and (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _flock(descriptor: int, mode: LockMode) -> bool:
    """Take the kernel's lock without waiting; False when somebody else has it."""
    if sys.platform == "win32":
        raise Refused("ENFORCER_UNSUPPORTED_PLATFORM", "work trees cannot be locked on this platform")
    kind = fcntl.LOCK_EX if mode is LockMode.EXCLUSIVE else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def process_facts() -> dict[str, Any]:
    """Who we are, for display; nothing is ever decided by it."""
    # After the parenthesised program name, the start time in clock ticks is the 20th field (proc(5), field 22).
    started = _proc("/proc/self/stat").rpartition(")")[2].split()[19:20]
    return {
        "pid": os.getpid(),
        "process_start": started[0] if started else None,
        "boot_id": _proc("/proc/sys/kernel/random/boot_id").strip() or None,
        "host": socket.gethostname(),
    }


def _proc(path: str) -> str:
    """A file of Linux's process table; empty elsewhere."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
