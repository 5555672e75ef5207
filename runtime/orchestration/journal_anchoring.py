"""Judging a journal by the claims made about it: how far it is vouched for, and where it can no longer be believed.

A chain that was rewritten holds in itself. The claims that agree and those that do not narrow the first false entry to an
interval. Standard library and sibling modules only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runtime.orchestration.journal_evidence import Claim, Mark
from runtime.orchestration.journal_findings import ERROR, LEVELS, WARNING, JournalFinding

_CHAIN, _ANCHORED, _AUTHENTICATED, _WITNESSED = range(len(LEVELS))
_MISMATCH: Final = {False: "J_ANCHOR_MISMATCH", True: "J_WITNESS_MISMATCH"}


@dataclass(slots=True)
class Anchored:
    """What claims say of a journal of ``entries``. ``agreeing`` are the sizes at which they hold, ``agreed`` the largest of
    them before anything speaks against it; ``against`` is the size of the smallest claim that does not hold, if any.

    ``covered`` is confirmed by claims beside the journal (of which ``newest`` is one), ``authentic`` by those whose maker is
    known, ``witnessed`` by claims elsewhere.
    """

    entries: int
    level: int = _CHAIN
    agreeing: set[int] = field(default_factory=set)
    agreed: int = 0
    covered: int | None = None
    authentic: int | None = None
    witnessed: int | None = None
    newest: Claim | None = None
    against: int | None = None
    holders: dict[str, int] = field(default_factory=dict)
    findings: list[JournalFinding] = field(default_factory=list)

    @property
    def known(self) -> int:
        """How many leading entries anything but the journal itself confirms."""
        return max(self.covered or 0, self.witnessed or 0)

    @property
    def tail(self) -> int:
        """Entries after the newest evidence beside the journal."""
        return self.entries - (self.covered or 0)

    @property
    def doubted(self) -> tuple[int, int] | None:
        """The first entry that does not belong is among these, both included; the last may be the first missing one."""
        return None if self.against is None else (self.agreed, min(self.against - 1, self.entries))


def judge(claims: Sequence[Claim], marks: Mapping[int, Mark], entries: int) -> Anchored:
    """Compare ``claims`` with what the journal says at their sizes. A claim whose size was not remembered says nothing."""
    found = Anchored(entries)
    generation = max((item.generation for item in claims if item.authentic and not item.outside), default=1)
    beyond: list[Claim] = []
    differing: list[Claim] = []
    lost: list[Claim] = []
    for claim in claims:
        if claim.size > entries or (claim.size in marks and not _agrees(claim, marks[claim.size], entries)):
            against = beyond if claim.size > entries else differing
            (lost if claim.generation < generation else against).append(claim)
        elif claim.size in marks:
            _agreeing(found, claim)
    doubting = [claim.size for claim in (*beyond, *differing) if claim.authentic is not False]
    found.against = min(doubting, default=None)
    # Where a smaller claim does not hold, a larger one that does shows that somebody told two histories.
    found.agreed = max((size for size in found.agreeing if found.against is None or size < found.against), default=0)
    _tell(found, beyond, differing, lost)
    _tell_times(found, claims, marks)
    if 0 < found.known < entries and not doubting:
        detail = f"nothing covers the last {entries - found.known} entries"
        _find(found, "J_UNANCHORED_TAIL", WARNING, found.known, detail)
    return found


def _agrees(claim: Claim, mark: Mark, entries: int) -> bool:
    root = claim.root is None or claim.root == mark.root
    ended = not claim.final or claim.size == entries
    return root and ended and (claim.head is None or claim.head == mark.head)


def _agreeing(found: Anchored, claim: Claim) -> None:
    if claim.authentic is False:
        return
    found.agreeing.add(claim.size)
    if claim.outside:
        found.witnessed = max(found.witnessed or 0, claim.size)
        found.holders[claim.where] = max(found.holders.get(claim.where, 0), claim.size)
        found.level = _WITNESSED
        return
    if claim.authentic:
        found.authentic = max(found.authentic or 0, claim.size)
    found.level = max(found.level, _AUTHENTICATED if claim.authentic else _ANCHORED)
    if found.covered is None or claim.size > found.covered or (claim.size == found.covered and claim.words):
        found.covered, found.newest = claim.size, claim


def _tell(found: Anchored, beyond: Sequence[Claim], differing: Sequence[Claim], lost: Sequence[Claim]) -> None:
    if beyond:
        most = max(beyond, key=lambda claim: claim.size)
        detail = f"{most.where} knows {most.size} entries, the journal has {found.entries}"
        _find(found, "J_TRUNCATED", ERROR, found.entries, detail)
    for outside, code in _MISMATCH.items():
        others = [claim for claim in differing if claim.outside is outside]
        if others:
            first = min(others, key=lambda claim: claim.size)
            more = f", and {len(others) - 1} more" if len(others) > 1 else ""
            whose = f"the first {first.size} entries are not those {first.where} knows{more}"
            _find(found, code, ERROR, min(found.agreed, first.size - 1), whose)
    if lost:
        most = max(lost, key=lambda claim: claim.size)
        detail = f"entries that {most.where} knows ({most.size}) are missing or others; an operator accepted that"
        _find(found, "J_TRUNCATED", WARNING, min(most.size - 1, found.entries), detail)


def _tell_times(found: Anchored, claims: Sequence[Claim], marks: Mapping[int, Mark]) -> None:
    """An entry cannot be younger than a checkpoint that covers it."""
    for claim in claims:
        mark = marks.get(claim.size)
        if mark is not None and claim.at and not claim.outside and mark.latest > claim.at:
            detail = f"an entry is dated {mark.latest}, after {claim.where} of {claim.at} that covers it"
            _find(found, "J_CLOCK_SKEW", WARNING, claim.size - 1, detail)
            return


def _find(found: Anchored, code: str, severity: str, seq: int, detail: str) -> None:
    found.findings.append(JournalFinding(code=code, severity=severity, seq=seq, detail=detail))
