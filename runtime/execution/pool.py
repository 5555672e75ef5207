"""Bounded concurrent execution shared by all sessions, so that no graph can take the machine for itself.

The submitter's own task runs the work once a worker is free; the pool only counts, queues and lets go. Exceptions
and cancellation therefore reach the submitter directly, and a slot is returned exactly once whatever happens. The
order of checks is fixed: closed, per-key limit, capacity (turn runtime §3.14).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from runtime.kernel.clock import Clock
from runtime.kernel.errors import ContractError, Refused

DEFAULT_WORKERS: Final = 8
DEFAULT_QUEUE: Final = 64
#: Upper bounds, in seconds, of the histogram's buckets; the last bucket has none.
BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
MAX_LISTENERS: Final = 256
#: Tasks that may wait for a place in the queue or under a key's limit.
MAX_BLOCKED: Final = 1024

CLOSED: Final = "execution_pool_closed"
LIMITED: Final = "node_concurrency_limited"
SATURATED: Final = "execution_pool_saturated"
_WHY: Final = {
    CLOSED: "the pool takes no more work",
    LIMITED: "as many of its kind run as may",
    SATURATED: "every worker is busy and the queue is full",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[T]):
    """One piece of work. With ``max_outstanding`` > 0 at most that many of one fairness key exist at once.

    ``wait`` makes a full queue or a busy key wait instead of refusing; the caller's deadline bounds the wait.
    """

    id: str
    run: Callable[[], Awaitable[T]]
    fairness_key: str = ""
    max_outstanding: int = 0
    wait: bool = False

    @property
    def key(self) -> str:
        return self.fairness_key or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How long something took: counts per bucket of `BUCKETS`, the sum and the longest, in seconds."""

    counts: tuple[int, ...]
    total: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """The pool's counters. ``rejected`` includes those rejected by a per-key limit."""

    submitted: int
    completed: int
    rejected: int
    rejected_by_concurrency: int
    in_flight: int
    queue_depth: int
    workers: int
    queue_time: Histogram
    run_time: Histogram


@dataclass(slots=True)
class _Tally:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[sum(seconds > bound for bound in BUCKETS)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def view(self) -> Histogram:
        return Histogram(counts=tuple(self.counts), total=self.total, longest=self.longest)


class ExecutionPool:
    """At most ``workers`` tasks run and ``queue`` wait. Owned by the runtime loop's thread."""

    def __init__(self, *, clock: Clock, workers: int = DEFAULT_WORKERS, queue: int = DEFAULT_QUEUE) -> None:
        if workers < 1 or queue < 0:
            raise ContractError("schema_validation_error", f"a pool needs workers and a queue, not {workers}, {queue}")
        self._clock = clock
        self._workers = workers
        self._capacity = queue
        self._queued: deque[asyncio.Future[None]] = deque()
        self._blocked: deque[asyncio.Future[None]] = deque()
        self._outstanding: dict[str, int] = {}
        self._owners: dict[int, tuple[str, asyncio.Task[object]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0
        self._submitted = self._completed = self._rejected = self._rejected_by_key = 0
        self._queue_time, self._run_time = _Tally(), _Tally()
        self._closed = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def has_free_worker(self) -> bool:
        """Would a task submitted now start at once?"""
        return not self._closed and self._running + len(self._queued) < self._workers

    def on_release(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` whenever a worker becomes free; returns how to stop that."""
        if len(self._listeners) >= MAX_LISTENERS:
            raise ContractError("execution_pool_saturated", f"more than {MAX_LISTENERS} listeners")
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def submit(self, task: Task[T]) -> T:
        """Run ``task`` when a worker is free and return or raise what it does.

        Raises `Refused` ``execution_pool_closed``, ``node_concurrency_limited`` or ``execution_pool_saturated``,
        checked in this order; a task that waits is refused only by a closed pool.
        """
        _check(task)
        self._submitted += 1
        ticket = self._submitted
        await self._enter(task, ticket)
        try:
            await self._start()
            try:
                return await self._work(task)
            finally:
                self._running -= 1
                self._start_next()
        finally:
            self._leave(task, ticket)

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Give the worker of the running task to others while the body waits; go on when one is free again."""
        self._running -= 1
        self._start_next()
        try:
            yield
        finally:
            try:
                await self._start()
            except BaseException:
                self._running += 1  # whoever submitted the task returns the worker it still counts
                raise

    def stats(self) -> PoolStats:
        return PoolStats(
            submitted=self._submitted,
            completed=self._completed,
            rejected=self._rejected,
            rejected_by_concurrency=self._rejected_by_key,
            in_flight=self._running,
            queue_depth=len(self._queued),
            workers=self._workers,
            queue_time=self._queue_time.view(),
            run_time=self._run_time.view(),
        )

    async def drain(self, deadline: float) -> tuple[str, ...]:
        """Refuse new work, wait at most ``deadline`` seconds for the rest, then cancel what is left.

        Returns the ids of the tasks that had to be cancelled, in the order they came.
        """
        self._closed = True
        self._unblock()
        waits = [asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(self._clock.sleep(deadline))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        leftovers = tuple(self._owners.values())
        for _, owner in leftovers:
            owner.cancel()
        return tuple(name for name, _ in leftovers)

    async def _enter(self, task: Task[T], ticket: int) -> None:
        while (obstacle := self._obstacle(task)) is not None:
            if not task.wait or self._closed or len(self._blocked) >= MAX_BLOCKED:
                self._rejected += 1
                self._rejected_by_key += obstacle == LIMITED
                raise Refused(obstacle, f"{task.id} cannot run now: {_WHY[obstacle]}")
            await self._change()
        if task.max_outstanding:
            self._outstanding[task.key] = self._outstanding.get(task.key, 0) + 1
        owner = asyncio.current_task()
        assert owner is not None  # coroutines only run inside tasks
        self._owners[ticket] = (task.id, owner)
        self._idle.clear()

    async def _change(self) -> None:
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocked.append(change)
        try:
            await change
        finally:
            if change in self._blocked:
                self._blocked.remove(change)

    def _obstacle(self, task: Task[T]) -> str | None:
        if self._closed:
            return CLOSED
        if task.max_outstanding and self._outstanding.get(task.key, 0) >= task.max_outstanding:
            return LIMITED
        # A task that can start at once needs no place in the queue.
        if self._running >= self._workers and len(self._queued) >= self._capacity:
            return SATURATED
        return None

    async def _start(self) -> None:
        asked = self._clock.monotonic()
        if self._running < self._workers:
            self._running += 1
        else:
            await self._queue()
        self._queue_time.add(self._clock.monotonic() - asked)

    async def _queue(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queued.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._queued.remove(turn)
            else:
                # The worker was given in the same step the submitter was cancelled: pass it on.
                self._running -= 1
                self._start_next()
            raise

    async def _work(self, task: Task[T]) -> T:
        began = self._clock.monotonic()
        try:
            return await task.run()
        finally:
            self._completed += 1
            self._run_time.add(self._clock.monotonic() - began)

    def _start_next(self) -> None:
        for turn in self._queued:
            if not turn.done():
                self._queued.remove(turn)
                self._running += 1
                turn.set_result(None)
                return
        for listener in tuple(self._listeners):
            listener()

    def _leave(self, task: Task[T], ticket: int) -> None:
        if task.max_outstanding:
            left = self._outstanding.pop(task.key) - 1
            if left:
                self._outstanding[task.key] = left
        del self._owners[ticket]
        if not self._owners:
            self._idle.set()
        self._unblock()

    def _unblock(self) -> None:
        # Everyone looks again, oldest first: which obstacle is gone depends on the task.
        while self._blocked:
            change = self._blocked.popleft()
            if not change.done():
                change.set_result(None)


def _check(task: Task[T]) -> None:
    if not task.id or not callable(task.run):
        raise ContractError("schema_validation_error", "a pool task needs an id and something to run")
    if task.max_outstanding < 0:
        raise ContractError("schema_validation_error", f"max_outstanding of {task.id} must not be negative")
