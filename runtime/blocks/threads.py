"""Plain ``run`` functions run in a worker thread; their context posts coroutines back to the loop (ruling R31).

A thread cannot be stopped. When its attempt ends early — deadline, cancellation — the thread is abandoned: its late
result is ignored, what it had posted is cancelled and awaited, and everything it posts afterwards is refused with
`Halted`, so that an abandoned thread starts nothing (ruling R17).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from runtime.kernel.errors import Halted

if TYPE_CHECKING:
    from runtime.blocks.execute import Attempt

T = TypeVar("T")


class ThreadBridge:
    """One threaded ``run``: owns the coroutines it posts."""

    __slots__ = ("_attempt", "_closed", "_loop", "_tasks")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in the scope's pool and return its result."""
        context = contextvars.copy_context()
        future = self._loop.run_in_executor(
            self._attempt.scope.executor, lambda: self._guarded(lambda: context.run(function, *args))
        )
        try:
            return await future
        finally:
            await self._close()

    def call(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """From the worker thread: run a coroutine on the loop and wait for it. Raises `Halted` when abandoned."""
        if self._closed:
            raise _abandoned()
        answer: Future[T] = Future()
        self._loop.call_soon_threadsafe(self._start, coroutine, answer)
        return answer.result()

    def _start(self, coroutine: Callable[[], Coroutine[Any, Any, T]], answer: Future[T]) -> None:
        if self._closed:
            answer.set_exception(_abandoned())
            return
        task = self._loop.create_task(coroutine())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._settle(done, answer))

    def _settle(self, task: asyncio.Task[T], answer: Future[T]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            answer.set_exception(_abandoned())
        elif (error := task.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    async def _close(self) -> None:
        self._closed = True
        if self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            if self._closed:
                self._report_abandoned()

    def _report_abandoned(self) -> None:
        if self._attempt.scope.observer is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._attempt.observe, "block.abandoned")


def _abandoned() -> Halted:
    return Halted("runtime.canceled", "the attempt this thread worked for has ended")
