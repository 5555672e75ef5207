"""The fast way of decoding entries is the strict one, for every input."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.host.fast_parse import parse_fast
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict
from tests.support.journals import run_of

TEXTS = st.text() | st.sampled_from(["\n", "\x00\x1f\x7f", '"\\', "é\u2028", "😀", "sha256:" + "0" * 64, "\b\f\t\r"])
NUMBERS = st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from([2**53 - 1, 2**53, -(2**53), 10**15, 10**16])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
ENTRIES = [item.body for item in run_of(3)[1].entries]


def outcome(parse: Any, data: bytes) -> Any:
    try:
        value = parse(data)
    except CanonicalizationError as error:
        return error.code, error.message
    return value, repr(value)  # 1, 1.0 and True are equal and not the same


def spelled(value: Any, loose: bool) -> bytes:
    """As JSON: canonical or nearly so."""
    style: dict[str, Any] = {"ensure_ascii": True} if loose else {"sort_keys": True, "ensure_ascii": False}
    return json.dumps(value, separators=(",", ":"), **style).encode("utf-8", "surrogatepass")


@settings(max_examples=300, deadline=None)
@given(value=VALUES, loose=st.booleans())
@example(value=[[2**53]], loose=False)
@example(value=["a", -(2**53)], loose=False)
@example(value={"a": -(2**53)}, loose=False)
@example(value=[1, 12345678901234567], loose=False)
@example(value=1e16, loose=False)
@example(value=-0.0, loose=False)
@example(value=2**53, loose=False)
@example(value=-(2**60), loose=False)
def test_any_value_in_any_spelling(value: Any, loose: bool) -> None:
    for data in (spelled({"v": value}, loose), spelled(value, loose)):
        assert outcome(parse_fast, data) == outcome(parse_strict, data)


@settings(max_examples=300, deadline=None)
@given(entry=st.sampled_from(ENTRIES), at=st.integers(0, 2000), new=st.binary(max_size=3), drop=st.integers(0, 3))
def test_damaged_entries_are_refused_alike(entry: bytes, at: int, new: bytes, drop: int) -> None:
    at %= len(entry)
    data = entry[:at] + new + entry[at + drop :]
    assert outcome(parse_fast, data) == outcome(parse_strict, data)


def test_doubled_keys_deep_nests_surrogates_and_long_texts() -> None:
    for data in (
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b"[" * 64 + b"]" * 64,
        b"[" * 65 + b"]" * 65,
        b"[" * 5000 + b"]" * 5000,
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'{"a":NaN}',
        b"",
        canonical_bytes({"a": "x" * (1024 * 1024 - 8)}),
        b'{"a":"' + b"x" * (1024 * 1024) + b'"}',
    ):
        assert outcome(parse_fast, data) == outcome(parse_strict, data), data[:40]
