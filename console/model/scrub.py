"""The rows of the replay screen: where we are, the scrub bar, what a recorded check said, lanes without gauges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from console.model.compare import named
from console.model.describe import describe_entry
from console.model.playback import Playback, shortened
from console.model.replay import Mark, Replay, elapsed_ms
from console.model.rows import LANE_NAMES, Piece, Role, Row, clock, piece
from console.model.words import WARNING_GLYPH
from runtime.events.facts import ReplayReport

BOOKMARK_GLYPH: Final = "◆"
_HERE: Final = "●"
#: Glyph and role of each kind of mark, and which one shows where several fall into one cell (later ones win).
_LOOKS: Final[dict[str, tuple[str, Role]]] = {
    "event": ("!", "warn"),
    "bookmark": (BOOKMARK_GLYPH, "accent"),
    "divergence": (WARNING_GLYPH, "bad"),
}
_ORDER: Final = tuple(_LOOKS)
_ROOMY: Final = 100


def place_row(replay: Replay, play: Playback) -> Row:
    """Entry, wall time, elapsed time, speed; then why the picture stands still, if it does."""
    here, pieces = max(0, replay.here), [_state(play)]
    pieces.append(piece(f"  entry {here:04d}/{replay.last:04d}"))
    pieces.append(piece(f"  {utc(replay.time(here))}  +{span(elapsed_ms(replay))}", "plain"))
    if replay.ended is not None and replay.began is not None:
        pieces.append(piece(f" of {span(int((replay.ended - replay.began) * 1000))}", "dim"))
    pieces.extend(_note(replay, play))
    return tuple(pieces)


def _state(play: Playback) -> Piece:
    speed = "entry per tick" if play.factor is None else f"×{play.factor}"
    return piece(f"▶ {speed}", "good") if play.playing else piece(f"‖ {speed}", "dim")


def _note(replay: Replay, play: Playback) -> Row:
    """One thing worth knowing here: damage, work in progress, a long pause, a bookmark, what the entry says."""
    if replay.readable < replay.total:
        return (piece(f"  {WARNING_GLYPH} {replay.total - replay.readable:,} unreadable", "warn"),)
    if not replay.arrived:
        return (piece(f"  … going to {replay.target:,}", "accent"),)
    pause = shortened(play, replay.here, replay.time)
    if pause is not None:
        return (piece(f"  … {clock(int(pause * 1000))} waiting", "warn"),)
    here = _by_weight(replay.marks_at(replay.here))[::-1]
    if here:
        return tuple(piece(f"  {_LOOKS[mark.kind][0]} {mark.label}".rstrip(), _LOOKS[mark.kind][1]) for mark in here)
    if replay.scanned < replay.readable:
        return (piece(f"  … marks to {replay.scanned:,}", "dim"),)
    if replay.events_thinned:
        return (piece(f"  {replay.events_thinned:,} marks left out", "dim"),)
    return ()


def span(ms: int) -> str:
    """A length of time: tenths of a second below a minute, else a clock."""
    return f"{ms / 1000:.1f}s" if ms < 60_000 else clock(ms)


def utc(seconds: float | None) -> str:
    """Time of day of a journal time."""
    return "--:--:--" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S} UTC"


def bar_row(replay: Replay, width: int) -> Row:
    """The whole journal in one line: the position, the marks, how far it was searched for them, its end."""
    inner = max(2, width - 2)
    cells: list[Piece] = [piece("─", "dim")] * inner
    for index in range(_cell(replay.scanned, replay, inner) + 1, inner):
        cells[index] = piece("┄", "dim")
    cells[-1] = piece("|", "plain" if replay.run.status.terminal else "accent")
    for mark in _by_weight(replay.marks()):
        cells[_cell(mark.seq, replay, inner)] = piece(*_LOOKS[mark.kind])
    cells[_cell(max(0, replay.here), replay, inner)] = piece(_HERE, "good")
    return joined([piece("├", "dim"), *cells, piece("┤", "dim")])


def _by_weight(marks: Iterable[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: _ORDER.index(mark.kind))


def _cell(seq: int, replay: Replay, inner: int) -> int:
    return min(inner - 1, seq * (inner - 1) // max(1, replay.last))


def seq_at(column: int, replay: Replay, width: int) -> int:
    """The entry under a column of the bar, for a click."""
    inner = max(2, width - 2)
    return max(0, min(replay.last, -(-(column - 1) * replay.last // (inner - 1))))


def joined(pieces: Sequence[Piece]) -> Row:
    """Neighbours of one role as one piece."""
    row: list[Piece] = []
    for text, role in pieces:
        if row and row[-1][1] == role:
            row[-1] = piece(row[-1][0] + text, role)
        else:
            row.append((text, role))
    return tuple(row)


def legend_row(replay: Replay, width: int) -> Row:
    """What the marks on the bar mean, and how many there are."""
    events, kept = replay.events_seen, len(replay.bookmarks)
    meaning = " refusals, failures, questions, operator actions" if width >= _ROOMY else ""
    return (
        piece(f"{BOOKMARK_GLYPH} {kept} bookmark{'s' if kept != 1 else ''} (b sets, B lists)", "dim"),
        piece(f"   ! {events}{meaning}", "dim"),
        piece(f"   {WARNING_GLYPH} R looks for divergences", "dim"),
    )


def report_row(report: ReplayReport | None, *, checking: bool) -> Row:
    """What the recorded check said, in one line; empty before the first."""
    if checking:
        return (piece("… checking: every operation is answered from its receipt", "accent"),)
    if report is None:
        return ()
    comparison = report.comparison
    answered = f"{report.operations_answered} of {report.operations_total} operations answered from receipts"
    questions = report.questions_answered
    asked = f" · {questions} answer{'s' if questions != 1 else ''} reused" if questions else ""
    asked += f" · mission {report.mission_source} · {report.duration_ms:.0f} ms"
    drift = (piece(f" · {comparison.drift.replace('_', ' ')}", "warn"),) if comparison.drift else ()
    if comparison.equivalent:
        return (piece("✓ equivalent", "good"), piece(f" · {answered}{asked}", "dim"), *drift)
    return (piece("✗ ", "bad"), *first_divergence(report), piece(f" · {answered}{asked}", "dim"), *drift)


def first_divergence(report: ReplayReport) -> Row:
    """Where the check found another telling first, and how much comes after it."""
    first, downstream = report.comparison.first, len(report.comparison.downstream)
    if first is None:
        return (piece("not equivalent", "bad"),)
    after = f", {downstream} steps after it" if downstream else ""
    return (piece(f"first divergence: {first.step_id or first.scope} · {named(first.kind)}{after}", "bad"),)


def lane_rows(replay: Replay) -> list[Row]:
    """Lanes as the journal knows them: gauges are not entries (ruling R23), attempts are."""
    attempts = replay.view.attempts
    rows: list[Row] = [
        (piece(f"{name:<10}", "dim"), piece(f"attempts {attempts.get(lane, 0)}")) for lane, name in LANE_NAMES.items()
    ]
    rows.append((piece(f"spent ${replay.view.spent_micros / 1_000_000:.4f}", "dim"),))
    rows.append((piece("queue gauges are not recorded", "dim"),))
    return rows


def bookmark_rows(replay: Replay) -> list[tuple[int, Row]]:
    """The bookmarks in journal order, with what the entry says where its page is read."""
    rows = []
    for seq, label in sorted(replay.bookmarks.items()):
        entry = replay.pages.get(seq)
        said = describe_entry(entry.kind, entry.entry) if entry is not None else ""
        row: Row = (piece(f"{BOOKMARK_GLYPH} #{seq:04d}  ", "accent"), piece(label or "–"), piece(f"   {said}", "dim"))
        rows.append((seq, row))
    return rows
