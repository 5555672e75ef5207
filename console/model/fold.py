"""What the screens of one run show, as a fold over events. No Textual, no I/O, no clock of its own.

The same object serves the live dashboard, a finished run opened from the list, ``quarterdeck show`` and the tests:
feed it journal entries in order and it knows steps, turn state, violations and the tail of the journal; feed it
gauges and it knows the lanes. Every collection is bounded; what was dropped is counted. An entry that does not follow
the last one is not taken but remembered in ``behind``: the reader pages what is missing from the store. ``marks`` grow
with every change, so that a panel can ask cheaply whether it has anything to draw.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Self

from console.model.describe import amount, describe_entry, emitted
from console.model.safe import SafeText, safe
from console.model.step_tree import as_tree
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
    violation,
)

JOURNAL_TAIL: Final = 400
LOG_TAIL: Final = 1000
VIOLATIONS_KEPT: Final = 500
OUTPUTS_KEPT: Final = 64
ATTEMPTS_KEPT: Final = 4000  # two attempts of every block of the largest mission
WRITES_KEPT: Final = 500
FAR_BEHIND: Final = 2000
LINE_LIMIT: Final = 4096  # a line without end is cut, not collected
SUBJECT_LIMIT: Final = 4000  # characters of a step's input shown beside its question

Part = Literal["head", "lanes", "steps", "journal", "violations", "log"]
AttemptKey = tuple[str, int, int, int]

_PARTS: Final[tuple[Part, ...]] = ("head", "lanes", "steps", "journal", "violations", "log")
#: Streams whose name says where a line comes from; the others are a process's.
_ORIGINS: Final = frozenset({"model", "data", "telemetry"})
#: The edges of stream items, and the lanes they are.
_STREAM_EDGES: Final = {"stream/data": "DataLane", "stream/telemetry": "TelemetryLane"}
_TURN_STATES: Final = {
    "turn_open_proposed": "Opening",
    "turn_open": "Active",
    "commit": "Terminal",
    "abort": "Terminal",
    "close": "Closed",
}
#: The block type that is built in to begin a recurring run.
_RECURRING: Final = "cron"


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
    reused_from: str | None = None
    tick: int = 1


@dataclass(slots=True)
class StreamTotals:
    """What the journal says passed one stream edge: ``kept`` items of so many bytes, ``dropped`` ones, episodes of pressure."""

    kept: int = 0
    bytes: int = 0
    dropped: int = 0
    saturated: int = 0


@dataclass(slots=True)
class Attempt:
    """One attempt at one block. ``waits`` are the spans it waited for a human; an open one has no end."""

    step_id: str
    block_type: str
    tick: int
    visit: int
    attempt: int
    status: str
    started_at: str
    started_seq: int
    completed_at: str | None = None
    finished_seq: int | None = None
    code: str | None = None
    message: str | None = None
    accepted: bool = False
    reused_from: str | None = None
    waits: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def key(self) -> AttemptKey:
        return (self.step_id, self.tick, self.visit, self.attempt)


@dataclass(slots=True)
class Write:
    """One operation that wrote: the state of its paths before and after, and what became of undoing it."""

    seq: int
    step_id: str
    operation_id: str
    paths: tuple[str, ...]
    before: str
    after: str | None = None
    status: str = "running"
    receipt_hash: str | None = None
    undone: bool | None = None


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
    """One line of the log panel. ``origin`` is ``tool``, ``model``, ``data`` or ``telemetry``; the renderer marks it."""

    step_id: str
    origin: str
    text: SafeText


@dataclass(slots=True)
class RunState:
    """Everything the screens of one run show."""

    run: RunSummary
    steps: dict[str, StepRow]
    nodes: tuple[NodeInfo, ...] = ()
    turn: str = "Idle"
    turn_reason: str | None = None
    journal: deque[JournalRow] = field(default_factory=lambda: deque(maxlen=JOURNAL_TAIL))
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=LOG_TAIL))
    violations: deque[Violation] = field(default_factory=lambda: deque(maxlen=VIOLATIONS_KEPT))
    violation_count: int = 0
    questions: tuple[Escalation, ...] = ()
    lanes: tuple[LaneState, ...] = ()
    streams: tuple[LaneState, ...] = ()
    totals: dict[str, StreamTotals] = field(default_factory=dict)
    pool_running: int = 0
    pool_slots: int = 0
    verification: Verification | None = None
    spent_micros: int = 0
    spent_tokens: int = 0
    remaining_micros: int | None = None
    last_seq: int = -1
    behind: int = -1
    stalled: bool = False
    log_total: int = 0
    log_dropped: int = 0
    last_operator_action: str | None = None
    attempts: dict[str, int] = field(default_factory=dict)
    outputs: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=OUTPUTS_KEPT))
    indexes: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=OUTPUTS_KEPT))
    tries: dict[AttemptKey, Attempt] = field(default_factory=dict)
    tries_dropped: int = 0
    writes: deque[Write] = field(default_factory=lambda: deque(maxlen=WRITES_KEPT))
    last_at: str = ""
    tick: int = 1
    """How often the run has begun anew; only recurring ones come beyond the first."""
    revision: int = 0
    marks: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0))
    _ranked: list[str] = field(default_factory=list)
    _given: dict[str, object] = field(default_factory=dict)
    _partial: dict[tuple[str, str], str] = field(default_factory=dict)
    _latest: dict[str, Attempt] = field(default_factory=dict)
    _asking: dict[str, Attempt] = field(default_factory=dict)

    @classmethod
    def begin(cls, run: RunSummary, nodes: Iterable[NodeInfo]) -> Self:
        """The state before the first entry."""
        plan = tuple(nodes)
        return cls(run, {node.node_id: StepRow(node.node_id, node.block_type, node.lane) for node in plan}, plan)

    def copy(self) -> Self:
        """The same state, going its own way: what later entries change is copied, records are shared."""
        twin = replace(self)
        for item in fields(twin):
            value = getattr(twin, item.name)
            if isinstance(value, dict | deque):
                setattr(twin, item.name, value.copy())
        twin.steps = {name: replace(row) for name, row in self.steps.items()}
        twin.totals = {lane: replace(totals) for lane, totals in self.totals.items()}
        made = {id(item): item for known in (self.tries, self._latest, self._asking) for item in known.values()}
        own = {name: replace(item, waits=list(item.waits)) for name, item in made.items()}
        twin.tries = {key: own[id(item)] for key, item in self.tries.items()}
        twin._latest = {key: own[id(item)] for key, item in self._latest.items()}
        twin._asking = {key: own[id(item)] for key, item in self._asking.items()}
        twin.writes = deque((replace(write) for write in self.writes), maxlen=WRITES_KEPT)
        return twin

    def step_rows(self) -> list[StepRow]:
        """Every step in registration order, those inside a composite below it, items by number."""
        if len(self.steps) == len(self.nodes):
            return list(self.steps.values())
        if len(self._ranked) != len(self.steps):
            self._ranked = as_tree(tuple(self.steps))
        return [self.steps[step_id] for step_id in self._ranked]

    def inside(self, step_id: str) -> list[StepRow]:
        """The steps directly inside a composite: the items of a map, the blocks of a child mission."""
        start, depth = f"{step_id}/", step_id.count("/") + 1
        return [row for name, row in self.steps.items() if name.startswith(start) and name.count("/") == depth]

    def attempts_of(self, step_id: str) -> list[Attempt]:
        """The attempts at one block that are kept, oldest first."""
        return [item for item in self.tries.values() if item.step_id == step_id]

    @property
    def missing(self) -> bool:
        """True while the store holds entries of this run that were not read yet."""
        return self.behind > self.last_seq

    @property
    def recurring(self) -> bool:
        """Does it go on until it is stopped? Blocks of packs show it only once the first tick is over."""
        return self.tick > 1 or any(node.block_type == _RECURRING and not node.after for node in self.nodes)

    @property
    def far_behind(self) -> bool:
        """True while thousands of entries are still to be read: what the state says is long past."""
        return self.behind - self.last_seq > FAR_BEHIND

    @property
    def expected(self) -> int:
        """How many entries the journal has, as far as anybody said."""
        return max(self.run.entries, self.behind + 1, self.last_seq + 1)

    @property
    def waiting(self) -> tuple[Escalation, ...]:
        """Questions that can be answered now: of a run that has ended, or that nobody holds, only whether to undo it."""
        over = self.run.status.terminal or self.run.resumable
        return tuple(item for item in self.questions if item.blocking and (item.offers_undo or not over))

    def touch(self, *parts: Part) -> None:
        """Say that parts of the picture changed."""
        for part in parts:
            self.marks[part] += 1
        self.revision += 1

    def apply(self, event: StreamEvent) -> bool:
        """Take one event in. Returns whether anything of this run changed."""
        before = self.revision
        self._apply(event)
        return self.revision != before

    def apply_all(self, events: Iterable[StreamEvent]) -> bool:
        """Take a batch in; True when anything changed."""
        before = self.revision
        for event in events:
            self._apply(event)
        return self.revision != before

    def preview(self, tail: Iterable[EntryAppended]) -> None:
        """Show the newest entries before the fold has come that far; they count once the fold reaches them."""
        for event in tail:
            self._show_entry(event)
        self.touch("journal")

    def asked_about(self, step_id: str) -> SafeText:
        """The value that reached a step which asks a question; empty when it is not running."""
        given = self._given.get(step_id)
        if given is None:
            return SafeText("")
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, indent=2, default=str)
        return safe(text, limit=SUBJECT_LIMIT, lines=True)

    def _apply(self, event: StreamEvent) -> None:
        run_id = self.run.run_id
        match event:
            case EntryAppended() if event.run_id == run_id:
                self._entry(event)
            case RunChanged() if event.run.run_id == run_id:
                self.run = event.run
                self.touch("head", "lanes")
            case LanesChanged() if event.run_id == run_id:
                self.lanes, self.streams = event.lanes, event.streams
                self.pool_running, self.pool_slots = event.pool_running, event.pool_slots
                self.touch("lanes")
            case OutputDelta() if event.run_id == run_id:
                self._output(event)
            case JournalVerified() if event.verification.run_id == run_id:
                self.verification = event.verification
                self.touch("journal")
            case InboxChanged():
                self._inbox(event)
            case StreamGap():
                self.log_dropped += event.dropped
                self.touch("log")
            case _:
                pass

    def _inbox(self, event: InboxChanged) -> None:
        mine = tuple(item for item in event.escalations if item.run_id == self.run.run_id and item.resolved_at is None)
        if mine != self.questions:
            self.questions = mine
            self.touch("head")

    def _entry(self, event: EntryAppended) -> None:
        if event.seq <= self.last_seq:
            return  # a page read from the store and the live stream may overlap
        if event.seq > self.last_seq + 1:
            self.behind = max(self.behind, event.seq)
            self.revision += 1
            return
        self.last_seq, self.last_at = event.seq, event.at
        self._show_entry(event)
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event, event.entry)
        self.touch("journal")

    def _show_entry(self, event: EntryAppended) -> None:
        """Append to the visible tail, unless the preview showed it already."""
        if not self.journal or event.seq > self.journal[-1].seq:
            text = describe_entry(event.kind, event.entry)
            self.journal.append(JournalRow(event.seq, event.at, event.kind, text, event.entry_hash))

    def _output(self, event: OutputDelta) -> None:
        """Whole lines go to the log; an unfinished one waits for its end."""
        key = (event.step_id, event.stream)
        *lines, rest = (self._partial.pop(key, "") + event.text).split("\n")
        if len(rest) > LINE_LIMIT:
            lines.append(rest)
            rest = ""
        if rest:
            self._partial[key] = rest
        for line in lines:
            self.log_line(event.step_id, event.stream, line)

    def log_line(self, step_id: str, stream: str, line: str) -> None:
        """One line of foreign output, with the mark of where it comes from."""
        self.log_dropped += len(self.log) == LOG_TAIL
        self.log.append(LogLine(step_id, stream if stream in _ORIGINS else "tool", safe(line, limit=LINE_LIMIT)))
        self.log_total += 1
        self.touch("log")

    def _flush_output(self, step_id: str) -> None:
        """A step that has ended finishes its last line, newline or not."""
        for key in [key for key in self._partial if key[0] == step_id]:
            self.log_line(*key, self._partial.pop(key))

    def _begin_attempt(self, event: EntryAppended, row: StepRow, tick: int) -> None:
        made = Attempt(
            step_id=row.step_id,
            block_type=row.block_type,
            tick=tick,
            visit=row.visit,
            attempt=row.attempt,
            status="running",
            started_at=str(row.started_at),
            started_seq=event.seq,
        )
        self.tries[made.key] = self._latest[made.step_id] = made
        if len(self.tries) > ATTEMPTS_KEPT:
            del self.tries[next(iter(self.tries))]
            self.tries_dropped += 1

    def _step(self, step_id: str, block_type: str) -> StepRow:
        return self.steps.setdefault(step_id, StepRow(step_id, block_type, "DataLane"))


def fold_entry(state: RunState, entry: EntryAppended) -> RunState:
    """Apply one entry and return the state, for callers that read a journal page by page."""
    state.apply(entry)
    return state


def operation_step(operation_id: str) -> str:
    """The step an operation id belongs to: ``<step>.<index>`` or ``<step>~<tick>.<visit>.<attempt>.<index>`` (R13)."""
    step, again, _ = operation_id.partition("~")
    return step if again else operation_id.rpartition(".")[0] or operation_id


def _step_started(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.status, row.started_at, row.completed_at = "running", str(entry["started_at"]), None
    row.attempt, row.visit = int(entry.get("attempt", 1)), int(entry.get("visit", 1))
    row.code = row.message = None
    row.accepted = False
    row.reused_from = entry.get("reused_from")
    if row.reused_from is None:
        state.attempts[row.lane] = state.attempts.get(row.lane, 0) + 1
    row.tick = int(entry.get("tick", 1))
    state.tick = max(state.tick, row.tick)
    state._begin_attempt(event, row, row.tick)
    state._given[row.step_id] = (entry.get("inputs") or {}).get("value")
    state.touch("steps", "lanes")


def _step_finished(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.status, row.completed_at = str(entry["status"]), entry.get("completed_at")
    row.code, row.message = entry.get("code"), entry.get("error_message")
    row.accepted = bool(entry.get("accepted"))
    row.operation = None
    _end_attempt(state, event, entry)
    state._given.pop(row.step_id, None)
    _kept(state, row.step_id, entry)
    state._flush_output(row.step_id)
    state.touch("steps")
    if row.accepted:
        _mark_accepted(state, row)


def _kept(state: RunState, step_id: str, entry: Mapping[str, Any]) -> None:
    """What a step emitted, when it emitted something."""
    stream = emitted(entry)
    if stream is None:
        return
    items, size, index = stream
    totals = state.totals.setdefault("DataLane", StreamTotals())
    totals.kept += items
    totals.bytes += size
    state.indexes.append((step_id, index))
    state.touch("lanes")


def _end_attempt(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    key = (str(entry["step_id"]), int(entry.get("tick", 1)), int(entry.get("visit", 1)), int(entry.get("attempt", 1)))
    made = state.tries.get(key)
    if made is None:
        return
    made.status, made.completed_at, made.finished_seq = str(entry["status"]), entry.get("completed_at"), event.seq
    made.code, made.message = entry.get("code"), entry.get("error_message")
    made.accepted = bool(entry.get("accepted"))
    reused = entry.get("reused_from")
    made.reused_from = None if reused is None else str(reused)
    if made.waits:  # a question that was withdrawn has no answer to end the wait
        _stop_waiting(made, event.at)
        state._asking = {name: item for name, item in state._asking.items() if item is not made}


def _stop_waiting(made: Attempt, at: str) -> None:
    if made.waits and made.waits[-1][1] is None:
        made.waits[-1] = (made.waits[-1][0], at)


def _mark_accepted(state: RunState, row: StepRow) -> None:
    """The refusals of an accepted step were expected; say so where they are listed."""
    for index, refused in enumerate(state.violations):
        if refused.step_id == row.step_id and not refused.accepted:
            state.violations[index] = replace(refused, accepted=True)
            state.touch("violations")


def _operation_started(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    row = state._step(str(entry["step_id"]), str(entry["operation_type"]))
    row.operation = str(entry["operation_id"])
    if entry.get("effect") == "write":
        paths = tuple(str(path) for path in entry.get("affected_paths") or ())
        before = str(entry.get("pre_state_hash") or "")
        state.writes.append(Write(event.seq, row.step_id, row.operation, paths, before))
    state.touch("steps")


def _operation_denied(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    state.violation_count += 1
    state.violations.append(violation(state.run.run_id, event.seq, event.at, entry, mission=state.run.mission))
    state.touch("violations", "head")


def _receipt(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    receipt = entry["receipt"]
    if receipt.get("output_hash") and not receipt.get("compensates"):
        state.outputs.append((str(receipt["step_id"]), str(receipt["output_hash"])))
    if receipt.get("effect") == "write" and not receipt.get("compensates"):
        _wrote(state, receipt)


def _wrote(state: RunState, receipt: Mapping[str, Any]) -> None:
    """What an operation that wrote left behind."""
    operation_id = str(receipt["operation_id"])
    write = next((item for item in reversed(state.writes) if item.operation_id == operation_id), None)
    if write is not None and write.receipt_hash is None:
        write.after, write.status = str(receipt.get("post_state_hash") or ""), str(receipt["status"])
        write.receipt_hash = receipt.get("receipt_hash")
        state.touch("steps")


def _signal(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    for signal in entry.get("signals", ()):
        name = str(signal["signal"])
        if name in _TURN_STATES:
            state.turn = _TURN_STATES[name]
        if name in ("abort", "commit", "cancel"):
            state.turn_reason = signal.get("reason") or name
        lane = _STREAM_EDGES.get(str(signal.get("edge_id")))
        if lane is not None:
            _pressure(state.totals.setdefault(lane, StreamTotals()), name, signal)
    state.touch("lanes")


def _pressure(totals: StreamTotals, name: str, signal: Mapping[str, Any]) -> None:
    if name == "watermark":
        totals.saturated += 1
    elif name in ("drop_notice", "shed"):
        totals.dropped += amount(signal)


def _budget(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    if entry["phase"] in ("settled", "lost"):
        state.spent_micros += int(entry["micros"])
        state.spent_tokens += int(entry.get("tokens") or 0)
    state.remaining_micros = entry.get("remaining_micros")
    state.touch("head")


def _escalation(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    step = state.steps.get(str(entry.get("step_id", "")))
    if step is not None and entry["phase"] == "asked" and entry.get("blocking"):
        step.status = "waiting"
        made = state._latest.get(step.step_id)
        if made is not None and made.completed_at is None:
            made.waits.append((event.at, None))
            state._asking[str(entry.get("escalation_id"))] = made
    if entry["phase"] == "answered":
        for row in state.steps.values():
            if row.status == "waiting":
                row.status = "running"
        answered = entry.get("escalation_id")
        asked = state._asking.pop(str(answered), None)
        if asked is not None:
            _stop_waiting(asked, event.at)
        state.questions = tuple(item for item in state.questions if item.escalation_id != answered)
    state.touch("steps", "head")


def _operator_action(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    state.last_operator_action = str(entry["action"])


def _compensation_finished(state: RunState, event: EntryAppended, entry: Mapping[str, Any]) -> None:
    for write in state.writes:
        if write.receipt_hash is not None and write.receipt_hash == entry.get("compensates"):
            write.undone = bool(entry.get("verified"))
            state.touch("steps")
    if not entry.get("verified"):
        return
    row = state.steps.get(operation_step(str(entry["operation_id"])))
    if row is not None and row.status in ("failed", "completed", "pending"):  # pending: of the run that is undone
        row.status = "compensated"
        state.touch("steps")


_HANDLERS: Final = {
    "step_started": _step_started,
    "step_finished": _step_finished,
    "operation_started": _operation_started,
    "operation_denied": _operation_denied,
    "receipt": _receipt,
    "signal": _signal,
    "budget": _budget,
    "escalation": _escalation,
    "operator_action": _operator_action,
    "compensation_finished": _compensation_finished,
}
