"""Putting one run together: which piece gets which port (architecture §3). No decisions, only wiring."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runtime.blocks.workflow import Workflow
from runtime.egress.fence import EgressFence
from runtime.egress.scopes import CancelTree, Scope, ScopeKind
from runtime.events.envelope import ControlSignal
from runtime.execution.node_runner import LEAVING, TurnRunner, TurnServices
from runtime.execution.pause import PauseGate
from runtime.execution.pool import ExecutionPool
from runtime.execution.questions import Questions, recorded_replies
from runtime.execution.rule_desk import RuleDesk
from runtime.execution.stream_keeper import StreamKeeper, shown
from runtime.flow.lanes import LaneQueues
from runtime.flow.loop import LaneLoop
from runtime.flow.streams import LANES, PREFIX, StreamEdges, StreamItem
from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_limits import Limits as SandboxLimits
from runtime.host.hooks import Hooks
from runtime.host.looking import tree_probe
from runtime.host.pack_trust import PackTrust
from runtime.host.prepared import Prepared
from runtime.host.run_packs import RunPacks
from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import Clock
from runtime.kernel.ids import IdSource
from runtime.kernel.model import MICROS
from runtime.kernel.ports import ArtifactStore, ModelProvider
from runtime.kernel.redaction import Redactor
from runtime.missions.build import build_workflow
from runtime.missions.loader import Mission
from runtime.missions.sections import LimitsSpec
from runtime.missions.yaml_reader import read
from runtime.orchestration.anchors import Witness
from runtime.orchestration.budget import Day, Ledger, Limits
from runtime.orchestration.gate import WorkGate
from runtime.orchestration.handlers.registry import build
from runtime.orchestration.handlers.routes import Transform
from runtime.orchestration.handlers.settings import HandlerSettings, ModelSettings
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.orchestration.operations import OperationExecutor
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.providers.registry import build_provider
from runtime.turns.timer import ActiveTimer

#: Ruling R32: a turn's active time when the mission gives none, in seconds.
TURN_SECONDS: Final = 3600.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all runs of this process share. ``redactor`` knows the secrets of all of them, for what belongs to none."""

    clock: Clock
    ids: IdSource
    pool: ExecutionPool
    scopes: CancelTree
    session_scope: Scope
    artifacts: ArtifactStore
    sandbox: Sandbox
    environ: Mapping[str, str]
    scratch: Path
    state: Path
    redactor: Redactor
    day: Day


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The moving parts of one run."""

    scope: Scope
    gate: PauseGate
    loop: LaneLoop
    streams: StreamEdges
    pool: ExecutionPool
    timer: ActiveTimer
    questions: Questions
    workflow: Workflow
    runner: TurnRunner
    executor: OperationExecutor
    packs: RunPacks


async def assemble(prepared: Prepared, shared: Shared, hooks: Hooks, trust: PackTrust) -> Parts:
    """Wire one run. Raises `Refused` for a provider or command the mission declares wrongly, and for a pack that may not
    run, leaving nothing open."""
    scope = shared.scopes.open(ScopeKind.TURN, prepared.run_id, shared.session_scope)
    try:
        return await _wire(prepared, shared, hooks, scope, trust)
    except BaseException:
        hooks.close()
        scope.close()
        raise


async def _wire(prepared: Prepared, shared: Shared, hooks: Hooks, scope: Scope, trust: PackTrust) -> Parts:
    spec = prepared.mission.spec
    # An undo runs no block of the mission, and must not fail for want of a pack.
    used = () if prepared.rollback is not None else prepared.mission.packs
    packs = await RunPacks.open(prepared.mission, used, trust, wall(prepared.mission, shared))
    gate = PauseGate(scope)
    # The mission's time is for its work; putting that back has limits of its own.
    limit = TURN_SECONDS if prepared.rollback is not None else spec.budgets.time or TURN_SECONDS
    timer = ActiveTimer(shared.clock, limit_seconds=limit, spent=prepared.spent_seconds)
    questions = Questions(
        run_id=prepared.run_id,
        journal=prepared.journal,
        clock=shared.clock,
        unattended=prepared.unattended,
        answered=recorded_replies(prepared.past),
        changed=hooks.question,
        leaving=lambda: (fence := scope.fence_in_force) is not None and fence.reason == LEAVING,
    )
    executor = await _executor(prepared, shared, scope, timer, questions, hooks, packs.transforms)
    loop = _lane_loop(prepared, shared, hooks)
    kept = StreamKeeper(shared.artifacts)
    streams = _stream_edges(prepared, kept, scope, hooks)
    runner = TurnRunner(
        TurnServices(
            journal=prepared.journal,
            executor=executor,
            context=prepared.context,
            stack=prepared.stack,
            scopes=shared.scopes,
            scope=scope,
            gate=gate,
            loop=loop,
            pool=shared.pool,
            questions=questions,
            artifacts=shared.artifacts,
            fence=EgressFence(prepared.emitter, epoch=lambda: prepared.emitter.epoch),
            epoch=prepared.emitter.epoch,
            history=prepared.history,
            streams=streams,
            kept=kept,
            redactor=prepared.secrets.redactor,
            between_ticks=timer.between_ticks,
        )
    )
    workflow = build_workflow(
        prepared.mission,
        prepared.inputs,
        packs.registry,
        node_seconds=prepared.plan.policies.budgets.node_ms / 1000,
    )
    if workflow.plan().recurring:
        timer.begin_anew()  # a resumed run has spent the time of earlier ticks; each has its own (ruling R32)
    return Parts(
        scope=scope,
        gate=gate,
        loop=loop,
        streams=streams,
        pool=shared.pool,
        timer=timer,
        questions=questions,
        workflow=workflow,
        runner=runner,
        executor=executor,
        packs=packs,
    )


def _lane_loop(prepared: Prepared, shared: Shared, hooks: Hooks) -> LaneLoop:
    plan = prepared.plan
    queues = LaneQueues(
        prepared.emitter,
        turn_id=prepared.run_id,
        limits=plan.lane_limits(prepared.mission.spec.lanes.bounds()),
        edge_prefix=plan.edge_prefix,
    )

    loop = LaneLoop(
        queues,
        slots=prepared.mission.spec.max_parallel,
        room=lambda: shared.pool.has_free_worker,
        on_signals=lambda signals: _journal_signals(prepared, signals),
        on_change=hooks.gauges,
    )
    hooks.closing.append(shared.pool.on_release(loop.wake))
    return loop


def _stream_edges(prepared: Prepared, kept: StreamKeeper, scope: Scope, hooks: Hooks) -> StreamEdges:
    plan = prepared.plan

    def show(items: Sequence[StreamItem]) -> None:
        for step_id, stream, text in shown(items):
            hooks.output(step_id, stream, text)

    return StreamEdges(
        LaneQueues(
            prepared.emitter,
            turn_id=prepared.run_id,
            limits=dict.fromkeys(LANES, plan.stream_limits),
            edge_prefix=PREFIX,
        ),
        keep=kept.keep,
        show=show,
        check=scope.check,
        wait_seconds=plan.stream_wait_seconds,
        on_signals=lambda signals: _journal_signals(prepared, signals),
        on_change=hooks.gauges,
    )


def _journal_signals(prepared: Prepared, signals: Sequence[ControlSignal]) -> None:
    prepared.journal.append("signal", signals=[item.record() for item in signals])


def _witness(prepared: Prepared) -> Callable[[], Awaitable[str]]:
    """The newest entry, once it is on disk: a commit must not name what a crash could take back."""
    journal = prepared.journal

    async def witness() -> str:
        seen = Witness(prepared.run_id, journal.entries - 1, journal.get_chain_root())
        await journal.durable
        return seen.text

    return witness


async def _executor(
    prepared: Prepared,
    shared: Shared,
    scope: Scope,
    timer: ActiveTimer,
    questions: Questions,
    hooks: Hooks,
    transforms: Mapping[str, Transform],
) -> OperationExecutor:
    workspace, mission = prepared.workspace, prepared.mission
    root = workspace.root
    envelope = mission.spec.envelope
    protector = prepared.policy.protector
    # An undo asks no model, and must not fail for want of a key.
    provider = None if prepared.rollback is not None else _provider(prepared, shared)
    if isinstance(provider, ScriptedProvider):
        await _restore(provider, prepared, shared.artifacts)
    settings = HandlerSettings(
        root=root,
        clock=shared.clock,
        output=workspace.output,
        is_protected=protector.is_governed,
        runner=wall(mission, shared),
        scratch_root=shared.scratch,
        git=prepared.git,
        python=mission.spec.commands.python,
        commands=mission.spec.commands.templates,
        models=ModelSettings(
            provider=provider,
            free=isinstance(provider, ScriptedProvider),
            unpriced=mission.spec.budgets.unpriced == "allow",
            prices=prepared.policy.rules.prices,
            prompts=mission.prompts,
            schemas=mission.schemas,
        ),
        sandbox_env=prepared.secrets.environment,
        secret=prepared.secrets.declared,
        environ=shared.environ,
        sandbox_scratch=mission.spec.sandbox.scratch,
        hosts=mission.spec.sandbox.hosts,
        witness=_witness(prepared) if prepared.policy.evidence.trailer else None,
        transforms=transforms,
    )

    def guard() -> None:
        scope.check()
        prepared.control.check()

    enforcer = EnvelopeEnforcer(root, protector=protector, names=envelope.names, write_paths=envelope.write_paths)
    hooks.closing.append(enforcer.close)
    return OperationExecutor(
        journal=prepared.journal,
        handlers=build(settings),
        enforcer=enforcer,
        protector=protector,
        workspace=tree_probe(mission, workspace, shared.state),
        artifacts=shared.artifacts,
        clock=shared.clock,
        ids=shared.ids,
        budget=_ledger(prepared, shared),
        gate=WorkGate(),
        guard=guard,
        context=prepared.context,
        base_stack=prepared.stack,
        remaining_seconds=lambda: timer.remaining if timer.remaining is not None else float("inf"),
        baseline=prepared.baseline,
        redactor=prepared.secrets.redactor,
        rules=prepared.policy.rules.rules,
        desk=RuleDesk(questions),
        recorded=functools.partial(prepared.carried.answer, artifacts=shared.artifacts),
    )


def _ledger(prepared: Prepared, shared: Shared) -> Ledger:
    budgets, micros = prepared.mission.spec.budgets, prepared.mission.envelope.max_budget_micros
    limits = Limits(
        micros=micros, tokens=budgets.tokens, calls=budgets.calls, day_micros=prepared.policy.rules.day_micros
    )
    if budgets.usd is not None and int(budgets.usd * MICROS) < micros:
        limits = replace(limits, micros=int(budgets.usd * MICROS), money="budgets.usd")
    ledger = Ledger(limits, day=shared.day, run_id=prepared.run_id)
    ledger.replay(prepared.past)
    return ledger


def _provider(prepared: Prepared, shared: Shared) -> ModelProvider | None:
    mission, secrets = prepared.mission, prepared.secrets
    declared = mission.spec.provider
    if declared is None:
        return None
    if declared.openai is not None:
        return build_provider({"openai": declared.openai.model_dump()}, secrets=secrets, clock=shared.clock)
    assert mission.answers is not None, "the loader attached the file"
    document = read(mission.answers.data, mission.answers.path)
    document.report.raise_if_failed()
    return build_provider({"scripted": document.data}, secrets=secrets, clock=shared.clock)


async def _restore(provider: ScriptedProvider, prepared: Prepared, artifacts: ArtifactStore) -> None:
    """Go on after the answers that were used, here or in what a fork took over, those that did not fit their schema
    included: receipts tell which."""
    own = [entry["receipt"] for entry in prepared.past if entry["kind"] == "receipt" and "reused_from" not in entry]
    for receipt in (*prepared.carried.calls, *own):
        if receipt["operation_type"] != "llm_call":
            continue
        body = await artifacts.get(receipt["evidence_hash"])
        evidence: Mapping[str, Any] = parse_strict(body, limit=MAX_BODY_BYTES) if body is not None else {}
        for reply in (evidence.get("details") or {}).get("replies", ()):
            told = reply.get("details", {})
            if "ordinal" in told:  # runs of earlier versions do not say
                provider.restore(told["role"], told["ordinal"] + 1, told["asked"])


def wall(mission: Mission, shared: Shared) -> Sandbox:
    """What the mission's processes run behind."""
    declared = mission.spec.sandbox
    return shared.sandbox.under(declared.confinement, _limits(declared.limits))


def _limits(declared: LimitsSpec) -> SandboxLimits:
    """The mission's limits in bytes; what it leaves open keeps the sandbox's own number."""
    given = {
        "memory_bytes": None if declared.memory_mb is None else declared.memory_mb * MIB,
        "file_bytes": None if declared.file_mb is None else declared.file_mb * MIB,
        "processes": declared.processes,
        "cpu_seconds": declared.cpu_seconds,
        "open_files": declared.open_files,
    }
    return SandboxLimits(**{name: value for name, value in given.items() if value is not None})


def environment() -> Mapping[str, str]:
    """The operator's environment, taken once when the host opens; only names a mission declares ever leave it."""
    return dict(os.environ)
