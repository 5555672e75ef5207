"""Runs that continue a lineage: what they take from their parent, and how a fork is read, decided and recorded.

Everything that can be refused is refused before the new run leaves a trace. The parent's journal, row and tree are only
read. A step the parent reused itself is followed to the run that executed it, because only there are its operations.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.events.facts import RunSummary
from runtime.host.api import Launch
from runtime.host.forking import (
    Attempted,
    Doings,
    attempts_of,
    changed_blocks,
    kept_attempts,
    leaves_files,
    not_standing,
    open_approvals,
    open_branches,
    reads_any,
)
from runtime.host.resuming import Told, read_carried, read_journal
from runtime.host.versions import BEHAVIOUR_VERSION
from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.ports import ArtifactStore
from runtime.missions.loader import Mission
from runtime.orchestration.journal_history import FinishedStep
from runtime.orchestration.operation_ports import store as keep
from runtime.orchestration.operation_table import OperationTable
from runtime.orchestration.reuse import Carried
from runtime.orchestration.tree_probe import TreeProbe
from runtime.storage.store import Store
from runtime.turns.plan import load_plan

#: Names listed in one entry or message; all of them are in the journal.
_LISTED: Final = 64
_NAMED: Final = 3
#: Runs whose journals one fork may need.
_MAX_ORIGINS: Final = 32
_MISSION: Final = "mission"


async def parent_of(store: Store, intent: Launch) -> RunSummary | None:
    """The run this one continues the lineage of. Raises `Refused` ``RUN_UNKNOWN``."""
    if intent.parent_run_id is None:
        if intent.from_step is not None:
            raise Refused("RUN_UNKNOWN", f"there is no run to start from at {intent.from_step}; name one")
        return None
    parent = await store.runs.get(intent.parent_run_id)
    if parent is None:
        raise Refused("RUN_UNKNOWN", f"there is no run {intent.parent_run_id} to start from")
    return parent


def given(mission: Mission, intent: Launch, parent: RunSummary | None) -> Mapping[str, Any]:
    """What is given, and of the parent's inputs those the mission still declares."""
    kept = (
        {} if parent is None else {name: value for name, value in parent.inputs.items() if name in mission.spec.inputs}
    )
    return {**kept, **intent.inputs}


def inputs_changed(parent: RunSummary, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of inputs that are not the parent's, sorted."""
    names = parent.inputs.keys() | inputs.keys()
    return tuple(sorted(name for name in names if parent.inputs.get(name) != inputs.get(name)))


def cause_of(intent: Launch, parent: RunSummary | None, inputs: Mapping[str, Any]) -> str | None:
    """Why the run was started, in one line: as the caller says, else what the lineage tells."""
    if intent.cause is not None or parent is None:
        return intent.cause
    what = f"run again of {parent.run_id[:8]}"
    if intent.from_step is not None:
        what = f"fork of {parent.run_id[:8]} from {intent.from_step}"
    changed = inputs_changed(parent, inputs)
    return f"{what}; {_listing(changed, _NAMED)} changed" if changed else what


def _listing(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A fork that may be made: its parent, read and checked, before the new run's tree is known."""

    parent: RunSummary
    step: str
    mission: Mission
    changed_inputs: tuple[str, ...]
    changed: frozenset[str]
    attempts: tuple[Attempted, ...]
    doings: Doings


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What a run takes over: finished steps, answers for those that only redo their writes, and the note of it."""

    steps: tuple[FinishedStep, ...] = ()
    carried: Carried = field(default_factory=Carried)
    note: Mapping[str, Any] | None = None

    def member(self, artifacts: ArtifactStore) -> dict[str, Any]:
        """The ``fork`` member of ``journal_opened``, its document kept; empty for a run that is no fork."""
        if self.note is None:
            return {}
        return {"fork": {**self.note, "document": keep(artifacts, self.carried.record())}}


async def read_fork(store: Store, mission: Mission, step: str, parent: RunSummary, inputs: Mapping[str, Any]) -> Fork:
    """Read the parent and check that it can be forked.

    Raises `Refused`: ``STEP_UNKNOWN``, ``FORK_LIVE``, ``STEP_UNREACHED``, ``FORK_RECORD``, or the code of whatever
    keeps its journal, or that of a run it reused steps of, from verifying.
    """
    if step not in mission.spec.blocks:
        raise Refused(
            "STEP_UNKNOWN",
            f"{mission.name} has no step {step!r}",
            hint=f"its steps: {_listing(list(mission.spec.blocks), _LISTED)}",
        )
    if not parent.status.terminal:
        raise Refused(
            "FORK_LIVE",
            f"run {parent.run_id} has not ended, so nothing can start from a step of it",
            hint="wait for its end, cancel it, or finish it with `quarterdeck resume`",
        )
    told = await read_journal(store, parent.run_id)
    carried = await read_carried(store, told.entries[0]) if told.entries else Carried()
    attempts = await asyncio.to_thread(attempts_of, parent.run_id, told.entries, carried.redone)
    reached = dict.fromkeys(item.block for item in attempts)
    if step not in reached:
        raise Refused(
            "STEP_UNREACHED",
            f"run {parent.run_id} never reached step {step!r}",
            hint=f"it reached: {_listing(list(reached), _LISTED)}"
            if reached
            else "it reached no step; run the mission again",
        )
    edited = inputs_changed(parent, inputs)
    changed = await _changed(store, mission, told, attempts)
    changed |= open_branches(mission, edited) | open_approvals(mission, edited)
    needed = await asyncio.to_thread(kept_attempts, mission, attempts, {step, *changed})
    tables = await _tables(store, told, needed)
    return Fork(
        parent=parent,
        step=step,
        mission=mission,
        changed_inputs=edited,
        changed=frozenset(changed),
        attempts=attempts,
        doings=await asyncio.to_thread(Doings, tables),
    )


async def _changed(store: Store, mission: Mission, told: Told, attempts: Sequence[Attempted]) -> set[str]:
    record, behaviour = told.record, told.entries[0].get("behaviour_version")
    if behaviour != BEHAVIOUR_VERSION:
        raise _unusable(told, f"it ran under behaviour version {behaviour}, this is {BEHAVIOUR_VERSION}")
    definition = await store.artifacts.get(record.mission_hash or "")
    plan = await store.artifacts.get(record.plan_digest or "")
    if definition is None or plan is None:
        raise _unusable(told, "the definition it ran from is not stored")
    nodes = load_plan(parse_strict(plan)).contract["nodes"]
    before = {str(node["node_id"]): tuple(node["after"]) for node in nodes}
    return await asyncio.to_thread(changed_blocks, parse_strict(definition), before, mission, attempts)


async def _tables(store: Store, told: Told, kept: Iterable[Attempted]) -> dict[str, OperationTable]:
    """The operations of the parent, and of other runs that executed what it reused."""
    parent = told.record.summary.run_id
    names = dict.fromkeys(item.origin for item in kept if item.origin != parent)
    if len(names) > _MAX_ORIGINS:
        raise _unusable(told, f"its steps come from {len(names)} runs, at most {_MAX_ORIGINS} can be followed")
    journals = [told, *[await read_journal(store, name) for name in names]]
    return {item.record.summary.run_id: (await asyncio.to_thread(item.history)).operations for item in journals}


def _unusable(told: Told, why: str) -> Refused:
    run_id = told.record.summary.run_id
    return Refused("FORK_RECORD", f"run {run_id} cannot be forked: {why}", hint="run the mission again from the start")


async def decide(fork: Fork, probe: TreeProbe, workspace: str | None) -> Reuse:
    """Decide what is reused in the new run's tree, whose fingerprint is ``workspace``.

    A step whose writes the tree does not hold, or whose files belong into the run's own output folder, runs again for
    them. When its parameters are not the ones it had, what depends on it runs again, too.
    """
    mission, again = fork.mission, {fork.step, *fork.changed}

    async def state_hash(paths: Sequence[str]) -> str | None:
        try:
            return await probe.state_hash(paths)
        except QuarterdeckError:
            return None  # what cannot be read does not stand; the write meets the same trouble with all its checks

    while True:
        kept = await asyncio.to_thread(kept_attempts, mission, fork.attempts, again)
        leaving = {item.key for item in kept if leaves_files(mission, item.record.step_id)}
        redone = leaving | await not_standing(fork.doings.writes(kept), state_hash, workspace)
        blocks = {item.block for item in kept if item.key in redone}
        other = {name for name in blocks if reads_any(mission, name, fork.changed_inputs)}
        if not other:
            break
        again |= other
    reused = [item for item in kept if item.key not in redone and item.record.operation_type != _MISSION]
    places = [item.place for item in reused]
    operations = fork.doings.of(kept)
    carried = Carried.of(
        ((item.origin, known) for item, known in operations if item.key in redone - leaving),
        (known.receipt for _, known in operations if known.receipt is not None),
        [(bisect_left(places, item.place), item.key[:3]) for item in kept if item.key in redone],
    )
    steps = tuple(item.step for item in reused if item.step is not None)
    return Reuse(steps=steps, carried=carried, note=await asyncio.to_thread(_note, fork, reused, blocks))


def _note(fork: Fork, reused: Sequence[Attempted], redone: set[str]) -> dict[str, Any]:
    """What became of the parent's steps; those that follow the chosen one run again anyway and are not listed."""
    names = dict.fromkeys(item.block for item in reused)
    expected = dict.fromkeys(item.block for item in kept_attempts(fork.mission, fork.attempts, {fork.step}))
    lists = {
        "reused": [name for name in names if name not in redone],
        "reran": [name for name in expected if name not in names or name in redone],
        "inputs_changed": list(fork.changed_inputs),
    }
    cut = {name: items[:_LISTED] for name, items in lists.items()}
    return {
        "run": fork.parent.run_id,
        "step": fork.step,
        **cut,
        **({"truncated": True} if cut != lists else {}),
    }
