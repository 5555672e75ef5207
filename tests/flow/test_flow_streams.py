"""The stream edges: Data waits and is never lost in silence, Telemetry drops and says so, a fence lets everybody go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal, Lane, SeqRange
from runtime.flow.lanes import NOTICE_EVERY, LaneItem, LaneLimits, LaneQueues
from runtime.flow.streams import LANES, PREFIX, StreamEdges, StreamItem, StreamStalled
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError, Halted
from tests.support.hosting import PATIENCE, until

LIMITS = LaneLimits(8, 6, 3, 1000)


def queues(limits: LaneLimits = LIMITS) -> LaneQueues:
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock())
    return LaneQueues(emitter, turn_id="t", limits=dict.fromkeys(LANES, limits), edge_prefix=PREFIX)


class Port:
    """Where items are delivered. ``open`` is the disk: while it is not set, nothing is kept."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.kept: list[object] = []
        self.shown: list[object] = []
        self.batches: list[int] = []

    async def keep(self, items: Sequence[StreamItem]) -> None:
        self.batches.append(len(items))
        await self.open.wait()
        self.kept += [item.payload for item in items]

    def show(self, items: Sequence[StreamItem]) -> None:
        self.shown += [item.payload for item in items]


class Bench:
    """Two edges, their port, and everything they said."""

    def __init__(self, limits: LaneLimits = LIMITS, *, wait: float = PATIENCE, settle: float = PATIENCE) -> None:
        self.port = Port()
        self.signals: list[ControlSignal] = []
        self.fenced = False
        self.looks = 0
        self.edges = StreamEdges(
            queues(limits),
            keep=self.port.keep,
            show=self.port.show,
            check=self._check,
            wait_seconds=wait,
            settle_seconds=settle,
            gather_seconds=0.0,
            on_signals=self.signals.extend,
            on_change=self._looked,
        )

    def fence(self) -> tuple[ControlSignal, ...]:
        self.fenced = True
        return self.edges.fence()

    def said(self, lane: Lane) -> list[str]:
        return [signal.signal for signal in self.signals if signal.target_lane is lane]

    def depth(self, lane: Lane) -> int:
        return next(state.depth for state in self.edges.states() if state.lane == lane.value)

    def _check(self) -> None:
        if self.fenced:
            raise Halted("OP_CANCELLED")

    def _looked(self) -> None:
        self.looks += 1


@asynccontextmanager
async def pumping(bench: Bench) -> AsyncIterator[None]:
    pump = asyncio.create_task(bench.edges.run())
    try:
        yield
    finally:
        pump.cancel()
        await asyncio.wait({pump})
        if not pump.cancelled():
            pump.result()


# -- bounds and notices, without a loop -------------------------------------------------------------------------------


def test_bytes_bound_an_edge_and_count_for_its_watermarks() -> None:
    lanes = queues(LaneLimits(100, 60, 20, 1000))

    def put(size: int) -> list[str]:
        item = LaneItem(event_id="e", lane=Lane.DATA, size=size)
        return [signal.signal for signal in lanes.enqueue(item).signals]

    assert put(500) == []
    assert put(201) == ["watermark", "flow_xoff"], "70 % of the bytes is past a high mark of 60 %"
    assert lanes.full(Lane.DATA, 300)
    assert not lanes.full(Lane.DATA, 299)
    assert put(300) == ["shed"]
    assert (lanes.depth(Lane.DATA), lanes.bytes_in(Lane.DATA)) == (2, 701)
    recovered = [[signal.signal for signal in dispatch.signals] for _ in range(2) if (dispatch := lanes.dequeue())]
    assert recovered == [[], ["flow_xon"]], "one item waits, but it is more than 20 % of the bytes"


#: Sizes of arriving items, and departures (None) too rarely to keep up.
SIZES = st.integers(1, 300)
TRAFFIC = st.lists(st.one_of(SIZES, SIZES, SIZES, st.none()), min_size=20, max_size=200)


@given(TRAFFIC, st.booleans())
def test_notices_tell_every_drop_once_and_nothing_else(traffic: list[int | None], fenced: bool) -> None:
    lanes = queues(LaneLimits(5, 4, 1, 1000))
    signals: list[ControlSignal] = []
    dropped = set[int]()
    for sequence, size in enumerate(traffic):
        if size is None:
            signals += getattr(lanes.dequeue(), "signals", ())
            continue
        item = LaneItem(event_id=f"e{sequence}", lane=Lane.TELEMETRY, transport_sequence=sequence, size=size)
        result = lanes.enqueue(item)
        signals += result.signals
        if not result.queued:
            dropped.add(sequence)
        assert lanes.depth(Lane.TELEMETRY) <= 5
        assert lanes.bytes_in(Lane.TELEMETRY) <= 1000
    waiting = lanes.depth(Lane.TELEMETRY)
    signals += (*(lanes.clear(Lane.TELEMETRY, "cancel_flush") if fenced else ()), *lanes.flush())
    notices = [item for item in signals if item.signal == "drop_notice"]
    told: list[int] = []
    for notice in notices:
        assert notice.seq_range is not None
        if notice.reason == "cancel_flush":
            assert notice is notices[-1]
            assert notice.amount == waiting
            continue
        span = range(notice.seq_range.start, notice.seq_range.end + 1)
        # Some sequences are no item at all: a range must not claim them either.
        assert notice.amount == len(span) <= NOTICE_EVERY
        told += span
    assert sorted(told) == sorted(dropped)
    assert len(told) == len(set(told))
    assert (notices[-1:] and notices[-1].reason == "cancel_flush") == bool(fenced and waiting) or not notices


@given(TRAFFIC)
def test_pressure_and_relief_alternate_whatever_measure_causes_them(traffic: list[int | None]) -> None:
    lanes = queues(LaneLimits(5, 4, 1, 1000))
    words: list[str] = []
    for number, size in enumerate(traffic):
        signals = (
            lanes.enqueue(LaneItem(event_id=f"e{number}", lane=Lane.DATA, size=size)).signals
            if size is not None
            else getattr(lanes.dequeue(), "signals", ())
        )
        words += [signal.signal for signal in signals if signal.signal in ("flow_xoff", "flow_xon")]
    assert all(word == ("flow_xoff", "flow_xon")[index % 2] for index, word in enumerate(words))


# -- the pump ---------------------------------------------------------------------------------------------------------


async def test_data_is_kept_and_then_shown_in_order_and_telemetry_is_shown() -> None:
    bench = Bench()
    async with pumping(bench):
        for number in range(20):
            await bench.edges.send("a", number, 10)
            bench.edges.offer("a", f"t{number}", 10)
        assert await bench.edges.settle("a")
        assert bench.port.kept == list(range(20))
        await until(lambda: bench.depth(Lane.TELEMETRY) == 0 or None)
    assert [item for item in bench.port.shown if isinstance(item, int)] == list(range(20))
    data, telemetry = bench.edges.states()
    assert (data.lane, data.dispatched, data.dropped, data.running) == ("DataLane", 20, 0, 0)
    assert telemetry.dispatched + telemetry.dropped == 20
    assert bench.looks > 0


async def test_producers_feel_a_slow_disk_and_nothing_is_lost() -> None:
    bench = Bench()
    bench.port.open.clear()

    async def produce(name: str) -> None:
        for number in range(100):
            await bench.edges.send(name, (name, number), 10)

    async with pumping(bench):
        producers = [asyncio.create_task(produce(name)) for name in "abc"]
        await until(lambda: (bench.port.batches and len(bench.edges._waiting) == 3) or None)
        assert all(not task.done() for task in producers)
        assert bench.depth(Lane.DATA) == LIMITS.limit
        assert bench.said(Lane.DATA)[-1] == "flow_xoff"
        assert len(bench.port.batches) == 1, "the next batch waits for the disk too"
        bench.port.open.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*producers)
            for name in "abc":
                assert await bench.edges.settle(name)
    for name in "abc":
        assert [item for item in bench.port.kept if item[0] == name] == [(name, number) for number in range(100)]  # type: ignore[index]
    words = [word for word in bench.said(Lane.DATA) if word.startswith("flow")]
    assert words[::2] == ["flow_xoff"] * (len(words) // 2)
    assert words[1::2] == ["flow_xon"] * (len(words) // 2)
    assert len(words) > 2, "pressure came in waves"
    assert "shed" not in bench.said(Lane.DATA)


async def test_batches_are_bounded_in_items_and_bytes() -> None:
    bench = Bench(LaneLimits(1024, 768, 384, 1 << 20))
    for number in range(600):
        await bench.edges.send("a", number, 1)
    for number in range(3):
        await bench.edges.send("a", number, 40_000)
    async with pumping(bench):
        await bench.edges.settle("a")
    assert bench.port.batches == [256, 256, 89, 1, 1]


async def test_an_emitter_that_waits_too_long_fails_and_that_is_recorded() -> None:
    bench = Bench(wait=0.01)
    bench.port.open.clear()
    async with pumping(bench):
        await bench.edges.send("a", "in flight", 10)
        await until(lambda: bench.port.batches or None)
        for number in range(LIMITS.limit):
            await bench.edges.send("a", number, 10)
        with pytest.raises(StreamStalled) as caught:
            await asyncio.wait_for(bench.edges.send("a", "too much", 10), PATIENCE)
        assert caught.value.code == "max_block_time_exceeded"
        sheds = [signal for signal in bench.signals if signal.signal == "shed"]
        assert [(signal.reason, signal.edge_id) for signal in sheds] == [("max_block_time_exceeded", "stream/data")]
        assert bench.edges.states()[0].dropped == 1
        bench.port.open.set()
        assert await bench.edges.settle("a")
    assert bench.port.kept == ["in flight", *range(LIMITS.limit)], "what was taken before is kept all the same"


async def test_a_step_whose_items_nobody_keeps_in_time_is_told_so() -> None:
    bench = Bench(settle=0.01)
    bench.port.open.clear()
    async with pumping(bench):
        await bench.edges.send("a", "in flight", 10)
        await until(lambda: bench.port.batches or None)
        for number in range(3):
            await bench.edges.send("a", number, 10)
            await bench.edges.send("b", number, 10)
        assert not await bench.edges.settle("a")
        (told,) = [signal for signal in bench.signals if signal.signal == "drop_notice"]
        assert (told.reason, told.amount, told.seq_range) == ("max_block_time_exceeded", 3, SeqRange(1, 5))
        assert bench.depth(Lane.DATA) == 3, "another step's items stay"
        bench.port.open.set()
        async with asyncio.timeout(PATIENCE):
            assert await bench.edges.settle("b")
    assert bench.port.kept == ["in flight", 0, 1, 2]


async def test_full_telemetry_drops_at_once_with_a_notice_and_delays_no_data() -> None:
    bench = Bench()
    taken = [bench.edges.offer("a", number, 10) for number in range(12)]
    assert taken == [True] * 8 + [False] * 4
    await bench.edges.send("a", "data", 10)
    async with pumping(bench):
        await bench.edges.settle("a")
        await until(lambda: bench.depth(Lane.TELEMETRY) == 0 or None)
    assert bench.port.shown[0] == "data"
    notice = next(signal for signal in bench.signals if signal.signal == "drop_notice")
    assert (notice.seq_range, notice.amount, notice.edge_id) == (SeqRange(8, 11), 4, "stream/telemetry")
    assert bench.said(Lane.TELEMETRY) == ["watermark", "flow_xoff", "drop_notice", "flow_xon"]


async def test_a_fence_releases_emitters_and_steps_and_flushes_with_one_notice_each() -> None:
    bench = Bench()
    bench.port.open.clear()

    async def produce() -> None:
        while True:
            await bench.edges.send("a", 0, 10)

    async with pumping(bench):
        producers = [asyncio.create_task(produce()) for _ in range(3)]
        await until(lambda: len(bench.edges._waiting) == 3 or None)
        settling = asyncio.create_task(bench.edges.settle("a"))
        for number in range(10):
            bench.edges.offer("a", number, 10)
        await asyncio.sleep(0)
        flushed = bench.fence()
        assert [(item.signal, item.reason, item.target_lane) for item in flushed] == [
            ("drop_notice", "cancel_flush", Lane.DATA),
            ("flow_xon", None, Lane.DATA),
            ("drop_notice", "telemetry_best_effort_drop", Lane.TELEMETRY),
            ("drop_notice", "cancel_flush", Lane.TELEMETRY),
            ("flow_xon", None, Lane.TELEMETRY),
        ]
        assert flushed[0].amount == 8
        for task in (*producers, settling):
            with pytest.raises(Halted):
                await asyncio.wait_for(task, PATIENCE)
        assert not bench.edges.offer("a", "late", 1)
        with pytest.raises(Halted):
            await bench.edges.send("a", "late", 1)
        bench.port.open.set()
        await until(lambda: bench.port.kept or None)
    assert bench.port.shown == [], "nothing is shown after a fence, not even what was being kept"
    assert bench.edges.fence() == (), "a second fence has nothing to tell"


async def test_an_attempt_that_was_cut_short_leaves_nothing_queued_and_says_so() -> None:
    bench = Bench()
    for number in range(3):
        await bench.edges.send("a", number, 10)
        await bench.edges.send("b", number, 10)
    bench.edges.abandon("a")
    bench.edges.abandon("a")
    bench.edges.abandon("nobody")
    assert [(item.signal, item.reason, item.amount) for item in bench.signals if item.signal == "drop_notice"] == [
        ("drop_notice", "cancel_flush", 3)
    ]
    async with pumping(bench):
        await bench.edges.settle("b")
    assert bench.port.kept == [0, 1, 2]


async def test_a_steps_last_telemetry_is_shown_before_its_end() -> None:
    bench = Bench()
    bench.edges.offer("a", "last words", 10)
    await bench.edges.settle("a")
    assert bench.port.shown == ["last words"]


async def test_the_end_shows_the_last_telemetry_and_tells_of_the_last_drops() -> None:
    bench = Bench()
    for number in range(10):
        bench.edges.offer("a", number, 10)
    assert bench.edges.finish() == (), "recovery told already"
    assert bench.port.shown == list(range(8))
    assert [signal.signal for signal in bench.signals][-2:] == ["drop_notice", "flow_xon"]
    with pytest.raises(ContractError):
        await bench.edges.send("a", 0, 1)


async def test_a_cancelled_emitter_leaves_no_trace_and_the_next_ones_go_on() -> None:
    bench = Bench()
    bench.port.open.clear()
    async with pumping(bench):
        for number in range(LIMITS.limit):
            await bench.edges.send("a", number, 10)
        await until(lambda: bench.port.batches or None)
        while bench.depth(Lane.DATA) < LIMITS.limit:
            await bench.edges.send("a", "more", 10)
        lost, going = (asyncio.create_task(bench.edges.send(name, name, 10)) for name in ("lost", "going"))
        await until(lambda: len(bench.edges._waiting) == 2 or None)
        lost.cancel()
        await asyncio.wait({lost})
        bench.port.open.set()
        await asyncio.wait_for(going, PATIENCE)
        await bench.edges.settle("going")
    assert "going" in bench.port.kept
    assert "lost" not in bench.port.kept


async def test_a_delivery_that_fails_comes_out_of_the_pump() -> None:
    bench = Bench()

    async def broken(items: Sequence[StreamItem]) -> None:
        raise OSError("the disk is gone")

    bench.edges._keep = broken
    await bench.edges.send("a", 0, 1)
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(bench.edges.run(), PATIENCE)


async def test_what_waits_does_not_grow_with_what_is_emitted() -> None:
    bench = Bench(LaneLimits(64, 48, 24, 4096))
    deepest = 0

    async def produce(name: str) -> None:
        nonlocal deepest
        for number in range(2_000):
            await bench.edges.send(name, number, 64)
            bench.edges.offer(name, number, 64)
            deepest = max(deepest, *(state.depth for state in bench.edges.states()))

    async with pumping(bench):
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*map(produce, "abcd"))
            for name in "abcd":
                await bench.edges.settle(name)
        assert deepest <= 64
        assert (len(bench.edges._waiting), len(bench.edges._owed)) == (0, 0)
    assert len(bench.port.kept) == 8_000
