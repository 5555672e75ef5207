"""Questions to the operator and their answers (ruling R8): the inbox's table.

The journal holds the truth; these rows make "what is open, oldest first" one indexed query. An id is derived
from the run's operation and is unique within the run only, and asking the same question again after a crash
keeps the first row.
"""

from __future__ import annotations

import json
from typing import Final

from runtime.events.facts import Escalation
from runtime.kernel.errors import StorageError
from runtime.storage.reader import Reader, Row
from runtime.storage.writer import Statement

#: More open questions than anybody answers; the inbox says when it is full.
MAX_LISTED: Final = 1000

_COLUMNS: Final = (
    "escalation_id, run_id, step_id, reason, severity, blocking, choices, subject_digest, created_at,"
    " resolved_at, resolution, resolved_by, notes"
)


def insert_escalation(asked: Escalation) -> Statement:
    return f"INSERT OR IGNORE INTO escalations ({_COLUMNS}) VALUES ({', '.join('?' * 13)})", (
        asked.escalation_id,
        asked.run_id,
        asked.step_id,
        asked.reason,
        asked.severity,
        int(asked.blocking),
        json.dumps(list(asked.choices)),
        asked.subject_digest,
        asked.created_at,
        asked.resolved_at,
        asked.resolution,
        asked.resolved_by,
        asked.notes,
    )


def resolve_escalation(
    run_id: str, escalation_id: str, *, resolution: str, resolved_by: str, notes: str, at: str
) -> Statement:
    """The first answer stands; a second one changes nothing."""
    return (
        (
            "UPDATE escalations SET resolution = ?, resolved_by = ?, notes = ?, resolved_at = ?"
            " WHERE run_id = ? AND escalation_id = ? AND resolved_at IS NULL"
        ),
        (resolution, resolved_by, notes, at, run_id, escalation_id),
    )


class Escalations:
    """Queries over questions and answers."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def list(
        self, *, run_id: str | None = None, open_only: bool = True, limit: int = MAX_LISTED
    ) -> tuple[Escalation, ...]:
        """Oldest first."""
        conditions = ["resolved_at IS NULL"] if open_only else []
        parameters: tuple[object, ...] = ()
        if run_id is not None:
            conditions.append("run_id = ?")
            parameters = (run_id,)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM escalations{where} ORDER BY created_at, rowid LIMIT ?",
            (*parameters, min(limit, MAX_LISTED)),
        )
        return tuple(self._decode(row) for row in rows)

    async def find(self, prefix: str, *, limit: int = 10) -> tuple[Escalation, ...]:
        """Questions whose id begins with ``prefix``, oldest first; ids of different runs may coincide."""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM escalations WHERE substr(escalation_id, 1, length(?)) = ?"
            " ORDER BY created_at, rowid LIMIT ?",
            (prefix, prefix, min(limit, MAX_LISTED)),
        )
        return tuple(self._decode(row) for row in rows)

    def _decode(self, row: Row) -> Escalation:
        try:
            choices = tuple(str(choice) for choice in json.loads(row[6]))
        except (ValueError, TypeError) as error:
            raise StorageError(
                "STORE_CORRUPT", f"escalation {row[0]!r} does not decode: {error}", where=str(self._reader.where)
            ) from error
        return Escalation(
            escalation_id=row[0],
            run_id=row[1],
            step_id=row[2],
            reason=row[3],
            severity=row[4],
            blocking=bool(row[5]),
            choices=choices,
            subject_digest=row[7],
            created_at=row[8],
            resolved_at=row[9],
            resolution=row[10],
            resolved_by=row[11],
            notes=row[12],
        )


def escalation_told(escalation: Escalation) -> Statement:
    """The row of a question as it is now: a new one, or its answer."""
    if escalation.resolved_at is None:
        return insert_escalation(escalation)
    return resolve_escalation(
        escalation.run_id,
        escalation.escalation_id,
        resolution=escalation.resolution or "",
        resolved_by=escalation.resolved_by or "",
        notes=escalation.notes or "",
        at=escalation.resolved_at,
    )
