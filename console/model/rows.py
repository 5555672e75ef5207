"""What panels draw: rows of text pieces, each with a role. Roles become colours only in the style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from console.model.fold import LogLine, RunState, StepRow
from console.model.safe import SafeText, safe
from console.model.words import WARNING_GLYPH, glyph, status_glyph, status_word
from runtime.events.facts import LaneState, RunSummary, Violation

Role = Literal["plain", "dim", "good", "warn", "bad", "accent", "mark"]
Piece = tuple[SafeText, Role]
Row = tuple[Piece, ...]

_TURN_PATH: Final = ("Idle", "Opening", "Active", "Terminal", "Closed")
_TURN_SHORT: Final = {"Opening": "Open", "Terminal": "Term"}
_ROOMY: Final = 44  # cells from which rows spell things out
_LANE_NAMES: Final = {"ControlLane": "CONTROL", "DataLane": "DATA", "TelemetryLane": "TELEMETRY"}
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


def headline(run: RunSummary) -> Row:
    """Run id, mission, status and progress."""
    word = status_word(run.status, resumable=run.resumable)
    role = run_role(run)
    why = run.code or run.reason
    return (
        piece(f"{run.run_id[:8]} ", "dim"),
        piece(f"{run.mission} v{run.mission_version}  "),
        piece(f"{status_glyph(run.status, resumable=run.resumable)} {word}", role),
        piece(f"  {run.steps_done}/{run.steps_total} steps  {clock(run.duration_ms)}", "dim"),
        *((piece(f"  {why}", role),) if why else ()),
    )


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


def step_rows(state: RunState) -> list[Row]:
    """One row per step of the run."""
    found = state.step_rows()
    width = min(24, max((len(row.step_id) for row in found), default=0))
    return [_step_row(row, width) for row in found]


def _step_row(row: StepRow, width: int) -> Row:
    role: Role = "warn" if row.accepted else _STEP_ROLES.get(row.status, "plain")
    notes = []
    if row.attempt > 1:
        notes.append(f"attempt {row.attempt}")
    if row.visit > 1:
        notes.append(f"visit {row.visit}")
    if row.code:
        notes.append(f"{row.code}{' (expected)' if row.accepted else ''}")
    return (
        piece(f"{glyph(row.status, accepted=row.accepted)} ", role),
        piece(f"{row.step_id:<{width}} "),
        piece(f"{row.status:<11} ", role),
        piece(row.block_type, "dim"),
        *((piece("  " + "  ".join(notes), "dim"),) if notes else ()),
    )


def lane_rows(state: RunState, width: int) -> list[Row]:
    """One row per lane: a depth bar with its watermarks, counts, and saturation."""
    roomy = width >= _ROOMY
    bar = max(8, min(24, width - 44)) if roomy else 8
    rows = [_lane_row(lane, bar, roomy=roomy) for lane in state.lanes]
    if not rows:
        rows = [(piece("no lane activity recorded; gauges are live only", "dim"),)]
    slots = f"{state.pool_running}/{state.pool_slots}" if state.pool_slots else "–"
    rows.append((piece(f"pool {slots} slots busy", "dim"), piece(f"  entries {state.last_seq + 1}", "dim")))
    return rows


def _lane_row(lane: LaneState, width: int, *, roomy: bool) -> Row:
    filled = 0 if lane.limit == 0 else min(width, -(-lane.depth * width // lane.limit))
    role: Role = "bad" if lane.saturated else "accent" if lane.depth or lane.running else "dim"
    note: Row = (piece("  saturated" if roomy else " sat", "bad"),) if lane.saturated else ()
    dropped: Row = (
        (piece(f"  dropped {lane.dropped}" if roomy else f" -{lane.dropped}", "warn"),) if lane.dropped else ()
    )
    done = lane.dispatched - lane.running
    counts = f"  running {lane.running}  done {done}" if roomy else f" run {lane.running} done {done}"
    return (
        piece(f"{_LANE_NAMES.get(lane.lane, lane.lane):<10}"),
        piece("▓" * filled, role),
        piece("░" * (width - filled), "dim"),
        piece(f" {lane.depth}/{lane.limit}"),
        piece(counts, "dim"),
        *note,
        *dropped,
    )


def journal_rows(state: RunState) -> list[Row]:
    """The tail of the journal. Entries past the trusted prefix are red."""
    verdict = state.verification
    trusted = verdict.trusted_prefix if verdict is not None and not verdict.ok else None
    bad = {item.seq for item in verdict.findings if item.severity == "error"} if verdict is not None else set()
    rows: list[Row] = []
    for entry in state.journal:
        broken = entry.seq in bad or (trusted is not None and entry.seq >= trusted)
        role: Role = "bad" if broken else _ENTRY_ROLES.get(entry.kind, "plain")
        rows.append(
            (
                piece(f"{'✗' if entry.seq in bad else ' '}#{entry.seq:04d} ", "bad" if broken else "dim"),
                piece(f"{entry.at[14:23]} {entry.entry_hash[7:11]} ", "dim"),
                piece(entry.text, role),
            )
        )
    return rows


def journal_title(state: RunState) -> tuple[SafeText, Role]:
    """The hash-chain verdict in a few words: unknown is never shown as ok."""
    verdict = state.verification
    if verdict is None:
        return safe("not checked yet"), "dim"
    if verdict.ok:
        return safe(f"✓ chain good to #{verdict.entries - 1:04d}{' · closed' if verdict.closed else ''}"), "good"
    first = next((item for item in verdict.findings if item.severity == "error"), None)
    place = (
        f"entry {first.seq} {first.code}"
        if first is not None and first.seq is not None
        else first.code
        if first
        else ""
    )
    return safe(f"✗ BROKEN at {place} · {verdict.trusted_prefix} trusted"), "bad"


def violation_rows(violations: Iterable[Violation], *, with_run: bool = False) -> list[Row]:
    """One row per refused operation; expected ones are amber, others red."""
    rows: list[Row] = []
    for item in violations:
        role: Role = "warn" if item.accepted else "bad"
        run = (piece(f"{item.run_id[:8]} {item.mission:<14} ", "dim"),) if with_run else ()
        rows.append(
            (
                piece(f"{WARNING_GLYPH if item.accepted else '✗'} ", role),
                *run,
                piece(f"{item.step_id:<11} "),
                piece(f"{item.code:<22} ", role),
                piece(item.path or "", "dim"),
            )
        )
    return rows


def log_rows(lines: Iterable[LogLine]) -> list[Row]:
    """Live output with its provenance mark, which content cannot forge because it is drawn here."""
    return [
        (piece(f"{line.step_id:<10} ", "dim"), piece(f"⟦{line.origin}⟧ ", "mark"), (line.text, "plain"))
        for line in lines
    ]
