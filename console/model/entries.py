"""The journal screen: what its filter means, and how one entry of a page is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from console.model.describe import describe_entry
from console.model.fold import JournalRow
from console.model.rows import JournalLook, Row, piece
from runtime.events.facts import EntryAppended

#: The kinds a filter can name, as the journal spells them.
KINDS: Final = (
    "journal_opened",
    "plan",
    "signal",
    "step_started",
    "step_finished",
    "operation_started",
    "operation_denied",
    "receipt",
    "compensation_started",
    "compensation_finished",
    "escalation",
    "budget",
    "kill_switch",
    "recovery",
    "external_modification",
    "operator_action",
    "evidence",
    "journal_closed",
)
#: Entries of one step are searched for; this many are shown, and this many are looked through at a time.
MATCHES: Final = 5_000
SLICE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The place of an entry the store could not give."""

    seq: int


Shown = JournalRow | Unreadable


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are shown: those of some kinds, or those that name a step."""

    kinds: tuple[str, ...] = ()
    step: str | None = None

    def __bool__(self) -> bool:
        return bool(self.kinds) or self.step is not None

    def words(self) -> str:
        """For a title."""
        parts = [", ".join(self.kinds)] if self.kinds else []
        if self.step is not None:
            parts.append(f"step {self.step}")
        return " of ".join(parts)


def read_filter(text: str, steps: Collection[str]) -> Filter | str:
    """What the operator typed: a step's name, a part of kinds' names, or both; or why it means nothing."""
    kinds: tuple[str, ...] = KINDS
    step: str | None = None
    narrowed = False
    for word in text.split():
        if word in steps:
            step = word
            continue
        kinds, narrowed = tuple(kind for kind in kinds if word.casefold() in kind), True
        if not kinds:
            return f"{word!r} is neither a step nor part of a kind such as receipt, step, denied, signal"
    return Filter(kinds if narrowed else (), step)


def shown_rows(entries: Sequence[EntryAppended]) -> list[JournalRow]:
    """Entries as lines."""
    return [
        JournalRow(item.seq, item.at, item.kind, describe_entry(item.kind, item.entry), item.entry_hash)
        for item in entries
    ]


def placed(entries: Sequence[EntryAppended], first: int, count: int, committed: int) -> list[Shown]:
    """The rows of one page, each at its number. A number the store did not give below ``committed`` is unreadable;
    at the end of a journal that is being written it is merely not there yet."""
    found = {item.seq: item for item in shown_rows(entries)}
    rows: list[Shown] = []
    for seq in range(first, first + count):
        if seq not in found and seq >= committed:
            break
        rows.append(found.get(seq, Unreadable(seq)))
    return rows


def entry_row(item: Shown, look: JournalLook) -> Row:
    """One entry, or the gap where it should be."""
    if isinstance(item, Unreadable):
        return (piece(f"✗#{item.seq:04d} ", "bad"), piece("cannot be read; V says what is wrong", "bad"))
    return look.row(item)
