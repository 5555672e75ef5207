"""One run while it is alive: its workflow, its lanes, its fence, and how it ends (architecture §3, rulings R24–R27).

Whatever may end a run becomes a trigger; cancel, time and the kill switch also fence the turn's scope in the same
step. When the workflow has returned, or was cut short, the strongest trigger decides. From then on the order is
fixed: everything is killed, what was done is undone, the evidence and the end are made durable, and only then is
the end shown. A store that stops accepting changes leaves a run without an end: it is resumable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.blocks.envelope import Request, Response
from runtime.blocks.running import Scope as BlockScope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.events.envelope import ControlSignal, Role
from runtime.events.facts import Escalation, LanesChanged, OutputDelta, RunChanged, RunSummary, StreamEvent
from runtime.execution.node_runner import LEAVING
from runtime.host.assembly import Parts
from runtime.host.prepared import Prepared
from runtime.host.settlement import Settlement
from runtime.host.words import without_secrets
from runtime.kernel.clock import Clock
from runtime.kernel.errors import ContractError, Halted, JournalError, QuarterdeckError, Refused, StorageError
from runtime.kernel.ids import IdSource
from runtime.kernel.outcomes import RunStatus
from runtime.missions.build import run_outputs
from runtime.turns import arbiter
from runtime.turns.arbiter import Terminal, Trigger

#: Operations spec §10.2: the stop file is looked for at least this often, in seconds.
KILL_SWITCH_POLL: Final = 0.5
#: Gauges are published at most this often, in seconds.
_GAUGE_SECONDS: Final = 0.1
#: Actors whose stops are entries of their own; the runtime's own triggers are signals only.
_RUNTIME: Final = "runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPorts:
    """What the host lends a run: ``publish`` shows an event, ``record`` stores a summary, ``changed`` and ``asked`` do
    both. None of them raises: a store in trouble ends runs in its own way."""

    clock: Clock
    ids: IdSource
    publish: Callable[[StreamEvent], None]
    record: Callable[[RunSummary], None]
    changed: Callable[[RunSummary], None]
    asked: Callable[[Escalation], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stop:
    """Why the run was cut short. ``undo`` false keeps what was done; ``leave`` ends the process, not the run;
    ``recorded``: the journal says so already, the process that began it is gone."""

    verb: str
    actor: str
    reason: str
    trigger: Trigger
    undo: bool = True
    leave: bool = False
    recorded: bool = False


class LiveRun:
    """A run this process works on. `start` it once; `done` gives its last summary."""

    def __init__(
        self,
        prepared: Prepared,
        parts: Parts,
        settlement: Settlement,
        ports: RunPorts,
        *,
        closing: Callable[[], None],
    ) -> None:
        self.prepared = prepared
        self.parts = parts
        self.summary = prepared.summary
        self._settlement = settlement
        self._ports = ports
        self._closing = closing
        self._stop: _Stop | None = None
        self._settling = False
        self._ended = False
        self._done: set[str] = set()
        self._work: asyncio.Task[Trigger] | None = None
        self._main: asyncio.Task[RunSummary] | None = None
        self._last_gauges = -_GAUGE_SECONDS
        self._blocks = BlockScope(services=Services(clock=ports.clock, ids=ports.ids))
        for step in prepared.reused:
            self._note_end(step.record.step_id, step.record.status, accepted=step.accepted)
        self.summary = replace(self.summary, steps_done=len(self._done))
        if prepared.past:
            self._count_again(prepared.past)
        parts.scope.on_fence(self._fenced)

    @property
    def run_id(self) -> str:
        return self.summary.run_id

    @property
    def stopping(self) -> bool:
        """Is its end under way, so that no verb can change it any more?"""
        return self._stop is not None or self._settling

    @property
    def recurring(self) -> bool:
        """Does it run once per item of a stream, for as long as that goes on?"""
        return self.prepared.rollback is None and self.parts.workflow.plan().recurring

    @property
    def over(self) -> bool:
        """Has it ended, or been left?"""
        return self._main is not None and self._main.done()

    def start(self) -> None:
        """Begin. The task belongs to this object. A stop that a crash interrupted goes on at once."""
        stop = recorded_stop(self.prepared.past)
        if stop is not None:
            self._stop_with(stop)
        if self.recurring and arbiter.journalled_last_tick(self.prepared.past):
            self._blocks.request_stop()
        self._main = asyncio.create_task(self._live(), name=f"run-{self.run_id[:8]}")

    async def done(self) -> RunSummary:
        """The summary at the end; a waiter may be cancelled without touching the run."""
        assert self._main is not None, "start comes first"
        return await asyncio.shield(self._main)

    async def abandon(self) -> None:
        """The process cannot wait any longer: drop everything where it is; the run is resumable."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait({self._main})

    # -- intents ------------------------------------------------------------------------------------------------

    def cancel(self, *, reason: str, actor: str) -> bool:
        """Fence now; kill and undo follow. False when the run is stopping already."""
        return self._stop_with(_Stop(verb="cancel", actor=actor, reason=reason, trigger=arbiter.cancelled()))

    def preempt(self) -> bool:
        """A newer run takes this one's place: fence, kill, undo."""
        return self._trip(arbiter.cancelled("preempted"))

    def terminate(self, *, reason: str, actor: str) -> bool:
        """Fence and kill, and leave what was done."""
        stop = _Stop(verb="terminate", actor=actor, reason=reason, trigger=arbiter.cancelled(), undo=False)
        return self._stop_with(stop)

    def leave(self, error: QuarterdeckError | None = None) -> bool:
        """Stop without an end, because this process or its store goes: the run stays resumable (ruling R35).

        ``error`` is what the store failed with, for whoever waits for the run.
        """
        trigger = arbiter.cancelled(LEAVING)
        if error is not None:
            self._settlement.refused(error)
        return self._stop_with(
            _Stop(verb="leave", actor=_RUNTIME, reason=LEAVING, trigger=trigger, undo=False, leave=True)
        )

    def end_after_tick(self, *, reason: str, actor: str) -> bool:
        """Let a recurring run finish its current tick and end. False when it is to end already.

        Raises `Refused` ``RUN_NOT_RECURRING``.
        """
        if not self.recurring:
            raise Refused(
                "RUN_NOT_RECURRING",
                f"{self.summary.mission} does not recur: it ends by itself",
                hint="`quarterdeck cancel` ends it now and undoes what it did",
            )
        if self.stopping or self._blocks.stop_requested:
            return False
        self._operator(arbiter.LAST_TICK, actor, reason)
        self._blocks.request_stop()
        return True

    def pause(self, *, reason: str, actor: str) -> bool:
        """Start nothing more until resumed; what runs finishes. False when it is paused or stopping."""
        if self.stopping or not self.parts.gate.pause():
            return False
        self.parts.timer.hold("paused")
        self.prepared.session.pause(self.run_id)
        self._operator("pause", actor, reason)
        self._show(status=RunStatus.PAUSED)
        return True

    def resume(self, *, reason: str, actor: str) -> bool:
        """Let a paused run go on. False when it is not paused."""
        if self.stopping or not self.parts.gate.resume():
            return False
        self.parts.timer.release("paused")
        self.prepared.session.resume(self.run_id)
        self._operator("resume", actor, reason)
        self._show(status=self._going())
        return True

    def questions_changed(self) -> None:
        """A question was asked, answered or withdrawn."""
        if self.stopping:
            return
        self._keep_time()
        if not self.parts.gate.paused:
            self._show(status=self._going())

    def lanes_moved(self) -> None:
        """Attempts began or ended: whether the run solely waits for a human may have changed."""
        if not self.stopping:
            self._keep_time()
        self.show_gauges()

    def _keep_time(self) -> None:
        """Time stands still while the run solely waits for a human (ruling R27)."""
        waiting = len(self.parts.questions.open)
        solely = waiting > 0 and self.parts.loop.running <= waiting
        if solely != ("human" in self.parts.timer.held):
            (self.parts.timer.hold if solely else self.parts.timer.release)("human")

    def _going(self) -> RunStatus:
        return RunStatus.WAITING if self.parts.questions.open else RunStatus.RUNNING

    def _stop_with(self, stop: _Stop) -> bool:
        if self.stopping or self.parts.scope.fenced or self.parts.scope.closed:
            return False
        self._stop = stop
        return self.parts.scope.fence(stop.trigger.reason or "operator_cancel", actor=stop.actor)

    def _fenced(self) -> None:
        """The same synchronous step as the fence: record it, show it, cut the work short (ruling R26)."""
        if self._settling:
            return  # its end is decided; undoing is not covered by the turn's fence
        stop, fence = self._stop, self.parts.scope.fence_in_force
        if stop is None:
            reason, actor = (fence.reason, fence.actor) if fence is not None else (LEAVING, _RUNTIME)
            stop = self._stop = _Stop(verb="cancel", actor=actor, reason=reason, trigger=arbiter.cancelled(reason))
        if self._work is not None:
            self._work.cancel()
        if stop.leave:
            self.parts.streams.fence()  # who continues the run emits again what is lost here
            return
        if not stop.recorded:
            self._record_stop(stop)
        self._record_signals(self.parts.streams.fence())
        self._show(status=RunStatus.STOPPING)

    def _record_stop(self, stop: _Stop) -> None:
        signal = self.prepared.emitter.signal(
            "cancel", Role.CANCEL, turn_id=self.run_id, scope="turn", reason=stop.trigger.reason
        )
        self._record_signals([signal])
        if stop.actor != _RUNTIME:
            try:
                self._operator(stop.verb, stop.actor, stop.reason)
            except QuarterdeckError as error:
                self._settlement.refused(error)

    def _record_signals(self, signals: Sequence[ControlSignal]) -> None:
        """A fence never waits for the disk (ruling R25); that the disk refused is what ends the run then."""
        if not signals:
            return
        try:
            self.prepared.journal.append("signal", signals=[item.record() for item in signals])
        except QuarterdeckError as error:
            self._settlement.refused(error)

    def _operator(self, action: str, actor: str, reason: str) -> None:
        self.prepared.journal.append("operator_action", action=action, actor=actor, reason=reason, target=self.run_id)

    # -- life ---------------------------------------------------------------------------------------------------

    async def _live(self) -> RunSummary:
        lanes = asyncio.create_task(self._serve(self.parts.loop.run), name=f"lanes-{self.run_id[:8]}")
        streams = asyncio.create_task(self._serve(self.parts.streams.run), name=f"streams-{self.run_id[:8]}")
        watch = asyncio.create_task(self._watch(), name=f"watch-{self.run_id[:8]}")
        try:
            return await self._to_the_end(self._blocks)
        except QuarterdeckError as error:
            return self._lost(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours costs this run its end, never its record
            return self._lost(ContractError("runtime_internal_error", f"{type(error).__name__}: {error}"))
        finally:
            watch.cancel()
            streams.cancel()  # by now it can only be waiting for the disk
            self.parts.loop.close()
            try:
                await asyncio.wait({watch, lanes, streams})
                await self.parts.packs.close()
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Give back whatever this run held; its work tree stays marked when there is something to settle."""
        self.parts.scope.close()
        self._closing()
        if self._ended:
            self.prepared.control.release()
        else:
            self.prepared.control.leave()

    async def _serve(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop of lanes or streams that fails would leave its attempts waiting: the run ends instead."""
        try:
            await loop()
        except QuarterdeckError as error:
            self._broken(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the attempts waiting either
            self._broken(ContractError("runtime_internal_error", f"{type(error).__name__}: {error}"))

    def _broken(self, error: QuarterdeckError) -> None:
        self._settlement.refused(error)
        self._trip(arbiter.no_legal_path("runtime_internal_error", code=error.code))

    async def _to_the_end(self, scope: BlockScope) -> RunSummary:
        triggers = [await self._work_through(scope)]
        if self._stop is None or not self._stop.leave:
            triggers += await self._settlement.governed()
        noticed = self.parts.streams.finish()
        if self._stop is not None:
            triggers.append(self._stop.trigger)
            if self._stop.leave:
                return self._left()
        terminal = arbiter.choose(triggers)
        assert terminal is not None, "there is always the work's own trigger"
        self._settling = True
        if terminal.trigger.reason == arbiter.KILL_SWITCH:
            self._settlement.stopped_by_switch(done=self._done)
        self._settlement.halted(terminal)
        if self._undoes(terminal):
            terminal = await self._settlement.undo(terminal)
        outputs = self._outputs(scope) if terminal.ending.status is RunStatus.SUCCEEDED else None
        final = replace(self.figures(), outputs=outputs)
        pending = (*noticed, *self.parts.loop.queues.flush())
        kept = self._stop is not None and self._stop.verb == "terminate"
        self.summary = await self._settlement.close(terminal, final, pending, offering=kept)
        self._ended = True
        self._ports.publish(RunChanged(run=self.summary))
        return self.summary

    def _left(self) -> RunSummary:
        """Shown as resumable, with why when it was the store's doing."""
        error = self._settlement.refusal
        if error is not None:
            return self._lost(error)
        return self._show(resumable=True, message="its process closed; resume it to go on")

    async def _work_through(self, scope: BlockScope) -> Trigger:
        """Repair what a crash left, run the workflow, and say what that amounts to."""
        try:
            if self.prepared.history is not None:
                await self._settlement.repair()
            trigger = await self._execute(scope)
        except Halted as halted:
            trigger = arbiter.because(arbiter.node_failed(halted.code), halted.message)
        except asyncio.CancelledError:
            if self._stop is None:
                raise  # the event loop is going down under us
            return self._stop.trigger
        except (JournalError, StorageError):
            raise
        except QuarterdeckError as error:
            trigger = arbiter.because(arbiter.node_failed(error.code), error.message)
        if trigger.rank is not arbiter.Rank.CANCELLED:
            return trigger
        # The work met a fence, or the stop file before our own look at it did: there is one stop, and it says why.
        self._trip(trigger)
        return self._stop.trigger if self._stop is not None else trigger

    async def _execute(self, scope: BlockScope) -> Trigger:
        self.parts.scope.check()
        rollback = self.prepared.rollback
        work = self._workflow(scope) if rollback is None else self._settlement.roll_back(rollback)
        self._work = asyncio.create_task(work, name=f"work-{self.run_id[:8]}")
        try:
            return await self._work
        finally:
            self._work.cancel()
            await asyncio.wait({self._work})

    async def _workflow(self, scope: BlockScope) -> Trigger:
        metadata = {"run_id": self.run_id, "trace_id": self.run_id.replace("-", "")}
        request = Request(payload=BlockValue.of(dict(self.prepared.inputs)), metadata=metadata)
        return _trigger_of(await self.parts.workflow.execute(request, runner=self.parts.runner, scope=scope))

    def _undoes(self, terminal: Terminal) -> bool:
        if terminal.commits or (self._stop is not None and not self._stop.undo):
            return False
        return self.prepared.mission.spec.on_failure == "compensate"

    def _outputs(self, scope: BlockScope) -> Mapping[str, Any] | None:
        if self.prepared.rollback is not None:
            return None
        ledger = scope.root.ledger.view if scope.root is not None else {}
        produced = {name: value for name, value in ledger.items() if not name.startswith("$")}
        return run_outputs(self.prepared.mission, self.prepared.inputs, produced)

    def _lost(self, error: QuarterdeckError) -> RunSummary:
        """The store does not hold the end, so there is none: shown as resumable, from memory (ruling R25)."""
        told = replace(self.figures(), resumable=True, code=error.code, message=error.message)
        self.summary = without_secrets(told, self.prepared.secrets.redactor)
        self._ports.publish(RunChanged(run=self.summary))
        return self.summary

    # -- watching -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Time and the kill switch: two more triggers of the same fence."""
        exhausted = asyncio.create_task(self.parts.timer.wait_exhausted())
        try:
            while not (self.parts.scope.fenced or self._settling):
                await asyncio.wait({exhausted}, timeout=KILL_SWITCH_POLL)
                if exhausted.done():
                    self._trip(arbiter.budget_exhausted(by_time=True))
                elif await asyncio.to_thread(self.prepared.control.kill_switch_set):
                    self._trip(arbiter.cancelled(arbiter.KILL_SWITCH))
                self.show_gauges()
        finally:
            exhausted.cancel()
            await asyncio.wait({exhausted})

    def _trip(self, trigger: Trigger) -> bool:
        return self._stop_with(_Stop(verb="cancel", actor=_RUNTIME, reason=trigger.reason, trigger=trigger))

    # -- showing ------------------------------------------------------------------------------------------------

    def output(self, step_id: str, stream: str, text: str) -> None:
        """A piece of live output; nothing of a fenced run is shown."""
        if not self.parts.scope.fenced:
            self._ports.publish(OutputDelta(run_id=self.run_id, step_id=step_id, stream=stream, text=text))

    def entered(self, entry: Mapping[str, Any]) -> None:
        """An entry joined the journal: keep the summary's figures in step."""
        self._count(entry)
        if entry["kind"] in ("step_started", "step_finished", "operation_denied") and not self._settling:
            self._show()
            self.show_gauges()

    def _count_again(self, past: Iterable[Mapping[str, Any]]) -> None:
        """A crash may have come between an entry and its figures: the journal knows."""
        self.summary = replace(self.summary, violations=0)
        for entry in past:
            self._count(entry)

    def _count(self, entry: Mapping[str, Any]) -> None:
        kind = entry["kind"]
        figures: dict[str, Any] = {"entries": entry["seq"] + 1, "head_hash": entry["entry_hash"]}
        if kind == "operation_denied":
            figures["violations"] = self.summary.violations + 1
        elif kind == "step_finished":
            self._note_end(entry["step_id"], entry["status"], accepted=bool(entry.get("accepted")))
        self.summary = replace(self.summary, **figures, steps_done=len(self._done))

    def _note_end(self, step_id: str, status: str, *, accepted: bool) -> None:
        if step_id in self.prepared.mission.spec.blocks:
            done = status in ("completed", "skipped") or accepted
            (self._done.add if done else self._done.discard)(step_id)

    def show_gauges(self) -> None:
        """Publish lane and pool gauges, at most ten times a second."""
        now = self._ports.clock.monotonic()
        if now - self._last_gauges < _GAUGE_SECONDS:
            return
        self._last_gauges = now
        stats = self.parts.pool.stats()
        self._ports.publish(
            LanesChanged(
                run_id=self.run_id,
                lanes=self.parts.loop.queues.states(),
                streams=self.parts.streams.states(),
                pool_running=stats.in_flight,
                pool_slots=stats.workers,
            )
        )

    def figures(self) -> RunSummary:
        """The summary as of now."""
        return replace(self.summary, duration_ms=int(self.parts.timer.elapsed * 1000))

    def _show(self, **changes: Any) -> RunSummary:
        self.summary = replace(self.figures(), **changes)
        self._ports.changed(self.summary)
        return self.summary


def _trigger_of(response: Response) -> Trigger:
    return arbiter.work_ended(
        success=response.success, skipped=response.skipped, code=response.code, message=response.message
    )


def recorded_stop(past: Iterable[Mapping[str, Any]]) -> _Stop | None:
    """The stop a journal tells of that has no end yet: whoever continues the run finishes that, not the work."""
    told = arbiter.journalled_stop(past)
    if told is None:
        return None
    verb, reason = told
    return _Stop(
        verb=verb,
        actor=_RUNTIME,
        reason=reason,
        trigger=arbiter.stopped(reason),
        undo=verb != "terminate",
        recorded=True,
    )
