"""The runtime's side of one attempt of a packed block: what the pack is told, and what answers it (blocks spec §20.5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from runtime.blocks.contexts import BlockContext, offer, send
from runtime.blocks.errors import BlockError, BlockInputError, BlockRuntimeError
from runtime.blocks.packs.crossing import brought_along, serve
from runtime.blocks.packs.frames import PackContext, error_frame, payload_of, value_frame
from runtime.blocks.values import NULL, BlockValue
from runtime.blocks.wire import FrameType
from runtime.kernel.clock import timestamp

_LEVELS = frozenset({"debug", "info", "warn", "error"})
#: What a pack tells unasked is kept in memory, and is told without end: bytes of one entry, annotations of one attempt.
MAX_ENTRY: Final = 256 * 1024
MAX_ANNOTATIONS: Final = 64


def told(ctx: BlockContext) -> PackContext:
    """What the CONTEXT frame says about an attempt."""
    attempt = ctx.attempt_state
    services, deadline = attempt.scope.services, ctx.deadline
    return PackContext(
        block_name=ctx.block_name,
        node_name=ctx.node_name,
        node_path=ctx.node_path,
        workflow_id=ctx.workflow_id,
        run_id=ctx.run_id,
        trace_id=ctx.trace_id,
        span_id=ctx.span_id,
        attempt=ctx.attempt,
        visit=ctx.visit,
        tick=int(attempt.metadata.get("tick", 0)),
        sources=ctx.sources,
        handling=attempt.request.handling,
        state=dict(ctx.state),
        remaining=None if deadline is None else deadline - asyncio.get_running_loop().time(),
        now=timestamp(services.clock.now()),
        services=brought_along(services),
        env=dict(services.env or {}),
    )


class OutsideHost:
    """The `PackHost` of one attempt: every call is one the block itself could have made through its ``ctx``."""

    def __init__(self, ctx: BlockContext) -> None:
        self._ctx = ctx

    def log(self, entry: bytes) -> None:
        if len(entry) > MAX_ENTRY:
            self._ctx.log_warn("pack_entry_dropped", {"why": f"it has more than {MAX_ENTRY} bytes"})
            return
        try:
            self._take(payload_of(entry, FrameType.VALUE)[1].to_python())
        except (BlockError, KeyError, TypeError) as error:
            self._ctx.log_warn("pack_entry_dropped", {"why": str(error)})

    async def service(self, name: str, method: str, args: bytes) -> bytes:
        return await _answer(self._serve(name, method, args))

    async def wait(self, question: bytes) -> bytes:
        return await _answer(self._wait(question))

    def cancelled(self) -> bool:
        return self._ctx.cancelled

    def _take(self, entry: Any) -> None:
        match entry:
            case {"kind": "log", "level": str(level), "event": str(event), "value": value} if level in _LEVELS:
                getattr(self._ctx, f"log_{level}")(event, value)
            case {"kind": "annotate", "key": str(key), "value": value}:
                known = self._ctx.attempt_state.annotations or {}
                if key not in known and len(known) >= MAX_ANNOTATIONS:
                    raise BlockInputError("plugin.bad_frame", f"an attempt has at most {MAX_ANNOTATIONS} annotations")
                self._ctx.annotate(key, value)
            case {"kind": "offer", "value": value}:
                offer(self._ctx.attempt_state, BlockValue.of(value))
            case {"kind": "abandoned"}:
                self._ctx.attempt_state.observe("block.abandoned")
            case _:
                raise BlockInputError("plugin.bad_frame", "an entry is a map whose kind is log, annotate or offer")

    async def _serve(self, name: str, method: str, args: bytes) -> object:
        members = payload_of(args, FrameType.VALUE)[1]
        match name, method:
            case "operations", "operate":
                return await self._operate(members.to_python())
            case "stream", "send":
                await send(self._ctx.attempt_state, members["value"])
            case "clock", "sleep":
                await self._ctx.sleep(members["seconds"].expect_float())
                return timestamp(self._ctx.services.clock.now())
            case _:
                return await serve(self._ctx.services, name, method, members.to_python())
        return None

    async def _operate(self, args: dict[str, Any]) -> BlockValue:
        undo = args["compensation"]
        return await self._ctx.operate(
            args["type"], args["params"], key=args["key"], compensation=None if undo is None else (undo[0], undo[1])
        )

    async def _wait(self, question: bytes) -> BlockValue:
        asked = payload_of(question, FrameType.VALUE)[1]
        return await self._ctx.wait(
            asked["prompt"].expect_string(),
            kinds=asked["kinds"].to_python(),
            choices=asked["choices"].to_python(),
            subject=asked.get("subject"),
        )


async def _answer(work: Awaitable[object]) -> bytes:
    """A failure is an answer, too; `Halted` and cancellation are none."""
    try:
        found = await work
        return value_frame(FrameType.VALUE, NULL if found is None else found)
    except BlockError as error:
        return error_frame(error)
    except (KeyError, TypeError, IndexError) as error:
        return error_frame(BlockRuntimeError("plugin.bad_frame", f"the pack's call is malformed: {error}"))
