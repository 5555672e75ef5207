"""The catalogue, row by row: contracts, safety, time limit and declared retries of every built-in (blocks spec §21.2)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.registry import builtin_registry

REGISTRY = builtin_registry()
PATH = {"path": "a"}

#: type id, config, input, output, side effects
ROWS: list[tuple[str, dict[str, Any], BlockValueContract, BlockValueContract, str | None]] = [
    ("file_read", {}, once("string", "map"), once("string"), "none"),
    ("file_read", PATH | {"as_bytes": True}, multiple(), once("bytes"), "none"),
    ("file_write", {}, once("string", "bytes", "map"), once("null"), "idempotent"),
    ("file_write", PATH | {"append": True}, once("string", "bytes", "map"), once("null"), "non_idempotent"),
    ("list_directory", {}, once("string", "map"), once("list"), "none"),
    ("list_directory", PATH, multiple(), once("list"), "none"),
    ("http_request", {}, once("string", "map"), once("string"), "idempotent"),
    ("http_request", {"url": "u"}, multiple(), once("string"), "idempotent"),
    ("send_email", {}, once("string", "map", "list", "null"), once("map"), "non_idempotent"),
    ("send_email", {"to": "t"}, once("string", "map", "list", "null"), once("map"), "non_idempotent"),
    ("ai_generate", {}, multiple("string", "map", "list", "null"), once("string"), "idempotent"),
    ("ai_generate", {"prompt": "p"}, multiple("string", "map", "list", "null"), once("string"), "idempotent"),
    ("combine", {"keys": ["a"]}, multiple(), once("map"), "none"),
    ("split_by_keys", {"keys": ["a"]}, once("map", "string", "null"), multiple(), "none"),
    ("split_lines", {}, once("string", "null"), multiple("string"), "none"),
    ("select_first", {}, once("list", "string", "null"), once("string"), "none"),
    ("rss_parse", {}, once("string"), once("list"), "none"),
    ("markdown_to_html", {}, multiple(), once("string"), "none"),
    ("template", {}, multiple(), once("string"), "none"),
    ("custom_transform", {}, multiple(), once(), "none"),
    ("trigger", {}, multiple(), once("string"), "none"),
    ("delay", {"seconds": 0}, multiple(), once(), "none"),
    ("merge", {}, multiple(), once("string"), "none"),
    ("filter", {"contains": "a"}, once("list"), once("list"), "none"),
    ("split_first", {}, once("string"), once("map"), "none"),
    ("echo", {}, multiple(), once("string"), "none"),
    ("conditional", {"equals": 1}, multiple(), once("string"), "none"),
    ("approval", {"message": "Go?"}, multiple(), once("map"), "none"),
]


@pytest.mark.parametrize(("type_id", "config", "takes", "gives", "effects"), ROWS)
def test_contracts_and_safety(
    type_id: str, config: dict[str, Any], takes: BlockValueContract, gives: BlockValueContract, effects: str
) -> None:
    block = REGISTRY.create(type_id, config)
    assert (block.input_contract, block.output_contract) == (takes, gives)
    assert block.side_effects.value == effects


@pytest.mark.parametrize(
    ("type_id", "config", "seconds", "retries", "first_pause"),
    [
        ("http_request", {}, 30.0, 2, 1.0),
        ("send_email", {}, 30.0, 3, 1.0),
        ("ai_generate", {}, 120.0, 0, None),  # a provider invocation retries inside (ruling R15)
        ("file_read", {}, None, 0, None),
        ("file_write", {}, None, 0, None),
        ("template", {}, None, 0, None),
    ],
)
def test_time_limits_and_declared_retries(
    type_id: str, config: dict[str, Any], seconds: float | None, retries: int, first_pause: float | None
) -> None:
    block = REGISTRY.create(type_id, config)
    assert block.attempt_timeout == seconds
    stack = block.get_policy_stack(BlockRuntimeError)
    assert len(stack) == bool(retries)
    for policy in stack:
        assert isinstance(policy, RetryPolicy)
        assert (policy.max_attempts, policy.initial) == (retries + 1, first_pause)
        assert (policy.factor, policy.cap, policy.jitter) == (2.0, 30.0, 0.2)
        assert policy.covers("runtime.timeout")
        assert not policy.covers("runtime.internal")


@pytest.mark.parametrize(
    ("type_id", "again", "never"),
    [
        (
            "http_request",
            ["http.rate_limited.429", "http.server_error.5xx", "http.timeout", "http.connect_failed"],
            ["http.auth.401", "http.forbidden.403", "http.invalid_request"],
        ),
        (
            "send_email",
            ["email.smtp.timeout", "email.smtp.transient"],
            ["email.config", "email.smtp.auth_failed", "email.smtp.permanent"],
        ),
    ],
)
def test_which_codes_are_worth_another_try(type_id: str, again: list[str], never: list[str]) -> None:
    (policy,) = REGISTRY.create(type_id, {}).get_policy_stack(BlockRuntimeError)
    assert isinstance(policy, RetryPolicy)
    assert all(policy.covers(code) for code in again)
    assert not any(policy.covers(code) for code in never)


def test_every_parameter_is_explained() -> None:
    shown = {"map_input", "cron", "child_workflow"}  # a function, a stream and a graph have files of their own
    missing = {row[0] for row in ROWS} - {info.type_id for info in REGISTRY.types()}
    assert not missing - shown
    assert all(field.summary for info in REGISTRY.types() for field in info.config)
