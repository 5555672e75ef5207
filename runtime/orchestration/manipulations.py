"""Ways to falsify a journal, and whether the evidence at hand would show each: what a verdict is worth.

The rows are those of operations spec §7.4 and the attacks of reliability §1.2 that differ from them. Nothing is looked for
here; the answers follow from which evidence was there and agreed. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runtime.orchestration.journal_findings import JournalVerification


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalManipulation:
    """A way to falsify a journal. ``because`` names the evidence that shows it, or what is missing."""

    what: str
    revealed: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the evidence at hand can show. ``checkpoint`` and ``witness`` count the leading entries that evidence beside the
    journal, and evidence held elsewhere, confirms; ``authentic`` says that the former's maker is known by a key.

    ``links``: journals that name this one's newest evidence are checked with it.
    """

    entries: int
    checkpoint: int = 0
    authentic: bool = False
    witness: int = 0
    links: bool = False

    @classmethod
    def by(cls, verdict: JournalVerification, *, links: bool = False) -> Shown:
        """What a verdict on an untouched journal says of later manipulations."""
        return cls(
            entries=verdict.entries,
            checkpoint=verdict.checkpoint_size or 0,
            authentic=bool(verdict.checkpoint_size) and verdict.level != "anchored" and _known(verdict),
            witness=verdict.witnessed_size or 0,
            links=links,
        )


_Answer = tuple[bool, str]
_NONE: Final = "nothing outside the journal remembers it"


def _inside(shown: Shown) -> _Answer:
    return True, "every entry names the hash of the one before it"


def _cut_past(shown: Shown) -> _Answer:
    if shown.checkpoint or shown.witness:
        return True, f"{max(shown.checkpoint, shown.witness)} entries are remembered"
    return False, _NONE


def _cut_tail(shown: Shown) -> _Answer:
    covered = max(shown.checkpoint, shown.witness)
    if covered >= shown.entries > 0:
        return True, "the newest entry is covered"
    return False, f"nothing covers the last {shown.entries - covered} entries"


def _cut_back(shown: Shown) -> _Answer:
    return _elsewhere(shown, "checkpoints beside the journal can be cut off with it")


def _rewritten(shown: Shown) -> _Answer:
    if shown.checkpoint:
        return True, f"the checkpoint of {shown.checkpoint} entries has another root or hash"
    return _elsewhere(shown, "a chain can be computed anew")


def _without_key(shown: Shown) -> _Answer:
    if shown.authentic:
        return True, "the key that signed is known"
    why = "the signatures cannot be checked: no key is known" if shown.checkpoint else "a chain can be computed anew"
    return _elsewhere(shown, why)


def _older_copy(shown: Shown) -> _Answer:
    if shown.links:
        return True, "a later journal names the newest evidence"
    return _elsewhere(shown, "an older copy of journal and checkpoints is whole in itself")


def _deleted(shown: Shown) -> _Answer:
    if shown.checkpoint or shown.witness:
        return True, "evidence of the journal is left"
    return False, _NONE


def _with_key(shown: Shown) -> _Answer:
    return _elsewhere(shown, "whoever has the key can sign anything")


def _appended(shown: Shown) -> _Answer:
    return False, "no evidence tells a false entry from a true one when it is written"


def _elsewhere(shown: Shown, otherwise: str) -> _Answer:
    if shown.witness:
        return True, f"{shown.witness} entries are remembered elsewhere"
    return False, otherwise


#: What is done, and who would see it.
_WAYS: Final[tuple[tuple[str, Callable[[Shown], _Answer]], ...]] = (
    ("edit, insert, drop or swap entries inside", _inside),
    ("cut off the end, back past what is remembered", _cut_past),
    ("cut off only entries after the newest checkpoint", _cut_tail),
    ("cut off the end and the checkpoints that cover it", _cut_back),
    ("rewrite everything with fresh hashes", _rewritten),
    ("rewrite journal and checkpoints without the key", _without_key),
    ("restore an older copy of everything", _older_copy),
    ("delete the journal", _deleted),
    ("rewrite everything with the key", _with_key),
    ("write a brand-new history with the key", _with_key),
    ("append a false entry at the end", _appended),
)


def manipulations(shown: Shown) -> tuple[JournalManipulation, ...]:
    """All of them, in the order of the specification's table."""
    found = [(what, *answer(shown)) for what, answer in _WAYS]
    return tuple(JournalManipulation(what=what, revealed=revealed, because=why) for what, revealed, why in found)


def _known(verdict: JournalVerification) -> bool:
    return all(item.code != "J_KEY_MISSING" for item in verdict.findings)
