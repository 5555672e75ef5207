"""How the executor writes history: every entry it appends goes through here.

Bodies (params, outputs, evidence, workspace listings) are artifacts named by the entries; an artifact is put before
the entry that names it (ruling R24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from runtime.kernel.canonical import digest
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import JournalError, StorageError
from runtime.kernel.model import (
    CONTENT,
    Effect,
    ExecutionContext,
    Operation,
    OperationReceipt,
    thawed,
)
from runtime.kernel.ports import ArtifactStore, Denial, Durable
from runtime.kernel.redaction import Redactor
from runtime.kernel.refusals import Why
from runtime.orchestration.compensation import NO_UNDO, Compensation
from runtime.orchestration.journal_format import HEADER
from runtime.orchestration.operation_ports import EscalationNote, Journal, WorkspaceState, store
from runtime.orchestration.operation_table import OperationTable

#: State hash of no paths, and the mark of a state that could not be read.
EMPTY_STATE: Final = digest({"schema": "state/1", "entries": []})
UNKNOWN_STATE: Final = "sha256:" + "0" * 64
#: ``operation_denied.reason`` (journal entry contract), and each of its ``rule``, ``attempted`` and ``needed``.
MAX_REASON: Final = 500
#: Effects whose intention and receipt are awaited (ruling R24).
AWAITED: Final = frozenset({Effect.WRITE, Effect.EXECUTE, Effect.EXTERNAL})


def idempotency_key(operation: Operation, ctx: ExecutionContext) -> str:
    """The identity of one piece of work; attempts, times and audit ids are no part of it (operations spec §4.2)."""
    return digest(
        {
            "schema": "idempotency/1",
            "run_id": ctx.run_id,
            "step_id": ctx.step_id,
            "operation_id": operation.operation_id,
            "type": operation.type,
            "params": thawed(operation.hashed),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFacts:
    """What an attempt at an operation was, as far as its receipt is concerned."""

    operation_id: str
    operation_type: str
    step_id: str
    run_id: str
    key: str
    attempt: int
    params_hash: str
    effect: str = Effect.NONE.value
    affected_paths: tuple[str, ...] = ()
    compensation: Compensation = NO_UNDO
    pre_state: str = EMPTY_STATE
    post_state: str = EMPTY_STATE
    before: WorkspaceState | None = None
    after: WorkspaceState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """One operation an earlier run of the lineage did. ``run_id`` names that run; its recipe is in the receipt."""

    run_id: str
    started: Mapping[str, Any]
    receipt: OperationReceipt

    def is_asked_by(self, operation: Operation, ctx: ExecutionContext) -> bool:
        """Is it the same work? Inputs are part of a recipe, so the key is the one the earlier run used."""
        asked = idempotency_key(operation, replace(ctx, run_id=self.receipt.run_id))
        return asked == self.receipt.idempotency_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an attempt ended: what goes into the receipt beside the facts."""

    status: str
    code: str | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cost_micros: int = 0
    compensates: str | None = None
    verified: bool = False


class Recorder:
    """Appends. Raises `JournalError` when the journal or the store behind it refuses."""

    def __init__(self, *, journal: Journal, artifacts: ArtifactStore, clock: Clock) -> None:
        self._journal = journal
        self._artifacts = artifacts
        self._clock = clock

    @property
    def table(self) -> OperationTable:
        """What the journal knows of every operation."""
        return self._journal.operations

    def now(self) -> str:
        return timestamp(self._clock.now())

    def keep(self, value: Mapping[str, Any]) -> str:
        """Store a record as an artifact and return its digest."""
        try:
            return store(self._artifacts, value)
        except StorageError as error:
            raise _journal_error(error) from error

    def keep_params(self, operation: Operation, redactor: Redactor) -> str:
        """Store what an operation was given, its long content beside it, and return its digest.

        An operation given a secret is refused; what ``redactor`` takes out of it is not stored.
        """
        content, record = operation.params.get(CONTENT), redactor.value(thawed(operation.hashed))
        try:
            if content != operation.hashed.get(CONTENT):
                kept = redactor.text(str(content)).encode()
                record[CONTENT] = {"$artifact": self._artifacts.put(kept), "bytes": len(kept)}
            return store(self._artifacts, record)
        except StorageError as error:
            raise _journal_error(error) from error

    def append(self, kind: str, **members: Any) -> Durable:
        """Append one entry."""
        try:
            return self._journal.append(kind, **members).durable
        except StorageError as error:
            raise _journal_error(error) from error

    async def settled(self, durable: Durable) -> None:
        """Wait until an entry is on disk."""
        try:
            await durable
        except StorageError as error:
            raise _journal_error(error) from error

    def receipt(self, facts: ReceiptFacts, verdict: Verdict) -> tuple[OperationReceipt, Durable]:
        """Append the receipt of one attempt."""
        receipt = OperationReceipt(
            operation_id=facts.operation_id,
            timestamp=self.now(),
            pre_state_hash=facts.pre_state,
            post_state_hash=facts.post_state,
            compensation_type=facts.compensation.declared.value,
            compensation_command=facts.compensation.command,
            idempotency_key=facts.key,
            compensation_verified=verdict.verified,
            run_id=facts.run_id,
            step_id=facts.step_id,
            operation_type=facts.operation_type,
            attempt=facts.attempt,
            status=verdict.status,
            reason_code=verdict.code,
            effect=facts.effect,
            affected_paths=facts.affected_paths,
            params_hash=facts.params_hash,
            output_hash=self.keep(verdict.output),
            evidence_hash=self.keep(verdict.evidence),
            pre_head=_head(facts.before),
            post_head=_head(facts.after),
            pre_workspace=_digest(facts.before),
            post_workspace=_digest(facts.after),
            cost_micros=verdict.cost_micros,
            compensates=verdict.compensates,
            prev_receipt_hash=self._journal.last_receipt_hash,
        )
        return receipt, self.append("receipt", receipt=receipt.record())

    def repeated(self, facts: ReceiptFacts, earlier: Earlier) -> OperationReceipt:
        """Append start and receipt of work an earlier run did, under this run's key and at no cost.

        Both entries say ``reused_from``; states and bodies are those of the earlier receipt.
        """
        started = {name: thawed(value) for name, value in earlier.started.items() if name not in HEADER}
        mine = {"idempotency_key": facts.key, "attempt": facts.attempt, "reused_from": earlier.run_id}
        self.append("operation_started", **{**started, **mine})
        receipt = replace(
            earlier.receipt,
            timestamp=self.now(),
            idempotency_key=facts.key,
            run_id=facts.run_id,
            attempt=facts.attempt,
            cost_micros=0,
            prev_receipt_hash=self._journal.last_receipt_hash,
        )
        self.append("receipt", receipt=receipt.record(), reused_from=earlier.run_id)
        return receipt

    def denied(self, facts: ReceiptFacts, verdict: Verdict, message: str, why: Why) -> OperationReceipt:
        """Append ``operation_denied`` and the receipt that goes with it."""
        evidence = verdict.evidence
        extra = {
            name: evidence[source]
            for name, source in (("path", "requested_path"), ("check", "check"))
            if isinstance(evidence.get(source), str)
        }
        self.append(
            "operation_denied",
            step_id=facts.step_id,
            operation_id=facts.operation_id,
            idempotency_key=facts.key,
            code=verdict.code,
            evidence_hash=self.keep(evidence),
            reason=message[:MAX_REASON],
            **_told(why),
            **extra,
        )
        return self.receipt(facts, verdict)[0]

    def denied_during(self, facts: ReceiptFacts, denial: Denial, why: Why) -> None:
        """Append what a running operation was refused; its one receipt still follows."""
        evidence = {"schema": "evidence/1", "code": denial.code, "attempted": denial.attempted, "needed": denial.needed}
        self.append(
            "operation_denied",
            step_id=facts.step_id,
            operation_id=facts.operation_id,
            idempotency_key=facts.key,
            code=denial.code,
            evidence_hash=self.keep(evidence),
            reason=denial.message[:MAX_REASON],
            check="sandbox",
            during=True,
            **_told(why),
        )

    def escalation(self, operation_id: str, index: int, step_id: str, note: EscalationNote) -> str:
        """Append a non-blocking escalation and return its id."""
        escalation_id = f"{operation_id}.escalation" + (f".{index}" if index else "")
        self.append(
            "escalation",
            phase="asked",
            escalation_id=escalation_id,
            step_id=step_id,
            reason=note.reason,
            severity=note.severity,
            blocking=False,
            choices=[],
            subject_digest=self.keep(note.context),
        )
        return escalation_id


def _told(why: Why) -> dict[str, str]:
    """The members that explain a refusal."""
    return {name: getattr(why, name)[:MAX_REASON] for name in ("rule", "attempted", "needed")}


def _head(state: WorkspaceState | None) -> str | None:
    return None if state is None else state.head


def _digest(state: WorkspaceState | None) -> str | None:
    return None if state is None else state.digest


def _journal_error(error: StorageError) -> JournalError:
    return JournalError(error.code, error.message, where=error.where, hint=error.hint)
