"""The composition root: holds the store, opens turns, owns live runs, and is the only door to them.

One host per store, on one event loop: its own thread under the console, the main loop headless. Intents come in as
method calls, from a face in this process or over the control socket; facts go out through the hub. Closing the host
lets every run stop at once and stay resumable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from runtime.egress.scopes import CancelTree, ScopeKind
from runtime.events.facts import (
    Escalation,
    FileChange,
    HolderChanged,
    InboxChanged,
    JournalVerified,
    RunChanged,
    RunSummary,
    WatchesChanged,
    WatchState,
)
from runtime.execution.pool import ExecutionPool
from runtime.execution.questions import WITHDRAWN
from runtime.governance.sandbox import Sandbox
from runtime.host.api import Ack, Answer, Launch, TrustedPack, Watch
from runtime.host.assembly import Shared, environment
from runtime.host.ceremonies import Ceremonies
from runtime.host.checkpointing import CheckpointDesk
from runtime.host.control import ControlServer
from runtime.host.launching import Launcher
from runtime.host.live_run import LiveRun, RunPorts
from runtime.host.log_redaction import LogRedaction
from runtime.host.offers import Offers
from runtime.host.pack_trust import PackTrust, read_trust
from runtime.host.policy import Policies
from runtime.host.reads import StoreReads
from runtime.host.remote_verbs import REMOTE
from runtime.host.resuming import settle_row
from runtime.host.run_rows import RunRows
from runtime.host.signing import Signer
from runtime.host.sinks.port import Sink
from runtime.host.spending import Spending
from runtime.host.store_journal import StoreJournal
from runtime.host.stream import EventHub, Feed
from runtime.host.verifying import LiveCheck, verify_live
from runtime.host.watch_journal import OwnJournals
from runtime.host.watches import Watches
from runtime.host.watching import WatchPorts
from runtime.host.words import plain_words
from runtime.kernel.clock import Clock
from runtime.kernel.errors import QuarterdeckError, Refused, StorageError
from runtime.kernel.ids import IdSource
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.redaction import Redactor
from runtime.storage.escalations import escalation_told
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

#: Runs of one host at the same time; more are refused with the reason.
MAX_LIVE_RUNS: Final = 64
#: How long closing waits for runs to stop, in seconds.
CLOSE_SECONDS: Final = 30.0
_LOG: Final = logging.getLogger(__name__)


class RuntimeHost(StoreReads):
    """The holder's deck. Build with `open`."""

    def __init__(
        self,
        store: Store,
        desk: CheckpointDesk,
        journal: StoreJournal,
        *,
        missions: Sequence[Path],
        clock: Clock,
        ids: IdSource,
        sandbox: Sandbox,
        redactor: Redactor,
        trusted: Sequence[TrustedPack] = (),
    ) -> None:
        super().__init__(store, missions=missions, clock=clock)
        self._hub = EventHub()
        self._desk = desk
        self._journal = journal
        self._runs: dict[str, LiveRun] = {}
        self._rows = RunRows(store)
        self._opening: dict[str, asyncio.Task[LiveRun | RunSummary]] = {}
        self._orphans: tuple[RunSummary, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._closed: asyncio.Task[None] | None = None
        tree, spending = CancelTree(clock), Spending(store, clock)
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
            state=store.state.root,
            redactor=redactor,
            day=spending.day,
        )
        self._undoing: dict[str, str] = {}
        self._offers = Offers(store, journal, clock, self._asked)
        policies = Policies(store.state, desk.evidence)
        trust = PackTrust(trusted)
        self._ceremonies = Ceremonies(store.state.latches, policies, journal, desk, clock, trust)
        self._launcher = Launcher(store, desk, journal, self._shared, policies, spending, trust)
        self._watches = Watches(self._watch_ports())
        self._server = ControlServer(store.state.socket, self._handle)
        self._log = LogRedaction(redactor)
        store.live_run_ids = lambda: self._held

    @classmethod
    async def open(
        cls,
        state: StateDir,
        *,
        missions: Sequence[Path],
        clock: Clock,
        ids: IdSource,
        sandbox: Sandbox | None = None,
        signer: Signer | None = None,
        sinks: Sequence[Sink] | None = None,
    ) -> RuntimeHost:
        """Become the holder. Raises `StorageError` ``STORE_*``. ``sandbox`` None: the best this machine has; ``signer``
        and ``sinks`` None: those of the state folder."""
        opened: list[RuntimeHost] = []
        # Before there is a host there is no run to stop, and what is submitted next fails by itself.
        store = await Store.open(
            state, clock, ids, on_poison=lambda error: opened[0]._poisoned(error) if opened else None
        )
        desk: CheckpointDesk | None = None
        try:
            sandbox = sandbox or await Sandbox.detect("best_effort", clock=clock)
            redactor = Redactor()
            desk = await CheckpointDesk.open(store, clock, signer=signer, sinks=sinks)
            journal = await StoreJournal.open_for(store, desk.store_journal(), clock, redactor, key=desk.key)
            desk.tells(journal.append)
            host = cls(
                store,
                desk,
                journal,
                missions=missions,
                clock=clock,
                ids=ids,
                sandbox=sandbox,
                redactor=redactor,
                trusted=await read_trust(store),
            )
            opened.append(host)
            await host._take_stock()
            await host._server.start(store.lock)
            host._log.attach()
        except BaseException:
            if desk is not None:
                await desk.close()
            await store.close()
            raise
        return host

    async def _take_stock(self) -> None:
        """Runs of earlier holders: those whose end is on disk have ended, the others are resumable."""
        orphans = []
        for record in await self._store.runs.unfinished():
            if await settle_row(self._store, record.summary) is None:
                orphans.append(record.summary)
        self._orphans = tuple(orphans)
        await self._desk.losses.take_stock(orphans, self._asked)
        await self._offers.load()
        await self._store.flush()

    @property
    def _held(self) -> set[str]:
        """Runs somebody here works on, those being opened included."""
        return {*(run_id for run_id, run in self._runs.items() if not run.over), *self._opening}

    def _live(self, run_id: str) -> LiveRun | None:
        run = self._runs.get(run_id)
        return None if run is None or run.over else run

    @property
    def read_only(self) -> bool:
        return False

    # -- intents ------------------------------------------------------------------------------------------------

    async def launch(self, intent: Launch) -> RunSummary:
        return await self._launch(self._shared.ids.uuid(), intent)

    async def _launch(self, run_id: str, intent: Launch, changes: Sequence[FileChange] = ()) -> RunSummary:
        return await self._begin(run_id, lambda: self._launcher.launch(run_id, intent, self._ports(), changes))

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        # Two undoings of one run at once would each meet the other's changes: whoever asks meanwhile gets the same run.
        self._undoing = {old: new for old, new in self._undoing.items() if new in self._held}
        new = self._undoing.setdefault(run_id, self._shared.ids.uuid())
        going = self._live(new)
        if going is not None:
            return going.figures()
        return await self._begin(
            new, lambda: self._launcher.undo(new, run_id, self._ports(), reason=reason, approved=approved)
        )

    async def _begin(self, run_id: str, work: Callable[[], Coroutine[Any, Any, LiveRun | RunSummary]]) -> RunSummary:
        """A new run, live or refused."""
        if len(self._held) >= MAX_LIVE_RUNS:
            raise Refused("admission_capacity_reject", f"{MAX_LIVE_RUNS} runs are live; wait for one to end")
        begun = await self._opened(run_id, work)
        if isinstance(begun, LiveRun):
            return begun.summary
        self._hub.publish(RunChanged(run=begun))
        return begun

    async def _opened(
        self, run_id: str, work: Callable[[], Coroutine[Any, Any, LiveRun | RunSummary]]
    ) -> LiveRun | RunSummary:
        """Open a run in a task of the host's own, so that a caller who leaves cannot tear it apart half-way.

        Whoever asks for the same run meanwhile gets the same answer.
        """
        if self._closing:
            raise _leaving()
        task = self._opening.get(run_id)
        if task is None:
            task = self._opening[run_id] = asyncio.create_task(self._open(run_id, work), name=f"open-{run_id[:8]}")
            task.add_done_callback(_retrieved)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it is the caller who leaves; the run opens all the same
            raise Refused("runtime_shutdown", "this process closed the store while the run was opening") from None

    async def _open(
        self, run_id: str, work: Callable[[], Coroutine[Any, Any, LiveRun | RunSummary]]
    ) -> LiveRun | RunSummary:
        try:
            begun = await work()
            if isinstance(begun, LiveRun):
                self._adopt(begun)
            return begun
        finally:
            del self._opening[run_id]

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        return await self._stop(run_id, "cancel", reason)

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        return await self._stop(run_id, "terminate", reason)

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        run = self._live(run_id)
        if run is None:
            return await self._not_live(run_id, "stop")
        done = run.end_after_tick(reason=plain_words(reason), actor="operator")
        message = "it ends when its current tick is done" if done else "it is ending already"
        return Ack(done=done, run_id=run_id, message=message)

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        run = self._live(run_id)
        if run is None:
            return await self._not_live(run_id, "pause")
        done = run.pause(reason=plain_words(reason), actor="operator")
        message = "paused: running work finishes" if done else "it is paused or stopping already"
        return Ack(done=done, run_id=run_id, message=message)

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        run = self._live(run_id)
        if run is not None:
            done = run.resume(reason=plain_words(reason), actor="operator")
            return Ack(done=done, run_id=run_id, message="resumed" if done else "it is not paused")
        summary = await self._known(run_id)
        if not summary.resumable and run_id not in self._opening:
            return Ack(done=False, run_id=run_id, message=f"it has ended: {summary.status.value}")
        run = await self._revive(run_id, reason, unattended)
        how = "its stop is carried through" if run.stopping else "finished steps are reused"
        return Ack(done=True, run_id=run_id, message=f"resumed after a crash: {how}")

    async def _revive(self, run_id: str, reason: str, unattended: bool | None = None) -> LiveRun:
        """Bring a run nobody works on back to life; a second caller meanwhile gets the same live run."""
        begun = await self._opened(
            run_id, lambda: self._launcher.resume(run_id, reason, self._ports(), unattended=unattended)
        )
        if not isinstance(begun, LiveRun):
            raise Refused("RUN_UNKNOWN", f"run {run_id} did not begin: {begun.code}")
        return begun

    async def _stop(self, run_id: str, verb: str, reason: str) -> Ack:
        run, revived = self._live(run_id), False
        if run is None:
            summary = await self._known(run_id)
            if not summary.resumable and run_id not in self._opening:
                return await self._not_live(run_id, verb)
            run, revived = await self._revive(run_id, reason), True
        stop = run.cancel if verb == "cancel" else run.terminate
        done = stop(reason=plain_words(reason), actor="operator") or (revived and run.stopping)
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
        known = self._as_held(summary)
        if not known.resumable:
            return known
        return await settle_row(self._store, known) or known

    def _as_held(self, row: RunSummary) -> RunSummary:
        """A row as the holder knows it: a live run's figures are newer, and one nobody works on is resumable."""
        run = self._live(row.run_id)
        if run is not None:
            return run.figures()
        return replace(row, resumable=not row.status.terminal and row.run_id not in self._held)

    async def answer(self, intent: Answer) -> Ack:
        offered = self._offers.about(intent.escalation_id)
        if offered is not None:
            return await self._offers.answer(offered, intent, self.undo)
        run = next((item for item in self._runs.values() if intent.escalation_id.startswith(item.run_id)), None)
        if run is None:
            raise Refused(
                "APPROVAL_UNKNOWN",
                f"question {intent.escalation_id} is not open in a live run",
                hint="resume the run first if it crashed",
            )
        clean = run.prepared.secrets.redactor.text
        await run.parts.questions.answer(
            intent.escalation_id,
            resolution=intent.resolution,
            by=plain_words(intent.by),
            notes=plain_words(clean(intent.notes)),
        )
        return Ack(done=True, run_id=run.run_id, message=f"recorded: {intent.resolution}")

    async def drained(self) -> None:
        while busy := {*self._tasks, *self._opening.values(), *self._watches.tasks}:
            await asyncio.wait(busy)

    async def wait(self, run_id: str) -> RunSummary:
        run = self._runs.get(run_id)
        return await run.done() if run is not None else await self._known(run_id)

    def subscribe(self) -> Feed:
        feed = self._hub.subscribe(asyncio.get_running_loop())
        for run in self._orphans:
            if run.run_id not in self._held:
                feed.push(RunChanged(run=replace(run, resumable=True)))
        return feed

    async def find(self, selector: str) -> RunSummary:
        return self._as_held(await super().find(selector))

    async def runs(
        self,
        *,
        text: str = "",
        statuses: Sequence[RunStatus] = (),
        before: tuple[str, str] | None = None,
        limit: int = 100,
        sort: str = "created",
        descending: bool = True,
        offset: int = 0,
    ) -> tuple[RunSummary, ...]:
        rows = await super().runs(
            text=text, statuses=statuses, before=before, limit=limit, sort=sort, descending=descending, offset=offset
        )
        return tuple(self._as_held(row) for row in rows)

    async def lineage(self, run_id: str) -> tuple[RunSummary, ...]:
        return tuple(self._as_held(row) for row in await super().lineage(run_id))

    async def watch(self, intent: Watch) -> WatchState:
        if self._closing:
            raise _leaving()
        return await self._watches.arm(intent)

    async def unwatch(self, watch_id: str) -> Ack:
        return await self._watches.disarm(watch_id)

    async def rearm(self, watch_id: str) -> Ack:
        return self._watches.rearm(watch_id)

    async def watches(self) -> tuple[WatchState, ...]:
        return self._watches.states

    async def unlatch(self, path: str, reason: str) -> Ack:
        return await self._ceremonies.unlatch(path, reason)

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        return await self._desk.losses.accept(self._journal, journal_id, reason)

    async def rotate_key(self, reason: str) -> Ack:
        return await self._ceremonies.rotate_key(self._store.state, reason)

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        return await self._ceremonies.unprotect(path, pattern, digest, reason)

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        return await self._ceremonies.trust_pack(path, digest, in_process=in_process)

    async def untrust_pack(self, digest: str) -> Ack:
        return await self._ceremonies.untrust_pack(digest)

    # -- live runs ----------------------------------------------------------------------------------------------

    def _ports(self) -> RunPorts:
        return RunPorts(
            clock=self._shared.clock,
            ids=self._shared.ids,
            publish=self._hub.publish,
            record=self._rows.record,
            changed=self._changed,
            asked=self._asked,
        )

    def _watch_ports(self) -> WatchPorts:
        return WatchPorts(
            clock=self._shared.clock,
            ids=self._shared.ids,
            ours=(self._store.state.root.resolve(),),
            launch=self._launch,
            withdraw=self._withdraw,
            preempt=self._preempt,
            done=self.wait,
            doings=OwnJournals(self._store).doings,
            changed=lambda: self._hub.publish(WatchesChanged(watches=self._watches.states)),
            record=self._record_watch,
        )

    def _withdraw(self, run_id: str) -> None:
        """Give up a run that has not begun."""
        opening = self._opening.get(run_id)
        if opening is not None:
            opening.cancel()

    def _preempt(self, run_id: str) -> bool:
        run = self._live(run_id)
        return run is not None and run.preempt()

    def _record_watch(self, action: str, *, actor: str = "operator", **members: str) -> None:
        """Watching is told in the store's journal; a store in trouble tells of itself."""
        try:
            self._journal.append(
                "operator_action",
                action=action,
                actor=actor,
                **{name: plain_words(text) for name, text in members.items()},
            )
        except QuarterdeckError as error:
            _LOG.warning("%s could not be recorded: %s", action, error)

    def _adopt(self, run: LiveRun) -> None:
        self._runs[run.run_id] = run
        self._rows.forget(run.run_id)
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
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]
                self._rows.forget(run.run_id)
        self._orphans = tuple(item for item in self._orphans if item.run_id != run.run_id)
        if final.status.terminal:
            await self._close_questions(final)
        undone = run.prepared.rollback
        if undone is not None and final.status is RunStatus.SUCCEEDED and self._store.poisoned is None:
            self._offers.undone(undone.run.run_id, run.run_id)
        if not self._closing and self._store.poisoned is None:
            self._hub.publish(JournalVerified(verification=await self.verify(run.run_id)))

    async def _close_questions(self, run: RunSummary) -> None:
        """A run that has ended asks nothing any more, whatever a crash left in the inbox."""
        for question in await self._store.escalations.list(run_id=run.run_id, open_only=True):
            if not question.offers_undo:
                self._asked(replace(question, resolved_at=run.finished_at, resolution=WITHDRAWN, resolved_by="runtime"))

    async def _verify_live(self, run: LiveRun) -> None:
        await verify_live(
            run,
            LiveCheck(self._store, self._shared.clock, run.run_id),
            clock=self._shared.clock,
            going=lambda: run.run_id in self._runs and not self._closing and self._store.poisoned is None,
            show=lambda verdict: self._hub.publish(JournalVerified(verification=verdict)),
        )

    def _changed(self, run: RunSummary) -> None:
        """Store and show a summary."""
        self._rows.record(run)
        self._hub.publish(RunChanged(run=run))

    def _asked(self, question: Escalation) -> None:
        self._rows.submit(escalation_told(question))
        run = self._runs.get(question.run_id)
        if run is not None:
            run.questions_changed()
        self._offers.note(question)
        opened = [item for live in self._runs.values() for item in live.parts.questions.open]
        opened.extend((*self._offers.open, *self._desk.losses.notices))
        self._hub.publish(InboxChanged(escalations=tuple(sorted(opened, key=lambda item: item.created_at))))

    def _poisoned(self, error: StorageError) -> None:
        """The store accepts nothing more: every run stops where it is and stays resumable."""
        _LOG.error("the store stopped accepting changes: %s", error)
        for run in list(self._runs.values()):
            run.leave(error)
        self._hub.publish(HolderChanged(holder=None, read_only=True))

    # -- the control socket -------------------------------------------------------------------------------------

    async def _handle(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """One request of another process (ruling R35)."""
        verb = request.get("verb")
        arguments = {name: value for name, value in request.items() if name != "verb"}
        answer = REMOTE.get(str(verb))
        if answer is None:
            raise Refused("CONTROL_VERB", f"there is no verb {verb!r}")
        yield await answer(self, arguments)

    async def close(self) -> None:
        """Let runs stop where they are, resumable; then close the store. Idempotent; every caller waits for it."""
        self._closing = True
        if self._closed is None:
            self._closed = asyncio.create_task(self._close(), name="host-close")
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        try:
            await self._stop_everything()
        finally:
            try:
                await self._server.close()
                await self._desk.close()
            finally:
                await self._store.close()
                self._log.detach()

    async def _stop_everything(self) -> None:
        await self._watches.close()
        opening = set(self._opening.values())
        for begun in opening:
            begun.cancel()
        if opening:
            await asyncio.wait(opening)
        runs = list(self._runs.values())
        for run in runs:
            run.leave()
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=CLOSE_SECONDS)
        if late:
            await asyncio.gather(*(run.abandon() for run in runs))
            for task in late:
                task.cancel()
            await asyncio.wait(late)


def _leaving() -> Refused:
    return Refused("runtime_shutdown", "this process is closing the store; nothing new is started")


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Its outcome is for those who wait; when they all left, nobody has to hear of it."""
    if not task.cancelled():
        task.exception()
