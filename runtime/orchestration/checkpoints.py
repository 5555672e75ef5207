"""Checkpoints: a journal's length and root in the C2SP text formats, and the signed notes that carry them.

    quarterdeck/<journal id>          origin
    <number of entries>
    <base64 root>

    — <key name> <base64 of key id and signature>

The formats are those of C2SP tlog-checkpoint and signed-note, so that other tools read them. This module knows bytes
only; who makes or checks an Ed25519 signature is injected. Standard library only: the evidence bundle carries it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from runtime.kernel.errors import JournalError
from runtime.kernel.fingerprint import fingerprint

ORIGIN: Final = "quarterdeck"
KEY_NAME: Final = "quarterdeck"
MAX_NOTE_BYTES: Final = 64 * 1024
_ED25519: Final = b"\x01"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_SIGNED_BY: Final = "\u2014 "  # an em dash, as the format wants it
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_JOURNAL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")

#: Makes the signature (64 bytes) of a text's bytes.
Sign = Callable[[bytes], bytes]
#: Is this the Ed25519 signature of the text by the key? Arguments: public key (32 bytes), signature (64), text.
CheckSignature = Callable[[bytes, bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a note says: after ``size`` entries the tree of ``journal_id`` has ``root`` (32 bytes).

    ``generation`` counts from 1; a journal that an operator accepted in spite of missing entries goes on in the next one,
    because nobody who remembers the lost entries may take the new ones for a continuation.
    """

    journal_id: str
    size: int
    root: bytes
    generation: int = 1

    @property
    def origin(self) -> str:
        later = "" if self.generation == 1 else f"/{self.generation}"
        return f"{ORIGIN}/{self.journal_id}{later}"

    def text(self) -> bytes:
        """The bytes that are signed, final newline included."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @property
    def words(self) -> str:
        """Six words for it: the same for whoever holds this checkpoint, whoever signed it."""
        return fingerprint(self.text())


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key in the form of C2SP signed-note: ``<name>+<key id>+<base64>``."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    @property
    def text(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @property
    def words(self) -> str:
        return fingerprint(_ED25519 + self.public)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Raises `JournalError` ``KEY_FORMAT``."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _decoded(encoded)
        if not _is_name(name) or raw is None or raw[:1] != _ED25519 or len(raw) != 1 + _KEY_BYTES:
            raise JournalError("KEY_FORMAT", f"{text!r} is not an Ed25519 verifier key", hint="name+key id+base64")
        key = cls(name, raw[1:])
        if key.key_id.hex() != key_id:
            raise JournalError("KEY_FORMAT", f"the key id {key_id!r} is not that of the key", hint="copy the key whole")
        return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: whose it claims to be, and its bytes. Not checked yet."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed signed note around a checkpoint. ``data`` are its exact bytes."""

    data: bytes
    checkpoint: Checkpoint
    signatures: tuple[NoteSignature, ...]

    def signed_by(self, keys: Iterable[VerifierKey], check: CheckSignature) -> VerifierKey | None:
        """The first of ``keys`` whose valid signature it carries. A wrong signature by one of them counts as none."""
        text = self.checkpoint.text()
        for key in keys:
            for item in self.signatures:
                known = item.name == key.name and item.key_id == key.key_id
                if known and check(key.public, item.signature, text):
                    return key
        return None


def signed_note(checkpoint: Checkpoint, key: VerifierKey, sign: Sign) -> bytes:
    """The note of ``checkpoint`` signed by one key."""
    text = checkpoint.text()
    return text + b"\n" + signature_line(key, sign(text))


def signature_line(key: VerifierKey, signature: bytes) -> bytes:
    """One signature line, newline included; several may follow each other."""
    return f"{_SIGNED_BY}{key.name} {base64.b64encode(key.key_id + signature).decode()}\n".encode()


def read_note(data: bytes) -> Note:
    """Parse a note strictly: exactly what `signed_note` writes, with one to sixteen signatures.

    Raises `JournalError` ``NOTE_FORMAT``.
    """
    try:
        text = data.decode("utf-8") if len(data) <= MAX_NOTE_BYTES else ""
    except UnicodeDecodeError:
        text = ""
    head, separator, tail = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) != 3 or not tail.endswith("\n") or not 1 <= tail.count("\n") <= 16:
        raise _no_note("three lines, an empty line and signatures were expected")
    journal_id, generation = _origin(lines[0])
    root = _decoded(lines[2])
    if not _SIZE.fullmatch(lines[1]) or root is None or len(root) != 32:
        raise _no_note("the second line is a number and the third a base64 root of 32 bytes")
    checkpoint = Checkpoint(journal_id, int(lines[1]), root, generation)
    return Note(data, checkpoint, tuple(_signature(line) for line in tail[:-1].split("\n")))


def _origin(line: str) -> tuple[str, int]:
    prefix, _, rest = line.partition("/")
    journal_id, slash, number = rest.partition("/")
    generation = int(number) if slash and _SIZE.fullmatch(number) else 1
    later = slash and generation > 1
    if prefix != ORIGIN or not _JOURNAL.fullmatch(journal_id) or bool(slash) != bool(later):
        raise _no_note(f"{line!r} is not the origin of a journal of ours")
    return journal_id, generation


def _signature(line: str) -> NoteSignature:
    if not line.startswith(_SIGNED_BY):
        raise _no_note(f"{line!r} is not a signature line")
    name, _, encoded = line[len(_SIGNED_BY) :].partition(" ")
    raw = _decoded(encoded)
    if not _is_name(name) or raw is None or len(raw) != 4 + _SIGNATURE_BYTES:
        raise _no_note(f"{line!r} is not an Ed25519 signature line")
    return NoteSignature(name, raw[:4], raw[4:])


def _decoded(text: str) -> bytes | None:
    """Base64 in its one canonical spelling, or None."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(char.isspace() for char in name)


def _no_note(why: str) -> JournalError:
    return JournalError("NOTE_FORMAT", f"not a signed checkpoint: {why}")
