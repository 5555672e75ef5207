"""The pause latch of one turn: it holds starts, never teardown (ruling R27).

Single-loop state owned by the runtime loop, so there is no lock. A fenced turn passes a closed gate, because what
waits there must get to see its fence.
"""

from __future__ import annotations

import asyncio

from runtime.egress.scopes import Scope


class PauseGate:
    """Closed while paused; node attempts and operations wait here before they start."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._open = asyncio.Event()
        self._open.set()
        scope.on_fence(self._open.set)

    @property
    def paused(self) -> bool:
        return not self._open.is_set()

    def pause(self) -> bool:
        """Close the gate. False when it was closed already, or nothing can start anyway."""
        if self.paused or self._scope.fenced:
            return False
        self._open.clear()
        return True

    def resume(self) -> bool:
        """Open the gate. False when it was open."""
        if not self.paused:
            return False
        self._open.set()
        return True

    async def passed(self) -> None:
        """Wait until work may start. Raises `Halted` when the scope was fenced meanwhile."""
        while self.paused and not self._scope.fenced:
            await self._open.wait()
        self._scope.check()
