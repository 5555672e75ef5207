"""Recurring runs: the entry gives a stream, and the rest of the graph runs once per item (blocks spec §13).

An item is a *tick*. It is the entry's output of that tick, so waiting for it is one visit of the entry: recovery,
fallback and the rest apply to it as to any node, and trying again opens the stream anew. One tick runs at a time, and
the stream is consumed and closed by the task that runs the graph.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from runtime.blocks.dataflow import run_dataflow
from runtime.blocks.envelope import Response, failed, succeeded
from runtime.blocks.errors import BlockRuntimeError, BlockSkip, BlockTimeout, engine_error
from runtime.blocks.execute import failure_from, stamped
from runtime.blocks.handlers import run_handlers
from runtime.blocks.results import Once, Recurring, bad_result
from runtime.blocks.routed import run_routed
from runtime.blocks.running import NodeCall
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue

if TYPE_CHECKING:
    from runtime.blocks.execute import Attempt
    from runtime.blocks.graph_run import GraphRun

#: Codes of the skip that stands where a stream gave no further item.
STREAM_ENDED: Final = "skip.stream_ended"
STOPPED: Final = "skip.stopped"
STREAM_ENDS: Final = frozenset({STREAM_ENDED, STOPPED})
#: What may give a node its value when its stream failed for good.
_STAND_INS: Final = frozenset({"accept", "fallback", "optional"})
#: How long closing a stream may take, in seconds.
CLOSE_SECONDS: Final = 10.0
_LOGGER: Final = logging.getLogger("runtime.blocks")


async def run_recurring(graph: GraphRun) -> Response:
    """Run the graph once per item. Ends with the last successful tick's response, or with the first failed one."""
    entry = _Entry(graph)
    try:
        response = await _run_ticks(graph, entry)
    except BaseException:
        _lost(await entry.close())
        raise
    broken = await entry.close()
    if broken is not None and (response.success or response.skipped):
        await run_handlers(graph, entry.name, broken)
        return graph.failure(entry.name, broken)
    _lost(broken)
    return response


async def _run_ticks(graph: GraphRun, entry: _Entry) -> Response:
    walk = run_routed if graph.plan.routed else run_dataflow
    last: Response | None = None
    for tick in itertools.count(1):
        await asyncio.sleep(0)  # a stream that never waits must not keep the loop to itself
        graph.begin_tick(tick)
        item = await entry.item()
        if item.code in STREAM_ENDS:
            break
        if tick > 1:
            graph.forget_ticks()
        if item.success or item.skipped:
            graph.observe("tick.started", {"tick": tick})
        response = (await walk(graph, item)).with_metadata(tick=tick)
        if not (response.success or response.skipped):
            return response
        graph.observe("tick.completed" if response.success else "tick.skipped", {"tick": tick})
        if response.success or last is None or last.skipped:
            last = response
        if item.skipped or item.metadata.get("recovered_by") in _STAND_INS:
            break  # the stream itself is over; opening it again would be a recovery nobody declared
    if last is not None:
        graph.ledger.compact(0)
        return last
    return await _without_ticks(graph, entry)


async def _without_ticks(graph: GraphRun, entry: _Entry) -> Response:
    if graph.scope.stop_requested:
        text = f"{graph.workflow.block_name} was stopped before its first tick"
        error = engine_error(BlockRuntimeError, "runtime.canceled", text)
        return failed({**graph.attempt.metadata, "side_effect_class": graph.effect_class().value}, error, "run")
    error = engine_error(
        BlockRuntimeError, "runtime.empty_stream", f"the stream of {entry.name!r} ended without an item"
    )
    response = graph.graph_failure(entry.name, error)
    await run_handlers(graph, entry.name, response)
    return response


def _lost(broken: Response | None) -> None:
    """A stream that would not close, in a run that ends for another reason."""
    if broken is not None:
        _LOGGER.warning("stream_not_closed %s %s", broken.code, broken.message)


class _Entry:
    """The entry of one recurring run, and its stream while one is open."""

    def __init__(self, graph: GraphRun) -> None:
        self._graph = graph
        self.name = cast(str, graph.plan.entry)
        self._stream: _Stream | None = None

    async def item(self) -> Response:
        """One visit of the entry: its next item, a failure, or a skip; one of `STREAM_ENDS` when there is none to come."""
        graph = self._graph
        known = graph.outcomes.get(self.name)
        before = None if known is None else replace(known)
        response = await graph.execute_node(self.name, graph.request.payload, through=self._attempt)
        if response.code in STREAM_ENDS:  # looking for an item that never came is no visit
            graph.outcomes.pop(self.name)
            if before is not None:
                graph.outcomes[self.name] = before
        return response

    async def close(self) -> Response | None:
        """Close the stream, if one is open; a failed response when that went wrong."""
        stream, self._stream = self._stream, None
        return None if stream is None else await stream.close()

    async def _attempt(self, call: NodeCall) -> Response:
        return await self._graph.runner.tick(call, lambda: self._pull(call))

    async def _pull(self, call: NodeCall) -> Response:
        """The next item, unless the run is to stop: then waiting for it ends at once."""
        scope = self._graph.scope
        if scope.stop_requested:
            return _end(call, STOPPED, "the run was stopped")
        waiting = asyncio.timeout(None)
        try:
            async with waiting:
                scope.waiting = waiting
                return await self._next(call)
        except TimeoutError:
            if not waiting.expired():
                raise
            return _end(call, STOPPED, "the run was stopped")
        finally:
            scope.waiting = None

    async def _next(self, call: NodeCall) -> Response:
        if self._stream is None:
            opened = await self._graph.runner.attempt(call)
            if not opened.success:
                return opened
            self._stream = _Stream(cast(Recurring, opened.result))
        response = await self._stream.next(call)
        if not (response.success or response.skipped):
            _lost(await self.close())
        return response


class _Stream:
    """An open stream. The attempt that opened it goes on with it, from tick to tick, until it is closed."""

    def __init__(self, result: Recurring) -> None:
        self._attempt = cast("Attempt", result.attempt)
        self._items: AsyncIterator[Any] = result.as_stream()

    async def next(self, call: NodeCall) -> Response:
        attempt, clock = self._attempt, self._attempt.scope.services.clock
        attempt.metadata, attempt.request, attempt.phase = dict(call.request.metadata), call.request, "run"
        attempt.annotations = None
        started = clock.monotonic()
        try:
            with self._busy():
                item = await anext(self._items)
            attempt.phase = "result"
            response = succeeded(attempt.metadata, Once(self._checked(item)))
        except StopAsyncIteration:
            return _end(call, STREAM_ENDED, "the stream has ended")
        except BlockSkip as skip:
            response = failed(attempt.metadata, skip, attempt.phase)
        except Exception as error:  # noqa: BLE001 - the author's stream: its faults are faults of the entry
            response = failure_from(attempt, error)
        return stamped(attempt, response, (clock.monotonic() - started) * 1000.0)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """The author's code is at work."""
        state = self._attempt.block.shared_state
        state.phase = BlockPhase.BUSY
        try:
            yield
        finally:
            state.phase = BlockPhase.READY

    def _checked(self, item: object) -> BlockValue:
        value, contract = BlockValue.of(item), self._attempt.block.output_contract
        if not contract.admits(value):
            raise bad_result(contract, f"a {value.kind.name.lower()} value")
        return value

    async def close(self) -> Response | None:
        attempt, closing = self._attempt, getattr(self._items, "aclose", None)
        attempt.phase = "run"
        try:
            if closing is not None:
                async with asyncio.timeout(CLOSE_SECONDS) as limit:
                    with self._busy():
                        await closing()
        except TimeoutError as error:
            return stamped(attempt, failure_from(attempt, _stuck(attempt) if limit.expired() else error), 0.0)
        except Exception as error:  # noqa: BLE001 - see `next`
            return stamped(attempt, failure_from(attempt, error), 0.0)
        finally:
            attempt.open = False
        return None


def _stuck(attempt: Attempt) -> BlockTimeout:
    text = f"the stream of {attempt.block.block_name} did not close within {CLOSE_SECONDS:g} s"
    return engine_error(BlockTimeout, "runtime.timeout", text, details={"timeout_seconds": CLOSE_SECONDS})


def _end(call: NodeCall, code: str, message: str) -> Response:
    return failed({**call.request.metadata, "duration_ms": 0.0}, BlockSkip(message, code=code), "run")
