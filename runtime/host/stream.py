"""The bounded feed from the runtime to its faces.

A slow reader never slows a run. Each kind of event has its own rule: gauges, summaries, verdicts and the inbox keep
only their newest value, live output drops its oldest lines and counts them, and journal entries drop their oldest
too, because the store still has every one of them: a reader that sees a gap in ``seq`` pages the missing ones from
there. Published on the runtime's loop, drained from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from runtime.events.facts import (
    EntryAppended,
    HolderChanged,
    InboxChanged,
    JournalVerified,
    LanesChanged,
    OutputDelta,
    RunChanged,
    StreamEvent,
    StreamGap,
    WatchesChanged,
)

MAX_ENTRIES: Final = 8192
MAX_OUTPUT: Final = 2048
MAX_LATEST: Final = 1024
MAX_SUBSCRIBERS: Final = 64


class Feed:
    """One reader's share of the stream; implements `runtime.host.api.Subscription`."""

    def __init__(self, hub: EventHub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._loop = loop
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._entries: deque[StreamEvent] = deque(maxlen=MAX_ENTRIES)
        self._output: deque[OutputDelta] = deque(maxlen=MAX_OUTPUT)
        self._latest: dict[tuple[str, str], StreamEvent] = {}
        self._dropped = 0
        self._signalled = False

    def push(self, event: StreamEvent) -> None:
        """Take an event in (runtime loop only); never blocks."""
        with self._lock:
            if isinstance(event, EntryAppended):
                self._entries.append(event)
            elif isinstance(event, OutputDelta):
                self._dropped += len(self._output) == MAX_OUTPUT
                self._output.append(event)
            else:
                self._keep_latest(event)
            if self._signalled:
                return
            self._signalled = True
        self._show_state()

    def drain(self, limit: int = 2000) -> Sequence[StreamEvent]:
        """Take what has arrived: entries in order, then output, then the newest gauges and summaries."""
        with self._lock:
            events: list[StreamEvent] = [self._entries.popleft() for _ in range(min(limit, len(self._entries)))]
            room = limit - len(events)
            events.extend(self._output.popleft() for _ in range(min(room, len(self._output))))
            if not self._entries:
                # Summaries wait for the entries they summarise, so that a reader never sees an end before its facts.
                events.extend(self._latest.values())
                self._latest.clear()
            if self._dropped:
                events.append(StreamGap(dropped=self._dropped))
                self._dropped = 0
            if not self._entries and not self._output:
                self._signalled = False
        self._show_state()
        return events

    async def wait(self) -> None:
        await self._wake.wait()

    def close(self) -> None:
        self._hub.forget(self)

    def _show_state(self) -> None:
        """Bring the wake-up in line: at once on the reader's own loop, where a delayed clear would let a reader that
        waits and drains in turn spin without ever yielding; from another thread as a message."""
        if _running_loop() is self._loop:
            self._bring_in_line()
            return
        try:
            self._loop.call_soon_threadsafe(self._bring_in_line)
        except RuntimeError:
            # The reader's loop is closed: nobody can wait any more.
            self.close()

    def _bring_in_line(self) -> None:
        # Reads the state instead of carrying it, so that messages overtaking each other end in the truth.
        with self._lock:
            if self._signalled:
                self._wake.set()
            else:
                self._wake.clear()

    def _keep_latest(self, event: StreamEvent) -> None:
        key = _latest_key(event)
        self._latest.pop(key, None)
        if len(self._latest) >= MAX_LATEST:
            self._latest.pop(next(iter(self._latest)))
        self._latest[key] = event


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _latest_key(event: StreamEvent) -> tuple[str, str]:
    match event:
        case RunChanged():
            return ("run", event.run.run_id)
        case LanesChanged():
            return ("lanes", event.run_id)
        case JournalVerified():
            return ("verified", event.verification.run_id)
        case InboxChanged():
            return ("inbox", "")
        case HolderChanged():
            return ("holder", "")
        case WatchesChanged():
            return ("watches", "")
        case _:
            return (type(event).__name__, "")


class EventHub:
    """Publishes to every feed. Owned by the host; readers come and go."""

    def __init__(self) -> None:
        self._feeds: list[Feed] = []
        self._lock = threading.Lock()

    def subscribe(self, loop: asyncio.AbstractEventLoop) -> Feed:
        """A new feed whose ``wait`` runs on ``loop``. The oldest feed is dropped past the bound."""
        feed = Feed(self, loop)
        with self._lock:
            if len(self._feeds) >= MAX_SUBSCRIBERS:
                self._feeds.pop(0)
            self._feeds.append(feed)
        return feed

    def publish(self, event: StreamEvent) -> None:
        with self._lock:
            feeds = tuple(self._feeds)
        for feed in feeds:
            feed.push(event)

    def forget(self, feed: Feed) -> None:
        with self._lock:
            if feed in self._feeds:
                self._feeds.remove(feed)
