"""What undoing a run would undo, as the dialog that asks shows it."""

from __future__ import annotations

from typing import Final

from console.model.rows import Row, piece
from runtime.events.facts import UndoPlan, UndoStep

#: Writes listed; a run may have made thousands.
_LISTED: Final = 200
_PATHS: Final = 3
_PREFIX: Final = len("sha256:")
_SHOWN: Final = _PREFIX + 16


def undo_word(plan: UndoPlan) -> str:
    """The beginning of the digest the approval is bound to; what an operator types to agree."""
    return plan.digest[_PREFIX : _PREFIX + 8]


def undo_rows(plan: UndoPlan) -> list[Row]:
    """The digest, then one row per write in the order of the undo."""
    rows: list[Row] = [(piece("digest  ", "dim"), piece(f"{plan.digest[:_SHOWN]}…")), ()]
    width = max((len(step.operation_id) for step in plan.steps[:_LISTED]), default=0)
    rows.extend(_row(number, step, width) for number, step in enumerate(plan.steps[:_LISTED], 1))
    left = len(plan.steps) - _LISTED
    return [*rows, (piece(f"and {left:,} more", "dim"),)] if left > 0 else rows


def _row(number: int, step: UndoStep, width: int) -> Row:
    more = f" and {len(step.paths) - _PATHS} more" if len(step.paths) > _PATHS else ""
    return (
        piece(f"{number:>3}  ", "dim"),
        piece(f"{step.operation_id:<{width}}  "),
        piece(f"{step.compensation}  ", "accent"),
        piece(f"{', '.join(step.paths[:_PATHS])}{more}"),
    )
