"""Checking a journal on disk while its run goes on: what is new every few seconds, everything now and then.

The quick check goes on where it stopped, so what it costs follows what was written. What happens behind its back to entries
it has seen, only a sweep from the first entry on finds; that runs beside it, page by page, and takes its place at the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from runtime.events.facts import Verification
from runtime.host.checking import SKEW, Check, begin
from runtime.host.gathering import held, told_by
from runtime.host.live_run import LiveRun
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import StorageError
from runtime.orchestration.journal_evidence import Evidence
from runtime.storage.store import Store

#: A live journal is verified again at most this often, in seconds.
VERIFY_SECONDS: Final = 2.0
#: A sweep begins this long after the one before ended, in seconds.
SWEEP_SECONDS: Final = 300.0
#: Quick checks and sweeps may each take this part of the time; together a tenth.
_SHARE: Final = 20
_LOG: Final = logging.getLogger(__name__)


class LiveCheck:
    """The growing verdict on one journal."""

    def __init__(self, store: Store, clock: Clock, run_id: str) -> None:
        self._store = store
        self._clock = clock
        self._run_id = run_id
        self._check: Check | None = None
        self._newest = (0, 0)

    async def now(self) -> Verification:
        """Check what is new. Raises `StorageError` when the store cannot be read."""
        await self._store.flush()
        check = self._check
        if check is None:
            check = self._check = await begin(self._store, self._clock, self._run_id, outside=False, live=True)
        else:
            await self._catch_up(check)
        await check.read()
        return await check.verdict()

    async def sweep(self) -> Verification:
        """Check everything from disk, sinks included, at an easy pace; go on from there."""
        await self._store.flush()
        check = await begin(self._store, self._clock, self._run_id, live=True)
        await check.read(rest=_SHARE)
        self._check, self._newest = check, (0, 0)
        return await check.verdict()

    async def _catch_up(self, check: Check) -> None:
        """What is remembered of the journal by now; read before its entries, which can therefore not be fewer."""
        check.started = self._clock.monotonic()
        row = await self._store.runs.record(self._run_id)
        notes = await self._store.checkpoints.after(self._run_id, *self._newest)
        if notes:
            self._newest = (notes[-1].generation, notes[-1].size)
        known = {item.note for item in check.gathered.evidence.checkpoints}
        fresh = [item for item in held(notes) if item.note not in known]
        told = Evidence(checkpoints=fresh) if row is None else told_by(row, fresh)
        await asyncio.to_thread(check.verifier.hear, told, timestamp(self._clock.now() + SKEW))


async def verify_live(
    run: LiveRun, live: LiveCheck, *, clock: Clock, going: Callable[[], bool], show: Callable[[Verification], None]
) -> None:
    """Check the chain whenever it has grown, as long as ``going``; when the store cannot be read there are no verdicts
    any more."""
    sweeping: asyncio.Task[Verification] | None = None
    checked, pause, swept = -1, VERIFY_SECONDS / 4, clock.monotonic()
    try:
        while going():
            await clock.sleep(pause)
            if sweeping is not None and sweeping.done():
                show(sweeping.result())
                sweeping, swept = None, clock.monotonic()
            if sweeping is None and clock.monotonic() - swept >= SWEEP_SECONDS:
                sweeping = asyncio.create_task(live.sweep(), name=f"sweep-{run.run_id[:8]}")
            entries = run.prepared.journal.entries
            if entries == checked or not going():
                continue
            verdict = await live.now()
            show(verdict)
            checked, pause = entries, max(VERIFY_SECONDS, verdict.duration_ms / 1000 * _SHARE)
    except StorageError as error:
        _LOG.warning("run %s cannot be verified now: %s", run.run_id, error)
    finally:
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.wait({sweeping})
            if not sweeping.cancelled():
                sweeping.exception()  # marks it as seen: the run has ended, and is verified whole
