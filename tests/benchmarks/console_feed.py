"""How the console holds up under a busy runtime: 5,000 events a second on a run with its dashboard open.

Prints one JSON line: latency from a key to the paint that shows it, how late the interface's loop runs, and how often
it redraws. Events come from a thread of their own through the real bounded feed, as they do from the runtime.
Run it with ``PYTHONPATH=tests python tests/benchmarks/console_feed.py [seconds] [events per second]``; it is not part
of the suite.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from support.fake_deck import AT, NODES, RUN, FakeDeck, entry, lanes, mission, run_summary
from textual.events import Key

from console.app import ConsoleApp
from console.screens.run import RunScreen
from runtime.events.facts import LanesChanged, OutputDelta, RunChanged
from runtime.host.stream import EventHub, Feed

BATCH_SECONDS = 0.01
KEY_SECONDS = 0.15
LAG_SECONDS = 0.01
PAINT_LIMIT = 2.0
STEP = {"step_id": "red", "operation_type": "run_tests", "status": "running", "attempt": 1, "started_at": AT}


class BusyDeck(FakeDeck):
    """A deck whose feed is the real one, filled by another thread."""

    def __init__(self) -> None:
        super().__init__(missions_list=[mission()], runs_list=[run_summary()], nodes_list=NODES)
        self.hub = EventHub()
        self.loop = asyncio.new_event_loop()
        self.published = 0
        self.stop = threading.Event()

    def subscribe(self) -> Feed:  # type: ignore[override]
        return self.hub.subscribe(self.loop)

    def serve(self, per_second: int) -> None:
        """Half entries, half output, gauges and a summary with every batch."""
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        started, seq = time.perf_counter(), 0
        while not self.stop.is_set():
            due = int((time.perf_counter() - started) * per_second)
            while self.published < due:
                for kind, members in (("step_started", STEP), ("step_finished", {**STEP, "status": "completed"})):
                    self.hub.publish(entry(seq, kind, **members))
                    seq += 1
                for _ in range(2):
                    self.hub.publish(OutputDelta(run_id=RUN, step_id="red", stream="stdout", text=f"line {seq}\n"))
                self.published += 4
            self.hub.publish(LanesChanged(run_id=RUN, lanes=lanes(seq % 9), pool_running=seq % 8, pool_slots=8))
            self.hub.publish(RunChanged(run=run_summary(entries=seq)))
            self.stop.wait(BATCH_SECONDS)


async def measure(seconds: float, per_second: int) -> dict[str, Any]:
    deck = BusyDeck()
    app = ConsoleApp(deck)
    painted = asyncio.Event()
    async with app.run_test(size=(180, 50)) as pilot:
        app.open_run(RUN)
        while not isinstance(app.screen, RunScreen):
            await pilot.pause(0.05)
        await pilot.pause(0.5)
        paints = watch_paints(app, painted)
        busy = threading.Thread(target=deck.serve, args=(per_second,), daemon=True)
        before, cpu = app.repaints, time.process_time()
        busy.start()
        started = time.perf_counter()
        lag, keys = await asyncio.gather(loop_lag(seconds), key_to_paint(app, painted, seconds))
        elapsed = time.perf_counter() - started
        deck.stop.set()
        busy.join()
        folded = app.opened.last_seq + 1 if app.opened is not None else 0
        return {
            "events_per_second": round(deck.published / elapsed),
            "entries_folded": folded,
            "key_to_paint_ms_p50": round(statistics.median(keys), 1),
            "key_to_paint_ms_p95": round(sorted(keys)[int(len(keys) * 0.95)], 1),
            "loop_lag_ms_p50": round(statistics.median(lag), 1),
            "loop_lag_ms_max": round(max(lag), 1),
            "redraws_per_second": round((app.repaints - before) / elapsed, 1),
            "paints_per_second": round(len(paints) / elapsed, 1),
            "cpu_percent": round(100 * (time.process_time() - cpu) / elapsed),
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def watch_paints(app: ConsoleApp, painted: asyncio.Event) -> list[float]:
    """Record every frame the application hands to the terminal."""
    paints: list[float] = []
    display: Callable[..., None] = app._display

    def noted(*args: Any, **kwargs: Any) -> None:
        display(*args, **kwargs)
        paints.append(time.perf_counter())
        painted.set()

    app._display = noted  # type: ignore[method-assign]
    return paints


async def loop_lag(seconds: float) -> list[float]:
    """How much later than asked a short sleep ends, in milliseconds."""
    found, end = [], time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        await asyncio.sleep(LAG_SECONDS)
        found.append(max(0.0, (time.perf_counter() - now - LAG_SECONDS) * 1000))
    return found


async def key_to_paint(app: ConsoleApp, painted: asyncio.Event, seconds: float) -> list[float]:
    """From pressing k or j in the journal panel to the frame after the cursor moved, in milliseconds."""
    found, end, up = [], time.perf_counter() + seconds, True
    panel = app.screen.query_one("#steps")
    panel.focus()
    while time.perf_counter() < end:
        await asyncio.sleep(KEY_SECONDS)
        before, pressed = panel.cursor, time.perf_counter()  # type: ignore[attr-defined]
        key = "j" if up else "k"
        up = not up
        app.post_message(Key(key, key))
        while time.perf_counter() - pressed < PAINT_LIMIT:
            painted.clear()
            await painted.wait()
            if panel.cursor != before:  # type: ignore[attr-defined]
                break
        found.append((time.perf_counter() - pressed) * 1000)
    return found


if __name__ == "__main__":
    seconds, per_second = (*sys.argv[1:], *("10", "5000")[len(sys.argv) - 1 :])
    print(json.dumps(asyncio.run(measure(float(seconds), int(per_second)))))
