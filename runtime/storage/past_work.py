"""What earlier runs of a mission took, for estimates: one bounded query over runs and the entries that say it.

The database reads the few members that are needed out of the bodies, so that outputs and inputs never leave it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.outcomes import RunStatus
from runtime.storage.reader import Reader

#: Runs looked at, newest first, and rows taken of them.
MAX_RUNS: Final = 50
MAX_ROWS: Final = 5_000
_ENDED: Final = tuple(status.value for status in RunStatus if status.terminal and status is not RunStatus.REFUSED)
_MEMBERS: Final = (
    "step_id", "operation_type", "status", "started_at", "completed_at", "reused_from",
    "receipt.step_id", "receipt.operation_type", "receipt.status", "receipt.cost_micros", "receipt.compensates",
)  # fmt: skip
# Bodies are blobs, which the JSON functions of newer SQLite versions take for their own binary form.
_TEXT: Final = "CAST(e.body AS TEXT)"
_PATHS: Final = ", ".join(f"'$.{member}'" for member in _MEMBERS)
_QUERY: Final = (
    "WITH past AS MATERIALIZED (SELECT run_id, created_at FROM runs INDEXED BY runs_by_mission"
    f" WHERE mission = ? AND status IN ({', '.join('?' * len(_ENDED))})"
    " ORDER BY created_at DESC, run_id DESC LIMIT ?)"
    " SELECT r.run_id, r.status, r.duration_ms,"
    f" CASE WHEN json_valid({_TEXT}) THEN json_extract({_TEXT}, {_PATHS}) END"
    " FROM past CROSS JOIN runs AS r ON r.run_id = past.run_id AND r.mission_version = ?"
    " CROSS JOIN journal_entries AS e INDEXED BY journal_by_kind"
    " ON e.kind IN ('step_finished', 'receipt') AND e.journal_id = r.run_id"
    " ORDER BY past.created_at DESC, r.run_id LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class WorkRow:
    """One finished step or one receipt of a past run; ``told`` has its members by name, receipts' as ``receipt.…``."""

    run_id: str
    status: RunStatus
    duration_ms: int
    told: dict[str, Any]


class PastWork:
    """Queries over what runs took."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def of(self, mission: str, version: str, *, runs: int = MAX_RUNS) -> list[WorkRow]:
        """Rows of the newest runs of one version of a mission that have ended, whole runs only, newest first.

        Raises `StorageError`.
        """
        rows = await self._reader.fetch(_QUERY, (mission, *_ENDED, runs, version, MAX_ROWS))
        found = [
            WorkRow(run_id, RunStatus(status), duration, dict(zip(_MEMBERS, json.loads(told), strict=True)))
            for run_id, status, duration, told in rows
            if told is not None
        ]
        if len(rows) < MAX_ROWS:
            return found
        return [row for row in found if row.run_id != rows[-1][0]]
