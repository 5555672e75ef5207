"""That one entry is inside a signed checkpoint, as a text anybody can check offline (C2SP tlog-proof).

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry>
    index <seq>
    <base64 hash>               siblings on the way to the root, deepest first
                                an empty line
    <signed note>

The entry itself is the extra data, so the text alone says what was done and proves it. Standard library and sibling
modules only.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.kernel.errors import JournalError
from runtime.orchestration.checkpoints import CheckSignature, Note, VerifierKey, read_note
from runtime.orchestration.journal_format import MAX_LINE_BYTES
from runtime.orchestration.merkle import Frontier, leaf_hash, root_from_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,15})")
_EXTRA: Final = "extra "
#: Siblings of a leaf in the largest journal there can be.
_MAX_PATH: Final = 63
_MAX_BYTES: Final = 2 * MAX_LINE_BYTES


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof: entry ``body`` is the leaf at ``index``, ``path`` leads to the root of ``note``. Not checked yet."""

    index: int
    body: bytes
    path: tuple[bytes, ...]
    note: Note

    def holds(self) -> bool:
        """Does the path lead from the entry to the checkpoint's root?"""
        said = self.note.checkpoint
        return root_from_inclusion(self.index, said.size, leaf_hash(self.body), self.path) == said.root

    def steps(self) -> Iterator[tuple[str, bytes]]:
        """Each sibling with its side, ``left`` or ``right``, deepest first. Empty when the path has the wrong length."""
        ranges = _siblings(self.index, self.note.checkpoint.size)
        if len(ranges) == len(self.path):
            for (low, _), sibling in zip(ranges, self.path, strict=True):
                yield "left" if low < self.index else "right", sibling

    def signed_by(self, keys: Iterable[VerifierKey], check: CheckSignature) -> VerifierKey | None:
        """Whose valid signature the checkpoint carries; None: no key of these."""
        return self.note.signed_by(keys, check)


class PathTo:
    """The path from one leaf to the root, computed as leaves go by: a few hashes for each sibling."""

    def __init__(self, index: int, size: int) -> None:
        self.fed = 0
        self._ranges = sorted(_siblings(index, size))
        self._trees = {each: Frontier() for each in self._ranges}
        self._order = _siblings(index, size)

    def feed(self, leaf: bytes) -> None:
        """The next leaf hash."""
        while self._ranges and self._ranges[0][1] <= self.fed:
            del self._ranges[0]
        if self._ranges and self._ranges[0][0] <= self.fed:
            self._trees[self._ranges[0]].append_hash(leaf)
        self.fed += 1

    def siblings(self) -> list[bytes]:
        """The path, deepest first, once all leaves were fed."""
        return [self._trees[each].root() for each in self._order]


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """The leaves below each sibling of a leaf on its way to the root, as ranges, deepest first (RFC 6962 §2.1.1)."""
    found: list[tuple[int, int]] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if index < middle:
            found.append((middle, high))
            high = middle
        else:
            found.append((low, middle))
            low = middle
    return found[::-1]


def proof_text(index: int, body: bytes, path: Sequence[bytes], note: bytes) -> str:
    """The text of a proof."""
    lines = [HEADER, _EXTRA + _encoded(body), f"index {index}", *map(_encoded, path)]
    return "\n".join(lines) + "\n\n" + note.decode("utf-8")


def read_proof(text: str) -> TlogProof:
    """Parse strictly: exactly what `proof_text` writes. Raises `JournalError` ``PROOF_FORMAT``, ``NOTE_FORMAT``."""
    head, separator, note = text.partition("\n\n") if len(text) <= _MAX_BYTES else ("", "", "")
    lines = head.split("\n")
    if not separator or len(lines) < 3 or lines[0] != HEADER or not lines[1].startswith(_EXTRA):
        raise _no_proof("a header, the entry, its index, hashes, an empty line and a signed note were expected")
    index, path = _INDEX.fullmatch(lines[2]), tuple(_decoded(line) for line in lines[3:])
    if index is None or len(path) > _MAX_PATH or any(len(item) != 32 for item in path):
        raise _no_proof("the third line is the index, each one after it a base64 hash of 32 bytes")
    return TlogProof(int(index[1]), _decoded(lines[1][len(_EXTRA) :]), path, read_note(note.encode()))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _no_proof(f"{text[:60]!r} is not base64") from None
    if _encoded(raw) != text:
        raise _no_proof(f"{text[:60]!r} is not base64 in its one spelling")
    return raw


def _no_proof(why: str) -> JournalError:
    return JournalError("PROOF_FORMAT", f"not a proof of inclusion: {why}")
