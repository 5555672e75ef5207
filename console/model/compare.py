"""Two tellings of a mission side by side: aligned block attempts, and what differs first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from console.model.describe import short
from console.model.home import fitted
from console.model.rows import Role, Row, clock, piece, run_role
from console.model.words import WARNING_GLYPH, glyph, status_glyph, status_word
from runtime.events.facts import Comparison, Divergence, RunSummary, StepPair

#: What `Comparison.other` says of a replay in memory.
REPLAY: Final = "replay"
BASE_MARK: Final = "⇄"
NOTHING: Final = "–"
_WIDE: Final = 100  # cells from which both sides have a column of their own
_MILD: Final = frozenset({"TIMING_DIVERGENCE", "ORDERING_DIVERGENCE"})
_ROLES: Final[dict[str, Role]] = {"completed": "good", "failed": "bad", "compensated": "warn", "cancelled": "warn"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the comparison: a pair of attempts, or what differs without belonging to a step."""

    pair: StepPair | None
    divergences: tuple[Divergence, ...] = ()
    first: bool = False
    downstream: bool = False

    @property
    def kind(self) -> str | None:
        """The class shown on the right: the pair's own, else of its first divergence."""
        if self.pair is not None and self.pair.kind is not None:
            return self.pair.kind
        return self.divergences[0].kind if self.divergences else None

    @property
    def base_seq(self) -> int | None:
        """The base's journal entry this line is about."""
        places = [item.base_seq for item in self.divergences if item.base_seq is not None]
        if places:
            return places[0]
        return self.pair.base_seq if self.pair is not None else None


def lines(comparison: Comparison) -> list[Line]:
    """What belongs to no step first, then the pairs in order, each with its divergences."""
    owned: list[list[Divergence]] = [[] for _ in comparison.steps]
    loose: list[Divergence] = []
    for item in comparison.divergences:
        index = _owner(item, comparison.steps)
        (loose if index is None else owned[index]).append(item)
    first, downstream = comparison.first, frozenset(comparison.downstream)
    pairs = zip(comparison.steps, owned, strict=True)
    return [
        *(Line(None, (item,), first=item == first) for item in loose),
        *(Line(pair, tuple(mine), first in mine, pair.step_id in downstream) for pair, mine in pairs),
    ]


def _owner(item: Divergence, steps: Sequence[StepPair]) -> int | None:
    """The pair a divergence is of: of its step's attempts the last one that began before the entry."""
    mine = [index for index, pair in enumerate(steps) if pair.step_id == item.step_id]
    begun = [index for index in mine if _began_before(steps[index], item)]
    marked = [index for index in mine if steps[index].kind is not None]
    return next(iter((*begun[::-1], *marked, *mine)), None)


def _began_before(pair: StepPair, item: Divergence) -> bool:
    for start, seq in ((pair.base_seq, item.base_seq), (pair.other_seq, item.other_seq)):
        if start is not None and seq is not None:
            return start <= seq
    return False


def differences(found: Iterable[Line]) -> list[Line]:
    """Only the lines that differ."""
    return [line for line in found if line.kind is not None]


def next_difference(found: Sequence[Line], cursor: int, direction: int) -> int | None:
    """The index of the next (1) or previous (-1) line that differs; None when there is no further one."""
    places = range(cursor + 1, len(found)) if direction > 0 else range(cursor - 1, -1, -1)
    return next((index for index in places if found[index].kind is not None), None)


def opening(found: Sequence[Line]) -> int:
    """Where the cursor starts: on the first divergence, else on the first line that differs, else on top."""
    marked = next((index for index, line in enumerate(found) if line.first), None)
    return marked if marked is not None else next_difference(found, -1, 1) or 0


# -- rows ----------------------------------------------------------------------------------------------------------


def side_row(label: str, run: RunSummary | None, name: str) -> Row:
    """One side of the comparison: which run, of what, and how it ended."""
    if run is None:
        told = "executed again in memory, operations answered from receipts" if name == REPLAY else ""
        return (piece(f"{label:<6}", "dim"), piece(f"{name[:8]}  "), piece(told, "dim"))
    word = f"{status_glyph(run.status, resumable=run.resumable)} {status_word(run.status, resumable=run.resumable)}"
    why = f"  {run.cause}" if run.cause else f"  {run.created_at[:16].replace('T', ' ')}"
    return (
        piece(f"{label:<6}", "dim"),
        piece(f"{run.run_id[:8]}  "),
        piece(f"{run.mission} v{run.mission_version}  "),
        piece(word, run_role(run)),
        piece(why, "dim"),
    )


def verdict_row(comparison: Comparison) -> Row:
    """Equivalent, or what differs first."""
    drift = (piece(f" · {comparison.drift.replace('_', ' ')}", "warn"),) if comparison.drift else ()
    more = (piece(f" · {comparison.truncated} more not listed", "warn"),) if comparison.truncated else ()
    count = len(comparison.divergences)
    if comparison.equivalent:
        tolerated = f" · {count} tolerated" if count else ""
        return (piece("✓ equivalent", "good"), piece(f" · {_count(comparison.steps)}{tolerated}", "dim"), *drift, *more)
    first = comparison.first
    if first is None:
        return (piece("✗ not equivalent", "bad"), *drift, *more)
    entry = f" · entry {first.base_seq}" if first.base_seq is not None else ""
    after = f" · {len(comparison.downstream)} steps after it" if comparison.downstream else ""
    return (
        piece(f"✗ first divergence: {first.step_id or first.scope} · {named(first.kind)}{entry}", _role(first.kind)),
        piece(f"{after} · {count + comparison.truncated} in all", "dim"),
        *drift,
        *more,
    )


def _count(steps: Sequence[StepPair]) -> str:
    return f"{len(steps)} step{'s' if len(steps) != 1 else ''}"


def named(kind: str) -> str:
    """A class without what all classes have in common."""
    return kind.removesuffix("_DIVERGENCE").replace("_", " ")


def _role(kind: str | None) -> Role:
    return "dim" if kind is None else "warn" if kind in _MILD else "bad"


def header_row(comparison: Comparison, width: int) -> Row:
    """Column names: the two sides."""
    base, other = f"base {comparison.base[:8]}", comparison.other[:8]
    if width >= _WIDE:
        half = _half(width)
        return (piece(f"  {base:<{half}} │ {other:<{half}} class", "dim"),)
    return (piece(f"    {'step':<17} {'time':>15}  {'output':<19} class", "dim"),)


def _half(width: int) -> int:
    return (width - 2 - 3 - 16) // 2


def line_row(line: Line, width: int) -> Row:
    """One line: state, name, output and time of both sides, then the class."""
    mark = piece("▸ " if line.first else "┊ " if line.downstream else "  ", "bad" if line.first else "dim")
    pair = line.pair
    label = piece(named(line.kind) if line.kind else "=" if _same(pair) else "≠", _role(line.kind))
    if pair is None:
        item = line.divergences[0]
        told = f"{item.scope}  {item.field}"
        return (mark, piece(f"{WARNING_GLYPH} ", _role(item.kind)), piece(f"{told}  "), label)
    if width < _WIDE:
        return (mark, *_narrow(pair), label)
    half = _half(width)
    left = _side(_name(pair), pair.base_status, pair.base_code, pair.base_output, pair.base_ms, half)
    right = _side(_reused(pair), pair.other_status, pair.other_code, pair.other_output, pair.other_ms, half)
    return (mark, *left, piece(" │ ", "dim"), *right, piece(" "), label)


def _side(name: str, status: str | None, code: str | None, output: str | None, ms: int | None, width: int) -> Row:
    """One side of a pair in its column."""
    if status is None:
        return (piece(f"{NOTHING} ", "dim"), piece(fitted("", width - 2)))
    shown, role = _state(status)
    label = fitted(name, max(12, width - 34))
    said = code or (f"out {short(output)}" if output else "")
    rest = f"{fitted(said, 20)} {seconds(ms):>8}"
    return (piece(f"{shown} ", role), piece(label), piece(f" {fitted(rest, width - 3 - len(label))}", "dim"))


def _narrow(pair: StepPair) -> Row:
    """Both sides in one column: states, times and outputs as ``base/other``."""
    (left, left_role), (right, right_role) = _state(pair.base_status), _state(pair.other_status)
    same = pair.base_output == pair.other_output
    outputs = short(pair.base_output or "") if same else f"{_bare(pair.base_output)}→{_bare(pair.other_output)}"
    return (
        piece(left, left_role),
        piece("/", "dim"),
        piece(f"{right} ", right_role),
        piece(f"{fitted(_reused(pair), 16)} "),
        piece(f"{seconds(pair.base_ms):>7}/{seconds(pair.other_ms):<7}  ", "dim"),
        piece(f"{fitted(outputs, 19)} ", "dim"),
    )


def _bare(output: str | None) -> str:
    return short(output).rstrip("…") if output else NOTHING


def _state(status: str | None) -> tuple[str, Role]:
    return (NOTHING, "dim") if status is None else (glyph(status), _ROLES.get(status, "plain"))


def _same(pair: StepPair | None) -> bool:
    return pair is not None and (pair.base_status, pair.base_output) == (pair.other_status, pair.other_output)


def _name(pair: StepPair) -> str:
    """The step, and which attempt, visit and tick it is when not the first."""
    turns = ((pair.attempt, "#"), (pair.visit, " visit "), (pair.tick, " tick "))
    return pair.step_id + "".join(f"{word}{number}" for number, word in turns if number != 1)


def _reused(pair: StepPair) -> str:
    """The same, with the mark of a step the other side took over instead of running it."""
    return f"{_name(pair)} ↺" if pair.reused_from else _name(pair)


def seconds(ms: int | None) -> str:
    """How long one side took: hundredths of a second, minutes and seconds from one minute on."""
    return NOTHING if ms is None else clock(ms) if ms >= 60_000 else f"{ms / 1000:.2f}s"


# -- one line in full ----------------------------------------------------------------------------------------------


def cause_rows(line: Line | None, comparison: Comparison) -> list[Row]:
    """What the panel below says of the selected line: each difference, its entries, and the steps after the first."""
    if line is None:
        return [(piece("nothing differs", "dim"),)]
    rows: list[Row] = []
    if line.pair is not None and line.pair.reused_from:
        rows.append((piece(f"↺ reused from run {line.pair.reused_from[:8]}", "dim"),))
    for item in line.divergences:
        rows.extend(_divergence_rows(item, first=item == comparison.first))
    if line.first and comparison.downstream:
        after = ", ".join(comparison.downstream)
        rows.append((piece(f"after it  {len(comparison.downstream)} steps: ", "dim"), piece(after)))
    if not line.divergences:
        rows.append(_equal_row(line))
    return rows


def _divergence_rows(item: Divergence, *, first: bool) -> list[Row]:
    entries = " → ".join(NOTHING if seq is None else f"#{seq:04d}" for seq in (item.base_seq, item.other_seq))
    late = f"  {item.diff_ms} ms apart" if item.diff_ms is not None else ""
    rows: list[Row] = [
        (
            piece(f"{named(item.kind):<9} ", _role(item.kind)),
            piece(item.field),
            piece(f"  {item.scope}  entries {entries}{late}{'  first' if first else ''}", "dim"),
        )
    ]
    if item.expected is not None or item.actual is not None:
        values = (piece(_value(item.expected)), piece(" → ", "dim"), piece(_value(item.actual)))
        rows.append((piece(" " * 10), *values))
    if item.detail:
        rows.append((piece(" " * 10), piece(item.detail, "dim")))
    return rows


def _value(value: str | None) -> str:
    """A digest in short, other values as they are."""
    return NOTHING if value is None else short(value) if value.startswith("sha256:") else value


def _equal_row(line: Line) -> Row:
    pair = line.pair
    if pair is None or line.kind is not None:
        return (piece("its differences are beyond those listed", "warn"),)
    if not _same(pair):
        states = f"{pair.base_status or NOTHING} → {pair.other_status or NOTHING}"
        return (piece("≠", "warn"), piece(f"  {states}; no divergence of its own", "dim"))
    output = f", output {short(pair.base_output)}" if pair.base_output else ""
    times = f"{seconds(pair.base_ms)} and {seconds(pair.other_ms)}"
    return (piece("equal", "good"), piece(f"  {pair.base_status or NOTHING}{output}, {times}", "dim"))


def line_details(line: Line) -> list[Row]:
    """Everything a line holds, for the dialog."""
    rows: list[Row] = []
    if line.pair is not None:
        rows.extend(_members(_pair_members(line.pair)))
    for item in line.divergences:
        rows.extend([(), (piece(item.kind, _role(item.kind)),)])
        rows.extend(_members(_divergence_members(item)))
    return rows


def _pair_members(pair: StepPair) -> list[tuple[str, str]]:
    def both(base: object, other: object) -> str:
        return f"{NOTHING if base is None else base}  →  {NOTHING if other is None else other}"

    return [
        ("step", pair.step_id),
        ("block", pair.block_type),
        ("attempt", f"{pair.attempt}, visit {pair.visit}, tick {pair.tick}"),
        ("status", both(pair.base_status, pair.other_status)),
        ("code", both(pair.base_code, pair.other_code)),
        ("output", both(pair.base_output, pair.other_output)),
        ("time", both(seconds(pair.base_ms), seconds(pair.other_ms))),
        ("entries", both(pair.base_seq, pair.other_seq)),
        ("reused", pair.reused_from or "no"),
    ]


def _divergence_members(item: Divergence) -> list[tuple[str, str]]:
    return [
        ("of", item.scope),
        ("field", item.field),
        ("expected", NOTHING if item.expected is None else item.expected),
        ("actual", NOTHING if item.actual is None else item.actual),
        ("detail", item.detail or NOTHING),
        ("entries", f"{item.base_seq} → {item.other_seq}"),
        ("apart", NOTHING if item.diff_ms is None else f"{item.diff_ms} ms"),
    ]


def _members(members: Iterable[tuple[str, str]]) -> list[Row]:
    return [(piece(f"{label:<10}", "dim"), piece(value)) for label, value in members]


def marked(row: Row, *, base: bool) -> Row:
    """A run's list row; the base of the next comparison carries its mark behind the id."""
    if not base:
        return row
    return (piece(f"{row[0][0].rstrip()}{BASE_MARK} ", "accent"), *row[1:])
