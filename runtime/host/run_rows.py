"""The rows of live runs, kept in step with what their summaries say."""

from __future__ import annotations

import logging
from typing import Final

from runtime.events.facts import RunSummary
from runtime.kernel.errors import StorageError
from runtime.storage.runs import update_run
from runtime.storage.store import Store
from runtime.storage.writer import Statement

_LOG: Final = logging.getLogger(__name__)
_STORED: Final = (
    "status",
    "output_folder",
    "reason",
    "code",
    "message",
    "exit_code",
    "finished_at",
    "duration_ms",
    "outputs",
    "entries",
    "head_hash",
    "violations",
    "steps_done",
)


class RunRows:
    """Of one host. Rows can be told again from the journal: a store in trouble must not keep a fence from being shown."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[str, RunSummary] = {}

    def record(self, run: RunSummary) -> None:
        """Store what changed since the row was last told: SQLite rewrites the index of every column an update names."""
        told = self._told.get(run.run_id)
        members = {name: getattr(run, name) for name in _STORED}
        changes = {name: value for name, value in members.items() if told is None or getattr(told, name) != value}
        if changes and self.submit(update_run(run.run_id, **changes, last_seq=run.entries - 1)):
            self._told[run.run_id] = run

    def forget(self, run_id: str) -> None:
        """Somebody else may have changed the row."""
        self._told.pop(run_id, None)

    def submit(self, statement: Statement) -> bool:
        """Hand a row to the writer; False when the store takes none."""
        if self._store.poisoned is not None:
            return False
        try:
            self._store.submit([statement])
        except StorageError as error:
            _LOG.warning("a row could not be stored: %s", error)
            return False
        return True
