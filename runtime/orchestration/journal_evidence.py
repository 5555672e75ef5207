"""What vouches for a journal besides itself, brought into one form: *claims* about its first so many entries.

A signed checkpoint, an anchor and a witness line all say the same kind of thing: after ``size`` entries the tree had this
root, or the last of them had this hash. `claims_of` reads them and tells what is wrong with the evidence itself;
`Marks` remembers, while entries go by, what the journal says at those sizes. Whether they agree is judged in
`journal_anchoring`. Standard library, kernel and sibling modules only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from runtime.kernel.canonical import digest
from runtime.kernel.errors import JournalError
from runtime.orchestration.anchors import Witness, read_anchors
from runtime.orchestration.checkpoints import CheckSignature, Note, VerifierKey, read_note
from runtime.orchestration.journal_findings import ERROR, WARNING, JournalFinding
from runtime.orchestration.merkle import Frontier, leaf_hash

#: Leaves remembered behind the newest judged checkpoint while a journal grows; checkpoints are made every 64 entries.
_RECENT: Final = 4_096
_WITNESS: Final = "witness"


@dataclass(frozen=True, slots=True)
class Held:
    """A note as it is held: its bytes, where, and when it was put there (empty: not known)."""

    note: bytes
    where: str = "checkpoint"
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is at hand. ``checkpoints`` lie beside the journal, oldest first; ``elsewhere`` are notes held by somebody
    who cannot be reached by whoever writes the journal; ``witnesses`` are texts an operator kept, notes or witness lines.

    ``trusted`` and ``check`` judge signatures. ``anchors`` is a whole anchor log, ``key`` its HMAC key. ``strict`` makes a
    missing key an error. ``origin`` is the journal's name in checkpoints, its id when None. ``linked`` are the digests a
    first entry may name as the newest evidence of its time; None: that is not judged. ``told_entries`` and ``told_head``
    are what another record tells of the journal's end; a head of None: that it has not ended.
    """

    checkpoints: Sequence[Held] = ()
    elsewhere: Sequence[Held] = ()
    witnesses: Sequence[str] = ()
    trusted: Sequence[VerifierKey] = ()
    check: CheckSignature | None = None
    anchors: bytes | None = None
    key: bytes | None = None
    strict: bool = False
    origin: str | None = None
    linked: Collection[str] | None = None
    told_entries: int = 0
    told_head: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Somebody saw ``root``, or ``head``, after ``size`` entries. ``outside``: out of reach of whoever writes the journal.

    ``authentic`` says whether whoever made it is known to: None where that cannot be told.
    """

    size: int
    where: str
    outside: bool
    authentic: bool | None
    root: bytes | None = None
    head: str | None = None
    at: str = ""
    generation: int = 1
    words: str = ""
    key_words: str = ""
    final: bool = False


@dataclass(slots=True)
class Claims:
    """What was read of the evidence: claims, and what is wrong with the evidence itself."""

    claims: list[Claim] = field(default_factory=list)
    findings: list[JournalFinding] = field(default_factory=list)

    def find(self, code: str, severity: str, seq: int, detail: str) -> None:
        self.findings.append(JournalFinding(code=code, severity=severity, seq=seq, detail=detail))


def claims_of(evidence: Evidence, journal_id: str | None) -> Claims:
    """Read everything. A journal id of None (there is no entry) takes whatever the evidence speaks of.

    Raises `JournalError` ``WITNESS_FORMAT`` for a witness that is neither a line nor a note.
    """
    read = Claims()
    origin = evidence.origin or journal_id
    for held in evidence.checkpoints:
        _note(read, evidence, held, origin, outside=False)
    for held in evidence.elsewhere:
        _note(read, evidence, held, origin, outside=True)
    for text in evidence.witnesses:
        _witness(read, evidence, text, journal_id, origin)
    if evidence.anchors is not None:
        _anchors(read, evidence, evidence.anchors, journal_id)
    return read


def known_links(anchors: bytes) -> frozenset[str]:
    """The digests a later journal may name of an anchor log: those of its records."""
    return frozenset(digest(record) for record in read_anchors(anchors).records)


def _note(read: Claims, evidence: Evidence, held: Held, origin: str | None, *, outside: bool) -> None:
    try:
        note = read_note(held.note)
    except JournalError as error:
        read.find("J_ANCHOR_CHAIN", ERROR, 0, f"{held.where}: {error.message}")
        return
    _noted(read, evidence, note, held, origin, outside)


def _noted(read: Claims, evidence: Evidence, note: Note, held: Held, origin: str | None, outside: bool) -> None:
    said = note.checkpoint
    place = max(said.size - 1, 0)
    if origin is not None and said.journal_id != origin:
        code = "J_WITNESS_MISMATCH" if outside else "J_ANCHOR_MISMATCH"
        read.find(code, ERROR, place, f"{held.where} speaks of {said.origin}, not of this journal")
        return
    signer = note.signed_by(evidence.trusted, evidence.check) if evidence.check is not None else None
    if not evidence.trusted or evidence.check is None:
        _key_missing(read, evidence, place, f"no key is known to check the signature of {held.where} with")
    elif signer is None:
        read.find("J_ANCHOR_MAC", ERROR, place, f"{held.where} of {said.size} entries is signed by no known key")
    unknown = evidence.check is None or not evidence.trusted
    read.claims.append(
        Claim(
            size=said.size,
            where=held.where,
            outside=outside,
            authentic=None if unknown else signer is not None,
            root=said.root,
            at=held.at,
            generation=said.generation,
            words=said.words,
            key_words="" if signer is None else signer.words,
        )
    )


def _witness(read: Claims, evidence: Evidence, text: str, journal_id: str | None, origin: str | None) -> None:
    if not text.strip().startswith("mission-witness/"):
        try:
            note = read_note(text.encode())
        except JournalError as error:
            raise JournalError("WITNESS_FORMAT", error.message, hint="give a witness line or a signed note") from None
        _noted(read, evidence, note, Held(note.data, _WITNESS), origin, True)
        return
    seen = Witness.parse(text)
    if journal_id is not None and seen.journal_id != journal_id:
        read.find("J_WITNESS_MISMATCH", ERROR, seen.seq, f"the witness saw journal {seen.journal_id}, not this one")
        return
    # Whoever gives a witness vouches for it.
    claim = Claim(size=seen.seq + 1, where=_WITNESS, outside=True, authentic=True, head=seen.entry_hash)
    read.claims.append(claim)


def _anchors(read: Claims, evidence: Evidence, anchors: bytes, journal_id: str | None) -> None:
    log = read_anchors(anchors, evidence.key)
    forged = {item.n for item in log.problems if item.code == "J_ANCHOR_MAC"}
    for problem in log.problems:
        read.find(problem.code, ERROR, 0, f"record {problem.n} of the anchor log: {problem.detail}")
    mine = [record for record in log.records if journal_id is None or record["journal_id"] == journal_id]
    if mine and not log.authenticated:
        _key_missing(read, evidence, int(mine[-1]["seq"]), "no key is known to check the anchors with")
    for record in mine:
        claim = Claim(
            size=record["seq"] + 1,
            where="anchor",
            outside=False,
            authentic=record["n"] not in forged if log.authenticated else None,
            head=record["entry_hash"],
            at=record["at"],
            final="final" in record,
        )
        read.claims.append(claim)


def _key_missing(read: Claims, evidence: Evidence, seq: int, detail: str) -> None:
    if all(item.code != "J_KEY_MISSING" for item in read.findings):
        read.find("J_KEY_MISSING", ERROR if evidence.strict else WARNING, seq, detail)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the journal says after so many entries: its root (where a tree was kept), its last hash, its latest time."""

    root: bytes | None
    head: str | None
    latest: str


@dataclass(slots=True)
class Marks:
    """Remembers a `Mark` at the sizes asked for. ``live`` keeps some leaves, so that a checkpoint made of entries that
    have gone by already can still be judged."""

    live: bool = False
    size: int = 0
    at: dict[int, Mark] = field(default_factory=dict)
    _tree: Frontier = field(default_factory=Frontier)
    _tree_until: int = 0
    _wanted: set[int] = field(default_factory=set)
    _recent: deque[tuple[bytes, str | None, str]] = field(default_factory=deque)

    def want(self, claims: Iterable[Claim]) -> None:
        """Remember the sizes of these claims. One that has gone by is looked for among the recent leaves."""
        for size, root in sorted({(claim.size, claim.root is not None) for claim in claims}):
            if size > self.size:
                self._wanted.add(size)
                self._tree_until = max(self._tree_until, size if root else 0)
            elif size > self._tree.size and self.live:
                self._replay(size)

    def feed(self, body: bytes, head: str | None, latest: str) -> None:
        self.size += 1
        if self.live:
            self._keep(leaf_hash(body), head, latest)
        elif self.size <= self._tree_until:
            self._tree.append(body)
        if self.size in self._wanted:
            self._wanted.discard(self.size)
            if self.live:
                self._replay(self.size)
            else:
                self._mark(head, latest)

    def _keep(self, leaf: bytes, head: str | None, latest: str) -> None:
        self._recent.append((leaf, head, latest))
        if len(self._recent) > _RECENT:
            self._tree.append_hash(self._recent.popleft()[0])

    def _replay(self, size: int) -> None:
        """Let the tree catch up with ``size`` and mark it."""
        head, latest = None, ""
        while self._tree.size < size:
            leaf, head, latest = self._recent.popleft()
            self._tree.append_hash(leaf)
        self.at[size] = Mark(self._tree.root(), head, latest)

    def _mark(self, head: str | None, latest: str) -> None:
        root = self._tree.root() if self._tree.size == self.size else None
        self.at[self.size] = Mark(root, head, latest)
