"""L1–L24 in order, on the raw string (operations spec §8.2)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.governance.path_lexical import WAIVABLE, lexical_finding, normalise_request, shown
from runtime.kernel.canonical import canonical_bytes

CASES = [
    (None, "PATH_TYPE"),
    (b"docs/a", "PATH_TYPE"),
    (5, "PATH_TYPE"),
    ("", "PATH_EMPTY"),
    ("docs/\ud800", "PATH_ENCODING"),
    ("a" * 1025, "PATH_TOO_LONG"),
    ("é" * 513, "PATH_TOO_LONG"),
    ("docs/a.md\0.txt", "PATH_NUL"),
    ("a\nb", "PATH_CONTROL"),
    ("a\x7f", "PATH_CONTROL"),
    ("a\x85", "PATH_CONTROL"),
    (".g\u200dit", "PATH_INVISIBLE"),
    ("a\u00adb", "PATH_INVISIBLE"),
    ("a\u202eb", "PATH_INVISIBLE"),
    ("a\u2028b", "PATH_INVISIBLE"),
    ("a\ufe0f", "PATH_INVISIBLE"),
    ("\ufeffa", "PATH_INVISIBLE"),
    ("a\u3164", "PATH_INVISIBLE"),
    ("a\U000e0041", "PATH_INVISIBLE"),
    ("\\\\host\\s\\a", "PATH_UNC"),
    ("//host/s", "PATH_UNC"),
    ("/\\x", "PATH_UNC"),
    ("\\\\?\\C:\\a", "PATH_UNC"),
    ("\\\\.\\pipe", "PATH_UNC"),
    ("C:\\a", "PATH_DRIVE"),
    ("C:a", "PATH_DRIVE"),
    ("z:", "PATH_DRIVE"),
    ("/etc/passwd", "PATH_ABSOLUTE"),
    ("docs\\a.md", "PATH_BACKSLASH"),
    ("\\a", "PATH_BACKSLASH"),
    ("..", "PATH_TRAVERSAL"),
    ("docs/..", "PATH_TRAVERSAL"),
    ("docs/../src/x.py", "PATH_TRAVERSAL"),
    ("docs/..0x2f..0x2fx", "PATH_TRAVERSAL"),
    ("docs/...", "PATH_TRAVERSAL"),
    ("..;/x", "PATH_TRAVERSAL"),
    ("docs/%2e%2e/x", "PATH_PERCENT"),
    ("docs/a%2fb", "PATH_PERCENT"),
    ("%u2215", "PATH_PERCENT"),
    ("%%32", "PATH_PERCENT"),
    ("docs//a.md", "PATH_NOT_NORMAL"),
    ("./docs/a.md", "PATH_NOT_NORMAL"),
    ("docs/", "PATH_NOT_NORMAL"),
    (".", "PATH_NOT_NORMAL"),
    ("~/x", "PATH_HOME"),
    ("~root", "PATH_HOME"),
    ("docs/a.md::$DATA", "PATH_STREAM"),
    ("ab:c", "PATH_STREAM"),
    ("docs/a*", "PATH_RESERVED_CHAR"),
    ("docs/what?", "PATH_RESERVED_CHAR"),
    ('a"b', "PATH_RESERVED_CHAR"),
    ("/".join("a" * 65), "PATH_TOO_DEEP"),
    ("docs/" + "a" * 256, "PATH_COMPONENT_TOO_LONG"),
    ("docs/a.md.", "PATH_EDGE_CHAR"),
    ("docs/a.md ", "PATH_EDGE_CHAR"),
    ("docs/ a.md", "PATH_EDGE_CHAR"),
    ("docs/a\u3000", "PATH_EDGE_CHAR"),
    ("docs/nul.md", "PATH_RESERVED_NAME"),
    ("docs/Com1", "PATH_RESERVED_NAME"),
    ("docs/aux .txt", "PATH_RESERVED_NAME"),
    ("CON", "PATH_RESERVED_NAME"),
    ("lpt\u00b2.x.y", "PATH_RESERVED_NAME"),
    ("conin$", "PATH_RESERVED_NAME"),
    ("GIT~1/config", "PATH_SHORT_NAME"),
    ("docs/LONGFI~12.TXT", "PATH_SHORT_NAME"),
    ("docs/\uff0e\uff0e/x", "PATH_CONFUSABLE"),
    ("docs\uff0fx", "PATH_CONFUSABLE"),
    ("docs/\u2025/x", "PATH_CONFUSABLE"),
    ("docs/\u2024", "PATH_CONFUSABLE"),
    ("a\uff3cb", "PATH_CONFUSABLE"),
    ("a\uff1ab", "PATH_CONFUSABLE"),
    ("docs/e\u0301", "PATH_NOT_NFC"),
    (".GIT/config", "PATH_GIT_INTERNAL"),
    ("docs/.git/x", "PATH_GIT_INTERNAL"),
    (".git", "PATH_GIT_INTERNAL"),
    (".\uff47it/config", "PATH_GIT_INTERNAL"),
]


@pytest.mark.parametrize(("path", "code"), CASES)
def test_refused(path: object, code: str) -> None:
    found = lexical_finding(path)
    assert found is not None
    assert found.code == code
    canonical_bytes([shown(path), found.text, found.evidence])


@pytest.mark.parametrize(
    "path",
    [
        "docs/a.md",
        ".env",
        ".gitignore",
        ".github/x",
        "a b/c",
        "100%.md",
        "50% off",
        "a~b",
        "café/é.md",
        "com10",
        "console",
        "nully.md",
        "x.nul",
        "日本語/文書.txt",
        "a" * 255,
        "/".join("a" * 64),
        "longname~1",
        "a\u2026b",
        "-rf",
        "$HOME",
    ],
)
def test_normal_forms(path: str) -> None:
    assert lexical_finding(path) is None


def test_every_code_is_covered() -> None:
    assert len({code for _, code in CASES}) == 25  # 24 rows, the size row has two codes


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("a/..\\b//c", "PATH_BACKSLASH"),  # L11 before L12 and L14
        ("..//x", "PATH_TRAVERSAL"),  # L12 before L14
        ("%2e//x", "PATH_PERCENT"),  # L13 before L14
        ("~//x", "PATH_NOT_NORMAL"),  # L14 before L15
        ("~/a:b", "PATH_HOME"),  # L15 before L16
        ("ab:c?", "PATH_STREAM"),  # L16 before L17
        ("a?" + "/a" * 70, "PATH_RESERVED_CHAR"),  # L17 before L18
        ("nul.", "PATH_EDGE_CHAR"),  # L19 before L20
        ("nul~1", "PATH_SHORT_NAME"),  # not a device name
        (".GIT/e\u0301", "PATH_NOT_NFC"),  # L23 before L24
        ("\\\\a\0", "PATH_NUL"),  # L5 before L8
        ("//\u200d", "PATH_INVISIBLE"),  # L7 before L8
    ],
)
def test_the_first_check_decides(path: str, code: str) -> None:
    found = lexical_finding(path)
    assert found is not None
    assert found.code == code


def test_not_normal_suggests_the_normal_form() -> None:
    found = lexical_finding("./docs//a.md/")
    assert found is not None
    assert found.evidence == {"normal_form": "docs/a.md"}


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("./docs//a.md/", "docs/a.md"),
        ("docs/a.md", "docs/a.md"),
        ("a/../b", "a/../b"),
        ("/etc//x", "/etc//x"),
        ("//host/x", "//host/x"),
        ("~/x", "~/x"),
        ("./", "./"),
        ("", ""),
    ],
)
def test_normalise_request(typed: str, normal: str) -> None:
    assert normalise_request(typed) == normal


def test_native_waives_only_what_it_names() -> None:
    for path, code in CASES:
        native = lexical_finding(path, native=True)
        if code in WAIVABLE:
            assert native is None, path
        else:
            assert native is not None, path
            assert native.code == code
    assert lexical_finding("a:b/..", native=True) is not None


@given(st.text(st.characters(), max_size=40))
def test_an_accepted_text_is_plain(text: str) -> None:
    if lexical_finding(text) is None:
        assert not text.startswith("/")
        assert ".." not in text.split("/")
        assert normalise_request(text) == text == shown(text)


@given(st.one_of(st.text(st.characters(), max_size=400), st.binary(), st.none()))
def test_evidence_is_always_storable(value: object) -> None:
    text = shown(value)
    canonical_bytes(text)
    assert len(text) <= 257
    assert not text.startswith("/")
    assert not any(unicodedata.category(char) == "Cc" for char in text)


def test_evidence_holds_no_absolute_path() -> None:
    assert shown("/home/me/secret.txt") == "<absolute>/secret.txt"
    assert shown("C:\\Users\\me\\x") == "<absolute>/x"
    assert shown("a\x1b[2Jb") == "a\\x1b[2Jb"
