"""Values: what is accepted, what is refused, and the laws that make them safe to hash, compare and carry."""

from __future__ import annotations

import copy
import enum
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.errors import BlockDefinitionError, BlockInputError
from runtime.blocks.values import NULL, BlockValue, BlockValueKind
from runtime.blocks.wire import decode_value, encode_value

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=20)
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


@given(plain)
def test_the_round_trip_through_python_form_and_bytes_gives_an_equal_value_of_the_same_kind(obj: Any) -> None:
    value = BlockValue.of(obj)
    for again in (BlockValue.of(value.to_python()), decode_value(encode_value(value))):
        assert again == value
        assert again.kind is value.kind
        assert hash(again) == hash(value)


@given(st.dictionaries(texts, scalars, max_size=6), st.randoms())
def test_a_map_built_in_any_order_has_identical_iteration_and_bytes(items: dict[str, Any], random: Any) -> None:
    pairs = list(items.items())
    random.shuffle(pairs)
    one, other = BlockValue.of(items), BlockValue.map(pairs)
    assert list(one) == list(other) == sorted(items)
    assert one.to_json() == other.to_json()
    assert encode_value(one) == encode_value(other)


def test_numbers_and_booleans_never_blur() -> None:
    values = [BlockValue.of(item) for item in (1, 1.0, True, "1")]
    assert len(set(values)) == 4
    assert BlockValue.of([1]) != BlockValue.of([1.0])
    assert BlockValue.of(1) != 1


class Colour(str, enum.Enum):  # noqa: UP042 - the older spelling must work too
    RED = "red"


class Count(enum.IntEnum):
    TWO = 2


class Metres(float):
    """A float of one's own."""


class Words(list[str]):
    """A list of one's own."""


class OptIn:
    def __block_value__(self) -> object:
        return {"id": 7}


def test_enums_and_opted_in_objects_become_their_base_value() -> None:
    assert BlockValue.of(Colour.RED) == BlockValue.of("red")
    assert BlockValue.of(Count.TWO) == BlockValue.of(2)
    assert BlockValue.of({Colour.RED: 1}) == BlockValue.of({"red": 1})
    for own, base in ((Metres(1.5), 1.5), (Words(["a"]), ["a"]), (bytearray(b"x"), b"x"), (memoryview(b"x"), b"x")):
        assert BlockValue.of(own) == BlockValue.of(base)
        assert type(BlockValue.of(own).to_python()) is type(base)
    assert BlockValue.of(BlockValue.of(1)) == BlockValue.of(1)
    assert BlockValue.of(OptIn()).get("id") == BlockValue.of(7)


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("obj", "code"),
    [
        (2**63, "value.int_range"),
        (-(2**63) - 1, "value.int_range"),
        (math.nan, "value.non_finite"),
        (math.inf, "value.non_finite"),
        ("\ud800", "value.bad_utf8"),
        ({"\ud800": 1}, "value.bad_utf8"),
        ({1: 2}, "value.map_key"),
        ({1, 2}, "value.unsupported_type"),
        (object(), "value.unsupported_type"),
        (nested(65), "value.too_deep"),
        (cyclic(), "value.too_deep"),
        ([BlockValue.of(nested(64))], "value.too_deep"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_code(obj: object, code: str) -> None:
    with pytest.raises(BlockInputError) as caught:
        BlockValue.of(obj)
    assert caught.value.code == code


def test_a_repeated_pair_key_is_refused() -> None:
    with pytest.raises(BlockInputError, match=r"value\.duplicate_key"):
        BlockValue.map([("a", 1), ("a", 2)])


def test_the_deepest_allowed_value_is_accepted() -> None:
    assert BlockValue.of(nested(64)).to_python() == nested(64)


def test_negative_zero_is_stored_as_zero() -> None:
    assert math.copysign(1, BlockValue.of(-0.0).payload) == 1


def test_a_value_never_changes() -> None:
    value = BlockValue.of({"a": [1]})
    with pytest.raises(AttributeError):
        value.kind = BlockValueKind.NULL  # type: ignore[misc]
    with pytest.raises(TypeError):
        value.payload["a"] = NULL
    python = value.to_python()
    python["a"].append(2)
    assert value == BlockValue.of({"a": [1]})
    assert copy.deepcopy(value) is value
    assert pickle.loads(pickle.dumps(value)) == value


def test_accessors_and_paths() -> None:
    value = BlockValue.of({"a": {"b": [10, "x"]}, "n": None})
    assert value.path("a.b.0") == BlockValue.of(10)
    assert value.path("a.c.0") is None
    assert value.path("a.c.d.0") is None
    assert value["a"]["b"].at(2) is None
    assert (bool(value), bool(NULL), bool(BlockValue.of({}))) == (True, False, False)
    assert value.path("a.b.x") is None
    assert value.get("missing") is None
    assert value["a"]["b"].at(-1) == BlockValue.of("x")
    assert BlockValue.of(3).as_number == 3
    assert BlockValue.of(3).as_float is None
    assert "a" in value
    assert len(value) == 2
    assert value.get("missing", NULL) is NULL
    for partless in (BlockValue.of(3), NULL):
        for act in (len, iter, lambda scalar: scalar["a"]):
            with pytest.raises(TypeError, match=r"has no|cannot be"):
                act(partless)


SAMPLES = {"null": None, "bool": True, "int": 1, "float": 1.5, "string": "x", "bytes": b"x", "list": [1], "map": {}}


@pytest.mark.parametrize("kind", SAMPLES)
def test_each_kind_has_an_accessor_that_answers_none_and_one_that_insists(kind: str) -> None:
    own = BlockValue.of(SAMPLES[kind])
    assert getattr(own, f"expect_{kind}")() == own.payload == getattr(own, f"as_{kind}")
    for other in SAMPLES.keys() - {kind}:
        value = BlockValue.of(SAMPLES[other])
        assert getattr(value, f"is_{kind}") is False
        assert getattr(value, f"as_{kind}") is None
        with pytest.raises(BlockInputError) as caught:
            getattr(value, f"expect_{kind}")()
        assert caught.value.code == f"input.expected_{kind}"


def test_structural_matching() -> None:
    match BlockValue.of({"ok": True}):
        case BlockValue(BlockValueKind.MAP, {"ok": BlockValue(BlockValueKind.BOOL, flag)}):
            assert flag is True
        case _:
            pytest.fail("the pattern must match")


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        (True, "true"),
        (-7, "-7"),
        (0.1, "0.1"),
        (b"hi", "hi"),
        ({"ä": [1, b"\xff"]}, '{"ä":[1,{"$bytes":"/w=="}]}'),
    ],
)
def test_text_forms(obj: object, text: str) -> None:
    assert BlockValue.of(obj).text() == text


def test_bytes_that_are_not_text_have_no_text_form() -> None:
    with pytest.raises(BlockInputError, match=r"input\.not_text"):
        BlockValue.of(b"\xff").text()


kind_sets = st.integers(0, 255).map(Kinds)


@given(kind_sets, kind_sets)
def test_kind_set_algebra(one: Kinds, other: Kinds) -> None:
    assert one | other == other | one
    assert one.intersects(other) == (not (one & other).is_empty)
    assert not Kinds.EMPTY.intersects(one)
    assert Kinds.ANY.intersects(one) == (not one.is_empty)
    assert one.is_empty or Kinds.from_names(*str(one).split("|")) == one


def test_unknown_kind_names_are_refused() -> None:
    with pytest.raises(BlockDefinitionError, match=r"definition\.bad_contract"):
        Kinds.from_names("string", "text")
    assert Kinds.from_names("number") == Kinds.INT | Kinds.FLOAT
