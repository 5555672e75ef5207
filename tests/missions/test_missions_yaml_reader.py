"""The reader must mean one thing to everyone, report everything at its place, and never be made slow."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.missions.problems import MAX_PROBLEMS, MissionInvalid
from runtime.missions.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, Document, read


def parse(text: str) -> Document:
    return read(text.encode(), "m.yaml")


def codes(document: Document) -> list[tuple[str, int, int]]:
    return [(item.code, item.line, item.column) for item in document.report.problems()]


def refusal(source: bytes | str) -> MissionInvalid:
    with pytest.raises(MissionInvalid) as caught:
        read(source.encode() if isinstance(source, str) else source, "m.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("'yes'", "yes"),
        ('"007"', "007"),
        ("y", "y"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_or_as_text(text: str, value: Any) -> None:
    document = parse(f"k: {text}")
    assert not document.report.failed
    assert document.data["k"] == value
    assert type(document.data["k"]) is type(value)


def test_block_and_quoted_text_keep_their_content() -> None:
    assert parse('a: |\n  x: no\n  y\nb: "é\\t日"\n').data == {"a": "x: no\ny\n", "b": "é\t日"}


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "True", "FALSE", "~", "NULL"])
def test_implicit_values_are_refused_with_what_to_write(word: str) -> None:
    document = parse(f"k: {word}")
    assert codes(document) == [("MISSION_IMPLICIT_VALUE", 1, 4)]
    assert document.report.problems()[0].hint.startswith("write ")


@pytest.mark.parametrize(
    "number", ["007", ".inf", "-.INF", ".nan", "1e999", "-0.0", "9" * 17, "9" * 5000, "0x" + "f" * 20]
)
def test_numbers_without_one_portable_value_are_refused(number: str) -> None:
    assert codes(parse(f"k: {number}")) == [("MISSION_YAML_NUMBER", 1, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\nb: *x\n", [("MISSION_YAML_ALIAS", 1, 4), ("MISSION_YAML_ALIAS", 2, 4)]),
        ("a: !!python/object:os.system x\n", [("MISSION_YAML_TAG", 1, 4)]),
        ("a: !x [1]\n", [("MISSION_YAML_TAG", 1, 4)]),
        ("b:\n  <<: {a: 1}\n", [("MISSION_YAML_MERGE", 2, 3)]),
        ("a: 1\nb: 2\na: 3\n", [("MISSION_DUPLICATE_KEY", 3, 1)]),
        ("1: x\ntrue: y\n? [q]\n: z\n", [("MISSION_YAML_KEY", n, c) for n, c in ((1, 1), (2, 1), (3, 3))]),
        ("a: 1\n---\nb: 2\n", [("MISSION_YAML_DOCUMENTS", 2, 1)]),
    ],
)
def test_refused_yaml_is_reported_where_it_stands(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert codes(parse(text)) == expected


def test_everything_is_reported_at_once_and_the_rest_is_still_read() -> None:
    document = parse("a: yes\nb: &x 1\nc: {d: 007, e: ok}\na: 2\n")
    assert [code for code, _, _ in codes(document)] == [
        "MISSION_IMPLICIT_VALUE",
        "MISSION_YAML_ALIAS",
        "MISSION_YAML_NUMBER",
        "MISSION_DUPLICATE_KEY",
    ]
    assert document.data["c"]["e"] == "ok"


def test_problems_show_the_line_with_a_caret_below_the_column() -> None:
    problem = parse("a: 1\n  \nlonger: yes # why\n").report.problems()[0]
    line, caret = problem.snippet.splitlines()
    assert line.endswith("longer: yes # why")
    assert line[caret.index("^")] == "y"
    assert problem.where == "m.yaml:3:9"


def test_syntax_errors_have_a_position() -> None:
    problem = refusal("a: 1\nb: [1, 2\nc: 3\n").problems[0]
    assert (problem.code, problem.line, problem.column) == ("MISSION_YAML_SYNTAX", 3, 2)


@pytest.mark.parametrize(
    ("source", "code", "line", "column"),
    [
        (b"a: 1\nb: \xff\n", "MISSION_ENCODING", 2, 4),
        (b"a: 1\nb: x\x00y\n", "MISSION_YAML_SYNTAX", 2, 5),
        ("a: 1\nb: x\u2028y".encode(), "MISSION_YAML_SYNTAX", 2, 5),
        (b"a: \x1b[31m", "MISSION_YAML_SYNTAX", 1, 4),
        (b"\xef\xbb\xbfa: \xff", "MISSION_ENCODING", 1, 4),
        (b"\xff\xfea\x00", "MISSION_ENCODING", 1, 1),
    ],
)
def test_bytes_no_editor_shows_are_refused_by_position(source: bytes, code: str, line: int, column: int) -> None:
    problem = refusal(source).problems[0]
    assert (problem.code, problem.line, problem.column) == (code, line, column)


def test_a_byte_order_mark_and_windows_line_ends_do_not_shift_positions() -> None:
    document = read(b"\xef\xbb\xbfa: 1\r\nb: yes\r\n", "m.yaml")
    assert codes(document) == [("MISSION_IMPLICIT_VALUE", 2, 4)]


BOMBS = {
    "brackets": "[" * 130_000,
    "dashes": "- " * 130_000,
    "questions": "? " * 130_000,
    "indent": "\n".join(" " * depth + "-" for depth in range(600)),
    "aliases": "a: &a [x,x]\n" + "\n".join(f"k{n}: [*a,*a,*a,*a]" for n in range(9_000)),
    "flow": "[" + "a," * 100_000 + "]",
    "keys": "\n".join(f"k{n}: 1" for n in range(20_000)),
    "same key": "a: 1\n" * 10_000,
    "bad scalars": "[" + "yes," * 9_000 + "]",
    "comment": "#" * 250_000,
    "quote": '"' + "a\n" * 120_000,
    "colons": "a: " * 80_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_milliseconds(name: str) -> None:
    source = BOMBS[name].encode()
    started = time.process_time()
    try:
        document = read(source, "m.yaml")
    except MissionInvalid as invalid:
        problems = invalid.problems
    else:
        problems = document.report.problems()
        assert name == "comment" or document.report.failed
    assert time.process_time() - started < 1.0  # typically 1 to 60 ms; generous for a busy machine
    assert len(problems) <= MAX_PROBLEMS + 1


def test_limits_are_exact() -> None:
    assert read(b"#" * MAX_BYTES, "m.yaml").data is None
    assert refusal(b"#" * (MAX_BYTES + 1)).problems[0].code == "MISSION_TOO_LARGE"
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert not parse(deep).report.failed
    assert refusal(f"[{deep}]").problems[0].code == "MISSION_TOO_DEEP"
    assert len(parse("[" + "a," * (MAX_NODES - 1) + "]").data) == MAX_NODES - 1
    assert refusal("[" + "a," * MAX_NODES + "]").problems[0].code == "MISSION_TOO_DEEP"


def test_more_problems_than_anyone_reads_are_left_out_and_said_so() -> None:
    problems = parse("[" + "yes," * 1000 + "]").report.problems()
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].code == "MISSION_TOO_MANY_PROBLEMS"
    assert str(MAX_PROBLEMS) in problems[-1].message


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet=" \n:-[]{}&*!|>'\"#%?,ab1~\t", max_size=200).map(str.encode))
def test_random_bytes_are_read_or_refused_and_nothing_else(source: bytes) -> None:
    try:
        document = read(source, "m.yaml")
    except MissionInvalid as invalid:
        problems = invalid.problems
        lines = None
    else:
        problems, lines = document.report.problems(), document.lines
        assert document.report.failed or not problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert lines is None or problem.column <= len(lines[problem.line - 1]) + 1


_PLAIN = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=10)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_PLAIN, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(_VALUES)
def test_json_is_read_as_what_it_says(value: Any) -> None:
    document = parse(json.dumps(value, ensure_ascii=False))
    assert not document.report.failed
    assert document.data == value
