"""From an intent to an opened turn: load, bind, preflight, freeze the plan, open the journal (rulings R22, R23).

A refusal at any point leaves nothing behind but its entry: the run row says ``refused`` with the code, and the work
tree's lock is free again. Resuming goes the same way with facts from the journal instead of the mission folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from runtime.events.emitter import Emitter
from runtime.events.facts import EntryAppended, FileChange, RunSummary
from runtime.governance.secrets import Secrets
from runtime.host.api import Launch
from runtime.host.assembly import Parts, Shared, assemble
from runtime.host.beginning import Identity, Ready, Start, write_opening
from runtime.host.checkpointing import CheckpointDesk
from runtime.host.contract import plan_inputs
from runtime.host.ground import Cleared, Ground, leave_empty, output_folder
from runtime.host.hooks import Hooks
from runtime.host.lineage import Fork, Reuse, cause_of, decide, given, parent_of, read_fork
from runtime.host.live_run import LiveRun, RunPorts
from runtime.host.looking import tree_probe
from runtime.host.pack_trust import PackTrust
from runtime.host.policy import Policies
from runtime.host.prepared import Prepared
from runtime.host.refusals import Refusals
from runtime.host.resuming import Past, check_governance, read_past
from runtime.host.run_secrets import admit, secrets_of
from runtime.host.settlement import Settlement
from runtime.host.spending import Spending
from runtime.host.store_journal import StoreJournal
from runtime.host.undoing import UNDO, Rollback, read_mission, read_rollback, read_undo
from runtime.host.versions import code_version
from runtime.host.words import plain_words, without_secrets
from runtime.kernel.canonical import digest
from runtime.kernel.clock import timestamp
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.model import ExecutionContext
from runtime.kernel.outcomes import RunStatus
from runtime.missions.inputs import bind
from runtime.missions.loader import Mission, load
from runtime.missions.rules import RUNNER
from runtime.orchestration.journal_history import History
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.run_controller import LockOwner, PreflightFacts
from runtime.orchestration.tree_probe import workspace_state
from runtime.orchestration.workspace import Workspace, WorkspaceKind
from runtime.storage.runs import update_run
from runtime.storage.store import Store
from runtime.turns import arbiter, prelude
from runtime.turns.arbiter import OpenFacts, OpenResult
from runtime.turns.session import Session, SessionManager


class Launcher:
    """Opens turns for one host."""

    def __init__(
        self,
        store: Store,
        desk: CheckpointDesk,
        journal: StoreJournal,
        shared: Shared,
        policies: Policies,
        spending: Spending,
        trust: PackTrust,
    ) -> None:
        self._store = store
        self._desk = desk
        self._journal = journal
        self._shared = shared
        self._ground = Ground(store, shared, policies)
        self._spending = spending
        self._trust = trust
        self._sessions = SessionManager(shared.clock)
        self._opened_sessions = 0
        self._refusals = Refusals(store, journal, shared.clock)

    # -- a new run ----------------------------------------------------------------------------------------------

    async def launch(
        self, run_id: str, intent: Launch, ports: RunPorts, changes: Sequence[FileChange] = ()
    ) -> LiveRun | RunSummary:
        """A live run, journalled and not yet started, or the summary of a refusal. ``changes`` are why it starts.

        Raises ``J_BEHIND``, `MissionInvalid`, `InputsInvalid` and what `read_fork` raises before anything is recorded:
        nothing begins in a store that lost entries, and the others are the caller's mistakes.
        """
        await self._desk.losses.admit()
        if plain_words(intent.path) != intent.path:
            raise Refused("MISSION_NOT_FOUND", "the mission's path is no valid text", hint="rename its folder")
        mission = await asyncio.to_thread(load, intent.path)
        parent = await parent_of(self._store, intent)
        inputs = bind(mission.spec.inputs, given(mission, intent, parent), intent.directory)
        fork = None
        if parent is not None and intent.from_step is not None:
            fork = await read_fork(self._store, mission, intent.from_step, parent, inputs)
            await self._desk.losses.admit(parent.run_id)
        identity = Identity(
            run_id=run_id,
            session_id=intent.session_id or self._shared.ids.uuid(),
            lineage_id=run_id if parent is None else parent.lineage_id,
            recipe_hash=recipe_hash(mission, inputs),
        )
        summary = self._summary(mission, inputs, identity, intent, cause_of(intent, parent, inputs))
        return await self._start(Start(mission, inputs, identity, summary, intent, fork=fork, changes=changes), ports)

    async def undo(
        self, run_id: str, of: str, ports: RunPorts, *, reason: str = "", approved: str | None = None
    ) -> LiveRun | RunSummary:
        """A live run that will undo what stands of the ended run ``of``, or the summary of a refusal.

        ``approved`` is the digest an operator agreed to. Raises what `read_undo` raises, ``J_BEHIND`` and
        ``UNDO_CHANGED``, before anything is recorded.
        """
        rollback = await read_undo(self._store, of)
        await self._desk.losses.admit(of)
        if approved is not None and approved != rollback.digest:
            raise Refused("UNDO_CHANGED", f"what stands of run {of} has changed since", hint="look again")
        mission, inputs = await read_mission(self._store, of)
        old = rollback.run
        identity = Identity(
            run_id=run_id,
            session_id=self._shared.ids.uuid(),
            lineage_id=old.lineage_id,
            recipe_hash=rollback.digest,
        )
        intent = Launch(path=old.mission_path, trigger=UNDO, reason=reason, parent_run_id=of, unattended=True)
        summary = self._summary(mission, inputs, identity, intent, f"undo of {of[:8]}")
        summary = replace(summary, steps_total=0)
        return await self._start(Start(mission, inputs, identity, summary, intent, rollback=rollback), ports)

    async def _start(self, start: Start, ports: RunPorts) -> LiveRun | RunSummary:
        """Make it ready and open its journal; a refusal leaves its row and its entry, nothing else."""
        run_id, secrets = start.identity.run_id, secrets_of(start.mission, self._shared)
        try:
            if start.rollback is None:  # an undo uses none, and must not fail for want of one
                await admit(secrets, start.mission, start.inputs)
            start = replace(start, summary=without_secrets(start.summary, secrets.redactor))
            ready = await self._ready(start, ports, secrets)
        except QuarterdeckError as error:
            await self._ground.discard(run_id)
            return await self._refusals.record(without_secrets(start.summary, secrets.redactor), error)
        except BaseException:
            await self._ground.discard(run_id)
            raise
        return await self._begin(ready, start, ports)

    def _summary(
        self, mission: Mission, inputs: Mapping[str, Any], identity: Identity, intent: Launch, cause: str | None
    ) -> RunSummary:
        return RunSummary(
            run_id=identity.run_id,
            session_id=identity.session_id,
            lineage_id=identity.lineage_id,
            parent_run_id=intent.parent_run_id,
            mission=mission.name,
            mission_version=mission.spec.version,
            mission_path=str(mission.path),
            status=RunStatus.RUNNING,
            created_at=timestamp(self._shared.clock.now()),
            inputs=dict(inputs),
            trigger=plain_words(intent.trigger),
            cause=None if cause is None else plain_words(cause),
            steps_total=len(mission.spec.blocks),
            confinement=self._shared.sandbox.tier,
        )

    async def _ready(self, start: Start, ports: RunPorts, secrets: Secrets) -> Ready:
        """Everything up to the first entry: a failure leaves neither lock nor scope nor session behind."""
        mission, inputs, identity, fork = start.mission, start.inputs, start.identity, start.fork
        workspace = await self._workspace(mission, inputs, identity.run_id, start.rollback)
        cleared = await self._ground.preflight(
            mission,
            inputs,
            workspace,
            _owner(mission, identity),
            wait=start.intent.wait,
            resuming=start.rollback is not None,
        )
        facts, control = cleared.facts, cleared.control
        hooks = _hooks(workspace)
        try:
            reuse = await self._reuse(mission, workspace, facts, fork)
            session, emitter, opened, proposal = self._propose(mission, inputs, workspace, identity, hooks)
            plan = opened.plan
            assert plan is not None, "_propose raises for a refusal"
            journal = MissionJournal(
                self._desk.journal(identity.run_id),
                journal_id=identity.run_id,
                clock=self._shared.clock,
                listener=hooks.entry,
                redactor=secrets.redactor,
            )
            hooks.on_shown = _publisher(identity.run_id, ports)
            prepared = Prepared(
                mission=mission,
                inputs=inputs,
                summary=_placed(start.summary, mission, workspace, undoing=start.rollback is not None),
                unattended=start.intent.unattended,
                workspace=workspace,
                git=workspace.git,
                baseline=None if facts.fingerprint is None else workspace_state(facts.fingerprint),
                control=control,
                policy=cleared.policy,
                governance_hash=facts.governance_hash,
                context=self._context(mission, workspace, identity, facts),
                stack=(mission.envelope,),
                plan=plan,
                journal=journal,
                session=session,
                emitter=emitter,
                secrets=secrets,
                history=History.of(reuse.steps) if fork is not None else None,
                reused=reuse.steps,
                carried=reuse.carried,
                rollback=start.rollback,
            )
            parts = await self._assemble(prepared, hooks)
        except BaseException:
            hooks.close()
            control.release()
            raise
        signals = [proposal, *emitter.stamp(opened.signals)]
        return Ready(prepared=prepared, parts=parts, hooks=hooks, facts=facts, signals=signals, reuse=reuse)

    async def _workspace(
        self,
        mission: Mission,
        inputs: Mapping[str, Any],
        run_id: str,
        rollback: Rollback | None,
        *,
        resuming: bool = False,
    ) -> Workspace:
        """The run's tree; whoever undoes a run works in that run's own."""
        if rollback is None:
            return await self._ground.workspace(mission, inputs, run_id, resuming=resuming)
        await asyncio.to_thread(rollback.check_there)
        workspace = await self._ground.workspace(mission, inputs, rollback.run.run_id, resuming=True)
        rollback.check_tree(workspace)
        return workspace

    async def _assemble(self, prepared: Prepared, hooks: Hooks) -> Parts:
        if prepared.policy.rules.day_micros is not None:
            await self._spending.known()
        return await assemble(prepared, self._shared, hooks, self._trust)

    async def _reuse(self, mission: Mission, workspace: Workspace, facts: PreflightFacts, fork: Fork | None) -> Reuse:
        """What a fork takes over, now that its tree is there and locked; nothing for other runs."""
        if fork is None:
            return Reuse()
        probe = tree_probe(mission, workspace, self._shared.state)
        now = None if facts.fingerprint is None else facts.fingerprint.digest
        return await decide(fork, probe, now)

    async def _begin(self, ready: Ready, start: Start, ports: RunPorts) -> LiveRun:
        """Open the journal. From the first entry on this is a run: if we fail now, it is resumable, not refused."""
        try:
            await write_opening(ready, start, self._shared, self._store, self._desk.newest)
            await ready.prepared.journal.durable
        except BaseException:
            ready.parts.scope.close()
            ready.hooks.close()
            ready.prepared.control.leave()
            raise
        return self._live(ready.prepared, ready.parts, ready.hooks, ports)

    # -- a crashed run ------------------------------------------------------------------------------------------

    async def resume(self, run_id: str, reason: str, ports: RunPorts, *, unattended: bool | None = None) -> LiveRun:
        """Continue a run nobody holds, in the same journal, under a new epoch (rulings R19, R20).

        Raises `Refused` ``RECOVERY_MANUAL`` when its journal does not verify or what it ran from has changed,
        ``J_BEHIND`` when entries are missing, and ``SECRET_*`` when a secret cannot be had.
        """
        past = await read_past(self._store, run_id)
        await self._desk.losses.admit(run_id)
        mission, plan = past.mission, past.plan
        secrets = secrets_of(mission, self._shared)
        if past.undoes is None:
            await admit(secrets, mission, past.inputs)
        identity = Identity(
            run_id=run_id,
            session_id=past.summary.session_id,
            lineage_id=past.summary.lineage_id,
            recipe_hash=past.recipe_hash,
        )
        rollback = None if past.undoes is None else await read_rollback(self._store, past.undoes)
        workspace = await self._workspace(mission, past.inputs, run_id, rollback, resuming=True)
        cleared = await self._again(past, workspace, identity)
        facts, control = cleared.facts, cleared.control
        hooks = _hooks(workspace)
        try:
            session, emitter = self._session(mission, identity, hooks)
            emitter.continue_after(past.signals)
            session.propose(run_id, epoch=self._store.epoch)
            session.advance(run_id, "turn_open")
            hooks.on_shown = _publisher(run_id, ports)
            port, known = await self._desk.resumed(run_id, past.stored)
            journal = MissionJournal.resume(port, past.stored, self._shared.clock, hooks.entry, secrets.redactor, known)
            prepared = Prepared(
                mission=mission,
                inputs=past.inputs,
                summary=_placed(
                    replace(past.summary, status=RunStatus.RUNNING, resumable=False),
                    mission,
                    workspace,
                    undoing=rollback is not None,
                ),
                unattended=past.unattended if unattended is None else unattended,
                workspace=workspace,
                git=workspace.git,
                baseline=None,
                control=control,
                policy=cleared.policy,
                governance_hash=facts.governance_hash,
                context=self._context(mission, workspace, identity, facts, baseline=past.baseline_commit),
                stack=(mission.envelope,),
                plan=plan,
                journal=journal,
                session=session,
                emitter=emitter,
                secrets=secrets,
                history=past.history,
                past=past.entries,
                carried=past.carried,
                spent_seconds=past.summary.duration_ms / 1000,
                rollback=rollback,
            )
            parts = await self._assemble(prepared, hooks)
        except BaseException:
            hooks.close()
            control.leave()
            raise
        try:
            journal.append(
                "recovery",
                epoch=self._store.epoch,
                cause=plain_words(reason) or "the process that ran it is gone",
                findings=[str(item["operation_id"]) for item in past.history.open_operations()],
                code_version=code_version(),
                protected_hash=facts.protected_hash,
                **prepared.policy.rules.record(),
            )
            self._store.submit([update_run(run_id, epoch=self._store.epoch, status=RunStatus.RUNNING)])
            await journal.durable
        except BaseException:
            parts.scope.close()
            hooks.close()
            control.leave()
            raise
        return self._live(prepared, parts, hooks, ports)

    async def _again(self, past: Past, workspace: Workspace, identity: Identity) -> Cleared:
        """Preflight of a run that goes on, governed as it was."""
        cleared = await self._ground.preflight(
            past.mission, past.inputs, workspace, _owner(past.mission, identity), resuming=True
        )
        try:
            check_governance(past, cleared.facts.governance_hash)
        except BaseException:
            cleared.control.leave()
            raise
        return cleared

    # -- pieces -------------------------------------------------------------------------------------------------

    def _session(self, mission: Mission, identity: Identity, hooks: Hooks) -> tuple[Session, Emitter]:
        """A session of the run's own, ended with it; a run revived twice gets another each time."""
        self._opened_sessions += 1
        session = self._sessions.open(f"{identity.session_id}#{self._opened_sessions}")

        def end() -> None:
            session.move("session_end")

        hooks.closing.append(end)
        session.move("link_connected")
        emitter = Emitter(
            session_id=identity.session_id,
            mission_version=mission.spec.version,
            clock=self._shared.clock,
            epoch=self._store.epoch,
        )
        return session, emitter

    def _propose(
        self, mission: Mission, inputs: Mapping[str, Any], workspace: Workspace, identity: Identity, hooks: Hooks
    ) -> tuple[Session, Emitter, OpenResult, Any]:
        """Propose the turn and have the arbiter decide. Raises `Refused` with the decision's reason."""
        session, emitter = self._session(mission, identity, hooks)
        proposal = prelude.propose(emitter, turn_id=identity.run_id)
        session.propose(identity.run_id, epoch=self._store.epoch)
        opened = arbiter.open_turn(
            OpenFacts(
                session_id=identity.session_id,
                turn_id=identity.run_id,
                authority_epoch=self._store.epoch,
                plan=plan_inputs(
                    mission,
                    inputs,
                    run_id=identity.run_id,
                    epoch=self._store.epoch,
                    workspace=workspace.describe(),
                    confinement=self._shared.sandbox.tier,
                ),
            )
        )
        session.advance(identity.run_id, opened.trigger, reason=opened.decision.reason)
        if not opened.opened:
            raise Refused(opened.decision.reason, opened.diagnostic or "the turn was not admitted")
        return session, emitter, opened, proposal.signal

    def _live(self, prepared: Prepared, parts: Parts, hooks: Hooks, ports: RunPorts) -> LiveRun:
        journal = prepared.journal
        summary = replace(prepared.summary, entries=journal.entries, head_hash=journal.get_chain_root())
        settlement = Settlement(
            prepared,
            parts.executor,
            hooks,
            clock=ports.clock,
            record=ports.record,
            asked=ports.asked,
            store_journal=self._journal,
            anchored=partial(self._desk.anchored, prepared.run_id),
        )
        run = LiveRun(replace(prepared, summary=summary), parts, settlement, ports, closing=hooks.close)
        hooks.on_entry = run.entered
        hooks.on_output = run.output
        hooks.on_question = ports.asked
        hooks.on_gauges = run.lanes_moved
        return run

    def _context(
        self,
        mission: Mission,
        workspace: Workspace,
        identity: Identity,
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


def _owner(mission: Mission, identity: Identity) -> LockOwner:
    return LockOwner(run_id=identity.recipe_hash, run_id_audit=identity.run_id, mission_type=mission.name)


def _hooks(workspace: Workspace) -> Hooks:
    return Hooks(closing=[lambda: leave_empty(workspace)])


def _publisher(run_id: str, ports: RunPorts) -> Callable[[Mapping[str, Any]], None]:
    def show(entry: Mapping[str, Any]) -> None:
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

    return show


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


def _placed(summary: RunSummary, mission: Mission, workspace: Workspace, *, undoing: bool) -> RunSummary:
    """With the folders an operator may want to look into; an undo leaves no files of its own."""
    tree = None if workspace.kind is WorkspaceKind.NONE else str(workspace.root)
    return replace(summary, work_tree=tree, output_folder=None if undoing else output_folder(mission, workspace))
