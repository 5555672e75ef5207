"""Time, injected everywhere. The only module that reads the system's clocks.

Ordering never uses these values: sequences order, timestamps describe.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the runtime may know about time."""

    def now(self) -> datetime:
        """Wall-clock time in UTC; metadata only."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin, never going back; used for durations and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of this clock's time."""
        ...


def timestamp(moment: datetime) -> str:
    """Format as ``YYYY-MM-DDThh:mm:ss.ffffffZ``: always six digits, always UTC."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:-6] + "Z"  # without +00:00


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told; sleepers wake as `advance` passes their deadline."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._elapsed + seconds, waiter))
        await waiter

    def advance(self, seconds: float) -> None:
        """Move time forward and wake every sleeper whose deadline has passed."""
        self._elapsed += seconds
        due = sorted((pair for pair in self._sleepers if pair[0] <= self._elapsed), key=lambda pair: pair[0])
        self._sleepers = [pair for pair in self._sleepers if pair[0] > self._elapsed]
        for _, waiter in due:
            if not waiter.done():
                waiter.set_result(None)
