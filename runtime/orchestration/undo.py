"""Undoing one operation by the book: look, refuse on drift, put back, prove it (operations spec §6.3–§6.5).

Only what the operation itself changed is touched, through path tickets and sanitised git; the verdict is a new
receipt. Running an undo twice is harmless, because a state that already satisfies every check is left alone. When
the verdict is not "verified" nothing further is tried: the caller sets the halt latch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import JournalError, QuarterdeckError, Refused
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    OperationReceipt,
)
from runtime.kernel.ports import ArtifactStore
from runtime.orchestration.compensation import (
    GIT_TYPES,
    Compensation,
    covers,
    is_relative,
    validate_compensation,
    verification,
)
from runtime.orchestration.operation_ports import (
    MAX_BODY_BYTES,
    Enforcer,
    EscalationNote,
    GitPort,
    Protector,
    Workspace,
    WorkspaceState,
)
from runtime.orchestration.operation_records import UNKNOWN_STATE, ReceiptFacts, Recorder, Verdict
from runtime.orchestration.operation_table import KnownOperation
from runtime.orchestration.snapshots import Entry, Snapshot, take

#: Ruling R26: each undo is capped at 60 s.
UNDO_SECONDS: Final = 60.0
#: Role of undo when the run names none (rulings §9.3).
DEFAULT_ROLE: Final = "runner"
_PERMISSIONS: Final = 0o777
#: Kinds of entries whose bytes a snapshot keeps.
_STORED: Final = frozenset({"file", "symlink"})
#: Verdicts on a folder that is not there, or no folder any more.
_NO_FOLDER: Final = frozenset({"PATH_MISSING", "PATH_NOT_DIRECTORY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationOutcome:
    """What became of one undo. ``outcome`` is completed, already_satisfied, drift or failed; ``code`` is
    ``COMP_DRIFT`` or ``COMP_FAILED`` unless ``verified``. ``now`` is the workspace afterwards."""

    operation_id: str
    outcome: str
    verified: bool
    code: str | None = None
    message: str = ""
    checks: Mapping[str, bool] = field(default_factory=dict)
    receipt: OperationReceipt | None = None
    now: WorkspaceState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything recorded about the operation to undo. Build with `read_case`."""

    receipt: OperationReceipt
    compensation: Compensation
    snapshot: Snapshot
    before: WorkspaceState | None
    after: WorkspaceState | None
    undeclared: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return self.compensation.paths or self.snapshot.roots

    @property
    def by_git(self) -> bool:
        return self.compensation.type in GIT_TYPES


@dataclass(frozen=True, slots=True)
class _Look:
    """The world at one moment, as far as an undo cares."""

    state: str
    workspace: WorkspaceState | None


@dataclass(frozen=True, slots=True)
class _Finding:
    """How an undo went; ``code`` None means verified."""

    outcome: str
    checks: Mapping[str, bool]
    code: str | None
    message: str
    looked: _Look | None
    after: _Look | None


async def read_case(artifacts: ArtifactStore, receipt: OperationReceipt, started: Mapping[str, Any]) -> Case:
    """What an undo of ``receipt``'s operation works from; ``started`` is the entry that announced it.

    Raises `Refused` ``COMP_FAILED`` when it is not stored (any more), `QuarterdeckError` when it does not decode.
    """
    if "snapshot" not in started:
        raise Refused("COMP_FAILED", f"nothing was recorded to undo {receipt.operation_id} with")
    evidence = await _fetch(artifacts, receipt.evidence_hash)
    before, after = started.get("workspace"), evidence.get("after")
    return Case(
        receipt=receipt,
        compensation=validate_compensation(receipt.compensation_type, receipt.compensation_command),
        snapshot=Snapshot.from_record(await _fetch(artifacts, started["snapshot"])),
        before=None if before is None else WorkspaceState.from_record(await _fetch(artifacts, before)),
        after=None if after is None else WorkspaceState.from_record(await _fetch(artifacts, after)),
        undeclared=tuple(evidence.get("undeclared", ())),
    )


async def check_stored(artifacts: ArtifactStore, known: KnownOperation) -> None:
    """Is everything an undo of ``known`` needs still there, contents included? Raises like `read_case`."""
    if known.receipt is None:
        raise Refused("COMP_FAILED", f"{known.operation_id} has no receipt")
    case = await read_case(artifacts, known.receipt, known.started)
    if case.compensation.type is CompensationType.FILESYSTEM_RESTORE:
        for name in {entry.digest for entry in case.snapshot.entries.values() if entry.kind in _STORED}:
            await _body(artifacts, str(name))


async def _fetch(artifacts: ArtifactStore, name: str) -> dict[str, Any]:
    record: dict[str, Any] = parse_strict(await _body(artifacts, name), limit=MAX_BODY_BYTES)
    return record


async def _body(artifacts: ArtifactStore, name: str) -> bytes:
    body = await artifacts.get(name)
    if body is None:
        raise Refused("COMP_FAILED", f"artifact {name} is not stored")
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """The undo engine of one run; the caller holds the work-tree gate."""

    records: Recorder
    enforcer: Enforcer
    protector: Protector
    workspace: Workspace
    artifacts: ArtifactStore
    stack: tuple[Envelope, ...]
    context: ExecutionContext
    strict: bool

    async def undo(
        self, receipt: OperationReceipt, started: Mapping[str, Any] | None = None, *, drifted: bool = False
    ) -> CompensationOutcome:
        """Undo ``receipt``'s operation and record the verdict. Raises `JournalError` only.

        ``started`` is what announced it, for an operation of an earlier run; None looks it up in this run's journal.
        ``drifted``: `foreseen` says that it cannot be undone, so nothing is tried.
        """
        if started is None:
            known = self.records.table.by_operation(receipt.operation_id)
            started = {} if known is None else known.started
        intention = self.records.append(
            "compensation_started",
            operation_id=receipt.operation_id,
            compensates=receipt.receipt_hash,
            outcome=None,
            verified=False,
            checks={},
        )
        await self.records.settled(intention)
        return await self._record(receipt, await self._try(receipt, started, drifted=drifted))

    async def foreseen(self, operations: Sequence[KnownOperation]) -> KnownOperation | None:
        """The newest of ``operations`` (in the order they were done) that others have changed already.

        Whoever undoes them last to first would meet drift there, with the later ones gone. What later operations
        cover cannot be told yet. Raises `QuarterdeckError` when the world cannot be looked at.
        """
        now = await self.workspace.state()
        later: set[str] = set()
        books = False
        for known in reversed(operations):
            receipt = known.receipt
            assert receipt is not None, "only what has a receipt can be undone"
            paths = receipt.affected_paths
            case = await read_case(self.artifacts, receipt, known.started)
            if case.by_git:
                if not books and not _same_books(case.before, now) and _git_moved(case, now, later):
                    return known
                books = True
            apart = not any(covers(later, path) or covers((path,), other) for path in paths for other in later)
            if apart and await self._foreign(case, now):
                return known
            later.update(paths)
        return None

    async def _foreign(self, case: Case, now: WorkspaceState | None) -> bool:
        """Are its paths neither as it left them nor as it found them?"""
        receipt = case.receipt
        state = await self.workspace.state_hash(receipt.affected_paths)
        if state == receipt.pre_state_hash or receipt.post_state_hash == UNKNOWN_STATE:
            return False
        return state != receipt.post_state_hash or await self._claimed(case, now)

    async def _try(self, receipt: OperationReceipt, started: Mapping[str, Any], *, drifted: bool) -> _Finding:
        looked: _Look | None = None
        try:
            case = await read_case(self.artifacts, receipt, started)
            looked = await self._look(receipt)
            outcome, checks = ("drift", self._checks(case, looked)) if drifted else await self._decide(case, looked)
            if outcome != "completed":
                return _judged(outcome, checks, looked, looked)
            after = await self._look(receipt)
            return _judged(outcome, self._checks(case, after), looked, after)
        except JournalError:
            raise
        except TimeoutError:
            message = f"the undo took longer than {UNDO_SECONDS:g} s"
        except (QuarterdeckError, OSError) as error:
            reason = error.code if isinstance(error, QuarterdeckError) else type(error).__name__
            message = f"the undo failed: {reason}"
        return _Finding("failed", {}, "COMP_FAILED", message, looked, None)

    async def _look(self, receipt: OperationReceipt) -> _Look:
        return _Look(await self.workspace.state_hash(receipt.affected_paths), await self.workspace.state())

    def _checks(self, case: Case, look: _Look) -> dict[str, bool]:
        return verification(
            before=case.before,
            now=look.workspace,
            pre_state=case.receipt.pre_state_hash,
            now_state=look.state,
            covered=case.snapshot.roots,
            strict=self.strict or case.by_git,
            ignored=case.undeclared,
        )

    async def _decide(self, case: Case, look: _Look) -> tuple[str, dict[str, bool]]:
        checks = self._checks(case, look)
        if all(checks.values()):
            return "already_satisfied", checks
        if await self._drifted(case, look):
            return "drift", checks
        async with asyncio.timeout(UNDO_SECONDS):
            await self._apply(case)
        return "completed", checks

    async def _drifted(self, case: Case, look: _Look) -> bool:
        """Has anybody changed what the operation left behind?"""
        recorded = case.receipt.post_state_hash
        if recorded != UNKNOWN_STATE and look.state != recorded:
            return True
        if not case.by_git:
            return await self._claimed(case, look.workspace)
        before, target = case.before, case.compensation.target
        if before is None or before.head is None or _git_moved(case, look.workspace):
            return True
        if target is not None and is_relative(target):
            return await self._git().resolve(target) != before.head
        return target is not None and target != before.head

    async def _claimed(self, case: Case, now: WorkspaceState | None) -> bool:
        """Has anybody staged or committed what the operation left? Then putting contents back would not make the work
        tree what it was."""
        before, after, git = case.before, case.after, self.workspace.git
        if case.by_git or git is None or before is None or after is None or now is None:
            return False
        mine = case.snapshot.roots
        if any(covers(mine, path) for path in after.changed(now)):
            return True
        if now.index == after.index:
            return False
        fresh = [line for line in await git.status() if line.path not in before.worktree and covers(mine, line.path)]
        return any(line.index not in (" ", "?") for line in fresh)

    # applying

    def _git(self) -> GitPort:
        git = self.workspace.git
        if git is None:
            raise Refused("COMP_FAILED", "this undo needs git, and the workspace has none")
        return git

    async def _apply(self, case: Case) -> None:
        kind = case.compensation.type
        for path in case.paths:
            verdict = self.protector.validate(path, self.context.acting_role or DEFAULT_ROLE, Access.MODIFY.value)
            if not verdict:
                raise Refused(verdict.code, f"undo may not touch {path}")
        if case.by_git and kind is not CompensationType.GIT_CLEAN:
            await self._apply_git(kind, case)
        elif kind is CompensationType.FILESYSTEM_RESTORE:
            for path in case.snapshot.roots:
                await self._restore(path, case.snapshot)
            await self._remove_dirs(case.snapshot.new_dirs)
        elif kind in (CompensationType.FILESYSTEM_DELETE, CompensationType.GIT_CLEAN):
            for path in case.paths:
                await self._remove(path)
            await self._remove_dirs(case.snapshot.new_dirs)
        else:
            raise Refused("COMP_FAILED", "the operation declared no undo")

    async def _apply_git(self, kind: CompensationType, case: Case) -> None:
        git = self._git()
        commit = case.before.head if case.before is not None else None
        if commit is None:
            raise Refused("COMP_FAILED", "the commit before the operation is not recorded")
        if kind is CompensationType.GIT_CHECKOUT:
            await git.checkout(case.paths)
        elif kind is CompensationType.GIT_RESET_HEAD:
            await git.reset_paths(commit, case.paths)
        elif kind is CompensationType.GIT_RESET_SOFT:
            await git.reset_soft(commit)
        else:
            await git.reset_hard(commit)

    async def _restore(self, root: str, snapshot: Snapshot) -> None:
        """A folder that stands is left as it is: its mode is no part of any state hash."""
        then = snapshot.below(root)
        now = (await asyncio.to_thread(take, self.context.repo_root, [root])).below(root)
        for path in reversed([path for path in now if _in_the_way(now[path], then.get(path))]):
            await self._remove_one(path, now[path])
        for path, entry in then.items():
            there = now.get(path)
            if entry != there and not (there is not None and entry.kind == there.kind == "dir"):
                await self._put_back(path, entry)

    async def _put_back(self, path: str, entry: Entry) -> None:
        if entry.kind == "dir":
            await self._use(path, Access.CREATE, "mkdir")
        elif entry.kind == "file" and entry.digest is not None:
            body = await _body(self.artifacts, entry.digest)
            await self._use(path, Access.WRITE, "write", body, entry.mode & _PERMISSIONS)
        elif entry.kind == "symlink" and entry.digest is not None:
            await self._use(path, Access.CREATE, "symlink", await _body(self.artifacts, entry.digest), link=True)

    async def _remove(self, path: str) -> None:
        now = (await asyncio.to_thread(take, self.context.repo_root, [path])).below(path)
        for name in reversed(now):
            await self._remove_one(name, now[name])

    async def _remove_one(self, path: str, entry: Entry) -> None:
        if entry.kind == "dir":
            await asyncio.to_thread(self._remove_empty_dir, path)
        elif entry.kind != "missing":
            await self._use(path, Access.DELETE, "delete", link=entry.kind == "symlink")

    async def _remove_dirs(self, paths: Sequence[str]) -> None:
        for path in sorted(paths, reverse=True):
            await asyncio.to_thread(self._remove_empty_dir, path, made_on_the_way=True)

    def _remove_empty_dir(self, path: str, *, made_on_the_way: bool = False) -> None:
        """A folder that is gone, or that others filled, is not ours to remove: verification reports what is left."""
        try:
            ticket = self.enforcer.authorize(
                path, Access.DELETE, self.stack, create_parents=made_on_the_way, directory=True
            )
        except EnvelopeViolation as violation:
            if violation.code in _NO_FOLDER:
                return
            raise
        try:
            with suppress(Refused):
                ticket.delete()
        finally:
            ticket.close()

    async def _use(self, path: str, access: Access, verb: str, *args: Any, link: bool = False) -> None:
        def work() -> None:
            parents = access is not Access.DELETE
            ticket = self.enforcer.authorize(path, access, self.stack, create_parents=parents, link=link)
            try:
                getattr(ticket, verb)(*args)
            finally:
                ticket.close()

        await asyncio.to_thread(work)

    # recording

    async def _record(self, receipt: OperationReceipt, finding: _Finding) -> CompensationOutcome:
        verified, code = finding.code is None, finding.code
        if code is not None:
            note = EscalationNote.about(code, finding.message, "critical", operation_id=receipt.operation_id)
            self.records.escalation(f"{receipt.operation_id}.undo", 0, receipt.step_id, note)
        self.records.append(
            "compensation_finished",
            operation_id=receipt.operation_id,
            compensates=receipt.receipt_hash,
            outcome=finding.outcome,
            verified=verified,
            checks=dict(finding.checks),
        )
        verdict = Verdict(
            status="success" if verified else "failed",
            code=code,
            output={"outcome": finding.outcome},
            evidence={
                "schema": "evidence/1",
                "code": code,
                "message": finding.message,
                "checks": dict(finding.checks),
            },
            compensates=receipt.receipt_hash,
            verified=verified,
        )
        own, durable = self.records.receipt(self._facts(receipt, finding), verdict)
        await self.records.settled(durable)
        return CompensationOutcome(
            operation_id=receipt.operation_id,
            outcome=finding.outcome,
            verified=verified,
            code=code,
            message=finding.message,
            checks=finding.checks,
            receipt=own,
            now=finding.after.workspace if finding.after is not None else None,
        )

    def _facts(self, receipt: OperationReceipt, finding: _Finding) -> ReceiptFacts:
        blind = _Look(UNKNOWN_STATE, None)
        looked, after = finding.looked or blind, finding.after or blind
        return ReceiptFacts(
            operation_id=receipt.operation_id,
            operation_type=receipt.operation_type,
            step_id=receipt.step_id,
            run_id=self.context.run_id,
            key=receipt.idempotency_key,
            attempt=receipt.attempt,
            params_hash=receipt.params_hash,
            effect=Effect.WRITE.value,
            affected_paths=receipt.affected_paths,
            pre_state=looked.state,
            post_state=after.state,
            before=looked.workspace,
            after=after.workspace,
        )


def _same_books(one: WorkspaceState | None, other: WorkspaceState | None) -> bool:
    """Does git itself stand the same: commit, branch, index?"""
    if one is None or other is None:
        return False
    return (one.head, one.ref, one.index) == (other.head, other.ref, other.index)


def _git_moved(case: Case, now: WorkspaceState | None, later: Collection[str] = ()) -> bool:
    """Does git, or a path outside ``later``, stand otherwise than the operation left it? Its undo is proven over the
    whole work tree, so a change anywhere would make the proof fail after the fact."""
    after = case.after
    if after is None or now is None or not _same_books(after, now):
        return True
    return any(not covers(later, path) for path in after.changed(now))


def _in_the_way(now: Entry, then: Entry | None) -> bool:
    """A link cannot be given another target: it goes, and the old one is put in its place."""
    if now.kind == "missing":
        return False
    return then is None or then.kind != now.kind or (now.kind == "symlink" and now.digest != then.digest)


def _judged(outcome: str, checks: Mapping[str, bool], looked: _Look, after: _Look) -> _Finding:
    if outcome == "drift":
        message = "what the operation left has changed since; nothing was touched"
        return _Finding(outcome, checks, "COMP_DRIFT", message, looked, after)
    wrong = [name for name, holds in checks.items() if not holds]
    if wrong:
        message = f"after the undo these differ from before: {', '.join(wrong)}"
        return _Finding("failed", checks, "COMP_FAILED", message, looked, after)
    return _Finding(outcome, checks, None, "", looked, after)
