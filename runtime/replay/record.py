"""A recorded run as a replay asks it: what each operation answered, how each attempt ended, who answered what.

Folded once from verified entries. What a block cannot have decided is told from here, too: that its time was up, that
the run was stopped under it, that its result was taken over from an earlier run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from runtime.execution.questions import Reply, recorded_replies
from runtime.kernel.errors import Halted
from runtime.kernel.model import OperationReceipt
from runtime.orchestration.journal_format import HEADER
from runtime.orchestration.journal_history import StepKey
from runtime.orchestration.operator_rules import operation_asked_about
from runtime.replay.seen import SeenReceipts, Undone, attempt_key, succeeded
from runtime.turns import arbiter

#: How an attempt ends whose time was up (blocks spec §14).
_TIMED_OUT: Final = "runtime.timeout"
_STOPPED: Final = "OP_CANCELLED"


class EndOfRecord(Halted):
    """The replay has come to where the recorded run was stopped: there is nothing to answer from."""


class Fate(Enum):
    """What a replay does with one attempt.

    ``RUN``: let the block decide. ``LATE``: run it, but its time was up then. ``CUT``: run it as far as the record
    goes; the run was stopped under it. ``REUSED``: answer with what an earlier run left. ``BEYOND``: it never began,
    because the run was stopped.
    """

    RUN = "run"
    LATE = "late"
    CUT = "cut"
    REUSED = "reused"
    BEYOND = "beyond"


@dataclass(frozen=True, slots=True)
class RecordedEnd:
    """How one attempt ended."""

    status: str
    code: str | None
    message: str
    outputs: Mapping[str, Any]
    reused: bool
    recovery: Mapping[str, str] | None = None


class Record:
    """One recorded run. Operation answers are handed out in order; everything else is only read."""

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        entries = tuple(entries)
        self.opened: Mapping[str, Any] = entries[0]
        self._receipts = SeenReceipts()
        self._inputs: dict[StepKey, Mapping[str, Any]] = {}
        self._ends: dict[StepKey, RecordedEnd] = {}
        self._taken: dict[str, int] = {}
        self._questions: set[str] = set()
        self._rulings: dict[str, list[Mapping[str, Any]]] = {}
        self.replies: dict[tuple[str, str], Reply] = recorded_replies(entries)
        self.stop = arbiter.journalled_stop(entries)
        self.epochs: list[int] = []
        self.cancel: Mapping[str, Any] | None = None
        self.closed: str | None = None
        self._halted: str | None = None
        for entry in entries:
            self._feed(entry)
        self.total = sum(1 for _ in self._receipts.all())
        self._acting = {seen.receipt.step_id for seen in self._receipts.all()}
        self._cut = any(end.status == "cancelled" for end in self._ends.values())

    @property
    def run_id(self) -> str:
        return str(self.opened["journal_id"])

    @property
    def order(self) -> tuple[StepKey, ...]:
        """The attempts that ended by themselves, in the order they did."""
        return tuple(key for key, end in self._ends.items() if end.status != "cancelled")

    @property
    def stopped(self) -> bool:
        """Was the run cut short, so that what is not in the record is no difference?"""
        return self._cut or self.stop is not None or self.closed is None

    def fate(self, key: StepKey) -> Fate:
        """What to do with an attempt."""
        end = self._ends.get(key)
        if end is None or end.status == "cancelled":
            known = key in self._inputs
            return Fate.CUT if known else Fate.BEYOND if self.stopped else Fate.RUN
        if end.reused:
            return Fate.REUSED
        return Fate.LATE if end.code == _TIMED_OUT else Fate.RUN

    def has_end(self, key: StepKey) -> bool:
        """Did the attempt end by itself, as far as the record goes?"""
        end = self._ends.get(key)
        return end is not None and end.status != "cancelled"

    def acts(self, step_id: str) -> bool:
        """Did this step do operations, or ask?"""
        asked = (question.partition("/")[2] for question in self._questions)
        return step_id in self._acting or any(name.startswith((f"{step_id}.", f"{step_id}~")) for name in asked)

    def end(self, key: StepKey) -> RecordedEnd:
        """How an attempt that ended by itself did."""
        return self._ends[key]

    def given(self, key: StepKey) -> Mapping[str, Any]:
        """The inputs an attempt began with; empty when it never began."""
        return self._inputs.get(key, {})

    def take(self, key: str) -> OperationReceipt | None:
        """The next answer to an operation key. Work that is done answers the same again; else None."""
        seen = self._receipts.of_key(key)
        number = self._taken.get(key, 0)
        if number < len(seen):
            self._taken[key] = number + 1
            return seen[number].receipt
        return seen[-1].receipt if seen and succeeded(seen[-1].receipt) else None

    def undone(self, receipt: OperationReceipt) -> Undone | None:
        return self._receipts.undone(receipt)

    def asked(self, escalation_id: str) -> bool:
        """Was this question put to a human then, answered or not?"""
        return escalation_id in self._questions

    def asked_about(self, operation_id: str) -> list[Mapping[str, Any]]:
        """Questions rules raised about an operation and their answers, in order, each told once."""
        return self._rulings.pop(operation_id, [])

    def ends_here(self) -> EndOfRecord:
        """What stops the replay where the record ends, with the code the run was halted with, if it was."""
        return EndOfRecord(self._halted or _STOPPED, "the recorded run was stopped here")

    def _feed(self, entry: Mapping[str, Any]) -> None:
        self._receipts.feed(entry)
        match entry["kind"]:
            case "step_started":
                self._inputs[attempt_key(entry)] = entry["inputs"]
            case "step_finished":
                self._ends[attempt_key(entry)] = RecordedEnd(
                    status=str(entry["status"]),
                    code=entry.get("code"),
                    message=str(entry.get("error_message") or ""),
                    outputs=entry["outputs"],
                    reused="reused_from" in entry,
                    recovery=entry.get("recovery"),
                )
            case "escalation" if "subject_digest" in entry and (entry.get("blocking") or entry["phase"] == "answered"):
                self._question(entry)
            case "signal":
                self._signals(entry["signals"])
            case "evidence":
                self._halted = entry["evidence"].get("terminal", {}).get("code")
            case "journal_closed":
                self.closed = str(entry["status"])

    def _question(self, entry: Mapping[str, Any]) -> None:
        if entry["phase"] == "asked":
            self._questions.add(str(entry["escalation_id"]))
        about = operation_asked_about(str(entry["escalation_id"]).partition("/")[2])
        if about is not None:
            told = {name: value for name, value in entry.items() if name not in HEADER}
            self._rulings.setdefault(about, []).append(told)

    def _signals(self, signals: Iterable[Mapping[str, Any]]) -> None:
        for signal in signals:
            if signal.get("authority_epoch") is not None:
                self.epochs.append(int(signal["authority_epoch"]))
            if signal["signal"] == "cancel":
                self.cancel = signal
