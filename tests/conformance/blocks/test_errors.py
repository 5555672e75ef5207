"""Every fault becomes one response with its class, reason and code, and without secrets (blocks spec §5)."""

from __future__ import annotations

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
    BlockValidationError,
)
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from tests.support.blocks_kit import respond, step


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
        (KeyError("x"), BlockInternalError, "internal_error", "runtime.internal"),
        (BlockSkip(), BlockSkip, "skipped", "skip.no_new_items"),
    ],
)
async def test_raised_errors_become_responses(error: Exception, kind: type, reason: str, code: str) -> None:
    for block in (step("s", raising(error)), Threaded(action=raising(error))):
        response = await respond(block)
        assert not response.success
        assert (response.error_type, response.reason, response.code) == (kind, reason, code)
        assert block.block_phase is BlockPhase.READY


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
