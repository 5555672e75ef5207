"""The feed: bounded, ordered where it must be, and waking its reader exactly when there is something to read."""

from __future__ import annotations

import asyncio
import threading

from runtime.events.facts import (
    EntryAppended,
    HolderChanged,
    InboxChanged,
    OutputDelta,
    RunChanged,
    StreamGap,
)
from runtime.host.hooks import Hooks
from runtime.host.stream import MAX_ENTRIES, MAX_OUTPUT, MAX_SUBSCRIBERS, EventHub
from tests.support.fake_deck import RUN, run_summary


def entry(seq: int) -> EntryAppended:
    return EntryAppended(run_id=RUN, seq=seq, kind="signal", at="", entry_hash="", entry={})


def output(text: str) -> OutputDelta:
    return OutputDelta(run_id=RUN, step_id="a", stream="stdout", text=text)


async def test_entries_come_first_and_summaries_wait_for_them() -> None:
    hub = EventHub()
    feed = hub.subscribe(asyncio.get_running_loop())
    hub.publish(RunChanged(run=run_summary(steps_done=1)))
    hub.publish(output("x"))
    for seq in range(3):
        hub.publish(entry(seq))
    hub.publish(RunChanged(run=run_summary(steps_done=2)))
    assert [getattr(event, "seq", None) for event in feed.drain(2)] == [0, 1]
    third, text, run = feed.drain()
    assert isinstance(third, EntryAppended)
    assert isinstance(text, OutputDelta)
    assert isinstance(run, RunChanged)
    assert run.run.steps_done == 2, "only the newest summary"
    assert feed.drain() == []


async def test_a_slow_reader_loses_oldest_output_and_is_told() -> None:
    hub = EventHub()
    feed = hub.subscribe(asyncio.get_running_loop())
    for number in range(MAX_OUTPUT + 5):
        hub.publish(output(str(number)))
    events = feed.drain(MAX_OUTPUT)
    assert isinstance(events[0], OutputDelta)
    assert events[0].text == "5"
    assert events[-1] == StreamGap(dropped=5)
    for seq in range(MAX_ENTRIES + 5):
        hub.publish(entry(seq))
    first = feed.drain(1)[0]
    assert isinstance(first, EntryAppended)
    assert first.seq == 5, "the store has the others"


async def test_gauges_of_different_kinds_do_not_replace_each_other() -> None:
    hub = EventHub()
    feed = hub.subscribe(asyncio.get_running_loop())
    for event in (InboxChanged(escalations=()), HolderChanged(holder=None, read_only=True)):
        hub.publish(event)
        hub.publish(event)
    assert len(feed.drain()) == 2


async def test_a_reader_that_waits_and_drains_in_turn_yields_and_sees_everything() -> None:
    hub = EventHub()
    feed = hub.subscribe(asyncio.get_running_loop())
    seen: list[int] = []

    async def read() -> None:
        while len(seen) < 100:
            await feed.wait()
            seen.extend(event.seq for event in feed.drain(7) if isinstance(event, EntryAppended))

    reader = asyncio.create_task(read())
    async with asyncio.timeout(10):
        for seq in range(100):
            hub.publish(entry(seq))
            if seq % 9 == 0:
                await asyncio.sleep(0)
        await reader
    assert seen == list(range(100))


async def test_no_wake_up_is_lost_between_threads() -> None:
    """Published here, drained by another thread, waited for here: the wake-up must survive every interleaving."""
    hub = EventHub()
    feed = hub.subscribe(asyncio.get_running_loop())
    seen: list[int] = []
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            seen.extend(event.seq for event in feed.drain(3) if isinstance(event, EntryAppended))

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        for seq in range(300):
            hub.publish(entry(seq))
            if seq % 3 == 0:
                await asyncio.sleep(0)
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
    seen.extend(event.seq for event in feed.drain() if isinstance(event, EntryAppended))
    assert seen == list(range(300))
    await asyncio.sleep(0)
    hub.publish(entry(300))
    async with asyncio.timeout(5):
        await feed.wait()
    assert len(feed.drain()) == 1


async def test_closed_and_crowded_out_feeds_get_nothing_more() -> None:
    hub = EventHub()
    loop = asyncio.get_running_loop()
    feeds = [hub.subscribe(loop) for _ in range(MAX_SUBSCRIBERS + 1)]
    feeds[1].close()
    feeds[1].close()
    hub.publish(entry(0))
    assert [len(feed.drain()) for feed in feeds[:3]] == [0, 0, 1]


def test_a_feed_whose_loop_is_closed_is_forgotten() -> None:
    hub = EventHub()
    loop = asyncio.new_event_loop()
    feed = hub.subscribe(loop)
    loop.close()
    hub.publish(entry(0))
    hub.publish(entry(1))
    assert len(feed.drain()) == 1, "what had arrived can still be read"


def test_entries_of_an_end_are_shown_only_when_it_is_durable() -> None:
    hooks, counted, shown = Hooks(), [], []
    hooks.on_entry, hooks.on_shown = counted.append, shown.append
    hooks.entry({"seq": 0})
    hooks.hold()
    hooks.entry({"seq": 1})
    assert (len(counted), len(shown)) == (2, 1)
    hooks.show()
    assert [item["seq"] for item in shown] == [0, 1]
