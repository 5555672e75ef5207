"""Operations and questions of a replay, answered from the record: no process, no request, no file, no person.

An operation is known by its key, so it is answered only when the block asks for exactly what it asked for then. The
answer is the recorded one in every respect, refusals included. What the record does not hold fails with
``REPLAY_MISS``, or ends the replay where the recorded run was stopped. Each answer leaves its receipt in the replay's
own journal, so that both runs are read the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from runtime.blocks.errors import BlockRuntimeError
from runtime.events.facts import Escalation
from runtime.execution.questions import Reply, asked_members, subject_of
from runtime.kernel.canonical import digest_bytes, parse_strict
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Halted
from runtime.kernel.ids import IdSource
from runtime.kernel.model import (
    Envelope,
    ExecutionContext,
    Operation,
    OperationReceipt,
    OperationResult,
    OperationStatus,
)
from runtime.kernel.redaction import Redactor
from runtime.orchestration.journal_history import step_of_operation
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.operation_ports import MAX_BODY_BYTES, OnOutput, Waiting, unnoticed
from runtime.orchestration.operation_records import ReceiptFacts, Recorder, Verdict, idempotency_key
from runtime.orchestration.operation_table import left_changes
from runtime.orchestration.operations import InvalidCompensation
from runtime.orchestration.undo import CompensationOutcome
from runtime.replay.record import Fate, Record
from runtime.replay.seen import Undone

Fetch = Callable[[str], Awaitable[bytes | None]]

MISS: Final = "REPLAY_MISS"
#: The executor's own mark on a refusal it raised instead of returning it.
_RAISED: Final = "executor"


class Bodies:
    """The artifacts of a replay: the run's are read, its own are named and forgotten."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def put(self, data: bytes) -> str:
        return digest_bytes(data)

    async def get(self, digest: str) -> bytes | None:
        return await self._fetch(digest)

    async def flush(self) -> None:
        """There is no disk to wait for."""


class PrunedRecord(Halted):
    """A body the record names is no longer stored: the replay has nothing to answer with."""


class RecordedExecutor:
    """Implements `runtime.execution.attempt_world.Executes`. ``answered`` counts operations given their receipt.

    Raises `PrunedRecord` ``REPLAY_PRUNED``.
    """

    def __init__(self, record: Record, journal: MissionJournal, bodies: Bodies, *, clock: Clock, ids: IdSource) -> None:
        self._record = record
        self._journal = journal
        self._bodies = bodies
        self._records = Recorder(journal=journal, artifacts=bodies, clock=clock)
        self._ids = ids
        self._own: dict[str, str] = {}
        self._originals: dict[str, OperationReceipt] = {}
        self.answered = 0

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
        """The recorded answer, its undo included. Raises `InvalidCompensation`, `EndOfRecord`."""
        key = idempotency_key(operation, ctx)
        for entry in self._record.asked_about(operation.operation_id):
            # What a rule asked, and what was said, is part of what happened; the receipt says what came of it.
            self._journal.append("escalation", **entry)
        receipt = self._record.take(key)
        if receipt is None:
            return self._missed(operation, ctx, key)
        output, evidence = await self._body(receipt.output_hash), await self._body(receipt.evidence_hash)
        self._repeat(receipt)
        if receipt.status != "success" and evidence.get("check") == _RAISED:
            raise InvalidCompensation(str(receipt.reason_code), str(evidence.get("message", "")))
        result = OperationResult(
            operation_id=operation.operation_id,
            operation_id_audit=self._ids.uuid(),
            type=operation.type,
            status=OperationStatus(receipt.status),
            output=output,
            evidence=evidence,
            receipt=receipt,
            reason_code=receipt.reason_code,
            replayed=True,
        )
        return self._undone(receipt, result)

    async def compensate_all(self, receipts: Sequence[OperationReceipt]) -> tuple[CompensationOutcome, ...]:
        """What became of each undo then. Raises `EndOfRecord` for one the recorded run did not come to."""
        outcomes: list[CompensationOutcome] = []
        for receipt in reversed(receipts):
            if receipt.compensates is None and left_changes(receipt):
                outcomes.append(self._compensate(receipt))
                if not outcomes[-1].verified:
                    break
        return tuple(outcomes)

    def _compensate(self, receipt: OperationReceipt) -> CompensationOutcome:
        receipt = self._originals.get(receipt.receipt_hash, receipt)
        undone = self._record.undone(receipt)
        if undone is None:
            if self._record.stopped:
                raise self._record.ends_here()
            return CompensationOutcome(operation_id=receipt.operation_id, outcome="failed", verified=False, code=MISS)
        self._repeat_undo(receipt, undone)
        outcome = "completed" if undone.verified else "failed"
        return CompensationOutcome(
            operation_id=receipt.operation_id, outcome=outcome, verified=undone.verified, code=undone.code
        )

    def _undone(self, receipt: OperationReceipt, result: OperationResult) -> OperationResult:
        """A failed write was undone at once, and what the block saw says how that went."""
        undone = None if result.ok else self._record.undone(receipt)
        if undone is None:
            return result
        self._repeat_undo(receipt, undone)
        if undone.verified:
            return replace(result, compensation_status="completed")
        return replace(result, compensation_status="failed", reason_code=undone.code)

    def _missed(self, operation: Operation, ctx: ExecutionContext, key: str) -> OperationResult:
        attempt = step_of_operation(ctx.step_id, operation.operation_id)
        if self._record.fate(attempt) in (Fate.CUT, Fate.LATE):
            raise self._record.ends_here()
        message = "the recorded run holds no answer for this: it asked for something else, or not at all"
        evidence = {"schema": "evidence/1", "code": MISS, "message": message, "retry_disposition": "never"}
        facts = ReceiptFacts(
            operation_id=operation.operation_id,
            operation_type=operation.type,
            step_id=ctx.step_id,
            run_id=ctx.run_id,
            key=key,
            attempt=1,
            params_hash=self._records.keep_params(operation, Redactor()),
        )
        verdict = Verdict(status=OperationStatus.FAILED.value, code=MISS, evidence=evidence)
        receipt, _ = self._records.receipt(facts, verdict)
        return OperationResult(
            operation_id=operation.operation_id,
            operation_id_audit=self._ids.uuid(),
            type=operation.type,
            status=OperationStatus.FAILED,
            output={},
            evidence=evidence,
            receipt=receipt,
            reason_code=MISS,
            replayed=True,
        )

    async def _body(self, name: str) -> dict[str, Any]:
        body = await self._bodies.get(name)
        if body is None:
            raise PrunedRecord("REPLAY_PRUNED", f"the body {name} of the record is no longer stored")
        found: dict[str, Any] = parse_strict(body, limit=MAX_BODY_BYTES)
        return found

    # The replay's own receipts are chained anew, so each has another hash than the one it repeats.

    def _repeat(self, receipt: OperationReceipt) -> None:
        if receipt.receipt_hash in self._own:
            return  # handed out again: it was one operation then, and is one now
        own = self._journal.append_receipt(receipt).receipt_hash
        self._own[receipt.receipt_hash] = own
        self._originals[own] = receipt
        self.answered += 1

    def _repeat_undo(self, receipt: OperationReceipt, undone: Undone) -> None:
        own = self._own.get(receipt.receipt_hash, receipt.receipt_hash)
        self._journal.append_receipt(
            replace(receipt, compensates=own, compensation_verified=undone.verified, reason_code=undone.code)
        )


class RecordedQuestions:
    """Implements `runtime.execution.questions.Asks`: what was answered then is the answer now."""

    def __init__(self, record: Record, journal: MissionJournal, *, clock: Clock) -> None:
        self._record = record
        self._journal = journal
        self._clock = clock
        self.answered = 0

    async def ask(
        self,
        *,
        question_id: str,
        step_id: str,
        prompt: str,
        choices: Sequence[str],
        subject: Any,
        severity: str = "info",
    ) -> Reply:
        """Raises `EndOfRecord` where the run was stopped before an answer, else ``approval.missing``."""
        escalation = Escalation(
            escalation_id=f"{self._record.run_id}/{question_id}",
            run_id=self._record.run_id,
            step_id=step_id,
            reason=prompt,
            severity=severity,
            blocking=True,
            choices=tuple(choices),
            subject_digest=subject_of(step_id, prompt, subject),
            created_at=timestamp(self._clock.now()),
        )
        reply = self._record.replies.get((escalation.escalation_id, escalation.subject_digest))
        if self._record.asked(escalation.escalation_id):
            # A run without a human never put its question to anybody, and neither does its replay.
            self._journal.append("escalation", **asked_members(escalation))
        if reply is None:
            if self._record.fate(step_of_operation(step_id, question_id)) in (Fate.CUT, Fate.LATE):
                raise self._record.ends_here()
            raise _missing(step_id, prompt)
        self._journal.append("escalation", **_answered(escalation, reply))
        self.answered += 1
        return reply


def _answered(escalation: Escalation, reply: Reply) -> Mapping[str, Any]:
    return {
        "phase": "answered",
        "escalation_id": escalation.escalation_id,
        "subject_digest": escalation.subject_digest,
        "resolution": reply.resolution,
        "resolved_by": reply.by,
        "notes": reply.notes,
    }


def _missing(step_id: str, prompt: str) -> BlockRuntimeError:
    return BlockRuntimeError(
        "approval.missing", f"{step_id} asks {prompt!r}, and the record has no answer", retry_disposition="never"
    )
