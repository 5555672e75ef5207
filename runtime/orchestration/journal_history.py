"""What a journal says happened, folded: the memory behind resume, replay and "was this done already?".

The tables here are fed one entry at a time, by the living journal as it appends and by `History` when it reads a
stored one, so that both always agree. They keep receipts and open work, never whole bodies of finished work;
only `History` keeps the outputs of finished steps, because resume must hand them out again (ruling R19).
Standard library and kernel only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Final, Self

from runtime.kernel.canonical import parse_strict
from runtime.kernel.model import OperationReceipt, StepRecord, frozen
from runtime.kernel.ports import StoredEntry

#: step_id, tick, visit, attempt.
StepKey = tuple[str, int, int, int]

_STEP_MEMBERS: Final = frozenset(item.name for item in fields(StepRecord))
_HARMLESS_EFFECTS: Final = frozenset({"none", "read"})


class OperationState(Enum):
    """How far the journal knows one operation key (operations spec §4.2)."""

    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Failed without effect, or undone and verified: it may run again."""
    FAILED_UNCOMPENSATED = "failed_uncompensated"
    """Failed with an effect that is still there, or whose undo was not verified."""
    STARTED = "started_without_receipt"


@dataclass(frozen=True, slots=True)
class Idempotent:
    """The answer to "was this key executed?". ``attempt`` is the newest one, 0 when unknown.

    ``started`` is the open ``operation_started`` entry; ``undo_failed`` says an undo was tried and not verified.
    """

    state: OperationState
    operation_id: str = ""
    attempt: int = 0
    receipt: OperationReceipt | None = None
    started: Mapping[str, Any] | None = None
    undo_failed: bool = False


NEVER_SEEN: Final = Idempotent(OperationState.UNKNOWN)


def step_key(record: StepRecord) -> StepKey:
    """The identity of one block attempt."""
    return (record.step_id, record.tick, record.visit, record.attempt)


def step_record(entry: Mapping[str, Any]) -> StepRecord:
    """The record inside a ``step_started`` or ``step_finished`` entry."""
    return StepRecord(**{name: value for name, value in entry.items() if name in _STEP_MEMBERS})


def step_of_operation(step_id: str, operation_id: str) -> StepKey:
    """Which block attempt an operation belongs to, read from its id (ruling R13)."""
    marks = operation_id.rpartition("~")[2].split(".", 3) if "~" in operation_id else []
    if len(marks) == 4 and all(mark.isdecimal() for mark in marks[:3]):
        return (step_id, int(marks[0]), int(marks[1]), int(marks[2]))
    return (step_id, 1, 1, 1)


def left_no_trace(receipt: OperationReceipt) -> bool:
    """Did the attempt leave the world as it was, as far as its receipt can tell?"""
    if receipt.effect in _HARMLESS_EFFECTS:
        return True
    same_paths = receipt.pre_state_hash == receipt.post_state_hash
    return same_paths and receipt.pre_workspace == receipt.post_workspace and receipt.pre_head == receipt.post_head


@dataclass(slots=True)
class _Row:
    """The newest attempt of one key. ``undone`` is None until an undo has been judged."""

    operation_id: str
    attempt: int
    started: Mapping[str, Any] | None = None
    receipt: OperationReceipt | None = None
    receipt_hash: str = ""
    undone: bool | None = None

    def view(self) -> Idempotent:
        return Idempotent(
            self.state(), self.operation_id, self.attempt, self.receipt, self.started, self.undone is False
        )

    def state(self) -> OperationState:
        if self.started is not None:
            return OperationState.STARTED
        if self.undone is not None:
            return OperationState.FAILED if self.undone else OperationState.FAILED_UNCOMPENSATED
        if self.receipt is None:
            return OperationState.UNKNOWN
        if self.receipt.status == "success":
            return OperationState.SUCCEEDED
        return OperationState.FAILED if left_no_trace(self.receipt) else OperationState.FAILED_UNCOMPENSATED


class OperationFold:
    """Operations by idempotency key; at most one row per distinct operation of the journal."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._key_of_id: dict[str, str] = {}
        self._key_of_receipt: dict[str, str] = {}

    def feed(self, entry: Mapping[str, Any]) -> None:
        """Take one entry into account; other kinds are skipped."""
        kind = entry["kind"]
        if kind == "operation_started":
            self._rows[entry["idempotency_key"]] = _Row(entry["operation_id"], entry["attempt"], started=entry)
            self._key_of_id[entry["operation_id"]] = entry["idempotency_key"]
        elif kind == "operation_denied":
            self._key_of_id.setdefault(entry["operation_id"], entry["idempotency_key"])
        elif kind == "receipt":
            self._settle(OperationReceipt.from_record(entry["receipt"]), entry["receipt"]["receipt_hash"])
        elif kind == "compensation_finished":
            self._judge(entry["compensates"], entry["operation_id"], verified=entry["verified"])

    def _settle(self, receipt: OperationReceipt, receipt_hash: str) -> None:
        if receipt.compensates is not None:
            self._judge(receipt.compensates, receipt.operation_id, verified=receipt.compensation_verified)
            return
        key = receipt.idempotency_key
        self._rows[key] = _Row(receipt.operation_id, receipt.attempt, receipt=receipt, receipt_hash=receipt_hash)
        self._key_of_id.setdefault(receipt.operation_id, key)
        self._key_of_receipt[receipt_hash] = key

    def _judge(self, compensates: str | None, operation_id: str, *, verified: bool) -> None:
        # Undone after a crash, the operation has no receipt to name: its id stands in.
        known = self._key_of_id.get(operation_id) if compensates is None else self._key_of_receipt.get(compensates)
        row = self._rows.get(known) if known is not None else None
        # None: the undone operation belongs to an earlier run's journal (ruling R19); another hash: to an older attempt.
        if row is not None and compensates in (None, row.receipt_hash):
            row.undone = verified
            row.started = None

    def look_up(self, key: str) -> Idempotent:
        row = self._rows.get(key)
        return row.view() if row is not None else NEVER_SEEN

    def key_of(self, operation_id: str) -> str | None:
        """The key an operation id is bound to; a second key for it is ``IDEMPOTENCY_CONFLICT``."""
        return self._key_of_id.get(operation_id)

    def conflicts(self, operation_id: str, key: str) -> bool:
        """Is ``operation_id`` known under another key?"""
        return self._key_of_id.get(operation_id, key) != key

    def open(self) -> tuple[Mapping[str, Any], ...]:
        """``operation_started`` entries without receipt, oldest first."""
        waiting = [row.started for row in self._rows.values() if row.started is not None]
        return tuple(sorted(waiting, key=lambda entry: entry["seq"]))

    def to_undo(self) -> tuple[OperationReceipt, ...]:
        """Receipts of failed attempts whose effect is still there and was not yet undone, oldest first."""
        rows = self._rows.values()
        return tuple(
            row.receipt
            for row in rows
            if row.receipt is not None and row.undone is None and row.state() is OperationState.FAILED_UNCOMPENSATED
        )

    def successful_writes(self) -> tuple[OperationReceipt, ...]:
        """Receipts of writes that stand, in journal order: what a cancelled run must undo, last to first."""
        return tuple(
            row.receipt
            for row in self._rows.values()
            if row.receipt is not None and row.receipt.effect == "write" and row.state() is OperationState.SUCCEEDED
        )


class StepFold:
    """Block attempts by key. Finished ones keep their status words only, unless ``keep_values``."""

    def __init__(self, *, keep_values: bool = False) -> None:
        self._keep_values = keep_values
        self._records: dict[StepKey, StepRecord] = {}
        self._latest: dict[str, StepKey] = {}
        self._open: dict[StepKey, None] = {}
        self._kept: dict[StepKey, set[str]] = {}
        self._undone: set[StepKey] = set()

    def feed(self, entry: Mapping[str, Any]) -> None:
        """Take one entry into account; other kinds are skipped."""
        kind = entry["kind"]
        if kind == "step_started":
            record = step_record(entry)
            self._records[step_key(record)] = record
            self._latest[record.step_id] = step_key(record)
            self._open[step_key(record)] = None
        elif kind == "step_finished":
            record = step_record(entry)
            slim = record if self._keep_values else replace(record, inputs={}, outputs={})
            self._records[step_key(record)] = slim
            self._open.pop(step_key(record), None)
        elif kind == "receipt":
            self._feed_receipt(entry["receipt"])

    def _feed_receipt(self, receipt: Mapping[str, Any]) -> None:
        key = step_of_operation(receipt["step_id"], receipt["operation_id"])
        kept = self._kept.setdefault(key, set())
        if receipt["compensates"] is None:
            if receipt["effect"] == "write" and receipt["pre_state_hash"] != receipt["post_state_hash"]:
                kept.add(receipt["receipt_hash"])
        elif receipt["compensation_verified"]:
            kept.discard(receipt["compensates"])
            self._undone.add(key)

    def get(self, key: StepKey) -> StepRecord | None:
        return self._records.get(key)

    def latest(self, step_id: str) -> StepKey | None:
        """The attempt of ``step_id`` started last."""
        return self._latest.get(step_id)

    def is_open(self, key: StepKey) -> bool:
        return key in self._open

    def open_attempt(self, step_id: str, tick: int, visit: int) -> StepKey | None:
        """The open attempt of that visit, if there is one."""
        key = self._latest.get(step_id)
        if key is not None and key in self._open and key[1:3] == (tick, visit):
            return key
        return next((item for item in self._open if item[:3] == (step_id, tick, visit)), None)

    def incomplete(self) -> tuple[StepRecord, ...]:
        return tuple(self._records[key] for key in self._open)

    def view(self) -> tuple[StepRecord, ...]:
        """The current state of every attempt; failed and wholly undone reads ``compensated``."""
        return tuple(self._current(key, record) for key, record in self._records.items())

    def _current(self, key: StepKey, record: StepRecord) -> StepRecord:
        if record.status != "failed":
            return record
        all_undone = key in self._undone and not self._kept.get(key)
        if record.compensation_status == "completed" or all_undone:
            return replace(record, status="compensated", compensation_status="completed")
        return record


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """One finished block attempt with its outputs. ``code`` is the failure's; ``accepted`` says it was expected."""

    record: StepRecord
    code: str | None
    accepted: bool


@dataclass(slots=True)
class _Money:
    """Spend as budget entries tell it; an open reservation counts as spent (ruling R20)."""

    micros: int = 0
    tokens: int = 0
    reserved: dict[str, tuple[int, int]] = field(default_factory=dict)

    def feed(self, entry: Mapping[str, Any]) -> None:
        if entry["kind"] != "budget":
            return
        operation_id, amount = entry["operation_id"], (entry["micros"], entry["tokens"])
        earlier = self.reserved.pop(operation_id, (0, 0))
        if entry["phase"] == "reserved":
            self._count(earlier)  # the attempt before crashed: its worst case stays counted
            self.reserved[operation_id] = amount
        else:
            self._count(amount)

    def _count(self, amount: tuple[int, int]) -> None:
        self.micros += amount[0]
        self.tokens += amount[1]

    def totals(self) -> tuple[int, int]:
        pending = self.reserved.values()
        return self.micros + sum(item[0] for item in pending), self.tokens + sum(item[1] for item in pending)


class History:
    """A stored journal, folded for resume and recorded replay. Feed it verified entries, oldest first."""

    def __init__(self) -> None:
        self.operations = OperationFold()
        self.steps = StepFold(keep_values=True)
        self.opened: Mapping[str, Any] | None = None
        self.plan: Mapping[str, Any] | None = None
        self.closed: Mapping[str, Any] | None = None
        self.last: Mapping[str, Any] | None = None
        self._finished: dict[StepKey, FinishedStep] = {}
        self._asked: dict[str, Mapping[str, Any]] = {}
        self._answers: dict[str, Mapping[str, Any]] = {}
        self._undoing: dict[str, Mapping[str, Any]] = {}
        self._money = _Money()

    @classmethod
    def fold(cls, entries: Iterable[StoredEntry]) -> Self:
        """Raises `CanonicalizationError` when a body is not canonical; verify the journal first."""
        history = cls()
        for stored in entries:
            history.feed(frozen(parse_strict(stored.body)))
        return history

    def feed(self, entry: Mapping[str, Any]) -> None:
        kind = entry["kind"]
        self.last = entry
        self.operations.feed(entry)
        self.steps.feed(entry)
        self._money.feed(entry)
        if kind == "journal_opened":
            self.opened = entry
        elif kind == "plan":
            self.plan = entry
        elif kind == "journal_closed":
            self.closed = entry
        elif kind == "step_finished":
            record = step_record(entry)
            self._finished[step_key(record)] = FinishedStep(record, entry.get("code"), entry.get("accepted", False))
        elif kind == "escalation":
            self._feed_escalation(entry)
        elif kind == "compensation_started":
            self._undoing[entry["operation_id"]] = entry
        elif kind == "compensation_finished":
            self._undoing.pop(entry["operation_id"], None)

    def _feed_escalation(self, entry: Mapping[str, Any]) -> None:
        if entry["phase"] == "asked":
            self._asked[entry["escalation_id"]] = entry
            return
        question = self._asked.pop(entry["escalation_id"], None)
        if question is not None:
            self._answers[question["subject_digest"]] = entry

    def finished(self, step_id: str, *, tick: int = 1, visit: int = 1, attempt: int = 1) -> FinishedStep | None:
        """The finished attempt with its outputs, or None: then it has to run."""
        return self._finished.get((step_id, tick, visit, attempt))

    def all_finished(self) -> tuple[FinishedStep, ...]:
        """Every finished attempt, in journal order."""
        return tuple(self._finished.values())

    def open_steps(self) -> tuple[StepRecord, ...]:
        return self.steps.incomplete()

    def operation(self, key: str) -> Idempotent:
        return self.operations.look_up(key)

    def open_operations(self) -> tuple[Mapping[str, Any], ...]:
        return self.operations.open()

    def open_compensations(self) -> tuple[Mapping[str, Any], ...]:
        """``compensation_started`` entries whose verdict is missing."""
        return tuple(self._undoing.values())

    def answer(self, subject_digest: str) -> Mapping[str, Any] | None:
        """The newest answer to the same question about the same subject (ruling R8)."""
        return self._answers.get(subject_digest)

    def open_questions(self) -> tuple[Mapping[str, Any], ...]:
        """Asked and unanswered escalations, oldest first."""
        return tuple(self._asked.values())

    @property
    def spent_micros(self) -> int:
        return self._money.totals()[0]

    @property
    def spent_tokens(self) -> int:
        return self._money.totals()[1]
