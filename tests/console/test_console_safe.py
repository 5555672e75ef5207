"""Nothing a model or tool prints may reach the terminal as anything but visible characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.model.safe import safe, tail


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bPpayload\x1b\\after", "after"),
        ("bell\x07", "bell␇"),
        ("a\rb", "a␍b"),
        ("a\nb", "a⏎b"),
        ("tab\there", "tab    here"),
        ("rm\u202efdp.exe", "rm⟨U+202E⟩fdp.exe"),
        ("zero\u200bwidth", "zero⟨U+200B⟩width"),
        ("lone \ud800", "lone \ufffd"),
        ("[@click=app.quit]x[/]", "[@click=app.quit]x[/]"),
        ("unfinished \x1b[", "unfinished "),
    ],
)
def test_known_attacks_become_visible_or_vanish(raw: str, shown: str) -> None:
    assert safe(raw) == shown


@given(st.text(st.characters(codec=None)))
def test_only_printable_characters_come_out(raw: str) -> None:
    for char in safe(raw):
        assert unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}, repr(char)


@given(st.text())
def test_making_safe_twice_changes_nothing(raw: str) -> None:
    assert safe(safe(raw)) == safe(raw)


def test_line_feeds_survive_only_on_request() -> None:
    assert safe("a\nb", lines=True) == "a\nb"


def test_long_text_is_cut_with_a_mark() -> None:
    assert safe("x" * 20, limit=5) == "xxxx…"


def test_tail_keeps_the_last_lines() -> None:
    assert tail("1\n2\n\x1b[1m3", 2) == ["2", "3"]
