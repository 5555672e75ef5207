"""Several coroutines at once, a few at a time, owned until the last one has ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def run_bounded(
    names: Sequence[str],
    start: Callable[[str], Coroutine[Any, Any, T]],
    limit: int,
    stop: Callable[[T], bool] = lambda _: False,
) -> dict[str, T]:
    """Run one coroutine per name, at most ``limit`` at once, started in order; results by name.

    Once ``stop`` holds for a result no further one is started, but started ones are awaited. An exception —
    cancellation or a halt — cancels the others, awaits them and comes out.
    """
    waiting = deque(names)
    running: dict[asyncio.Task[T], str] = {}
    results: dict[str, T] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                name = waiting.popleft()
                running[asyncio.create_task(start(name), name=name)] = name
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                results[running.pop(task)] = result = task.result()
                if stop(result):
                    waiting.clear()
    finally:
        await _abandon(running)
    return results


async def _abandon(tasks: dict[asyncio.Task[T], str]) -> None:
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost
