"""What a forked run takes over from earlier runs of its lineage, beside finished steps (ruling R19).

A step whose writes are not in the new run's tree is executed again; its other operations are not repeated but answered
from the receipts of the run that did them. Those receipts, and which model calls the reused steps made, are kept as one
document of the new run: it needs no other journal to go on after a crash, or to be replayed.
Standard library and kernel only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from runtime.kernel.canonical import parse_strict
from runtime.kernel.model import (
    Effect,
    ExecutionContext,
    Operation,
    OperationReceipt,
    OperationStatus,
    OperationType,
    thawed,
)
from runtime.kernel.ports import ArtifactStore
from runtime.orchestration.admission import Recorded
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.orchestration.operation_records import Earlier
from runtime.orchestration.operation_table import KnownOperation

#: Answers kept for one fork; operations beyond them are done again.
MAX_ANSWERS: Final = 1000
#: Model calls kept for one fork, the newest: a scripted provider goes on after them.
MAX_CALLS: Final = 10_000
#: A visit (step id, tick, visit) that was done again, and how many reused attempts came before it.
Redone = tuple[int, tuple[str, int, int]]
_CALL: Final = ("operation_type", "status", "params_hash", "evidence_hash")
_SCHEMA: Final = "fork/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Answers by operation id; what receipts say of model calls that were made, oldest first; and what was redone."""

    answers: Mapping[str, Earlier] = field(default_factory=dict)
    calls: tuple[Mapping[str, Any], ...] = ()
    redone: tuple[Redone, ...] = ()

    @classmethod
    def of(
        cls,
        operations: Iterable[tuple[str, KnownOperation]],
        receipts: Iterable[OperationReceipt],
        redone: Sequence[Redone] = (),
    ) -> Self:
        """From the operations of ``redone`` visits, with the runs that did them, and the receipts of all that is taken
        over. Writes are done anew, and refusals are judged anew."""
        kept = [
            Earlier(run_id=run_id, started=known.started, receipt=known.receipt)
            for run_id, known in operations
            if known.receipt is not None and known.started and known.receipt.effect != Effect.WRITE.value
        ]
        calls = [item.record() for item in receipts if item.operation_type == OperationType.LLM_CALL.value]
        return cls(
            answers={item.receipt.operation_id: item for item in kept[:MAX_ANSWERS]},
            calls=tuple({name: call[name] for name in _CALL} for call in calls[-MAX_CALLS:]),
            redone=tuple(redone),
        )

    def record(self) -> dict[str, Any]:
        """The stored document; read back with `from_record`."""
        answers = [
            {"run": item.run_id, "started": thawed(item.started), "receipt": item.receipt.record()}
            for item in self.answers.values()
        ]
        return {
            "schema": _SCHEMA,
            "answers": answers,
            "calls": [dict(call) for call in self.calls],
            "redone": [[place, *visit] for place, visit in self.redone],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Raises `ModelError`, `KeyError` when it is no such document."""
        answers = [
            Earlier(
                run_id=str(item["run"]),
                started=item["started"],
                receipt=OperationReceipt.from_record(item["receipt"]),
            )
            for item in record["answers"]
        ]
        return cls(
            answers={item.receipt.operation_id: item for item in answers},
            calls=tuple(record["calls"]),
            redone=tuple((place, (step_id, tick, visit)) for place, step_id, tick, visit in record["redone"]),
        )

    async def answer(self, operation: Operation, ctx: ExecutionContext, artifacts: ArtifactStore) -> Recorded | None:
        """What the earlier run got for the same work; None when it did something else, or its bodies are gone."""
        earlier = self.answers.get(operation.operation_id)
        if earlier is None or not earlier.is_asked_by(operation, ctx):
            return None
        receipt = earlier.receipt
        output, evidence = await artifacts.get(receipt.output_hash), await artifacts.get(receipt.evidence_hash)
        if output is None or evidence is None:
            return None
        return Recorded(
            status=OperationStatus(receipt.status),
            output=parse_strict(output, limit=MAX_BODY_BYTES),
            reason_code=receipt.reason_code,
            evidence=parse_strict(evidence, limit=MAX_BODY_BYTES),
            earlier=earlier,
        )
