"""Can this history be believed? Recomputes everything a journal claims, entry by entry, judges it by all evidence at hand
and lists all that does not hold.

Verification trusts only stored bytes. It never stops at the first finding, because an operator needs to know how much of a
damaged journal is still good: the *trusted prefix*, the leading entries without an error. What a lone hash chain cannot
show, a cut-off end or a rewrite from scratch, the evidence beside it and elsewhere does (`journal_evidence`).
Whole journals at once: `journal_verify`.

Standard library, kernel and sibling journal modules only: the evidence bundle carries this file.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from runtime.kernel.canonical import JOURNAL_GENESIS, RECEIPT_GENESIS, CanonicalizationError, parse_strict
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_anchoring import Anchored, judge
from runtime.orchestration.journal_bodies import Bodies
from runtime.orchestration.journal_evidence import Evidence, Marks, claims_of
from runtime.orchestration.journal_findings import (
    ERROR,
    LEVELS,
    MAX_FINDINGS,
    WARNING,
    JournalFinding,
    JournalVerification,
)
from runtime.orchestration.journal_format import MAX_LINE_BYTES, hash_of_body, receipt_bytes, shape_problem
from runtime.orchestration.journal_states import States, told
from runtime.orchestration.journal_verdicts import anchoring, completeness, integrity
from runtime.orchestration.stream_index import root_of

#: Decodes canonical bytes exactly as `parse_strict` does.
Parse = Callable[[bytes], Any]

NO_EVIDENCE: Final = Evidence()


class JournalVerifier:
    """Fed one journal, entry by entry; `verdict` may be asked at any time, and feeding goes on afterwards.

    ``run_id`` is the journal id the caller asked for; None takes that of the first entry. With ``follow_bodies`` the
    artifacts entries name are wanted in `bodies`, for the caller to look up; ``withheld`` are those that whoever handed
    the journal on says were left out. ``not_after`` is the latest time an entry may have (``…Z``); empty: any. ``live``
    says that the journal still grows, and lets evidence come later (`hear`).
    """

    def __init__(
        self,
        *,
        run_id: str | None = None,
        evidence: Evidence = NO_EVIDENCE,
        follow_bodies: bool = False,
        withheld: Container[str] = (),
        not_after: str = "",
        live: bool = False,
        parse: Parse = parse_strict,
    ) -> None:
        self.bodies = Bodies(self._tell, withheld)
        self.states = States()
        self.entries = 0
        self._journal_id = run_id
        self._evidence = evidence
        self._follow = follow_bodies
        self._not_after = not_after
        self._live = live
        self._parse = parse
        self._findings: list[JournalFinding] = []
        self._bad_from: int | None = None
        self._first: Mapping[str, Any] | None = None
        self._next_seq = 0
        self._head: str | None = JOURNAL_GENESIS
        self._head_seq: int | None = None
        self._last_at = self._latest = ""
        self._skewed = False
        self._receipt_head = RECEIPT_GENESIS
        self._claims = claims_of(evidence, run_id)
        self._marks = Marks(live)
        self._marks.want(self._claims.claims)

    def hear(self, evidence: Evidence, not_after: str) -> None:
        """What another record tells by now, and more checkpoints, of entries yet to come or only just gone by."""
        self._not_after = not_after
        told = (evidence.told_entries, evidence.told_head)
        self._evidence = replace(self._evidence, told_entries=told[0], told_head=told[1])
        fresh = replace(self._evidence, checkpoints=evidence.checkpoints, elsewhere=(), witnesses=(), anchors=None)
        more = claims_of(fresh, self._journal_id)
        self._claims.claims += more.claims
        self._claims.findings += [item for item in more.findings if item not in self._claims.findings]
        self._marks.want(more.claims)

    def feed(self, stored: StoredEntry) -> None:
        """Take the next row: its bytes and the columns it was stored under."""
        self._check(stored.body, stored)

    def feed_line(self, line: bytes) -> None:
        """Take the next line, without its LF."""
        self._check(line, None)

    def find(self, code: str, detail: str, *, seq: int | None = None, severity: str = ERROR) -> None:
        """Add a finding about the entry to come."""
        self._tell(code, detail, severity, seq, self.entries)

    def verdict(self, *, torn: int = 0, more: Sequence[JournalFinding] = ()) -> JournalVerification:
        """What can be said now. ``more`` are findings of the caller's own; ``torn`` bytes followed the last line."""
        anchored = judge(self._claims.claims, self._marks.at, self.entries)
        findings = [*self._findings, *self._at_the_end(anchored), *more]
        trusted, between = self._trusted(anchored)
        covered = anchored.newest
        return JournalVerification(
            ok=all(item.severity != ERROR for item in findings) and self._bad_from is None,
            level=LEVELS[anchored.level],
            entries=self.entries,
            head_seq=self._head_seq,
            head_hash=self._head if self.entries else None,
            trusted_prefix=trusted,
            closed=self.states.closed,
            torn_tail_bytes=torn,
            unanchored_tail=anchored.tail,
            findings=tuple(findings),
            integrity=integrity(findings, self.entries),
            completeness=completeness(findings, self.states, self._live),
            anchoring=anchoring(findings, anchored),
            checkpoint_size=anchored.covered,
            checkpoint_words="" if covered is None else covered.words,
            key_words="" if covered is None else covered.key_words,
            witnessed_size=anchored.witnessed,
            agreed=tuple(anchored.holders.items()),
            bad_between=between,
        )

    # -- one entry ----------------------------------------------------------------------------------------------

    def _tell(self, code: str, detail: str, severity: str, seq: int | None, position: int) -> None:
        if severity == ERROR:
            self._bad_from = position if self._bad_from is None else min(self._bad_from, position)
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(JournalFinding(code=code, severity=severity, seq=seq, detail=detail))

    def _check(self, body: bytes, row: StoredEntry | None) -> None:
        entry = self._parsed(body, row)
        if entry is None:
            # What follows can still be linked to the hash the store remembers, if it remembers one.
            self._head = row.entry_hash if row is not None else None
            self._head_seq = row.seq if row is not None else self._next_seq
            self._next_seq = self._head_seq + 1
        else:
            self._check_chain(entry, body)
            if row is not None:
                self._check_columns(entry, row)
            self._check_meaning(entry, body)
        self._marks.feed(body, self._head, self._latest)
        self.entries += 1

    def _parsed(self, body: bytes, row: StoredEntry | None) -> dict[str, Any] | None:
        seq = row.seq if row is not None else self._next_seq
        if len(body) > MAX_LINE_BYTES:
            self.find("J_LINE_TOO_LONG", f"{len(body)} bytes, at most {MAX_LINE_BYTES} are allowed", seq=seq)
        try:
            entry = self._parse(body)
        except CanonicalizationError as error:
            self.find(error.code, error.message, seq=seq)
            return None
        problem = shape_problem(entry) if isinstance(entry, dict) else "not an object"
        if problem is not None:
            self.find("J_SCHEMA", problem, seq=seq)
            return None
        return entry  # type: ignore[no-any-return]  # shape_problem has just proven it a dict

    def _check_chain(self, entry: Mapping[str, Any], body: bytes) -> None:
        seq, entry_hash, at = entry["seq"], entry["entry_hash"], entry["at"]
        if seq != self._next_seq:
            self.find("J_SEQ", f"entry {seq} stands where {self._next_seq} was expected", seq=seq)
        if self._journal_id is None:
            # Nobody said which journal this is: now it is known what the evidence has to speak of.
            self._journal_id = entry["journal_id"]
            self._claims = claims_of(self._evidence, self._journal_id)
        elif entry["journal_id"] != self._journal_id:
            self.find("J_JOURNAL_ID", f"belongs to journal {entry['journal_id']}", seq=seq)
        if self._head is not None and entry["prev_entry_hash"] != self._head:
            code = "J_GENESIS" if self.entries == 0 else "J_PREV_HASH"
            self.find(code, "does not continue the entry before it", seq=seq)
        if hash_of_body(body, entry_hash) != entry_hash:
            self.find("J_ENTRY_HASH", "the bytes do not have the hash they claim", seq=seq)
        if at < self._last_at:
            self.find("J_TIME_REGRESSION", f"{at} is before {self._last_at}", seq=seq, severity=WARNING)
        elif at > self._latest:
            self._latest = at
            self._check_time(at, seq)
        self._head, self._head_seq, self._next_seq, self._last_at = entry_hash, seq, seq + 1, at

    def _check_time(self, at: str, seq: int) -> None:
        if self._not_after and at > self._not_after and not self._skewed:
            self._skewed = True
            detail = f"it is dated {at}, after the time of this check and five minutes"
            self.find("J_CLOCK_SKEW", detail, seq=seq, severity=WARNING)

    def _check_columns(self, entry: Mapping[str, Any], row: StoredEntry) -> None:
        if (
            row.seq == entry["seq"]
            and row.entry_hash == entry["entry_hash"]
            and row.prev_entry_hash == entry["prev_entry_hash"]
            and row.kind == entry["kind"]
            and row.at == entry["at"]
        ):
            return
        names = ("seq", "kind", "at", "prev_entry_hash", "entry_hash")
        odd = [name for name in names if getattr(row, name) != entry[name]]
        self.find("J_COLUMN_MISMATCH", f"column {', '.join(odd)} differs from the stored bytes", seq=row.seq)

    def _check_meaning(self, entry: Mapping[str, Any], body: bytes) -> None:
        seq, kind = entry["seq"], entry["kind"]
        for problem in self.states.feed(entry):
            self.find("J_STATE", problem, seq=seq)
        if kind == "receipt":
            self._check_receipt(entry["receipt"], receipt_bytes(body, entry), seq)
        elif kind == "journal_closed":
            self._check_close(entry)
        elif kind == "step_finished":
            if "stream" in entry and root_of(entry) is None:
                self.find("J_SCHEMA", "the stream member names no index", seq=seq)
        elif kind == "journal_opened" and self._first is None:
            self._first = entry
            self._check_link(entry)
        if self._follow:
            self.bodies.of_entry(entry, body, self.entries)

    def _check_receipt(self, receipt: Mapping[str, Any], body: bytes, seq: int) -> None:
        claimed = receipt.get("receipt_hash")
        if hash_of_body(body, str(claimed), "receipt_hash") != claimed:
            self.find("J_RECEIPT_CHAIN", "the receipt does not have the hash it claims", seq=seq)
        if receipt.get("prev_receipt_hash") != self._receipt_head:
            self.find("J_RECEIPT_CHAIN", "does not continue the receipt before it", seq=seq)
        self._receipt_head = str(claimed)

    def _check_close(self, entry: Mapping[str, Any]) -> None:
        if entry["last_receipt_hash"] != self._receipt_head:
            self.find("J_RECEIPT_CHAIN", "the end names another last receipt", seq=entry["seq"])
        if entry["entries"] != self.entries + 1:
            self.find("J_STATE", f"the end counts {entry['entries']} entries", seq=entry["seq"])

    def _check_link(self, entry: Mapping[str, Any]) -> None:
        """The evidence of earlier journals this one names must still be there (operations spec §7.4, cross-links)."""
        named, linked = entry["prev_journal_head"], self._evidence.linked
        if named is not None and linked is not None and named not in linked:
            self.find("J_ANCHOR_CHAIN", f"it names {named} as newest evidence, which is not known", seq=entry["seq"])

    # -- the whole ----------------------------------------------------------------------------------------------

    def _at_the_end(self, anchored: Anchored) -> Iterator[JournalFinding]:
        """Findings about the journal as a whole; none of them is kept, for it may go on."""
        yield from self._claims.findings
        yield from anchored.findings
        told_entries, told_head = self._evidence.told_entries, self._evidence.told_head
        if self.entries == 0 and (told_entries or self._claims.claims):
            yield _error("J_MISSING", None, "there is no entry, although there were some")
        elif self.entries == 0 and not self._findings:
            yield _error("J_EMPTY", None, "the journal holds no entry")
        if self.entries < told_entries:
            if all(item.code != "J_TRUNCATED" for item in anchored.findings):
                detail = f"the run's row tells of {told_entries} entries, the journal has {self.entries}"
                yield _error("J_TRUNCATED", self.entries, detail)
        elif told_head is not None and (self.entries, self._head) != (told_entries, told_head):
            detail = f"the run ended with {told_entries} entries and head {told_head}, the journal has {self.entries}"
            yield _error("J_WITNESS_MISMATCH", self.entries, detail)
        unfinished = self.states.unfinished() if self.states.closed else []
        if unfinished:
            detail = f"the journal is closed, and these never ended: {told(unfinished)}"
            yield JournalFinding(code="J_OPEN_WORK", severity=WARNING, seq=unfinished[0][0], detail=detail)

    def _trusted(self, anchored: Anchored) -> tuple[int, tuple[int, int] | None]:
        """The leading entries to be trusted, and where the first false one is: the evidence gives an interval, the chain
        often the very entry."""
        exact, doubted = self._bad_from, anchored.doubted
        if doubted is None:
            return (self.entries, None) if exact is None else (exact, (exact, exact))
        first, last = doubted
        if exact is None:
            return min(first, self.entries), doubted
        if exact < first:
            return exact, (exact, exact)
        return first, (first, min(last, exact))


def _error(code: str, seq: int | None, detail: str) -> JournalFinding:
    return JournalFinding(code=code, severity=ERROR, seq=seq, detail=detail)
