"""The rules of a mission journal, checked from its stored lines alone: bytes, chain, order, receipts, bodies.

One half of `verify_bundle.py`, written from the specification and importing nothing of the product. Standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

MAX_LINE, MAX_DEPTH, MAX_INT = 256 << 10, 64, 2**53 - 1
STREAM_WIDTH, STREAM_LEVELS = 256, 8
MAX_FINDINGS = 1000

is_digest = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


GENESIS, RECEIPT_GENESIS = (sha256(f"mission-{what}/genesis/1".encode()) for what in ("journal", "receipt"))
EMPTY_ROOT = hashlib.sha256(b"").digest()


class Wrong(Exception):
    """A check failed: code and reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


# -- canonical JSON (spec 1.2) -----------------------------------------------------------------------------------------


def encoded(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest(value: object) -> str:
    return sha256(encoded(value))


def strict(data: bytes) -> Any:
    """The value of canonical bytes; any other spelling of it is `Wrong`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong("J_NOT_UTF8", f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_fraction, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise Wrong("J_NOT_JSON", f"not JSON: {error}") from None
    if _depth(value, MAX_DEPTH) < 0:
        raise Wrong("J_NONCANONICAL", f"nested deeper than {MAX_DEPTH}")
    try:
        same = encoded(value) == data
    except ValueError:  # a lone surrogate, or a number too large to be finite
        same = False
    if not same:
        raise Wrong("J_NONCANONICAL", "not the canonical encoding of its value")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Wrong("J_DUPLICATE_KEY", "a key appears twice in one object")
    return members


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) > MAX_INT:
        raise Wrong("J_NONCANONICAL", "an integer is beyond 2**53-1")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if number == 0 and text.startswith("-"):
        raise Wrong("J_NONCANONICAL", "negative zero is not allowed")
    return number


def _constant(text: str) -> NoReturn:
    raise Wrong("J_NONCANONICAL", f"{text} is not allowed")


def _depth(value: object, left: int) -> int:
    """How many levels are left below the deepest container, negative when there are too many."""
    if not isinstance(value, (dict, list)) or left < 0:
        return left
    items = value.values() if isinstance(value, dict) else value
    return min((_depth(item, left - 1) for item in items if isinstance(item, (dict, list))), default=left - 1)


# -- the journal (spec 7) ----------------------------------------------------------------------------------------------

HEADER = "schema seq kind journal_id at prev_entry_hash entry_hash"
STEP = (
    "step_id name operation_type status attempt started_at completed_at inputs outputs pre_state_hash post_state_hash"
    " error_message compensation_status"
)
#: The closed set of kinds (spec 7.2 and the rulings on order and on the store's own journal), with what each must have.
KINDS = {
    kind: words(f"{HEADER} {members}")
    for kind, members in {
        "journal_opened": "mission_id run_id mission_type baseline_commit envelope_hash prev_journal_head",
        "plan": "plan_hash",
        "signal": "signals",
        "step_started": STEP,
        "step_finished": STEP,
        "operation_started": "step_id operation_id operation_type attempt idempotency_key pre_state_hash pre_workspace"
        " pre_head effect affected_paths compensation_type compensation_command plan_hash",
        "operation_denied": "step_id operation_id idempotency_key code evidence_hash",
        "receipt": "receipt",
        "compensation_started": "operation_id compensates",
        "compensation_finished": "operation_id compensates outcome verified",
        "escalation": "phase escalation_id",
        "budget": "phase operation_id micros tokens",
        "journal_closed": "status result_commit entries last_receipt_hash",
        "operator_action": "action",
        **dict.fromkeys(words("kill_switch recovery external_modification evidence"), ""),
        **dict.fromkeys(words("refusal latch epoch run_head"), ""),
    }.items()
}
RECEIPT = words(
    "schema operation_id timestamp pre_state_hash post_state_hash compensation_type compensation_command idempotency_key"
    " compensation_verified run_id step_id operation_type attempt status reason_code effect affected_paths params_hash"
    " output_hash evidence_hash pre_head post_head pre_workspace post_workspace cost_micros compensates"
    " prev_receipt_hash receipt_hash"
)


@dataclass(frozen=True)
class Finding:
    code: str
    detail: str
    seq: int | None = None
    error: bool = True


@dataclass
class Journal:
    """Everything to remember between two lines. `feed` them in order; errors go to ``findings`` and never stop it.

    ``watched`` are numbers of entries after which the tree's root is kept, to compare it with checkpoints.
    """

    watched: frozenset[int] = frozenset()
    findings: list[Finding] = field(default_factory=list)
    errors: int = 0
    size: int = 0
    head: str | None = GENESIS
    journal_id: str | None = None
    receipts: str = RECEIPT_GENESIS
    opening: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    closed: bool = False
    steps: dict[tuple[object, ...], bool] = field(default_factory=dict)  # is it still open?
    due: set[object] = field(default_factory=set)
    undoing: set[object] = field(default_factory=set)
    named: dict[str, int] = field(default_factory=dict)  # artifacts, with the first entry that names each
    streams: list[tuple[str, object, int]] = field(default_factory=list)
    subtrees: list[bytes] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=lambda: {0: EMPTY_ROOT})
    hashes: dict[int, str] = field(default_factory=dict)

    def copy(self) -> Journal:
        """The same knowledge, to go on from independently."""
        mutable = {name: type(value)(value) for name, value in vars(self).items() if type(value) in (list, dict, set)}
        return replace(self, **mutable)

    def find(self, code: str, detail: str) -> None:
        """An error of the entry that is being fed."""
        self.say(code, detail, self.size)

    def say(self, code: str, detail: str, seq: int | None = None, *, error: bool = True) -> None:
        """Note what does not hold. All errors count; of very many, only the first are kept."""
        self.errors += error
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(code, detail, seq, error))

    def feed(self, line: bytes) -> None:
        """Check the next stored line, given without its LF."""
        if len(line) > MAX_LINE:
            self.find("J_LINE_TOO_LONG", f"{len(line)} bytes")
        try:
            entry = strict(line)
            _shape(entry)
        except Wrong as wrong:
            self.find(wrong.code, wrong.reason)
            self.head = None  # what follows cannot be linked to this
        else:
            self._chain(entry)
            for problem in self._states(entry):
                self.find("J_STATE", problem)
            self._remember(entry)
        self._grow(line)
        self.size += 1
        if self.size in self.watched:
            self.roots[self.size] = root(self.subtrees)

    def _chain(self, entry: dict[str, Any]) -> None:
        self.journal_id = self.journal_id or entry["journal_id"]
        if entry["seq"] != self.size:
            self.find("J_SEQ", f"entry {entry['seq']} stands at place {self.size}")
        if entry["journal_id"] != self.journal_id:
            self.find("J_JOURNAL_ID", f"belongs to {entry['journal_id']}")
        if self.head is not None and entry["prev_entry_hash"] != self.head:
            self.find("J_PREV_HASH" if self.size else "J_GENESIS", "does not continue what is before it")
        if digest({name: value for name, value in entry.items() if name != "entry_hash"}) != entry["entry_hash"]:
            self.find("J_ENTRY_HASH", "the bytes do not have the hash they claim")
        self.head = entry["entry_hash"]
        self.hashes[self.size] = entry["entry_hash"]

    def _states(self, entry: dict[str, Any]) -> Iterator[str]:
        kind = entry["kind"]
        if self.closed:
            yield f"{kind} follows the end"
        if (kind == "journal_opened") != (self.size == 0) and self.journal_id != "store":
            yield "a journal is opened by its first entry and by no other"
        if kind == "journal_opened":
            self.opening = self.opening or entry
        elif kind == "plan":
            self.plan = self.plan or entry
        elif kind in ("step_started", "step_finished"):
            yield from self._step(entry, kind == "step_started")
        elif kind in ("operation_started", "operation_denied"):
            self.due.add(entry["idempotency_key"])
        elif kind == "receipt":
            yield from self._receipt(entry["receipt"])
        elif kind == "compensation_started":
            self.undoing.add(entry["compensates"])
        elif kind == "compensation_finished" and entry["compensates"] not in self.undoing:
            yield "an undo is finished that was never started"
        elif kind == "journal_closed":
            self.closed = True
            if entry["entries"] != self.size + 1:
                yield f"the end counts {entry['entries']} entries"
            if entry["last_receipt_hash"] != self.receipts:
                self.find("J_RECEIPT_CHAIN", "the end names another last receipt")

    def _step(self, entry: dict[str, Any], starts: bool) -> Iterator[str]:
        key = (entry["step_id"], entry.get("tick", 1), entry.get("visit", 1), entry["attempt"])
        state = self.steps.get(key)
        if starts and state is not None:
            yield f"step {key[0]} attempt {key[3]} is started twice"
        elif not starts and not state:
            yield f"step {key[0]} attempt {key[3]} is finished " + ("twice" if state is False else "but never started")
        self.steps[key] = starts

    def _receipt(self, receipt: dict[str, Any]) -> Iterator[str]:
        claimed = receipt["receipt_hash"]
        if digest({name: value for name, value in receipt.items() if name != "receipt_hash"}) != claimed:
            self.find("J_RECEIPT_CHAIN", "the receipt does not have the hash it claims")
        if receipt["prev_receipt_hash"] != self.receipts:
            self.find("J_RECEIPT_CHAIN", "does not continue the receipt before it")
        self.receipts = claimed
        undoes, key = receipt["compensates"], receipt["idempotency_key"]
        if undoes is not None and undoes not in self.undoing:
            yield "a receipt speaks of an undo that was never started"
        elif undoes is None and key not in self.due:
            yield "a receipt of an operation that was neither started nor denied"
        elif undoes is None:
            self.due.discard(key)

    def _remember(self, entry: dict[str, Any]) -> None:
        """Which artifacts the entry names."""
        kind, names = entry["kind"], []
        if kind == "receipt":
            names = [entry["receipt"][name] for name in ("params_hash", "output_hash", "evidence_hash")]
        elif kind == "operation_denied":
            names = [entry["evidence_hash"]]
        elif kind == "plan":
            names = [entry.get("document")]
        elif kind == "journal_opened":
            fork, files = entry.get("fork"), entry.get("files")
            names = [entry.get("environment"), fork.get("document") if isinstance(fork, dict) else None]
            names += files.values() if isinstance(files, dict) else ()
        elif kind in ("step_started", "step_finished"):
            names = [*_marks(entry["inputs"]), *_marks(entry["outputs"])]
            if kind == "step_finished" and "stream" in entry:
                stream = entry["stream"]
                index = stream.get("index") if isinstance(stream, dict) else None
                if isinstance(index, str) and is_digest(index):
                    self.streams.append((index, stream.get("items"), self.size))
                    names.append(index)
                else:
                    self.find("J_SCHEMA", "the stream member names no index")
        for name in names:
            if isinstance(name, str) and is_digest(name):
                self.named.setdefault(name, self.size)

    def _grow(self, line: bytes) -> None:
        """RFC 6962: leaves are hashed with 0 before them, nodes with 1; ``subtrees`` are the perfect ones, largest first."""
        node, rest = hashlib.sha256(b"\0" + line).digest(), self.size
        while rest & 1:
            node, rest = hashlib.sha256(b"\1" + self.subtrees.pop() + node).digest(), rest >> 1
        self.subtrees.append(node)


def root(subtrees: list[bytes]) -> bytes:
    node = subtrees[-1]
    for larger in reversed(subtrees[:-1]):
        node = hashlib.sha256(b"\1" + larger + node).digest()
    return node


def _shape(entry: Any) -> None:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in KINDS or entry.get("schema") != "journal-entry/1":
        raise Wrong("J_SCHEMA", "not a journal entry of a known kind")
    missing = KINDS[kind] - entry.keys()
    if missing:
        raise Wrong("J_SCHEMA", f"{kind} lacks {min(missing)}")
    texts = ["journal_id", "at", "prev_entry_hash", "entry_hash"]
    if kind in ("step_started", "step_finished"):
        texts.append("step_id")
    elif kind in ("operation_started", "operation_denied"):
        texts.append("idempotency_key")
    elif kind.startswith("compensation_"):
        texts.append("compensates")
    if type(entry["seq"]) is not int or not all(type(entry[name]) is str for name in texts):
        raise Wrong("J_SCHEMA", f"a member of {kind} has the wrong type")
    if kind.startswith("step_") and any(type(entry.get(name, 1)) is not int for name in ("attempt", "visit", "tick")):
        raise Wrong("J_SCHEMA", "attempt, visit and tick of a step are whole numbers")
    if kind == "receipt":
        receipt = entry["receipt"]
        if not isinstance(receipt, dict) or receipt.keys() != RECEIPT or receipt["schema"] != "receipt/1":
            raise Wrong("J_SCHEMA", "not a receipt")
        undoes = receipt["compensates"]
        if type(receipt["idempotency_key"]) is not str or not (undoes is None or type(undoes) is str):
            raise Wrong("J_SCHEMA", "a member of the receipt has the wrong type")


def _marks(value: object) -> Iterator[object]:
    """``$artifact`` marks inside values."""
    if isinstance(value, dict):
        yield value.get("$artifact")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _marks(item)


def feed_all(journal: Journal, chunks: Iterable[bytes]) -> None:
    """Feed the lines of a stored journal that comes in pieces of any size. Bytes after the last LF are a torn tail."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            journal.feed(line)
        if len(rest) > MAX_LINE:
            journal.find("J_LINE_TOO_LONG", f"no line end within {MAX_LINE} bytes; nothing after it is read")
            return
    if rest:
        journal.find("J_TORN_TAIL", f"{len(rest)} bytes follow the last complete line")
    elif not journal.size:
        journal.say("J_EMPTY", "the journal holds no entry")


# -- artifacts (spec 7.5) ----------------------------------------------------------------------------------------------


class Artifacts:
    """The bodies beside a journal. ``read`` gives a body or None; ``withheld`` are left out on purpose."""

    def __init__(self, journal: Journal, read: Callable[[str], bytes | None], withheld: Iterable[str]) -> None:
        self.journal, self.read, self.withheld = journal, read, frozenset(withheld)
        self.seen: set[str] = set()
        self.counts: dict[tuple[str, int], int | None] = {}

    def check(self) -> None:
        for name, seq in list(self.journal.named.items()):
            self.present(name, seq)
        for index, items, seq in self.journal.streams:
            found = self.stream(index, STREAM_LEVELS, seq)
            if found is not None and found != items:
                self.journal.say("J_SCHEMA", f"the stream {index} holds {found} items, not {items}", seq)

    def present(self, name: str, seq: int) -> bytes | None:
        body = self.read(name)
        if name not in self.seen:
            self.seen.add(name)
            if body is None and name not in self.withheld and name != sha256(b"{}"):
                self.journal.say("J_ARTIFACT_MISSING", f"{name} is neither there nor withheld", seq)
            elif body is not None and sha256(body) != name:
                self.journal.say("J_ARTIFACT_HASH", f"the body of {name} is another one", seq)
        return body if body is not None and sha256(body) == name else None

    def stream(self, name: str, below: int, seq: int) -> int | None:
        """Follow an index of stream items to its chunks: how many items it says it has, None if it cannot be read."""
        if (name, below) not in self.counts:
            body = self.present(name, seq)
            self.counts[name, below] = None if body is None else self._node(name, body, below, seq)
        return self.counts[name, below]

    def _node(self, name: str, body: bytes, below: int, seq: int) -> int | None:
        try:
            node = strict(body)
            level, items, parts = node["level"], node["items"], node["parts"]
            good = node.keys() == {"schema", "level", "items", "parts"} and node["schema"] == "stream-index/1"
            good = good and type(level) is int and 0 <= level < below and type(items) is int
            good = good and type(parts) is list and len(parts) <= STREAM_WIDTH
            good = good and all(isinstance(part, str) and is_digest(part) for part in parts)
        except (Wrong, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            self.journal.say("J_SCHEMA", f"{name} is not a node of a stream index", seq)
            return None
        for part in parts:
            self.present(part, seq)
        counts = [self.stream(part, level, seq) for part in parts] if level else []
        if counts and None not in counts and sum(count or 0 for count in counts) != items:
            self.journal.say("J_SCHEMA", f"the stream index {name} does not add up", seq)
        return int(items)
