"""What each block attempt did to the world, so that a failed one can be taken back before anything goes on (ruling R14).

What earlier lives of a run did is known from its journal: receipts of writes at once, what operations left where nothing
is undone when somebody asks, since telling it takes their bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from runtime.blocks.effects import SideEffects, worst
from runtime.blocks.running import NodeCall
from runtime.execution.leavings import left_then
from runtime.kernel.errors import Halted
from runtime.kernel.model import Effect, Envelope, ExecutionContext, Operation, OperationReceipt, OperationResult
from runtime.kernel.ports import ArtifactStore
from runtime.orchestration.journal_history import step_of_operation
from runtime.orchestration.operation_ports import OnOutput, Waiting, unnoticed
from runtime.orchestration.operation_table import KnownOperation, OperationTable
from runtime.orchestration.undo import CompensationOutcome

#: step path, tick, visit, attempt
AttemptKey = tuple[str, int, int, int]


class Executes(Protocol):
    """Who answers operations: `OperationExecutor` in a run, the record in a recorded replay (ruling R19)."""

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
        """Raises `InvalidCompensation`, `Halted`, `JournalError`; everything else is returned."""
        ...

    async def compensate_all(self, receipts: Sequence[OperationReceipt]) -> tuple[CompensationOutcome, ...]:
        """Undo last to first; stops at the first undo that is not verified."""
        ...


class Undo:
    """The receipts and leavings of attempts.

    Those of successful attempts stay too, because the workflow around them may still be repeated; their number is
    bounded by the run's operations, in a recurring run by those of a tick.
    """

    def __init__(self, executor: Executes) -> None:
        self._executor = executor
        self._receipts: dict[AttemptKey, dict[str, tuple[int, OperationReceipt]]] = {}
        self._left: dict[AttemptKey, SideEffects] = {}
        self._past: dict[AttemptKey, list[KnownOperation]] = {}
        self._artifacts: ArtifactStore | None = None
        self._entered: dict[AttemptKey, Mapping[str, int]] = {}
        self._noted = 0

    def remember(self, operations: OperationTable, artifacts: ArtifactStore) -> None:
        """Attempts answered from the journal left their writes, and more, in this life's world."""
        self._artifacts = artifacts
        for receipt in operations.successful_writes():
            self.note(step_of_operation(receipt.step_id, receipt.operation_id), receipt)
        for known in operations.everything():
            told = known.started if known.receipt is None else known.receipt.record()
            if told["effect"] == Effect.EXTERNAL.value:
                key = step_of_operation(told["step_id"], known.operation_id)
                self._past.setdefault(key, []).append(known)

    def note(self, key: AttemptKey, receipt: OperationReceipt) -> None:
        """Remember what one operation did; a receipt that is handed out again counts once."""
        self._noted += 1
        self._receipts.setdefault(key, {}).setdefault(receipt.receipt_hash, (self._noted, receipt))

    def leave(self, key: AttemptKey, left: SideEffects) -> None:
        """Remember what one operation left where nothing is undone."""
        if left is not SideEffects.NONE:
            self._left[key] = worst(left, self._left.get(key, SideEffects.NONE))

    def enter(self, call: NodeCall, key: AttemptKey) -> None:
        """A composite begins an attempt: what was visited inside it before belongs to earlier ones."""
        path, tick, visit, attempt = key
        if (visit, attempt) != (1, 1) and call.scope is not None:
            self._entered[key] = call.scope.visits_below(path, tick)

    def begin_tick(self, tick: int) -> None:
        """Nothing goes back to an earlier tick."""
        for kept in (self._receipts, self._left, self._past, self._entered):
            for key in [key for key in kept if key[1] < tick]:
                del kept[key]

    async def attempt(self, call: NodeCall, key: AttemptKey) -> SideEffects:
        """Compensate the attempt's successful writes, last to first, and say which class remains.

        A declared class can only worsen what the receipts say. Raises `Halted` ``COMP_FAILED`` when an undo could
        not be verified.
        """
        before = self._entered.pop(key, {})
        receipts = self._taken(_within(self._receipts, call, key, before))
        writes = [item for item in receipts if item.status == "success" and item.effect == Effect.WRITE.value]
        for outcome in await self._executor.compensate_all(writes):
            if not outcome.verified:
                raise Halted(outcome.code or "COMP_FAILED", f"an effect of {key[0]} could not be undone")
        for item in _within(self._past, call, key, before):
            for known in self._past.pop(item):
                self.leave(item, await left_then(known, self._artifacts))
        declared = None if call.block.is_workflow else call.block.declared_side_effects
        left = [self._left.pop(item) for item in _within(self._left, call, key, before)]
        return worst(*left, *(() if declared is None else (declared,)))

    def _taken(self, keys: Sequence[AttemptKey]) -> list[OperationReceipt]:
        """Their receipts, oldest first."""
        found = [numbered for item in keys for numbered in self._receipts.pop(item).values()]
        return [receipt for _, receipt in sorted(found, key=lambda numbered: numbered[0])]


def _within(keys: Iterable[AttemptKey], call: NodeCall, key: AttemptKey, before: Mapping[str, int]) -> list[AttemptKey]:
    """The attempt itself; for a nested workflow, everything this attempt did inside it, too.

    ``before`` says how often each node inside had been visited when the attempt began. What was visited more often than
    this life of the run has come to is what an earlier life did in later attempts, which are still to be told again.
    """
    if not call.block.is_workflow:
        return [item for item in keys if item == key]
    path, tick = f"{key[0]}/", key[1]
    now = None if call.scope is None else call.scope.visits_below(key[0], tick)

    def inside(item: AttemptKey) -> bool:
        visit = item[2]
        return before.get(item[0], 0) < visit and (now is None or visit <= now.get(item[0], 0))

    return [item for item in keys if item == key or (item[0].startswith(path) and item[1] == tick and inside(item))]
