"""From an intent to an opened turn: load, bind, preflight, freeze the plan, open the journal (rulings R22, R23).

A refusal at any point leaves nothing behind but its entry: the run row says ``refused`` with the code, and the work
tree's lock is free again. Resuming goes the same way with facts from the journal instead of the mission folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from runtime.events.emitter import Emitter
from runtime.events.facts import EntryAppended, RunSummary
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.host.api import Launch
from runtime.host.assembly import Parts, Shared, assemble, writable_roots
from runtime.host.hooks import Hooks
from runtime.host.live_run import LiveRun, RunPorts
from runtime.host.prepared import Prepared
from runtime.host.reads import node_record
from runtime.host.refusals import Refusals
from runtime.host.resuming import read_past
from runtime.host.run_control import RunControl
from runtime.host.settlement import Settlement
from runtime.host.versions import BEHAVIOUR_VERSION, code_version
from runtime.kernel.canonical import digest
from runtime.kernel.clock import timestamp
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.model import ExecutionContext
from runtime.kernel.outcomes import RunStatus
from runtime.missions import references
from runtime.missions.inputs import bind
from runtime.missions.loader import Mission, load
from runtime.missions.parameters import READING, tool_action
from runtime.missions.rules import RUNNER
from runtime.orchestration.git import Git, find_git, read_operator_settings
from runtime.orchestration.git_config import OUR_SETTINGS, GitSettings
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.repository import check_repository
from runtime.orchestration.run_controller import (
    HaltLatch,
    KillSwitch,
    LockMode,
    LockOwner,
    PreflightFacts,
    PreflightRefused,
    PreflightRequest,
    TreeLock,
    preflight,
)
from runtime.orchestration.state_hash import workspace_fingerprint
from runtime.orchestration.tree_probe import workspace_state
from runtime.orchestration.workspace import Workspace, WorkspaceKind, WorkspaceRequest, prepare
from runtime.storage.missions import MissionRecord, insert_mission
from runtime.storage.runs import RunRecord, insert_run, update_run
from runtime.storage.store import Store
from runtime.turns import arbiter, prelude
from runtime.turns.arbiter import OpenFacts, OpenResult
from runtime.turns.plan import PlanInputs
from runtime.turns.session import Session, SessionManager

#: A launch that waits for a busy work tree looks again this often, in seconds.
_BUSY_POLL: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """Who a run is."""

    run_id: str
    session_id: str
    lineage_id: str
    recipe_hash: str


class Launcher:
    """Opens turns for one host."""

    def __init__(self, store: Store, shared: Shared, sessions: SessionManager) -> None:
        self._store = store
        self._shared = shared
        self._sessions = sessions
        self._refusals = Refusals(store, shared.clock)
        self._git_settings: dict[str, GitSettings] = {}

    # -- a new run ----------------------------------------------------------------------------------------------

    async def launch(self, intent: Launch, ports: RunPorts) -> LiveRun | RunSummary:
        """A live run, journalled and not yet started, or the summary of a refusal.

        Raises `MissionInvalid` and `InputsInvalid` before anything is recorded: those are the caller's mistakes.
        """
        mission = await asyncio.to_thread(load, intent.path)
        inputs = bind(mission.spec.inputs, intent.inputs)
        run_id = self._shared.ids.uuid()
        identity = _Identity(
            run_id=run_id,
            session_id=self._shared.ids.uuid(),
            lineage_id=run_id,
            recipe_hash=recipe_hash(mission, inputs),
        )
        summary = self._summary(mission, inputs, identity, intent)
        try:
            return await self._open(mission, inputs, identity, summary, intent, ports)
        except QuarterdeckError as error:
            return self._refusals.record(summary, error)

    def _summary(self, mission: Mission, inputs: Mapping[str, Any], identity: _Identity, intent: Launch) -> RunSummary:
        return RunSummary(
            run_id=identity.run_id,
            session_id=identity.session_id,
            lineage_id=identity.lineage_id,
            mission=mission.name,
            mission_version=mission.spec.version,
            mission_path=str(mission.path),
            status=RunStatus.RUNNING,
            created_at=timestamp(self._shared.clock.now()),
            inputs=dict(inputs),
            trigger=intent.trigger,
            steps_total=len(mission.spec.blocks),
            confinement=self._shared.sandbox.tier,
        )

    async def _open(
        self,
        mission: Mission,
        inputs: Mapping[str, Any],
        identity: _Identity,
        summary: RunSummary,
        intent: Launch,
        ports: RunPorts,
    ) -> LiveRun:
        workspace = await self._workspace(mission, inputs, identity.run_id)
        facts, control = await self._preflight(mission, workspace, identity, wait=intent.wait)
        try:
            session, emitter, opened, proposal = self._propose(mission, inputs, workspace, identity)
            plan = opened.plan
            assert plan is not None, "_propose raises for a refusal"
            hooks = Hooks()
            journal = MissionJournal(
                self._store.journal(identity.run_id),
                journal_id=identity.run_id,
                clock=self._shared.clock,
                listener=_publisher(identity.run_id, hooks, ports),
            )
            summary = replace(summary, work_tree=_shown_tree(workspace))
            prepared = Prepared(
                mission=mission,
                inputs=inputs,
                summary=summary,
                unattended=intent.unattended,
                workspace=workspace,
                git=workspace.git,
                baseline=None if facts.fingerprint is None else workspace_state(facts.fingerprint),
                control=control,
                context=self._context(mission, workspace, identity, facts),
                stack=(mission.envelope,),
                plan=plan,
                journal=journal,
                session=session,
                emitter=emitter,
            )
            parts = await assemble(prepared, self._shared, hooks)
            self._journal_opening(prepared, identity, facts, intent, [proposal, *emitter.stamp(opened.signals)])
            await journal.durable
        except BaseException:
            control.release()
            raise
        return _live(prepared, parts, hooks, ports)

    def _journal_opening(
        self, prepared: Prepared, identity: _Identity, facts: PreflightFacts, intent: Launch, signals: list[Any]
    ) -> None:
        """The first entries, with the run's row and the mission's bytes in the same batch (ruling R23)."""
        mission, plan, journal = prepared.mission, prepared.plan, prepared.journal
        document = self._shared.artifacts.put(plan.document())
        self._store.submit(
            [
                insert_mission(
                    MissionRecord(
                        mission_hash=mission.mission_hash,
                        name=mission.name,
                        version=mission.spec.version,
                        path=str(mission.path),
                        source=mission.source,
                        first_seen=prepared.summary.created_at,
                    )
                ),
                insert_run(
                    RunRecord(
                        summary=prepared.summary,
                        epoch=self._store.epoch,
                        mission_hash=mission.mission_hash,
                        plan_digest=document,
                        contract_hash=plan.contract_hash,
                        plan_hash=plan.plan_hash,
                        recipe_hash=identity.recipe_hash,
                        unattended=prepared.unattended,
                    )
                ),
            ]
        )
        journal.append(
            "journal_opened",
            mission_id=mission.name,
            run_id=identity.recipe_hash,
            mission_type=mission.name,
            baseline_commit=facts.baseline_commit,
            envelope_hash=mission.envelope.envelope_hash,
            prev_journal_head=None,
            mission_version=mission.spec.version,
            session_id=identity.session_id,
            lineage_id=identity.lineage_id,
            workspace=prepared.workspace.describe(),
            confinement=self._shared.sandbox.tier,
            protected_hash=facts.protected_hash,
            governance_hash=facts.governance_hash,
            code_version=code_version(),
            behaviour_version=BEHAVIOUR_VERSION,
            trigger=intent.trigger,
            **({"reason": intent.reason} if intent.reason else {}),
        )
        journal.append(
            "plan",
            plan_hash=plan.plan_hash,
            contract_hash=plan.contract_hash,
            document=document,
            steps=len(mission.spec.blocks),
        )
        journal.append("signal", signals=[item.record() for item in signals])

    # -- a crashed run ------------------------------------------------------------------------------------------

    async def resume(self, run_id: str, reason: str, ports: RunPorts, *, unattended: bool | None = None) -> LiveRun:
        """Continue a run nobody holds, in the same journal, under a new epoch (rulings R19, R20).

        Raises `Refused` ``RECOVERY_MANUAL`` when its journal does not verify or what it ran from has changed.
        """
        past = await read_past(self._store, run_id)
        mission, plan = past.mission, past.plan
        identity = _Identity(
            run_id=run_id,
            session_id=past.summary.session_id,
            lineage_id=past.summary.lineage_id,
            recipe_hash=past.recipe_hash,
        )
        workspace = await self._workspace(mission, past.inputs, run_id)
        facts, control = await self._preflight(mission, workspace, identity, wait=False)
        try:
            session, emitter = self._session(mission, identity)
            emitter.continue_after(past.signals)
            session.propose(run_id, epoch=self._store.epoch)
            session.advance(run_id, "turn_open")
            hooks = Hooks()
            journal = MissionJournal.resume(
                self._store.journal(run_id), past.stored, self._shared.clock, _publisher(run_id, hooks, ports)
            )
            prepared = Prepared(
                mission=mission,
                inputs=past.inputs,
                summary=replace(
                    past.summary, status=RunStatus.RUNNING, resumable=False, work_tree=_shown_tree(workspace)
                ),
                unattended=past.unattended if unattended is None else unattended,
                workspace=workspace,
                git=workspace.git,
                baseline=None,
                control=control,
                context=self._context(mission, workspace, identity, facts, baseline=past.baseline_commit),
                stack=(mission.envelope,),
                plan=plan,
                journal=journal,
                session=session,
                emitter=emitter,
                history=past.history,
                past=past.entries,
                spent_seconds=past.summary.duration_ms / 1000,
            )
            parts = await assemble(prepared, self._shared, hooks)
            journal.append(
                "recovery",
                epoch=self._store.epoch,
                cause=reason or "the process that ran it is gone",
                findings=[str(item["operation_id"]) for item in past.history.open_operations()],
                code_version=code_version(),
            )
            self._store.submit([update_run(run_id, epoch=self._store.epoch, status=RunStatus.RUNNING)])
            await journal.durable
        except BaseException:
            control.release()
            raise
        return _live(prepared, parts, hooks, ports)

    # -- pieces -------------------------------------------------------------------------------------------------

    def _session(self, mission: Mission, identity: _Identity) -> tuple[Session, Emitter]:
        session = self._sessions.open(f"{identity.session_id}#{self._store.epoch}")
        session.move("link_connected")
        emitter = Emitter(
            session_id=identity.session_id,
            mission_version=mission.spec.version,
            clock=self._shared.clock,
            epoch=self._store.epoch,
        )
        return session, emitter

    def _propose(
        self, mission: Mission, inputs: Mapping[str, Any], workspace: Workspace, identity: _Identity
    ) -> tuple[Session, Emitter, OpenResult, Any]:
        """Propose the turn and have the arbiter decide. Raises `Refused` with the decision's reason."""
        session, emitter = self._session(mission, identity)
        proposal = prelude.propose(emitter, turn_id=identity.run_id)
        session.propose(identity.run_id, epoch=self._store.epoch)
        opened = arbiter.open_turn(
            OpenFacts(
                session_id=identity.session_id,
                turn_id=identity.run_id,
                authority_epoch=self._store.epoch,
                plan=_plan_inputs(mission, inputs, workspace, identity, self._store.epoch, self._shared.sandbox.tier),
            )
        )
        session.advance(identity.run_id, opened.trigger, reason=opened.decision.reason)
        if not opened.opened:
            raise Refused(opened.decision.reason, opened.diagnostic or "the turn was not admitted")
        return session, emitter, opened, proposal.signal

    async def _workspace(self, mission: Mission, inputs: Mapping[str, Any], run_id: str) -> Workspace:
        spec = mission.spec.workspace
        runner = self._shared.sandbox.under(mission.spec.sandbox.confinement)
        settings = await self._operator_settings(mission)
        root = spec.root if spec is not None else None
        request = WorkspaceRequest(
            kind=WorkspaceKind(spec.kind) if spec is not None and spec.kind is not None else None,
            root=None if root is None else str(references.resolve(root, inputs, {})),
            source=spec.from_ if spec is not None else None,
            init_git=spec.init_git if spec is not None else False,
            isolated=spec.isolated if spec is not None else False,
            allows_paths=bool(mission.envelope.allowed_paths),
        )
        return await prepare(
            request,
            mission_dir=mission.directory,
            work_dir=self._store.state.work,
            run_id=run_id,
            git_at=lambda root: Git(root, runner, settings=settings),
            our_git_at=lambda root: Git(root, runner, settings=OUR_SETTINGS),
            clock=self._shared.clock,
        )

    async def _operator_settings(self, mission: Mission) -> GitSettings:
        """The operator's author and line endings, read once per mission folder; ours when git has none to tell."""
        key = str(mission.directory)
        if find_git() is None:
            return OUR_SETTINGS
        if key not in self._git_settings:
            try:
                self._git_settings[key] = await read_operator_settings(
                    self._shared.sandbox.under("best_effort"), mission.directory, self._shared.environ
                )
            except Refused:
                # An unreadable personal configuration must not stop work that may not even need git.
                self._git_settings[key] = OUR_SETTINGS
        return self._git_settings[key]

    async def _preflight(
        self, mission: Mission, workspace: Workspace, identity: _Identity, *, wait: bool
    ) -> tuple[PreflightFacts, RunControl]:
        state, clock = self._store.state, self._shared.clock
        switch = KillSwitch(workspace.root, state.root)
        latch = HaltLatch(state.latches, workspace.root, clock=clock)
        mode = _lock_mode(mission, workspace)
        request = PreflightRequest(
            owner=LockOwner(run_id=identity.recipe_hash, run_id_audit=identity.run_id, mission_type=mission.name),
            kill_switch=switch,
            lock_mode=mode,
            lock=TreeLock(state.locks, workspace.root, clock=clock, ids=self._shared.ids) if mode else None,
            latch=latch,
            recover=lambda stale: self._settle_stale(stale, identity.run_id),
            load_policy=lambda: SelfModProtector(workspace.root).protected_hash,
            baseline=_no_governance,
            repository=_repository_check(mission, workspace),
            fingerprint=_fingerprint(mission, workspace),
        )
        while True:
            try:
                facts = await preflight(request)
                break
            except PreflightRefused as refusal:
                if not (wait and refusal.defer):
                    raise
                await clock.sleep(_BUSY_POLL)
        return facts, RunControl(kill_switch=switch, halt_latch=latch, lock=facts.lock)

    async def _settle_stale(self, stale: Mapping[str, Any], run_id: str) -> None:
        """A dead holder's record: fine when that run is this one or has ended, else it must be resumed first."""
        previous = str(stale.get("run_id_audit", ""))
        if previous == run_id:
            return
        summary = await self._store.runs.get(previous)
        if summary is None or summary.status.terminal:
            return
        raise Refused(
            "RECOVERY_MANUAL",
            f"run {previous} crashed in this work tree and has not been settled",
            hint=f"`quarterdeck resume {previous[:8]}` finishes it, `quarterdeck cancel {previous[:8]}` undoes it",
        )

    def _context(
        self,
        mission: Mission,
        workspace: Workspace,
        identity: _Identity,
        facts: PreflightFacts,
        *,
        baseline: str | None = None,
    ) -> ExecutionContext:
        """The one place that builds an execution context (ruling R2)."""
        return ExecutionContext(
            run_id=identity.recipe_hash,
            run_id_audit=UUID(identity.run_id),
            repo_root=workspace.root,
            baseline_commit=baseline or facts.baseline_commit,
            started_at=timestamp(self._shared.clock.now()),
            mission_id=mission.name,
            mission_type=mission.name,
            envelope=mission.envelope,
            journal=identity.run_id,
            acting_role=RUNNER,
        )


def _live(prepared: Prepared, parts: Parts, hooks: Hooks, ports: RunPorts) -> LiveRun:
    journal = prepared.journal
    summary = replace(prepared.summary, entries=journal.entries, head_hash=journal.get_chain_root())
    settlement = Settlement(prepared, parts.executor, ports.clock, ports.changed)
    run = LiveRun(replace(prepared, summary=summary), parts, settlement, ports, closing=hooks.close)
    hooks.on_entry = run.entered
    hooks.on_output = run.output
    hooks.on_question = ports.asked
    hooks.on_gauges = run.show_gauges
    return run


def _publisher(run_id: str, hooks: Hooks, ports: RunPorts) -> Any:
    def listen(entry: Mapping[str, Any]) -> None:
        ports.publish(
            EntryAppended(
                run_id=run_id,
                seq=entry["seq"],
                kind=entry["kind"],
                at=entry["at"],
                entry_hash=entry["entry_hash"],
                entry=entry,
            )
        )
        hooks.entry(entry)

    return listen


def recipe_hash(mission: Mission, inputs: Mapping[str, Any]) -> str:
    """What makes two runs "the same": definition, inputs, governance, code (operations spec §11.4)."""
    return digest(
        {
            "schema": "run-id/1",
            "mission": dict(mission.definition),
            "inputs_hash": digest(dict(inputs)),
            "governance": {},
            "code_version": code_version(),
        }
    )


def _plan_inputs(
    mission: Mission, inputs: Mapping[str, Any], workspace: Workspace, identity: _Identity, epoch: int, tier: str
) -> PlanInputs:
    spec = mission.spec
    contract = {
        "mission_hash": mission.mission_hash,
        "inputs": dict(inputs),
        "envelope": mission.envelope.record(),
        "block_envelopes": {name: item.record() for name, item in sorted(mission.block_envelopes.items())},
        "write_paths": None if spec.envelope.write_paths is None else sorted(spec.envelope.write_paths),
        "sandbox": spec.sandbox.model_dump(mode="json"),
        "confinement": tier,
        "workspace": workspace.describe(),
        "nodes": [node_record(node) for node in mission.graph.nodes()],
        "on_failure": spec.on_failure,
        "max_parallel": spec.max_parallel,
        "max_steps": spec.max_steps,
        "lanes": spec.lanes.model_dump(mode="json"),
        "behaviour_version": BEHAVIOUR_VERSION,
    }
    return PlanInputs(
        turn_id=identity.run_id,
        mission_version=spec.version,
        graph_definition_ref=mission.mission_hash,
        authority_epoch=epoch,
        execution_profile=spec.profile,
        contract=contract,
    )


def _lock_mode(mission: Mission, workspace: Workspace) -> LockMode | None:
    """None for files of the run's own, shared for missions that only look or execute (ruling R36)."""
    if workspace.kind is WorkspaceKind.NONE or workspace.private:
        return None
    actions = [tool_action(block.params) for block in mission.spec.blocks.values() if block.type == "tool_invoke"]
    return LockMode.EXCLUSIVE if any(action not in READING for action in actions) else LockMode.SHARED


def _repository_check(mission: Mission, workspace: Workspace) -> Any:
    git = workspace.git
    if git is None:
        return None
    # Relaxation 1: only plans that move the index or a ref need a clean tree.
    actions = {tool_action(block.params) for block in mission.spec.blocks.values() if block.type == "tool_invoke"}
    clean = bool(actions & {"git.add", "git.commit"})
    return lambda: check_repository(git, require_clean=clean)


def _fingerprint(mission: Mission, workspace: Workspace) -> Any:
    if workspace.kind is WorkspaceKind.NONE:
        return None
    return lambda: workspace_fingerprint(workspace.root, workspace.git, writable=writable_roots(mission))


async def _no_governance() -> str:
    """Relaxation 2: without a governance baseline, that is what the journal says."""
    return "none"


def _shown_tree(workspace: Workspace) -> str | None:
    return None if workspace.kind is WorkspaceKind.NONE else str(workspace.root)
