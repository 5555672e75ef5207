"""Refused operations as rows: one line each, and in full with the answer to "why"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from console.model.rows import Role, Row, piece
from console.model.words import WARNING_GLYPH
from runtime.events.facts import Place, Violation

_OUTCOMES: Final = {
    "accepted": "the mission expects this code; the run went on",
    "went_on": "the operation went on without it",
    "ended": "it ended the run",
    "survived": "the step failed; the run did not end by it",
    "open": "the run has not ended yet",
}
_SINCE: Final = {
    "changed": "the mission file has changed since: the lines are those the run read",
    "gone": "the mission file cannot be read any more: the lines are those the run read",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """How wide the names of a list of refusals are; long ones push the rest of their line to the right."""

    step: int
    code: int
    mission: int | None = None  # None: the list is of one run

    @classmethod
    def of(cls, items: Sequence[Violation], *, with_run: bool = False) -> Self:
        mission = _widest((item.mission for item in items), 14) if with_run else None
        return cls(_widest((item.step_id for item in items), 14), _widest((item.code for item in items), 22), mission)


def _widest(names: Iterable[str], most: int) -> int:
    return min(most, max(map(len, names), default=0))


def violation_row(item: Violation, columns: Columns) -> Row:
    """One refused operation; an expected one is amber, others red. The rule comes last, as the code hints at it."""
    role = _role(item)
    run: Row = ()
    if columns.mission is not None:
        run = (piece(f"{item.run_id[:8]} {item.mission:<{columns.mission}}  ", "dim"),)
    return (
        piece(f"{WARNING_GLYPH if item.accepted else '✗'} ", role),
        *run,
        piece(f"{item.step_id:<{columns.step}}  "),
        piece(f"{item.code:<{columns.code}}  ", role),
        piece(f"{item.attempted}  "),
        piece(item.rule, "dim"),
    )


def violation_details(item: Violation) -> list[Row]:
    """One refused operation in full: what was attempted, which rule refused it and where, what it would have taken,
    and what became of it."""
    return [
        _line("reason", item.reason, _role(item)),
        _line("attempted", item.attempted),
        *_place(item.position),
        _line("refused by", item.rule),
        *_place(item.rule_position),
        _line("needed", item.needed, "accent"),
        _line("became", _OUTCOMES.get(item.outcome) or ("expected by the mission" if item.accepted else "–")),
        *_since(item),
        (),
        _line("code", item.code),
        _line("check", item.check or "–"),
        _line("run", f"{item.run_id[:8]} {item.mission}"),
        _line("step", item.step_id),
        _line("operation", f"{item.operation_id}{' (while it ran)' if item.during else ''}"),
        _line("entry", f"#{item.seq:04d} {item.at}"),
    ]


def matches(item: Violation, text: str) -> bool:
    """Does what the list shows of it hold ``text``, whatever the case?"""
    shown = (item.run_id[:8], item.mission, item.step_id, item.code, item.rule, item.attempted, item.path or "")
    return text.strip().lower() in "\n".join(shown).lower()


def _role(item: Violation) -> Role:
    return "warn" if item.accepted else "bad"


def _line(label: str, value: str, role: Role = "plain") -> Row:
    return (piece(f"{label:<11}", "dim"), piece(value, role))


def _place(place: Place | None) -> Iterator[Row]:
    if place is None:
        return
    yield (piece(f"{'at':<11}{place.path}:{place.line}:{place.column}", "dim"),)
    yield from ((piece(f"   {line}", "dim"),) for line in place.snippet.splitlines())


def _since(item: Violation) -> Iterator[Row]:
    since = item.position.since if item.position is not None else ""
    if since in _SINCE:
        yield _line("note", _SINCE[since], "warn")
