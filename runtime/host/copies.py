"""Checkpoints on their way to the places outside the store that remember them.

Each sink has a task and a slot per journal: the newest checkpoint wins, and whoever makes checkpoints never waits. A
sink in trouble gets its checkpoint again with the next one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from runtime.host.sinks.port import Continues, Offer, Sink
from runtime.kernel.errors import QuarterdeckError, Refused

#: How long one offer may take, in seconds.
OFFER_SECONDS: Final = 10.0
#: How long closing waits for the last offers, in seconds.
LAST_OFFERS_SECONDS: Final = 10.0
#: Hears of a sink's name, a journal, and why its checkpoint was not taken.
Trouble = Callable[[str, str, QuarterdeckError], Awaitable[None]]
#: Journals that wait for one sink; beyond them the oldest is given up.
MAX_WAITING: Final = 256


class Copies:
    """The checkpoints of one store on their way to all its sinks."""

    def __init__(self, sinks: Sequence[Sink], trouble: Trouble) -> None:
        self._boxes = [_Box(sink, trouble) for sink in sinks]

    @property
    def any(self) -> bool:
        """Is there any sink?"""
        return bool(self._boxes)

    def offer(self, journal_id: str, offer: Offer, continues: Continues) -> None:
        """Hand a checkpoint that is on disk to every sink, in its own time."""
        for box in self._boxes:
            box.put(journal_id, offer, continues)

    async def close(self) -> None:
        """Wait for what is under way, within limits; then stop."""
        waiting = {box.task for box in self._boxes if box.task is not None}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=LAST_OFFERS_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


class _Box:
    """What waits for one sink. ``task`` lives while there is something to offer."""

    def __init__(self, sink: Sink, trouble: Trouble) -> None:
        self._sink = sink
        self._trouble = trouble
        self._waiting: OrderedDict[str, tuple[Offer, Continues]] = OrderedDict()
        self._failed: dict[str, tuple[Offer, Continues]] = {}
        self.task: asyncio.Task[None] | None = None

    def put(self, journal_id: str, offer: Offer, continues: Continues) -> None:
        for name, item in {**self._failed, journal_id: (offer, continues)}.items():
            self._waiting[name] = item
        self._failed.clear()
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._deliver(), name=f"sink-{self._sink.name}")

    async def _deliver(self) -> None:
        while self._waiting:
            journal_id, item = self._waiting.popitem(last=False)
            error = await self._offered(*item)
            if error is None:
                continue
            await self._trouble(self._sink.name, journal_id, error)
            # For the next time, unless a newer one waits already; what it refused it would refuse again.
            if error.code != "SINK_BACKWARDS" and journal_id not in self._waiting:
                self._failed[journal_id] = item

    async def _offered(self, offer: Offer, continues: Continues) -> QuarterdeckError | None:
        """Why it did not take the checkpoint; None when it did."""
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._sink.offer(offer, continues)
        except QuarterdeckError as error:
            return error
        except TimeoutError:
            return Refused("SINK_TROUBLE", f"it took longer than {OFFER_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001 - a fault in one sink costs its copy, not the other ones
            return Refused("SINK_TROUBLE", f"{type(error).__name__}: {error}")
        return None
