"""Six words for a digest, to compare by eye or over the telephone.

Each word spells 16 bits as consonant-vowel-consonant-vowel-consonant (proquints, D. S. Wilkerson, 2009), so six words
carry 96 bits: too many to search for a second text with the same words. No word list has to be shipped or translated.
Standard library only.
"""

from __future__ import annotations

import hashlib
from typing import Final

WORDS: Final = 6
_CONSONANTS: Final = "bdfghjklmnprstvz"
_VOWELS: Final = "aiou"


def fingerprint(data: bytes) -> str:
    """The words of the SHA-256 of ``data``, separated by spaces: its first 12 bytes, big-endian."""
    digest = hashlib.sha256(data).digest()
    return " ".join(_word(int.from_bytes(digest[at : at + 2], "big")) for at in range(0, 2 * WORDS, 2))


def _word(number: int) -> str:
    return (
        _CONSONANTS[number >> 12 & 15]
        + _VOWELS[number >> 10 & 3]
        + _CONSONANTS[number >> 6 & 15]
        + _VOWELS[number >> 4 & 3]
        + _CONSONANTS[number & 15]
    )
