"""Nothing secret leaves in diagnostics, and sanitising itself never fails (blocks spec §19.3, ruling R46)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.sanitise import MAX_ITEMS, MAX_TEXT, REDACTED, clean_text, redact, scrub

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text() | st.integers(), inner, max_size=30),
    max_leaves=15,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), anything, max_size=5))
def test_sanitising_never_raises(details: dict[str, Any]) -> None:
    scrub(details)
    redact(details)


@pytest.mark.parametrize("key", ["api_key", "APIKEY", "Authorization", "access_token", "client_secret", "password"])
def test_secrets_are_removed_in_both_strengths(key: str) -> None:
    details = {"deep": [{key: "hunter2"}]}
    assert "hunter2" not in scrub(details).to_json()
    assert "hunter2" not in json.dumps(redact(details))


@pytest.mark.parametrize("key", ["prompt", "messages", "content", "input", "output", "completion", "payload", "schema"])
def test_content_stays_for_recovery_and_leaves_redacted(key: str) -> None:
    assert scrub({key: "text"}).to_python() == {key: "text"}
    assert redact({key: "text"}) == {key: REDACTED}


@pytest.mark.parametrize(
    "text", ["Bearer abcdef123456", "sk-abcdefghijklmnop1234", "ghp_abcdefghijklmnop1234", "AKIAABCDEFGHIJKLMNOP"]
)
def test_key_like_text_is_removed(text: str) -> None:
    assert clean_text(f"call failed with {text}!") == f"call failed with {REDACTED}!"


def test_size_and_depth_are_bounded() -> None:
    assert len(redact("x" * 1000)) < MAX_TEXT + 30
    assert redact([0] * 100)[-1] == {"_truncated": 100 - MAX_ITEMS}
    assert redact({str(number): 0 for number in range(30)})["_truncated"] == 5
    assert redact({"a": {"b": {"c": {"d": 1}}}}) == {"a": {"b": {"c": REDACTED}}}


def test_issues_keep_their_messages_container() -> None:
    assert redact({"issues": [{"code": "graph.cycle"}]}) == {"issues": [{"code": "graph.cycle"}]}


class Rude:
    """Fails whenever it is asked for text."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    @property
    def __block_value__(self) -> Any:
        raise RuntimeError("no")


def test_objects_that_fail_when_looked_at_are_named_by_their_class() -> None:
    for strength in (lambda details: scrub(details).to_python(), redact):
        assert strength({"rude": Rude(), "list": [Rude()]}) == {"rude": "<Rude>", "list": ["<Rude>"]}
        assert strength({Rude(): 1}) == {"<Rude>": 1}


def test_text_is_cut_with_a_marker_at_256_characters_and_not_before() -> None:
    assert redact("x" * 256) == "x" * 256
    assert redact("x" * 300) == "x" * 256 + "… [44 more]"
    assert clean_text("x" * 300) == "x" * 300, "recovery reads the whole text (ruling R46)"


def test_the_25th_item_stays_and_the_next_are_flagged() -> None:
    assert redact([0] * 25) == [0] * 25
    assert redact([0] * 26) == [0] * 25 + [{"_truncated": 1}]


def test_a_secret_that_the_cut_would_split_is_removed_first() -> None:
    assert "abcdefgh" not in redact("x" * 245 + " Bearer abcdefghijklmnop")


def test_engine_keys_are_sanitised_inside_not_dropped() -> None:
    details = {"failure_details": {"prompt": "p", "n": 1}, "original_error": {"code": "demo.x"}}
    assert redact(details) == {"failure_details": {"prompt": REDACTED, "n": 1}, "original_error": {"code": "demo.x"}}
