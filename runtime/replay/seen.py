"""Which receipts the blocks of a run really saw, in the order they saw them.

A run that was resumed asked again what it had asked before its crash: work that was done was answered from its
receipt, work that had failed was done anew, and what recovery itself wrote was never handed to a block. Replay answers
from, and comparison looks at, what the blocks saw in the life in which their attempt ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.model import OperationReceipt
from runtime.orchestration.journal_history import StepKey, step_of_operation

#: The receipt recovery writes for work a crash cut short.
INTERRUPTED: Final = "OP_INTERRUPTED"


@dataclass(frozen=True, slots=True)
class SeenReceipt:
    """One receipt a block was handed, and the entry it stands in."""

    seq: int
    receipt: OperationReceipt


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of the undo of one receipt. ``code`` is set unless it was verified."""

    verified: bool
    code: str | None


class SeenReceipts:
    """The fold. Feed entries in journal order; memory is one receipt per operation."""

    def __init__(self) -> None:
        self._by_key: dict[str, list[SeenReceipt]] = {}
        self._carried: set[str] = set()
        self._open: set[StepKey] = set()
        self._undone: dict[str, Undone] = {}

    def feed(self, entry: Mapping[str, Any]) -> None:
        """Take one entry into account; kinds that say nothing about operations are skipped."""
        match entry["kind"]:
            case "step_started":
                self._open.add(attempt_key(entry))
            case "step_finished":
                self._open.discard(attempt_key(entry))
            case "recovery":
                self._new_life()
            case "receipt":
                self._receipt(entry["seq"], OperationReceipt.from_record(entry["receipt"]))

    def of_key(self, key: str) -> tuple[SeenReceipt, ...]:
        """The answers one operation key got, first to last."""
        return tuple(self._by_key.get(key, ()))

    def all(self) -> Iterator[SeenReceipt]:
        """Every receipt a block saw, by operation key."""
        for seen in self._by_key.values():
            yield from seen

    def undone(self, receipt: OperationReceipt) -> Undone | None:
        """How the undo of ``receipt`` went; None when it was never undone."""
        return self._undone.get(receipt.receipt_hash)

    def _receipt(self, seq: int, receipt: OperationReceipt) -> None:
        if receipt.compensates is not None:
            verified = receipt.compensation_verified
            self._undone[receipt.compensates] = Undone(verified, None if verified else receipt.reason_code)
            return
        if receipt.reason_code == INTERRUPTED:
            return
        key = receipt.idempotency_key
        if key in self._carried:
            # A refusal after the crash stands where the answer from the receipt would have.
            self._carried.discard(key)
            self._by_key.pop(key)
        self._by_key.setdefault(key, []).append(SeenReceipt(seq, receipt))

    def _new_life(self) -> None:
        """Attempts still open are asked again from their beginning; what succeeded is answered, the rest is redone."""
        for key, seen in list(self._by_key.items()):
            last = seen[-1]
            if step_of_operation(last.receipt.step_id, last.receipt.operation_id) not in self._open:
                continue
            if succeeded(last.receipt):
                self._by_key[key] = [last]
                self._carried.add(key)
            else:
                del self._by_key[key]


def succeeded(receipt: OperationReceipt) -> bool:
    """Is this work done, so that asking again gives the same answer? An escalation that was told counts as done."""
    return receipt.status == "success" or (receipt.operation_type == "escalate" and receipt.status == "escalated")


def attempt_key(entry: Mapping[str, Any]) -> StepKey:
    """The block attempt a ``step_started`` or ``step_finished`` entry is about."""
    return (str(entry["step_id"]), int(entry.get("tick", 1)), int(entry.get("visit", 1)), int(entry["attempt"]))
