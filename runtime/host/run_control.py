"""The stop file, the latch and the tree lock of one run, as the host holds them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runtime.kernel.errors import Refused
from runtime.orchestration.run_controller import HaltLatch, KillSwitch, RunGuard, TreeLock


class RunLock(TreeLock):
    """A tree lock that can be left behind, when the work it protects is not settled."""

    def leave(self) -> None:
        """Let go, but keep the record: whoever takes the lock next learns that this run needs settling first."""
        if not self.held:
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._stale = None
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunControl:
    """Asked before every operation; released when the run is over."""

    kill_switch: KillSwitch
    halt_latch: HaltLatch
    lock: RunLock | None

    def check(self) -> None:
        """Raises `Halted`: ``KILL_SWITCH``, ``HALT_LATCHED``, ``LOCK_LOST``."""
        RunGuard(self.kill_switch, self.halt_latch, self.lock)()

    def kill_switch_set(self) -> bool:
        return self.kill_switch.active() is not None

    def latch(self, code: str, *, run_id: str, message: str) -> str | None:
        """Latch the work tree; returns why that did not work, if it did not."""
        try:
            self.halt_latch.set(code, run_id=run_id, message=message)
        except Refused as error:
            return str(error)
        return None

    def release(self) -> None:
        """Give the tree back: the run has ended, or never began."""
        if self.lock is not None and self.lock.held:
            self.lock.release()

    def leave(self) -> None:
        """Give the tree back unsettled: the run is resumable."""
        if self.lock is not None:
            self.lock.leave()
