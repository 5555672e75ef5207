"""What ``validate`` and ``run`` are given besides the value: where they are, and their only doors to the world.

`BlockValidateContext` has no doors at all. `BlockContext` is for ``async`` runs; `BlockingContext` offers the same
calls to threaded runs, where they block the worker thread and never the loop. Contexts are views of one attempt and
hold no state of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from runtime.blocks.definition import RunStyle
from runtime.blocks.errors import (
    BlockRuntimeError,
    BlockValidationError,
    LedgerOwnershipError,
    OperationFailed,
)
from runtime.blocks.faces import Offered, OfferedBlocking
from runtime.blocks.sanitise import clean_text, redact
from runtime.blocks.services import AttemptServices, BlockingServices
from runtime.blocks.values import BlockValue
from runtime.blocks.waits import ask, waiting
from runtime.kernel.errors import Halted, JournalError, ModelError
from runtime.kernel.model import OperationResult, OperationStatus, thawed
from runtime.kernel.outcomes import block_code

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.execute import Attempt
    from runtime.blocks.threads import ThreadBridge

_LOGGER: Final = logging.getLogger("runtime.blocks")
DATA: Final = "data"
TELEMETRY: Final = "telemetry"
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class StateView(Mapping[str, BlockValue]):
    """The declared part of the ledger, read-only. Trying to change it is `LedgerOwnershipError`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, BlockValue]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> BlockValue:
        return self._values[key]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, key: str, value: object) -> None:
        raise _not_owner(key)

    def __delitem__(self, key: str) -> None:
        raise _not_owner(key)


def _one_line(text: str) -> str:
    """Text for a log, which nobody escapes again on its way to a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _not_owner(key: str) -> LedgerOwnershipError:
    return LedgerOwnershipError(
        "runtime.ledger_not_owner", f"a block cannot change {key!r}; return a value and let the workflow store it"
    )


class BlockValidateContext:
    """Where a block is about to run. No services, no waiting, no ledger."""

    __slots__ = ("_attempt", "_block")

    def __init__(self, attempt: Attempt, block: Block) -> None:
        self._attempt = attempt
        self._block = block

    @property
    def attempt_state(self) -> Attempt:
        """The engine's own record of the attempt; for wrappers such as `run_inner`."""
        return self._attempt

    @property
    def block_name(self) -> str:
        return self._block.block_name

    @property
    def node_name(self) -> str:
        return str(self._attempt.metadata.get("node_name", ""))

    @property
    def node_path(self) -> str:
        return str(self._attempt.metadata.get("node_path", ""))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the predecessors that delivered, in link order."""
        return self._attempt.request.sources

    @property
    def joined(self) -> bool:
        """True when the input is a LIST joined from two or more predecessors."""
        return self._attempt.request.joined

    @property
    def config(self) -> Mapping[str, Any]:
        return self._block.config()

    @property
    def state(self) -> StateView:
        """The ledger keys this block declared in ``reads``."""
        return StateView(self._attempt.request.context)

    def log_debug(self, event: str, value: object = None) -> None:
        self._log("debug", event, value)

    def log_info(self, event: str, value: object = None) -> None:
        self._log("info", event, value)

    def log_warn(self, event: str, value: object = None) -> None:
        self._log("warn", event, value)

    def log_error(self, event: str, value: object = None) -> None:
        self._log("error", event, value)

    def _log(self, level: str, event: str, value: object) -> None:
        if self._attempt.host is not None:
            # In full: what is cut short first can no longer be searched for secrets.
            self._attempt.host.log(level, event, value)
            return
        if not _LOGGER.isEnabledFor(_LEVELS[level]):
            return
        line = _one_line(clean_text(str(event))), _one_line(str(redact(value)))
        metadata = self._attempt.metadata
        ids = {key: metadata.get(key) for key in ("run_id", "node_path", "attempt", "trace_id", "span_id")}
        _LOGGER.log(_LEVELS[level], "%s %s", *line, extra={"workflow_id": self._attempt.scope.workflow_id, **ids})


class _RunContext(BlockValidateContext):
    """What both run contexts share."""

    __slots__ = ()

    @property
    def workflow_id(self) -> str:
        return self._attempt.scope.workflow_id

    @property
    def run_id(self) -> str:
        return str(self._attempt.metadata["run_id"])

    @property
    def trace_id(self) -> str:
        return str(self._attempt.metadata["trace_id"])

    @property
    def span_id(self) -> str:
        return str(self._attempt.metadata["span_id"])

    @property
    def attempt(self) -> int:
        return int(self._attempt.metadata["attempt"])

    @property
    def visit(self) -> int:
        return int(self._attempt.metadata["visit"])

    @property
    def tick(self) -> int:
        return int(self._attempt.metadata.get("tick", 1))

    @property
    def deadline(self) -> float | None:
        """Event-loop time at which the attempt ends; None when unbounded or while waiting for a human."""
        timeout = self._attempt.deadline
        return None if timeout is None else timeout.when()

    @property
    def error(self) -> Mapping[str, BlockValue] | None:
        """The failure envelope, when this block runs as a failure handler."""
        request = self._attempt.request
        return request.payload.as_map if request.handling else None

    @property
    def cancelled(self) -> bool:
        """True once the attempt is over; long threaded work should look now and then."""
        return not self._attempt.open

    def annotate(self, key: str, value: object) -> None:
        """Add namespaced metadata to the response. Keys without a dot are dropped and logged."""
        if "." not in key:
            self.log_warn("annotation_dropped", {"key": key})
            return
        if self._attempt.annotations is None:
            self._attempt.annotations = {}
        self._attempt.annotations[key] = BlockValue.of(value)


class BlockContext(_RunContext):
    """The context of an ``async`` run (and of ``inline`` ones, which must not use the awaitable calls).

    An async-generator run may use it until its stream is closed. What it does while its next item is waited for
    belongs to that item's tick, as ``tick``, ``attempt`` and the ids tell; the timeout covers opening the stream only.
    """

    __slots__ = ("_offered",)
    _offered: Offered

    @property
    def services(self) -> AttemptServices:
        """The block's doors to the world: what the scope gives, else faces over `operate`."""
        try:
            return self._offered
        except AttributeError:  # most blocks never ask
            self._offered = _offered(self._attempt)
            return self._offered

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
    ) -> BlockValue:
        """Run one governed operation and return its output MAP.

        Raises `OperationFailed` (code ``op.…``) when it fails, `BlockRuntimeError` ``runtime.no_operations`` outside
        a run. Calls that overlap need distinct ``key`` values.
        """
        return await perform(self._attempt, operation_type, params, key, compensation)

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: object = None
    ) -> BlockValue:
        """Ask the operator. The attempt's deadline stands still meanwhile.

        Raises `BlockRuntimeError`: ``runtime.no_operator`` outside a run, ``approval.refused``, ``approval.missing``.
        """
        return await ask(self._attempt, prompt, kinds, choices, subject)

    async def sleep(self, seconds: float) -> None:
        await _sleep(self._attempt, seconds)

    def emit(self, lane: str, value: object) -> Awaitable[None]:
        """Emit a stream item: ``await ctx.emit("data", value)``. Outside a run nothing happens.

        ``data`` is kept with the run and shown; it waits for room, and must be awaited. ``telemetry`` is only shown:
        it is taken or dropped at once, and awaiting it merely lets others run. An ``inline`` run cannot wait, so it
        may emit telemetry only. Raises `BlockValidationError` ``validation.stream_lane``, ``validation.stream_item``;
        awaiting raises `BlockRuntimeError` ``runtime.stream_stalled`` when no room was made in time.
        """
        item = _item(lane, value)
        if lane == TELEMETRY:
            offer(self._attempt, item)
            return _Breath()
        if self._block.spec.style is RunStyle.INLINE:
            raise BlockValidationError(
                "validation.stream_lane",
                f"{self._block.block_name} is inline and cannot wait for room; emit 'telemetry', or make run async",
            )
        return send(self._attempt, item)


class _Breath:
    """What emitting telemetry returns. Awaiting it gives way once; not awaiting it loses nothing."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


class BlockingContext(_RunContext):
    """The context of a threaded run: the same calls, blocking the worker thread."""

    __slots__ = ("_bridge", "_offered")

    def __init__(self, attempt: Attempt, block: Block, bridge: ThreadBridge) -> None:
        super().__init__(attempt, block)
        self._bridge = bridge
        self._offered = OfferedBlocking(_offered(attempt), bridge.call)

    @property
    def services(self) -> BlockingServices:
        """See `BlockContext.services`; every call waits in the worker thread."""
        return self._offered

    def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
    ) -> BlockValue:
        """See `BlockContext.operate`."""
        return self._bridge.call(lambda: perform(self._attempt, operation_type, params, key, compensation))

    def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: object = None
    ) -> BlockValue:
        """See `BlockContext.wait`."""
        return self._bridge.call(lambda: ask(self._attempt, prompt, kinds, choices, subject))

    def sleep(self, seconds: float) -> None:
        self._bridge.call(lambda: _sleep(self._attempt, seconds))

    def emit(self, lane: str, value: object) -> None:
        """See `BlockContext.emit`; waits in the worker thread."""
        item = _item(lane, value)
        if lane == DATA:
            self._bridge.call(lambda: send(self._attempt, item))
        else:
            self._bridge.call(lambda: _on_loop(lambda: offer(self._attempt, item)))

    def _log(self, level: str, event: str, value: object) -> None:
        if self._attempt.host is None:
            super()._log(level, event, value)
            return
        # The host belongs to the loop.
        self._bridge.call(lambda: _on_loop(lambda: super(BlockingContext, self)._log(level, event, value)))


def _offered(attempt: Attempt) -> Offered:
    async def operate(operation_type: str, params: Mapping[str, Any]) -> BlockValue:
        return await perform(attempt, operation_type, params, None, None)

    def seed() -> str:
        return "|".join(str(attempt.metadata.get(key)) for key in ("run_id", "node_path", "tick", "visit", "attempt"))

    return Offered(attempt.scope.services, operate, seed)


async def _on_loop(call: Callable[[], None]) -> None:
    call()


def _item(lane: str, value: object) -> BlockValue:
    if lane not in (DATA, TELEMETRY):
        raise BlockValidationError(
            "validation.stream_lane",
            f"ctx.emit knows the lanes 'data' (kept) and 'telemetry' (only shown), not {lane!r};"
            " node attempts choose their lane with the block's 'lane:' key",
        )
    return BlockValue.of(value)


async def send(attempt: Attempt, item: BlockValue) -> None:
    """One Data item through the host."""
    _still_open(attempt)
    if attempt.host is not None:
        await attempt.host.send(item)


def offer(attempt: Attempt, item: BlockValue) -> None:
    """One Telemetry item through the host."""
    _still_open(attempt)
    if attempt.host is not None:
        attempt.host.offer(item)


def _still_open(attempt: Attempt) -> None:
    if not attempt.open:
        raise Halted("runtime.canceled", "the attempt has ended")


async def _sleep(attempt: Attempt, seconds: float) -> None:
    await attempt.scope.services.clock.sleep(seconds)


async def perform(
    attempt: Attempt,
    operation_type: str,
    params: Mapping[str, Any],
    key: str | None,
    compensation: tuple[str, str] | None,
) -> BlockValue:
    """One operation through the host; failures become block errors, halts stay control flow (ruling R17)."""
    _still_open(attempt)
    if attempt.host is None:
        raise BlockRuntimeError(
            "runtime.no_operations", f"{attempt.block.block_name} needs a governed run to perform {operation_type}"
        )
    try:
        result = await attempt.host.operate(
            operation_type, params, key=key, compensation=compensation, waiting=partial(waiting, attempt)
        )
    except ModelError as error:
        raise BlockValidationError(block_code(error.code), error.message, effects="none") from error
    except JournalError as error:
        raise Halted(error.code, error.message) from error
    output = BlockValue.of(thawed(result.output))
    told = operation_type == "escalate" and result.status is OperationStatus.ESCALATED and result.reason_code is None
    if result.ok or told:
        return output
    raise operation_failure(result, output)


def operation_failure(result: OperationResult, output: BlockValue) -> OperationFailed:
    """The block error for a failed operation."""
    code = block_code(result.reason_code or "OP_FAILED")
    told = next((result.evidence[key] for key in ("reason", "message", "error") if key in result.evidence), None)
    disposition = result.evidence.get("retry_disposition")
    text = clean_text(str(told)) if told else f"{result.type} ended with {result.reason_code}"
    found = result.evidence.get("details") or {}
    status = found.get("status")
    return OperationFailed(
        code,
        text,
        output=output,
        retry_disposition=disposition if disposition in ("never", "manual", "immediate", "backoff") else None,
        details={"operation_id": result.operation_id, "operation_type": result.type},
        provider_status=None if status is None else clean_text(str(status)),
        effects="none" if found.get("effects") == "none" else "unknown",
    )
