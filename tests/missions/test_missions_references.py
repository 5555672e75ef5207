"""References are look-ups: typed, never evaluated, and what they insert is never looked at again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.missions import references
from runtime.missions.references import Malformed, Reference, ReferenceMissing, resolve

INPUTS = {"goal": "win", "n": 3, "flag": True, "items": ["a", {"b": None}]}
OUTPUTS = {"red": {"ok": False, "output": {"stdout": "1 failed", "list": [10, 20]}}, "gone": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${inputs.n}", 3),
        ("${inputs.flag}", True),
        ("${inputs.items}", ["a", {"b": None}]),
        ("${inputs.items.1.b}", None),
        ("${outputs.red.output}", {"stdout": "1 failed", "list": [10, 20]}),
        ("${outputs.red.output.list.1}", 20),
        ("n=${inputs.n} f=${inputs.flag} r=${outputs.red.output.list}", "n=3 f=true r=[10, 20]"),
        ("${inputs.goal}${inputs.goal}", "winwin"),
        ("$${inputs.goal}", "${inputs.goal}"),
        ("costs $5 {x} $", "costs $5 {x} $"),
        ("", ""),
    ],
)
def test_resolve(text: str, value: Any) -> None:
    resolved = resolve(text, INPUTS, OUTPUTS)
    assert resolved == value
    assert type(resolved) is type(value)


def test_containers_are_resolved_inside_and_keys_are_left_alone() -> None:
    params = {"${inputs.n}": ["${inputs.n}", {"deep": "<${inputs.goal}>"}], "other": 7}
    assert resolve(params, INPUTS, OUTPUTS) == {"${inputs.n}": [3, {"deep": "<win>"}], "other": 7}


def test_inserted_text_is_never_scanned_again() -> None:
    hostile = {"x": "${inputs.secret} $${ {{ 7*7 }}"}
    assert resolve("${inputs.x}", hostile, {}) == hostile["x"]
    assert resolve("a ${inputs.x}", hostile, {}) == "a " + hostile["x"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${outputs.red.outptu}", "it has ok, output"),
        ("${outputs.red.output.list.7}", "list of 2"),
        ("${outputs.gone.key}", "is null"),
        ("${outputs.later.x}", "has no 'later' yet"),
        ("${inputs.n.x}", "is int"),
        ("${inputs.items.-1}", "no item"),
        ("${inputs.items.00}", "no item"),
        ("${nonsense}", "is not"),
    ],
)
def test_a_missing_value_says_how_far_the_way_leads(text: str, says: str) -> None:
    with pytest.raises(ReferenceMissing, match=says) as caught:
        resolve(f"see {text}", INPUTS, OUTPUTS)
    assert caught.value.code == "REFERENCE_MISSING"


@pytest.mark.parametrize(
    "text",
    ["${", "${}", "${x}", "${inputs}", "${inputs.}", "${inputs.A}", "${inputs.a b}", "${env.X}", "${inputs.a..b}"],
)
def test_what_only_looks_like_a_reference_is_malformed(text: str) -> None:
    found = [found.item for _, found in references.find({"k": [text]})]
    assert len(found) == 1
    assert isinstance(found[0], Malformed)


def test_find_names_the_way_and_offset() -> None:
    [(way, found)] = references.find({"a": ["x", {"b": "see ${outputs.red.ok}!"}]})
    assert way == ("a", 1, "b")
    assert (found.offset, found.end) == (4, 21)
    assert found.item == Reference("outputs", "red", ("ok",))


def test_whole_text_is_a_reference_and_names_are_listed_once() -> None:
    assert references.is_reference("${inputs.a}")
    assert not references.is_reference("${inputs.a} ")
    assert not references.is_reference("$${inputs.a}")
    assert references.names(["${outputs.b.x}", "${outputs.a}${outputs.b}", "${inputs.c}"], "outputs") == ("b", "a")


@given(st.text(alphabet="${}inputs.ox-> ", max_size=60))
def test_any_text_is_resolved_or_refused_and_text_without_an_opening_is_itself(text: str) -> None:
    try:
        resolved = resolve(text, {"x": 1}, {})
    except ReferenceMissing:
        assert "${" in text
    else:
        assert "${" in text or resolved == text


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.text() | st.none(), min_size=2))
def test_a_whole_reference_is_the_value_itself(inputs: dict[str, Any]) -> None:
    assert resolve(["${inputs.a}", "${inputs.b}"], inputs, {}) == [inputs["a"], inputs["b"]]
