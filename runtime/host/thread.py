"""The runtime on its own thread and event loop, under a console that may stall (architecture §5).

A terminal that blocks stops the interface's loop for seconds; the runtime must not notice. `ThreadedDeck` hands each
call to the runtime's loop and awaits its future on the caller's; feeds are drained directly, they are thread-safe.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from runtime.events.facts import (
    BundlePlan,
    Comparison,
    EntryAppended,
    Escalation,
    Holder,
    MissionEstimate,
    NodeInfo,
    Proof,
    ReplayReport,
    RunSummary,
    StreamEvent,
    UndoPlan,
    Verification,
    Violation,
    WatchState,
)
from runtime.host.api import (
    Ack,
    Answer,
    Deck,
    ExportBundle,
    Exported,
    Launch,
    MissionInfo,
    Replay,
    RunStatus,
    Subscription,
    TrustedPack,
    Watch,
)
from runtime.host.opening import open_console_deck

T = TypeVar("T")

_CLOSE_SECONDS: Final = 40.0  # the host's own limit for ending runs is below this
_SUBSCRIBE_SECONDS: Final = 5.0


class _ThreadedFeed:
    """A feed of the other loop: drained directly, waited for there."""

    def __init__(self, feed: Subscription, loop: asyncio.AbstractEventLoop) -> None:
        self._feed = feed
        self._loop = loop

    def drain(self, limit: int = 2000) -> Sequence[StreamEvent]:
        return self._feed.drain(limit)

    async def wait(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._feed.wait(), self._loop))

    def close(self) -> None:
        self._feed.close()


class ThreadedDeck:
    """A `Deck` whose work happens on another loop."""

    def __init__(self, deck: Deck, loop: asyncio.AbstractEventLoop) -> None:
        self._deck = deck
        self._loop = loop

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @property
    def read_only(self) -> bool:
        return self._deck.read_only

    @property
    def store_path(self) -> str:
        return self._deck.store_path

    async def holder(self) -> Holder | None:
        return await self._there(self._deck.holder())

    async def missions(self) -> tuple[MissionInfo, ...]:
        return await self._there(self._deck.missions())

    async def mission(self, path: str) -> MissionInfo:
        return await self._there(self._deck.mission(path))

    async def estimate(self, path: str) -> MissionEstimate:
        return await self._there(self._deck.estimate(path))

    async def graph(self, path: str) -> str:
        return await self._there(self._deck.graph(path))

    async def launch(self, intent: Launch) -> RunSummary:
        return await self._there(self._deck.launch(intent))

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        return await self._there(self._deck.cancel(run_id, reason))

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        return await self._there(self._deck.terminate(run_id, reason))

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        return await self._there(self._deck.stop(run_id, reason))

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        return await self._there(self._deck.pause(run_id, reason))

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        return await self._there(self._deck.resume(run_id, reason, unattended=unattended))

    async def undo_plan(self, run_id: str) -> UndoPlan:
        return await self._there(self._deck.undo_plan(run_id))

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        return await self._there(self._deck.undo(run_id, reason, approved))

    async def unlatch(self, path: str, reason: str) -> Ack:
        return await self._there(self._deck.unlatch(path, reason))

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        return await self._there(self._deck.unprotect(path, pattern, digest, reason))

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        return await self._there(self._deck.trust_pack(path, digest, in_process=in_process))

    async def untrust_pack(self, digest: str) -> Ack:
        return await self._there(self._deck.untrust_pack(digest))

    async def trusted_packs(self) -> tuple[TrustedPack, ...]:
        return await self._there(self._deck.trusted_packs())

    async def answer(self, intent: Answer) -> Ack:
        return await self._there(self._deck.answer(intent))

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
        return await self._there(
            self._deck.runs(
                text=text,
                statuses=statuses,
                before=before,
                limit=limit,
                sort=sort,
                descending=descending,
                offset=offset,
            )
        )

    async def count_runs(self, *, text: str = "", statuses: Sequence[RunStatus] = ()) -> int:
        return await self._there(self._deck.count_runs(text=text, statuses=statuses))

    async def lineage(self, run_id: str) -> tuple[RunSummary, ...]:
        return await self._there(self._deck.lineage(run_id))

    async def find(self, selector: str) -> RunSummary:
        return await self._there(self._deck.find(selector))

    async def nodes(self, run_id: str) -> tuple[NodeInfo, ...]:
        return await self._there(self._deck.nodes(run_id))

    async def entries(
        self,
        run_id: str,
        *,
        after: int = -1,
        limit: int = 500,
        until: int | None = None,
        kinds: Sequence[str] = (),
        step: str | None = None,
        offset: int = 0,
    ) -> tuple[EntryAppended, ...]:
        return await self._there(
            self._deck.entries(run_id, after=after, limit=limit, until=until, kinds=kinds, step=step, offset=offset)
        )

    async def count_entries(self, run_id: str, *, kinds: Sequence[str] = ()) -> int:
        return await self._there(self._deck.count_entries(run_id, kinds=kinds))

    async def violations(self, run_id: str | None = None, *, limit: int = 200) -> tuple[Violation, ...]:
        return await self._there(self._deck.violations(run_id, limit=limit))

    async def violation(self, run_id: str, seq: int) -> Violation:
        return await self._there(self._deck.violation(run_id, seq))

    async def escalations(self, *, run_id: str | None = None, open_only: bool = True) -> tuple[Escalation, ...]:
        return await self._there(self._deck.escalations(run_id=run_id, open_only=open_only))

    async def verify(self, run_id: str, *, witnesses: Sequence[str] = ()) -> Verification:
        return await self._there(self._deck.verify(run_id, witnesses=witnesses))

    async def proof(self, run_id: str, seq: int) -> Proof:
        return await self._there(self._deck.proof(run_id, seq))

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        return await self._there(self._deck.accept_loss(journal_id, reason))

    async def rotate_key(self, reason: str) -> Ack:
        return await self._there(self._deck.rotate_key(reason))

    async def bundle_plan(self, run_id: str, withhold: Sequence[str] = ()) -> BundlePlan:
        return await self._there(self._deck.bundle_plan(run_id, withhold))

    async def bundle(self, intent: ExportBundle) -> Exported:
        return await self._there(self._deck.bundle(intent))

    async def replay(self, intent: Replay) -> ReplayReport:
        return await self._there(self._deck.replay(intent))

    async def compare(
        self, base: str, other: str, *, timing_ms: int | None = None, expected: Sequence[str] = ()
    ) -> Comparison:
        return await self._there(self._deck.compare(base, other, timing_ms=timing_ms, expected=expected))

    async def watch(self, intent: Watch) -> WatchState:
        return await self._there(self._deck.watch(intent))

    async def unwatch(self, watch_id: str) -> Ack:
        return await self._there(self._deck.unwatch(watch_id))

    async def rearm(self, watch_id: str) -> Ack:
        return await self._there(self._deck.rearm(watch_id))

    async def watches(self) -> tuple[WatchState, ...]:
        return await self._there(self._deck.watches())

    async def artifact(self, digest: str) -> bytes | None:
        return await self._there(self._deck.artifact(digest))

    async def wait(self, run_id: str) -> RunSummary:
        return await self._there(self._deck.wait(run_id))

    async def drained(self) -> None:
        await self._there(self._deck.drained())

    def subscribe(self) -> Subscription:
        async def there() -> Subscription:
            return self._deck.subscribe()

        found = asyncio.run_coroutine_threadsafe(there(), self._loop).result(timeout=_SUBSCRIBE_SECONDS)
        return _ThreadedFeed(found, self._loop)

    async def close(self) -> None:
        await self._there(self._deck.close())


@contextmanager
def open_threaded_deck(store: str | None, *, missions: Sequence[str] = ()) -> Iterator[ThreadedDeck]:
    """The console's deck on its own thread while the body runs; closing it lets runs stop at a boundary, resumable.

    Raises what opening the store raises, before anything is drawn.
    """
    with threaded(open_console_deck(store, missions=missions)) as deck:
        yield deck


@contextmanager
def threaded(opening: Coroutine[Any, Any, Deck]) -> Iterator[ThreadedDeck]:
    """Run the deck that ``opening`` gives on its own thread while the body runs. Raises what it raises."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name="quarterdeck-runtime", daemon=True)
    thread.start()
    try:
        deck = asyncio.run_coroutine_threadsafe(opening, loop).result()
        try:
            yield ThreadedDeck(deck, loop)
        finally:
            asyncio.run_coroutine_threadsafe(deck.close(), loop).result(timeout=_CLOSE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=_CLOSE_SECONDS)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        # An opening that was interrupted must get to release its lock.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
