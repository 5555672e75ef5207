"""What a run that has ended left behind, and undoing it afterwards (operations spec §6, rulings R19, R27).

Undoing is a new run of the same lineage in the same work tree: it runs no step, its journal holds one undo per write
that stands, last to first, and each receipt names the old one. What stands is told by journals alone: the old run's
writes, less those its own end or an earlier undo has proven undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import RunSummary, UndoPlan, UndoStep
from runtime.host.resuming import Told, read_journal, recorded_mission, recorded_plan
from runtime.kernel.canonical import CanonicalizationError, digest
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.model import thawed
from runtime.kernel.outcomes import RunStatus
from runtime.missions.loader import Mission
from runtime.orchestration.operation_table import KnownOperation, OperationTable
from runtime.orchestration.undo import check_stored
from runtime.orchestration.workspace import Workspace
from runtime.storage.store import Store

#: ``trigger`` of runs that undo another one.
UNDO: Final = "undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """The writes of ``run`` that stand, in the order they were done, and where they were done."""

    run: RunSummary
    operations: tuple[KnownOperation, ...]
    opened: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest_of(self.run.run_id, self.operations)

    def plan(self) -> UndoPlan:
        """What a face shows before it asks."""
        return UndoPlan(
            run_id=self.run.run_id,
            mission=self.run.mission,
            digest=self.digest,
            steps=tuple(_step(known) for known in reversed(self.operations)),
        )

    def member(self) -> dict[str, Any]:
        """The ``undoes`` member of ``journal_opened``."""
        return {"undoes": {"run": self.run.run_id, "operations": len(self.operations), "digest": self.digest}}

    def check_there(self) -> None:
        """Blocking. Raises `Refused` ``UNDO_TREE`` when the tree the run worked in is gone, a private one included."""
        tree = self.run.work_tree
        if tree is not None and not Path(tree).is_dir():
            raise Refused("UNDO_TREE", f"the work tree of run {self.run.run_id} is gone", where=tree)

    def check_tree(self, workspace: Workspace) -> None:
        """Raises `Refused` ``UNDO_TREE`` unless this is the tree the run worked in."""
        told = thawed(self.opened.get("workspace"))
        if str(workspace.root) != self.run.work_tree or workspace.describe() != told:
            raise Refused(
                "UNDO_TREE",
                f"run {self.run.run_id} worked in another tree, or the tree is another kind now",
                where=str(self.run.work_tree),
                hint="put the work tree back where it was",
            )


def digest_of(run_id: str, operations: tuple[KnownOperation, ...]) -> str:
    """What an approval of an undo is bound to: the run and the receipts to undo, in the order they were written."""
    receipts = [known.receipt.receipt_hash for known in operations if known.receipt is not None]
    return digest({"schema": "undo/1", "run": run_id, "receipts": receipts})


def _step(known: KnownOperation) -> UndoStep:
    assert known.receipt is not None, "only what has a receipt stands"
    return UndoStep(
        operation_id=known.operation_id,
        step_id=known.receipt.step_id,
        compensation=known.receipt.compensation_type,
        command=known.receipt.compensation_command,
        paths=known.receipt.affected_paths,
    )


async def read_rollback(store: Store, run_id: str) -> Rollback:
    """Read what stands of a run that has ended; nothing at all may stand.

    Raises `Refused`: ``RUN_UNKNOWN``, ``UNDO_LIVE``, ``UNDO_RECORD`` (its records do not carry an undo any more), and
    the code of whatever keeps a journal from verifying.
    """
    told = await read_journal(store, run_id)
    run = told.record.summary
    if not run.status.terminal:
        raise Refused(
            "UNDO_LIVE",
            f"run {run_id} has not ended",
            hint="`quarterdeck cancel` stops it and undoes what it did",
        )
    undone = await _undone(store, run)
    table = (await asyncio.to_thread(told.history)).operations
    standing = tuple(
        known for known in table.standing() if known.receipt is None or known.receipt.receipt_hash not in undone
    )
    await _check(store, run, table, standing)
    return Rollback(run=run, operations=standing, opened=told.entries[0] if told.entries else {})


async def read_undo(store: Store, run_id: str) -> Rollback:
    """`read_rollback` for a face that wants to undo. Raises also ``UNDO_NOTHING``."""
    rollback = await read_rollback(store, run_id)
    if not rollback.operations:
        undid = rollback.opened.get("undoes")
        raise Refused(
            "UNDO_NOTHING",
            f"nothing that run {run_id} wrote stands",
            hint="it undid another run; run the mission again to redo its work" if undid else "",
        )
    return rollback


async def _undone(store: Store, run: RunSummary) -> frozenset[str]:
    """Receipts of ``run`` that runs which undid it have proven undone."""
    found: set[str] = set()
    for child in await store.runs.lineage(run.lineage_id):
        if child.parent_run_id == run.run_id and child.trigger == UNDO and child.status is not RunStatus.REFUSED:
            found |= _proven(await read_journal(store, child.run_id))
    return frozenset(found)


def _proven(told: Told) -> set[str]:
    receipts = [entry["receipt"] for entry in told.entries if entry["kind"] == "receipt"]
    return {str(item["compensates"]) for item in receipts if item["compensates"] and item["compensation_verified"]}


async def _check(store: Store, run: RunSummary, table: OperationTable, standing: tuple[KnownOperation, ...]) -> None:
    """Can all of it be undone, as far as records tell? Half an undo is worse than none."""
    unknown = [str(entry["operation_id"]) for entry in table.open() if entry["effect"] == "write"]
    if unknown:
        raise _unusable(run, f"what became of {unknown[0]} is not on record")
    for known in standing:
        try:
            await check_stored(store.artifacts, known)
        except (QuarterdeckError, CanonicalizationError, KeyError, TypeError) as error:
            why = error.message if isinstance(error, QuarterdeckError) else f"{type(error).__name__} in its records"
            raise _unusable(run, f"{known.operation_id}: {why}") from None


async def read_mission(store: Store, run_id: str) -> tuple[Mission, Mapping[str, Any]]:
    """The mission a run was launched from and its inputs: envelope and work tree of its undo are the same.

    Files the mission names may have changed since, an undo reads none of them. Raises `Refused` ``UNDO_RECORD``.
    """
    record = await store.runs.record(run_id)
    assert record is not None, "it was read before"
    try:
        if record.mission_hash is None or record.plan_digest is None:
            raise Refused("UNDO_RECORD", "the store does not know what it ran from")
        mission = await recorded_mission(store, record, files_too=False)
        plan = await recorded_plan(store, record.plan_digest)
    except Refused as error:
        raise _unusable(record.summary, error.message) from None
    return mission, thawed(plan.contract["inputs"])


def _unusable(run: RunSummary, why: str) -> Refused:
    return Refused(
        "UNDO_RECORD",
        f"run {run.run_id} cannot be undone from its records: {why}",
        hint=f"`quarterdeck show {run.run_id[:8]}` says what it changed; put it back by hand",
    )
