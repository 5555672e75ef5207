"""Blocking work that must not be cut in half: a rename, once begun, ends before its cancellation is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def finish_in_thread(work: Callable[[], _T]) -> _T:
    """Run ``work`` in a worker thread and wait for its end even when cancelled, then let the cancellation through.

    A thread cannot be stopped, and an abandoned one would go on changing files after the receipt said it had not.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
