"""What the screens of one run show, as a fold over events. No Textual, no I/O, no clock of its own.

The same object serves the live dashboard, a finished run opened from the list, ``quarterdeck show`` and the tests:
feed it journal entries in order and it knows steps, turn state, violations and the tail of the journal; feed it
gauges and it knows the lanes. Every collection is bounded; what was dropped is counted. ``revision`` grows with
every change, so that a panel can ask cheaply whether it has anything to redraw.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from console.model.describe import describe_entry
from console.model.safe import SafeText, safe
from runtime.events.facts import (
    EntryAppended,
    Escalation,
    InboxChanged,
    JournalVerified,
    LanesChanged,
    LaneState,
    NodeInfo,
    OutputDelta,
    RunChanged,
    RunSummary,
    StreamEvent,
    StreamGap,
    Verification,
    Violation,
)

JOURNAL_TAIL: Final = 400
LOG_TAIL: Final = 1000
VIOLATIONS_KEPT: Final = 500

_TURN_STATES: Final = {
    "turn_open_proposed": "Opening",
    "turn_open": "Active",
    "commit": "Terminal",
    "abort": "Terminal",
    "close": "Closed",
}


@dataclass(slots=True)
class StepRow:
    """One block of the run: its latest attempt."""

    step_id: str
    block_type: str
    lane: str
    status: str = "pending"
    attempt: int = 1
    visit: int = 1
    code: str | None = None
    message: str | None = None
    accepted: bool = False
    started_at: str | None = None
    completed_at: str | None = None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One line of the journal panel."""

    seq: int
    at: str
    kind: str
    text: SafeText
    entry_hash: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log panel. ``origin`` is ``runtime``, ``tool`` or ``model``; the renderer marks the last two."""

    step_id: str
    origin: str
    text: SafeText


@dataclass(slots=True)
class RunState:
    """Everything the screens of one run show."""

    run: RunSummary
    steps: dict[str, StepRow]
    turn: str = "Idle"
    turn_reason: str | None = None
    journal: deque[JournalRow] = field(default_factory=lambda: deque(maxlen=JOURNAL_TAIL))
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=LOG_TAIL))
    violations: deque[Violation] = field(default_factory=lambda: deque(maxlen=VIOLATIONS_KEPT))
    violation_count: int = 0
    questions: tuple[Escalation, ...] = ()
    lanes: tuple[LaneState, ...] = ()
    pool_running: int = 0
    pool_slots: int = 0
    verification: Verification | None = None
    spent_micros: int = 0
    spent_tokens: int = 0
    remaining_micros: int | None = None
    last_seq: int = -1
    log_dropped: int = 0
    last_operator_action: str | None = None
    revision: int = 0
    _partial: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def begin(cls, run: RunSummary, nodes: Iterable[NodeInfo]) -> Self:
        """The state before the first entry."""
        return cls(run, {node.node_id: StepRow(node.node_id, node.block_type, node.lane) for node in nodes})

    def step_rows(self) -> list[StepRow]:
        """Every step, in registration order."""
        return list(self.steps.values())

    def apply(self, event: StreamEvent) -> bool:
        """Take one event in. Returns whether anything of this run changed."""
        changed = self._apply(event)
        self.revision += changed
        return changed

    def apply_all(self, events: Iterable[StreamEvent]) -> bool:
        """Take a batch in; True when anything changed."""
        before = self.revision
        for event in events:
            self.apply(event)
        return self.revision != before

    def _apply(self, event: StreamEvent) -> bool:
        run_id = self.run.run_id
        match event:
            case EntryAppended() if event.run_id == run_id:
                return self._entry(event)
            case RunChanged() if event.run.run_id == run_id:
                self.run = event.run
            case LanesChanged() if event.run_id == run_id:
                self.lanes, self.pool_running, self.pool_slots = (
                    event.lanes,
                    event.pool_running,
                    event.pool_slots,
                )
            case OutputDelta() if event.run_id == run_id:
                self._output(event)
            case JournalVerified() if event.verification.run_id == run_id:
                self.verification = event.verification
            case InboxChanged():
                return self._inbox(event)
            case StreamGap():
                self.log_dropped += event.dropped
            case _:
                return False
        return True

    def _inbox(self, event: InboxChanged) -> bool:
        mine = tuple(item for item in event.escalations if item.run_id == self.run.run_id and item.resolved_at is None)
        changed = mine != self.questions
        self.questions = mine
        return changed

    def _entry(self, event: EntryAppended) -> bool:
        if event.seq <= self.last_seq:
            return False  # a page read from the store and the live stream may overlap
        self.last_seq = event.seq
        entry = event.entry
        self.journal.append(
            JournalRow(event.seq, event.at, event.kind, describe_entry(event.kind, entry), event.entry_hash)
        )
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event, entry)
        return True

    def _output(self, event: OutputDelta) -> None:
        """Whole lines go to the log; an unfinished one waits for its end."""
        key = (event.step_id, event.stream)
        *lines, rest = (self._partial.pop(key, "") + event.text).split("\n")
        if len(rest) > 4096:  # a line without end is cut, not collected
            lines.append(rest)
            rest = ""
        if rest:
            self._partial[key] = rest
        origin = "model" if event.stream == "model" else "tool"
        for line in lines:
            if len(self.log) == LOG_TAIL:
                self.log_dropped += 1
            self.log.append(LogLine(event.step_id, origin, safe(line)))

    def _step(self, step_id: str, block_type: str) -> StepRow:
        return self.steps.setdefault(step_id, StepRow(step_id, block_type, "DataLane"))


def fold_entry(state: RunState, entry: EntryAppended) -> RunState:
    """Apply one entry and return the state, for callers that read a journal page by page."""
    state.apply(entry)
    return state


def _step_started(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.status, row.started_at, row.completed_at = "running", str(entry["started_at"]), None
    row.attempt, row.visit = int(entry.get("attempt", 1)), int(entry.get("visit", 1))
    row.code = row.message = None
    row.accepted = False


def _step_finished(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.status, row.completed_at = str(entry["status"]), entry.get("completed_at")
    row.code, row.message = entry.get("code"), entry.get("error_message")
    row.accepted = bool(entry.get("accepted"))
    row.operation = None
    if row.accepted:
        _mark_accepted(state, row)


def _mark_accepted(state: RunState, row: StepRow) -> None:
    """The refusals of an accepted step were expected; say so where they are listed."""
    for index, violation in enumerate(state.violations):
        if violation.step_id == row.step_id and not violation.accepted:
            state.violations[index] = replace(violation, accepted=True)


def _operation_started(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.operation = str(entry["operation_id"])


def _operation_denied(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    state.violation_count += 1
    state.violations.append(
        Violation(
            run_id=state.run.run_id,
            mission=state.run.mission,
            seq=event.seq,
            at=event.at,
            step_id=str(entry["step_id"]),
            operation_id=str(entry["operation_id"]),
            code=str(entry["code"]),
            reason=str(entry.get("reason") or entry["code"]),
            check=str(entry.get("check") or ""),
            path=entry.get("path"),
        )
    )


def _signal(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    for signal in entry.get("signals", ()):
        name = str(signal["signal"])
        if name in _TURN_STATES:
            state.turn = _TURN_STATES[name]
        if name in ("abort", "commit", "cancel"):
            state.turn_reason = signal.get("reason") or name


def _budget(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    if entry["phase"] in ("settled", "lost"):
        state.spent_micros += int(entry["micros"])
        state.spent_tokens += int(entry.get("tokens") or 0)
    state.remaining_micros = entry.get("remaining_micros")


def _escalation(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    step = state.steps.get(str(entry.get("step_id", "")))
    if step is not None and entry["phase"] == "asked" and entry.get("blocking"):
        step.status = "waiting"
    if entry["phase"] == "answered":
        for row in state.steps.values():
            if row.status == "waiting":
                row.status = "running"


def _operator_action(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    state.last_operator_action = str(entry["action"])


def _compensation_finished(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    if not entry.get("verified"):
        return
    step_id = str(entry["operation_id"]).partition("~")[0].rpartition(".")[0] or str(entry["operation_id"])
    row = state.steps.get(step_id)
    if row is not None and row.status in ("failed", "completed"):
        row.status = "compensated"


_HANDLERS: Final = {
    "step_started": _step_started,
    "step_finished": _step_finished,
    "operation_started": _operation_started,
    "operation_denied": _operation_denied,
    "signal": _signal,
    "budget": _budget,
    "escalation": _escalation,
    "operator_action": _operator_action,
    "compensation_finished": _compensation_finished,
}
