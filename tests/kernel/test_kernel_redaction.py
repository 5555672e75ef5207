"""Known values disappear in every form, wherever a stream was cut, and nothing else changes."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.kernel.canonical import digest
from runtime.kernel.redaction import MIN_SECRET, PIECE, Redactor

SECRET = 'cAnary-7Q "x"/+=&%~ä\\'
MARK = "<secret:KEY>"


def knowing(*values: str, name: str = "KEY") -> Redactor:
    redactor = Redactor()
    for value in values:
        redactor.learn(name, value)
    return redactor


def forms(secret: str) -> dict[str, str]:
    """What programs make of a secret, written down with other means than the code under test uses."""
    raw = secret.encode()
    encoded = {f"base64 after {n}": base64.b64encode(b"x" * n + raw + b"yz").decode() for n in range(3)}
    return {
        "raw": secret,
        "json": json.dumps({"k": secret}),
        "json utf-8": json.dumps({"k": secret}, ensure_ascii=False),
        "percent": quote(secret, safe=""),
        "percent path": quote(secret),
        "percent lower": quote(secret, safe="").replace("%C3%A4", "%c3%a4").replace("%2F", "%2f").replace("%3D", "%3d")
        .replace("%2B", "%2b").replace("%5C", "%5c"),
        "form": quote_plus(secret),
        "hex": raw.hex(),
        "hex upper": raw.hex().upper(),
        **encoded,
        **{f"{name}, url": text.replace("+", "-").replace("/", "_") for name, text in encoded.items()},
    }  # fmt: skip


@pytest.mark.parametrize("form", forms(SECRET))
def test_every_form_becomes_a_mark(form: str) -> None:
    text = f"before {forms(SECRET)[form]} after"
    redactor = knowing(SECRET)
    shown = redactor.text(text)
    assert shown.count(MARK) == 1
    assert redactor.data(text.encode()) == shown.encode()
    assert redactor.text(shown) == shown
    left = shown.replace(MARK, "")
    # What depends on neighbours too may stay around base64: two characters on either side, and padding.
    assert len(left) <= len("before  after") + (8 if "base64" in form else len('{"k": ""}') if "json" in form else 0)


@pytest.mark.parametrize("form", ["raw", "json", "percent", "hex", "base64 after 1"])
def test_a_stream_cut_at_any_byte_comes_out_as_the_whole(form: str) -> None:
    data = f"{forms(SECRET)[form]} and {SECRET}{SECRET[:9]} {SECRET[3:]} cAnary cAnary-7Q".encode()
    redactor = knowing(SECRET)
    whole = redactor.data(data)
    assert whole.count(MARK.encode()) == 2
    for cut in range(len(data) + 1):
        stream = redactor.chunks()
        assert stream.feed(data[:cut]) + stream.feed(data[cut:]) + stream.flush() == whole
    stream = redactor.chunks()
    assert b"".join(stream.feed(bytes([byte])) for byte in data) + stream.flush() == whole


_LETTERS = st.text(alphabet="abAB%2F\\u/+ \n", max_size=60)
_SECRETS = st.lists(st.text(alphabet="abAB/+\n", min_size=MIN_SECRET, max_size=20), min_size=1, max_size=3)


@given(_SECRETS, st.lists(_LETTERS, max_size=5), st.data())
@example(["aaaaaa", "aaaaaaaab"], ["aaaaaaaaa", "aaaa", "baaaaab"], None)
def test_a_stream_equals_the_whole(secrets: list[str], parts: list[str], data: Any) -> None:
    """Few letters, so that forms overlap, repeat and begin in each other."""
    mixed = [part + (data.draw(st.sampled_from(secrets)) if data else "") for part in parts]
    redactor, text = knowing(*secrets), "".join(mixed)
    whole = redactor.text(text)
    letters, pieces = redactor.texts(), redactor.texts()
    assert "".join(letters.feed(letter) for letter in text) + letters.flush() == whole
    assert "".join(pieces.feed(part) for part in mixed) + pieces.flush() == whole
    assert redactor.data(text.encode()) == whole.encode()
    assert not any(secret in whole for secret in secrets)
    assert redactor.text(whole) == whole


def test_ordinary_text_is_not_held_back() -> None:
    stream = knowing("x" * 1000 + "!").chunks()
    assert stream.feed(b"a prompt without an end> ") == b"a prompt without an end> "
    assert stream.feed(b"xx") == b"", "this may be the beginning"
    assert stream.feed(b"y") == b"xxy"


def test_lines_and_long_values_are_found_in_parts() -> None:
    lines = [f"line-{number}-" + "k" * 20 for number in range(3)]
    redactor = knowing("\n".join([*lines, "end"]))
    assert redactor.text(f"x {lines[1]} y") == f"x {MARK} y"
    assert redactor.text("\r\n".join(lines)) == f"{MARK}\r\n{MARK}\r\n{MARK}"
    assert redactor.text("the end") == "the end", "too short to mean anything"
    long = "".join(f"{number:04}" for number in range(PIECE))
    assert set(knowing(long).text(long).split(MARK)) == {""}
    assert knowing(long).text(base64.b64encode(long.encode()).decode()).replace(MARK, "") == ""


def test_values_of_any_shape_are_searched_keys_included() -> None:
    redactor = knowing("canary-1")
    value = {"canary-1": [b"\0canary-1", ("canary-1", 5, None, True)], "other": 1.5}
    assert redactor.value(value) == {MARK: [b"\0<secret:KEY>", [MARK, 5, None, True]], "other": 1.5}
    assert redactor.found(value) == MARK
    assert redactor.found(redactor.value(value)) is None
    assert redactor.found({"x": [f"{MARK} canary-1"]}) == MARK


def test_who_knows_nothing_changes_nothing() -> None:
    value, redactor = {"a": [1]}, Redactor()
    assert redactor.value(value) is value
    assert redactor.found(value) is None
    assert (redactor.text("a"), redactor.data(b"a"), redactor.texts().feed("a"), redactor.texts().flush()) == (
        "a", b"a", "a", "",
    )  # fmt: skip


def test_identifiers_of_our_own_are_not_damaged_by_chance() -> None:
    """Six digits are in some digest sooner or later; a digest that is the secret is another matter."""
    name = digest({"a": 1})
    redactor = knowing(name[20:26], "2026-11-29")
    assert redactor.text(name) == name
    assert redactor.text("2026-11-29T01:02:03.000004Z") == "2026-11-29T01:02:03.000004Z"
    assert redactor.text(f"see {name[20:26]}") == f"see {MARK}"
    assert knowing(name.removeprefix("sha256:")).text(name) == f"sha256:{MARK}"


def test_marks_survive_values_they_contain() -> None:
    redactor = knowing("secret:KEY", name="KEY")
    assert redactor.text(redactor.text("a secret:KEY")) == f"a {MARK}"
    assert redactor.found(MARK) is None


def test_the_first_name_stays_and_the_other_redactor_learns_too() -> None:
    everyone = Redactor()
    redactor = Redactor(also=everyone)
    redactor.learn("A", "canary-1")
    redactor.learn("B", "canary-1")
    assert redactor.text("canary-1") == everyone.text("canary-1") == "<secret:A>"
    with pytest.raises(ValueError, match="at least 6"):
        redactor.learn("C", "short")


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.kernel.redaction.MAX_KNOWN", 2)
    assert knowing("canary-1", "canary-2", "canary-3").text("canary-1 canary-2 canary-3") == f"canary-1 {MARK} {MARK}"
