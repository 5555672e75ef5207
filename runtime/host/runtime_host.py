"""The composition root: holds the store, opens turns, owns live runs, and is the only door to them.

One host per store, on one event loop: its own thread under the console, the main loop headless. Intents come in as
method calls, from a face in this process or over the control socket; facts go out through the hub. Closing the host
lets every run stop at once and stay resumable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from runtime.egress.scopes import CancelTree, ScopeKind
from runtime.events.facts import Escalation, HolderChanged, InboxChanged, JournalVerified, RunChanged, RunSummary
from runtime.execution.pool import ExecutionPool
from runtime.governance.sandbox import Sandbox
from runtime.host.api import Ack, Answer, Launch
from runtime.host.assembly import Shared, environment
from runtime.host.control import ControlServer
from runtime.host.launching import Launcher
from runtime.host.live_run import LiveRun, RunPorts
from runtime.host.observer import summary_record
from runtime.host.reads import StoreReads
from runtime.host.stream import EventHub, Feed
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Refused, StorageError
from runtime.kernel.ids import IdSource
from runtime.storage.escalations import insert_escalation, resolve_escalation
from runtime.storage.layout import StateDir
from runtime.storage.runs import update_run
from runtime.storage.store import Store
from runtime.turns.session import SessionManager

#: Runs of one host at the same time; more are refused with the reason.
MAX_LIVE_RUNS: Final = 64
#: How long closing waits for runs to stop, in seconds.
CLOSE_SECONDS: Final = 30.0
#: A live journal is verified again at most this often, in seconds, and never more than a tenth of the time.
VERIFY_SECONDS: Final = 2.0
_VERIFY_SHARE: Final = 10
_LOG: Final = logging.getLogger(__name__)

_STORED: Final = (
    "status",
    "reason",
    "code",
    "message",
    "exit_code",
    "finished_at",
    "duration_ms",
    "outputs",
    "entries",
    "head_hash",
    "violations",
    "steps_done",
)


class RuntimeHost(StoreReads):
    """The holder's deck. Build with `open`."""

    def __init__(
        self, store: Store, *, missions: Sequence[Path], clock: Clock, ids: IdSource, sandbox: Sandbox
    ) -> None:
        super().__init__(store, missions=missions, clock=clock)
        self._hub = EventHub()
        self._runs: dict[str, LiveRun] = {}
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        tree = CancelTree(clock)
        self._shared = Shared(
            clock=clock,
            ids=ids,
            pool=ExecutionPool(clock=clock),
            scopes=tree,
            session_scope=tree.open(ScopeKind.SESSION, ids.uuid()),
            artifacts=store.artifacts,
            sandbox=sandbox,
            environ=environment(),
            scratch=store.state.work,
        )
        self._launcher = Launcher(store, self._shared, SessionManager(clock))
        self._server = ControlServer(store.state.socket, self._handle)
        store.live_run_ids = lambda: self._runs

    @classmethod
    async def open(cls, state: StateDir, *, missions: Sequence[Path], clock: Clock, ids: IdSource) -> RuntimeHost:
        """Become the holder. Raises `StorageError` ``STORE_*``."""
        opened: list[RuntimeHost] = []
        store = await Store.open(state, clock, ids, on_poison=lambda error: opened[0]._poisoned(error))
        try:
            sandbox = await Sandbox.detect("best_effort", clock=clock)
            host = cls(store, missions=missions, clock=clock, ids=ids, sandbox=sandbox)
            opened.append(host)
            await host._server.start(store.lock)
        except BaseException:
            await store.close()
            raise
        return host

    @property
    def read_only(self) -> bool:
        return False

    # -- intents ------------------------------------------------------------------------------------------------

    async def launch(self, intent: Launch) -> RunSummary:
        if self._closing or len(self._runs) + self._starting >= MAX_LIVE_RUNS:
            raise Refused("admission_capacity_reject", f"{MAX_LIVE_RUNS} runs are live; wait for one to end")
        self._starting += 1
        try:
            begun = await self._launcher.launch(intent, self._ports())
        finally:
            self._starting -= 1
        if isinstance(begun, LiveRun):
            self._adopt(begun)
            return begun.summary
        self._hub.publish(RunChanged(run=begun))
        return begun

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        return await self._stop(run_id, "cancel", reason)

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        return await self._stop(run_id, "terminate", reason)

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        run = self._runs.get(run_id)
        if run is None:
            return await self._not_live(run_id, "pause")
        done = run.pause(reason=reason, actor="operator")
        return Ack(
            done=done,
            run_id=run_id,
            message="paused: running work finishes" if done else "it is paused or stopping already",
        )

    async def resume(self, run_id: str, reason: str = "") -> Ack:
        run = self._runs.get(run_id)
        if run is not None:
            done = run.resume(reason=reason, actor="operator")
            return Ack(done=done, run_id=run_id, message="resumed" if done else "it is not paused")
        return await self._revive(run_id, reason)

    async def _revive(self, run_id: str, reason: str) -> Ack:
        summary = await self._known(run_id)
        if not summary.resumable:
            return Ack(done=False, run_id=run_id, message=f"it has ended: {summary.status.value}")
        run = await self._launcher.resume(run_id, reason, self._ports())
        self._adopt(run)
        return Ack(done=True, run_id=run_id, message="resumed after a crash: finished steps are reused")

    async def _stop(self, run_id: str, verb: str, reason: str) -> Ack:
        run = self._runs.get(run_id)
        if run is None:
            summary = await self._known(run_id)
            if not summary.resumable:
                return await self._not_live(run_id, verb)
            run = await self._launcher.resume(run_id, reason, self._ports())
            self._adopt(run)
        done = (run.cancel if verb == "cancel" else run.terminate)(reason=reason, actor="operator")
        words = {"cancel": "fenced; killing and undoing", "terminate": "fenced; killing, keeping what was done"}
        return Ack(done=done, run_id=run_id, message=words[verb] if done else "it is stopping already")

    async def _not_live(self, run_id: str, verb: str) -> Ack:
        summary = await self._known(run_id)
        state = "crashed; resume it first" if summary.resumable else f"{summary.status.value} already"
        return Ack(done=False, run_id=run_id, message=f"cannot {verb}: it is {state}")

    async def _known(self, run_id: str) -> RunSummary:
        summary = await self._store.runs.get(run_id)
        if summary is None:
            raise Refused("RUN_UNKNOWN", f"there is no run {run_id}", hint="`quarterdeck runs` lists them")
        return summary

    async def answer(self, intent: Answer) -> Ack:
        run = next((item for item in self._runs.values() if intent.escalation_id.startswith(item.run_id)), None)
        if run is None:
            raise Refused(
                "APPROVAL_UNKNOWN",
                f"question {intent.escalation_id} is not open in a live run",
                hint="resume the run first if it crashed",
            )
        await run.parts.questions.answer(
            intent.escalation_id, resolution=intent.resolution, by=intent.by, notes=intent.notes
        )
        return Ack(done=True, run_id=run.run_id, message=f"recorded: {intent.resolution}")

    async def wait(self, run_id: str) -> RunSummary:
        run = self._runs.get(run_id)
        return await run.done() if run is not None else await self._known(run_id)

    def subscribe(self) -> Feed:
        return self._hub.subscribe(asyncio.get_running_loop())

    async def find(self, selector: str) -> RunSummary:
        """A live run's figures are newer than its row."""
        found = await super().find(selector)
        run = self._runs.get(found.run_id)
        return run.summary if run is not None else found

    # -- live runs ----------------------------------------------------------------------------------------------

    def _ports(self) -> RunPorts:
        return RunPorts(
            clock=self._shared.clock,
            ids=self._shared.ids,
            publish=self._hub.publish,
            changed=self._changed,
            asked=self._asked,
        )

    def _adopt(self, run: LiveRun) -> None:
        self._runs[run.run_id] = run
        run.start()
        task = asyncio.create_task(self._outlive(run), name=f"outlive-{run.run_id[:8]}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        self._changed(run.summary)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s failed", task.get_name(), exc_info=error)

    async def _outlive(self, run: LiveRun) -> None:
        """Verify a run while it lives, see it to its end, then show its last verdict."""
        verifying = asyncio.create_task(self._verify_live(run), name=f"verify-{run.run_id[:8]}")
        try:
            final = await run.done()
        finally:
            verifying.cancel()
            await asyncio.wait({verifying})
            self._finished(verifying)
            self._runs.pop(run.run_id, None)
        self._hub.publish(RunChanged(run=final))
        if not self._closing and self._store.poisoned is None:
            self._hub.publish(JournalVerified(verification=await self.verify(run.run_id)))

    async def _verify_live(self, run: LiveRun) -> None:
        """Check the chain on disk while the run goes on, never taking more than a tenth of the time."""
        checked = -1
        pause = VERIFY_SECONDS / 4
        while run.run_id in self._runs and not self._closing:
            await self._shared.clock.sleep(pause)
            entries = run.prepared.journal.entries
            if entries == checked or run.run_id not in self._runs:
                continue
            await self._store.flush()
            verdict = await self.verify(run.run_id)
            self._hub.publish(JournalVerified(verification=verdict))
            checked = entries
            pause = max(VERIFY_SECONDS, verdict.duration_ms / 1000 * _VERIFY_SHARE)

    def _changed(self, run: RunSummary) -> None:
        """Store and show a summary. A store in trouble still shows."""
        if self._store.poisoned is None and not run.resumable:
            members = {name: getattr(run, name) for name in _STORED}
            self._store.submit([update_run(run.run_id, **members, last_seq=run.entries - 1)])
        self._hub.publish(RunChanged(run=run))

    def _asked(self, question: Escalation) -> None:
        if question.resolved_at is None:
            self._store.submit([insert_escalation(question)])
        else:
            self._store.submit(
                [
                    resolve_escalation(
                        question.run_id,
                        question.escalation_id,
                        resolution=question.resolution or "",
                        resolved_by=question.resolved_by or "",
                        notes=question.notes or "",
                        at=question.resolved_at,
                    )
                ]
            )
        run = self._runs.get(question.run_id)
        if run is not None:
            run.questions_changed()
        opened = tuple(item for live in self._runs.values() for item in live.parts.questions.open)
        self._hub.publish(InboxChanged(escalations=tuple(sorted(opened, key=lambda item: item.created_at))))

    def _poisoned(self, error: StorageError) -> None:
        """The store accepts nothing more: every run stops where it is and stays resumable."""
        _LOG.error("the store stopped accepting changes: %s", error)
        for run in list(self._runs.values()):
            run.leave()
        self._hub.publish(HolderChanged(holder=None, read_only=True))

    # -- the control socket -------------------------------------------------------------------------------------

    async def _handle(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """One request of another process (ruling R35)."""
        verb = request.get("verb")
        arguments = {name: value for name, value in request.items() if name != "verb"}
        answer = _REMOTE.get(str(verb))
        if answer is None:
            raise Refused("CONTROL_VERB", f"there is no verb {verb!r}")
        try:
            yield await answer(self, arguments)
        except TypeError as error:
            raise Refused("CONTROL_VERB", f"{verb}: {error}") from None

    async def close(self) -> None:
        """Let runs stop where they are, resumable; then close the store. Idempotent."""
        if self._closing:
            return
        self._closing = True
        await self._server.close()
        runs = list(self._runs.values())
        for run in runs:
            run.leave()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._store.close()


_Remote = Callable[[RuntimeHost, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


async def _ping(host: RuntimeHost, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"at": timestamp(host._shared.clock.now())}


async def _launch(host: RuntimeHost, arguments: dict[str, Any]) -> dict[str, Any]:
    return summary_record(await host.launch(Launch(**arguments)))


async def _wait(host: RuntimeHost, arguments: dict[str, Any]) -> dict[str, Any]:
    return summary_record(await host.wait(str(arguments["run_id"])))


async def _answer(host: RuntimeHost, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.answer(Answer(**arguments)))


def _control(verb: str) -> _Remote:
    async def act(host: RuntimeHost, arguments: dict[str, Any]) -> dict[str, Any]:
        method = getattr(host, verb)
        return asdict(await method(str(arguments["run_id"]), str(arguments.get("reason", ""))))

    return act


_REMOTE: Final[dict[str, _Remote]] = {
    "ping": _ping,
    "launch": _launch,
    "wait": _wait,
    "answer": _answer,
    **{verb: _control(verb) for verb in ("cancel", "terminate", "pause", "resume")},
}
