"""Time of the running event loop, moved by hand, so that deadlines pass without anybody waiting."""

from __future__ import annotations

import asyncio


def leap(seconds: float) -> None:
    """Make the running loop believe that ``seconds`` have passed. The loop is the test's own; nothing is put back."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
