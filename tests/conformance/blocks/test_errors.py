"""Every fault becomes one response with its class, reason and code, and without secrets (blocks spec §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockingContext
from runtime.blocks.envelope import Request, recorded_response
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockInternalError,
    BlockRuntimeError,
    BlockSkip,
    BlockTimeout,
    BlockValidationError,
    LedgerOwnershipError,
)
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from tests.support.blocks_kit import Events, respond, scope, step


class Threaded(Block, local=True):
    """A plain run, in a worker thread."""

    action: Callable[[BlockValue, BlockingContext], Any]

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    def run(self, input: BlockValue, ctx: BlockingContext) -> Any:
        return self.action(input, ctx)


class Broken(BlockRuntimeError):
    """An author's own class."""


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def action(value: Any, ctx: Any) -> Any:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "kind", "reason", "code"),
    [
        (Broken("demo.broken", "no"), Broken, "demo.broken", "demo.broken"),
        (BlockInputError("input.not_object", "no"), BlockInputError, "input.not_object", "input.not_object"),
        (BlockValidationError("validation.bad_config", "no"), BlockValidationError, *["validation.bad_config"] * 2),
        (BlockRuntimeError("http.timeout", "no"), BlockRuntimeError, "http.timeout", "http.timeout"),
        (KeyError("x"), BlockInternalError, "internal_error", "runtime.internal"),
        (LedgerOwnershipError("runtime.ledger_not_owner", "no"), BlockRuntimeError, *["runtime.ledger_not_owner"] * 2),
        (BlockSkip(), BlockSkip, "skipped", "skip.no_new_items"),
    ],
)
async def test_raised_errors_become_responses(error: Exception, kind: type, reason: str, code: str) -> None:
    for block in (step("s", raising(error)), Threaded(action=raising(error))):
        response = await respond(block)
        assert not response.success
        assert (response.error_type, response.reason, response.code) == (kind, reason, code)
        assert block.block_phase is BlockPhase.READY


async def test_a_passed_deadline_is_a_timeout() -> None:
    response = await respond(step("s", lambda value, ctx: asyncio.Event().wait()).with_timeout(0.001))
    assert (response.error_type, response.reason, response.code) == (BlockTimeout, "timeout", "runtime.timeout")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_no_exception_is_raised_again_and_the_block_is_ready(error: BaseException) -> None:
    events, block = Events(), step("s", raising(error))
    running = block.execute(Request(), scope=scope(observer=events))
    with pytest.raises(type(error)):
        running.send(None)  # by hand: an event loop has its own ideas about these
    assert block.block_phase is BlockPhase.READY
    assert events.names() == ["block.started", "block.canceled"]


def test_fields_have_their_defaults_and_words_outside_their_lists_are_refused() -> None:
    error = BlockRuntimeError("http.timeout", "slow", provider_status="504", details={"n": 1})
    assert (error.domain, error.severity, error.effects, error.retry_disposition) == ("http", "error", "unknown", None)
    assert (error.provider_status, dict(error.details), error.reason) == ("504", {"n": 1}, "http.timeout")
    assert str(error) == "http.timeout: slow"
    for field in ("severity", "effects", "retry_disposition"):
        with pytest.raises(ValueError, match=f"{field} must be one of"):
            BlockRuntimeError("http.timeout", "slow", **{field: "odd"})
    skip = BlockSkip()
    assert (skip.code, skip.severity, skip.domain) == ("skip.no_new_items", "info", "skip")


async def test_what_leaves_memory_names_no_class_and_holds_no_content() -> None:
    response = await respond(step("s", raising(Broken("demo.broken", "no", details={"prompt": "secret plan", "n": 2}))))
    assert response.record().keys() == {"success", "reason", "code", "details", "metadata"}
    assert response.record()["details"] == {"prompt": "<redacted>", "n": 2}
    assert "Broken" not in repr(response.record())


async def test_an_internal_error_names_its_cause_without_secrets() -> None:
    def action(value: Any, ctx: Any) -> Any:
        try:
            raise ValueError("token Bearer abcdefgh12345678 was refused")
        except ValueError as cause:
            raise RuntimeError("sk-abcdefghijklmnopqrstuvwx leaked") from cause

    response = await respond(step("s", action))
    assert response.details["error_class"].payload == "RuntimeError"
    assert response.details["cause_class"].payload == "ValueError"
    told = response.message + response.details.to_json()
    assert "abcdefgh" not in told
    assert "<redacted>" in told


async def test_secret_details_are_removed_at_once_and_content_when_serialised() -> None:
    error = BlockRuntimeError("demo.x", "no", details={"api_key": "k", "message": "why", "n": 1})
    response = await respond(step("s", raising(error)))
    assert response.details.to_python() == {"api_key": "<redacted>", "message": "why", "n": 1}
    assert response.record()["details"] == {"api_key": "<redacted>", "message": "<redacted>", "n": 1}


@pytest.mark.parametrize("code", ["nodots", "Upper.case", "a..b", ""])
def test_malformed_codes_are_refused_where_the_error_is_built(code: str) -> None:
    with pytest.raises(ValueError, match="dotted"):
        BlockRuntimeError(code, "x")


def test_recorded_responses_rebuild_the_attempt() -> None:
    request = Request(metadata={"id": "i", "run_id": "r", "attempt": 2})
    assert recorded_response(request, value=BlockValue.of(4)).data == BlockValue.of(4)
    failed = recorded_response(request, code="op.test_failed", message="red", output=BlockValue.of({"stdout": "x"}))
    assert failed.output.to_python() == {"stdout": "x"}
    assert failed.metadata["attempt"] == 2
    assert not failed.ends_run
    assert recorded_response(request, code="op.env_tool").ends_run
    assert recorded_response(request, code="skip.no_new_items").skipped
    kinds = {"input.x": BlockInputError, "graph.x": BlockValidationError, "demo.x": BlockRuntimeError}
    for code, kind in kinds.items():
        error = recorded_response(request, code=code).error
        assert isinstance(error, BlockError)
        assert type(error) is kind
