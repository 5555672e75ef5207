"""The store's own journal: what no run's journal can hold (ruling R33).

Refused launches, holders and their epochs, latches set and cleared, and the final head of every run, in one hash
chain like a run's. Cutting off or swapping a whole run's journal thus shows in another place. It is never closed, and
it is continued from its newest row alone: whether the rows before it hold is for verification to say, and a damaged
one must not keep an operator from working.
"""

from __future__ import annotations

from typing import Any

from runtime.events.facts import RunSummary
from runtime.kernel.clock import Clock
from runtime.kernel.ports import JournalStore
from runtime.kernel.redaction import Redactor
from runtime.orchestration.mission_journal import Appended, MissionJournal
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.store import Store


class StoreJournal(MissionJournal):
    """The chain of one store. Build with `open_for`."""

    @classmethod
    async def open_for(
        cls, store: Store, port: JournalStore, clock: Clock, redactor: Redactor | None = None, *, key: str | None = None
    ) -> StoreJournal:
        """Go on after the newest row, appending to ``port``, and record whose turn it is, and whose ``key`` signs."""
        journal = cls(port, journal_id=STORE_JOURNAL, clock=clock, redactor=redactor)
        head = await store.journals.head(STORE_JOURNAL)
        if head is not None:
            journal._next_seq, journal._head = head.seq + 1, head.entry_hash
        journal.append("epoch", epoch=store.epoch, key=key)
        return journal

    def append(self, kind: str, /, **members: Any) -> Appended:
        """See `MissionJournal.append`; what is absent is left out."""
        return super().append(kind, **{name: value for name, value in members.items() if value is not None})

    def run_ended(self, run: RunSummary) -> None:
        """Keep a run's final head."""
        self.append("run_head", run_id=run.run_id, status=run.status.value, entries=run.entries, head=run.head_hash)
