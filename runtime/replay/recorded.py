"""Recorded replay: the mission's workflow once more, in memory, with the record in place of the world (ruling R19).

The same scheduler, the same node runner and the same arbiter as in a run; only operations, questions and time come
from the record. Nothing is stored, locked, started or asked. The replay keeps a journal of its own in memory, folded
as it grows into the trace that is compared. Where the recorded run was stopped by an operator, by time, by a halt or
with its process, the replay stops too: what was not recorded is then no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from runtime.blocks.envelope import Request, Response
from runtime.blocks.running import Scope as BlockScope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.egress.fence import EgressFence
from runtime.egress.scopes import CancelTree, ScopeKind
from runtime.events.emitter import Emitter
from runtime.events.envelope import Role
from runtime.execution.node_runner import TurnRunner, TurnServices
from runtime.execution.pause import PauseGate
from runtime.execution.pool import ExecutionPool
from runtime.execution.stream_keeper import StreamKeeper
from runtime.flow.lanes import LaneQueues
from runtime.flow.loop import LaneLoop
from runtime.flow.streams import LANES, PREFIX, StreamEdges
from runtime.kernel.errors import Halted, Refused, StorageError
from runtime.kernel.ids import SequenceIds
from runtime.kernel.model import ExecutionContext
from runtime.kernel.ports import Durable, Settled, StoredEntry
from runtime.missions.build import build_workflow
from runtime.missions.loader import Mission
from runtime.missions.rules import RUNNER
from runtime.orchestration.mission_journal import MissionJournal
from runtime.replay.answering import Bodies, Fetch, PrunedRecord, RecordedExecutor, RecordedQuestions
from runtime.replay.pacing import RecordedRunner
from runtime.replay.plans import PlanTrace
from runtime.replay.record import EndOfRecord, Record
from runtime.replay.trace import Trace, TraceFold
from runtime.turns import arbiter, prelude
from runtime.turns.arbiter import OpenFacts, Terminal, Trigger
from runtime.turns.plan import PlanInputs, ResolvedTurnPlan

#: A replay waits for nothing; one that takes longer than this computes without end, in seconds.
REPLAY_SECONDS: Final = 300.0
#: Steps read from the journal's first entry into the replay's own.
_OPENING: Final = (
    "mission_id",
    "run_id",
    "mission_type",
    "baseline_commit",
    "envelope_hash",
    "prev_journal_head",
    "governance_hash",
    "protected_hash",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a replay needs: the record, and the mission to run against it.

    ``plan`` is made from the mission with the recorded facts of the machine. ``evidence`` gives the evidence records
    of model calls by digest. ``fetch`` gives stored bodies.
    """

    record: Record
    mission: Mission
    inputs: Mapping[str, Any]
    plan: PlanInputs
    code_version: str
    fetch: Fetch
    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay did."""

    trace: Trace
    operations_answered: int
    questions_answered: int


class RecordedClock:
    """Time as the replay tells it: it begins when the run did, and moves only by what is slept, at once."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        self._elapsed += max(0.0, seconds)
        await asyncio.sleep(0)


async def replay(rehearsal: Rehearsal) -> Replayed:
    """Run the mission against the record.

    Raises `Refused`: ``REPLAY_PRUNED`` without a recorded body, ``REPLAY_TIMEOUT``, ``REPLAY_MISSION`` when the turn
    would not open with this mission, ``REPLAY_TOO_LARGE``; and `StorageError` when the store cannot be read.
    """
    stage = _Stage(rehearsal)
    try:
        async with asyncio.timeout(REPLAY_SECONDS):
            await stage.play()
    except TimeoutError:
        raise Refused(
            "REPLAY_TIMEOUT",
            f"the replay did not end within {REPLAY_SECONDS:g} s",
            hint="a block of the mission may compute without end",
        ) from None
    finally:
        stage.close()
    return stage.replayed()


class _Forgetful:
    """A journal store that keeps nothing: the trace is folded from the entries as they are made."""

    def append(self, entry: StoredEntry) -> Durable:
        return Settled()


class _Stage:
    """One replay, put together like `runtime.host.assembly` puts a run together."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        record, mission = rehearsal.record, rehearsal.mission
        self._rehearsal, self._record, self._mission = rehearsal, record, mission
        self._clock = RecordedClock(datetime.fromisoformat(str(record.opened["at"])))
        self._ids = SequenceIds()
        self._scopes = CancelTree(self._clock)
        session = self._scopes.open(ScopeKind.SESSION, str(record.opened.get("session_id", record.run_id)))
        self._scope = self._scopes.open(ScopeKind.TURN, record.run_id, session)
        self._session = session
        self._emitter = Emitter(
            session_id=session.id,
            mission_version=mission.spec.version,
            clock=self._clock,
            epoch=record.epochs[0] if record.epochs else rehearsal.plan.authority_epoch,
        )
        self._plan, self._opening = self._open()
        self._fold = TraceFold(_plan_trace(rehearsal, self._plan), evidence=rehearsal.evidence, stored=False)
        self._journal = MissionJournal(
            _Forgetful(), journal_id=record.run_id, clock=self._clock, listener=self._fold.feed
        )
        bodies = Bodies(rehearsal.fetch)
        self._executor = RecordedExecutor(record, self._journal, bodies, clock=self._clock, ids=self._ids)
        self._questions = RecordedQuestions(record, self._journal, clock=self._clock)
        self._pool = ExecutionPool(clock=self._clock)
        self._loop = self._lanes()
        self._keeper = StreamKeeper(bodies)
        self._streams = self._edges()
        self._runner = RecordedRunner(TurnRunner(self._services(bodies)), record, bodies)

    def close(self) -> None:
        self._loop.close()
        self._session.close()

    def replayed(self) -> Replayed:
        return Replayed(
            trace=self._fold.trace(),
            operations_answered=self._executor.answered,
            questions_answered=self._questions.answered,
        )

    async def play(self) -> None:
        """Open the turn, run the workflow, end the turn as its triggers have it."""
        self._begin()
        serving = {
            asyncio.create_task(self._loop.run(), name="replay-lanes"),
            asyncio.create_task(self._streams.run(), name="replay-streams"),
        }
        try:
            trigger = await self._work()
            await self._end(trigger)
        finally:
            self._loop.close()
            self._streams.finish()
            await asyncio.wait(serving)

    # -- the turn -----------------------------------------------------------------------------------------------

    def _open(self) -> tuple[ResolvedTurnPlan, list[dict[str, Any]]]:
        """Propose and decide, from the recorded facts."""
        proposal = prelude.propose(self._emitter, turn_id=self._record.run_id)
        opened = arbiter.open_turn(
            OpenFacts(
                session_id=self._emitter.session_id,
                turn_id=self._record.run_id,
                authority_epoch=self._emitter.epoch,
                plan=self._rehearsal.plan,
            )
        )
        if opened.plan is None:
            raise Refused("REPLAY_MISSION", opened.diagnostic or "the turn would not open with this mission")
        return opened.plan, [proposal.signal.record(), *(item.record() for item in self._emitter.stamp(opened.signals))]

    def _begin(self) -> None:
        opened, plan = self._record.opened, self._plan
        recorded = {name: opened[name] for name in _OPENING if name in opened}
        self._journal.append("journal_opened", **recorded, code_version=self._rehearsal.code_version)
        self._journal.append("plan", plan_hash=plan.plan_hash, contract_hash=plan.contract_hash)
        self._journal.append("signal", signals=self._opening)

    async def _work(self) -> Trigger | None:
        """What the workflow amounts to; None when the record ends without an end. Work that met the stop of then is
        that stop: there is one, and it says why."""
        trigger = await self._worked()
        stop = self._record.stop
        if trigger is None or stop is None or trigger.rank is not arbiter.Rank.CANCELLED:
            return trigger
        return arbiter.stopped(stop[1])

    async def _worked(self) -> Trigger | None:
        try:
            return _trigger(await self._execute())
        except EndOfRecord as end:
            return None if self._record.closed is None else arbiter.because(arbiter.node_failed(end.code), end.message)
        except PrunedRecord as pruned:
            raise Refused(
                pruned.code,
                pruned.message,
                hint="`--fidelity view` needs no bodies; `--fidelity live` runs the mission again",
            ) from None
        except Halted as halted:
            if halted.code.startswith("STORE_"):
                raise StorageError(halted.code, halted.message) from None
            return arbiter.because(arbiter.node_failed(halted.code), halted.message)

    async def _execute(self) -> Response:
        run_id = self._record.run_id
        request = Request(
            payload=BlockValue.of(dict(self._rehearsal.inputs)),
            metadata={"run_id": run_id, "trace_id": run_id.replace("-", "")},
        )
        workflow = build_workflow(
            self._mission, self._rehearsal.inputs, node_seconds=self._plan.policies.budgets.node_ms / 1000
        )
        scope = BlockScope(services=Services(clock=self._clock, ids=self._ids))
        return await workflow.execute(request, runner=self._runner, scope=scope)

    async def _end(self, work: Trigger | None) -> None:
        """Undo and close as the run did. A run that was left has neither, and its replay has neither."""
        record = self._record
        if record.cancel is not None:
            self._emitter.epoch = int(record.cancel["authority_epoch"])
            cancel = self._emitter.signal(
                "cancel", Role.CANCEL, turn_id=record.run_id, scope="turn", reason=record.cancel.get("reason")
            )
            self._journal.append("signal", signals=[cancel.record()])
        if work is None or record.closed is None:
            return
        triggers = [work] if record.stop is None else [work, arbiter.stopped(record.stop[1])]
        terminal = arbiter.choose(triggers)
        assert terminal is not None, "there is always the work's own trigger"
        if not terminal.commits and self._undoes():
            terminal = await self._undo(terminal)
        self._close(terminal)

    def _undoes(self) -> bool:
        kept = self._record.stop is not None and self._record.stop[0] == "terminate"
        return self._mission.spec.on_failure == "compensate" and not kept

    async def _undo(self, terminal: Terminal) -> Terminal:
        """Everything that stands, last to first; an undo that went wrong then ends the run as it did then."""
        try:
            outcomes = await self._executor.compensate_all(self._journal.operations.successful_writes())
        except EndOfRecord:
            return terminal
        failed = next((item for item in outcomes if not item.verified), None)
        if failed is None:
            return terminal
        trigger = arbiter.node_failed(failed.code or "COMP_FAILED")
        return Terminal(trigger=trigger, superseded=(terminal.trigger, *terminal.superseded))

    def _close(self, terminal: Terminal) -> None:
        run_id, stamp = self._record.run_id, self._emitter.stamp
        # Who held the store at the end is a fact of then; a replay has no authority of its own.
        self._emitter.epoch = self._record.epochs[-1] if self._record.epochs else self._emitter.epoch
        ending = [*arbiter.preceding_signals(terminal, run_id), arbiter.terminal_signal(terminal, run_id)]
        for drafts in (ending, [arbiter.close_signal(run_id)]):
            self._journal.append("signal", signals=[item.record() for item in stamp(drafts)])
        self._journal.close(terminal.journal_status, result_commit=None)

    # -- parts --------------------------------------------------------------------------------------------------

    def _lanes(self) -> LaneLoop:
        plan = self._plan
        queues = LaneQueues(
            self._emitter,
            turn_id=self._record.run_id,
            limits=plan.lane_limits(self._mission.spec.lanes.bounds()),
            edge_prefix=plan.edge_prefix,
        )
        loop = LaneLoop(queues, slots=self._mission.spec.max_parallel, room=lambda: self._pool.has_free_worker)
        self._pool.on_release(loop.wake)
        return loop

    def _edges(self) -> StreamEdges:
        """What blocks emit passes the same edges; pressure and losses are facts of then, so nobody records them."""
        queues = LaneQueues(
            self._emitter,
            turn_id=self._record.run_id,
            limits=dict.fromkeys(LANES, self._plan.stream_limits),
            edge_prefix=PREFIX,
        )
        return StreamEdges(
            queues,
            keep=self._keeper.keep,
            show=_unheard,
            check=self._scope.check,
            wait_seconds=REPLAY_SECONDS,
            on_signals=_unheard,
            on_change=_unheard,
            gather_seconds=0.0,
        )

    def _services(self, bodies: Bodies) -> TurnServices:
        return TurnServices(
            journal=self._journal,
            executor=self._executor,
            context=self._context(),
            stack=(self._mission.envelope,),
            scopes=self._scopes,
            scope=self._scope,
            gate=PauseGate(self._scope),
            loop=self._loop,
            pool=self._pool,
            questions=self._questions,
            artifacts=bodies,
            fence=EgressFence(self._emitter, epoch=lambda: self._emitter.epoch),
            epoch=self._emitter.epoch,
            history=None,
            streams=self._streams,
            kept=self._keeper,
        )

    def _context(self) -> ExecutionContext:
        """The recorded one: operation keys are made of its recipe hash."""
        opened, mission = self._record.opened, self._mission
        return ExecutionContext(
            run_id=str(opened["run_id"]),
            run_id_audit=UUID(self._record.run_id),
            repo_root=mission.directory,
            baseline_commit=str(opened["baseline_commit"]),
            started_at=str(opened["at"]),
            mission_id=mission.name,
            mission_type=mission.name,
            envelope=mission.envelope,
            journal=self._record.run_id,
            acting_role=RUNNER,
        )


def _plan_trace(rehearsal: Rehearsal, plan: ResolvedTurnPlan) -> PlanTrace:
    return PlanTrace(
        document=plan.record(), definition=rehearsal.mission.definition["mission"], opened=rehearsal.record.opened
    )


def _trigger(response: Response) -> Trigger:
    return arbiter.work_ended(
        success=response.success, skipped=response.skipped, code=response.code, message=response.message
    )


def _unheard(*_: object) -> None:
    """Nobody watches a replay, and its pressure is not the run's."""
