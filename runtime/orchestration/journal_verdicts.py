"""Three verdicts in words: is what is there unaltered, is all of it there, and how far does anything else vouch for it?

The words promise no more than was checked: *chain intact*, *checkpoint verified up to N*, *witnessed up to N*, always with
the length of what is not covered. Standard library and sibling modules only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runtime.orchestration.journal_anchoring import Anchored
from runtime.orchestration.journal_findings import ERROR, JournalFinding, Judgement
from runtime.orchestration.journal_states import States, told

#: Findings about what is not there. All others but those about evidence are about what is.
COMPLETENESS: Final = frozenset(
    {
        "J_ARTIFACT_MISSING",
        "J_ARTIFACT_WITHHELD",
        "J_EMPTY",
        "J_MISSING",
        "J_OPEN_WORK",
        "J_TORN_TAIL",
        "J_TRUNCATED",
        "J_UNDO_UNKNOWN",
    }
)
#: Findings about the evidence itself.
ANCHORING: Final = frozenset({"J_ANCHOR_CHAIN", "J_ANCHOR_MAC", "J_KEY_MISSING", "J_UNANCHORED_TAIL"})
#: Findings that speak of the journal and of the evidence at once.
_BOTH: Final = frozenset({"J_ANCHOR_MISMATCH", "J_WITNESS_MISMATCH"})


def integrity(findings: Sequence[JournalFinding], entries: int) -> Judgement:
    """Is what is there unaltered?"""
    mine = [item for item in findings if item.code not in COMPLETENESS | ANCHORING]
    return _judged(mine, f"chain intact over {entries} entries" if entries else "there is nothing to check")


def completeness(findings: Sequence[JournalFinding], states: States, live: bool) -> Judgement:
    """Is all of it there, and did all that began end?"""
    mine = [item for item in findings if item.code in COMPLETENESS]
    if mine:
        return _judged(mine, "")
    if states.closed and states.open_steps:
        return Judgement(standing="warn", words=f"closed, and these were cut short: {told(states.cut_short())}")
    if states.closed:
        return Judgement(standing="good", words="closed, and all that began has ended")
    count = len(states.due_receipts) + len(states.open_undos) + len(states.open_steps)
    under_way = f"{count} operations and steps under way" if count else "nothing under way"
    if live:
        return Judgement(standing="good", words=f"still written, {under_way}")
    return Judgement(standing="warn", words=f"never closed, {under_way}")


def anchoring(findings: Sequence[JournalFinding], anchored: Anchored) -> Judgement:
    """How far does anything but the journal itself vouch for it?"""
    bad = [item for item in findings if item.code in ANCHORING | _BOTH and item.severity == ERROR]
    if bad or anchored.against is not None:
        first = bad[0].detail if bad else "the evidence knows more entries than there are"
        return Judgement(standing="bad", words=first)
    words = anchored_words(anchored)
    weak = any(item.code in ANCHORING for item in findings) or not anchored.known
    return Judgement(standing="warn" if weak else "good", words=words)


def anchored_words(anchored: Anchored) -> str:
    """What may be said, and not more."""
    parts = []
    if anchored.covered is not None:
        known = "" if anchored.authentic else ", signature not checked"
        parts.append(f"checkpoint verified up to {anchored.covered}{known}")
    if anchored.witnessed is not None:
        parts.append(f"witnessed up to {anchored.witnessed}")
    if not parts:
        return "no checkpoint: whoever can write the journal could have written another"
    tail = anchored.entries - anchored.known
    parts.append(f"nothing covers the last {tail} entries" if tail else "that is all of it")
    return ", ".join(parts)


def _judged(findings: Sequence[JournalFinding], good: str) -> Judgement:
    errors = [item for item in findings if item.severity == ERROR]
    first = next(iter(errors or findings), None)
    if first is None:
        return Judgement(standing="good", words=good)
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    place = "" if first.seq is None else f" at entry {first.seq}"
    return Judgement(standing="bad" if errors else "warn", words=f"{first.code}{place}: {first.detail}{more}")
