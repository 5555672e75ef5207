"""What canonical bytes refuse beside the numbered rows of the operations specification (see tests/conformance)."""

from __future__ import annotations

import pytest

from runtime.kernel import canonical
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict


def test_each_chain_begins_at_a_genesis_of_its_own() -> None:
    assert canonical.digest_bytes(b"mission-anchor/genesis/1") == canonical.ANCHOR_GENESIS
    assert len({canonical.JOURNAL_GENESIS, canonical.ANCHOR_GENESIS, canonical.RECEIPT_GENESIS}) == 3


def refused(value: object) -> str:
    with pytest.raises(CanonicalizationError) as caught:
        canonical_bytes(value)
    assert isinstance(caught.value, ValueError)
    return caught.value.code


def unreadable(data: bytes) -> str:
    with pytest.raises(CanonicalizationError) as caught:
        parse_strict(data)
    return caught.value.code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"b":1,"a":2}', "J_NONCANONICAL"),
        (b'"\\u00e9"', "J_NONCANONICAL"),
        (b"1.00", "J_NONCANONICAL"),
        (b"[NaN]", "J_NONCANONICAL"),
        (b"-Infinity", "J_NONCANONICAL"),
        (b"1e400", "J_NONCANONICAL"),
        (b'"\\ud800"', "J_NONCANONICAL"),
        (b"9007199254740992", "J_NONCANONICAL"),
        (b"{}\n", "J_NONCANONICAL"),
        (b'{"a":1,"a":1}', "J_DUPLICATE_KEY"),
        (b'[{"a":{"b":1,"b":2}}]', "J_DUPLICATE_KEY"),
        (b"\xef\xbb\xbf{}", "J_NOT_JSON"),
        (b"{", "J_NOT_JSON"),
        (b"", "J_NOT_JSON"),
        (b"[" * 200_000, "J_NOT_JSON"),
        (b'"\xff"', "J_NOT_UTF8"),
    ],
)
def test_only_the_canonical_encoding_is_read_back(data: bytes, code: str) -> None:
    assert unreadable(data) == code


def test_other_refusals() -> None:
    assert refused(float("nan")) == refused(float("inf")) == "CANON_NONFINITE"
    assert refused({"\ud800": 1}) == refused(["\udfff"]) == "CANON_SURROGATE"
    assert refused("x" * canonical.MAX_BYTES) == "CANON_SIZE"
    cycle: list[object] = []
    cycle.append(cycle)
    assert refused(cycle) == "CANON_DEPTH"


def nested(levels: int) -> object:
    value: object = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_depth_limit_is_exact() -> None:
    assert canonical_bytes(nested(64)) == b"[" * 64 + b"]" * 64
    assert refused(nested(65)) == "CANON_DEPTH"


def test_tuples_become_arrays() -> None:
    assert canonical_bytes((1, (2,))) == b"[1,[2]]"
