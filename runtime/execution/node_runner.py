"""One block attempt inside a governed run: lane, pool slot, journal, fence (architecture §3, ruling 1).

The scheduler asks for attempts; this runner makes each one wait for its lane and a pool slot, records its start and
end in the journal, lets the block reach the world only through `AttemptWorld`, and refuses its result when the run
was fenced meanwhile. A resumed run asks the same questions again, and attempts that finished before the crash are
answered from the journal (ruling R19); the scheduler knows nothing of it.

A recurring entry has one step per tick: it starts when its next item is waited for and ends with the item, so a
resumed run takes the items that are on record and lets the stream begin anew behind them. Waiting takes neither lane
nor worker, or eight schedules would stop everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Response, recorded_response
from runtime.blocks.errors import BlockError, recovery_marks
from runtime.blocks.execute import declared_class
from runtime.blocks.projection import project, restore
from runtime.blocks.running import NodeCall, Pull
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.egress.fence import EgressFence, Output
from runtime.egress.scopes import CancelTree, Scope, ScopeKind
from runtime.events.envelope import Lane
from runtime.execution.attempt_undo import Executes, Undo
from runtime.execution.attempt_world import AttemptWorld
from runtime.execution.pause import PauseGate
from runtime.execution.pool import ExecutionPool, Task
from runtime.execution.questions import Asks
from runtime.execution.stream_keeper import StreamKeeper
from runtime.flow.lanes import LaneItem
from runtime.flow.loop import LaneLoop
from runtime.flow.streams import StreamEdges
from runtime.kernel.errors import Halted, JournalError, StorageError
from runtime.kernel.model import Envelope, ExecutionContext, thawed
from runtime.kernel.outcomes import block_code, operation_code
from runtime.kernel.ports import ArtifactStore
from runtime.kernel.redaction import Redactor
from runtime.orchestration.journal_history import FinishedStep, History
from runtime.orchestration.mission_journal import MissionJournal

#: The fence's reason when the process goes and the run stays resumable (ruling R35).
LEAVING: Final = "session_end"
HUMAN: Final = "human"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServices:
    """Everything one turn's attempts share. ``streams`` takes what they emit, ``kept`` knows what became of it.
    ``redactor`` takes secrets out of what a block makes, before it is recorded or another block gets it."""

    journal: MissionJournal
    executor: Executes
    context: ExecutionContext
    stack: tuple[Envelope, ...]
    scopes: CancelTree
    scope: Scope
    gate: PauseGate
    loop: LaneLoop
    pool: ExecutionPool
    questions: Asks
    artifacts: ArtifactStore
    fence: EgressFence
    epoch: int
    history: History | None
    streams: StreamEdges
    kept: StreamKeeper
    redactor: Redactor = field(default_factory=Redactor)
    #: Entered while a recurring run waits for its next item.
    between_ticks: Callable[[], AbstractContextManager[None]] = nullcontext


class TurnRunner:
    """The node runner of one turn; implements `runtime.blocks.running.NodeRunner`."""

    def __init__(self, services: TurnServices) -> None:
        self._services = services
        self._undo = Undo(services.executor)
        self._streaming: AttemptWorld | None = None  # of the recurring entry
        if services.history is not None:
            self._undo.remember(services.journal.operations, services.artifacts)

    async def attempt(self, call: NodeCall) -> Response:
        """Answer from the journal, or wait for lane and slot and execute."""
        try:
            return await self._attempt(call)
        except (JournalError, StorageError) as error:
            # History that cannot be written is no failure of the block, to be retried or handled (ruling R17).
            raise Halted(error.code, error.message) from error

    async def tick(self, call: NodeCall, pull: Pull) -> Response:
        """Answer from the journal, or wait for the item and record it as the entry's step of that tick."""
        self._undo.begin_tick(call.tick)
        try:
            known = self._finished(call)
            return await (self._item(call, pull) if known is None else self._answer(call, known))
        except (JournalError, StorageError) as error:
            raise Halted(error.code, error.message) from error

    async def _attempt(self, call: NodeCall) -> Response:
        if isinstance(call.block, Workflow):
            return await self._composite(call, self._finished(call))
        opens = call.recurring
        known = None if opens else self._finished(call)
        if known is not None:
            return await self._answer(call, known)
        services = self._services
        execute = self._open if opens else self._execute
        await services.gate.passed()
        item = LaneItem(
            event_id=f"{call.node_path}/{call.tick}.{call.visit}.{call.attempt}", lane=Lane(call.options.lane)
        )
        async with services.loop.slot(item):
            await services.gate.passed()
            if _step_type(call) == HUMAN:
                # Waiting for a person takes no worker: eight open questions must not stop every other run.
                return await self._execute(call)
            return await services.pool.submit(Task(id=call.node_path, run=lambda: execute(call), wait=True))

    async def _composite(self, call: NodeCall, known: FinishedStep | None) -> Response:
        """A composite takes neither lane nor slot: the blocks inside it do."""
        self._undo.enter(call, _key(call))
        if known is None:
            return await self._recorded(call, lambda: call.execute(runner=self))
        if known.code is None:
            return await call.execute(runner=self)  # its end is journalled, and so is that of every step inside
        # What a failure cut short inside it has no end to answer with.
        history = self._services.history
        if history is not None and call.scope is not None:
            call.scope.visited(call.tick, history.visited_inside(known))
        return await self._answer(call, known)

    async def undo(self, call: NodeCall, failure: Response) -> SideEffects | None:
        """Compensate what the failed attempt wrote; its effective class comes from its receipts (ruling R14).

        A failure that says nothing happened outweighs what the block's class fears, but never what receipts tell.
        """
        if not call.block.is_workflow and declared_class(call.block, failure) is SideEffects.NONE:
            call = replace(call, block=call.block.node_variant(side_effects=SideEffects.NONE))
        try:
            return await self._undo.attempt(call, _key(call))
        except (JournalError, StorageError) as error:
            raise Halted(error.code, error.message) from error

    async def ask(
        self, call: NodeCall, index: str, prompt: str, kinds: Sequence[str], choices: Sequence[str]
    ) -> BlockValue:
        """What somebody who looks at a failed attempt asks; a run told again asks under the same name."""
        return await self._world(call, nullcontext).wait(prompt, kinds=kinds, choices=choices, index=index)

    # -- a fresh attempt ----------------------------------------------------------------------------------------

    async def _execute(self, call: NodeCall) -> Response:
        services = self._services
        world = self._world(call, nullcontext if _step_type(call) == HUMAN else services.pool.resting)
        return await self._emitting(call, lambda: call.execute(runner=self, host=world))

    def _world(self, call: NodeCall, rest: Callable[[], AbstractAsyncContextManager[None]]) -> AttemptWorld:
        services = self._services
        return AttemptWorld(
            call=call,
            key=_key(call),
            executor=services.executor,
            context=services.context.for_step(call.node_path),
            stack=_stack(call, services.stack),
            role=_role(call, services.context.acting_role),
            gate=services.gate,
            questions=services.questions,
            undo=self._undo,
            streams=services.streams,
            redactor=services.redactor,
            rest=rest,
        )

    async def _emitting(self, call: NodeCall, execute: Callable[[], Awaitable[Response]]) -> Response:
        """Run one recorded attempt in a scope of its own; it ends when what it emitted is kept."""
        services = self._services
        scope = services.scopes.open(ScopeKind.NODE, f"{services.scope.id}/{_label(call)}", parent=services.scope)

        async def work() -> Response:
            try:
                return await self._settled(call, (await execute()).without_secrets(services.redactor))
            except (Halted, asyncio.CancelledError):
                services.streams.abandon(_key(call))
                raise

        try:
            return await self._recorded(call, work)
        finally:
            services.kept.forget(_key(call))
            scope.close()

    # -- a recurring entry --------------------------------------------------------------------------------------

    async def _open(self, call: NodeCall) -> Response:
        """Open the stream; its first item is being recorded already. No worker is held while it is consumed."""
        world = self._world(call, nullcontext)
        response = await call.execute(runner=self, host=world)
        self._streaming = world if response.success else None
        return response

    async def _item(self, call: NodeCall, pull: Pull) -> Response:
        if self._streaming is not None:
            self._streaming.go_on(_key(call))

        async def execute() -> Response:
            with self._services.between_ticks():
                response = await pull()
            if response.success:
                await self._services.gate.passed()  # nothing new begins while the run is paused
            return response

        return await self._emitting(call, execute)

    async def _settled(self, call: NodeCall, response: Response) -> Response:
        """A step ends when what it emitted is kept; one whose items nobody kept in time has failed."""
        if await self._services.streams.settle(_key(call)):
            return response
        return recorded_response(
            call.request,
            code="runtime.stream_stalled",
            message=f"what {call.node_path} emitted was not kept in time; the store does not keep up",
        )

    async def _recorded(self, call: NodeCall, work: Callable[[], Awaitable[Response]]) -> Response:
        """Journal the start and the end of an attempt around ``work``; a fenced result is never accepted."""
        self._start(call)
        try:
            response = await work()
            self._pass_fence(call)
        except (Halted, asyncio.CancelledError):
            if not self._leaving():
                self._finish(call, "cancelled", {}, None, "the run was stopped")
            raise
        self._record_end(call, response)
        return response

    def _leaving(self) -> bool:
        """Does the process go and the run stay? Then the attempt stays open, as after a crash, and is resumed."""
        fence = self._services.scope.fence_in_force
        return fence is not None and fence.reason == LEAVING

    def _pass_fence(self, call: NodeCall) -> None:
        """Offer the result to egress; a late one is journalled as such and never accepted (turn runtime §3.20).

        An accepted result is delivered in the same step: its ``step_finished`` entry is what console, log and store
        read, so only refusals need signals of their own.
        """
        services = self._services
        output_id = f"{services.scope.id}/{_label(call)}"
        decision = services.fence.decide(
            Output(
                output_id=output_id,
                turn_id=services.scope.id,
                scope=services.scope,
                epoch=services.epoch,
                node_id=call.node_path,
            )
        )
        if decision.accepted:
            services.fence.completed(output_id)
            return
        if decision.signals:
            services.journal.append("signal", signals=[item.record() for item in decision.signals])
        services.scope.check()
        raise Halted("OP_CANCELLED", decision.reason)

    def _start(self, call: NodeCall) -> None:
        journal = self._services.journal
        if journal.open_step(call.node_path, tick=call.tick, visit=call.visit, attempt=call.attempt) is not None:
            return  # the attempt a crash interrupted goes on under the start it has
        journal.record_step(
            call.node_path,
            operation_type=_step_type(call),
            name=call.node_name,
            inputs=self._projected("value", call.request.payload),
            attempt=call.attempt,
            visit=call.visit,
            tick=call.tick,
        )

    def _record_end(self, call: NodeCall, response: Response) -> None:
        if response.success:
            self._finish(call, "completed", self._projected("value", response.data), None, None)
        elif response.skipped:
            self._finish(call, "skipped", {}, response.code, response.message)
        else:
            outputs = {} if response.output.is_null else self._projected("output", response.output)
            self._finish(call, "failed", outputs, response.code, response.message, **_marks(call, response))

    def _finish(
        self,
        call: NodeCall,
        status: str,
        outputs: Mapping[str, Any],
        code: str | None,
        message: str | None,
        **extra: Any,
    ) -> None:
        stream = self._services.kept.finished(_key(call))
        if stream is not None:
            extra["stream"] = stream
        self._services.journal.complete_step(
            call.node_path,
            status,
            outputs=outputs,
            error_message=message,
            code=code,
            accepted=status == "failed" and _accepts(call.options.accept, code),
            attempt=call.attempt,
            visit=call.visit,
            tick=call.tick,
            **extra,
        )

    def _projected(self, name: str, value: BlockValue) -> dict[str, Any]:
        projected, bodies = project(value)
        for body in bodies:
            self._services.artifacts.put(body)
        return {name: projected}

    # -- an attempt that finished before a crash ----------------------------------------------------------------

    def _finished(self, call: NodeCall) -> FinishedStep | None:
        history = self._services.history
        if history is None:
            return None
        found = history.finished(call.node_path, tick=call.tick, visit=call.visit, attempt=call.attempt)
        # A cancelled attempt did not end by itself; it runs again.
        return found if found is not None and found.record.status != "cancelled" else None

    async def _answer(self, call: NodeCall, known: FinishedStep) -> Response:
        outputs = known.record.outputs
        if known.code is None:
            return recorded_response(call.request, value=await self._restored(outputs.get("value")))
        output = await self._restored(outputs["output"]) if "output" in outputs else None
        message = known.record.error_message or ""
        return recorded_response(call.request, code=known.code, message=message, output=output, recovery=known.recovery)

    async def _restored(self, projected: Any) -> BlockValue:
        # Journal entries are read-only views; a value is rebuilt from plain JSON.
        return await restore(thawed(projected), self._services.artifacts.get)


def _key(call: NodeCall) -> tuple[str, int, int, int]:
    return (call.node_path, call.tick, call.visit, call.attempt)


def _label(call: NodeCall) -> str:
    return f"{call.node_path}~{call.tick}.{call.visit}.{call.attempt}"


def _step_type(call: NodeCall) -> str:
    """The block's type id; ``mission`` for a composite and ``human`` for an approval (ruling R3)."""
    if isinstance(call.block, Workflow):
        return "mission"
    type_id = call.block.spec.type_id
    return HUMAN if type_id == "approval" else type_id


def _marks(call: NodeCall, response: Response) -> dict[str, Any]:
    """What the end of a failed attempt says so that recovery decides the same when the run is told again."""
    error = response.error
    if not isinstance(error, BlockError) or error.ends_run:  # those end the run whenever they are told
        return {}
    feared = not call.block.is_workflow and call.block.side_effects is not SideEffects.NONE
    harmless = feared and declared_class(call.block, response) is SideEffects.NONE
    marks = recovery_marks(error, harmless=harmless)
    return {"recovery": marks} if marks else {}


def _accepts(accept: Sequence[str], code: str | None) -> bool:
    return code is not None and (code in accept or block_code(operation_code(code)) in accept)


def _stack(call: NodeCall, stack: tuple[Envelope, ...]) -> tuple[Envelope, ...]:
    """The mission's envelopes, those of child missions on the way, and the block's own: each can only narrow."""
    own = call.options.extra.get("envelopes", ())
    return (*stack, *(item for item in own if isinstance(item, Envelope))) if isinstance(own, tuple) else stack


def _role(call: NodeCall, default: str) -> str:
    role = call.options.extra.get("acting_role")
    return role if isinstance(role, str) else default
