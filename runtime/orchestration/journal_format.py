"""The written form of a journal entry: its kinds, its members, its bytes and how they are hashed.

One place, so that the journal that writes, the store that keeps and the verifier that doubts cannot disagree.
Standard library and kernel only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError
from runtime.kernel.model import OperationReceipt
from runtime.kernel.ports import StoredEntry

SCHEMA: Final = "journal-entry/1"
HEADER: Final = frozenset({"schema", "seq", "kind", "journal_id", "at", "prev_entry_hash", "entry_hash"})
#: Operations spec §7.1: larger values belong into the artifact store.
MAX_LINE_BYTES: Final = 256 * 1024

_STEP: Final = frozenset(
    {
        "step_id",
        "name",
        "operation_type",
        "status",
        "attempt",
        "started_at",
        "completed_at",
        "inputs",
        "outputs",
        "pre_state_hash",
        "post_state_hash",
        "error_message",
        "compensation_status",
    }
)
_OPERATION: Final = frozenset(
    {
        "step_id",
        "operation_id",
        "operation_type",
        "attempt",
        "idempotency_key",
        "pre_state_hash",
        "pre_workspace",
        "pre_head",
        "effect",
        "affected_paths",
        "compensation_type",
        "compensation_command",
        "plan_hash",
    }
)
_OPENED: Final = frozenset(
    {"mission_id", "run_id", "mission_type", "baseline_commit", "envelope_hash", "prev_journal_head"}
)
#: Members that hold the runtime's own words, numbers and digests, names from the mission file, or a receipt, which is
#: hashed by itself: nothing foreign, and nothing that may change.
OWN: Final = (_STEP | _OPERATION | _OPENED | {"receipt", "phase", "code", "action", "environment", "files"}) - {
    "inputs",
    "outputs",
    "error_message",
}
_NOTHING: Final[frozenset[str]] = frozenset()

#: Members an entry must have beside the header, by kind. The keys are the closed set of kinds: operations spec
#: §7.2, ruling R23, and the four last ones for the store's own journal (ruling R33).
REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    "journal_opened": _OPENED,
    "plan": frozenset({"plan_hash"}),
    "signal": frozenset({"signals"}),
    "step_started": _STEP,
    "step_finished": _STEP,
    "operation_started": _OPERATION,
    "operation_denied": frozenset({"step_id", "operation_id", "idempotency_key", "code", "evidence_hash"}),
    "receipt": frozenset({"receipt"}),
    "compensation_started": frozenset({"operation_id", "compensates"}),
    "compensation_finished": frozenset({"operation_id", "compensates", "outcome", "verified"}),
    "escalation": frozenset({"phase", "escalation_id"}),
    "budget": frozenset({"phase", "operation_id", "micros", "tokens"}),
    "kill_switch": _NOTHING,
    "recovery": _NOTHING,
    "external_modification": _NOTHING,
    "operator_action": frozenset({"action"}),
    "evidence": _NOTHING,
    "journal_closed": frozenset({"status", "result_commit", "entries", "last_receipt_hash"}),
    "refusal": _NOTHING,
    "latch": _NOTHING,
    "epoch": _NOTHING,
    "run_head": _NOTHING,
}
_TEXTS: Final = ("journal_id", "at", "prev_entry_hash", "entry_hash")
#: Members entries are told apart or linked by, beside the header.
_MORE_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "step_started": ("step_id",),
    "step_finished": ("step_id",),
    "operation_started": ("idempotency_key",),
    "operation_denied": ("idempotency_key",),
    "compensation_started": ("compensates",),
    "compensation_finished": ("compensates",),
}
_TEXT_MEMBERS: Final = {kind: (*_TEXTS, *_MORE_TEXTS.get(kind, ())) for kind in REQUIRED}
_NUMBERS: Final = ("seq",)
_STEP_NUMBERS: Final = ("seq", "attempt", "visit", "tick")
_RECEIPT: Final = frozenset(item.name for item in fields(OperationReceipt)) | {"receipt_hash"}


def shape_problem(entry: Mapping[str, Any]) -> str | None:
    """Why ``entry`` is not a journal entry of its kind; None when it is."""
    members = entry.keys()
    if not members >= HEADER:
        return f"header member {min(HEADER - members)} is missing"
    kind = entry["kind"]
    if entry["schema"] != SCHEMA:
        return f"schema is {entry['schema']!r}, not {SCHEMA!r}"
    if not isinstance(kind, str) or kind not in REQUIRED:
        return f"{kind!r} is not a kind of journal entry"
    if not members >= REQUIRED[kind]:
        return f"{kind} lacks {min(REQUIRED[kind] - members)}"
    for name in _TEXT_MEMBERS[kind]:
        if type(entry[name]) is not str:
            return f"{name} is not text"
    for name in _STEP_NUMBERS if REQUIRED[kind] is _STEP else _NUMBERS:
        if type(entry.get(name, 1)) is not int:
            return f"{name} is not a whole number"
    return _receipt_problem(entry["receipt"]) if kind == "receipt" else None


def _receipt_problem(receipt: object) -> str | None:
    if not isinstance(receipt, Mapping):
        return "receipt is not an object"
    if receipt.keys() != _RECEIPT or receipt["schema"] != "receipt/1":
        return "the receipt's members are not those of receipt/1"
    undoes = receipt["compensates"]
    if type(receipt["idempotency_key"]) is not str or not (undoes is None or type(undoes) is str):
        return "idempotency_key or compensates of the receipt is not text"
    return None


def sealed(entry: Mapping[str, Any]) -> tuple[bytes, str]:
    """The stored bytes of ``entry`` (given without ``entry_hash``) and its hash, encoding each member once.

    Canonical keys are sorted, so the hashed bytes are the members before ``entry_hash`` followed by those after
    it, and the stored bytes are the same two runs with the hash set into the seam. The header has members on
    both sides, so neither run is empty. Raises `CanonicalizationError`.
    """
    before = canonical_bytes({key: value for key, value in entry.items() if key < "entry_hash"})
    after = canonical_bytes({key: value for key, value in entry.items() if key > "entry_hash"})
    entry_hash = digest_bytes(before[:-1] + b"," + after[1:])
    body = before[:-1] + f',"entry_hash":"{entry_hash}",'.encode() + after[1:]
    if len(body) > MAX_LINE_BYTES:
        raise CanonicalizationError("CANON_SIZE", f"{len(body)} bytes exceed the line limit of {MAX_LINE_BYTES}")
    return body, entry_hash


def hash_of_body(body: bytes, claimed: str, member: str = "entry_hash") -> str:
    """The hash of a canonical object's bytes without its top-level ``member``, which reads ``claimed``.

    Quotes inside canonical strings are escaped, so the seam text can only be a member; one occurrence is the
    top-level one, and cutting it out leaves the hashed bytes.
    """
    seam = f'"{member}":"{claimed}",'.encode()
    before, found, after = body.partition(seam)
    if found and seam not in after:
        return digest_bytes(before + after)
    entry = parse_strict(body)
    return digest({key: value for key, value in entry.items() if key != member})


def receipt_bytes(body: bytes, entry: Mapping[str, Any]) -> bytes:
    """The canonical bytes of the receipt inside ``body``, the canonical bytes of ``entry``, without encoding it again.

    The member's first and the next member's first bytes can only be members; where each occurs once, what lies between
    is the receipt.
    """
    begin, end = b'"receipt":', f'}},"{min(key for key in entry if key > "receipt")}":'.encode()
    if body.count(begin) == 1 and body.count(end) == 1:
        return body[body.index(begin) + len(begin) : body.index(end) + 1]
    return canonical_bytes(entry["receipt"])


def stored_line(line: bytes) -> StoredEntry:
    """One canonical line with the columns a database would hold.

    Raises `CanonicalizationError`, or `JournalError` ``J_SCHEMA``.
    """
    entry = parse_strict(line, limit=MAX_LINE_BYTES)
    problem = shape_problem(entry) if isinstance(entry, Mapping) else "not an object"
    if problem is not None:
        raise JournalError("J_SCHEMA", problem)
    return StoredEntry(entry["seq"], entry["kind"], entry["at"], entry["prev_entry_hash"], entry["entry_hash"], line)


def stored_lines(data: bytes) -> Iterable[StoredEntry]:
    """The entries of a whole JSONL file; raises `JournalError` naming the first line that is none."""
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            yield stored_line(line)
        except (CanonicalizationError, JournalError) as error:
            raise JournalError(error.code, error.message, where=f"line {number}") from error
