"""The one dispatch loop of a session: control intents first, then node attempts in lane order, as slots allow.

A node attempt is run by whoever wants its result, never by the loop: it asks for a slot, waits in its lane, and
goes when the loop lets it. So exceptions and cancellation take their ordinary way, and the loop owns no task. A
full lane makes the asker wait instead of shedding work (ruling R29). Owned by the runtime loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from runtime.events.envelope import ControlSignal, Lane
from runtime.flow.lanes import EnqueueResult, LaneItem, LaneQueues
from runtime.kernel.errors import ContractError

#: Askers that may wait for room in one lane, and control intents that may wait for the loop, before it is a fault.
MAX_WAITING: Final = 1024

T = TypeVar("T")


def _always() -> bool:
    return True


def _ignore_signals(_signals: Sequence[ControlSignal]) -> None:
    """Nobody listens."""


def _ignore_change() -> None:
    """Nobody listens."""


class LaneLoop:
    """Lets node attempts go, highest lane first, never more than ``slots`` at once.

    ``room`` is asked before each dispatch whether the shared pool has a free worker; whoever frees one calls
    `wake`. ``on_signals`` receives lane signals in order; ``on_change`` is told that the gauges moved.
    """

    def __init__(
        self,
        queues: LaneQueues,
        *,
        slots: int,
        room: Callable[[], bool] = _always,
        on_signals: Callable[[Sequence[ControlSignal]], None] = _ignore_signals,
        on_change: Callable[[], None] = _ignore_change,
    ) -> None:
        if slots < 1:
            raise ContractError("schema_validation_error", f"a lane loop needs at least one slot, not {slots}")
        self.queues = queues
        self._slots = slots
        self._room = room
        self._on_signals = on_signals
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._intents: dict[object, Callable[[], None]] = {}
        self._waiting: dict[Lane, deque[_Ticket]] = {lane: deque() for lane in Lane}
        self._tickets: dict[int, _Ticket] = {}
        self._running = 0
        self._closed = False

    @property
    def running(self) -> int:
        """Node attempts let go and not yet finished."""
        return self._running

    def wake(self) -> None:
        """Look again: something arrived or a worker became free."""
        self._wake.set()

    def control(self, intent: Callable[[], None], *, key: object = None) -> None:
        """Handle ``intent`` before the loop lets anything else go or waits.

        Intents with the same ``key`` that are still waiting coalesce into the first, so a storm of cancels cannot
        overflow (ruling R26). Raises `ContractError` ``control_lane_overflow``.
        """
        name = object() if key is None else key
        if name in self._intents:
            return
        if len(self._intents) >= MAX_WAITING:
            raise ContractError("control_lane_overflow", f"{MAX_WAITING} control intents wait for the loop")
        self._intents[name] = intent
        self.wake()

    def post(self, item: LaneItem) -> EnqueueResult:
        """Enqueue an item with an action, without waiting; a full lane answers in the result."""
        if item.action is None:
            raise ContractError("schema_validation_error", "a posted item needs an action; use slot for attempts")
        result = self.queues.enqueue(item)
        self._announce(result.signals)
        self.wake()
        return result

    @asynccontextmanager
    async def slot(self, item: LaneItem) -> AsyncIterator[None]:
        """Wait for room in the item's lane, then for its turn; hold the slot while the body runs.

        Cancelling the wait takes the item back. Telemetry has no slots: it is posted.
        """
        if item.action is not None or item.lane is Lane.TELEMETRY:
            raise ContractError("schema_validation_error", f"{item.lane.value} items with actions are posted")
        ticket = self._admit(item)
        try:
            await ticket.granted
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        try:
            yield
        finally:
            self._release(item.lane)

    async def perform(self, item: LaneItem, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` in a slot of the item's lane and return its result."""
        async with self.slot(item):
            return await work()

    async def run(self) -> None:
        """Serve until `close`. On the way out every asker still waiting is cancelled."""
        try:
            while not self._closed:
                self._pump()
                await self._wake.wait()
                self._wake.clear()
        finally:
            self._closed = True
            self._abandon()

    def close(self) -> None:
        """Stop serving after the intents that wait have been handled."""
        self._run_intents()
        self._closed = True
        self.wake()

    def _pump(self) -> None:
        # No await in here: an intent that arrives while we look is seen before the next item goes.
        self._run_intents()
        while self._dispatch_next():
            self._run_intents()
        self._on_change()

    def _run_intents(self) -> None:
        while self._intents:
            self._intents.pop(next(iter(self._intents)))()

    def _dispatch_next(self) -> bool:
        head = self.queues.head()
        if head is None or (head.action is None and not (self._running < self._slots and self._room())):
            return False
        dispatch = self.queues.dequeue()
        assert dispatch is not None  # head() said so, and nothing ran in between
        self._announce(dispatch.signals)
        self._refill(dispatch.item.lane)
        if dispatch.item.action is not None:
            dispatch.item.action()
        else:
            self._grant(self._tickets.pop(id(dispatch.item)))
        return True

    def _grant(self, ticket: _Ticket) -> None:
        if ticket.granted.done():
            # The asker was cancelled but has not run since: its place is simply given up.
            self.queues.finished(ticket.item.lane)
            return
        self._running += 1
        ticket.granted.set_result(None)

    def _admit(self, item: LaneItem) -> _Ticket:
        if self._closed:
            raise ContractError("execution_pool_closed", "the lane loop is closed")
        waiting = self._waiting[item.lane]
        if len(waiting) >= MAX_WAITING:
            raise ContractError("lane_queue_capacity_exceeded", f"{MAX_WAITING} askers wait for {item.lane.value}")
        ticket = _Ticket(item)
        waiting.append(ticket)
        self._refill(item.lane)
        self.wake()
        return ticket

    def _refill(self, lane: Lane) -> None:
        waiting = self._waiting[lane]
        while waiting and not self.queues.full(lane):
            ticket = waiting.popleft()
            self._tickets[id(ticket.item)] = ticket
            self._announce(self.queues.enqueue(ticket.item).signals)

    def _withdraw(self, ticket: _Ticket) -> None:
        if ticket.granted.done() and not ticket.granted.cancelled():
            # The slot was given in the same step the asker was cancelled: hand it back.
            self._release(ticket.item.lane)
        elif self._tickets.pop(id(ticket.item), None) is None:
            if ticket in self._waiting[ticket.item.lane]:
                self._waiting[ticket.item.lane].remove(ticket)
        else:
            self._announce(self.queues.withdraw(ticket.item) or ())
            self._refill(ticket.item.lane)
            self.wake()

    def _release(self, lane: Lane) -> None:
        self._running -= 1
        self.queues.finished(lane)
        self.wake()

    def _announce(self, signals: Sequence[ControlSignal]) -> None:
        if signals:
            self._on_signals(signals)

    def _abandon(self) -> None:
        tickets = [*self._tickets.values(), *(ticket for queue in self._waiting.values() for ticket in queue)]
        for ticket in tickets:
            ticket.granted.cancel()


class _Ticket:
    """An asker's place; ``granted`` resolves when the loop lets it go."""

    __slots__ = ("granted", "item")

    def __init__(self, item: LaneItem) -> None:
        self.item = item
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
