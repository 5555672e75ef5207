"""Conditions are decided exactly or not at all; what can be known at load is said at load, with its column."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.missions.conditions import MAX_LENGTH, Condition, ConditionFailed, ConditionProblem, Names

NAMES = Names({"n": "integer", "price": "number", "s": "string", "flag": "boolean", "tags": "list"}, ["check", "red"])


def compiled(text: str) -> Condition:
    condition = NAMES.compile(text)
    assert isinstance(condition, Condition), condition
    return condition


def problems(text: str) -> tuple[ConditionProblem, ...]:
    result = NAMES.compile(text)
    assert not isinstance(result, Condition)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs.check.ok", True),
        ("!outputs.check.ok || inputs.n > 2", True),
        ("inputs.price > 3", True),
        ("inputs.price > 3.75", False),
        ("value.n == 7 && value.name.startsWith('q')", True),
        ("size(inputs.s) == 1", True),
        ("'b' in inputs.tags", True),
        ("has(outputs.check.missing)", False),
        ("value == null", False),
    ],
)
def test_evaluate(text: str, expected: bool) -> None:
    inputs = {"n": 3, "price": 3.5, "s": "é", "flag": True, "tags": ["a", "b"]}
    outcome = compiled(text).evaluate(inputs, {"check": {"ok": True}}, {"n": 7, "name": "qd"})
    assert outcome is expected


def test_every_mistake_is_listed_with_its_offset_and_a_suggestion() -> None:
    text = "outputs.chek.ok && inputs.n > 'a' || foo"
    first, second, third = sorted(problems(text), key=lambda item: item.offset)
    assert (first.offset, first.hint) == (0, "did you mean 'outputs.check'?")
    assert text[second.offset] == ">"
    assert text[third.offset :] == "foo"


def test_offsets_count_across_lines() -> None:
    text = "inputs.flag &&\n  outputs.rde"
    [problem] = problems(text)
    assert text[problem.offset :] == "outputs.rde"
    assert problem.hint == "did you mean 'outputs.red'?"


@pytest.mark.parametrize(
    "text", ["", "  ", "1", "inputs.s", "[", "[" * 600, "x" * (MAX_LENGTH + 1), "'\ud800'", "\x00", "a.b("]
)
def test_what_cannot_be_decided_does_not_compile(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value.ok", {}),
        ("value.ok", {"ok": "false"}),
        ("value.ok", {"ok": 1}),
        ("value.ok", None),
        ("value.n > 1", {"n": 2**70}),
        ("value.n > 1", {"n": "x"}),
        ("1 / value.n == 1", {"n": 0}),
        ("outputs.red.ok", None),
        ("'a'.matches(value.re)", {"re": "((("}),
        ("value.all(a, value.all(b, value.all(c, a + b + c >= 0)))", list(range(300))),
    ],
)
def test_anything_but_a_boolean_is_a_failure_never_a_truth(text: str, value: Any) -> None:
    with pytest.raises(ConditionFailed) as caught:
        compiled(text).evaluate({}, {}, value)
    assert caught.value.code == "CONDITION_FAILED"


def test_only_mentioned_names_are_handed_over() -> None:
    condition = compiled("outputs.check.ok && inputs.n == 1")
    assert condition.names == {"outputs.check", "inputs.n"}
    assert condition.outputs() == ("check",)
    unusable = object()
    assert condition.evaluate({"n": 1, "s": unusable}, {"check": {"ok": True}, "red": unusable}, unusable)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abinputs.noz &|!()[]{}'\"<>=+-*/?:,0123\n", max_size=60) | st.text(max_size=30))
def test_any_text_compiles_or_is_explained(text: str) -> None:
    result = NAMES.compile(text)
    if not isinstance(result, Condition):
        assert result
        assert all(0 <= item.offset <= len(text) for item in result)
        return
    with contextlib.suppress(ConditionFailed):
        assert isinstance(result.evaluate({"n": 1, "s": "x", "tags": []}, {}, None), bool)
