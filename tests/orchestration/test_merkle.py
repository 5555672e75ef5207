"""The Merkle tree: every root and proof against the definition in RFC 6962, for every size up to 40."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from runtime.orchestration.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    inclusion_path,
    is_consistent,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    root_of,
)

LEAVES = [leaf_hash(bytes([number])) for number in range(40)]


def defined(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(defined(leaves[:split]), defined(leaves[split:]))


ROOTS = [defined(LEAVES[:size]) for size in range(len(LEAVES) + 1)]


def test_roots_are_those_of_the_definition() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == ROOTS[0]
    for number in range(len(LEAVES)):
        frontier.append(bytes([number]))
        assert frontier.root() == ROOTS[number + 1]
        assert root_of(LEAVES[: number + 1]) == ROOTS[number + 1]


def test_known_roots_of_certificate_transparency() -> None:
    """The vectors every implementation of RFC 6962 is tested with."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    frontier = Frontier()
    for item in inputs:
        frontier.append(bytes.fromhex(item))
    assert frontier.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_every_inclusion_proof_leads_to_the_root_and_to_no_other() -> None:
    for size in range(1, len(LEAVES) + 1):
        for index in range(size):
            path = inclusion_path(index, LEAVES[:size])
            assert root_from_inclusion(index, size, LEAVES[index], path) == ROOTS[size]
            assert root_from_inclusion(index, size, LEAVES[index - 1], path) != ROOTS[size] or size == 1
            assert root_from_inclusion(index, size, LEAVES[index], [*path, LEAVES[0]]) is None


def test_every_consistency_proof_holds_and_none_for_another_history() -> None:
    for newer in range(1, len(LEAVES) + 1):
        for older in range(1, newer + 1):
            path = consistency_path(older, LEAVES[:newer])
            assert is_consistent(older, newer, ROOTS[older], ROOTS[newer], path)
            assert not is_consistent(older, newer, LEAVES[-1], ROOTS[newer], path) or ROOTS[older] == LEAVES[-1]
            assert not is_consistent(older, newer, ROOTS[older], LEAVES[-1], path) or ROOTS[newer] == LEAVES[-1]


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_of_what_is_not_inside(index: int) -> None:
    with pytest.raises(ValueError, match="not among"):
        inclusion_path(index, LEAVES[:3])
    with pytest.raises(ValueError, match="does not continue"):
        consistency_path(4, LEAVES[:3])
    assert root_from_inclusion(index, 3, LEAVES[0], []) is None
