"""One gate per work tree inside a run, because parallel writes would look like foreign changes (ruling R21).

``write`` holds the gate alone, ``execute`` shares it, every other effect passes by. Waiters are served in order of
arrival, so a stream of test runs cannot starve a write. Owned by one event loop; no locks needed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.kernel.model import Effect


class WorkGate:
    """Shared for `Effect.EXECUTE`, exclusive for `Effect.WRITE`. Waiting ends only by admission or cancellation."""

    def __init__(self) -> None:
        self._shared = 0
        self._exclusive = False
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, effect: Effect) -> AsyncIterator[None]:
        """Hold the gate as ``effect`` demands while the block runs."""
        if effect not in (Effect.WRITE, Effect.EXECUTE):
            yield
            return
        exclusive = effect is Effect.WRITE
        await self._enter(exclusive)
        try:
            yield
        finally:
            self._leave(exclusive)

    def statistics(self) -> dict[str, int]:
        """Holders and waiters, for the screen."""
        return {"shared": self._shared, "exclusive": int(self._exclusive), "waiting": len(self._waiting)}

    async def _enter(self, exclusive: bool) -> None:
        if not self._waiting and self._free(exclusive):
            self._take(exclusive)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((exclusive, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(exclusive)  # admitted and cancelled in the same turn of the loop: pass the gate on
            else:
                self._waiting.remove((exclusive, turn))
                self._admit()
            raise

    def _leave(self, exclusive: bool) -> None:
        if exclusive:
            self._exclusive = False
        else:
            self._shared -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._free(self._waiting[0][0]):
            exclusive, turn = self._waiting.popleft()
            self._take(exclusive)
            turn.set_result(None)

    def _free(self, exclusive: bool) -> bool:
        return not self._exclusive and not (exclusive and self._shared)

    def _take(self, exclusive: bool) -> None:
        if exclusive:
            self._exclusive = True
        else:
            self._shared += 1
