"""Blocking work on places that may hang, such as another machine's disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from runtime.kernel.errors import Refused

T = TypeVar("T")
#: How long one waits for another of the same process to be done, in seconds; a file on a slow mount takes a tenth of it.
TURN_SECONDS: Final = 2.0


class Hand:
    """One thing at a time, on a daemon thread: a place that hangs neither takes the workers others need nor keeps the
    process from ending. What comes meanwhile waits for a moment, then is refused."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = threading.Lock()
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[[], T]) -> T:
        """The outcome of ``work``; `OSError` becomes `Refused` ``SINK_TROUBLE``, as does a hand that is not free."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise self._hangs() from None
        try:
            return await self._do(work)
        finally:
            self._turn.release()

    def _hangs(self) -> Refused:
        return Refused("SINK_TROUBLE", f"{self._name} still hangs in what it was asked before")

    async def _do(self, work: Callable[[], T]) -> T:
        if not self._busy.acquire(blocking=False):  # whoever asked before has left, the thread has not
            raise self._hangs()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._work, args=(work, loop, answer), name=f"sink-{self._name}", daemon=True).start()
        try:
            return await answer
        except OSError as error:
            raise Refused("SINK_TROUBLE", f"{self._name}: {error.strerror or error}") from error

    def _work(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            failure = error
        finally:
            self._busy.release()

        def tell() -> None:
            if answer.done():
                return
            if failure is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # None only where T is None

        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(tell)
