"""What a verification finds and says: findings, the three verdicts and the result that holds them.

Standard library only: the evidence bundle carries this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ERROR: Final = "error"
WARNING: Final = "warning"
#: Findings beyond these are counted as errors and not listed.
MAX_FINDINGS: Final = 10_000
#: How far a verdict can be held against whoever may write the journal, weakest first (operations spec §7.5).
LEVELS: Final = ("chain", "anchored", "authenticated", "witnessed")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFinding:
    """One thing that does not hold. ``severity`` is ``error`` or ``warning``; ``seq`` names the entry, if any."""

    code: str
    severity: str
    seq: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One of the three verdicts. ``standing`` is ``good``, ``warn`` or ``bad``; ``words`` say why."""

    standing: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalVerification:
    """The verdict. ``ok`` means no error; ``trusted_prefix`` counts leading entries that are good.

    ``integrity``: is what is there unaltered? ``completeness``: is all of it there, and did all that began end?
    ``anchoring``: what else vouches for it, and up to where? ``checkpoint_size`` and ``witnessed_size`` count the leading
    entries that evidence beside the journal, and evidence held elsewhere, confirms; ``unanchored_tail`` are those after
    the former. The first entry not to be trusted is among ``bad_between``, both included. ``agreed`` maps each holder
    elsewhere to the size it confirms.
    """

    ok: bool
    level: str
    entries: int
    head_seq: int | None
    head_hash: str | None
    trusted_prefix: int
    closed: bool
    torn_tail_bytes: int = 0
    unanchored_tail: int = 0
    findings: tuple[JournalFinding, ...] = ()
    integrity: Judgement
    completeness: Judgement
    anchoring: Judgement
    checkpoint_size: int | None = None
    checkpoint_words: str = ""
    key_words: str = ""
    witnessed_size: int | None = None
    agreed: tuple[tuple[str, int], ...] = ()
    bad_between: tuple[int, int] | None = None

    def summary(self) -> tuple[bool, list[str]]:
        """The two-part form older callers know: verdict and one text per finding."""
        return self.ok, [f"{item.code} at {item.seq}: {item.detail}" for item in self.findings]
