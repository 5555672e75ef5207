"""Conventions of the operations specification (§1): golden vectors of §1.3 and the numbered tests 1.a–1.h.

The vector of the canonical ZIP stands with the bundle builder (§12.4, test 12.b).
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from runtime.kernel import canonical
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, parse_strict
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.model import ExecutionContext, Operation
from runtime.orchestration.operations import idempotency_key
from runtime.orchestration.state_hash import compute_state_hash
from tests.support.journals import EMPTY_STATE, JOURNAL_ID, RECIPE, new_journal


def refused(value: object) -> str:
    with pytest.raises(CanonicalizationError) as caught:
        canonical_bytes(value)
    assert isinstance(caught.value, ValueError)
    return caught.value.code


def key_of_the_example(root: Path) -> str:
    operation = Operation("s1.0", "gate_check", {"check": "non_empty", "condition": {"x": 1}})
    context = ExecutionContext(
        run_id=RECIPE, run_id_audit=UUID(JOURNAL_ID), repo_root=root, baseline_commit=NO_COMMIT, step_id="s1"
    )
    return idempotency_key(operation, context)


def state_of_the_example(root: Path) -> str:
    (root / "a.txt").write_text("hi\n")
    (root / "a.txt").chmod(0o644)
    return compute_state_hash(["a.txt", "b/gone.txt"], root)


def first_entry(root: Path) -> str:
    return new_journal()[0].get_chain_root()


def second_entry(root: Path) -> str:
    journal, _, clock = new_journal()
    clock.advance(1)
    record = journal.record_step("s1", operation_type="gate_check", pre_state_hash=EMPTY_STATE)
    assert record.entry_hash == journal.get_chain_root()
    return record.entry_hash


GOLDEN: dict[str, tuple[Callable[[Path], str], str]] = {
    "empty object": (lambda root: digest({}), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    "escapes": (
        lambda root: digest({"b": [1, True, None], "a": 'é\u2028"\\\n/', "ü": {}}),
        "68f5eb5b9f577ff05359ac9a85ae95967dc0c280da59b66786b4291d331e23b5",
    ),
    "order of keys": (
        lambda root: digest({"\U0001f600": 1, "\ufb00": 2, "a": 3, "Z": 4}),
        "419cad34349e07ec7aa14f9f711c5885cdc65faecb716f4c44bb7ca3de74a9b4",
    ),
    "journal genesis": (
        lambda root: canonical.JOURNAL_GENESIS,
        "b00644ac55ca78aa7b6d0d13d593e40c8c3f579c43b958a052ac8d109d18461f",
    ),
    "state of nothing": (
        lambda root: compute_state_hash([], root),
        "7e58fd6d3d16d7ea550e0bb9dc4e501e784ee6adaa871f5edb04e76401b8feb7",
    ),
    "state of two paths": (state_of_the_example, "c8b9963d5818b4698cb75e8260b5552ccfae2c4b501daede86b27c59f1c82d08"),
    "idempotency key": (key_of_the_example, "6616ab08486c7845656a28a72e49c1c97231b3eb4b5539d47480300439bc762a"),
    "journal entry 0": (first_entry, "d9ce5bafa967788a3de4ca2c5ea94c8050fe82beeb57bd13d6934f5c78556dcd"),
    "journal entry 1": (second_entry, "194bf9e6c894662da4d860bc29fd4b0c7efff57b6813ee0a90b3d5b85f46c099"),
}


@pytest.mark.parametrize("row", GOLDEN)
def test_1_3_golden_vectors(tmp_path: Path, row: str) -> None:
    computed, expected = GOLDEN[row]
    assert computed(tmp_path) == f"sha256:{expected}"


def test_1_a_keys_must_be_text() -> None:
    assert refused({1: "a"}) == "CANON_KEY_TYPE"
    assert refused({None: "a"}) == refused({True: "a"}) == "CANON_KEY_TYPE"
    assert canonical_bytes({"1": "a"}) == b'{"1":"a"}'


def test_1_b_negative_zero_is_refused() -> None:
    assert canonical_bytes([0.0]) == b"[0.0]"
    assert refused([-0.0]) == "CANON_NEG_ZERO"


def test_1_c_case_variants_are_two_keys() -> None:
    assert canonical_bytes({"a": 1, "A": 2}) == b'{"A":2,"a":1}'


def test_1_d_spellings_of_one_letter_hash_differently() -> None:
    assert digest("\u00e9") != digest("e\u0301")


def test_1_e_a_space_after_a_comma_is_not_read_back() -> None:
    with pytest.raises(CanonicalizationError) as caught:
        parse_strict(b'{"a":1, "b":2}')
    assert caught.value.code == "J_NONCANONICAL"
    assert parse_strict(b'{"a":1,"b":2}') == {"a": 1, "b": 2}


def test_1_f_integers_end_where_other_languages_would_round() -> None:
    assert refused(2**53) == refused(-(2**53)) == "CANON_INT_RANGE"
    assert canonical_bytes([2**53 - 1, -(2**53) + 1]) == b"[9007199254740991,-9007199254740991]"


class Colour(str, enum.Enum):  # noqa: UP042 - exactly this kind of enum is what the row is about
    RED = "red"


class Text(str):
    __slots__ = ()


class Mapping(dict[str, int]):
    pass


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Text("a"), Mapping(a=1), enum.IntEnum("N", {"A": 1}).A, b"a", {1, 2}, object()],  # type: ignore[attr-defined]
)
def test_1_g_only_exact_built_in_types(value: object) -> None:
    assert refused([value]) == "CANON_TYPE"


#: Ten times what the row asks for; a plain generator makes that a second and a half.
ROUND_TRIPS = 100_000


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


def test_1_h_encoding_parsing_and_encoding_again_is_the_identity() -> None:
    source = random.Random(20260101)
    for _ in range(ROUND_TRIPS):
        value = drawn(source)
        encoded = canonical_bytes(value)
        again = parse_strict(encoded)
        assert again == value
        assert canonical_bytes(again) == encoded
