"""What a journal is held against: signed checkpoints, the anchor log, and what witnesses saw (C2SP formats, spec 7.4).

One part of `verify_bundle.py`, written from the specification and importing nothing of the product. Standard library
only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Loaded before this by verify_bundle.py, by its place: an isolated interpreter finds no sibling by its name.
rules = sys.modules["quarterdeck_verify_journal"]
Wrong: Any = rules.Wrong
ANCHOR_GENESIS = rules.sha256(b"mission-anchor/genesis/1")

NOTE = re.compile(
    r"(quarterdeck/([a-z0-9][a-z0-9-]{0,80})(?:/([1-9][0-9]{0,15}))?\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n)"
    r"\n((?:\u2014 [^\s+]+ [A-Za-z0-9+/]{91}=\n){1,16})"
)
WITNESS = re.compile(
    r"(?:Mission-Journal: )?mission-witness/1 ([a-z0-9][a-z0-9-]{0,80}) (0|[1-9][0-9]{0,15}) (sha256:[0-9a-f]{64})"
)
ANCHOR = rules.words("schema n journal_id run_id seq entry_hash at key_id prev_anchor_hash mac")
#: Is it the signature of the text by the key? Arguments: public key, signature, text.
Holds = Callable[[bytes, bytes, bytes], bool]


def six_words(data: bytes) -> str:
    """Six proquints of the SHA-256: 96 bits, to compare by eye or over the telephone."""
    consonants, vowels = "bdfghjklmnprstvz", "aiou"
    spelled = []
    for n in struct.unpack(">6H", hashlib.sha256(data).digest()[:12]):
        ends = (consonants[n >> 12], consonants[n >> 6 & 15], consonants[n & 15])
        spelled.append(ends[0] + vowels[n >> 10 & 3] + ends[1] + vowels[n >> 4 & 3] + ends[2])
    return " ".join(spelled)


def unbase64(text: str) -> bytes | None:
    """Base64 in its one canonical spelling, or None."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return raw if base64.b64encode(raw).decode() == text else None


@dataclass(frozen=True)
class Key:
    """An Ed25519 key by name."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n\x01" + self.public).digest()[:4]

    @property
    def words(self) -> str:
        return six_words(b"\x01" + self.public)


def read_key(text: str) -> Key:
    """``<name>+<key id>+<base64>``; else `Wrong`."""
    name, _, rest = text.strip().partition("+")
    key_id, _, body = rest.partition("+")
    raw = unbase64(body)
    if not name or re.search(r"\s", name) or raw is None or raw[:1] != b"\x01" or len(raw) != 33:
        raise Wrong("KEY_FORMAT", f"{text.strip()!r} is not an Ed25519 verifier key")
    key = Key(name, raw[1:])
    if key.id.hex() != key_id:
        raise Wrong("KEY_FORMAT", f"{key_id!r} is not the id of that key")
    return key


@dataclass(frozen=True)
class Note:
    """A signed checkpoint: after ``size`` entries the tree of ``journal_id`` has ``root``."""

    where: str
    text: bytes
    journal_id: str
    generation: int
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]

    def signer(self, keys: Iterable[Key], holds: Holds) -> Key | None:
        for key in keys:
            for name, key_id, signature in self.signatures:
                if (name, key_id) == (key.name, key.id) and holds(key.public, signature, self.text):
                    return key
        return None


def read_note(data: bytes, where: str) -> Note:
    """A note of one to sixteen signatures in its exact form; else `Wrong`."""
    try:
        found = NOTE.fullmatch(data.decode("utf-8")) if len(data) <= 64 << 10 else None
    except UnicodeDecodeError:
        found = None
    root = unbase64(found[5]) if found else None
    if found is None or root is None or found[3] == "1":
        raise Wrong("NOTE_FORMAT", f"{where} is not a signed checkpoint")
    signatures = []
    for line in found[6][:-1].split("\n"):
        name, _, body = line[2:].partition(" ")
        raw = unbase64(body)
        if raw is None:
            raise Wrong("NOTE_FORMAT", f"a signature of {where} is not base64")
        signatures.append((name, raw[:4], raw[4:]))
    return Note(where, found[1].encode(), found[2], int(found[3] or 1), int(found[4]), root, tuple(signatures))


# -- what a journal is held against (spec 7.4) -------------------------------------------------------------------------


@dataclass
class Evidence:
    """Checkpoints, anchors and witnesses. ``pinned`` are keys the caller named; only else those inside count."""

    notes: list[Note] = field(default_factory=list)
    inside: list[Key] = field(default_factory=list)
    pinned: list[Key] = field(default_factory=list)
    anchors: bytes | None = None
    anchor_key: bytes | None = None
    seen: list[tuple[str, int, str]] = field(default_factory=list)  # journal id, seq, entry hash
    seen_notes: list[Note] = field(default_factory=list)
    # What came of the comparison, in entries that are covered:
    best: Note | None = None
    signer: Key | None = None
    anchored: int = 0
    witnessed: int = 0

    @property
    def watched(self) -> frozenset[int]:
        return frozenset(note.size for note in [*self.notes, *self.seen_notes])

    @property
    def covered(self) -> int:
        return max(self.best.size if self.best else 0, self.anchored)

    def compare(self, journal: Any, holds: Holds) -> None:
        """Hold it against a journal that was fed to its end; what differs goes to the journal's findings."""
        self._notes(journal, holds)
        if self.anchors is not None:
            self._anchors(journal, self.anchors)
        if self.anchor_key is not None and not self.anchored:
            journal.say("J_ANCHOR_MAC", "no anchor made with the key given speaks of this journal")
        for witness in self.seen:
            if self._saw(journal, "J_WITNESS_MISMATCH", "a witness", *witness):
                self.witnessed = max(self.witnessed, witness[1] + 1)
        for note in self.seen_notes:
            if self.pinned and note.signer(self.pinned, holds) is None:
                journal.say("J_ANCHOR_MAC", f"the witness {note.where} is not signed by a key given")
            elif self._fits(journal, "J_WITNESS_MISMATCH", note):
                self.witnessed = max(self.witnessed, note.size)

    def _notes(self, journal: Any, holds: Holds) -> None:
        newest, before = max((note.generation for note in self.notes), default=1), (1, 0)
        for note in self.notes:
            if (note.generation, note.size) < before:
                journal.say("J_ANCHOR_CHAIN", f"{note.where} is older than the checkpoint before it")
            before = (note.generation, note.size)
            signer = note.signer(self.pinned or self.inside, holds)
            if signer is None:
                journal.say(
                    "J_ANCHOR_MAC", f"no {'key given' if self.pinned else 'key inside'} has signed {note.where}"
                )
            elif note.generation < newest:
                if journal.roots.get(note.size) != note.root:
                    gone = f"{note.where} speaks of entries that are gone; an operator went on without them"
                    journal.say("J_TRUNCATED", gone, error=False)
            elif self._fits(journal, "J_ANCHOR_MISMATCH", note):
                self.best, self.signer = note, signer
        if self.pinned and not self.notes and not self.seen_notes:
            journal.say("J_ANCHOR_MAC", "nothing here is signed by a key given")
        if journal.closed and self.notes and max(note.size for note in self.notes) < journal.size:
            # A signer in trouble leaves this behind, too; what the end itself counts still has to fit.
            tail = "the run has ended, but no checkpoint covers its end"
            journal.say("J_UNANCHORED_TAIL", tail, error=False)

    def _fits(self, journal: Any, code: str, note: Note) -> bool:
        if note.journal_id != journal.journal_id:
            journal.say(code, f"{note.where} is about journal {note.journal_id}")
        elif note.size > journal.size:
            journal.say("J_TRUNCATED", f"{note.where} covers {note.size} entries, of which {journal.size} are here")
        elif journal.roots.get(note.size) != note.root:
            journal.say(code, f"the first {note.size} entries are not those of {note.where}")
        else:
            return True
        return False

    def _saw(self, journal: Any, code: str, who: str, journal_id: str, seq: int, entry_hash: str) -> bool:
        if journal_id != journal.journal_id:
            journal.say(code, f"{who} is about journal {journal_id}")
        elif seq >= journal.size:
            journal.say("J_TRUNCATED", f"{who} saw entry {seq}, but only {journal.size} are here")
        elif journal.hashes.get(seq) != entry_hash:
            journal.say(code, f"entry {seq} is not the one {who} saw")
        else:
            return True
        return False

    def _anchors(self, journal: Any, data: bytes) -> None:
        *lines, torn = data.split(b"\n")
        if torn:
            journal.say("J_ANCHOR_CHAIN", "the anchor log ends within a record")
        head = ANCHOR_GENESIS
        for number, line in enumerate(lines):
            who = f"anchor {number}"
            try:
                record = rules.strict(line)
                _check_anchor(record)
            except Wrong as wrong:
                journal.say("J_ANCHOR_CHAIN", f"{who}: {wrong.reason}")
                continue
            if record["n"] != number or record["prev_anchor_hash"] != head:
                journal.say("J_ANCHOR_CHAIN", f"{who} does not continue the one before it")
            head = rules.digest(record)
            if self.anchor_key is not None and not hmac.compare_digest(record["mac"], _mac(self.anchor_key, record)):
                journal.say("J_ANCHOR_MAC", f"{who} is not signed with the key given")
            elif record["journal_id"] == journal.journal_id:
                fits = (record["journal_id"], record["seq"], record["entry_hash"])
                if self._saw(journal, "J_ANCHOR_MISMATCH", who, *fits):
                    self.anchored = max(self.anchored, record["seq"] + 1)
                    if "final" in record and record["seq"] + 1 != journal.size:
                        journal.say("J_ANCHOR_MISMATCH", f"{who} saw the journal end with entry {record['seq']}")
        if self.anchor_key is None:
            journal.say("J_KEY_MISSING", "signatures of anchors are not checked: no --anchor-key", error=False)


def _check_anchor(record: Any) -> None:
    if not isinstance(record, dict) or record.keys() - {"final"} != ANCHOR or record["schema"] != "anchor/1":
        raise Wrong("J_ANCHOR_CHAIN", "not an anchor record")
    whole = all(type(record[name]) is int for name in ("n", "seq"))
    text = all(type(record[name]) is str for name in ANCHOR - {"n", "seq"})
    if not whole or not text or record.get("final", True) is not True or not record["mac"].isascii():
        raise Wrong("J_ANCHOR_CHAIN", "a member of the record has the wrong type")


def _mac(key: bytes, record: Mapping[str, Any]) -> str:
    body = rules.encoded({name: value for name, value in record.items() if name != "mac"})
    return "hmac-sha256:" + hmac.new(key, body, hashlib.sha256).hexdigest()
