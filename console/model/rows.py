"""What panels draw: rows of text pieces, each with a role. Roles become colours only in the style sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Self

from console.model.fold import JournalRow, LogLine, RunState, StepRow, StreamTotals
from console.model.safe import SafeText, safe
from console.model.words import (
    RESUMABLE_GLYPH,
    REUSED_WORD,
    WARNING_GLYPH,
    glyph,
    status_glyph,
    status_word,
)
from runtime.events.facts import EntryAppended, LaneState, RunSummary, Verification
from runtime.host.api import RunStatus

Role = Literal["plain", "dim", "good", "warn", "bad", "accent", "mark"]
Piece = tuple[SafeText, Role]
Row = tuple[Piece, ...]

_TURN_PATH: Final = ("Idle", "Opening", "Active", "Terminal", "Closed")
_TURN_SHORT: Final = {"Opening": "Open", "Terminal": "Term"}
_ROOMY: Final = 44  # cells from which rows spell things out
_COMPACT: Final = 50  # cells from which stream edges show their bound
_SPACIOUS: Final = 60  # cells from which entries show their time and hash, and stream edges spell things out
_DETAIL_LINES: Final = 400
#: In the gutter of an entry no checkpoint covers yet.
AFTER_CHECKPOINT: Final = "┊"
_TELEMETRY: Final = "TelemetryLane"
LANE_NAMES: Final = {"ControlLane": "CONTROL", "DataLane": "DATA", "TelemetryLane": "TELEMETRY"}
_ENTRY_ROLES: Final[dict[str, Role]] = {
    "operation_denied": "bad",
    "escalation": "warn",
    "operator_action": "accent",
    "recovery": "warn",
    "signal": "dim",
    "journal_closed": "accent",
}
_STEP_ROLES: Final[dict[str, Role]] = {
    "pending": "dim",
    "running": "accent",
    "waiting": "warn",
    "completed": "good",
    "failed": "bad",
    "compensated": "warn",
    "cancelled": "warn",
    "skipped": "dim",
}


def piece(text: object, role: Role = "plain") -> Piece:
    """One piece of a row; its text is made safe here."""
    return (safe(text), role)


def headline(run: RunSummary, elapsed_ms: int) -> Row:
    """Run id, mission, status and progress."""
    word = status_word(run.status, resumable=run.resumable)
    role = run_role(run)
    why = run.code or run.reason
    return (
        piece(f"{run.run_id[:8]} ", "dim"),
        piece(f"{run.mission} v{run.mission_version}  "),
        piece(f"{status_glyph(run.status, resumable=run.resumable)} {word}", role),
        piece(f"  {run.steps_done}/{run.steps_total} steps  {clock(elapsed_ms)}", "dim"),
        *((piece(f"  {why}", role),) if why else ()),
    )


def notice_row(state: RunState) -> Row:
    """The line under the headline: the open question first, else what became of the run and what to do."""
    run = state.run
    waiting = state.waiting
    if waiting:
        more = f"  (+{len(waiting) - 1} more: i lists them)" if len(waiting) > 1 else ""
        return (
            piece("◐ ", "warn"),
            piece(waiting[0].reason),
            piece(f"  {waiting[0].step_id}{more}   ", "dim"),
            piece("enter look  a approve  R reject" if "approved" in waiting[0].choices else "enter choose", "accent"),
        )
    if run.resumable:
        return (piece(f"{RESUMABLE_GLYPH} nobody holds this run.  ", "warn"), piece("r resume  x cancel", "accent"))
    cause: Row = (piece("cause  ", "dim"), piece(f"{run.cause}   ")) if run.cause else ()
    if run.status is RunStatus.RUNNING and state.recurring:
        told = piece(f"recurring, tick {state.tick}   ", "dim")
        return (*cause, told, piece("s end after this tick  x cancel", "accent"))
    if run.status.value in ("failed", "timed_out", "refused"):
        return (
            piece("✗ ", "bad"),
            piece(f"{run.message or run.reason or run.code or 'no reason recorded'}   "),
            *cause,
        )
    if run.status is RunStatus.SUCCEEDED and run.output_folder:
        return (*cause, piece("files in  ", "dim"), piece(run.output_folder))
    if run.status is RunStatus.SUCCEEDED and run.work_tree:
        return (*cause, piece("work tree  ", "dim"), piece(run.work_tree))
    return cause


def progress_row(state: RunState) -> Row:
    """What the journal panel says while entries are still being read, or cannot be."""
    read = state.last_seq + 1
    if state.stalled:
        return (piece(f"{WARNING_GLYPH} {read:,} of {state.expected:,} entries readable", "warn"),)
    if state.missing:
        return (piece(f"… reading {read:,} of {state.expected:,} entries", "dim"),)
    return ()


def run_role(run: RunSummary) -> Role:
    """The role of a run's status."""
    if run.resumable:
        return "warn"
    return {
        "succeeded": "good",
        "failed": "bad",
        "timed_out": "bad",
        "refused": "bad",
        "running": "accent",
        "waiting": "warn",
        "paused": "warn",
        "stopping": "warn",
        "cancelled": "warn",
    }.get(run.status.value, "dim")  # type: ignore[return-value]


def clock(milliseconds: int) -> str:
    """``m:ss``, or ``h:mm:ss``."""
    seconds = milliseconds // 1000
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def turn_row(state: RunState, width: int) -> Row:
    """The turn's path with the present state in brackets."""
    pieces: list[Piece] = []
    for index, name in enumerate(_TURN_PATH):
        if index:
            pieces.append(piece("→", "dim"))
        current = name == state.turn
        word = name if width >= _ROOMY else _TURN_SHORT.get(name, name)
        pieces.append(piece(f"[{word}]" if current else word, "accent" if current else "dim"))
    if state.turn_reason:
        pieces.append(piece(f"  {state.turn_reason}", "dim"))
    return tuple(pieces)


def step_width(steps: Iterable[StepRow]) -> int:
    """The column of step names."""
    return min(24, max((len(row.step_id) for row in steps), default=0))


def step_row(row: StepRow, width: int, *, held: bool = True) -> Row:
    """One step: state and name, how long it took, why it failed, and what it is."""
    if not held and row.status in ("running", "waiting"):
        return (
            piece(f"{RESUMABLE_GLYPH} ", "warn"),
            piece(f"{row.step_id:<{width}} "),
            piece(f"{'interrupted':<11} ", "warn"),
            piece(row.block_type, "dim"),
        )
    role: Role = "warn" if row.accepted else step_role(row.status)
    reused = row.reused_from is not None
    notes = [took(row.started_at, row.completed_at)] if row.completed_at and not reused else []
    if row.attempt > 1:
        notes.append(f"attempt {row.attempt}")
    if row.visit > 1:
        notes.append(f"visit {row.visit}")
    if row.tick > 1:
        notes.append(f"tick {row.tick}")
    word = REUSED_WORD if reused else "expected" if row.accepted else row.status
    return (
        piece(f"{glyph(row.status, accepted=row.accepted, reused=reused)} ", role),
        piece(f"{row.step_id:<{width}} "),
        piece(f"{word:<11} ", role),
        *((piece(f"{row.code}  ", role),) if row.code else ()),
        piece("  ".join((row.block_type, *notes)), "dim"),
    )


def step_role(status: str) -> Role:
    """The role of a step's status."""
    return _STEP_ROLES.get(status, "plain")


def took(started: str | None, completed: str | None) -> str:
    """Seconds between two journal times; empty when either is missing or malformed."""
    try:
        span = datetime.fromisoformat(completed or "") - datetime.fromisoformat(started or "")
    except ValueError:
        return ""
    return f"{span.total_seconds():.1f}s"


def step_details(row: StepRow) -> list[Row]:
    """One step in full."""
    members = (
        ("block", row.block_type),
        ("lane", LANE_NAMES.get(row.lane, row.lane)),
        ("status", f"{row.status}{' (as the mission expects)' if row.accepted else ''}"),
        ("attempt", f"{row.attempt}, visit {row.visit}"),
        ("started", row.started_at or "–"),
        ("ended", row.completed_at or "–"),
        *((("reused", f"from run {row.reused_from}"),) if row.reused_from else ()),
        ("code", row.code or "–"),
        ("message", row.message or "–"),
    )
    return [(piece(f"{label:<10}", "dim"), piece(value)) for label, value in members]


def lane_rows(state: RunState, width: int) -> list[Row]:
    """The lanes of node attempts and, below them, the edges of stream items: a depth bar with its watermark, counts,
    saturation. Telemetry moves items only."""
    if state.run.status.terminal or state.run.resumable or not state.lanes:
        return _quiet_lanes(state, width)
    roomy = width >= _ROOMY
    bar = max(8, min(24, width - 54)) if roomy else 6
    streams = {edge.lane: edge for edge in state.streams}
    rows = []
    for lane in state.lanes:
        if lane.lane != _TELEMETRY or lane.lane not in streams:
            rows.append(_lane_row(lane, bar, roomy=roomy))
        if lane.lane in streams:
            rows.append(_stream_row(streams[lane.lane], bar, width))
    slots = f"{state.pool_running}/{state.pool_slots}" if state.pool_slots else "–"
    rows.append((piece(f"pool {slots} slots busy", "dim"), piece(f"  entries {state.last_seq + 1}", "dim")))
    return rows


def _quiet_lanes(state: RunState, width: int) -> list[Row]:
    """Lanes without gauges: what the journal says went through them."""
    ended = state.run.status.terminal or state.run.resumable
    word = "closed" if ended else "no gauge yet"
    rows: list[Row] = []
    for lane, name in LANE_NAMES.items():
        totals = state.totals.get(lane)
        if lane != _TELEMETRY or totals is None:
            attempts = piece(f"attempts {state.attempts.get(lane, 0)}")
            rows.append((piece(f"{name:<10}", "dim"), piece(f"{word:<14}", "dim"), attempts))
        if totals is not None:
            rows.append((piece(f"{_stream_name(lane):<10}{word}", "dim"), *_totals(totals, lane, width)))
    rows.append((piece(f"entries {state.last_seq + 1}", "dim"),))
    return rows


def _totals(totals: StreamTotals, lane: str, width: int) -> Row:
    """What passed an edge of a run that is over, in as many words as there is room for."""
    count = _full if width >= _SPACIOUS else _brief
    gap = "  " if width >= _SPACIOUS else " "
    kept: Row = () if lane == _TELEMETRY else (piece(f"{gap}kept {count(totals.kept)}"),)
    minus = "dropped " if width >= _ROOMY else "-"
    dropped: Row = (piece(f"{gap}{minus}{count(totals.dropped)}", "warn"),) if totals.dropped else ()
    word = "saturated" if width >= _SPACIOUS else "sat"
    pressure: Row = (piece(f"{gap}{word} {count(totals.saturated)}×", "dim"),) if totals.saturated else ()
    return (*kept, *dropped, *pressure)


def stream_words(totals: StreamTotals, lane: str) -> SafeText:
    """What passed one stream edge, in a line: ``data 8,000 items kept (128,000 bytes), saturated 6×``."""
    parts = [f"{totals.kept:,} items kept ({totals.bytes:,} bytes)"] if lane != _TELEMETRY else []
    parts += [f"{totals.dropped:,} items dropped"] if totals.dropped or lane == _TELEMETRY else []
    parts += [f"saturated {totals.saturated:,}×"] if totals.saturated else []
    return safe(f"{LANE_NAMES.get(lane, lane).lower()} {', '.join(parts)}")


def _stream_name(lane: str) -> str:
    """Items of the data lane stand below its attempts; telemetry has nothing but items."""
    return LANE_NAMES.get(lane, lane) if lane == _TELEMETRY else "└ items"


def _bar(lane: LaneState, width: int, role: Role, *, mark: bool) -> Row:
    """How full it is, with the high mark drawn where the depth has not passed it."""
    filled = 0 if lane.limit == 0 else min(width, -(-lane.depth * width // lane.limit))
    high = lane.high * width // lane.limit if lane.limit else width
    if not mark or not filled <= high < width:
        return (piece("▓" * filled, role), piece("░" * (width - filled), "dim"))
    empty = "░" * (high - filled) + "│" + "░" * (width - high - 1)
    return (piece("▓" * filled, role), piece(empty, "dim"))


def _lane_row(lane: LaneState, width: int, *, roomy: bool) -> Row:
    role: Role = "bad" if lane.saturated else "accent" if lane.depth or lane.running else "dim"
    note: Row = (piece("  saturated" if roomy else " sat", "bad"),) if lane.saturated else ()
    dropped: Row = (
        (piece(f"  dropped {lane.dropped}" if roomy else f" -{lane.dropped}", "warn"),) if lane.dropped else ()
    )
    done = lane.dispatched - lane.running
    counts = f"  running {lane.running}  done {done}" if roomy else f" run {lane.running} done {done}"
    return (
        piece(f"{LANE_NAMES.get(lane.lane, lane.lane):<10}"),
        *_bar(lane, width, role, mark=False),
        piece(f" {lane.depth}/{lane.limit}"),
        piece(counts, "dim"),
        *note,
        *dropped,
    )


def _stream_row(edge: LaneState, bar: int, width: int) -> Row:
    """One edge of stream items, in as many words as there is room for; a bound left out is the bar's end."""
    spacious = width >= _SPACIOUS
    role: Role = "bad" if edge.saturated else "accent" if edge.depth else "dim"
    bound = f"/{edge.limit}" if width >= _COMPACT else ""
    lost = f"  dropped {_brief(edge.dropped)}" if spacious else f" -{_brief(edge.dropped)}"
    dropped: Row = (piece(lost, "warn"),) if edge.dropped else ()
    note: Row = (piece("  saturated" if spacious else " sat", "bad"),) if edge.saturated else ()
    return (
        piece(f"{_stream_name(edge.lane):<10}"),
        *_bar(edge, bar, role, mark=True),
        piece(f" {edge.depth}{bound}"),
        piece(f"{'  ' if spacious else ' '}out {_brief(edge.dispatched)}", "dim"),
        *dropped,
        *note,
    )


def _full(count: int) -> str:
    return f"{count:,}"


def _brief(count: int) -> str:
    """At most four characters: ``812``, ``12k``, ``3.1k``, ``2.0M``."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count // size}{unit}"
    return str(count)


@dataclass(frozen=True, slots=True)
class JournalLook:
    """How entries are drawn: which of them are not to be trusted, how far a checkpoint reaches, how much room there is.

    ``suspects`` are those of which one is the first bad one, where it is not known which. ``anchored`` counts the entries
    the newest checkpoint covers; None when there is no checkpoint, and then none of them is marked.
    """

    bad: frozenset[int] = frozenset()
    trusted: int | None = None
    roomy: bool = True
    suspects: range = range(0)
    anchored: int | None = None

    @classmethod
    def of(cls, verdict: Verification | None, width: int) -> Self:
        roomy = width >= _SPACIOUS
        if verdict is None:
            return cls(roomy=roomy)
        if verdict.ok:
            return cls(roomy=roomy, anchored=verdict.checkpoint_size)
        bad = frozenset(item.seq for item in verdict.findings if item.severity == "error" and item.seq is not None)
        place = bad_place(verdict)
        first, last = place or (verdict.trusted_prefix, verdict.trusted_prefix)
        if first == last:
            return cls(bad, min(first, verdict.trusted_prefix), roomy, anchored=verdict.checkpoint_size)
        trusted = min(first, verdict.trusted_prefix)
        return cls(bad, trusted, roomy, range(first, last + 1), verdict.checkpoint_size)

    def row(self, entry: JournalRow) -> Row:
        """One entry. Those past the trusted prefix are red; the gutter marks bad ones, and those after the checkpoint."""
        broken = entry.seq in self.bad or (self.trusted is not None and entry.seq >= self.trusted)
        role: Role = "bad" if broken else _ENTRY_ROLES.get(entry.kind, "plain")
        stamp: Row = (piece(f"{entry.at[14:23]} {entry.entry_hash[7:11]} ", "dim"),) if self.roomy else ()
        mark = piece(f"{self._gutter(entry.seq)}#{entry.seq:04d} ", "bad" if broken else "dim")
        return (mark, *stamp, (entry.text, role))

    def _gutter(self, seq: int) -> str:
        if seq in self.bad:
            return "✗"
        if seq in self.suspects:
            return "?"
        return AFTER_CHECKPOINT if self.anchored is not None and seq >= self.anchored else " "


def bad_place(verdict: Verification) -> tuple[int, int] | None:
    """The first and the last entry of which one is the first bad one; equal when it is known, None without a bad one."""
    if verdict.bad_between is not None:
        return verdict.bad_between
    named = [item.seq for item in verdict.findings if item.severity == "error" and item.seq is not None]
    if verdict.ok or not named:
        return None
    return min(named), min(named)


def log_row(line: LogLine) -> Row:
    """Live output with its provenance mark, which content cannot forge because it is drawn here."""
    return (piece(f"{line.step_id:<10} ", "dim"), piece(f"⟦{line.origin}⟧ ", "mark"), (line.text, "plain"))


def entry_details(event: EntryAppended) -> list[Row]:
    """One journal entry as it stands in the journal."""
    text = json.dumps(thawed(event.entry), ensure_ascii=False, indent=2, sort_keys=True)
    return [(piece(line),) for line in text.splitlines()[:_DETAIL_LINES]]


def thawed(value: object) -> object:
    """Read-only views as plain containers, for printing."""
    if isinstance(value, Mapping):
        return {str(key): thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
