"""Runs that never started: a row for the list, an entry in the store's own journal, nothing else (ruling R33)."""

from __future__ import annotations

from dataclasses import replace

from runtime.events.facts import RunSummary
from runtime.host.codes import exit_code_of
from runtime.host.store_journal import StoreJournal
from runtime.host.words import plain_words
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import QuarterdeckError
from runtime.kernel.outcomes import RunStatus
from runtime.storage.runs import RunRecord, insert_run
from runtime.storage.store import Store


class Refusals:
    """Records refusals of one host."""

    def __init__(self, store: Store, journal: StoreJournal, clock: Clock) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock

    async def record(self, summary: RunSummary, error: QuarterdeckError) -> RunSummary:
        """Keep the refusal and return the run's last summary."""
        hint = f" ({error.hint})" if error.hint else ""
        place = f"{error.where}: " if error.where else ""
        refused = replace(
            summary,
            status=RunStatus.REFUSED,
            code=error.code,
            message=f"{place}{error.message}{hint}",
            exit_code=int(exit_code_of(error)),
            finished_at=timestamp(self._clock.now()),
            resumable=False,
        )
        self._journal.append(
            "refusal",
            run_id=refused.run_id,
            mission=refused.mission,
            code=error.code,
            message=plain_words(refused.message or ""),
            trigger=refused.trigger,
        )
        await self._store.submit([insert_run(RunRecord(summary=refused, epoch=self._store.epoch))])
        return refused
