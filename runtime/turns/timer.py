"""Time budgets that count active time only: not while paused, and not while solely waiting for a human.

The arithmetic is pure over the injected clock; `wait_exhausted` is the only part that waits. Child budgets are
clipped to what is left of their parent (rulings R27, R32).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.kernel.clock import Clock
from runtime.kernel.errors import ContractError


def clipped(own_seconds: float | None, remaining_seconds: float | None) -> float | None:
    """The budget of a child: the smaller of its own and its parent's remainder; None means no limit."""
    given = [value for value in (own_seconds, remaining_seconds) if value is not None]
    return min(given) if given else None


class ActiveTimer:
    """Counts up while nothing holds it. ``limit_seconds`` None never runs out; ``spent`` carries over a resume.

    The limit is one of all active time, or of that since `begin_anew`: a recurring run has it once per tick.
    """

    def __init__(self, clock: Clock, *, limit_seconds: float | None = None, spent: float = 0.0) -> None:
        if spent < 0 or (limit_seconds is not None and limit_seconds <= 0):
            raise ContractError("schema_validation_error", f"bad timer: limit {limit_seconds}, spent {spent}")
        self._clock = clock
        self._limit = limit_seconds
        self._spent = spent
        self._before = 0.0  # what no longer counts against the limit
        self._since: float | None = clock.monotonic()
        self._holds: set[str] = set()
        self._moved = asyncio.Event()

    @property
    def elapsed(self) -> float:
        """Active seconds so far."""
        running = self._clock.monotonic() - self._since if self._since is not None else 0.0
        return self._spent + max(0.0, running)

    @property
    def remaining(self) -> float | None:
        """Active seconds left, never below zero; None without a limit."""
        return None if self._limit is None else max(0.0, self._limit + self._before - self.elapsed)

    @property
    def exhausted(self) -> bool:
        return self.remaining == 0.0

    @property
    def held(self) -> frozenset[str]:
        """Why time stands still; empty while it runs."""
        return frozenset(self._holds)

    def hold(self, why: str) -> None:
        """Stop counting until every hold is released; holding twice for one reason is holding once."""
        self._spent = self.elapsed
        self._since = None
        self._holds.add(why)
        self._moved.set()

    def release(self, why: str) -> None:
        """Drop one hold; releasing what is not held changes nothing."""
        self._holds.discard(why)
        if not self._holds and self._since is None:
            self._since = self._clock.monotonic()
            self._moved.set()

    def begin_anew(self) -> None:
        """The whole limit is left again; `elapsed` goes on."""
        self._before = self.elapsed

    @contextmanager
    def between_ticks(self) -> Iterator[None]:
        """Time stands still until the next item of a recurring run is there, which has the whole limit again."""
        self.begin_anew()
        self.hold("tick")
        try:
            yield
        finally:
            self.begin_anew()
            self.release("tick")

    async def wait_exhausted(self) -> None:
        """Return when the limit is used up; never, without a limit. Cancel to stop waiting."""
        while not self.exhausted:
            self._moved.clear()
            remaining = self.remaining
            if self._holds or remaining is None:
                await self._moved.wait()
            else:
                # A hold lets this sleep run on; the loop then finds time left and sleeps again.
                await self._clock.sleep(remaining)
