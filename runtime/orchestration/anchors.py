"""The anchor log and witnesses: what is kept apart from a journal so that its end cannot vanish (operations spec §7.4).

An anchor names one entry of one journal; anchors form a chain of their own, and each carries an HMAC by a key that is not
kept with them. A witness is the same statement as a line of text, for people and commit messages. Standard library only:
the evidence bundle carries this module.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError

SCHEMA: Final = "anchor/1"
GENESIS: Final = digest_bytes(b"mission-anchor/genesis/1")
#: Name of the trailer in commit messages made by a run.
TRAILER: Final = "Mission-Journal"
_MAC: Final = "hmac-sha256:"
_MEMBERS: Final = frozenset(
    {"schema", "n", "journal_id", "run_id", "seq", "entry_hash", "at", "key_id", "prev_anchor_hash", "mac"}
)
_TRAILER_LINE: Final = re.compile(r"[A-Za-z0-9-]+: ")
_WITNESS: Final = re.compile(r"mission-witness/1 ([a-z0-9][a-z0-9-]{0,80}) (0|[1-9][0-9]{0,15}) (sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Witness:
    """Somebody saw ``entry_hash`` at ``seq`` of ``journal_id``."""

    journal_id: str
    seq: int
    entry_hash: str

    @property
    def text(self) -> str:
        return f"mission-witness/1 {self.journal_id} {self.seq} {self.entry_hash}"

    @classmethod
    def parse(cls, text: str) -> Witness:
        """Raises `JournalError` ``WITNESS_FORMAT``."""
        found = _WITNESS.fullmatch(text.strip())
        if found is None:
            raise JournalError(
                "WITNESS_FORMAT", f"{text!r} is no witness", hint="mission-witness/1 <journal> <seq> <entry hash>"
            )
        return cls(found[1], int(found[2]), found[3])


def with_trailer(message: str, witness: str) -> str:
    """A commit message that names a witness: among the trailers it has already, else in a paragraph of its own."""
    head = message.rstrip()
    title, _, body = head.partition("\n\n")
    last = body.rpartition("\n\n")[2].split("\n")
    joins = title and body and all(_TRAILER_LINE.match(line) for line in last)
    return f"{head}\n{'' if joins else chr(10)}{TRAILER}: {witness}\n"


def without_trailer(message: str) -> tuple[str, str | None]:
    """The message `with_trailer` was given, less white space at its end, and the witness; None when it has none."""
    head, _, last = message.rstrip().rpartition("\n")
    name, _, witness = last.partition(": ")
    if name != TRAILER or _WITNESS.fullmatch(witness) is None:
        return message.rstrip(), None
    return head.rstrip(), witness


@dataclass(frozen=True, slots=True)
class AnchorProblem:
    """What does not hold in an anchor log: ``J_ANCHOR_CHAIN`` or ``J_ANCHOR_MAC``, at line ``n`` from 0."""

    code: str
    n: int
    detail: str


@dataclass(frozen=True, slots=True)
class ReadAnchors:
    """An anchor log as read: the records in order, what is wrong, and whether the signatures were checked."""

    records: tuple[Mapping[str, Any], ...]
    problems: tuple[AnchorProblem, ...]
    authenticated: bool

    def of(self, journal_id: str) -> Iterator[Mapping[str, Any]]:
        return (record for record in self.records if record["journal_id"] == journal_id)

    @property
    def head(self) -> str:
        """Digest of the newest record; genesis when there is none."""
        return digest(self.records[-1]) if self.records else GENESIS


@dataclass(slots=True)
class AnchorChain:
    """Makes the records of one log. ``n`` and ``head`` continue a log that exists."""

    key: bytes
    n: int = 0
    head: str = GENESIS
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.key_id = key_id(self.key)

    def next(self, *, journal_id: str, run_id: str, seq: int, entry_hash: str, at: str, final: bool = False) -> bytes:
        """The line, LF included, of the next record."""
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "n": self.n,
            "journal_id": journal_id,
            "run_id": run_id,
            "seq": seq,
            "entry_hash": entry_hash,
            "at": at,
            "key_id": self.key_id,
            "prev_anchor_hash": self.head,
            **({"final": True} if final else {}),
        }
        record["mac"] = _mac(self.key, record)
        self.n, self.head = self.n + 1, digest(record)
        return canonical_bytes(record) + b"\n"


def key_id(key: bytes) -> str:
    """16 hex digits that name a key without telling it."""
    return hashlib.sha256(b"key-id/1\0" + key).hexdigest()[:16]


def read_anchors(data: bytes, key: bytes | None = None) -> ReadAnchors:
    """Read a whole anchor log, all problems collected. Without ``key`` the signatures are not checked.

    A record by another key than ``key`` is a ``J_ANCHOR_MAC``: whoever gives a key says who must have signed.
    """
    records: list[Mapping[str, Any]] = []
    problems: list[AnchorProblem] = []
    head = GENESIS
    *lines, torn = data.split(b"\n")
    if torn:
        problems.append(AnchorProblem("J_ANCHOR_CHAIN", len(lines), f"{len(torn)} bytes follow the last whole record"))
    for n, line in enumerate(lines):
        try:
            record = parse_strict(line)
        except CanonicalizationError as error:
            problems.append(AnchorProblem("J_ANCHOR_CHAIN", n, error.message))
            continue
        if not _is_record(record):
            problems.append(AnchorProblem("J_ANCHOR_CHAIN", n, "not an anchor record"))
            continue
        if record["n"] != n or record["prev_anchor_hash"] != head:
            problems.append(AnchorProblem("J_ANCHOR_CHAIN", n, "does not continue the record before it"))
        if key is not None and not hmac.compare_digest(record["mac"], _mac(key, record)):
            problems.append(AnchorProblem("J_ANCHOR_MAC", n, "the signature is not by the key given"))
        head = digest(record)
        records.append(record)
    return ReadAnchors(tuple(records), tuple(problems), key is not None)


def _mac(key: bytes, record: Mapping[str, Any]) -> str:
    body = canonical_bytes({name: value for name, value in record.items() if name != "mac"})
    return _MAC + hmac.new(key, body, hashlib.sha256).hexdigest()


def _is_record(record: object) -> bool:
    if not isinstance(record, dict) or record.keys() - {"final"} != _MEMBERS or record["schema"] != SCHEMA:
        return False
    texts = ("journal_id", "run_id", "entry_hash", "at", "key_id", "prev_anchor_hash", "mac")
    numbers = ("n", "seq")
    return (
        all(type(record[name]) is str for name in texts)
        and all(type(record[name]) is int for name in numbers)
        and record.get("final", True) is True
    )
