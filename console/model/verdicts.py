"""The three verdicts on a journal in a panel's title, in as many words as there is room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from console.model.fold import RunState
from console.model.rows import Role, Row, bad_place, piece
from runtime.events.facts import Finding, Verification

#: Glyph and role of each standing. What is unknown is never shown as good.
STANDINGS: Final[dict[str, tuple[str, Role]]] = {
    "good": ("✓", "good"),
    "warn": ("▲", "warn"),
    "bad": ("✗", "bad"),
    "unknown": ("○", "dim"),
}
NAMES: Final = ("integrity", "completeness", "anchoring")
#: Which verdict a finding belongs to; all others are about integrity.
_COMPLETENESS: Final = ("J_MISSING", "J_EMPTY", "J_TORN_TAIL", "J_TRUNCATED", "J_STEP_OPEN", "J_ARTIFACT_MISSING")
_ANCHORING: Final = (
    "J_ANCHOR_",
    "J_WITNESS_",
    "J_UNANCHORED_TAIL",
    "J_KEY_",
    "J_CHECKPOINT_",
    "KEY_",
    "NOTE_",
    "SINK_",
)


@dataclass(frozen=True, slots=True)
class _Told:
    """One verdict in a title: in as few words as can be, in a few more, and in full."""

    standing: str
    tiny: str
    short: str
    full: str


def journal_title(state: RunState, width: int) -> Row:
    """The verdicts on the run's journal, as far as it was read."""
    return title_row(state.verification, state.last_seq + 1, width)


def title_row(verdict: Verification | None, entries: int, width: int) -> Row:
    """The verdicts in at most ``width`` cells, if they can be said in so few. ``entries`` is how many there are by now."""
    if verdict is None:
        return (piece("not checked yet", "dim"),)
    told = (_chain(verdict), _complete(verdict), _anchored(verdict, max(entries, verdict.entries)))
    newer = entries - verdict.entries
    since: Row = (piece(f" · {newer:,} newer", "dim"),) if newer > 0 else ()
    full = (*_joined([(item.standing, item.full) for item in told], " · "), *since)
    stressed = [(item.standing, item.full if item.standing in ("warn", "bad") else item.short) for item in told]
    short = _joined([(item.standing, item.short) for item in told], " ")
    fitting = (row for row in (full, _joined(stressed, " · "), short) if _cells(row) <= width)
    return next(fitting, _joined([(item.standing, item.tiny) for item in told], " "))


def title_role(verdict: Verification | None) -> Role:
    """The role of a panel with that title: the worst of the three, good only when all are."""
    if verdict is None:
        return "dim"
    found = {standing_of(verdict, name) for name in NAMES}
    return next((STANDINGS[item][1] for item in ("bad", "warn", "unknown") if item in found), "good")


def _joined(parts: Iterable[tuple[str, str]], between: str) -> Row:
    row: list[tuple[str, Role]] = []
    for standing, words in parts:
        glyph, role = STANDINGS[standing]
        row += [(between, "dim"), (f"{glyph} {words}", role)]
    return tuple(piece(text, role) for text, role in row[1:])


def _cells(row: Row) -> int:
    return sum(len(text) for text, _ in row)


def standing_of(verdict: Verification, name: str) -> str:
    """The standing of one verdict. A journal that is not ok has at least one that is bad, whatever they say."""
    given = {item: getattr(verdict, item).standing for item in NAMES}
    if name == NAMES[0] and not verdict.ok and "bad" not in given.values():
        return "bad"
    return given[name] if given[name] in STANDINGS else "unknown"


def full_words(verdict: Verification, name: str, entries: int) -> str:
    """One verdict in full, where its own words are missing."""
    told = {"integrity": _chain, "completeness": _complete}.get(name)
    return (told(verdict) if told is not None else _anchored(verdict, max(entries, verdict.entries))).full


def verdict_of(code: str) -> str:
    """The name of the verdict a finding belongs to."""
    if code in _COMPLETENESS:
        return "completeness"
    return "anchoring" if code.startswith(_ANCHORING) else "integrity"


def _chain(verdict: Verification) -> _Told:
    standing = standing_of(verdict, "integrity")
    if standing == "bad":
        place = bad_place(verdict)
        broken = [item.code for item in verdict.findings if item.severity == "error" and _of_chain(item)]
        code = f" {broken[0]}" if broken else ""
        first = f"#{place[0]:04d}" if place else "broken"
        return _Told(standing, first, f"chain {_place_words(place) or 'broken'}", f"chain broken{_at(place)}{code}")
    if standing == "unknown":
        return _Told(standing, "chain", "chain", "chain not judged")
    intact = f"chain intact to #{verdict.entries - 1:04d}" if verdict.entries else "no entries"
    return _Told(standing, "chain", "chain", intact)


def _of_chain(finding: Finding) -> bool:
    return verdict_of(finding.code) == "integrity"


def _complete(verdict: Verification) -> _Told:
    standing = standing_of(verdict, "completeness")
    match standing:
        case "bad":
            return _Told(standing, "missing", "incomplete", "incomplete")
        case "warn":
            return _Told(standing, "open ends", "open ends", "open ends")
        case "unknown":
            return _Told(standing, "complete", "complete", "completeness not judged")
        case _:
            return _Told(standing, "complete", "complete", "complete")


def _anchored(verdict: Verification, entries: int) -> _Told:
    standing, size, seen = standing_of(verdict, "anchoring"), verdict.checkpoint_size, verdict.witnessed_size
    if standing == "bad":
        return _Told(standing, "anchor", "anchors differ", "anchors differ")
    if not size:
        return _Told(standing, "anchor", "no checkpoint", "no checkpoint")
    share = f"{size}/{entries}"
    witnessed = f", witnessed to #{seen - 1:04d}" if seen else ""
    return _Told(standing, share, f"anchored {share}", f"checkpoint to #{size - 1:04d}{witnessed}")


def _place_words(place: tuple[int, int] | None) -> str:
    if place is None:
        return ""
    first, last = place
    return f"#{first:04d}" if first == last else f"#{first:04d}–#{last:04d}"


def _at(place: tuple[int, int] | None) -> str:
    if place is None:
        return ""
    first, last = place
    return f" at #{first:04d}" if first == last else f" between #{first:04d} and #{last:04d}"
