"""When each attempt of a run began and ended, on one axis: bars, waits for a human, and the path that took longest.

Times are those of the journal; an attempt that still runs reaches to the newest entry. The critical path is found from
its end: what finished last before an attempt could start is what the attempt waited for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from console.model.fold import Attempt, AttemptKey
from console.model.rows import Piece, Role, Row, clock, piece, step_role
from console.model.safe import SafeText, safe
from runtime.events.facts import NodeInfo

LABEL_CELLS: Final = 24
NOTE_CELLS: Final = 22
MIN_BAR: Final = 12
_TICK_CELLS: Final = 12
_TICKS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt on the axis, in seconds since the first one began."""

    attempt: Attempt
    start: float
    end: float
    waits: tuple[tuple[float, float], ...] = ()
    critical: bool = False

    @property
    def running(self) -> bool:
        return self.attempt.completed_at is None


@dataclass(frozen=True, slots=True)
class Timeline:
    """All bars in the order they began, and how long the axis is."""

    bars: tuple[Bar, ...] = ()
    span: float = 0.0


def build(attempts: Iterable[Attempt], nodes: Sequence[NodeInfo], newest: str) -> Timeline:
    """Lay attempts out. ``newest`` is the time up to which an open attempt reaches; malformed times are left out."""
    placed = [(item, begun) for item in attempts if (begun := _seconds(item.started_at)) is not None]
    if not placed:
        return Timeline()
    origin = min(begun for _, begun in placed)
    latest = max([begun for _, begun in placed] + [end for item, _ in placed if (end := _seconds(item.completed_at))])
    now = max(latest, _seconds(newest) or latest)
    bars = [_bar(item, begun - origin, origin, now) for item, begun in placed]
    bars.sort(key=lambda bar: (bar.start, bar.attempt.started_seq))
    path = _critical(bars, {node.node_id: node.after for node in nodes})
    marked = tuple(Bar(bar.attempt, bar.start, bar.end, bar.waits, critical=bar.attempt.key in path) for bar in bars)
    return Timeline(marked, max(bar.end for bar in bars))


def _bar(item: Attempt, start: float, origin: float, now: float) -> Bar:
    ended = _seconds(item.completed_at)
    end = max(start, (now if ended is None else ended) - origin)
    waits = []
    for asked, answered in item.waits:
        begun, over = _seconds(asked), _seconds(answered)
        if begun is not None:
            first = min(max(start, begun - origin), end)
            waits.append((first, end if over is None else min(max(first, over - origin), end)))
    return Bar(item, start, end, tuple(waits))


def _critical(bars: Sequence[Bar], after: Mapping[str, Sequence[str]]) -> set[AttemptKey]:
    """The chain of attempts, each waiting for the one before, that ends with the last to finish."""
    ends: dict[str, list[tuple[float, int]]] = {}
    for index, bar in enumerate(bars):
        ends.setdefault(bar.attempt.step_id, []).append((bar.end, index))
    for finished in ends.values():
        finished.sort()
    last = max(range(len(bars)), key=lambda index: (bars[index].end, index))
    path: set[AttemptKey] = set()
    here: int | None = last
    while here is not None and bars[here].attempt.key not in path:
        bar = bars[here]
        path.add(bar.attempt.key)
        causes = (*after.get(bar.attempt.step_id, ()), bar.attempt.step_id)
        before = [found for name in causes if (found := _latest(ends.get(name, ()), bar.start, here)) is not None]
        here = max(before)[1] if before else None
    return path


def _latest(ends: Sequence[tuple[float, int]], start: float, index: int) -> tuple[float, int] | None:
    """The last end at or before ``start``, of an attempt that began before."""
    place = bisect_right(ends, (start, index - 1))
    return ends[place - 1] if place else None


def _seconds(at: str | None) -> float | None:
    try:
        return datetime.fromisoformat(at or "").timestamp()
    except ValueError:
        return None


def label_cells(bars: Iterable[Bar]) -> int:
    """The column of names."""
    return min(LABEL_CELLS, max((len(_label(bar.attempt)) for bar in bars), default=0))


def bar_cells(width: int, label: int) -> int:
    """How many cells the axis has in a panel of this width."""
    return max(MIN_BAR, width - label - 1 - NOTE_CELLS)


def axis_row(span: float, label: int, cells: int) -> Row:
    """The times along the axis, as far apart as they need to be read."""
    wanted = span * _TICK_CELLS / max(1, cells)
    step = next((tick for tick in _TICKS if tick >= wanted), _TICKS[-1])
    marks = [" "] * cells
    at = 0.0
    while span > 0 and at <= span:
        text, place = clock(int(at * 1000)), int(at / span * cells)
        if place + len(text) <= cells:
            marks[place : place + len(text)] = text
        at += step
    return (piece(" " * (label + 1)), piece("".join(marks), "dim"))


def bar_row(bar: Bar, span: float, label: int, cells: int) -> Row:
    """One attempt: its name, its bar, how long it took and why it failed."""
    role: Role = "warn" if bar.attempt.accepted else step_role(bar.attempt.status)
    name = safe(_label(bar.attempt), limit=label)
    return (
        piece(f"{name:<{label}} ", "accent" if bar.critical else "plain"),
        *_drawn(bar, span, cells, "accent" if bar.critical else role),
        *_note(bar, role),
    )


def _label(item: Attempt) -> str:
    tick = f" tick {item.tick}" if item.tick > 1 else ""
    visit = f" visit {item.visit}" if item.visit > 1 else ""
    attempt = f" try {item.attempt}" if item.attempt > 1 else ""
    return f"{item.step_id}{tick}{visit}{attempt}"


def _drawn(bar: Bar, span: float, cells: int, role: Role) -> list[Piece]:
    """Blanks, the bar and blanks: exactly ``cells`` cells."""
    first, last = place(bar.start, bar.end, span, cells)
    body = ["━"] * (last - first)
    for begun, over in bar.waits:
        low, high = place(begun, over, span, cells)
        for cell in range(max(low, first), min(high, last)):
            body[cell - first] = "┄"
    if bar.running:
        body[-1] = "▸"
    elif bar.attempt.status == "failed" and not bar.attempt.accepted:
        body[-1] = "╳"
    return [piece(" " * first), (SafeText("".join(body)), role), piece(" " * (cells - last))]


def place(start: float, end: float, span: float, cells: int) -> tuple[int, int]:
    """The cells from and up to which a span of time is drawn: at least one, never outside the axis."""
    if span <= 0:
        return 0, cells
    first = min(cells - 1, int(start / span * cells))
    return first, max(first + 1, min(cells, round(end / span * cells)))


def _note(bar: Bar, role: Role) -> list[Piece]:
    waited = sum(over - begun for begun, over in bar.waits)
    notes = [piece(f" {bar.end - bar.start:.1f}s", "dim")]
    if waited:
        notes.append(piece(f" ◐ {clock(int(waited * 1000))}", "warn"))
    if bar.attempt.reused_from:
        notes.append(piece(" reused", "mark"))
    elif bar.attempt.code:
        notes.append(piece(f" {bar.attempt.code}", role))
    return notes
