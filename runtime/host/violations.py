"""Refused operations as faces see them: what the journal tells, where the mission file says so, what became of it.

Places are looked up in the mission as the run read it, which the store keeps byte for byte: they hold whatever became
of the file since, and say so when it is another one now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import Place, Violation, violation
from runtime.host.parsed import parsed_rows
from runtime.kernel.errors import Refused
from runtime.kernel.outcomes import block_code
from runtime.kernel.refusals import STEP
from runtime.missions.files import read_mission
from runtime.missions.problems import MissionInvalid, snippet
from runtime.missions.yaml_reader import Document, Where, read
from runtime.storage.missions import MissionRecord
from runtime.storage.runs import RunRecord
from runtime.storage.store import Store

_KIND: Final = "operation_denied"
_MAX_VIOLATIONS: Final = 1000
#: Room for the line in a dialog of an 80-column terminal.
_SNIPPET_WIDTH: Final = 54
#: Mission files kept parsed: a list of refusals names few, and reads them again whenever it is looked at.
_KEPT_FILES: Final = 32


@dataclass(frozen=True, slots=True)
class _Run:
    """What the refusals of one run are explained by: ``ended`` are the ends of its steps, newest first."""

    record: RunRecord | None
    ended: Sequence[Mapping[str, Any]]
    document: Document | None
    since: str

    def accepted(self, step_id: str) -> bool:
        """Did the step take its refusal for a result in the end?"""
        return any(entry["step_id"] == step_id and bool(entry.get("accepted")) for entry in self.ended)

    def ended_by(self, step_id: str) -> bool:
        """Is this, or a step around it, the one whose failure became the run's?"""
        code = None if self.record is None else self.record.summary.code
        failures = (entry for entry in self.ended if entry.get("code") == code and not entry.get("accepted"))
        last = next(failures, None)
        return last is not None and f"{step_id}/".startswith(f"{last['step_id']}/")


class Violations:
    """Reads and explains the refusals of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents: dict[str, Document] = {}

    async def newest(self, run_id: str | None, limit: int) -> tuple[Violation, ...]:
        """Of one run or of all, newest first."""
        entries = parsed_rows(await self._store.journals.by_kind(_KIND, run_id, min(limit, _MAX_VIOLATIONS)))
        runs = {name: await self._run(name) for name in {str(entry["journal_id"]) for entry in entries}}
        return tuple(_explained(entry, runs[entry["journal_id"]]) for entry in entries)

    async def one(self, run_id: str, seq: int) -> Violation:
        """The one of an entry. Raises `Refused` ``VIOLATION_UNKNOWN`` when there is none."""
        found = parsed_rows(await self._store.journals.read(run_id, seq - 1, 1, until=seq, kinds=(_KIND,)))
        if not found:
            hint = f"`quarterdeck violations {run_id[:8]}` lists them by entry"
            raise Refused("VIOLATION_UNKNOWN", f"nothing was refused at entry {seq} of run {run_id}", hint=hint)
        return _explained(found[0], await self._run(run_id))

    async def _run(self, run_id: str) -> _Run:
        record = await self._store.runs.record(run_id)
        ended = parsed_rows(await self._store.journals.by_kind("step_finished", run_id, _MAX_VIOLATIONS))
        kept = None
        if record is not None and record.mission_hash is not None:
            kept = await self._store.missions.get(record.mission_hash)
        if record is None or kept is None:
            return _Run(record, ended, None, "")
        document, since = await asyncio.to_thread(self._look, kept, Path(record.summary.mission_path))
        return _Run(record, ended, document, since)

    def _look(self, kept: MissionRecord, path: Path) -> tuple[Document | None, str]:
        """The recorded file with its places, and what became of it. Blocking."""
        document = self._documents.get(kept.mission_hash)
        try:
            document = document or read(kept.source, path)
        except MissionInvalid:  # written by a version that read more than this one
            return None, ""
        self._documents[kept.mission_hash] = document
        while len(self._documents) > _KEPT_FILES:
            self._documents.pop(next(iter(self._documents)), None)
        try:
            return document, "" if read_mission(path) == kept.source else "changed"
        except MissionInvalid:
            return document, "gone"


def _explained(entry: Mapping[str, Any], run: _Run) -> Violation:
    summary = None if run.record is None else run.record.summary
    mission = "" if summary is None else summary.mission
    found = violation(str(entry["journal_id"]), entry["seq"], entry["at"], entry, mission=mission)
    accepted = run.accepted(found.step_id)
    found = replace(found, accepted=accepted, outcome=_outcome(found, run, accepted=accepted))
    if summary is None or run.document is None:
        return found
    block, rule = _block(run.document.data, found.step_id), None
    if block is not None:
        rule = _rule(run.document.data, found.rule, block)
    place = _Placing(run.document, summary.mission_path, run.since)
    return replace(found, position=place(block), rule_position=place(rule))


def _outcome(found: Violation, run: _Run, *, accepted: bool) -> str:
    if found.during:
        return "went_on"
    if accepted:
        return "accepted"
    if run.record is None or not run.record.summary.status.terminal:
        return "open"
    same = run.record.summary.code == block_code(found.code)
    return "ended" if same and run.ended_by(found.step_id) else "survived"


def _block(data: Any, step_id: str) -> Where | None:
    """The block that tried: a step inside another belongs to the outer one, which the file names, and an item's to
    what that does for each."""
    name, _, inside = step_id.partition("/")
    where: tuple[Where, ...] = (("blocks", step_id), *((("blocks", name, "each"),) if inside else ()), ("blocks", name))
    return next((item for item in where if _holds(data, item)), None)


def _rule(data: Any, rule: str, block: Where) -> Where | None:
    """Where the file has a rule: the item it names, else its key, else the nearest key around it.

    What a block's own envelope leaves out it takes from the mission's.
    """
    written, _, item = rule.partition(": ")
    keys: Where = tuple(written.removeprefix(STEP).split("."))
    if not _holds(data, keys[:1]):
        return None
    own = (*block, *keys)
    where = own if written.startswith(STEP) and _holds(data, own) else keys
    while not _holds(data, where):
        where = where[:-1]
    value = _value(data, where)
    return (*where, value.index(item)) if isinstance(value, list) and item in value else where


def _holds(data: Any, where: Where) -> bool:
    """Has every mapping on the way this key?"""
    for name in where:
        if not isinstance(data, dict) or name not in data:
            return False
        data = data[name]
    return True


def _value(data: Any, where: Where) -> Any:
    for name in where:
        data = data[name]
    return data


@dataclass(frozen=True, slots=True)
class _Placing:
    """Makes places of one file."""

    document: Document
    path: str
    since: str

    def __call__(self, where: Where | None) -> Place | None:
        if where is None:
            return None
        line, column = self.document.at(where, key=True)
        shown = snippet(self.document.lines[line - 1], line, column, _SNIPPET_WIDTH)
        return Place(path=self.path, line=line, column=column, snippet=shown, since=self.since)
