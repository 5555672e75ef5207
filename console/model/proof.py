"""The proof that an entry is inside a signed checkpoint, step by step."""

from __future__ import annotations

from typing import Final

from console.model.rows import Row, piece
from console.model.verdict_view import words_rows
from runtime.events.facts import Proof

_LABEL: Final = 14
_SIDE: Final = 6
_HEX: Final = 64
_ENDS: Final = 8  # digits kept at the end of a shortened hash


def proof_rows(proof: Proof, width: int) -> list[Row]:
    """What is proved, every step on the way to the root, and who vouches for that; hashes shortened to ``width`` cells."""
    room = width - _LABEL
    return [
        (piece(f"{'entry':<{_LABEL}}", "dim"), piece(f"#{proof.seq:04d}  {shortened(proof.entry_hash, room - 7)}")),
        _holds(proof),
        (),
        _hash_row("leaf hash", "", proof.leaf, room),
        *(_hash_row(f"step {number}", step.side, step.hash, room) for number, step in enumerate(proof.path, 1)),
        _hash_row("root", "", proof.root, room),
        (),
        *words_rows("checkpoint", proof.words, f"of {proof.size:,} entries", width),
        *words_rows("signed by", proof.signed_by, "the key in six words", width),
    ]


def _holds(proof: Proof) -> Row:
    label = piece(f"{'proof':<{_LABEL}}", "dim")
    if proof.holds:
        return (label, piece("✓ holds, checked from its text alone", "good"))
    return (label, piece("✗ DOES NOT HOLD: the entry is not what the checkpoint covers", "bad"))


def _hash_row(label: str, side: str, digest: str, room: int) -> Row:
    return (
        piece(f"{label:<{_LABEL}}", "dim"),
        piece(f"{side:<{_SIDE}} ", "accent" if side else "dim"),
        piece(shortened(digest, room - _SIDE - 1)),
    )


def shortened(digest: str, room: int) -> str:
    """A hash as it is, or its beginning and its end in ``room`` cells."""
    if len(digest) <= max(room, 2 * _ENDS + 1):
        return digest
    return f"{digest[: max(_ENDS, room - _ENDS - 1)]}…{digest[-_ENDS:]}"


def proof_name(proof: Proof) -> str:
    """A file name for its text."""
    return f"{proof.run_id[:8]}-{proof.seq:04d}.tlog-proof"
