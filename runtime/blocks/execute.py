"""One attempt of one block: guard, input gate, validate, run, result gate, metadata (blocks spec §8).

`execute` is the only way in. It turns every fault of a block into exactly one response and lets only cancellation and
control flow (`runtime.kernel.errors.Halted`) through — after putting the block back to READY. Callers that retry,
repair or observe sit above it; nothing here knows a graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from inspect import isasyncgen
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from runtime.blocks.attempts import record_attempt
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueKindSet
from runtime.blocks.definition import RunStyle
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, completed_metadata, failed, succeeded
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockInternalError,
    BlockRuntimeError,
    BlockSkip,
    BlockTimeout,
    BlockValidationError,
    LedgerOwnershipError,
    engine_error,
)
from runtime.blocks.results import BlockRunResult, Recurring, normalise
from runtime.blocks.running import AttemptHost, NodeRunner, Scope
from runtime.blocks.sanitise import clean_text
from runtime.blocks.state import BlockPhase
from runtime.blocks.telemetry import emit, sizes
from runtime.blocks.threads import ThreadBridge
from runtime.blocks.values import BlockValue
from runtime.blocks.waits import AttemptWaits

if TYPE_CHECKING:
    from runtime.blocks.block import Block


class Authored(Protocol):
    """The two methods every concrete block has."""

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> object: ...
    def run(self, input: BlockValue, ctx: Any) -> Any: ...


class Attempt:
    """Everything one attempt carries; contexts are thin views of it."""

    __slots__ = (
        "annotations",
        "block",
        "bridge",
        "deadline",
        "host",
        "metadata",
        "open",
        "phase",
        "request",
        "runner",
        "scope",
        "streaming",
        "waits",
    )

    def __init__(
        self,
        block: Block,
        request: Request,
        metadata: Mapping[str, Any],
        runner: NodeRunner | None,
        host: AttemptHost | None,
        scope: Scope,
    ) -> None:
        self.block = block
        self.request = request
        self.metadata = metadata
        self.runner = runner
        self.host = host
        self.scope = scope
        self.phase = "input"
        self.annotations: dict[str, BlockValue] | None = None
        self.deadline: asyncio.Timeout | None = None
        self.bridge: ThreadBridge | None = None
        self.open = True
        self.waits: AttemptWaits | None = None
        self.streaming = False  # its stream is open: it goes on after `execute` returned

    def observe(self, event: str, fields: Mapping[str, Any] | None = None) -> None:
        """Tell the observer, if there is one; payloads never appear here."""
        if self.scope.observer is not None:
            emit(self.scope, event, self.metadata, fields, block_type=self.block.spec.type_id)


async def execute(
    block: Block, request: Request, runner: NodeRunner | None, host: AttemptHost | None, scope: Scope | None
) -> Response:
    """See `Block.execute`."""
    scope = scope or Scope()
    services = scope.services
    metadata = completed_metadata(request, block, services.clock, services.ids)
    attempt = Attempt(block, request, metadata, runner, host, scope)
    state = block.shared_state
    if state.phase is not BlockPhase.READY:
        return stamped(attempt, _busy(attempt), 0.0)
    state.phase = BlockPhase.BUSY
    started = services.clock.monotonic()
    if scope.observer is not None:
        attempt.observe("block.started", sizes("input", request.payload))
    try:
        ended = await block._attempt(attempt)
    except BaseException:
        attempt.observe("block.canceled")
        raise
    finally:
        attempt.open = attempt.streaming
        state.phase = BlockPhase.READY
    response = stamped(attempt, ended, (services.clock.monotonic() - started) * 1000.0)
    if scope.attempts is not None and not block.is_workflow:
        record_attempt(scope.attempts, block, response)
    if scope.observer is not None:
        _observe_end(attempt, response)
    return response


async def leaf(attempt: Attempt) -> Response | BlockRunResult:
    """The pipeline of a block that is not a workflow: its result, or the failed response."""
    try:
        block = attempt.block
        _input_gate(block, attempt.request)
        attempt.phase = "validate"
        validated = cast(Authored, block).validate(attempt.request.payload, BlockValidateContext(attempt, block))
        if validated is not None:
            raise _returned(block)
        attempt.phase = "run"
        timeout = block.attempt_timeout
        returned: object
        if timeout is None and block.spec.style is RunStyle.INLINE:
            returned = cast(Authored, block).run(attempt.request.payload, BlockContext(attempt, block))
        else:
            returned = await (_run(attempt, block) if timeout is None else _run_within(attempt, block, timeout))
        attempt.phase = "result"
        try:
            result = normalise(returned, block.output_contract)
        except BlockError:
            await _closed(returned)
            raise
        if type(result) is Recurring:
            result.attempt, attempt.streaming, attempt.deadline = attempt, True, None
        return result
    except BlockSkip as skip:
        return failed(attempt.metadata, skip, attempt.phase)
    except Exception as error:  # noqa: BLE001 - this is the boundary where faults become responses
        return failure_from(attempt, error)


async def run_inner(inner: Block, value: BlockValue, ctx: BlockContext) -> BlockRunResult:
    """Run another block inside the current attempt: its input gate, ``validate``, ``run`` and result gate.

    For wrappers that build the real block at run time. The inner block shares the attempt's context, deadline and
    side-effect class; whatever it raises comes out unchanged. A threaded ``run`` gets its blocking context.
    """
    attempt = ctx.attempt_state
    _input_gate(inner, Request(value, sources=attempt.request.sources))
    if cast(Authored, inner).validate(value, BlockValidateContext(attempt, inner)) is not None:
        raise _returned(inner)
    returned = await _run(attempt, inner, value)
    try:
        return normalise(returned, inner.output_contract)
    except BlockError:
        await _closed(returned)
        raise


def failure_from(attempt: Attempt, error: Exception) -> Response:
    """A failed response for whatever was raised (blocks spec §5.3)."""
    if isinstance(error, BlockError | BlockSkip):
        return failed(attempt.metadata, error, attempt.phase)
    if isinstance(error, LedgerOwnershipError):
        return failed(attempt.metadata, BlockRuntimeError(error.code, error.message), attempt.phase)
    cause = error.__cause__
    details: dict[str, Any] = {"error_class": type(error).__name__}
    if cause is not None:
        details |= {"cause_class": type(cause).__name__, "cause": clean_text(str(cause))}
    text = clean_text(str(error)) or type(error).__name__
    internal = engine_error(
        BlockInternalError,
        "runtime.internal",
        f"{attempt.block.block_name}: {type(error).__name__}: {text}",
        details=details,
    )
    internal.__cause__ = error
    return failed(attempt.metadata, internal, attempt.phase)


def _input_gate(block: Block, request: Request) -> None:
    contract = block.input_contract
    if contract.kinds is _ANY:
        return
    values = request.payload.payload if request.joined and request.payload.is_list else (request.payload,)
    for value in values:
        if not contract.kinds.contains(value.kind):
            kind = value.kind.name.lower()
            raise BlockInputError(
                "input.kind_mismatch",
                f"{block.block_name} takes {contract.kinds}, but got a {kind}",
                details={"expected": str(contract.kinds), "actual": kind},
            )


_ANY: Final = BlockValueKindSet.ANY
#: Phases in which the author's run has not started.
_BEFORE_RUN: Final = frozenset({"guard", "plan", "input", "validate"})


def _returned(block: Block) -> BlockValidationError:
    return BlockValidationError(
        "validation.returned_value", f"validate of {block.block_name} must return nothing; raise an error to refuse"
    )


async def _closed(refused: object) -> None:
    """Nobody will read a stream that was refused."""
    if isinstance(refused, Recurring) or isasyncgen(refused):
        await refused.aclose()


async def _run(attempt: Attempt, block: Block, value: BlockValue | None = None) -> object:
    authored = cast(Authored, block)
    payload = attempt.request.payload if value is None else value
    style = block.spec.style
    if style is RunStyle.THREAD:
        bridge = ThreadBridge(attempt)
        context = BlockingContext(attempt, block, bridge)
        return await bridge.run(authored.run, payload, context)
    returned = authored.run(payload, BlockContext(attempt, block))
    return await cast("Awaitable[object]", returned) if style is RunStyle.ASYNC else returned


async def _run_within(attempt: Attempt, block: Block, timeout: float) -> object:
    try:
        async with asyncio.timeout(timeout) as attempt.deadline:
            return await _run(attempt, block)
    except TimeoutError:
        if attempt.deadline is not None and attempt.deadline.expired():
            raise timed_out(block, timeout) from None
        raise


def timed_out(block: Block, timeout: float) -> BlockTimeout:
    return engine_error(
        BlockTimeout,
        "runtime.timeout",
        f"{block.block_name} did not finish within {timeout:g} s",
        details={"timeout_seconds": float(timeout)},
    )


def _busy(attempt: Attempt) -> Response:
    error = engine_error(
        BlockRuntimeError,
        "runtime.block_busy",
        f"{attempt.block.block_name} is running already; use a second instance or clone() for concurrent runs",
        retry_disposition="never",
        effects="none",
    )
    return failed(attempt.metadata, error, "guard")


def stamped(attempt: Attempt, ended: Response | BlockRunResult, duration_ms: float) -> Response:
    """Reserved keys last: nothing a block annotated can pose as them."""
    if isinstance(ended, BlockRunResult):
        metadata = {**attempt.metadata}
        if attempt.annotations:
            metadata.update(_extras(attempt.annotations))
        metadata["duration_ms"] = duration_ms if duration_ms > 0.0 else 0.0
        metadata["side_effect_class"] = attempt.block.side_effects._value_
        return succeeded(metadata, ended)
    more = _extras(attempt.annotations or {})
    more["duration_ms"] = max(0.0, duration_ms)
    if "side_effect_class" not in ended.metadata:
        more["side_effect_class"] = declared_class(attempt.block, ended).value
    return ended.with_metadata(**more)


def _extras(annotations: Mapping[str, BlockValue]) -> dict[str, Any]:
    return {key: value.to_python() for key, value in annotations.items()}


def declared_class(block: Block, response: Response) -> SideEffects:
    """The effective class of a leaf attempt as far as declarations tell (blocks spec §15.2)."""
    if response.success or response.error is None:
        return block.side_effects
    harmless = response.metadata.get("phase") in _BEFORE_RUN or response.error.effects == "none"
    return SideEffects.NONE if harmless else block.side_effects


def _observe_end(attempt: Attempt, response: Response) -> None:
    event = "block.succeeded" if response.success else "block.skipped" if response.skipped else "block.failed"
    attempt.observe(
        event,
        {
            "reason": response.reason,
            "code": response.code,
            **sizes("output", response.data),
            "duration_ms": response.metadata["duration_ms"],
        },
    )


#: For packs, which ask a block's two methods one by one: ``run`` in its style, and what a returning ``validate`` gets.
run_body, refused_return = _run, _returned
