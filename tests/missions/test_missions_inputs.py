"""Inputs are typed exactly as declared, from text and from values alike, and every mistake is said at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.missions.inputs import MAX_INPUT_BYTES, InputsInvalid, bind
from runtime.missions.model import InputSpec


def spec(**fields: Any) -> InputSpec:
    return InputSpec.model_validate(fields)


DECLARED = {
    "goal": spec(type="string", default="win"),
    "count": spec(type="integer"),
    "rate": spec(type="number", default=0.5),
    "flag": spec(type="boolean", default=False),
    "tags": spec(type="list", default=[]),
    "level": spec(type="string", default="low", choices=["low", "high"]),
    "note": spec(type="string", required=False),
}


def test_defaults_fill_what_is_not_given_in_declaration_order() -> None:
    bound = bind(DECLARED, {"count": "3"})
    assert bound == {"goal": "win", "count": 3, "rate": 0.5, "flag": False, "tags": [], "level": "low", "note": None}
    assert list(bound) == list(DECLARED)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "-7", -7),
        ("rate", "2", 2),
        ("rate", "1e-3", 0.001),
        ("flag", "true", True),
        ("tags", "a, b", ["a", "b"]),
        ("tags", '["a,b", 1]', ["a,b", 1]),
        ("tags", "", []),
        ("goal", "true", "true"),
        ("goal", "12", "12"),
        ("goal", "", ""),
    ],
)
def test_text_from_a_command_line_becomes_the_declared_type(name: str, text: str, value: Any) -> None:
    bound = bind(DECLARED, {"count": 1, name: text})[name]
    assert bound == value
    assert type(bound) is type(value)


@pytest.mark.parametrize(
    ("name", "given_value"),
    [
        ("count", "1.0"),
        ("count", "1_000"),
        ("count", "٣"),
        ("count", 1.0),
        ("count", True),
        ("count", "9" * 17),
        ("count", 2**53),
        ("rate", "nan"),
        ("rate", "inf"),
        ("rate", float("nan")),
        ("rate", True),
        ("flag", "yes"),
        ("flag", "True"),
        ("flag", 1),
        ("tags", "[1"),
        ("tags", '["\\ud800"]'),
        ("tags", {"a": 1}),
        ("goal", 3),
        ("goal", None),
        ("goal", "\ud800"),
        ("goal", b"x"),
    ],
)
def test_nothing_is_guessed(name: str, given_value: Any) -> None:
    with pytest.raises(InputsInvalid) as caught:
        bind(DECLARED, {"count": 1, name: given_value})
    assert [(item.code, item.name) for item in caught.value.problems] == [("INPUT_TYPE", name)]


@pytest.mark.parametrize(
    ("given_value", "directory", "bound"),
    [
        ("a/../b", "/here", "/here/b"),
        (".", "/here", "/here"),
        ("..", "/here", "/"),
        ("/a//b/", None, "/a/b"),
        ("~/a", None, "/home/me/a"),
        ("a", None, None),
        ("~nobody-has-this-name", None, None),
        ("", "/here", None),
        ("a\0b", "/here", None),
        (3, "/here", None),
    ],
)
def test_paths_become_absolute_or_are_refused(
    monkeypatch: pytest.MonkeyPatch, given_value: object, directory: str | None, bound: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    declared = {"root": spec(type="path", default=".")}
    assert bind(declared, {}, directory) == {"root": "."}, "a default is the mission's own business"
    if bound is not None:
        assert bind(declared, {"root": given_value}, directory) == {"root": bound}
        return
    with pytest.raises(InputsInvalid) as caught:
        bind(declared, {"root": given_value}, directory)
    assert caught.value.problems[0].code == "INPUT_TYPE"


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InputsInvalid) as caught:
        bind(DECLARED, {"gaol": "x", "flag": "maybe", "level": "medium"})
    assert caught.value.code == "INPUT_INVALID"
    found = [(item.code, item.name) for item in caught.value.problems]
    assert found == [
        ("INPUT_UNKNOWN", "gaol"),
        ("INPUT_MISSING", "count"),
        ("INPUT_TYPE", "flag"),
        ("INPUT_CHOICE", "level"),
    ]
    assert "did you mean 'goal'?" in caught.value.message
    assert all(item.message in caught.value.message for item in caught.value.problems)


def test_inputs_too_large_for_the_journal_are_refused() -> None:
    with pytest.raises(InputsInvalid, match="too large"):
        bind(DECLARED, {"count": 1, "goal": "x" * (MAX_INPUT_BYTES + 1)})


@given(
    st.dictionaries(
        st.sampled_from([*DECLARED, "other"]), st.text() | st.integers() | st.floats() | st.none() | st.booleans()
    )
)
def test_any_given_values_are_bound_or_refused(values: dict[str, Any]) -> None:
    try:
        bound = bind(DECLARED, values)
    except InputsInvalid:
        return
    assert set(bound) == set(DECLARED)
    assert type(bound["count"]) is int
    assert bind(DECLARED, bound) == bound
