"""Looking at a store somebody else holds, and asking its holder to act.

An `Observer` reads the database and polls for what is new; its control intents say who holds the store. A
`RemoteDeck` is an observer that may also write, by sending each intent to the holder's control socket (ruling R35).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import (
    FileChange,
    Holder,
    HolderChanged,
    IgnoredChange,
    InboxChanged,
    RunChanged,
    RunSummary,
    WatchesChanged,
    WatchState,
)
from runtime.host.api import Ack, Answer, Launch, Watch
from runtime.host.control import ControlClient
from runtime.host.reads import StoreReads
from runtime.host.stream import EventHub, Feed
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused, StorageError
from runtime.kernel.outcomes import RunStatus
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

POLL_SECONDS: Final = 0.25
_WATCHES_SECONDS: Final = 0.5
_WATCHED_RUNS: Final = 20
_PAGE: Final = 500
_LOOKS_AFTER_DEATH: Final = 20  # 5 s: far longer than a kernel takes to release a killed process's lock
_GOING: Final = tuple(status for status in RunStatus if not status.terminal)


class Observer(StoreReads):
    """A read-only deck."""

    def __init__(self, store: Store, *, missions: Sequence[Path], clock: Clock) -> None:
        super().__init__(store, missions=missions, clock=clock)
        self._hub = EventHub()
        self._seen: dict[str, tuple[RunSummary, int]] | None = None
        self._questions: tuple[str, ...] | None = None
        self._holder: Holder | None = None
        self._poller: asyncio.Task[None] | None = None
        self._watches: tuple[WatchState, ...] = ()
        self._asked_watches = -_WATCHES_SECONDS

    @property
    def read_only(self) -> bool:
        return True

    async def launch(self, intent: Launch) -> RunSummary:
        raise await self._refusal()

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        raise await self._refusal()

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        raise await self._refusal()

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        raise await self._refusal()

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        raise await self._refusal()

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        raise await self._refusal()

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        raise await self._refusal()

    async def unlatch(self, path: str, reason: str) -> Ack:
        raise await self._refusal()

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        raise await self._refusal()

    async def rotate_key(self, reason: str) -> Ack:
        raise await self._refusal()

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        raise await self._refusal()

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        raise await self._refusal()

    async def untrust_pack(self, digest: str) -> Ack:
        raise await self._refusal()

    async def answer(self, intent: Answer) -> Ack:
        raise await self._refusal()

    async def watch(self, intent: Watch) -> WatchState:
        raise await self._refusal()

    async def unwatch(self, watch_id: str) -> Ack:
        raise await self._refusal()

    async def rearm(self, watch_id: str) -> Ack:
        raise await self._refusal()

    async def watches(self) -> tuple[WatchState, ...]:
        """One that does not answer shows none."""
        try:
            return await self._holders_watches()
        except (StorageError, Refused):
            return ()

    async def _holders_watches(self) -> tuple[WatchState, ...]:
        """Watches live in the holder's memory, so it is asked, by observers too. Raises when it does not answer."""
        holder = await self.holder()
        if holder is None or holder.socket is None:
            return ()
        async with aclosing(ControlClient(Path(holder.socket)).call({"verb": "watches"})) as replies:
            async for reply in replies:
                return tuple(watch_of(item) for item in reply["watches"])
        return ()

    async def wait(self, run_id: str) -> RunSummary:
        """Return once the run has ended, as the database tells; a run nobody holds any more has stopped too."""
        while True:
            run = await self._store.runs.get(run_id)
            if run is None:
                raise Refused("RUN_UNKNOWN", f"there is no run {run_id}")
            if run.status.terminal or run.resumable:
                return run
            await self._clock.sleep(POLL_SECONDS)

    async def drained(self) -> None:
        """Nobody's work depends on one who only looks."""

    def subscribe(self) -> Feed:
        loop = asyncio.get_running_loop()
        if self._poller is None:
            self._poller = loop.create_task(self._poll(), name="observer-poll")
        return self._hub.subscribe(loop)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait({self._poller})
        await self._store.close()

    async def _refusal(self) -> Refused:
        holder = await self.holder()
        if holder is None:
            return Refused(
                "STORE_READ_ONLY",
                "this console only observes, and nobody holds the store",
                hint="open it again to take it",
            )
        return Refused(
            "STORE_LOCKED",
            f"the store is held by pid {holder.pid} on {holder.host} since {holder.started_at[:19].replace('T', ' ')}",
            hint="act there, or use the command line, which reaches it",
        )

    async def _poll(self) -> None:
        while True:
            try:
                await self._look()
            except StorageError:
                # A reader may lose a race with a checkpoint or a dying holder; the next look tells.
                await self._clock.sleep(POLL_SECONDS)
            await self._clock.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        await self._look_at_holder()
        newest = await self._store.runs.list(limit=_WATCHED_RUNS)
        going = await self._store.runs.list(statuses=_GOING, limit=_WATCHED_RUNS)
        runs = {run.run_id: run for run in (*newest, *going)}.values()
        first = self._seen is None
        seen = self._seen if self._seen is not None else {}
        for run in runs:
            known = seen.get(run.run_id)
            last = known[1] if known else (run.entries - 1 if first else -1)
            if last < run.entries - 1:
                last = await self._publish_entries(run, last)
            if known is None or known[0] != run:
                self._hub.publish(RunChanged(run=run))
            seen[run.run_id] = (run, last)
        self._seen = {run.run_id: seen[run.run_id] for run in runs}
        await self._look_at_inbox()
        await self._look_at_watches()

    async def _publish_entries(self, run: RunSummary, after: int) -> int:
        while page := await self.entries(run.run_id, after=after, limit=_PAGE):
            for event in page:
                self._hub.publish(event)
            after = page[-1].seq
        return after

    async def _look_at_holder(self) -> None:
        holder = await self.holder()
        if (holder and (holder.pid, holder.epoch)) != (self._holder and (self._holder.pid, self._holder.epoch)):
            self._hub.publish(HolderChanged(holder=holder, read_only=self.read_only))
        self._holder = holder

    async def _look_at_inbox(self) -> None:
        questions = await self.escalations()
        ids = tuple(item.escalation_id for item in questions)
        if ids != self._questions:
            self._hub.publish(InboxChanged(escalations=questions))
        self._questions = ids

    async def _look_at_watches(self) -> None:
        """Now and then, as it costs the holder a conversation."""
        now = self._clock.monotonic()
        if now - self._asked_watches < _WATCHES_SECONDS:
            return
        self._asked_watches = now
        try:
            watches = await self._holders_watches()
        except (StorageError, Refused):
            return  # it is busy, or on its way out: what was shown stands until it says otherwise
        if watches != self._watches:
            self._hub.publish(WatchesChanged(watches=watches))
        self._watches = watches


class RemoteDeck(Observer):
    """Reads from the database, acts through the holder's control socket."""

    def __init__(self, store: Store, *, missions: Sequence[Path], clock: Clock, client: ControlClient) -> None:
        super().__init__(store, missions=missions, clock=clock)
        self._client = client

    @classmethod
    async def connect(
        cls, state: StateDir, *, missions: Sequence[Path], clock: Clock, socket: Path | None
    ) -> RemoteDeck:
        """Reach the live holder. Raises `StorageError` ``STORE_UNRESPONSIVE`` when it does not answer."""
        store = await Store.observe(state, clock)
        deck = cls(store, missions=missions, clock=clock, client=ControlClient(socket or state.socket))
        try:
            await deck._ask("ping")
        except BaseException:
            await store.close()
            raise
        return deck

    @property
    def read_only(self) -> bool:
        return False

    async def launch(self, intent: Launch) -> RunSummary:
        # The loader and what it needs are a third of the runtime; most commands never launch.
        from runtime.host.lineage import given, parent_of
        from runtime.missions.inputs import bind
        from runtime.missions.loader import load

        # Checked here first: what is wrong with a file comes as a list of problems, which one message cannot carry.
        mission = await asyncio.to_thread(load, intent.path)
        parent = await parent_of(self._store, intent)
        bind(mission.spec.inputs, given(mission, intent, parent), intent.directory)
        return summary_of(await self._ask("launch", **asdict(intent)))

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        return await self._control("cancel", run_id, reason)

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        return await self._control("terminate", run_id, reason)

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        return await self._control("stop", run_id, reason)

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        return await self._control("pause", run_id, reason)

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        return Ack(**await self._ask("resume", run_id=run_id, reason=reason, unattended=unattended))

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        return summary_of(await self._ask("undo", run_id=run_id, reason=reason, approved=approved))

    async def unlatch(self, path: str, reason: str) -> Ack:
        return Ack(**await self._ask("unlatch", path=path, reason=reason))

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        return Ack(**await self._ask("accept_loss", journal_id=journal_id, reason=reason))

    async def rotate_key(self, reason: str) -> Ack:
        return Ack(**await self._ask("rotate_key", reason=reason))

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        return Ack(**await self._ask("unprotect", path=path, pattern=pattern, digest=digest, reason=reason))

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        return Ack(**await self._ask("trust_pack", path=path, digest=digest, in_process=in_process))

    async def untrust_pack(self, digest: str) -> Ack:
        return Ack(**await self._ask("untrust_pack", digest=digest))

    async def answer(self, intent: Answer) -> Ack:
        return Ack(**await self._ask("answer", **asdict(intent)))

    async def watch(self, intent: Watch) -> WatchState:
        # As in `launch`: a list of problems is told here.
        from runtime.missions.inputs import bind
        from runtime.missions.loader import load

        mission = await asyncio.to_thread(load, intent.path)
        bind(mission.spec.inputs, intent.inputs, intent.directory)
        state = watch_of(await self._ask("watch", **asdict(intent)))
        self._watches = (*self._watches, state)  # should it be gone at the next look, that is a change
        return state

    async def unwatch(self, watch_id: str) -> Ack:
        return Ack(**await self._ask("unwatch", watch_id=watch_id))

    async def rearm(self, watch_id: str) -> Ack:
        return Ack(**await self._ask("rearm", watch_id=watch_id))

    async def watches(self) -> tuple[WatchState, ...]:
        return await self._holders_watches()

    async def wait(self, run_id: str) -> RunSummary:
        """As the holder says; when it goes away meanwhile, as the database says.

        A dying holder's socket closes before its lock does, so what became of the run shows a moment later.
        """
        try:
            return summary_of(await self._ask("wait", run_id=run_id))
        except StorageError as error:
            if error.code != "STORE_UNRESPONSIVE":
                raise
            for _ in range(_LOOKS_AFTER_DEATH):
                found = await self._store.runs.get(run_id)
                if found is not None and (found.status.terminal or found.resumable):
                    return found
                await self._clock.sleep(POLL_SECONDS)
            raise

    async def _control(self, verb: str, run_id: str, reason: str) -> Ack:
        return Ack(**await self._ask(verb, run_id=run_id, reason=reason))

    async def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        async with aclosing(self._client.call({"verb": verb, **arguments})) as replies:
            async for reply in replies:
                return dict(reply)
        raise StorageError("STORE_UNRESPONSIVE", f"the holder ended the conversation without an answer to {verb}")


def summary_record(run: RunSummary) -> dict[str, Any]:
    """A run summary as JSON members; read back with `summary_of`."""
    return {**asdict(run), "status": run.status.value}


def summary_of(record: Mapping[str, Any]) -> RunSummary:
    """The run summary of `summary_record`."""
    return RunSummary(**{**record, "status": RunStatus(record["status"])})


def watch_of(record: Mapping[str, Any]) -> WatchState:
    """The watch whose members were sent as JSON."""
    lists: dict[str, Callable[[Any], Any]] = {
        "paths": str,
        "excludes": str,
        "last_changes": lambda item: FileChange(**item),
        "recent_ignored": lambda item: IgnoredChange(**item),
    }
    told = {name: tuple(build(item) for item in record[name]) for name, build in lists.items()}
    return WatchState(**{**record, **told})
