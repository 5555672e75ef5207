"""What a crashed run is continued from: its verified journal, its frozen plan, its mission as it was (ruling R20)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import RunSummary
from runtime.host.gathering import told_by
from runtime.host.versions import BEHAVIOUR_VERSION
from runtime.kernel.canonical import CanonicalizationError, digest, parse_strict
from runtime.kernel.errors import ModelError, QuarterdeckError, Refused
from runtime.kernel.model import frozen, thawed
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import StoredEntry
from runtime.missions.loader import Mission, load_bytes
from runtime.missions.problems import MissionInvalid
from runtime.orchestration.governance_baseline import NO_BASELINE
from runtime.orchestration.journal_evidence import Evidence
from runtime.orchestration.journal_history import History
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.orchestration.reuse import Carried
from runtime.storage.runs import RunRecord, update_run
from runtime.storage.store import Store
from runtime.turns.plan import ResolvedTurnPlan, load_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One run's row and its journal, verified. A run that never began has no entries."""

    record: RunRecord
    stored: tuple[StoredEntry, ...]
    entries: tuple[Mapping[str, Any], ...]

    def history(self) -> History:
        """The journal, folded."""
        history = History()
        for entry in self.entries:
            history.feed(entry)
        return history


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One crashed run, as its records tell it. ``carried`` is what it took over when it is a fork."""

    summary: RunSummary
    mission: Mission
    inputs: Mapping[str, Any]
    plan: ResolvedTurnPlan
    recipe_hash: str
    baseline_commit: str
    governance_hash: str
    unattended: bool
    stored: tuple[StoredEntry, ...]
    entries: tuple[Mapping[str, Any], ...]
    history: History
    carried: Carried
    undoes: str | None = None
    """The run it was undoing, if that is what it did."""

    @property
    def signals(self) -> list[Mapping[str, Any]]:
        """Every signal journalled so far, for the emitter to count on from."""
        return [item for entry in self.entries if entry["kind"] == "signal" for item in entry["signals"]]


async def read_journal(store: Store, run_id: str) -> Told:
    """Read and verify a run's journal against its row.

    Raises `Refused` ``RUN_UNKNOWN``, or the code of the first thing that does not hold; `StorageError` for damage.
    """
    if not store.read_only:
        # A run this very process left may have entries on their way to the disk; the chain goes on after the last.
        await store.flush()
    record = await store.runs.record(run_id)
    if record is None:
        raise Refused("RUN_UNKNOWN", f"there is no run {run_id}", hint="`quarterdeck runs` lists them")
    stored = tuple([entry async for entry in store.journals.stream(run_id)])
    if not stored and record.summary.entries == 0:
        return Told(record=record, stored=(), entries=())
    # What a run that has not ended may have lost is told by its checkpoints, and an operator may have accepted that.
    evidence = told_by(record) if record.summary.status.terminal else Evidence()
    verdict = await asyncio.to_thread(verify_entries, stored, run_id=run_id, evidence=evidence)
    broken = [(item.code, item.seq) for item in verdict.findings if item.severity == "error"]
    if broken:
        code, seq = broken[0]
        raise Refused(
            code,
            f"the journal of run {run_id} does not verify: {code}{'' if seq is None else f' at entry {seq}'}",
            hint=f"`quarterdeck verify {run_id[:8]}` says more",
        )
    entries = await asyncio.to_thread(lambda: tuple(frozen(parse_strict(entry.body)) for entry in stored))
    return Told(record=record, stored=stored, entries=entries)


async def read_past(store: Store, run_id: str) -> Past:
    """Read and check everything. Raises `Refused` ``RECOVERY_MANUAL`` naming what does not fit."""
    try:
        told = await read_journal(store, run_id)
    except Refused as broken:
        raise _manual(broken.message) from None
    record, entries = told.record, told.entries
    if record.mission_hash is None or record.plan_digest is None or not entries:
        raise _manual("the store does not know what it ran from")
    opened = entries[0]
    if opened.get("behaviour_version") != BEHAVIOUR_VERSION:
        raise _manual(
            f"it began under behaviour version {opened.get('behaviour_version')}, this is {BEHAVIOUR_VERSION}"
        )
    undoes = opened.get("undoes")
    mission = await recorded_mission(store, record, files_too=undoes is None)
    plan = await recorded_plan(store, record.plan_digest)
    return Past(
        summary=record.summary,
        mission=mission,
        inputs=thawed(plan.contract["inputs"]),
        plan=plan,
        recipe_hash=str(opened["run_id"]),
        baseline_commit=str(opened["baseline_commit"]),
        governance_hash=str(opened.get("governance_hash", NO_BASELINE)),
        unattended=record.unattended,
        stored=told.stored,
        entries=entries,
        history=await asyncio.to_thread(told.history),
        carried=await read_carried(store, opened),
        undoes=None if undoes is None else str(undoes["run"]),
    )


async def read_carried(store: Store, opened: Mapping[str, Any]) -> Carried:
    """What a fork took over beside finished steps; nothing for other runs. Raises `Refused` ``RECOVERY_MANUAL``."""
    if "fork" not in opened:
        return Carried()
    body = await store.artifacts.get(str(opened["fork"]["document"]))
    if body is None:
        raise _manual("what it took over from the run it was forked from is not stored")
    try:
        return Carried.from_record(parse_strict(body, limit=MAX_BODY_BYTES))
    except (CanonicalizationError, ModelError, KeyError, TypeError) as error:
        raise _manual(f"what it took over from the run it was forked from does not decode: {error}") from None


#: Ruling R4 read backwards; what is not here keeps its name.
_STATUS_OF: Final = {"completed": RunStatus.SUCCEEDED, "halted": RunStatus.CANCELLED}


async def settle_row(store: Store, run: RunSummary) -> RunSummary | None:
    """What the disk says wins (ruling R25): a run whose journal is closed has ended, whatever its row says.

    Returns the corrected summary, or None when the journal has no end.
    """
    head = await store.journals.head(run.run_id)
    if head is None or head.kind != "journal_closed":
        return None
    try:
        entry = parse_strict(head.body)
        status = _STATUS_OF.get(entry["status"]) or RunStatus(entry["status"])
        exit_code = entry.get("exit_code")
    except (CanonicalizationError, KeyError, ValueError):
        return None
    changes = {
        "status": status,
        "reason": entry.get("reason"),
        "exit_code": exit_code,
        "finished_at": head.at,
        "entries": head.seq + 1,
        "head_hash": head.entry_hash,
    }
    store.submit([update_run(run.run_id, **changes, last_seq=head.seq)])
    return replace(run, **changes, resumable=False)


async def recorded_mission(store: Store, record: RunRecord, *, files_too: bool) -> Mission:
    """The mission a run was launched from. ``files_too``: the files it names must be what they were as well.

    Raises `Refused` ``RECOVERY_MANUAL``.
    """
    kept = await store.missions.get(record.mission_hash or "")
    if kept is None:
        raise _manual("its mission file is not in the store")
    try:
        mission = await asyncio.to_thread(load_bytes, kept.source, Path(record.summary.mission_path))
    except MissionInvalid as invalid:
        raise _manual(f"its mission does not load any more: {invalid}") from None
    if mission.mission_hash == record.mission_hash:
        return mission
    body = None if files_too else await store.artifacts.get(record.mission_hash or "")
    then = parse_strict(body) if body is not None else mission.definition
    named = {member: then[member] for member in ("files", "children", "packs") if member in then}
    if digest({**mission.definition, **named}) != record.mission_hash:
        raise _manual("a file its mission names, or a pack it uses, has changed since")
    return mission


async def recorded_plan(store: Store, plan_digest: str) -> ResolvedTurnPlan:
    """A run's frozen plan. Raises `Refused` ``RECOVERY_MANUAL``."""
    body = await store.artifacts.get(plan_digest)
    if body is None:
        raise _manual("its frozen plan is not stored")
    try:
        return load_plan(parse_strict(body))
    except QuarterdeckError as error:
        raise _manual(f"its frozen plan does not hold: {error.message}") from None


def check_governance(past: Past, governance_hash: str) -> None:
    """Is the project governed as it was when the run began? Raises `Refused` ``RECOVERY_MANUAL``."""
    if governance_hash != past.governance_hash:
        raise _manual("the project's governance baseline is not the one it began under")


def _manual(why: str) -> Refused:
    return Refused(
        "RECOVERY_MANUAL",
        f"the run cannot be continued: {why}",
        hint="look at it with `quarterdeck show`; run the mission again when it is settled",
    )
