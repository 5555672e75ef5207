"""The runs screen: which runs it asks the store for, in which order, and how one is drawn at any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from console.model.home import fitted
from console.model.rows import Piece, Role, Row, clock, run_role
from console.model.safe import SafeText, safe
from console.model.words import WARNING_GLYPH, status_glyph, status_word
from runtime.events.facts import RunSummary
from runtime.host.api import RunStatus

#: What ``s`` cycles through: a word, and the statuses it stands for.
GROUPS: Final[tuple[tuple[str, tuple[RunStatus, ...]], ...]] = (
    ("", ()),
    ("unfinished", tuple(status for status in RunStatus if not status.terminal)),
    ("failed", (RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.REFUSED)),
    ("cancelled", (RunStatus.CANCELLED,)),
    ("succeeded", (RunStatus.SUCCEEDED, RunStatus.SKIPPED)),
)
_NORMAL: Final = 100  # cells from which violations and cause have a column
_WIDE: Final = 150


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the store."""

    text: str = ""
    group: int = 0
    sort: str = "created"
    descending: bool = True

    @property
    def statuses(self) -> tuple[RunStatus, ...]:
        return GROUPS[self.group][1]

    @property
    def filtered(self) -> bool:
        return bool(self.text.strip() or self.group)

    def next_group(self) -> Self:
        return replace(self, group=(self.group + 1) % len(GROUPS))

    def by(self, sort: str) -> Self:
        """Sorted by a column: names upwards, everything else from the most; again: the other way round."""
        if sort == self.sort:
            return replace(self, descending=not self.descending)
        return replace(self, sort=sort, descending=sort not in ("mission", "status"))

    def words(self) -> str:
        """The filter and the order, for a title."""
        name = next(column.name for column in COLUMNS if column.sort == self.sort)
        text = f" · /{self.text.strip()}" if self.text.strip() else ""
        group = f" · {GROUPS[self.group][0]}" if self.group else ""
        return f"{group}{text} · by {name} {arrow(self.descending)}"


def arrow(descending: bool) -> str:
    """The direction of an order."""
    return "↓" if descending else "↑"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its cells at three widths (0: not shown), and the order it stands for, if any."""

    name: str
    widths: tuple[int, int, int]
    text: Callable[[RunSummary], str]
    role: Callable[[RunSummary], Role]
    sort: str | None = None
    right: bool = False


def _status(run: RunSummary) -> str:
    why = f" {run.code or run.reason}" if (run.code or run.reason) and run.status.terminal else ""
    glyph = status_glyph(run.status, resumable=run.resumable)
    return f"{glyph} {status_word(run.status, resumable=run.resumable)}{why}"


def _started(run: RunSummary) -> str:
    return run.created_at[5:16].replace("T", " ")


def _refused(run: RunSummary) -> str:
    return f"{WARNING_GLYPH}{run.violations}" if run.violations else "·"


def _cause(run: RunSummary) -> str:
    return f"{run.trigger}: {run.cause}" if run.cause else run.trigger


def _dim(run: RunSummary) -> Role:
    return "dim"


def _plain(run: RunSummary) -> Role:
    return "plain"


COLUMNS: Final = (
    Column("run", (8, 8, 8), lambda run: run.run_id[:8], _dim),
    Column("mission", (14, 20, 26), lambda run: run.mission, _plain, "mission"),
    Column("status", (20, 26, 40), _status, run_role, "status"),
    Column("steps", (5, 7, 7), lambda run: f"{run.steps_done}/{run.steps_total}", _plain, right=True),
    Column("time", (7, 7, 9), lambda run: clock(run.duration_ms), _dim, "duration", right=True),
    Column("started", (11, 11, 11), _started, _dim, "created"),
    Column("refused", (0, 8, 8), _refused, lambda run: "warn" if run.violations else "dim", "violations", right=True),
    Column("cause", (0, 64, 96), _cause, _dim),
)


def columns(width: int) -> Sequence[tuple[Column, int]]:
    """The columns there is room for, with their cells."""
    size = 0 if width < _NORMAL else 1 if width < _WIDE else 2
    return [(column, column.widths[size]) for column in COLUMNS if column.widths[size]]


def sortable(width: int) -> list[str]:
    """The names of the columns that can be sorted by, left to right."""
    return [column.name for column, _ in columns(width) if column.sort is not None]


def sort_of(name: str) -> str:
    """The order a column stands for."""
    return next(column.sort for column in COLUMNS if column.name == name and column.sort is not None)


def header(query: Query, picked: str, width: int) -> Row:
    """Column names: the one sorted by with its direction, the picked one in accent."""
    pieces: list[Piece] = []
    for column, cells in columns(width):
        mark = arrow(query.descending) if column.sort == query.sort else ""
        role: Role = "accent" if column.name == picked else "dim"
        pieces.append((_cell(f"{column.name}{mark}", cells, right=column.right), role))
    return tuple(pieces)


def row(run: RunSummary, width: int) -> Row:
    """One run."""
    return tuple(
        (_cell(column.text(run), cells, right=column.right), column.role(run)) for column, cells in columns(width)
    )


def _cell(text: str, cells: int, *, right: bool) -> SafeText:
    body = SafeText(f"{safe(text, limit=cells):>{cells}}") if right else fitted(text, cells)
    return SafeText(f"{body}  ")


def title(shown: int, query: Query, *, known: bool) -> SafeText:
    """How many runs the list has, and which."""
    return safe(f"runs  {shown:,}{query.words()}" if known else f"runs{query.words()}")
