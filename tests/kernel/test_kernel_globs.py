"""The glob dialect of operations spec §8.4 beyond its table: its tokens, its refusals and its folded twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kernel import globs
from runtime.kernel.errors import ModelError

TOKENS = [
    ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/b/c"]),
    ("a?c", ["abc", "a\u00e9c"], ["ac", "a/c", "abbc"]),
    ("[abc]x", ["ax", "cx"], ["dx", "x"]),
    ("[a-c]", ["a", "b", "c"], ["d", "-", "B"]),
    ("[!a]", ["b", "!"], ["a", ""]),
    ("[]a]", ["]", "a"], ["b"]),
    ("[!]a]", ["b"], ["]", "a"]),
    ("[a-]", ["a", "-"], ["b"]),
    ("[*]", ["*"], ["a"]),
    ("[a^]", ["^", "a"], ["b"]),
    ("{a,b}", ["{a,b}"], ["a", "b"]),
    ("!a", ["!a"], ["b"]),
    ("docs/**/", ["docs/a", "docs/a/b"], ["docs"]),
    ("*.py/", ["x.py", "x.py/y"], ["x.pyc", "y/x.py"]),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), TOKENS)
def test_tokens(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not globs.matches(pattern, path)] == []
    assert [path for path in no if globs.matches(pattern, path)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/a",
        "a//b",
        "//",
        "./a",
        "a/../b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x9fb",
        "a**",
        "**a",
        "***",
        "**/" * 5 + "a",
        "/".join("a" * 65),
        "a" * 513,
        "[abc",
        "[]",
        "[!]",
        "[z-a]",
        "e\u0301",
        "\ud800",
    ],
)
def test_invalid(pattern: str) -> None:
    with pytest.raises(ModelError) as caught:
        globs.check(pattern)
    assert caught.value.code == "GLOB_INVALID"


@pytest.mark.parametrize("pattern", [None, 5, ["a"], b"a"])
def test_only_text_is_a_pattern(pattern: object) -> None:
    with pytest.raises(ModelError) as caught:
        globs.check(pattern)  # type: ignore[arg-type]
    assert caught.value.code == "GLOB_INVALID"


@pytest.mark.parametrize("pattern", ["**/" * 4 + "a", "/".join("a" * 64), "a" * 512, "**/"])
def test_at_the_limits(pattern: str) -> None:
    globs.check(pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("docs/secret/**", "docs/SECRET/k"),
        ("Docs/*.MD", "docs/a.md"),
        ("config/models.yaml", "\uff23onfig/models.yaml"),  # full-width C
        ("stra\u00dfe", "STRASSE"),
        ("[A-C]x", "bX"),
        ("[\uff41]", "A"),
        ("[!b]", "A"),
        ("[Z-a]", "z"),  # folding the ends would turn the range around
        ("?", "\u00df"),  # folds to two characters: the exact match must survive
        ("kk", "K\u212a"),  # Kelvin sign
    ],
)
def test_folding_matches_other_spellings(pattern: str, path: str) -> None:
    assert globs.matches(pattern, path, fold=True)


def test_folding_never_loses_a_match_or_confuses_names() -> None:
    assert globs.matches("[!A-Z]*", "abc")
    assert globs.matches("[!A-Z]*", "abc", fold=True)
    assert not globs.matches("docs/*", "src/A", fold=True)


names = st.text(st.sampled_from("aAbß*?ésSſ"), min_size=1, max_size=6)
patterns = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda text: "**" not in text)


@given(patterns, st.lists(names, min_size=1, max_size=3).map("/".join))
def test_folding_only_adds(pattern: str, path: str) -> None:
    if globs.matches(pattern, path):
        assert globs.matches(pattern, path, fold=True)


def slow(pattern: str, name: str) -> bool:
    """The textbook definition for one segment of literals, ``*`` and ``?``."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(slow(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and (pattern[0] in ("?", name[0])) and slow(pattern[1:], name[1:])


@given(
    st.text(st.sampled_from("ab*?"), min_size=1, max_size=8).filter(lambda text: "**" not in text),
    st.text(st.sampled_from("ab"), min_size=1, max_size=8),
)
def test_agrees_with_the_definition(pattern: str, name: str) -> None:
    assert globs.matches(pattern, name) is slow(pattern, name)


def test_literal_prefix() -> None:
    prefixes = [globs.literal_prefix(pattern) for pattern in ("docs/a/*.md", "config/", "**/x", "a/b", "a/x[1]/b")]
    assert prefixes == ["docs/a", "config", "", "a/b", "a"]
