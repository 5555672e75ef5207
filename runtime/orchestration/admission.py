"""X1–X7 of operations spec §4.1, then the operator's rules: everything that can refuse an operation before the work
tree is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import JournalError, QuarterdeckError, Refused
from runtime.kernel.model import (
    Access,
    Effect,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    Operation,
    OperationReceipt,
    OperationStatus,
    OperationType,
)
from runtime.kernel.ports import ArtifactStore
from runtime.kernel.redaction import Redactor
from runtime.orchestration.attempt import Attempt, Refusal, check_context, told
from runtime.orchestration.budget import Ledger
from runtime.orchestration.compensation import NO_UNDO, InvalidCompensation, fit, validate_compensation
from runtime.orchestration.operation_ports import (
    MAX_BODY_BYTES,
    Enforcer,
    HandlerTable,
    PlanCall,
    Protector,
    Workspace,
)
from runtime.orchestration.operation_records import Earlier, Recorder
from runtime.orchestration.operation_table import Known
from runtime.orchestration.operator_rules import Desk, Do, Question, Rule, decide, question_about


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The answer of a recorded run to one operation (ruling R19); ``receipt`` is set for this run's own.

    ``earlier`` is set when the answer becomes part of this run's history, with where it comes from.
    """

    status: OperationStatus
    output: Mapping[str, Any]
    reason_code: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    receipt: OperationReceipt | None = None
    earlier: Earlier | None = None


#: Asked about operations this journal knows nothing of; None means: do it.
Answering = Callable[[Operation, ExecutionContext], Awaitable[Recorded | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Walks an attempt through X1–X7; refusals are raised as `Refusal`."""

    records: Recorder
    handlers: HandlerTable
    enforcer: Enforcer
    protector: Protector
    workspace: Workspace
    artifacts: ArtifactStore
    budget: Ledger
    guard: Callable[[], None]
    envelope_hash: str | None
    recorded: Answering | None
    remaining_seconds: Callable[[], float]
    redactor: Redactor
    rules: tuple[Rule, ...] = ()
    desk: Desk | None = None

    async def admit(self, attempt: Attempt, *, fill_default: bool) -> Recorded | None:
        """Fill in plan and compensation, or return the answer already known for this key.

        The guard comes first, so that work of an abandoned thread is not even looked at (ruling R17).
        """
        self.guard()
        attempt.params_hash = self.records.keep_params(attempt.operation, self.redactor)
        self._check_params(attempt.operation.params)
        check_context(attempt.ctx)
        approved: set[str] = set()
        while True:
            known = await self._known(attempt)
            if known is not None:
                return known
            await self._examine(attempt, fill_default)
            question = await self._question(attempt)
            if question is None or question.subject in approved:
                return None
            await self._ask(attempt, question)
            # While a person thought, anything may have changed: X2–X7 run again, and what is different now is
            # another subject, which nobody has approved (ruling R9).
            approved.add(question.subject)
            self.guard()

    async def _examine(self, attempt: Attempt, fill_default: bool) -> None:
        """X4–X7."""
        operation = attempt.operation
        declared = validate_compensation(operation.compensation_type, operation.compensation_command)
        await self._plan(attempt)
        if attempt.plan.effect not in (Effect.NONE, Effect.READ) and attempt.ctx.journal is None:
            raise Refusal("CTX_NO_JOURNAL", f"a {attempt.plan.effect.value} operation needs a journal")
        if fill_default and declared is NO_UNDO:
            # The plan's own undo repeats its paths, so the envelope must have judged them first.
            await self._consult(attempt)
            attempt.compensation = validate_compensation(attempt.plan.undo, attempt.plan.undo_command)
            fit(attempt.compensation, attempt.plan)
        else:
            attempt.compensation = declared
            fit(declared, attempt.plan)
            await self._consult(attempt)

    def affordable(self, stack: Sequence[Envelope]) -> int:
        """Micro-USD one operation may still cost: the run's rest, or less when a step envelope says so."""
        return min([self.budget.remaining_micros, *(envelope.max_budget_micros for envelope in stack[1:])])

    def _check_params(self, params: Mapping[str, Any]) -> None:
        """Params are stored and hashed, and an operation's identity is made of them: none may hold a secret's value.

        Missions refer to secrets and outputs come without them, so only a block that got hold of one by itself
        ends here. Refusing is the one answer that neither stores the value nor hashes something else.
        """
        mark = self.redactor.found(params)
        if mark is not None:
            raise Refusal("SECRET_WRITTEN", f"the operation's parameters hold the value of {mark}", {"check": "params"})

    async def _known(self, attempt: Attempt) -> Recorded | None:
        """X3: the idempotency table of operations spec §4.2, then what was recorded elsewhere."""
        operation_id, table = attempt.operation.operation_id, self.records.table
        if table.conflict(operation_id, attempt.key):
            raise Refusal("IDEMPOTENCY_CONFLICT", f"operation {operation_id} was already used for other work")
        known = table.lookup(attempt.key)
        if known is not None:
            attempt.number = known.attempt + 1
        if known is None or known.state is Known.RETRYABLE:
            return None if self.recorded is None else await self.recorded(attempt.operation, attempt.ctx)
        if known.state is Known.STUCK:
            raise Refusal("HALT_LATCHED", f"the undo of {operation_id} failed", halt=True)
        if known.state is not Known.DONE or known.receipt is None:
            raise Refusal("RECOVERY_MANUAL", f"operation {operation_id} was interrupted; recovery must decide first")
        return await self._replay(known.receipt)

    async def _replay(self, receipt: OperationReceipt) -> Recorded:
        if receipt.effect == Effect.WRITE.value:
            state = await self.workspace.state_hash(receipt.affected_paths)
            if state != receipt.post_state_hash:
                raise Refusal("IDEMPOTENCY_DRIFT", "files this operation wrote have changed since; it is not run again")
        body = await self.artifacts.get(receipt.output_hash)
        if body is None:
            raise Refusal("RECOVERY_MANUAL", f"the recorded output {receipt.output_hash} is not stored")
        output = parse_strict(body, limit=MAX_BODY_BYTES)
        return Recorded(
            status=OperationStatus(receipt.status), output=output, reason_code=receipt.reason_code, receipt=receipt
        )

    async def _plan(self, attempt: Attempt) -> None:
        """X5."""
        operation = attempt.operation
        attempt.chosen = self.handlers.get(operation.type)
        if attempt.chosen is None:
            raise Refusal("OP_UNKNOWN_TYPE", f"no handler for {operation.type}")
        call = PlanCall(
            operation_id=operation.operation_id, params=operation.params, ctx=attempt.ctx, stack=attempt.stack
        )
        try:
            plan = await attempt.chosen.plan(call)
            self.records.keep(plan.record())
        except (JournalError, InvalidCompensation):
            raise
        except EnvelopeViolation as violation:
            raise Refusal.of(violation.result) from None
        except QuarterdeckError as error:
            raise Refusal(error.code, told(error), {"check": "plan"}) from None
        except Exception as error:
            name = type(error).__name__
            raise Refusal("OP_FAILED", f"planning failed: {name}", {"check": "plan", "error": name}) from error
        attempt.plan = plan

    async def _consult(self, attempt: Attempt) -> None:
        """X6 and X7."""
        plan, stack = attempt.plan, attempt.stack
        if not stack or stack[0].envelope_hash != self.envelope_hash:
            raise Refusal("ENV_CHANGED", "the mission envelope is not the one the run started with", halt=True)
        verdict = await asyncio.to_thread(
            self.enforcer.validate_operation,
            attempt.operation,
            attempt.ctx,
            plan,
            stack,
            remaining_micros=self.affordable(stack),
            deadline_passed=self.remaining_seconds() <= 0,
        )
        if not verdict:
            refusal = Refusal.of(verdict)
            if refusal.code == "BUDGET_EXCEEDED":
                refusal.evidence.setdefault("rule", self.budget.limits.money)
            raise refusal
        if attempt.operation.type == OperationType.LLM_CALL.value:
            self._reserve(attempt)
        for item in plan.paths:
            if not item.access.reads_only:
                # A program that writes a folder may write every file in it, so none of them may be protected.
                handed = plan.effect is Effect.WRITE and item.access is Access.EXECUTE
                access = "grant" if handed else item.access.value
                verdict = self.protector.validate(item.path, attempt.ctx.acting_role, access)
                if not verdict:
                    raise Refusal.of(verdict)

    async def _question(self, attempt: Attempt) -> Question | None:
        """What a rule asks about this operation; None when it may go on. Refuses what a rule denies."""
        operation, plan = attempt.operation, attempt.plan
        if not self.rules:
            return None
        rule = await asyncio.to_thread(decide, self.rules, operation, plan, attempt.ctx.mission_id)
        if rule is None or rule.do is Do.ALLOW:
            return None
        if rule.do is Do.DENY:
            because = f": {rule.reason}" if rule.reason else ""
            raise Refusal(
                "RULE_DENIED", f"{rule.position} denies {plan.tool or operation.type}{because}", rule.evidence
            )
        return question_about(rule, operation, plan, attempt.stack, attempt.ctx.step_id)

    async def _ask(self, attempt: Attempt, question: Question) -> None:
        """Wait for a person. Money set aside for the call is free for others meanwhile."""
        if attempt.reservation is not None:
            self.budget.release(attempt.reservation)
            attempt.reservation = None
        evidence = {**question.rule.evidence, "subject": question.subject}
        if self.desk is None:
            raise Refusal("APPROVAL_MISSING", f"{question.rule.position} asks, and nobody can answer", evidence)
        try:
            async with attempt.waiting(question.prompt):
                answer = await self.desk.ask(question)
        except Refused as refused:
            raise Refusal(refused.code, refused.message, evidence) from None
        if not answer.approved:
            note = f": {answer.notes}" if answer.notes else ""
            message = f"{question.rule.position} asked, and {answer.by} said no{note}"
            raise Refusal("RULE_REFUSED", message, {**evidence, "by": answer.by})

    def _reserve(self, attempt: Attempt) -> None:
        plan = attempt.plan
        try:
            attempt.reservation = self.budget.reserve(
                attempt.operation.operation_id, plan.reserve_micros, plan.reserve_tokens
            )
        except Refused as error:
            evidence = {"rule": error.where, "needed": error.hint} if error.where and error.hint else {}
            raise Refusal(error.code, told(error), {"check": "budget", **evidence}) from None
