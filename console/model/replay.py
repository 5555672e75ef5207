"""A run as it was at any entry of its journal: the same fold as the dashboard's, stopped where the operator looks.

Nothing is executed and nothing is appended (ruling R1). Entries arrive in pages and leave again; what makes going
backwards cheap are copies of the fold: coarse ones over the whole journal, thinned so that there are never more than
`COARSE_KEPT`, and fine ones behind the position. A second fold, the scan, runs ahead to the end of the journal once,
to find what is worth a mark. The shell reads what `wanted` names, hands it to `feed`, and calls `fold` until neither
has anything left; each of them does a bounded slice of work.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from console.model.compare import named
from console.model.fold import RunState, StepRow, operation_step
from console.model.places import BOOKMARKS_KEPT, LABEL_LIMIT, Place
from runtime.events.facts import EntryAppended, NodeInfo, ReplayReport, RunSummary
from runtime.host.api import RunStatus

PAGE: Final = 256
PAGES_KEPT: Final = 12
COARSE_STRIDE: Final = 256
COARSE_KEPT: Final = 48
FINE_STRIDE: Final = 64
FINE_KEPT: Final = 16
EVENTS_KEPT: Final = 2000

MarkKind = Literal["bookmark", "divergence", "event"]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """One place worth going to."""

    seq: int
    kind: MarkKind
    label: str


def moment(at: str) -> float | None:
    """A journal time in seconds; None when it is malformed."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None


class Pages:
    """The pages of one journal that were looked at last, at most `PAGES_KEPT`."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, dict[int, EntryAppended]] = OrderedDict()

    def put(self, entries: Iterable[EntryAppended]) -> None:
        for entry in entries:
            self._pages.setdefault(entry.seq // PAGE, {})[entry.seq] = entry
            self._pages.move_to_end(entry.seq // PAGE)
        while len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)

    def get(self, seq: int) -> EntryAppended | None:
        page = self._pages.get(seq // PAGE)
        if page is None:
            return None
        self._pages.move_to_end(seq // PAGE)
        return page.get(seq)


class Replay:
    """One run under the operator's hands. Positions are entry numbers; a run without entries cannot be replayed."""

    def __init__(self, run: RunSummary, nodes: Iterable[NodeInfo], place: Place | None = None) -> None:
        place = place or Place()
        self.run = run
        self.total = run.entries
        self.readable = run.entries
        """Entries the store gives; fewer than ``total`` when the journal is damaged."""
        self.pages = Pages()
        self.view = RunState.begin(run, nodes)
        self.target = 0
        self.eager = False
        """True while playing: the entry after the position is wanted too."""
        self.bookmarks: dict[int, str] = dict(place.bookmarks)
        self.report: ReplayReport | None = None
        self.events: list[Mark] = []
        self.events_seen = 0
        self.starts: dict[str, int] = {}
        """Where each step began first, as far as the scan has come."""
        self.began: float | None = None
        """When the first entry was written, in seconds."""
        self.revision = 0
        self._until: float | None = None
        self._marks: list[Mark] | None = None
        self._every = 1
        self._blank = self.view.copy()
        self._scan = self.view.copy()
        self._coarse: dict[int, RunState] = {}
        self._stride = COARSE_STRIDE
        self._fine: deque[RunState] = deque(maxlen=FINE_KEPT)
        self.seek(place.at)

    # -- where we are -------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The last entry there is to look at."""
        return max(0, self.readable - 1)

    @property
    def here(self) -> int:
        """The entry the fold has come to; ``target`` once it has arrived."""
        return self.view.last_seq

    @property
    def position(self) -> int:
        """Where the operator is: ``target``, but while a time is still being looked for, the entry reached so far."""
        return self.target if self._until is None or self.arrived else max(0, self.here)

    @property
    def arrived(self) -> bool:
        return self.view.last_seq >= self.target

    @property
    def scanned(self) -> int:
        """How many entries were searched for marks."""
        return self._scan.last_seq + 1

    @property
    def events_thinned(self) -> int:
        """How many events have no mark, because there are too many of them."""
        return self.events_seen - len(self.events)

    @property
    def checkpoints(self) -> int:
        """How many copies of the fold are kept."""
        return len(self._coarse) + len(self._fine)

    @property
    def entry(self) -> EntryAppended | None:
        """The entry at the position, once it is read."""
        return self.pages.get(self.here)

    def time(self, seq: int) -> float | None:
        """When an entry was written, in seconds; None while its page is not read."""
        entry = self.pages.get(seq)
        return moment(entry.at) if entry is not None else None

    @property
    def ended(self) -> float | None:
        """When the last entry was written; None until the scan has come there."""
        return _time_of(self._scan) if self.scanned >= self.readable else None

    @property
    def place(self) -> Place:
        """What is worth remembering until the next time."""
        return Place(self.position, tuple(self.bookmarks.items()))

    # -- going somewhere ----------------------------------------------------------------------------------------

    def seek(self, position: int) -> None:
        """Go to an entry; a position outside the journal means its nearest end."""
        self._until = None
        self.target = max(0, min(position, self.last))
        self._start_from([state for state in self._known() if state.last_seq <= self.target])
        self.fold()

    def seek_time(self, when: float) -> None:
        """Go to the last entry written by ``when`` (seconds); the first one when all are later."""
        self._until, self.target = when, self.last
        self._start_from([state for state in self._known() if (_time_of(state) or 0.0) <= when])
        self.fold()

    def _known(self) -> Iterable[RunState]:
        return (self.view, self._blank, *self._fine, *self._coarse.values(), self._scan)

    def _start_from(self, candidates: Sequence[RunState]) -> None:
        """Take up the nearest fold that is not past the goal. ``max`` keeps the first of equals: the view itself."""
        nearest = max(candidates, key=lambda state: state.last_seq)
        if nearest is not self.view:
            self.view = nearest.copy()
        self.revision += 1

    def fold(self, limit: int = PAGE) -> bool:
        """Fold up to ``limit`` entries that are read already; True when more of them are left."""
        for _ in range(limit):
            entry = None if self.arrived else self.pages.get(self.here + 1)
            if entry is None:
                return False
            if self._until is not None and self.here >= 0 and (moment(entry.at) or 0.0) > self._until:
                self._until, self.target = None, self.here
                break
            self.view.apply(entry)
            self._keep_fine(self.view)
        self.revision += 1
        return not self.arrived

    # -- reading ------------------------------------------------------------------------------------------------

    def wanted(self) -> int | None:
        """The next entry somebody has to read from the store; None when there is none."""
        for seq in self._looked_at():
            if 0 <= seq < self.readable and self.pages.get(seq) is None:
                return seq
        return self.scanned if self.scanned < self.readable else None

    def _looked_at(self) -> Iterable[int]:
        if not self.arrived:
            yield self.here + 1
            return
        yield self.here
        if self.eager:
            yield self.here + 1

    def feed(self, wanted: int, entries: Sequence[EntryAppended]) -> bool:
        """Take in the page read for ``wanted``; False when it is not in there."""
        if not any(entry.seq == wanted for entry in entries):
            return False
        if wanted in self._looked_at():
            self.pages.put(entries)
        for entry in entries:
            if entry.seq == self.scanned:
                self._search(entry)
        self.revision += 1
        return True

    def end_before(self, seq: int) -> None:
        """The store does not give this entry: for us the journal ends before it."""
        self.readable = min(self.readable, seq)
        self.target = min(self.target, self.last)
        self.revision += 1

    def grow(self, run: RunSummary) -> bool:
        """Take in a newer summary of the run; False when it is not newer."""
        if run is self.run or run.entries < self.total:
            return False
        if run.entries > self.total:
            self.total = self.readable = run.entries
        self.run = run
        self.revision += 1
        return True

    def _search(self, entry: EntryAppended) -> None:
        """One step of the scan: marks, first starts, and a coarse copy now and then."""
        scan = self._scan
        scan.apply(entry)
        if entry.seq == 0:
            self.began = moment(entry.at)
        if entry.kind == "step_started":
            self.starts.setdefault(str(entry.entry["step_id"]), entry.seq)
        label = event_label(entry)
        if label is not None:
            self._note(Mark(entry.seq, "event", label))
        if self.scanned % self._stride == 0:
            self._coarse[scan.last_seq] = scan.copy()
            if len(self._coarse) > COARSE_KEPT:
                self._stride *= 2
                self._coarse = {seq: kept for seq, kept in self._coarse.items() if (seq + 1) % self._stride == 0}

    def _note(self, mark: Mark) -> None:
        """Keep a mark; when there are too many, every second one goes, so that the whole journal stays covered."""
        if self.events_seen % self._every == 0:
            self.events.append(mark)
            self._marks = None
        self.events_seen += 1
        if len(self.events) > EVENTS_KEPT:
            self.events = self.events[::2]
            self._every *= 2

    def _keep_fine(self, state: RunState) -> None:
        seq = state.last_seq
        if (seq + 1) % FINE_STRIDE == 0 and all(kept.last_seq != seq for kept in self._fine):
            self._fine.append(state.copy())

    # -- marks --------------------------------------------------------------------------------------------------

    def divergences(self) -> list[Mark]:
        """Where the last recorded check found another telling, in journal order."""
        found = self.report.comparison.divergences if self.report is not None else ()
        return sorted(
            Mark(item.base_seq, "divergence", f"{named(item.kind)} {item.field}")
            for item in found
            if item.base_seq is not None
        )

    def marks(self) -> list[Mark]:
        """Everything worth going to, in journal order."""
        if self._marks is None:
            kept = [Mark(seq, "bookmark", label) for seq, label in self.bookmarks.items()]
            self._marks = sorted([*kept, *self.divergences(), *self.events])
        return self._marks

    def marks_at(self, seq: int) -> list[Mark]:
        """The marks of one entry."""
        marks = self.marks()
        first = bisect_left(marks, seq, key=lambda mark: mark.seq)
        return marks[first : bisect_right(marks, seq, lo=first, key=lambda mark: mark.seq)]

    def stop(self, direction: int) -> Mark | None:
        """The next (1) or previous (-1) divergence; any mark when the run has none. None when there is no further."""
        stops = self.divergences() or self.marks()
        places = [mark.seq for mark in stops]
        index = bisect_right(places, self.position) if direction > 0 else bisect_left(places, self.position) - 1
        return stops[index] if 0 <= index < len(stops) else None

    def bookmark(self, label: str = "") -> None:
        """Mark the position; beyond `BOOKMARKS_KEPT` the oldest mark goes."""
        self.bookmarks.pop(self.position, None)
        self.bookmarks[self.position] = label[:LABEL_LIMIT]
        while len(self.bookmarks) > BOOKMARKS_KEPT:
            del self.bookmarks[next(iter(self.bookmarks))]
        self._remark()

    def forget(self) -> None:
        """Take the mark off the position."""
        self.bookmarks.pop(self.position, None)
        self._remark()

    def judge(self, report: ReplayReport) -> None:
        """A recorded check has ended; its divergences become marks."""
        self.report = report
        self._remark()

    def _remark(self) -> None:
        self._marks = None
        self.revision += 1


# -- what a position says ------------------------------------------------------------------------------------------


def as_it_was(replay: Replay) -> RunSummary:
    """The run's summary at the position, from entries alone; its end is known only where the journal closes."""
    run, state = replay.run, replay.view
    if state.journal and state.journal[-1].kind == "journal_closed" and run.status.terminal:
        return run
    return replace(
        run,
        status=_status(state),
        reason=None,
        code=None,
        message=None,
        exit_code=None,
        finished_at=None,
        outputs=None,
        resumable=run.resumable and replay.here == replay.last,
        entries=replay.here + 1,
        violations=state.violation_count,
        steps_done=sum(_done(row) for row in state.step_rows()),
        duration_ms=elapsed_ms(replay),
    )


def elapsed_ms(replay: Replay) -> int:
    """Wall time from the first entry to the position."""
    now = _time_of(replay.view)
    return max(0, int((now - replay.began) * 1000)) if now is not None and replay.began is not None else 0


def step_at(replay: Replay) -> str | None:
    """The step the position belongs to: its entry's own, else the last one that had begun."""
    entry = replay.entry
    own = step_of(entry.entry) if entry is not None else None
    if own in replay.view.steps:
        return own
    begun = [row for row in replay.view.step_rows() if row.started_at]
    return max(begun, key=lambda row: row.started_at or "").step_id if begun else None


def step_of(entry: Mapping[str, Any]) -> str | None:
    """The step an entry names, itself or through its receipt or operation."""
    receipt = entry.get("receipt")
    found = entry.get("step_id") or (receipt.get("step_id") if isinstance(receipt, Mapping) else None)
    if found is None and entry.get("operation_id"):
        found = operation_step(str(entry["operation_id"]))
    return str(found) if found else None


def event_label(entry: EntryAppended) -> str | None:
    """Why an entry deserves a mark: something was refused, failed, was asked, or a person acted. None: it does not."""
    body = entry.entry
    match entry.kind:
        case "operation_denied":
            return f"refused {body['code']}"
        case "escalation":
            return (
                f"answered {body.get('resolution')}" if body["phase"] == "answered" else f"asked {body.get('reason')}"
            )
        case "operator_action":
            return f"operator {body['action']}"
        case "recovery":
            return "recovery"
        case "step_finished" if body["status"] == "failed" and not body.get("accepted"):
            return f"failed {body['step_id']}"
        case _:
            return None


def _done(row: StepRow) -> bool:
    """As the run itself counts: steps of the mission, not those inside them; undoing one does not unmake it."""
    undone = row.status == "compensated" and row.code is None
    return "/" not in row.step_id and (row.status in ("completed", "skipped") or row.accepted or undone)


def _status(state: RunState) -> RunStatus:
    if state.last_operator_action in ("cancel", "terminate") or (state.turn_reason or "commit") != "commit":
        return RunStatus.STOPPING
    if state.last_operator_action == "pause":
        return RunStatus.PAUSED
    if any(row.status == "waiting" for row in state.step_rows()):
        return RunStatus.WAITING
    return RunStatus.RUNNING


def _time_of(state: RunState) -> float | None:
    return moment(state.journal[-1].at) if state.journal else None
