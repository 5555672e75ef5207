"""What this run's journal knows about each operation, folded from its entries (operations spec §4.2).

The living journal feeds it as it appends, and a stored one is folded the same way, so both always agree. It answers
the idempotency look-up (X3), lists what a crash left unresolved (§10.6) and what a cancelled run must undo, and
remembers which paths the run has touched. Size is bounded by the run's operations: one small record each.
Standard library and kernel only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from runtime.kernel.model import OperationReceipt


class Known(Enum):
    """How far an operation key got.

    ``OPEN``: started, no receipt. ``PENDING``: failed with changes that are not undone yet. ``UNDOING``: an undo
    began and has no verdict. ``RETRYABLE``: failed and left nothing, or undone. ``STUCK``: the undo failed.
    """

    DONE = "done"
    OPEN = "open"
    PENDING = "pending"
    UNDOING = "undoing"
    RETRYABLE = "retryable"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOperation:
    """One operation key. ``started`` is its newest ``operation_started`` entry, ``receipt`` the newest that is
    neither a refusal of work already judged nor an undo's; ``attempt`` counts refusals, too."""

    key: str
    operation_id: str
    state: Known
    attempt: int
    started: Mapping[str, Any] = field(default_factory=dict)
    receipt: OperationReceipt | None = None


class OperationTable:
    """The fold. Feed entries in journal order."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self._by_key: dict[str, KnownOperation] = {}
        self._key_of: dict[str, str] = {}
        self._touched: set[str] = set()
        self._denied: set[str] = set()
        for entry in entries:
            self.observe(entry)

    def observe(self, entry: Mapping[str, Any]) -> None:
        """Take one journal entry into account; kinds that say nothing about operations are skipped."""
        match entry["kind"]:
            case "operation_started":
                self._started(entry)
            case "operation_denied" if not entry.get("during"):
                self._denied.add(entry["idempotency_key"])
            case "receipt":
                self._receipt(OperationReceipt.from_record(entry["receipt"]))
            case "compensation_started":
                self._undo(entry["operation_id"], entry["compensates"], Known.UNDOING)

    def lookup(self, key: str) -> KnownOperation | None:
        return self._by_key.get(key)

    def by_operation(self, operation_id: str) -> KnownOperation | None:
        key = self._key_of.get(operation_id)
        return None if key is None else self._by_key[key]

    def conflict(self, operation_id: str, key: str) -> bool:
        """Is ``operation_id`` already known under another key?"""
        return self._key_of.get(operation_id, key) != key

    def unresolved(self) -> tuple[KnownOperation, ...]:
        """What only recovery may decide, oldest first."""
        waiting = (Known.OPEN, Known.PENDING, Known.UNDOING)
        return tuple(item for item in self._by_key.values() if item.state in waiting)

    def open(self) -> tuple[Mapping[str, Any], ...]:
        """``operation_started`` entries that still wait for their receipt, oldest first."""
        return tuple(item.started for item in self._by_key.values() if item.state is Known.OPEN)

    def everything(self) -> tuple[KnownOperation, ...]:
        """Every operation in its newest state, in the order the work was done."""
        return tuple(self._by_key.values())

    def successful_writes(self) -> tuple[OperationReceipt, ...]:
        """Receipts of writes that stand, in journal order: what a cancelled run must undo, last to first."""
        done = (item.receipt for item in self._by_key.values() if item.state is Known.DONE)
        return tuple(receipt for receipt in done if receipt is not None and receipt.effect == "write")

    def standing(self) -> tuple[KnownOperation, ...]:
        """Writes that changed the world and are not proven undone, in the order they were done."""
        undone = (Known.OPEN, Known.RETRYABLE)
        found = (item for item in self._by_key.values() if item.state not in undone)
        return tuple(item for item in found if item.receipt is not None and left_changes(item.receipt))

    @property
    def touched(self) -> frozenset[str]:
        """Every path this run has changed or may have changed."""
        return frozenset(self._touched)

    def _started(self, entry: Mapping[str, Any]) -> None:
        known = KnownOperation(
            key=entry["idempotency_key"],
            operation_id=entry["operation_id"],
            state=Known.OPEN,
            attempt=entry["attempt"],
            started=entry,
        )
        # A new attempt goes to the end, so that the rows stay in the order the work was done.
        self._by_key.pop(known.key, None)
        self._by_key[known.key] = known
        self._key_of[known.operation_id] = known.key
        if entry["effect"] == "write":
            self._touched.update(entry["affected_paths"])

    def _receipt(self, receipt: OperationReceipt) -> None:
        if receipt.compensates is not None:
            verdict = Known.RETRYABLE if receipt.compensation_verified else Known.STUCK
            self._undo(receipt.operation_id, receipt.compensates, verdict)
            return
        known = self._by_key.get(receipt.idempotency_key)
        self._key_of.setdefault(receipt.operation_id, receipt.idempotency_key)
        if receipt.idempotency_key in self._denied:
            self._denied.discard(receipt.idempotency_key)
            if known is not None:
                # A refusal decides nothing about work that was done, or that only recovery may judge.
                self._by_key[known.key] = replace(known, attempt=receipt.attempt)
                return
        self._by_key[receipt.idempotency_key] = KnownOperation(
            key=receipt.idempotency_key,
            operation_id=receipt.operation_id,
            state=_state_of(receipt),
            attempt=receipt.attempt,
            started=known.started if known is not None else {},
            receipt=receipt,
        )

    def _undo(self, operation_id: str, compensates: str, state: Known) -> None:
        """An undo of an older attempt, or of an earlier run's operation, says nothing about the newest attempt."""
        known = self.by_operation(operation_id)
        if known is not None and known.receipt is not None and known.receipt.receipt_hash == compensates:
            self._by_key[known.key] = replace(known, state=state)


def _state_of(receipt: OperationReceipt) -> Known:
    if receipt.status == "success" or (receipt.operation_type == "escalate" and receipt.status == "escalated"):
        return Known.DONE
    return Known.PENDING if left_changes(receipt) else Known.RETRYABLE


def left_changes(receipt: OperationReceipt) -> bool:
    """Did this write leave the world different from before?"""
    same = receipt.pre_state_hash == receipt.post_state_hash and receipt.pre_head == receipt.post_head
    return receipt.effect == "write" and not (same and receipt.pre_workspace == receipt.post_workspace)
