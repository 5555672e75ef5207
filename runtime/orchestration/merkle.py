"""The Merkle tree beside the chain (RFC 6962 §2.1): one root for any number of entries, and short proofs about it.

The chain proves order to whoever holds its head. The tree proves, against one signed root, that an entry is inside
(inclusion) and that a longer journal continues a shorter one (consistency). A leaf is a stored entry's bytes. The tree is
not stored: its frontier is a few hashes in memory, and proofs are computed from the entries, which a doubting reader has to
hash anyway. Standard library only: the evidence bundle carries this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

#: The root of no leaves: the hash of nothing.
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class Frontier:
    """The tree of what was appended so far, kept as the roots of its perfect subtrees, largest first: O(log n) hashes."""

    __slots__ = ("_roots", "size")

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def append(self, data: bytes) -> None:
        """Add ``data`` as the next leaf."""
        self.append_hash(leaf_hash(data))

    def append_hash(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        roots, merged = self._roots, self.size
        while merged & 1:
            leaf = node_hash(roots.pop(), leaf)
            merged >>= 1
        roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree head of the leaves so far."""
        if not self._roots:
            return EMPTY_ROOT
        *larger, root = self._roots
        for subtree in reversed(larger):
            root = node_hash(subtree, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf *hashes*."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append_hash(leaf)
    return frontier.root()


def inclusion_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH(index, leaves) over leaf hashes, deepest first. Raises `ValueError` for a leaf that is not in the tree."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"leaf {index} is not among {len(leaves)}")
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low = middle
    return path[::-1]


def root_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root a proof leads to (RFC 9162 §2.1.3.2); None when the path has the wrong length or place."""
    if not 0 <= index < size:
        return None
    inner, border, root = index, size - 1, leaf
    for sibling in path:
        if border == 0:
            return None
        if inner & 1 or inner == border:
            root = node_hash(sibling, root)
            while not inner & 1 and inner:
                inner, border = inner >> 1, border >> 1
        else:
            root = node_hash(root, sibling)
        inner, border = inner >> 1, border >> 1
    return root if border == 0 else None


def consistency_path(older: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PROOF(older, leaves) over leaf hashes. Raises `ValueError` unless 0 < older <= the number of leaves."""
    if not 0 < older <= len(leaves):
        raise ValueError(f"a tree of {len(leaves)} does not continue one of {older}")
    path: list[bytes] = []
    low, high, whole = 0, len(leaves), True
    while older - low < high - low:
        middle = low + _split(high - low)
        if older <= middle:
            path.append(root_of(leaves[middle:high]))
            high = middle
        else:
            path.append(root_of(leaves[low:middle]))
            low, whole = middle, False
    if not whole:
        path.append(root_of(leaves[low:high]))
    return path[::-1]


def is_consistent(older: int, newer: int, older_root: bytes, newer_root: bytes, path: Sequence[bytes]) -> bool:
    """Does ``path`` prove that the newer tree continues the older one (RFC 9162 §2.1.4.2)?"""
    if older == newer:
        return not path and older_root == newer_root
    if not 0 < older < newer or not path:
        return False
    steps = list(path)
    if older & (older - 1) == 0:
        steps.insert(0, older_root)
    inner, border = older - 1, newer - 1
    while inner & 1:
        inner, border = inner >> 1, border >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if border == 0:
            return False
        if inner & 1 or inner == border:
            first, second = node_hash(step, first), node_hash(step, second)
            while not inner & 1 and inner:
                inner, border = inner >> 1, border >> 1
        else:
            second = node_hash(second, step)
        inner, border = inner >> 1, border >> 1
    return border == 0 and first == older_root and second == newer_root


def _split(size: int) -> int:
    """The largest power of two smaller than ``size``."""
    return 1 << (size - 1).bit_length() - 1
