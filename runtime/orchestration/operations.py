"""The one way to touch the world: every operation is checked, announced, done, examined and proven, in that order.

`OperationExecutor.execute` walks the steps X1–X16 of operations spec §4.1; the first failure decides. No effect
happens without a durable intention before it and a durable receipt after it, and doubt denies. The executor holds no
policy of its own: enforcer, protector, journal, workspace and handlers are injected. The founding plans import the
operation records from here, so they are re-exported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, parse_strict
from runtime.kernel.clock import Clock
from runtime.kernel.codes import explain
from runtime.kernel.errors import Halted, JournalError, QuarterdeckError
from runtime.kernel.ids import IdSource
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    Operation,
    OperationReceipt,
    OperationResult,
    OperationStatus,
    OperationType,
    ValidationResult,
    thawed,
)
from runtime.kernel.ports import ArtifactStore, Durable
from runtime.kernel.redaction import Redactor
from runtime.kernel.refusals import why
from runtime.orchestration.admission import Admission, Answering, Recorded
from runtime.orchestration.attempt import FINISH_SECONDS, Attempt, Refusal, refused_status, shielded, status_of, told
from runtime.orchestration.budget import Ledger
from runtime.orchestration.compensation import (
    InvalidCompensation,
    validate_compensation,
    writes,
)
from runtime.orchestration.effects import touching, undeclared
from runtime.orchestration.gate import WorkGate
from runtime.orchestration.operation_ports import (
    Enforcer,
    EscalationNote,
    HaltRequired,
    HandlerOutcome,
    HandlerTable,
    Journal,
    KillSwitchActive,
    OnOutput,
    Protector,
    RunCall,
    Waiting,
    Workspace,
    WorkspaceState,
    unnoticed,
)
from runtime.orchestration.operation_records import (
    AWAITED,
    UNKNOWN_STATE,
    Recorder,
    Verdict,
    idempotency_key,
)
from runtime.orchestration.operation_table import KnownOperation, left_changes
from runtime.orchestration.operator_rules import Desk, Rule
from runtime.orchestration.preparation import LOOKED_AT, Preparation
from runtime.orchestration.recovery import Recovery, RecoveryAction
from runtime.orchestration.undo import CompensationOutcome, Undo

__all__ = [
    "CompensationType",
    "Effect",
    "Envelope",
    "EnvelopeViolation",
    "ExecutionContext",
    "HaltRequired",
    "InvalidCompensation",
    "KillSwitchActive",
    "Operation",
    "OperationExecutor",
    "OperationReceipt",
    "OperationResult",
    "OperationStatus",
    "OperationType",
    "Recorded",
    "ValidationResult",
    "canonical_bytes",
    "digest",
    "idempotency_key",
    "parse_strict",
    "validate_compensation",
]

#: What a handler that keeps its own time may take beyond its limit to kill its children and report.
GRACE_SECONDS: Final = 5.0
#: Paths named in a message; all of them are in its evidence.
SHOWN_PATHS: Final = 3


class OperationExecutor:
    """Executes operations of one run on one work tree. One instance per run; all calls on one event loop.

    ``guard`` raises `Halted` when the run is fenced, halted or has lost its lock. ``base_stack`` are the mission's
    envelopes; undo is checked against them. ``strict`` demands that nothing else changes in the work tree (rulings
    §9.1); ``baseline`` is preflight's fingerprint. ``recorded`` answers operations from a recorded run instead of doing
    them. ``remaining_seconds`` is what is left of the mission's time. ``redactor`` knows the run's secrets: what an
    operation brings back passes it once, before anything is hashed, so that journal, blocks and replays see the same.
    ``rules`` are the operator's; ``desk`` puts what they ask about to a person.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        handlers: HandlerTable,
        enforcer: Enforcer,
        protector: Protector,
        workspace: Workspace,
        artifacts: ArtifactStore,
        clock: Clock,
        ids: IdSource,
        budget: Ledger,
        gate: WorkGate,
        guard: Callable[[], None],
        context: ExecutionContext,
        base_stack: Sequence[Envelope],
        recorded: Answering | None = None,
        remaining_seconds: Callable[[], float] | None = None,
        strict: bool = False,
        baseline: WorkspaceState | None = None,
        redactor: Redactor | None = None,
        rules: Sequence[Rule] = (),
        desk: Desk | None = None,
    ) -> None:
        self._redactor = Redactor() if redactor is None else redactor
        self._records = Recorder(journal=journal, artifacts=artifacts, clock=clock)
        self._enforcer = enforcer
        self._protector = protector
        self._workspace = workspace
        self._artifacts = artifacts
        self._ids = ids
        self._budget = budget
        self._gate = gate
        self._guard = guard
        self._remaining_seconds = remaining_seconds or (lambda: float("inf"))
        self._strict = strict
        self._last = baseline
        self._admission = Admission(
            records=self._records,
            handlers=handlers,
            enforcer=enforcer,
            protector=protector,
            workspace=workspace,
            artifacts=artifacts,
            budget=budget,
            guard=guard,
            envelope_hash=base_stack[0].envelope_hash if base_stack else None,
            recorded=recorded,
            remaining_seconds=self._remaining_seconds,
            redactor=self._redactor,
            rules=tuple(rules),
            desk=desk,
        )
        self._preparation = Preparation(
            records=self._records,
            workspace=workspace,
            artifacts=artifacts,
            budget=budget,
            strict=strict,
            redactor=self._redactor,
        )
        self._undo = Undo(
            records=self._records,
            enforcer=enforcer,
            protector=protector,
            workspace=workspace,
            artifacts=artifacts,
            stack=tuple(base_stack),
            context=context,
            strict=strict,
        )
        self._recovery = Recovery(
            records=self._records,
            handlers=handlers,
            workspace=workspace,
            artifacts=artifacts,
            budget=budget,
            undo=self._undo,
            context=context,
        )

    async def execute(
        self,
        operation: Operation,
        ctx: ExecutionContext,
        stack: Sequence[Envelope],
        *,
        fill_default: bool = False,
        on_output: OnOutput | None = None,
        waiting: Waiting = unnoticed,
    ) -> OperationResult:
        """Do ``operation`` or say why not; every attempt leaves exactly one receipt.

        With ``fill_default`` a silent author gets the plan's own undo (ruling R18). ``waiting`` is entered while a
        person is asked. Raises `InvalidCompensation`,
        `Halted` (kill switch, halt, fence), `JournalError`; cancellation is re-raised once receipt and undo are
        written. Everything else is returned.
        """
        attempt = Attempt(operation, ctx, tuple(stack), idempotency_key(operation, ctx), on_output, waiting)
        try:
            answer = await self._admission.admit(attempt, fill_default=fill_default)
            if answer is not None:
                return self._answered(attempt, answer)
            async with self._gate.hold(attempt.plan.effect):
                await self._preparation.prepare(attempt, self._last)
                intention = self._preparation.announce(attempt)
                return await self._perform(attempt, intention)
        except Refusal as refusal:
            result = self._refuse(attempt, refusal)
            if refusal.halt:
                raise HaltRequired(refusal.code, self._redactor.text(refusal.message)) from None
            return result
        except (Halted, InvalidCompensation) as error:
            if not attempt.started:
                self._refuse(attempt, Refusal(error.code, error.message, {"check": "executor"}))
            raise
        finally:
            if attempt.reservation is not None:
                self._budget.release(attempt.reservation)
            attempt.close_tickets()

    async def compensate(self, receipt: OperationReceipt) -> CompensationOutcome:
        """Undo one operation by its receipt (operations spec §6.3). The caller latches when it is not verified."""
        async with self._gate.hold(Effect.WRITE):
            outcome = await shielded(self._undo.undo(receipt))
            self._last = outcome.now or self._last
            return outcome

    async def compensate_all(self, receipts: Sequence[OperationReceipt]) -> tuple[CompensationOutcome, ...]:
        """Undo strictly last to first, skipping what changed nothing; stops at the first undo that is not verified."""
        outcomes = []
        for receipt in reversed(receipts):
            if receipt.compensates is None and left_changes(receipt):
                outcomes.append(await self.compensate(receipt))
                if not outcomes[-1].verified:
                    break
        return tuple(outcomes)

    async def compensate_earlier(self, operations: Sequence[KnownOperation]) -> tuple[CompensationOutcome, ...]:
        """Undo what an earlier run did, strictly last to first; ``operations`` in the order they were done.

        Where others have changed what one of them left, nothing is touched and that one alone is recorded as drift.
        Stops at the first undo that is not verified. Raises `Halted` before an undo, `QuarterdeckError` when the work
        tree cannot be looked at.
        """
        async with self._gate.hold(Effect.WRITE):
            drifted = await self._undo.foreseen(operations)
            outcomes: list[CompensationOutcome] = []
            for known in reversed(operations) if drifted is None else (drifted,):
                self._guard()
                assert known.receipt is not None, "only what has a receipt can be undone"
                work = self._undo.undo(known.receipt, known.started, drifted=drifted is not None)
                outcomes.append(await shielded(work))
                if not outcomes[-1].verified:
                    break
            return tuple(outcomes)

    def tell(self, note: EscalationNote, name: str) -> None:
        """Inform a person about the run as a whole; ``name`` tells such notes apart."""
        self._records.escalation(f"run.{name}", 0, "", note)

    async def recover(self, operation: KnownOperation) -> RecoveryAction:
        """Decide about one operation a crash left unresolved (operations spec §10.6, ruling R20)."""
        async with self._gate.hold(Effect.WRITE):
            return await self._recovery.recover(operation)

    def unresolved(self) -> tuple[KnownOperation, ...]:
        """What a crash left open, newest first: `recover` each in this order before anything else."""
        return self._records.table.unresolved()[::-1]

    # X11–X16

    async def _perform(self, attempt: Attempt, intention: Durable) -> OperationResult:
        """The intention is on disk before anything happens; if it cannot be, nothing has happened."""
        interruption: BaseException | None = None
        try:
            if attempt.plan.effect in AWAITED:
                await self._records.settled(intention)
            self._guard()
            outcome = await self._run(attempt)
        except Halted as halted:
            interruption = halted
            outcome = HandlerOutcome(code=halted.code, message=halted.message)
        except asyncio.CancelledError as cancelled:
            interruption = cancelled
            outcome = HandlerOutcome(code="OP_CANCELLED", message="cancelled", cost_micros=None, tokens=None)
        result = await shielded(self._finish(attempt, outcome), 2 * FINISH_SECONDS)
        if interruption is not None:
            raise interruption
        return result

    async def _open_tickets(self, attempt: Attempt) -> None:
        """X11: the paths once more, now as held descriptors; execute access is only validated again."""
        for item in attempt.plan.paths:
            if item.access is Access.EXECUTE:
                verdict = await asyncio.to_thread(
                    self._enforcer.validate_path_access, item.path, item.access, attempt.stack
                )
                if not verdict:
                    raise EnvelopeViolation(verdict)
            elif item.path not in attempt.tickets:
                attempt.tickets[item.path] = await asyncio.to_thread(
                    self._enforcer.authorize,
                    item.path,
                    item.access,
                    attempt.stack,
                    create_parents=bool(attempt.plan.data.get("create_parents")),
                )

    async def _run(self, attempt: Attempt) -> HandlerOutcome:
        """X11, X12. Every failure of the handler becomes an outcome; only `Halted` and cancellation pass."""
        limit = self._limit(attempt)
        grace = GRACE_SECONDS if attempt.handler.traits(attempt.plan).keeps_time else 0.0
        began = False
        try:
            await self._open_tickets(attempt)
            began = True
            async with asyncio.timeout(limit + grace):
                return await attempt.handler.run(self._call(attempt, limit))
        except TimeoutError:
            code, message, details = "OP_TIMEOUT", f"not done after {limit:g} s", {}
        except EnvelopeViolation as violation:
            code, message, details = violation.code, violation.message, dict(violation.result.evidence)
        except QuarterdeckError as error:
            code, message, details = error.code, told(error), {}
        except Exception as error:  # noqa: BLE001 - a broken handler fails its operation, never the executor
            name = type(error).__name__
            code, message, details = "OP_FAILED", f"the handler raised {name}", {"error": name}
        charge = None if began else 0
        return HandlerOutcome(code=code, message=message, evidence=details, cost_micros=charge, tokens=charge)

    def _limit(self, attempt: Attempt) -> float:
        own = attempt.plan.timeout_seconds
        limits = [float(envelope.timeout_seconds) for envelope in attempt.stack]
        limits.append(max(self._remaining_seconds(), 0.0))
        return min(limits) if own is None else min(own, *limits)

    def _call(self, attempt: Attempt, limit: float) -> RunCall:
        stack = attempt.stack
        return RunCall(
            operation_id=attempt.operation.operation_id,
            params=attempt.operation.params,
            ctx=attempt.ctx,
            stack=stack,
            plan=attempt.plan,
            tickets=attempt.tickets,
            before={path: attempt.snapshot.entries[path].digest for path in attempt.snapshot.roots},
            timeout=limit,
            artifacts=self._artifacts,
            verdict=lambda path, access: self._enforcer.validate_path_access(path, access, stack),
            remaining_micros=self._admission.affordable(stack),
            on_output=attempt.on_output,
            redactor=self._redactor,
        )

    async def _finish(self, attempt: Attempt, outcome: HandlerOutcome) -> OperationResult:
        """X13–X16, shielded from cancellation."""
        attempt.close_tickets()
        outcome = outcome.without_secrets(self._redactor)
        found, changed = await self._examine(attempt)
        surplus = tuple(map(self._redactor.text, changed))
        code, message, notes = outcome.code, outcome.message, outcome.notes
        if found is not None:
            context = {"paths": list(surplus), "instead_of": code or "success"}
            code, message = found, _told(found, surplus)
            notes = (*notes, EscalationNote.about(code, message, "critical", **context))
        charged = self._settle(attempt, outcome)
        for index, note in enumerate(notes):
            self._records.escalation(attempt.operation.operation_id, index, attempt.ctx.step_id, note)
        for denial in outcome.denials:
            denied = {"attempted": denial.attempted, "needed": denial.needed}
            self._records.denied_during(attempt.facts(), denial, why(denial.code, denied, attempt.tried()))
        status = status_of(code, outcome)
        evidence = {
            "schema": "evidence/1",
            "code": code,
            "message": message,
            "details": thawed(outcome.evidence),
            "undeclared": list(surplus),
            "after": None if attempt.after is None else self._records.keep(attempt.after.record()),
        }
        verdict = Verdict(
            status=status.value, code=code, output=thawed(outcome.output), evidence=evidence, cost_micros=charged
        )
        verdict, receipt = await self._write_receipt(attempt, verdict)
        result = self._result(attempt, verdict, receipt)
        return await self._undo_failure(receipt, result)

    async def _examine(self, attempt: Attempt) -> tuple[str | None, tuple[str, ...]]:
        """X13: look again, and judge what changed beyond the plan."""
        plan = attempt.plan
        if plan.effect not in LOOKED_AT:
            return None, ()
        try:
            attempt.post_state = await self._workspace.state_hash(plan.affected_paths)
            attempt.after = await self._workspace.state()
        except JournalError:
            raise
        except QuarterdeckError as error:
            attempt.post_state = UNKNOWN_STATE
            return error.code, ()
        self._last = attempt.after or self._last
        return self._judge(attempt)

    def _judge(self, attempt: Attempt) -> tuple[str | None, tuple[str, ...]]:
        """The code that undeclared changes make of the operation (operations spec §4.3, ruling R49)."""
        plan, before, after = attempt.plan, attempt.before, attempt.after
        if plan.effect is Effect.EXECUTE and attempt.pre_state != attempt.post_state:
            return "OP_UNDECLARED_EFFECT", plan.affected_paths
        if before is None or after is None:
            return None, ()
        surplus = undeclared(before, after, writes(plan), refs=not plan.writes_ref, index=not plan.uses_git)
        if not plan.uses_git:
            # A program that may write a folder may write every name in it, the protected ones included.
            declared = [path for path in before.changed(after) if path not in surplus]
            if protected := self._protected(attempt, declared):
                return "SELFMOD_EFFECT", protected
        if not surplus:
            return None, ()
        if attempt.handler.traits(plan).confined:
            if not (self._strict or plan.uses_git):
                surplus = touching(surplus, self._records.table.touched)
            return "EXTERNAL_MODIFICATION" if surplus else None, surplus
        return "SELFMOD_EFFECT" if self._protected(attempt, surplus) else "OP_UNDECLARED_EFFECT", surplus

    def _protected(self, attempt: Attempt, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of ``paths`` no mission may change."""
        role, access = attempt.ctx.acting_role, Access.MODIFY.value
        return tuple(path for path in paths if not self._protector.validate(path, role, access))

    def _settle(self, attempt: Attempt, outcome: HandlerOutcome) -> int:
        """X14."""
        reservation, attempt.reservation = attempt.reservation, None
        if reservation is None:
            return 0
        micros, tokens = self._budget.settle(reservation, outcome.cost_micros, outcome.tokens)
        self._record_budget("settled", reservation.operation_id, micros, tokens)
        return micros

    async def _write_receipt(self, attempt: Attempt, verdict: Verdict) -> tuple[Verdict, OperationReceipt]:
        """X15."""
        try:
            receipt, durable = self._records.receipt(attempt.facts(), verdict)
        except CanonicalizationError as error:
            evidence = {"schema": "evidence/1", "code": "OP_OUTPUT", "message": error.message}
            verdict = replace(verdict, status="failed", code="OP_OUTPUT", output={}, evidence=evidence)
            receipt, durable = self._records.receipt(attempt.facts(), verdict)
        # A gate's decision is final when it is on disk; the store sees to it that a checkpoint covers it by then.
        if attempt.plan.effect in AWAITED or attempt.operation.type == OperationType.GATE_CHECK.value:
            await self._records.settled(durable)
        return verdict, receipt

    async def _undo_failure(self, receipt: OperationReceipt, result: OperationResult) -> OperationResult:
        """X16: a failed write leaves nothing behind; if it cannot be undone, that is the outcome."""
        if result.ok or not left_changes(receipt):
            return result
        undo = await self._undo.undo(receipt)
        self._last = undo.now or self._last
        if undo.verified:
            return replace(result, compensation_status="completed")
        evidence = {**result.evidence, "failed_with": result.reason_code, "undo": dict(undo.checks)}
        return replace(result, compensation_status="failed", reason_code=undo.code, evidence=evidence)

    def _record_budget(self, phase: str, operation_id: str, micros: int, tokens: int) -> None:
        self._records.append("budget", **self._budget.entry(phase, operation_id, micros, tokens))

    # results

    def _refuse(self, attempt: Attempt, refusal: Refusal) -> OperationResult:
        message = self._redactor.text(refusal.message)
        evidence = {
            **self._redactor.value(thawed(refusal.evidence)),
            "schema": "evidence/1",
            "code": refusal.code,
            "message": message,
        }
        verdict = Verdict(status=refused_status(refusal.code).value, code=refusal.code, evidence=evidence)
        told = why(refusal.code, evidence, attempt.tried()).without_secrets(self._redactor)
        receipt = self._records.denied(attempt.facts(), verdict, message, told)
        return self._result(attempt, verdict, receipt)

    def _answered(self, attempt: Attempt, answer: Recorded) -> OperationResult:
        verdict = Verdict(
            status=answer.status.value, code=answer.reason_code, output=answer.output, evidence=answer.evidence
        )
        receipt = answer.receipt
        if answer.earlier is not None:
            receipt = self._records.repeated(attempt.facts(), answer.earlier)
        return replace(self._result(attempt, verdict, receipt), replayed=True)

    def _result(self, attempt: Attempt, verdict: Verdict, receipt: OperationReceipt | None) -> OperationResult:
        return OperationResult(
            operation_id=attempt.operation.operation_id,
            operation_id_audit=self._ids.uuid(),
            type=attempt.operation.type,
            status=OperationStatus(verdict.status),
            output=verdict.output,
            evidence=verdict.evidence,
            receipt=receipt,
            reason_code=verdict.code,
        )


def _told(code: str, paths: Sequence[str]) -> str:
    """What ``code`` means, and where: the first few of ``paths``."""
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    where = f": {', '.join(paths[:SHOWN_PATHS])}{more}" if paths else ""
    return explain(code).removesuffix(".") + where
