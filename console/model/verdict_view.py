"""What the verify view says: the three verdicts in full, what vouches for them, and what falsifying would show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from console.model.rows import Role, Row, bad_place, piece
from console.model.safe import safe
from console.model.verdicts import NAMES, STANDINGS, full_words, standing_of, verdict_of
from runtime.events.facts import Finding, Manipulation, SinkState, Verdict, Verification

_LEVELS: Final = {
    "chain": "the entries fit each other; nothing outside the journal vouches for them",
    "anchored": "recorded beside the journal as well",
    "authenticated": "signed with a key that is trusted here",
    "witnessed": "confirmed by something outside the store",
}
_SHOWN: Final[tuple[str, str, Role]] = ("✓", "shows", "good")
_HIDDEN: Final[tuple[str, str, Role]] = ("○", "hidden", "dim")
_LABEL: Final = 16  # cells of the labels on the left
_LEAST: Final = 20  # cells that words get at least, however narrow the panel
_SPELT: Final = 13  # cells of a word of five letters, spelt out, with its number
_COLUMNS: Final = 84  # cells from which the table of manipulations is one line per row

Line = Finding | Row


def summary_rows(verdict: Verification, entries: int, width: int) -> list[Row]:
    """Everything but the findings themselves. ``entries`` is how many there are by now, ``width`` cells are for it."""
    counted = {name: _Counted.of(verdict, name) for name in NAMES}
    rows: list[Row] = []
    for name in NAMES:
        rows += _block(verdict, name, counted[name], entries, width)
    rows += [
        (),
        *labelled(
            "level", f"{verdict.level}: {_LEVELS.get(verdict.level, 'a level this console does not know')}", width
        ),
        *_first_bad(verdict, width),
        *labelled("checked", _checked(verdict, entries), width, "dim"),
        (),
        *words_rows("checkpoint", verdict.words, _checkpoint_words(verdict, entries), width),
        *words_rows("signed by", verdict.key_words, "the key in six words, to compare over the telephone", width),
        (),
        *_sink_rows(verdict, width),
        (),
        *manipulation_rows(verdict.manipulations, width),
    ]
    return rows


@dataclass(frozen=True, slots=True)
class _Counted:
    errors: int
    warnings: int

    @classmethod
    def of(cls, verdict: Verification, name: str) -> _Counted:
        severities = [item.severity for item in verdict.findings if verdict_of(item.code) == name]
        errors = severities.count("error")
        return cls(errors, len(severities) - errors)

    def words(self) -> str:
        parts = [_plural(self.errors, "error")] if self.errors else []
        return ", ".join([*parts, *([_plural(self.warnings, "warning")] if self.warnings else [])])


def _plural(count: int, word: str, many: str = "") -> str:
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def _block(verdict: Verification, name: str, counted: _Counted, entries: int, width: int) -> Iterator[Row]:
    """One verdict: its standing, why, and how much was found."""
    glyph, role = STANDINGS[standing_of(verdict, name)]
    told: Verdict = getattr(verdict, name)
    first, *rest = _lines(told.words or full_words(verdict, name, entries), width - _LABEL)
    yield (piece(f"{glyph} {name:<{_LABEL - 2}}", role), piece(first, role))
    yield from ((piece(" " * _LABEL), piece(line, role)) for line in rest)
    if counted.words():
        yield (piece(" " * _LABEL), piece(counted.words(), "bad" if counted.errors else "warn"))


def _first_bad(verdict: Verification, width: int) -> Iterator[Row]:
    place = bad_place(verdict)
    if place is None:
        return
    first, last = place
    where = f"#{first:04d}" if first == last else f"one of #{first:04d} to #{last:04d}, not known which"
    yield from labelled("first bad", f"{where}; B goes there", width, "bad")
    yield from labelled("trusted", f"{verdict.trusted_prefix:,} entries before it", width)


def _checked(verdict: Verification, entries: int) -> str:
    closed = "closed" if verdict.closed else "not closed"
    newer = entries - verdict.entries
    since = f"; {newer:,} newer since, ctrl+r checks again" if newer > 0 else ""
    at = f", {verdict.checked_at[:19]}Z" if verdict.checked_at else ""
    return f"{_plural(verdict.entries, 'entry', 'entries')}, {closed}, {verdict.duration_ms:.0f} ms{at}{since}"


def _checkpoint_words(verdict: Verification, entries: int) -> str:
    if verdict.checkpoint_size is None:
        return "none yet: nothing signed speaks of this journal"
    tail = verdict.unanchored_tail + max(0, entries - verdict.entries)
    return f"of {verdict.checkpoint_size:,} entries" + (f"; {tail:,} after it" if tail else "; none after it")


def words_rows(label: str, words: str, about: str, width: int) -> Iterator[Row]:
    """Six words, numbered and spelt out, so that they can be read to somebody who has the other copy."""
    yield from labelled(label, about, width, "dim")
    spelt = [f"{number} {' '.join(safe(word))}" for number, word in enumerate(words.split(), 1)]
    fitting = 6 if width - _LABEL >= 6 * _SPELT else 3
    for at in range(0, len(spelt), fitting):
        line = "".join(f"{word:<{_SPELT}}" for word in spelt[at : at + fitting]).rstrip()
        yield (piece(" " * (_LABEL if width >= 3 * _SPELT + _LABEL else 0)), piece(line, "accent"))


def _sink_rows(verdict: Verification, width: int) -> Iterator[Row]:
    if not verdict.sinks:
        yield from labelled("kept outside", "nowhere: no place outside the store remembers checkpoints", width, "dim")
        return
    for number, sink in enumerate(verdict.sinks):
        words, role = _sink(sink, verdict.entries)
        yield from labelled("" if number else "kept outside", f"{sink.name}  {words}", width, role)


def _sink(sink: SinkState, entries: int) -> tuple[str, Role]:
    if sink.trouble:
        return f"▲ {sink.trouble}", "warn"
    if sink.size is None:
        return "○ knows nothing of this journal yet", "dim"
    if sink.size == 0:
        return "✗ remembers other entries, or more", "bad"
    return f"✓ confirms {sink.size:,} of {entries:,} entries", "good"


def manipulation_rows(manipulations: Iterable[Manipulation], width: int) -> list[Row]:
    """What this evidence would and would not reveal, one row each, or two where there is little room."""
    items = list(manipulations)
    if not items:
        return []
    rows: list[Row] = [(piece("what this evidence would reveal, and what it would not", "accent"),)]
    longest = min(48, max(len(item.what) for item in items))
    for item in items:
        glyph, word, role = _SHOWN if item.revealed else _HIDDEN
        head = (piece(f"{glyph} {word:<7}", role), piece(f"{item.what:<{longest}}"))
        if width >= _COLUMNS and len(item.what) <= longest:
            first, *rest = _lines(item.because, width - longest - 11)
            rows.append((*head, piece(f"  {first}", "dim")))
            rows += [(piece(" " * (longest + 11)), piece(line, "dim")) for line in rest]
        else:
            rows.append(head)
            rows += [(piece(" " * 9), piece(line, "dim")) for line in _lines(item.because, width - 9)]
    return rows


def labelled(label: str, words: str, width: int, role: Role = "plain") -> Iterator[Row]:
    for number, line in enumerate(_lines(words, width - _LABEL)):
        yield (piece(f"{'' if number else label:<{_LABEL}}", "dim"), piece(line, role))


def _lines(words: str, width: int) -> list[str]:
    """Untrusted words in lines of so many cells; at least one, possibly empty."""
    return textwrap.wrap(safe(words), max(_LEAST, width), break_on_hyphens=False) or [""]


# -- findings ----------------------------------------------------------------------------------------------------------


def finding_lines(verdict: Verification) -> list[Line]:
    """All findings below the verdict they belong to, however many; verdicts without any are left out."""
    lines: list[Line] = []
    for name in NAMES:
        found = [item for item in verdict.findings if verdict_of(item.code) == name]
        if found:
            role = STANDINGS[standing_of(verdict, name)][1]
            lines += [(piece(f"{name}  ", role), piece(_Counted.of(verdict, name).words(), "dim")), *found]
    return lines


def finding_row(line: Line) -> Row:
    """One of them, or the heading above them."""
    if not isinstance(line, Finding):
        return line
    glyph, role = STANDINGS["bad" if line.severity == "error" else "warn"]
    place = "" if line.seq is None else f"#{line.seq:04d}"
    return (piece(f"{glyph} {place:<7}", role), piece(f"{line.code:<20} ", role), piece(line.detail))
