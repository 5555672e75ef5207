"""What all runs of a store have spent today: this process's own, and what earlier ones left in the journals (§10.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.budget import Day
from runtime.storage.store import Store

_DATE: Final = len("2026-01-01")
_MIDNIGHT: Final = "T00:00:00.000000Z"


class Spending:
    """``day`` is what ledgers report to. It knows this process's runs from the start, and others' after `known`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._since = timestamp(clock.now())
        self._reading = asyncio.Lock()
        self._read = False
        self.day = Day(lambda: timestamp(clock.now())[:_DATE])

    async def known(self) -> None:
        """Count what was spent today before this process began; read once, when a limit first asks for it."""
        async with self._reading:
            if self._read:
                return
            date = self._since[:_DATE]
            entries = await self._store.journals.between("budget", date + _MIDNIGHT, self._since)
            settled, open_ = await asyncio.to_thread(_spent, entries)
            self.day.add(date, settled, open_)
            self._read = True


def _spent(entries: Iterable[StoredEntry]) -> tuple[int, dict[tuple[str, str], int]]:
    """Micro-USD settled, and what crashed runs have set aside until they are resumed."""
    settled, open_ = 0, {}
    for row in entries:
        entry = parse_strict(row.body)
        key = (str(entry["journal_id"]), str(entry["operation_id"]))
        if entry["phase"] == "reserved":
            open_[key] = int(entry["micros"])
        else:
            open_.pop(key, None)
            settled += int(entry["micros"])
    return settled, open_
