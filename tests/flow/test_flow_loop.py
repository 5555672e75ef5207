"""The dispatch loop: control first, lane order, slots, waiting instead of shedding, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal, Lane
from runtime.flow.lanes import EnqueueStatus, LaneItem, LaneLimits, LaneQueues
from runtime.flow.loop import MAX_WAITING, LaneLoop
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    slots: int = 1, *, limits: dict[Lane, LaneLimits] | None = None, room: Callable[[], bool] = lambda: True
) -> AsyncIterator[tuple[LaneLoop, list[str]]]:
    signals: list[str] = []

    def heard(batch: object) -> None:
        assert isinstance(batch, tuple)
        signals.extend(signal.signal for signal in batch if isinstance(signal, ControlSignal))

    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock())
    loop = LaneLoop(LaneQueues(emitter, turn_id="t", limits=limits), slots=slots, room=room, on_signals=heard)
    task = asyncio.create_task(loop.run())
    try:
        yield loop, signals
    finally:
        loop.close()
        await task


class Work:
    """Attempts that say when they start and end when told."""

    def __init__(self, loop: LaneLoop) -> None:
        self.loop = loop
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[str]] = {}

    def ask(self, name: str, lane: Lane = Lane.DATA) -> None:
        self.ends[name] = asyncio.Event()

        async def work() -> str:
            self.started.append(name)
            await self.ends[name].wait()
            return name

        item = LaneItem(event_id=name, lane=lane)
        self.tasks[name] = asyncio.create_task(self.loop.perform(item, work))

    async def end(self, name: str) -> str:
        self.ends[name].set()
        result = await self.tasks[name]
        await settle()
        return result


async def test_all_ready_attempts_queue_before_the_first_goes_and_control_goes_first() -> None:
    async with serving() as (loop, _):
        work = Work(loop)
        for name, lane in [("d1", Lane.DATA), ("d2", Lane.DATA), ("c1", Lane.CONTROL)]:
            work.ask(name, lane)
        await settle()
        assert work.started == ["c1"]
        assert await work.end("c1") == "c1"
        assert await work.end("d1") == "d1"
        await work.end("d2")
        assert work.started == ["c1", "d1", "d2"]


async def test_slots_bound_what_runs_and_a_later_control_attempt_overtakes_waiting_data() -> None:
    async with serving(2) as (loop, _):
        work = Work(loop)
        for n in range(4):
            work.ask(f"d{n}")
        await settle()
        assert (work.started, loop.running) == (["d0", "d1"], 2)
        work.ask("c", Lane.CONTROL)
        await settle()
        await work.end("d0")
        assert work.started[-1] == "c"
        for name in ("c", "d1", "d2", "d3"):
            await work.end(name)
        assert loop.running == 0


async def test_an_intent_is_handled_before_anything_else_goes() -> None:
    async with serving() as (loop, _):
        work = Work(loop)
        order: list[str] = []
        work.ask("d1")
        await asyncio.sleep(0)
        loop.control(lambda: order.append(f"cancel before {work.started}"))
        await settle()
        assert order == ["cancel before []"]
        assert work.started == ["d1"]
        await work.end("d1")


async def test_intents_of_one_key_coalesce_and_a_flood_of_others_is_a_fault() -> None:
    async with serving() as (loop, _):
        hits: list[int] = []
        for n in range(MAX_WAITING * 3):
            loop.control(lambda n=n: hits.append(n), key="turn t")  # type: ignore[misc]
        await settle()
        assert hits == [0]
        for n in range(MAX_WAITING):
            loop.control(lambda: None, key=n)
        loop.control(lambda: None, key=0)
        with pytest.raises(ContractError, match="control_lane_overflow"):
            loop.control(lambda: None)


async def test_a_full_lane_makes_attempts_wait_and_none_is_lost() -> None:
    async with serving(limits={Lane.DATA: LaneLimits(2, 2, 1)}) as (loop, signals):
        work = Work(loop)
        for n in range(20):
            work.ask(f"d{n:02}")
        await settle()
        assert loop.queues.depth(Lane.DATA) == 2
        for n in range(20):
            await work.end(f"d{n:02}")
        assert work.started == sorted(work.started)
        assert len(work.started) == 20
        assert "shed" not in signals


async def test_waiting_for_a_worker_of_the_shared_pool() -> None:
    free = False
    async with serving(4, room=lambda: free) as (loop, _):
        work = Work(loop)
        work.ask("d")
        await settle()
        assert work.started == []
        free = True
        loop.wake()
        await settle()
        assert work.started == ["d"]
        await work.end("d")


@pytest.mark.parametrize("stage", ["waiting", "queued", "running"])
async def test_cancelling_an_asker_gives_its_place_back(stage: str) -> None:
    async with serving(limits={Lane.DATA: LaneLimits(1, 1, 0)}) as (loop, _):
        work = Work(loop)
        for name in ("running", "queued", "waiting", "last"):
            work.ask(name)
        await settle()
        work.tasks[stage].cancel()
        await settle()
        assert work.tasks[stage].cancelled()
        for name in ("running", "queued", "waiting", "last"):
            if name != stage:
                await work.end(name)
        assert work.started[-1] == "last"
        assert loop.running == 0
        assert loop.queues.depth(Lane.DATA) == 0


async def test_a_slot_granted_in_the_step_of_the_cancel_is_handed_back() -> None:
    async with serving() as (loop, _):
        work = Work(loop)
        work.ask("first")
        await settle()
        work.ask("second")
        await settle()
        work.ends["first"].set()
        # Cancel at every possible step of the grant; the loop must stay usable each time.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.tasks["second"].cancel()
        await settle()
        work.ask("third")
        await settle()
        assert "third" in work.started
        await work.end("third")
        assert loop.running == 0


@pytest.mark.parametrize("steps", range(8))
async def test_no_step_of_a_cancel_loses_a_slot(steps: int) -> None:
    async with serving() as (loop, _):
        work = Work(loop)
        work.ask("a")
        for _ in range(steps):
            await asyncio.sleep(0)
        work.tasks["a"].cancel()
        await settle()
        work.ask("b")
        await settle()
        assert work.started[-1] == "b"
        await work.end("b")
        assert loop.running == 0


async def test_exceptions_reach_the_asker_and_free_the_slot() -> None:
    async def broken() -> None:
        raise ValueError("broken block")

    async with serving() as (loop, _):
        with pytest.raises(ValueError, match="broken block"):
            await loop.perform(LaneItem(event_id="x", lane=Lane.DATA), broken)
        assert loop.running == 0


async def test_posted_items_run_in_lane_order_without_a_slot_and_may_be_dropped() -> None:
    ran: list[str] = []
    async with serving(limits={Lane.TELEMETRY: LaneLimits(1, 1, 0)}) as (loop, _):
        first = loop.post(LaneItem(event_id="t1", lane=Lane.TELEMETRY, action=lambda: ran.append("t1")))
        second = loop.post(LaneItem(event_id="t2", lane=Lane.TELEMETRY, action=lambda: ran.append("t2")))
        assert first.queued
        assert second.status is EnqueueStatus.DROPPED
        await settle()
        assert ran == ["t1"]
        with pytest.raises(ContractError):
            loop.post(LaneItem(event_id="t3", lane=Lane.TELEMETRY))
        with pytest.raises(ContractError):
            async with loop.slot(LaneItem(event_id="t4", lane=Lane.TELEMETRY)):
                pass


async def test_closing_cancels_those_who_wait_and_refuses_new_ones() -> None:
    async with serving(limits={Lane.DATA: LaneLimits(1, 1, 0)}) as (loop, _):
        work = Work(loop)
        for name in ("running", "queued", "waiting"):
            work.ask(name)
        await settle()
    await settle()
    assert work.tasks["queued"].cancelled()
    assert work.tasks["waiting"].cancelled()
    assert await work.end("running") == "running"
    with pytest.raises(ContractError):
        await loop.perform(LaneItem(event_id="x", lane=Lane.DATA), asyncio.Event().wait)


async def test_a_soak_faster_than_its_consumer_keeps_every_queue_flat() -> None:
    deepest = 0
    async with serving(4, limits={Lane.DATA: LaneLimits(8, 4, 2)}) as (loop, _):

        async def work() -> None:
            nonlocal deepest
            deepest = max(deepest, loop.queues.depth(Lane.DATA))
            await asyncio.sleep(0)

        items = [LaneItem(event_id=f"e{n}", lane=Lane.DATA) for n in range(500)]
        await asyncio.gather(*(loop.perform(item, work) for item in items))
        state = loop.queues.states()[1]
        assert (state.dispatched, state.dropped, state.running, state.depth) == (500, 0, 0, 0)
    assert deepest <= 8
