"""The node runner of a replay: attempts end in the order they ended then, and as they ended then where no block
decides.

Siblings of a level race; whether a later one still begins after an earlier one failed depends on who is first. So an
attempt waits at its end until all that ended before it in the record have ended. A replay that differs may wait for
what never comes: when everything that runs waits, the record's order is given up, and the difference shows by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, recorded_response
from runtime.blocks.projection import restore
from runtime.blocks.recurring import STOPPED
from runtime.blocks.running import AttemptHost, NodeCall, NodeRunner, Pull
from runtime.blocks.values import BlockValue
from runtime.execution.node_runner import TurnRunner
from runtime.kernel.model import thawed
from runtime.orchestration.journal_history import StepKey
from runtime.replay.answering import Bodies
from runtime.replay.record import EndOfRecord, Fate, Record

#: How long everything that runs may wait for each other before the record's order is given up, in seconds.
STALL_SECONDS: Final = 0.25
#: Rounds of the event loop in which a waiting replay may still turn out to move.
_SECOND_LOOK: Final = 50


class RecordedOrder:
    """Who may end next. Owned by one event loop."""

    def __init__(self, order: Sequence[StepKey]) -> None:
        self._position = {key: index for index, key in enumerate(order)}
        self._ended: set[StepKey] = set()
        self._order = order
        self._next = 0
        self._running = 0
        self._given_up = False
        self._change = asyncio.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Something is at work that will come to its end by itself."""
        self._running += 1
        self._wake()
        try:
            yield
        finally:
            self._running -= 1
            self._wake()

    async def turn(self, key: StepKey | None) -> None:
        """Return when everything recorded to end before ``key`` has ended; None: when everything has."""
        while not self._due(key):
            change = self._change
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await change.wait()
            except TimeoutError:
                await self._look_again(change)

    async def _look_again(self, change: asyncio.Event) -> None:
        """Give the order up, unless something moves after all: a busy loop may only have been late."""
        for _ in range(_SECOND_LOOK):
            await asyncio.sleep(0)
            if self._running or self._change is not change:
                return
        self._given_up = True
        self._wake()

    def ended(self, key: StepKey) -> None:
        """An attempt has ended, and its end is journalled."""
        self._ended.add(key)
        while self._next < len(self._order) and self._order[self._next] in self._ended:
            self._next += 1
        self._wake()

    def _due(self, key: StepKey | None) -> bool:
        if self._given_up:
            return True
        if key is None:
            return self._next >= len(self._order)
        return self._next >= self._position.get(key, 0)

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


class RecordedRunner:
    """Implements `runtime.blocks.running.NodeRunner` around the ordinary one."""

    def __init__(self, inner: TurnRunner, record: Record, bodies: Bodies) -> None:
        self._inner = inner
        self.record = record
        self.bodies = bodies
        self.order = RecordedOrder(record.order)

    async def attempt(self, call: NodeCall) -> Response:
        """One attempt, up to where the record goes. Raises `EndOfRecord` there."""
        if call.recurring:
            return await self._inner.attempt(call)  # opens the stream; its items end where `tick` says
        key = key_of(call)
        if self.record.fate(key) is Fate.BEYOND:
            await self.order.turn(None)
            raise self.record.ends_here()
        members = {item.name: getattr(call, item.name) for item in fields(NodeCall)}
        members["request"] = _at_that_moment(call, self.record.given(key))
        try:
            return await self._inner.attempt(_RecordedCall(**members, paced=self))
        finally:
            self.order.ended(key)

    async def tick(self, call: NodeCall, pull: Pull) -> Response:
        """The item of a tick. When it comes the world decided, not the block, so it is the one of then.

        A stream that did operations or asked is run again, with their answers; where it was stopped it is not.
        """
        key = key_of(call)

        async def answered() -> Response:
            if not self.record.has_end(key):
                await self.order.turn(None)
                raise self.record.ends_here()
            again = self.record.fate(key) is Fate.RUN and self.record.acts(call.node_path)
            if again and self.record.end(key).code != STOPPED:
                with self.order.running():
                    response = await pull()
            else:
                response = await recorded_end(self, call)
            await self.order.turn(key)
            return response

        if self.record.fate(key) is Fate.BEYOND:
            await self.order.turn(None)
            raise self.record.ends_here()
        try:
            return await self._inner.tick(call, answered)
        finally:
            self.order.ended(key)

    async def ask(
        self, call: NodeCall, index: str, prompt: str, kinds: Sequence[str], choices: Sequence[str]
    ) -> BlockValue:
        return await self._inner.ask(call, index, prompt, kinds, choices)

    async def undo(self, call: NodeCall, failure: Response) -> SideEffects | None:
        return await self._inner.undo(call, failure)


@dataclass(slots=True, kw_only=True)
class _RecordedCall(NodeCall):
    """An attempt whose end comes when, and where the block did not decide it, as it came then."""

    paced: RecordedRunner

    async def execute(self, *, runner: NodeRunner | None = None, host: AttemptHost | None = None) -> Response:
        key = key_of(self)
        paced, fate = self.paced, self.paced.record.fate(key)
        response: Response | None = None
        if fate is not Fate.REUSED:
            try:
                response = await self._run(host)
            except EndOfRecord:
                if fate is Fate.RUN:
                    raise
        if fate is Fate.CUT:
            await paced.order.turn(None)
            raise paced.record.ends_here()
        if response is None or fate is Fate.LATE:
            response = await recorded_end(paced, self)
        await paced.order.turn(key)
        return response

    async def _run(self, host: AttemptHost | None) -> Response:
        if self.block.is_workflow:
            return await NodeCall.execute(self, runner=self.paced, host=host)
        with self.paced.order.running():
            return await NodeCall.execute(self, runner=self.paced, host=host)


async def recorded_end(paced: RecordedRunner, call: NodeCall) -> Response:
    """How an attempt ended then, as a response."""

    async def restored(projected: object) -> BlockValue:
        return await restore(thawed(projected), paced.bodies.get)

    end = paced.record.end(key_of(call))
    if end.code is None:
        return recorded_response(call.request, value=await restored(end.outputs.get("value")))
    output = await restored(end.outputs["output"]) if "output" in end.outputs else None
    return recorded_response(call.request, code=end.code, message=end.message, output=output, recovery=end.recovery)


def _at_that_moment(call: NodeCall, given: Mapping[str, Any]) -> Request:
    """A failure handler is told when: that was read from the clock then."""
    value, told = given.get("value"), call.request.payload.as_map
    if call.kind != "handler" or told is None or not isinstance(value, Mapping) or "ts" not in value:
        return call.request
    return call.request.with_payload({**told, "ts": BlockValue.of(value["ts"])})


def key_of(call: NodeCall) -> StepKey:
    """The attempt a call is about."""
    return (call.node_path, call.tick, call.visit, call.attempt)
