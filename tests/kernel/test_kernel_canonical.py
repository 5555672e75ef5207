"""Canonical bytes are a contract: golden vectors and tests 1.a–1.h of the operations spec."""

from __future__ import annotations

import enum
import hashlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.kernel import canonical
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, parse_strict

ZEROS = "sha256:" + "0" * 64
EMPTY_STATE = digest({"schema": "state/1", "entries": []})
JOURNAL = "00000000-0000-4000-8000-000000000001"


def entry(members: dict[str, Any]) -> dict[str, Any]:
    return {**members, "entry_hash": digest(members)}


def entry_zero() -> dict[str, Any]:
    return entry(
        {
            "schema": "journal-entry/1",
            "seq": 0,
            "kind": "journal_opened",
            "journal_id": JOURNAL,
            "at": "2026-01-01T00:00:00.000000Z",
            "prev_entry_hash": canonical.JOURNAL_GENESIS,
            "mission_id": "m1",
            "run_id": ZEROS,
            "mission_type": "echo",
            "baseline_commit": "0" * 40,
            "envelope_hash": digest({}),
            "prev_journal_head": None,
        }
    )


def entry_one() -> dict[str, Any]:
    return entry(
        {
            "schema": "journal-entry/1",
            "seq": 1,
            "kind": "step_started",
            "journal_id": JOURNAL,
            "at": "2026-01-01T00:00:01.000000Z",
            "prev_entry_hash": entry_zero()["entry_hash"],
            "step_id": "s1",
            "name": "s1",
            "attempt": 1,
            "operation_type": "gate_check",
            "status": "running",
            "started_at": "2026-01-01T00:00:01.000000Z",
            "completed_at": None,
            "inputs": {},
            "outputs": {},
            "pre_state_hash": EMPTY_STATE,
            "post_state_hash": None,
            "error_message": None,
            "compensation_status": "not_needed",
        }
    )


STATE = {
    "schema": "state/1",
    "entries": [
        {
            "path": "a.txt",
            "kind": "file",
            "mode": "644",
            "size": 3,
            "sha256": hashlib.sha256(b"hi\n").hexdigest(),
        },
        {"path": "b/gone.txt", "kind": "missing"},
    ],
}
IDEMPOTENCY = {
    "schema": "idempotency/1",
    "run_id": ZEROS,
    "step_id": "s1",
    "operation_id": "s1.0",
    "type": "gate_check",
    "params": {"check": "non_empty", "condition": {"x": 1}},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"b": [1, True, None], "a": 'é\u2028"\\\n/', "ü": {}},
            "68f5eb5b9f577ff05359ac9a85ae95967dc0c280da59b66786b4291d331e23b5",
        ),
        (
            {"\U0001f600": 1, "\ufb00": 2, "a": 3, "Z": 4},
            "419cad34349e07ec7aa14f9f711c5885cdc65faecb716f4c44bb7ca3de74a9b4",
        ),
        ({"schema": "state/1", "entries": []}, "7e58fd6d3d16d7ea550e0bb9dc4e501e784ee6adaa871f5edb04e76401b8feb7"),
        (STATE, "c8b9963d5818b4698cb75e8260b5552ccfae2c4b501daede86b27c59f1c82d08"),
        (IDEMPOTENCY, "6616ab08486c7845656a28a72e49c1c97231b3eb4b5539d47480300439bc762a"),
    ],
)
def test_golden_digests(value: object, expected: str) -> None:
    assert digest(value) == f"sha256:{expected}"


def test_golden_geneses() -> None:
    assert canonical.JOURNAL_GENESIS == "sha256:b00644ac55ca78aa7b6d0d13d593e40c8c3f579c43b958a052ac8d109d18461f"
    assert canonical.digest_bytes(b"mission-anchor/genesis/1") == canonical.ANCHOR_GENESIS
    assert len({canonical.JOURNAL_GENESIS, canonical.ANCHOR_GENESIS, canonical.RECEIPT_GENESIS}) == 3


def test_golden_journal_entries() -> None:
    zero, one = entry_zero(), entry_one()
    assert zero["entry_hash"] == "sha256:d9ce5bafa967788a3de4ca2c5ea94c8050fe82beeb57bd13d6934f5c78556dcd"
    assert one["entry_hash"] == "sha256:194bf9e6c894662da4d860bc29fd4b0c7efff57b6813ee0a90b3d5b85f46c099"
    for item in (zero, one):
        assert parse_strict(canonical_bytes(item)) == item


def refused(value: object) -> str:
    with pytest.raises(CanonicalizationError) as caught:
        canonical_bytes(value)
    assert isinstance(caught.value, ValueError)
    return caught.value.code


def unreadable(data: bytes) -> str:
    with pytest.raises(CanonicalizationError) as caught:
        parse_strict(data)
    return caught.value.code


def test_keys_must_be_text() -> None:  # 1.a
    assert refused({1: "a"}) == "CANON_KEY_TYPE"
    assert refused({None: "a"}) == refused({True: "a"}) == "CANON_KEY_TYPE"
    assert canonical_bytes({"1": "a"}) == b'{"1":"a"}'


def test_negative_zero_is_refused() -> None:  # 1.b
    assert canonical_bytes([0.0]) == b"[0.0]"
    assert refused([-0.0]) == "CANON_NEG_ZERO"


def test_case_variants_are_two_keys() -> None:  # 1.c
    assert canonical_bytes({"a": 1, "A": 2}) == b'{"A":2,"a":1}'


def test_no_unicode_normalisation() -> None:  # 1.d
    assert digest("\u00e9") != digest("e\u0301")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1, "b":2}', "J_NONCANONICAL"),  # 1.e
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


def test_integer_range() -> None:  # 1.f
    assert refused(2**53) == refused(-(2**53)) == "CANON_INT_RANGE"
    assert canonical_bytes([2**53 - 1, -(2**53) + 1]) == b"[9007199254740991,-9007199254740991]"


class Colour(str, enum.Enum):  # noqa: UP042 - exactly this kind of enum is what test 1.g is about
    RED = "red"


class Text(str):
    __slots__ = ()


class Mapping(dict[str, int]):
    pass


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Text("a"), Mapping(a=1), enum.IntEnum("N", {"A": 1}).A, b"a", {1, 2}, object()],  # type: ignore[attr-defined]
)
def test_only_exact_built_in_types(value: object) -> None:  # 1.g
    assert refused([value]) == "CANON_TYPE"


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


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0)
    | texts
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def check_round_trip(value: object) -> None:
    encoded = canonical_bytes(value)
    assert canonical_bytes(parse_strict(encoded)) == encoded
    assert parse_strict(encoded) == value


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_round_trip(value: object) -> None:  # 1.h
    check_round_trip(value)


def drawn(source: random.Random, depth: int = 4) -> object:
    match source.randrange(8 if depth else 6):
        case 0:
            return source.choice([None, True, False])
        case 1:
            return source.randint(-(2**53) + 1, 2**53 - 1)
        case 2:
            return source.uniform(-1, 1) * 10.0 ** source.randint(-300, 300) or 0.0
        case 3 | 4 | 5:
            return drawn_text(source)
        case 6:
            return [drawn(source, depth - 1) for _ in range(source.randrange(4))]
    return {drawn_text(source): drawn(source, depth - 1) for _ in range(source.randrange(4))}


def drawn_text(source: random.Random) -> str:
    ranges = ((0, 0x7F), (0x80, 0x2FFF), (0xE000, 0x10FFFF))
    return "".join(chr(source.randint(*source.choice(ranges))) for _ in range(source.randrange(8)))


def test_round_trip_of_ten_thousand() -> None:  # 1.h, the cheap way
    source = random.Random(20260101)
    for _ in range(10_000):
        check_round_trip(drawn(source))
