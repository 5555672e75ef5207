"""When journals are signed: the checkpoints of one store, made in step with what is appended (ruling R38).

Every journal is appended to through a port of this desk, which keeps its tree. A checkpoint is a row submitted behind
the entries it covers, so it can never be on disk before them; while one is on its way the next waits. Our own key signs
at once, and the row then shares the commit of the entries; an external signer is waited for in a task, and its failure
leaves entries that no checkpoint covers, never a failed run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from runtime.host.behind import Known, Memories, Tree
from runtime.host.copies import Copies
from runtime.host.evidence_file import Evidence, load_evidence
from runtime.host.losses import Losses
from runtime.host.signing import Signer, open_signer
from runtime.host.sinks.port import Continues, Offer, Sink, load_sinks
from runtime.host.tally import EVERY_SECONDS, Draft, Tally, decides
from runtime.host.words import plain_words
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import QuarterdeckError, Refused, StorageError
from runtime.kernel.ports import Durable, JournalStore, StoredEntry
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey, read_note, signature_line
from runtime.orchestration.merkle import EMPTY_ROOT
from runtime.storage.checkpoints import StoredCheckpoint, insert_checkpoint
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.store import Store

#: How long a gate's decision, an answer or the end of a run waits for its checkpoint, in seconds.
COVER_SECONDS: Final = 5.0
#: How long an external signer may take, in seconds.
SIGN_SECONDS: Final = 10.0
#: How long closing waits for the last checkpoints, in seconds.
LAST_SECONDS: Final = 5.0
_LOG: Final = logging.getLogger(__name__)


@runtime_checkable
class Immediate(Protocol):
    """A signer that need not be waited for and does not fail: a key in memory."""

    key: VerifierKey

    def sign_now(self, text: bytes) -> bytes: ...


class CheckpointDesk:
    """Makes the checkpoints of one store. Build with `open`; `close` it before the store.

    ``losses`` says which journals are behind what is remembered of them; no checkpoint is made of those.
    """

    def __init__(
        self, store: Store, store_id: str, clock: Clock, signer: Signer | None, sinks: Sequence[Sink] = ()
    ) -> None:
        self._store = store
        self._clock = clock
        self._signer = signer
        self._memories = Memories(store, store_id, sinks, lambda name, error: self._trouble(f"sink {name}", error))
        self._copies = Copies(sinks, self._not_copied)
        self._tallies: dict[str, Tally] = {}
        self._append: Callable[..., Any] | None = None
        self._told: set[tuple[str, str]] = set()
        self._untold: list[dict[str, str]] = []
        self._healthy = signer is not None
        self._closed = False
        self._dirty = asyncio.Event()
        self._timer = asyncio.create_task(self._keep_time(), name="checkpoint-timer")
        self.losses = Losses(store, self._memories, clock, self._accepted)
        self.evidence: Evidence | None = Evidence()
        """What the state folder says of signer and sinks; None while that is not right."""
        self.newest: str | None = None
        """The digest of the newest note of the store: the next run's journal names it."""

    @classmethod
    async def open(
        cls,
        store: Store,
        clock: Clock,
        *,
        signer: Signer | None = None,
        sinks: Sequence[Sink] | None = None,
    ) -> CheckpointDesk:
        """Read the store's own journal against what is known of it. ``signer`` and ``sinks`` None: the state folder's.

        Whatever is wrong with a key or a sink is told, in log and store journal, and never keeps a store from opening.
        """
        troubles: dict[str, QuarterdeckError] = {}
        if signer is None:
            try:
                signer = await open_signer(store.state, clock)
            except QuarterdeckError as error:
                troubles["signer"] = error
        if sinks is None:
            try:
                sinks = load_sinks(store.state)
            except QuarterdeckError as error:
                sinks, troubles["sinks"] = (), error
        evidence: Evidence | None = None
        with suppress(QuarterdeckError):  # told as the trouble of whoever needed it
            evidence = await asyncio.to_thread(load_evidence, store.state)
        desk = cls(store, await store.checkpoints.store_id(), clock, signer, sinks)
        desk.evidence = evidence
        try:
            for what, trouble in troubles.items():
                desk._trouble(what, trouble)
            desk.newest = await store.checkpoints.newest_hash()
            await desk._open_store_journal()
        except BaseException:
            await desk.close()
            raise
        return desk

    def tells(self, append: Callable[..., Any]) -> None:
        """Trouble is told with ``append``, that of the store's journal, from now on and for what came before."""
        self._append = append
        untold, self._untold = self._untold, []
        for members in untold:
            self._record(members)

    @property
    def signer(self) -> Signer | None:
        """Who signs; None while there is nobody, which was told when the store was opened."""
        return self._signer

    @property
    def key(self) -> str | None:
        """The public key of whoever signs, as C2SP writes it."""
        return None if self._signer is None else self._signer.key.text

    def sign_with(self, signer: Signer) -> None:
        """From now on ``signer`` signs; the store's journal, which tells of the change, at once."""
        self._signer, self._healthy = signer, True
        self._ask(self._tallies[STORE_JOURNAL])

    # -- journals -----------------------------------------------------------------------------------------------

    def store_journal(self) -> JournalStore:
        """Where the store's own journal is appended."""
        return _Port(self, self._tallies[STORE_JOURNAL], self._store.journal(STORE_JOURNAL))

    def journal(self, run_id: str) -> JournalStore:
        """Where a new journal is appended."""
        return _Port(self, self._tally(run_id, Tree()), self._store.journal(run_id))

    async def resumed(self, run_id: str, stored: Sequence[StoredEntry]) -> tuple[JournalStore, Checkpoint | None]:
        """Where a journal of ``stored`` entries goes on, and the newest checkpoint of its own it has to continue.

        Whoever asks has been admitted (`Losses.admit`).
        """
        old = self._tallies.pop(run_id, None)
        if old is not None:
            await self._retire(old)
        tree = Tree()
        await asyncio.to_thread(tree.take_all, stored)
        newest = await self._newest(run_id)
        tally = self._tally(run_id, tree, newest)
        if stored:
            tally.see(stored[0])
        port = _Port(self, tally, self._store.journal(run_id))
        if newest is None or newest.root is None:
            return port, None
        return port, Checkpoint(self._memories.name(run_id), newest.size, newest.root, newest.generation)

    async def anchored(self, journal_id: str) -> bool:
        """Wait, within limits, until a checkpoint on disk covers everything appended so far; False when none will."""
        tally = self._tallies.get(journal_id)
        return tally is None or await self._covered(tally, tally.size)

    def _tally(self, journal_id: str, tree: Tree, newest: Known | None = None) -> Tally:
        tally = self._tallies[journal_id] = Tally(
            journal_id,
            self._memories.name(journal_id),
            frontier=tree.frontier,
            head=tree.head,
            generation=self.losses.generation(journal_id),
            covered=0 if newest is None else newest.size,
        )
        return tally

    async def _newest(self, journal_id: str) -> Known | None:
        """The newest checkpoint beside a journal, of the history it is in."""
        generation = self.losses.generation(journal_id)
        return next((item for item in await self._memories.own(journal_id) if item.generation == generation), None)

    async def _open_store_journal(self) -> None:
        tree = await self.losses.look_at_store()
        tally = self._tally(STORE_JOURNAL, tree, await self._newest(STORE_JOURNAL))
        tally.unreadable = bool(tree.unreadable)
        tally.suspended = tally.unreadable or self.losses.behind(STORE_JOURNAL) is not None
        if tally.unreadable:
            self._trouble("store journal", StorageError("STORE_CORRUPT", f"it cannot be signed: {tree.unreadable}"))

    async def _retire(self, tally: Tally) -> None:
        """Nothing is made of it any more, and what was is on disk."""
        tally.suspended = True
        if tally.worker is not None:
            tally.worker.cancel()
            await asyncio.wait({tally.worker})
        await self._store.flush()

    def _accepted(self, journal_id: str, generation: int) -> None:
        """An operator accepted a loss: go on in the next generation."""
        tally = self._tallies.get(journal_id)
        if tally is not None:
            tally.begin_again(generation)
            self._ask(tally)

    # -- cadence ------------------------------------------------------------------------------------------------

    def appended(self, tally: Tally, entry: StoredEntry, durable: Durable) -> Durable:
        """An entry was accepted. What comes back may be awaited until the decision it tells is covered, too."""
        clean = tally.since is None
        due = tally.take(entry, self._clock.monotonic())
        if tally.suspended:
            return durable
        if due:
            self._ask(tally)
        elif clean:
            self._dirty.set()
        if not decides(entry):
            return durable
        size = tally.size
        return _Covered(durable, partial(self._covered, tally, size))

    async def _covered(self, tally: Tally, size: int) -> bool:
        """Wait for a checkpoint of the first ``size`` entries. Not when the signer is in trouble already."""
        if not self._healthy and tally.covered < size:
            return False
        try:
            async with asyncio.timeout(COVER_SECONDS):
                return await tally.reached(size)
        except TimeoutError:
            return False
        except StorageError:
            return False  # the store has announced itself to whoever waits for the entries

    async def _keep_time(self) -> None:
        """Ask for a checkpoint of whatever has been uncovered for long enough."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            while waiting := [item for item in self._tallies.values() if item.since is not None and item.dirty]:
                oldest = min(item.since for item in waiting if item.since is not None)
                await self._clock.sleep(max(0.0, oldest + EVERY_SECONDS - self._clock.monotonic()))
                now = self._clock.monotonic()
                for tally in list(self._tallies.values()):
                    if tally.dirty and tally.since is not None and now - tally.since >= EVERY_SECONDS:
                        self._ask(tally)

    # -- making them --------------------------------------------------------------------------------------------

    def _ask(self, tally: Tally) -> None:
        """Have a checkpoint made of all there is: now, or as soon as the one on its way is on disk."""
        tally.ask()
        if self._signer is None or self._closed or tally.suspended or self._store.poisoned is not None:
            return
        if tally.worker is not None:
            tally.again = True
            return
        if isinstance(self._signer, Immediate):
            draft = tally.draft()
            self._submit(tally, draft, self._signer.key, self._signer.sign_now(draft.checkpoint.text()))
        else:
            tally.again = True
        tally.worker = asyncio.create_task(self._work(tally), name=f"checkpoint-{tally.journal_id[:8]}")

    async def _work(self, tally: Tally) -> None:
        """See checkpoints to the disk and to the sinks, one after the other, until no more is asked for."""
        try:
            while True:
                if tally.again:
                    tally.again = False
                    await self._sign(tally)
                await tally.ticket
                self._offer(tally)
                if not tally.again:
                    return
        except StorageError as error:
            _LOG.debug("no checkpoint of %s: %s", tally.journal_id, error)  # the store announces itself
        finally:
            tally.worker = None
            tally.move()
            if tally.closed and tally.size == tally.covered and self._tallies.get(tally.journal_id) is tally:
                del self._tallies[tally.journal_id]

    async def _sign(self, tally: Tally) -> None:
        """Sign all there is and hand it to the writer. A signer that fails costs the checkpoint only."""
        signer, draft = self._signer, tally.draft()
        assert signer is not None, "nobody asks without one"
        try:
            async with asyncio.timeout(SIGN_SECONDS):
                signature = await signer.sign(draft.checkpoint.text())
        except QuarterdeckError as error:
            self._unsigned(tally, error)
        except TimeoutError:
            self._unsigned(tally, Refused("SIGN_TROUBLE", f"the signer took longer than {SIGN_SECONDS:g} s"))
        except Exception as error:  # noqa: BLE001 - a fault in another's signer is its trouble, and must be told
            self._unsigned(tally, Refused("SIGN_TROUBLE", f"{type(error).__name__}: {error}"))
        else:
            self._healthy = True
            self._submit(tally, draft, signer.key, signature)

    def _unsigned(self, tally: Tally, error: QuarterdeckError) -> None:
        """Tried again when the next checkpoint is due, at the latest in a minute."""
        self._healthy = False
        if tally.since is None:
            tally.since = self._clock.monotonic()
        self._dirty.set()
        tally.move()
        self._trouble("signer", error, tally.journal_id)

    def _submit(self, tally: Tally, draft: Draft, key: VerifierKey, signature: bytes) -> None:
        """Behind the entries it covers, which were submitted before."""
        checkpoint = draft.checkpoint
        if tally.suspended or checkpoint.generation != tally.generation or checkpoint.size <= tally.covered:
            return  # overtaken: the table would refuse it, and with it everything that follows
        note = checkpoint.text() + b"\n" + signature_line(key, signature)
        row = StoredCheckpoint(
            journal_id=tally.journal_id,
            generation=checkpoint.generation,
            size=checkpoint.size,
            head_hash=draft.head,
            note=note,
            at=timestamp(self._clock.now()),
        )
        try:
            ticket = self._store.submit([insert_checkpoint(row)])
        except StorageError as error:
            _LOG.warning("a checkpoint of %s could not be stored: %s", tally.journal_id, error)
            return
        self.newest = digest_bytes(note)
        tally.submitted(draft, note, row.at, ticket)

    # -- copies and trouble -------------------------------------------------------------------------------------

    def _offer(self, tally: Tally) -> None:
        """Hand the newest checkpoint, now that it is on disk, to those who remember it outside."""
        note, tally.note = tally.note, b""
        if note and self._copies.any:
            offer = Offer(
                note=read_note(note),
                head=tally.noted_head,
                recipe=tally.recipe,
                at=tally.noted_at,
                final=tally.closed and tally.covered == tally.size,
            )
            self._copies.offer(tally.journal_id, offer, self._continues(tally))

    def _continues(self, tally: Tally) -> Continues:
        async def root_after(size: int) -> bytes | None:
            if size in tally.issued:
                return tally.issued[size]
            tree = Tree(frozenset((size,)))
            await tree.read(self._store, tally.journal_id, size)
            return EMPTY_ROOT if size == 0 else tree.roots.get(size)

        return root_after

    async def _not_copied(self, sink: str, journal_id: str, error: QuarterdeckError) -> None:
        """A sink that knows better may be right: then the journal is behind."""
        self._trouble(f"sink {sink}", error)
        if error.code == "SINK_BACKWARDS":
            await self.losses.look_again(journal_id)
            tally = self._tallies.get(journal_id)
            if tally is not None and self.losses.behind(journal_id) is not None:
                tally.suspended = True
            self.losses.show()

    def _trouble(self, what: str, error: QuarterdeckError, journal_id: str = STORE_JOURNAL) -> None:
        """Told once per journal, or sink, and process."""
        if (what, journal_id) in self._told:
            return
        self._told.add((what, journal_id))
        _LOG.warning("evidence of %s: %s: %s", journal_id, what, error)
        self._record({"what": what, "journal": journal_id, "code": error.code, "message": plain_words(error.message)})

    def _record(self, members: dict[str, str]) -> None:
        if self._append is None:
            self._untold.append(members)
            return
        try:
            self._append("operator_action", action="evidence_trouble", actor="runtime", **members)
        except QuarterdeckError as error:
            _LOG.warning("trouble with evidence could not be recorded: %s", error)

    async def close(self) -> None:
        """One last checkpoint of whatever is not covered, and the last offers, within limits. Idempotent."""
        for tally in list(self._tallies.values()):
            if tally.dirty:
                self._ask(tally)
        self._closed = True
        working = {tally.worker for tally in self._tallies.values() if tally.worker is not None}
        if working:
            _, late = await asyncio.wait(working, timeout=LAST_SECONDS)
            await _cancelled(late)
        await self._copies.close()
        await _cancelled({self._timer})


class _Port:
    """Where one journal appends: store first, then the tree (`runtime.kernel.ports.JournalStore`)."""

    def __init__(self, desk: CheckpointDesk, tally: Tally, store: JournalStore) -> None:
        self._desk = desk
        self._tally = tally
        self._store = store

    def append(self, entry: StoredEntry) -> Durable:
        return self._desk.appended(self._tally, entry, self._store.append(entry))


class _Covered:
    """On disk, and under a checkpoint on disk unless none can be had in time."""

    def __init__(self, durable: Durable, covered: Callable[[], Awaitable[bool]]) -> None:
        self._durable = durable
        self._covered = covered

    def __await__(self) -> Generator[Any, None, None]:
        return self._both().__await__()

    async def _both(self) -> None:
        await self._durable
        await self._covered()


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
