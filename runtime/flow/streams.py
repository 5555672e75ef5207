"""The two stream edges of a turn: what its blocks emit, on the way to the store and to the screen (ruling R29).

Data is never lost in silence: a producer that meets a full edge waits until the edge has recovered, at most a declared
time, and then fails with a recorded ``shed``. Telemetry never waits: what does not fit is dropped and a notice says
which items. One pump takes bounded batches, Data first, and takes the next only when the last Data batch is kept, so
that producers feel the disk. A fence clears both edges in its own step. Owned by the runtime loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.events.envelope import ControlSignal, Lane
from runtime.events.facts import LaneState
from runtime.flow.lanes import REASON_FULL, LaneItem, LaneQueues
from runtime.kernel.errors import ContractError

#: What the edges' ids begin with.
PREFIX: Final = "stream"
LANES: Final = (Lane.DATA, Lane.TELEMETRY)
#: One batch of the pump: items, and bytes unless a single item is larger.
BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 64 * 1024
#: How long a batch may gather, so that a slow producer does not cost one write per item; in seconds.
GATHER_SECONDS: Final = 0.05
#: How long a step that has ended waits until what it emitted is kept; in seconds.
SETTLE_SECONDS: Final = 30.0
#: Emitters that may wait for one edge.
MAX_WAITING: Final = 1024

REASON_BLOCKED: Final = "max_block_time_exceeded"
REASON_FLUSHED: Final = "cancel_flush"


class StreamStalled(ContractError):
    """A Data item found no room in time; nothing of it was taken, and its ``shed`` is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamItem(LaneItem):
    """One item a block emitted. ``owner`` is the attempt it belongs to; ``payload`` is for whoever keeps or shows it."""

    owner: Hashable
    payload: Any

    @property
    def occupies(self) -> bool:
        return False


@dataclass(slots=True, eq=False)
class _Waiter:
    """An emitter waiting for room; ``woken`` resolves when it got some, or when there is nothing to wait for."""

    item: StreamItem
    woken: asyncio.Future[None]
    admitted: bool = False


@dataclass(slots=True)
class _Owed:
    """Data items of one owner that are not kept yet, and who waits for that."""

    count: int = 0
    settled: asyncio.Future[None] | None = field(default=None)

    def release(self) -> None:
        if self.settled is not None and not self.settled.done():
            self.settled.set_result(None)


class StreamEdges:
    """Takes items in, and gives them to ``keep`` (Data, awaited) and ``show`` (both, in order).

    ``check`` raises once the turn is fenced. ``wait_seconds`` bounds how long one Data item waits for room.
    ``on_signals`` receives edge signals in order; ``on_change`` is told that the gauges moved.
    """

    def __init__(
        self,
        queues: LaneQueues,
        *,
        keep: Callable[[Sequence[StreamItem]], Awaitable[None]],
        show: Callable[[Sequence[StreamItem]], None],
        check: Callable[[], None],
        wait_seconds: float,
        on_signals: Callable[[Sequence[ControlSignal]], None],
        on_change: Callable[[], None],
        settle_seconds: float = SETTLE_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._queues = queues
        self._keep = keep
        self._show = show
        self._check = check
        self._wait_seconds = wait_seconds
        self._settle_seconds = settle_seconds
        self._gather_seconds = gather_seconds
        self._on_signals = on_signals
        self._on_change = on_change
        self._sequences = dict.fromkeys(LANES, 0)
        self._waiting: deque[_Waiter] = deque()
        self._owed: dict[Hashable, _Owed] = {}
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closed = False

    @property
    def max_item(self) -> int:
        """The largest Data item, in bytes."""
        bound = self._queues.limits(Lane.DATA).max_bytes
        assert bound is not None, "stream edges are bounded in bytes"
        return bound

    def states(self) -> tuple[LaneState, ...]:
        """The gauges of Data and Telemetry. ``dispatched`` counts the items that left the edge."""
        names = [lane.value for lane in LANES]
        return tuple(state for state in self._queues.states() if state.lane in names)

    # -- taking in ----------------------------------------------------------------------------------------------

    async def send(self, owner: Hashable, payload: Any, size: int) -> None:
        """Take a Data item of ``size`` bytes, waiting for room.

        Raises `StreamStalled` (``max_block_time_exceeded``, or ``lane_queue_capacity_exceeded`` when too many wait),
        `ContractError` for an item that could never fit, and whatever ``check`` raises when the turn is fenced.
        """
        self._check()
        if self._closed or size > self.max_item:
            why = "the turn's streams have ended" if self._closed else f"{size} bytes exceed {self.max_item}"
            raise ContractError("schema_validation_error", f"a stream item cannot be taken: {why}")
        item = self._item(Lane.DATA, owner, payload, size)
        if not self._waiting and not self._queues.full(Lane.DATA, size):
            self._admit(item)
            return
        await self._wait(item)

    def offer(self, owner: Hashable, payload: Any, size: int) -> bool:
        """Take a Telemetry item if there is room now; else it is dropped and counted. False when it was not taken."""
        if self._closed:
            return False
        result = self._queues.enqueue(self._item(Lane.TELEMETRY, owner, payload, size))
        self._announce(result.signals)
        self._awaken(Lane.TELEMETRY)
        return result.queued

    async def settle(self, owner: Hashable) -> bool:
        """Wait until every Data item of ``owner`` is kept. False when that took too long: the rest is out, and recorded.

        Telemetry that waits is shown, so that nobody's last words come after its end. Raises whatever ``check`` raises
        when the turn is fenced.
        """
        owed = self._owed.get(owner)
        if owed is not None:
            owed.settled = asyncio.get_running_loop().create_future()
            self._hurry.set()
            try:
                async with asyncio.timeout(self._settle_seconds):
                    await owed.settled
            except TimeoutError:
                self.abandon(owner, REASON_BLOCKED)
                return False
        self._check()
        self._show_telemetry()
        return True

    def abandon(self, owner: Hashable, reason: str = REASON_FLUSHED) -> None:
        """Nobody waits for these Data items any more: take out what is queued and record it."""
        if self._owed.pop(owner, None) is None:
            return
        self._announce(self._queues.clear(Lane.DATA, reason, lambda item: _owner(item) == owner))
        self._refill()

    async def _wait(self, item: StreamItem) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._stall(REASON_FULL, f"{MAX_WAITING} emitters wait already")
        self._announce(self._queues.press(Lane.DATA))
        waiter = _Waiter(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._hurry.set()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiter.woken
        except TimeoutError:
            if not waiter.admitted:
                self._stall(REASON_BLOCKED, f"there was no room for {self._wait_seconds:g} s")
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if not waiter.admitted:
            self._check()
            raise ContractError("schema_validation_error", "the turn's streams ended while an item waited")

    def _stall(self, reason: str, why: str) -> None:
        self._announce(self._queues.shed(Lane.DATA, reason=reason).signals)
        raise StreamStalled(reason, why)

    def _item(self, lane: Lane, owner: Hashable, payload: Any, size: int) -> StreamItem:
        sequence = self._sequences[lane]
        self._sequences[lane] += 1
        return StreamItem(
            event_id=f"{lane.short}/{sequence}",
            lane=lane,
            transport_sequence=sequence,
            size=size,
            owner=owner,
            payload=payload,
        )

    def _admit(self, item: StreamItem) -> None:
        self._announce(self._queues.enqueue(item).signals)
        self._owed.setdefault(item.owner, _Owed()).count += 1
        self._awaken(Lane.DATA)

    def _refill(self) -> None:
        """An edge that recovered lets its waiters in, first come first served."""
        if self._queues.saturated(Lane.DATA):
            return
        while self._waiting and not self._queues.full(Lane.DATA, self._waiting[0].item.size):
            waiter = self._waiting.popleft()
            if waiter.woken.done():
                continue  # its emitter was cancelled and has not run since
            self._admit(waiter.item)
            waiter.admitted = True
            waiter.woken.set_result(None)
        if self._waiting:
            self._announce(self._queues.press(Lane.DATA))

    # -- giving out ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Pump until the edges are closed. What ``keep`` and ``show`` raise comes out."""
        while not self._closed:
            await self._work.wait()
            await self._gather()
            await self._round()
            if not any(self._queues.depth(lane) for lane in LANES):
                self._work.clear()

    async def _gather(self) -> None:
        if self._pressed():
            return
        self._hurry.clear()
        try:
            async with asyncio.timeout(self._gather_seconds):
                await self._hurry.wait()
        except TimeoutError:
            return  # that was the longest wait

    def _pressed(self) -> bool:
        """Is there a batch already, or someone who waits for one?"""
        settling = any(owed.settled is not None for owed in self._owed.values())
        return self._closed or bool(self._waiting) or settling or any(map(self._ripe, LANES))

    def _ripe(self, lane: Lane) -> bool:
        return self._queues.depth(lane) >= BATCH_ITEMS or self._queues.bytes_in(lane) >= BATCH_BYTES

    async def _round(self) -> None:
        self._on_change()
        data = self._take(Lane.DATA)
        if data:
            await self._keep(data)
            if not self._closed:
                self._show(data)
            self._pay(data)
        telemetry = self._take(Lane.TELEMETRY)
        if telemetry:
            self._show(telemetry)

    def _take(self, lane: Lane) -> list[StreamItem]:
        batch: list[StreamItem] = []
        size, signals = 0, list[ControlSignal]()
        while len(batch) < BATCH_ITEMS and (head := self._queues.head(lane)) is not None:
            if batch and size + head.size > BATCH_BYTES:
                break
            dispatch = self._queues.dequeue(lane)
            assert dispatch is not None, "head() said so, and nothing ran in between"
            batch.append(_stream_item(dispatch.item))
            size += head.size
            signals += dispatch.signals
        self._announce(signals)
        if lane is Lane.DATA:
            self._refill()
        return batch

    def _pay(self, items: Sequence[StreamItem]) -> None:
        """These are kept: who waited for the last of its own may go on."""
        for item in items:
            owed = self._owed.get(item.owner)
            if owed is not None:
                owed.count -= 1
                if owed.count == 0:
                    del self._owed[item.owner]
                    owed.release()

    # -- ending -------------------------------------------------------------------------------------------------

    def fence(self) -> tuple[ControlSignal, ...]:
        """The turn was stopped: forget what is queued, let everybody go, and return the notices of what was lost."""
        self._close()
        return (
            *(signal for lane in LANES for signal in self._queues.clear(lane, REASON_FLUSHED)),
            *self._queues.flush(),
        )

    def finish(self) -> tuple[ControlSignal, ...]:
        """The turn ended by itself: show the last Telemetry, and return the notices still being collected."""
        if not self._closed:
            self._show_telemetry()
        self._close()
        return self._queues.flush()

    def _show_telemetry(self) -> None:
        while batch := self._take(Lane.TELEMETRY):
            self._show(batch)

    def _close(self) -> None:
        self._closed = True
        waiting, self._waiting = list(self._waiting), deque()
        for waiter in waiting:
            if not waiter.woken.done():
                waiter.woken.set_result(None)
        for owed in self._owed.values():
            owed.release()
        self._owed.clear()
        self._work.set()
        self._hurry.set()

    def _awaken(self, lane: Lane) -> None:
        self._work.set()
        if self._ripe(lane):
            self._hurry.set()

    def _announce(self, signals: Sequence[ControlSignal]) -> None:
        if signals:
            self._on_signals(signals)


def _stream_item(item: LaneItem) -> StreamItem:
    assert isinstance(item, StreamItem), "nothing else is put on these edges"
    return item


def _owner(item: LaneItem) -> Hashable:
    return _stream_item(item).owner
