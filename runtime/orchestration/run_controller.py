"""May a run start, and may it go on? Kill switch, halt latch, tree lock, and the start order that ties them.

Doubt stops: a kill switch that cannot be looked for is active, a latch that cannot be read is set. Both are plain
files, because they must work when nothing else does. The start order is exact (operations spec §10.1): the switch is
looked at again once the lock is ours, and whatever fails afterwards gives the lock back before anyone is told.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Halted, QuarterdeckError, Refused
from runtime.kernel.ids import KILL_SWITCH_FILE, NO_COMMIT
from runtime.orchestration.operation_ports import HaltRequired, KillSwitchActive
from runtime.orchestration.repository import RepositoryFacts
from runtime.orchestration.state_hash import Fingerprint
from runtime.orchestration.tree_lock import LockHeld as LockHeld
from runtime.orchestration.tree_lock import LockMode as LockMode
from runtime.orchestration.tree_lock import LockOwner as LockOwner
from runtime.orchestration.tree_lock import TreeLock as TreeLock
from runtime.orchestration.tree_lock import tree_key

_LATCH_SCHEMA: Final = "halt-latch/1"
_LATCH_MEMBERS: Final = ("code", "run_id", "at", "message", "evidence")
_FILE_MODE: Final = 0o600
#: The tree is in use: the launch may wait instead of failing (ruling R36).
_DEFERRED: Final = frozenset({"LOCK_HELD", "LOCK_BUSY"})


class KillSwitch:
    """``STOP_AUTONOMY`` in the work tree or the state folder (ruling R33). Nothing of ours ever touches it."""

    def __init__(self, *folders: Path) -> None:
        self._paths = tuple(folder / KILL_SWITCH_FILE for folder in folders)

    def active(self) -> str | None:
        """Why work must stop, or None. Any form of the name counts, a dangling link included."""
        for path in self._paths:
            try:
                os.lstat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                return f"cannot look for {path}: {error.strerror}"
            return f"{path} exists"
        return None

    def check(self) -> None:
        """Raises `Halted` ``KILL_SWITCH`` when active."""
        reason = self.active()
        if reason is not None:
            raise KillSwitchActive("KILL_SWITCH", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatchRecord:
    """Why a work tree is latched. ``readable`` false: the file says nothing we understand, which latches too."""

    code: str
    run_id: str
    at: str
    message: str
    evidence: str | None = None
    readable: bool = True


class HaltLatch:
    """One per work tree: while it is set, nothing starts there until the operator clears it with a reason.

    ``folder`` is the state folder's ``latches/``.
    """

    def __init__(self, folder: Path, root: Path, *, clock: Clock) -> None:
        self.path = folder / f"HALTED-{tree_key(root)}.json"
        self._clock = clock

    def read(self) -> LatchRecord | None:
        """The record, or None when not latched."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return self._unreadable("it is a dangling link") if os.path.lexists(self.path) else None
        except OSError as error:
            return self._unreadable(str(error.strerror))
        try:
            record = parse_strict(data)
            members = {name: record[name] for name in _LATCH_MEMBERS}
        except (CanonicalizationError, KeyError, TypeError):
            return self._unreadable("its content is damaged")
        return LatchRecord(**members)

    def set(self, code: str, *, run_id: str, message: str, evidence: str | None = None) -> None:
        """Latch. The first cause stays: setting a set latch changes nothing.

        The file is created before it is filled, so that a full disk or a crash leaves it unreadable, hence set.
        Raises `Refused` ``LATCH_IO`` when not even that worked, or when the cause could not be written.
        """
        at = timestamp(self._clock.now())
        record = {"code": code, "run_id": run_id, "at": at, "message": message, "evidence": evidence}
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        except FileExistsError:
            return
        except OSError as error:
            raise Refused(
                "LATCH_IO", f"the work tree cannot be latched: {error.strerror}", where=str(self.path)
            ) from error
        try:
            os.write(descriptor, canonical_bytes({"schema": _LATCH_SCHEMA, **record}))
            os.fsync(descriptor)
        except OSError as error:
            raise Refused(
                "LATCH_IO", f"latched, but the cause was not written: {error.strerror}", where=str(self.path)
            ) from error
        finally:
            os.close(descriptor)

    def clear(self, reason: str) -> LatchRecord | None:
        """The operator's act: take the latch away and return what it said, for the store's journal.

        Raises `Refused` ``LATCH_REASON`` without a reason, ``LATCH_IO`` when the file cannot be removed.
        """
        if not reason.strip():
            raise Refused(
                "LATCH_REASON", "a latch is cleared only with a reason", hint="say what was checked or repaired"
            )
        record = self.read()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise Refused("LATCH_IO", f"the latch cannot be removed: {error.strerror}", where=str(self.path)) from error
        return record

    def check(self) -> None:
        """Raises `Halted` ``HALT_LATCHED`` when set."""
        record = self.read()
        if record is not None:
            raise HaltRequired("HALT_LATCHED", record.message)

    def _unreadable(self, why: str) -> LatchRecord:
        return LatchRecord(
            code="HALT_LATCHED", run_id="", at="", message=f"the latch cannot be read: {why}", readable=False
        )


@dataclass(frozen=True, slots=True)
class RunGuard:
    """What the executor asks before every operation and again before its effect (X2, X11). Call it."""

    kill_switch: KillSwitch
    latch: HaltLatch | None = None
    lock: TreeLock | None = None

    def __call__(self) -> None:
        """Raises `Halted`: ``KILL_SWITCH``, ``HALT_LATCHED``, ``LOCK_LOST``."""
        self.kill_switch.check()
        if self.latch is not None:
            self.latch.check()
        if self.lock is not None:
            self.lock.check()


class PreflightRefused(Refused):
    """A start was refused. ``step`` is the step of operations spec §10.1; ``defer`` says waiting may help."""

    def __init__(self, step: int, cause: QuarterdeckError) -> None:
        super().__init__(cause.code, cause.message, where=cause.where, hint=cause.hint)
        self.step = step
        self.defer = cause.code in _DEFERRED
        self.holder: Mapping[str, Any] | None = cause.holder if isinstance(cause, LockHeld) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightRequest:
    """What a start needs to know and ask, injected so that the order can be tested without a world.

    ``lock_mode`` None: nothing shared is touched (no workspace, or a private copy). ``recover`` receives the record
    of a dead holder and returns when that run is settled or is the one being resumed, else raises `Refused`
    ``RECOVERY_MANUAL``. ``load_policy`` loads the protected set and returns its hash; ``baseline`` that of the governance
    baseline or ``none``; ``repository`` checks a git tree, None for other kinds; ``fingerprint`` looks at the tree.
    """

    owner: LockOwner
    kill_switch: KillSwitch
    lock_mode: LockMode | None
    lock: TreeLock | None
    latch: HaltLatch | None
    recover: Callable[[Mapping[str, Any]], Awaitable[None]]
    load_policy: Callable[[], Awaitable[str]]
    baseline: Callable[[], Awaitable[str]]
    repository: Callable[[], Awaitable[RepositoryFacts]] | None
    fingerprint: Callable[[], Awaitable[Fingerprint]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightFacts:
    """The frozen outcome of a successful preflight; the arbiter decides over these. ``lock`` is held."""

    lock: TreeLock | None
    stale: Mapping[str, Any] | None
    protected_hash: str
    governance_hash: str
    repository: RepositoryFacts | None
    fingerprint: Fingerprint | None
    baseline_commit: str
    ref: str | None


async def preflight(request: PreflightRequest) -> PreflightFacts:
    """Steps 1-9 of operations spec §10.1, in order. On any failure the lock this call took is given back.

    Raises `PreflightRefused` with the code of what failed.
    """
    attempt = _Preflight(request)
    try:
        return await attempt.run()
    except BaseException as error:
        if attempt.locked and request.lock is not None:
            request.lock.release()
        if isinstance(error, Halted):
            raise PreflightRefused(attempt.step, Refused(error.code, error.message)) from error
        if isinstance(error, QuarterdeckError):
            raise PreflightRefused(attempt.step, error) from error
        raise


class _Preflight:
    """One attempt; remembers how far it got and whether it took the lock."""

    def __init__(self, request: PreflightRequest) -> None:
        self._request = request
        self.step = 0
        self.locked = False

    async def run(self) -> PreflightFacts:
        request = self._request
        self._kill_switch(step=1)
        self._latch(step=2)
        stale = self._lock(step=3)
        self._kill_switch(step=4)
        await self._recovery(stale, step=5)
        self.step = 6
        protected_hash = await request.load_policy()
        self.step = 7
        governance_hash = await request.baseline()
        self.step = 8
        repository = await request.repository() if request.repository is not None else None
        self.step = 9
        fingerprint = await self._fingerprint(repository)
        looked = fingerprint if fingerprint is not None else repository
        return PreflightFacts(
            lock=request.lock if self.locked else None,
            stale=stale,
            protected_hash=protected_hash,
            governance_hash=governance_hash,
            repository=repository,
            fingerprint=fingerprint,
            baseline_commit=(looked.head if looked is not None else None) or NO_COMMIT,
            ref=looked.ref if looked is not None else None,
        )

    def _kill_switch(self, *, step: int) -> None:
        self.step = step
        reason = self._request.kill_switch.active()
        if reason is not None:
            raise Refused("KILL_SWITCH", reason, hint="remove it when work may go on; nothing resumes by itself")

    def _latch(self, *, step: int) -> None:
        self.step = step
        record = self._request.latch.read() if self._request.latch is not None else None
        if record is not None:
            cause = f"run {record.run_id} halted with {record.code}: " if record.readable else ""
            raise Refused(
                "HALT_LATCHED",
                f"the work tree is latched; {cause}{record.message}",
                where=str(self._request.latch.path) if self._request.latch is not None else None,
                hint="inspect the tree, then clear the latch with a reason",
            )

    def _lock(self, *, step: int) -> Mapping[str, Any] | None:
        self.step = step
        if self._request.lock is None or self._request.lock_mode is None:
            return None
        stale = self._request.lock.acquire(self._request.lock_mode, self._request.owner)
        self.locked = True
        return stale

    async def _recovery(self, stale: Mapping[str, Any] | None, *, step: int) -> None:
        self.step = step
        if stale is not None and self._request.lock is not None:
            await self._request.recover(stale)
            self._request.lock.claim(self._request.owner)

    async def _fingerprint(self, repository: RepositoryFacts | None) -> Fingerprint | None:
        if self._request.fingerprint is None:
            return None
        fingerprint = await self._request.fingerprint()
        if repository is not None and (fingerprint.head, fingerprint.ref) != (repository.head, repository.ref):
            raise Refused("EXTERNAL_MODIFICATION", "the repository moved while it was checked", hint="launch again")
        return fingerprint
