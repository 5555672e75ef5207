"""Can this history be believed? Recomputes everything a journal claims and lists all that does not hold.

Verification trusts only stored bytes. It never stops at the first finding, because an operator needs to know how
much of a damaged journal is still good: the *trusted prefix*, the leading entries without an error. What a lone
hash chain cannot show, a cut-off end or a rewrite from scratch, needs anchors; this is the level ``chain``.

Standard library, kernel and sibling journal modules only: the evidence bundle carries this file.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import (
    JOURNAL_GENESIS,
    RECEIPT_GENESIS,
    CanonicalizationError,
    digest,
    digest_bytes,
    parse_strict,
)
from runtime.kernel.errors import JournalError
from runtime.kernel.ids import HASH
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_format import MAX_LINE_BYTES, hash_of_body, shape_problem
from runtime.orchestration.stream_index import MAX_LEVELS, read_node, root_of

#: Looks a stored artifact up by digest; None when it is not there.
FetchArtifact = Callable[[str], bytes | None]

#: Id of the store's own journal, which no run opens (ruling R33).
STORE_JOURNAL: Final = "store"
_COLUMNS: Final = ("seq", "kind", "at", "prev_entry_hash", "entry_hash")
_RECEIPT_ARTIFACTS: Final = ("params_hash", "output_hash", "evidence_hash")
#: An empty object is its own proof; nobody needs to keep its body.
_EMPTY: Final = digest({})
_MAX_FINDINGS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFinding:
    """One thing that does not hold. ``severity`` is ``error`` or ``warning``; ``seq`` names the entry, if any."""

    code: str
    severity: str
    seq: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalVerification:
    """The verdict. ``ok`` means no error; ``trusted_prefix`` counts leading entries that are good."""

    ok: bool
    level: str
    entries: int
    head_seq: int | None
    head_hash: str | None
    trusted_prefix: int
    closed: bool
    torn_tail_bytes: int = 0
    findings: tuple[JournalFinding, ...] = ()

    def summary(self) -> tuple[bool, list[str]]:
        """The two-part form older callers know: verdict and one text per finding."""
        return self.ok, [f"{item.code} at {item.seq}: {item.detail}" for item in self.findings]


def verify_entries(
    entries: Iterable[StoredEntry],
    *,
    artifacts: FetchArtifact | None = None,
    run_id: str | None = None,
    withheld: Container[str] = (),
) -> JournalVerification:
    """Verify stored rows: bytes, chain, state machine, receipts, columns and, given ``artifacts``, bodies.

    ``run_id`` is the journal id the caller asked for; None takes that of the first entry. ``withheld`` are artifacts that
    whoever handed the journal on says were left out: that one of them is missing is only worth a warning.
    """
    checker = _Checker(artifacts, run_id, withheld)
    for stored in entries:
        checker.check(stored.body, stored)
    return checker.verdict()


def verify_jsonl(
    source: bytes | Path, *, artifacts: FetchArtifact | None = None, run_id: str | None = None
) -> JournalVerification:
    """Verify a journal of JSON lines; a missing file is ``J_MISSING``, bytes after the last LF ``J_TORN_TAIL``."""
    checker = _Checker(artifacts, run_id)
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except FileNotFoundError:
            checker.find("J_MISSING", "there is no such journal")
            return checker.verdict()
    *lines, tail = source.split(b"\n")
    for line in lines:
        checker.check(line, None)
    if tail:
        checker.find("J_TORN_TAIL", f"{len(tail)} bytes follow the last complete line")
    return checker.verdict(torn=len(tail))


def export_jsonl(entries: Iterable[StoredEntry]) -> Iterator[bytes]:
    """The journal as JSON lines: stored bytes unchanged, so that exporting twice gives identical files."""
    for stored in entries:
        yield stored.body + b"\n"


@dataclass(slots=True)
class _States:
    """What may follow what. Yields problems instead of raising, and goes on with the likeliest reading."""

    opened: bool = False
    closed: bool = False
    open_steps: set[tuple[str, ...]] = field(default_factory=set)
    finished_steps: set[tuple[str, ...]] = field(default_factory=set)
    due_receipts: set[str] = field(default_factory=set)
    undoing: set[str] = field(default_factory=set)
    """Receipts, of this journal or an earlier run's, whose undo has begun."""

    def feed(self, entry: Mapping[str, Any]) -> Iterator[str]:
        kind = entry["kind"]
        if self.closed:
            yield f"{kind} follows the end of the journal"
        if entry["seq"] == 0 and kind != "journal_opened" and entry["journal_id"] != STORE_JOURNAL:
            yield "the first entry does not open the journal"
        if kind == "journal_opened":
            if entry["seq"] != 0 or self.opened:
                yield "the journal is opened a second time"
            self.opened = True
        elif kind == "journal_closed":
            self.closed = True
        elif kind in ("step_started", "step_finished"):
            yield from self._step(kind, entry)
        elif kind in ("operation_started", "operation_denied"):
            self.due_receipts.add(str(entry["idempotency_key"]))
        elif kind == "compensation_started":
            self.undoing.add(str(entry["compensates"]))
        elif kind == "compensation_finished" and str(entry["compensates"]) not in self.undoing:
            yield "an undo is finished that was never started"
        elif kind == "receipt":
            yield from self._receipt(entry["receipt"])

    def _step(self, kind: str, entry: Mapping[str, Any]) -> Iterator[str]:
        key = (str(entry["step_id"]), str(entry.get("tick", 1)), str(entry.get("visit", 1)), str(entry["attempt"]))
        name = f"step {key[0]} attempt {key[3]}"
        if kind == "step_started":
            if key in self.open_steps or key in self.finished_steps:
                yield f"{name} is started twice"
            self.open_steps.add(key)
        elif key in self.open_steps:
            self.open_steps.discard(key)
            self.finished_steps.add(key)
        else:
            yield f"{name} is finished twice" if key in self.finished_steps else f"{name} is finished but never started"

    def _receipt(self, receipt: Mapping[str, Any]) -> Iterator[str]:
        key = str(receipt.get("idempotency_key"))
        if receipt.get("compensates") is not None:
            if str(receipt["compensates"]) not in self.undoing:
                yield "a receipt speaks of an undo that was never started"
        elif key in self.due_receipts:
            self.due_receipts.discard(key)
        else:
            yield f"receipt of {receipt.get('operation_id')} without an operation that was started or denied"


@dataclass(slots=True)
class _Checker:
    """Walks the entries once. Between entries it holds only heads, open work and what was already looked up."""

    artifacts: FetchArtifact | None
    journal_id: str | None
    withheld: Container[str] = ()
    findings: list[JournalFinding] = field(default_factory=list)
    position: int = 0
    bad_from: int | None = None
    next_seq: int = 0
    head: str | None = JOURNAL_GENESIS
    head_seq: int | None = None
    last_at: str = ""
    states: _States = field(default_factory=_States)
    receipt_head: str = RECEIPT_GENESIS
    looked_up: set[str] = field(default_factory=set)
    nodes: dict[tuple[str, int], int | None] = field(default_factory=dict)

    def find(self, code: str, detail: str, *, seq: int | None = None, severity: str = "error") -> None:
        if severity == "error" and self.bad_from is None:
            self.bad_from = self.position
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(JournalFinding(code=code, severity=severity, seq=seq, detail=detail))

    def check(self, body: bytes, row: StoredEntry | None) -> None:
        """Take the next entry; ``row`` adds the columns it was stored under."""
        entry = self._parsed(body, row)
        if entry is None:
            # What follows can still be linked to the hash the store remembers, if it remembers one.
            self.head = row.entry_hash if row is not None else None
            self.head_seq = row.seq if row is not None else self.next_seq
            self.next_seq = self.head_seq + 1
        else:
            self._check_chain(entry, body)
            if row is not None:
                self._check_columns(entry, row)
            self._check_meaning(entry)
        self.position += 1

    def _parsed(self, body: bytes, row: StoredEntry | None) -> dict[str, Any] | None:
        seq = row.seq if row is not None else self.next_seq
        if len(body) > MAX_LINE_BYTES:
            self.find("J_LINE_TOO_LONG", f"{len(body)} bytes, at most {MAX_LINE_BYTES} are allowed", seq=seq)
        try:
            entry = parse_strict(body)
        except CanonicalizationError as error:
            self.find(error.code, error.message, seq=seq)
            return None
        problem = shape_problem(entry) if isinstance(entry, dict) else "not an object"
        if problem is not None:
            self.find("J_SCHEMA", problem, seq=seq)
            return None
        return entry  # type: ignore[no-any-return]  # shape_problem has just proven it a dict

    def _check_chain(self, entry: Mapping[str, Any], body: bytes) -> None:
        seq = entry["seq"]
        if seq != self.next_seq:
            self.find("J_SEQ", f"entry {seq} stands where {self.next_seq} was expected", seq=seq)
        if self.journal_id is None:
            self.journal_id = entry["journal_id"]
        elif entry["journal_id"] != self.journal_id:
            self.find("J_JOURNAL_ID", f"belongs to journal {entry['journal_id']}", seq=seq)
        if self.head is not None and entry["prev_entry_hash"] != self.head:
            code = "J_GENESIS" if self.position == 0 else "J_PREV_HASH"
            self.find(code, "does not continue the entry before it", seq=seq)
        if hash_of_body(body, entry["entry_hash"]) != entry["entry_hash"]:
            self.find("J_ENTRY_HASH", "the bytes do not have the hash they claim", seq=seq)
        if entry["at"] < self.last_at:
            self.find("J_TIME_REGRESSION", f"{entry['at']} is before {self.last_at}", seq=seq, severity="warning")
        self.head, self.head_seq, self.next_seq, self.last_at = entry["entry_hash"], seq, seq + 1, entry["at"]

    def _check_columns(self, entry: Mapping[str, Any], row: StoredEntry) -> None:
        odd = [name for name in _COLUMNS if getattr(row, name) != entry[name]]
        if odd:
            self.find("J_COLUMN_MISMATCH", f"column {', '.join(odd)} differs from the stored bytes", seq=row.seq)

    def _check_meaning(self, entry: Mapping[str, Any]) -> None:
        seq = entry["seq"]
        for problem in self.states.feed(entry):
            self.find("J_STATE", problem, seq=seq)
        if entry["kind"] == "receipt":
            self._check_receipt(entry["receipt"], seq)
        elif entry["kind"] == "journal_closed":
            self._check_close(entry)
        for reference in artifact_references(entry) if self.artifacts is not None else ():
            self._check_artifact(reference, seq)
        if entry["kind"] == "step_finished":
            self._check_stream(entry)

    def _check_receipt(self, receipt: Mapping[str, Any], seq: int) -> None:
        claimed = receipt.get("receipt_hash")
        if digest({key: value for key, value in receipt.items() if key != "receipt_hash"}) != claimed:
            self.find("J_RECEIPT_CHAIN", "the receipt does not have the hash it claims", seq=seq)
        if receipt.get("prev_receipt_hash") != self.receipt_head:
            self.find("J_RECEIPT_CHAIN", "does not continue the receipt before it", seq=seq)
        self.receipt_head = str(claimed)

    def _check_close(self, entry: Mapping[str, Any]) -> None:
        if entry["last_receipt_hash"] != self.receipt_head:
            self.find("J_RECEIPT_CHAIN", "the end names another last receipt", seq=entry["seq"])
        if entry["entries"] != self.position + 1:
            self.find("J_STATE", f"the end counts {entry['entries']} entries", seq=entry["seq"])

    def _check_stream(self, entry: Mapping[str, Any]) -> None:
        """Follow the index of what a step emitted down to its chunks."""
        root = root_of(entry)
        if root is None:
            if "stream" in entry:
                self.find("J_SCHEMA", "the stream member names no index", seq=entry["seq"])
        elif self.artifacts is not None:
            items = self._check_node(root, MAX_LEVELS, entry["seq"])
            if items not in (None, entry["stream"].get("items")):
                self.find("J_SCHEMA", f"the stream's index holds {items} items, not as claimed", seq=entry["seq"])

    def _check_node(self, reference: str, below: int, seq: int) -> int | None:
        """Check a node and everything under it, once; how many items it says it has, None when it cannot be read."""
        known = (reference, below)
        if known not in self.nodes:
            self.nodes[known] = self._read_node(reference, below, seq)
        return self.nodes[known]

    def _read_node(self, reference: str, below: int, seq: int) -> int | None:
        body = self.artifacts(reference) if self.artifacts is not None else None
        if body is None or digest_bytes(body) != reference:
            return None  # found already, where it was named
        try:
            node = read_node(body, below=below)
        except (JournalError, CanonicalizationError) as error:
            self.find("J_SCHEMA", error.message, seq=seq)
            return None
        for part in node.parts:
            self._check_artifact(part, seq)
        counts = [self._check_node(part, node.level, seq) for part in node.parts] if node.level else []
        if counts and None not in counts and sum(count or 0 for count in counts) != node.items:
            self.find("J_SCHEMA", f"the stream index {reference} does not add up", seq=seq)
        return node.items

    def _check_artifact(self, reference: str, seq: int) -> None:
        if self.artifacts is None or reference in self.looked_up:
            return
        self.looked_up.add(reference)
        data = self.artifacts(reference)
        if data is None and reference in self.withheld:
            self.find("J_ARTIFACT_WITHHELD", f"{reference} was not handed on", seq=seq, severity="warning")
        elif data is None and reference != _EMPTY:
            self.find("J_ARTIFACT_MISSING", f"{reference} is not stored", seq=seq)
        elif data is not None and digest_bytes(data) != reference:
            self.find("J_ARTIFACT_HASH", f"the body stored as {reference} is another one", seq=seq)

    def verdict(self, *, torn: int = 0) -> JournalVerification:
        if self.position == 0 and not self.findings:
            self.find("J_EMPTY", "the journal holds no entry")
        return JournalVerification(
            ok=self.bad_from is None,
            level="chain",
            entries=self.position,
            head_seq=self.head_seq,
            head_hash=self.head if self.position else None,
            trusted_prefix=self.position if self.bad_from is None else self.bad_from,
            closed=self.states.closed,
            torn_tail_bytes=torn,
            findings=tuple(self.findings),
        )


def artifact_references(entry: Mapping[str, Any]) -> Iterator[str]:
    """Digests of the artifacts an entry names; of what a step emitted, the root of its index."""
    kind = entry["kind"]
    if kind == "receipt":
        named = [entry["receipt"].get(name) for name in _RECEIPT_ARTIFACTS]
    elif kind == "plan":
        named = [entry.get("document")]
    elif kind == "journal_opened":
        fork, files = entry.get("fork"), entry.get("files")
        named = [fork.get("document")] if isinstance(fork, Mapping) else []
        named += [entry.get("environment"), *(files.values() if isinstance(files, Mapping) else ())]
    elif kind in ("step_started", "step_finished"):
        named = [*_markers(entry["inputs"]), *_markers(entry["outputs"]), root_of(entry)]
    elif kind == "operation_denied":
        named = [entry["evidence_hash"]]
    else:
        named = []
    yield from (name for name in named if isinstance(name, str) and HASH.match(name))


def _markers(value: object) -> Iterator[object]:
    """The ``$artifact`` marks inside a projected value (ruling R40)."""
    if isinstance(value, Mapping):
        if "$artifact" in value:
            yield value["$artifact"]
        for item in value.values():
            yield from _markers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _markers(item)
