"""Runs: one row per launch, what the lists show, and what a later process needs to continue one.

Rows are summaries that may be rebuilt from the journal; the journal is the truth. Writing is expressed as
statements for the one `Writer`, so that a row changes in the same transaction as the entries it summarises.
Listing is keyset-paged over a covering index: the cost of a page does not grow with the number of runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.events.facts import RunSummary
from runtime.kernel.errors import ContractError, StorageError
from runtime.kernel.outcomes import RunStatus
from runtime.storage.holder import Standing
from runtime.storage.reader import Reader, Row
from runtime.storage.writer import Statement

#: No caller shows more rows at once.
MAX_PAGE: Final = 1000

#: Column → attribute; ``trigger`` is a reserved word in SQL.
_SUMMARY: Final = {
    "run_id": "run_id",
    "session_id": "session_id",
    "lineage_id": "lineage_id",
    "parent_run_id": "parent_run_id",
    "mission": "mission",
    "mission_version": "mission_version",
    "mission_path": "mission_path",
    "status": "status",
    "reason": "reason",
    "code": "code",
    "message": "message",
    "exit_code": "exit_code",
    "created_at": "created_at",
    "finished_at": "finished_at",
    "duration_ms": "duration_ms",
    "work_tree": "work_tree",
    "output_folder": "output_folder",
    "inputs": "inputs",
    "outputs": "outputs",
    "launched_by": "trigger",
    "cause": "cause",
    "entries": "entries",
    "head_hash": "head_hash",
    "violations": "violations",
    "steps_done": "steps_done",
    "steps_total": "steps_total",
    "confinement": "confinement",
}
_EXTRA: Final = (
    "mission_hash",
    "plan_digest",
    "contract_hash",
    "plan_hash",
    "recipe_hash",
    "unattended",
    "active_ms",
    "epoch",
    "last_seq",
)
_COLUMNS: Final = (*_SUMMARY, *_EXTRA)
_COLUMN_OF: Final = {attribute: column for column, attribute in _SUMMARY.items()} | {name: name for name in _EXTRA}
#: Fixed when the row is written.
_FIXED: Final = frozenset({"run_id", "session_id", "lineage_id", "created_at"})

#: What a list of runs can be sorted by: the columns before ``created_at, run_id``.
SORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "created": (),
    "mission": ("mission",),
    "status": ("status",),
    "duration": ("duration_ms",),
    "violations": ("violations",),
}

_SELECT: Final = "SELECT " + ", ".join(f"runs.{column}" for column in _COLUMNS) + " FROM runs"
_ID_PART: Final = re.compile(r"[0-9a-fA-F-]+")
_OPEN: Final = tuple(status.value for status in RunStatus if not status.terminal)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run's whole row: the summary, and what only the host needs."""

    summary: RunSummary
    epoch: int
    mission_hash: str | None = None
    plan_digest: str | None = None
    """Artifact digest of the plan's canonical bytes; None until the plan is journalled."""
    contract_hash: str | None = None
    plan_hash: str | None = None
    recipe_hash: str | None = None
    unattended: bool = False
    active_ms: int = 0
    last_seq: int = -1


def insert_run(record: RunRecord) -> Statement:
    """The statement that adds a run."""
    values = tuple(_encode(_value(record, column)) for column in _COLUMNS)
    marks = ", ".join("?" * len(_COLUMNS))
    return f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})", values


def update_run(run_id: str, /, **changes: object) -> Statement:
    """The statement that changes attributes of `RunSummary` or `RunRecord`, by their names."""
    unknown = sorted(name for name in changes if name not in _COLUMN_OF or name in _FIXED)
    if unknown or not changes:
        raise ContractError("STORE_CONTRACT", f"a run has no changeable {', '.join(unknown) or 'nothing'}")
    setters = ", ".join(f"{_COLUMN_OF[name]} = ?" for name in changes)
    values = tuple(_encode(value) for value in changes.values())
    return f"UPDATE runs SET {setters} WHERE run_id = ?", (*values, run_id)


class Runs:
    """Queries over runs. ``standing`` tells who holds the store, ``live`` which runs this host is working on."""

    def __init__(
        self,
        reader: Reader,
        standing: Callable[[], Awaitable[Standing]],
        live: Callable[[], Container[str]],
    ) -> None:
        self._reader = reader
        self._standing = standing
        self._live = live

    async def list(
        self,
        *,
        text: str = "",
        statuses: Sequence[RunStatus] = (),
        before: tuple[str, str] | None = None,
        limit: int = 100,
        sort: str = "created",
        descending: bool = True,
        offset: int = 0,
    ) -> tuple[RunSummary, ...]:
        """Newest first. ``text`` is a part of the mission's name, the run's id or its status, in any case;
        ``before`` is the ``(created_at, run_id)`` of the last row already seen. ``sort`` is a key of `SORTS`;
        ``offset`` skips rows of that order."""
        conditions, parameters = _conditions(text, statuses, before)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = await self._reader.fetch(
            f"WITH page AS (SELECT rowid AS r FROM runs{where} ORDER BY {_order(sort, descending)} LIMIT ? OFFSET ?)"
            f" {_SELECT} JOIN page ON runs.rowid = page.r ORDER BY {_order(sort, descending, 'runs.')}",
            (*parameters, min(limit, MAX_PAGE), max(offset, 0)),
        )
        return tuple(record.summary for record in await self._records(rows))

    async def count(self, *, text: str = "", statuses: Sequence[RunStatus] = ()) -> int:
        """How many rows `list` would give without a limit."""
        conditions, parameters = _conditions(text, statuses, None)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = await self._reader.fetch(f"SELECT count(*) FROM runs{where}", parameters)
        return int(str(rows[0][0]))

    async def lineage(self, lineage_id: str, *, limit: int = MAX_PAGE) -> tuple[RunSummary, ...]:
        """The runs of one lineage, oldest first."""
        rows = await self._reader.fetch(
            f"{_SELECT} WHERE lineage_id = ? ORDER BY created_at, run_id LIMIT ?", (lineage_id, min(limit, MAX_PAGE))
        )
        return tuple(record.summary for record in await self._records(rows))

    async def get(self, run_id: str) -> RunSummary | None:
        record = await self.record(run_id)
        return record.summary if record else None

    async def record(self, run_id: str) -> RunRecord | None:
        """The whole row, for continuing a run."""
        rows = await self._reader.fetch(f"{_SELECT} WHERE run_id = ?", (run_id,))
        return next(iter(await self._records(rows)), None)

    async def find(self, prefix: str, *, limit: int = 10) -> tuple[RunSummary, ...]:
        """Runs whose id begins with ``prefix``, by id; the caller decides what none or several mean."""
        start = prefix.lower()
        rows = await self._reader.fetch(
            f"{_SELECT} WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?",
            (start, start + "\U0010ffff", min(limit, MAX_PAGE)),
        )
        return tuple(record.summary for record in await self._records(rows))

    async def ended_with(self, head: str) -> bool:
        """Is there a run whose journal has this last hash?"""
        return bool(await self._reader.fetch("SELECT 1 FROM runs WHERE head_hash = ? LIMIT 1", (head,)))

    async def latest(self) -> RunSummary | None:
        return next(iter(await self.list(limit=1)), None)

    async def unfinished(self, *, limit: int = MAX_PAGE) -> tuple[RunRecord, ...]:
        """Runs that have not ended, oldest first."""
        marks = ", ".join("?" * len(_OPEN))
        rows = await self._reader.fetch(
            f"{_SELECT} WHERE status IN ({marks}) ORDER BY created_at, run_id LIMIT ?",
            (*_OPEN, min(limit, MAX_PAGE)),
        )
        return tuple(await self._records(rows))

    async def _records(self, rows: Sequence[Row]) -> Sequence[RunRecord]:
        if not rows:
            return ()
        standing = await self._standing()
        return [self._record(row, standing) for row in rows]

    def _record(self, row: Row, standing: Standing) -> RunRecord:
        record = _decode(row, str(self._reader.where))
        summary = record.summary
        orphaned = not standing.held or (standing.epoch > record.epoch and summary.run_id not in self._live())
        return replace(record, summary=replace(summary, resumable=orphaned and not summary.status.terminal))


def _order(sort: str, descending: bool, table: str = "") -> str:
    """The ORDER BY of a sort key; equal rows stay in the order of their making."""
    direction = "DESC" if descending else "ASC"
    if sort not in SORTS:
        raise ContractError("STORE_CONTRACT", f"runs are not sorted by {sort!r}: {', '.join(SORTS)}")
    return ", ".join(f"{table}{column} {direction}" for column in (*SORTS[sort], "created_at", "run_id"))


def _conditions(
    text: str, statuses: Sequence[RunStatus], before: tuple[str, str] | None
) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    parameters: list[object] = []
    if before is not None:
        conditions.append("(created_at, run_id) < (?, ?)")
        parameters += before
    if statuses:
        conditions.append(f"status IN ({', '.join('?' * len(statuses))})")
        parameters += [status.value for status in statuses]
    if text.strip():
        condition, values = _containing(text.strip())
        conditions.append(condition)
        parameters += values
    return conditions, parameters


def _containing(text: str) -> tuple[str, list[object]]:
    """Rows whose mission, id or status contains ``text``. Comparing text is what a filter of many rows costs, so an
    id is looked at only by a text that could be part of one, and a status is known by name."""
    part = f"%{_literal(text)}%"
    choices, values = [r"mission LIKE ? ESCAPE '\'"], [part]
    if _ID_PART.fullmatch(text):
        choices.append(r"run_id LIKE ? ESCAPE '\'")
        values.append(part)
    named = [status.value for status in RunStatus if text.lower() in status.value]
    if named:
        choices.append(f"status IN ({', '.join('?' * len(named))})")
        values += named
    return f"({' OR '.join(choices)})", [*values]


def _literal(text: str) -> str:
    """``text`` with the wildcards of LIKE taken literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _value(record: RunRecord, column: str) -> object:
    attribute = _SUMMARY.get(column)
    return getattr(record.summary, attribute) if attribute else getattr(record, column)


def _encode(value: object) -> object:
    if isinstance(value, RunStatus):
        return value.value
    if isinstance(value, bool | int):  # enums of integers, such as exit codes, become plain numbers
        return int(value)
    if isinstance(value, Mapping):
        return json.dumps(dict(value), sort_keys=True)
    return value


def _decode(row: Row, where: str) -> RunRecord:
    values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    try:
        summary = {attribute: values[column] for column, attribute in _SUMMARY.items()}
        summary["status"] = RunStatus(values["status"])
        summary["inputs"] = json.loads(values["inputs"])
        summary["outputs"] = None if values["outputs"] is None else json.loads(values["outputs"])
        extra = {name: values[name] for name in _EXTRA} | {"unattended": bool(values["unattended"])}
        return RunRecord(summary=RunSummary(**summary), **extra)
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(
            "STORE_CORRUPT",
            f"the row of run {values['run_id']!r} does not decode: {error}",
            where=where,
            hint="copy the folder aside and see what can be trusted with `quarterdeck verify`",
        ) from error
