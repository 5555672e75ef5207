"""What a journal says happened, folded: the memory behind resume, replay and "was this done already?".

`StepFold` is fed by the living journal as it appends and keeps no values of finished work; only `History`, which
reads a stored journal, keeps the outputs of finished steps, because resume must hand them out again (ruling R19).
Operations are folded by `runtime.orchestration.operation_table`, the same way in both.
Standard library and kernel only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

from runtime.kernel.canonical import parse_strict
from runtime.kernel.model import StepRecord, frozen
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.operation_table import OperationTable

#: step_id, tick, visit, attempt.
StepKey = tuple[str, int, int, int]

_STEP_MEMBERS: Final = frozenset(item.name for item in fields(StepRecord))


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


class StepFold:
    """Block attempts by key. Finished ones keep their status words only."""

    def __init__(self) -> None:
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
            self._records[step_key(record)] = replace(record, inputs={}, outputs={})
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
    """One finished block attempt with its outputs. ``code`` is the failure's; ``accepted`` says it was expected;
    ``stream`` names the Data items it emitted, ``recovery`` what recovery asks of a failure beside its code.

    ``reused_from`` is the run that executed it when this one only took its result over: it has no operations here,
    and whoever executes the journal again must answer the step from this record.
    """

    record: StepRecord
    code: str | None = None
    accepted: bool = False
    reused_from: str | None = None
    stream: Mapping[str, Any] | None = None
    recovery: Mapping[str, str] | None = None

    @property
    def extras(self) -> dict[str, Any]:
        """Members of the entry that are there only when they say something."""
        told = {"stream": self.stream, "recovery": self.recovery}
        return {name: value for name, value in told.items() if value}


def finished_step(entry: Mapping[str, Any]) -> FinishedStep:
    """What a ``step_finished`` entry says."""
    return FinishedStep(
        step_record(entry),
        entry.get("code"),
        entry.get("accepted", False),
        entry.get("reused_from"),
        entry.get("stream"),
        entry.get("recovery"),
    )


class History:
    """A stored journal, folded for resume and recorded replay. Feed it verified entries, oldest first."""

    def __init__(self) -> None:
        self.operations = OperationTable()
        self._finished: dict[StepKey, FinishedStep] = {}

    @classmethod
    def fold(cls, entries: Iterable[StoredEntry]) -> Self:
        """Raises `CanonicalizationError` when a body is not canonical; verify the journal first."""
        history = cls()
        for stored in entries:
            history.feed(frozen(parse_strict(stored.body)))
        return history

    @classmethod
    def of(cls, steps: Iterable[FinishedStep]) -> Self:
        """A past of finished attempts only: what a fork takes over."""
        history = cls()
        history._finished = {step_key(item.record): item for item in steps}
        return history

    def feed(self, entry: Mapping[str, Any]) -> None:
        self.operations.observe(entry)
        if entry["kind"] == "step_finished":
            step = finished_step(entry)
            self._finished[step_key(step.record)] = step

    def finished(self, step_id: str, *, tick: int = 1, visit: int = 1, attempt: int = 1) -> FinishedStep | None:
        """The finished attempt with its outputs, or None: then it has to run."""
        return self._finished.get((step_id, tick, visit, attempt))

    def visited_inside(self, composite: FinishedStep) -> dict[str, int]:
        """How often each step inside a composite had been visited when that attempt of it ended, cut short or not."""
        end, inside = composite.record, f"{composite.record.step_id}/"
        found: dict[str, int] = {}
        for step_id, tick, visit, _ in (key for key, item in self._finished.items() if item.record.seq < end.seq):
            if tick == end.tick and step_id.startswith(inside):
                found[step_id] = max(visit, found.get(step_id, 0))
        return found

    def open_operations(self) -> tuple[Mapping[str, Any], ...]:
        """``operation_started`` entries a crash left without receipt, oldest first."""
        return self.operations.open()
