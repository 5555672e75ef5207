"""The store: lock, database, writer, readers and heartbeat put together, opened in order, closed in reverse.

`Store.open` makes this process the holder; `Store.observe` only looks. Both fail with a `StorageError` that says
what to do, and leave nothing behind when they do. Opening for writing frees the reserve file first, checks the
free space before SQLite maps anything (a full disk would end the process), and takes the reserve back after.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Container, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import aiosqlite

from runtime.events.facts import Holder
from runtime.kernel.clock import Clock, SystemClock, timestamp
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import IdSource
from runtime.storage import holder as holding
from runtime.storage import lock as locking
from runtime.storage.artifacts import Artifacts
from runtime.storage.checkpoints import Checkpoints
from runtime.storage.database import on_thread, open_reader, open_writer
from runtime.storage.escalations import Escalations
from runtime.storage.faults import sqlite_faults
from runtime.storage.holder import HEARTBEAT_SECONDS, Standing
from runtime.storage.journals import Journals, SqlJournal
from runtime.storage.layout import StateDir, create_reserve, release_reserve
from runtime.storage.lock import LockHolder, StoreLock
from runtime.storage.migrations import check_ours, check_version, migrate
from runtime.storage.missions import Missions
from runtime.storage.past_work import PastWork
from runtime.storage.reader import Reader
from runtime.storage.runs import Runs
from runtime.storage.writer import Statement, Ticket, Writer

#: Up to this size a store is checked whole when it is opened (a fraction of a second). A check reads every page: over
#: gigabytes it takes minutes, so of a larger store only the tables that every start relies on are checked, and damage
#: elsewhere shows when it is read or written, and in `verify`.
CHECKED_WHOLE: Final = 64 * 1024 * 1024
_ALWAYS_CHECKED: Final = ("meta", "holder", "missions", "escalations")
#: Problems of `quick_check` quoted in the message; the count says enough beyond that.
_QUOTED_PROBLEMS: Final = 3


def _nobody() -> Container[str]:
    return ()


class Store:
    """One open store. Built by `open` or `observe`, never directly."""

    def __init__(
        self, state: StateDir, reader: Reader, clock: Clock, closing: AsyncExitStack, held: _Held | None
    ) -> None:
        self._state = state
        self._reader = reader
        self._closing = closing
        self._held = held
        self.live_run_ids: Callable[[], Container[str]] = _nobody
        """Set by the host: the runs it is working on, which are therefore not resumable."""
        self.runs = Runs(reader, self._standing, lambda: self.live_run_ids())
        self.journals = Journals(reader)
        self.checkpoints = Checkpoints(reader)
        self.artifacts = Artifacts(reader, held.writer if held else None, clock)
        self.escalations = Escalations(reader)
        self.missions = Missions(reader)
        self.past_work = PastWork(reader)

    @classmethod
    async def open(
        cls,
        state: StateDir,
        clock: Clock,
        ids: IdSource,
        *,
        on_poison: Callable[[StorageError], None] = lambda error: None,
    ) -> Store:
        """Become the holder. Raises `StorageError`: ``STORE_LOCKED``, ``STORE_FULL``, ``STORE_CORRUPT``, …

        ``on_poison`` is called once, on this loop, when the store stops accepting changes.
        """
        stack = AsyncExitStack()
        try:
            await asyncio.to_thread(state.create)
            me = locking.this_process(state, clock, ids)
            lock = StoreLock(state.lock, me)
            await asyncio.to_thread(lock.acquire)
            stack.callback(lock.release)
            connection = await _open_database(state, stack)
            held = await _hold(state, stack, connection, lock, me, clock, on_poison)
            reader = await _open_reader(state, stack)
            held.start_heartbeat(stack)
        except BaseException:
            await stack.aclose()
            raise
        return cls(state, reader, clock, stack, held)

    @classmethod
    async def observe(cls, state: StateDir, clock: Clock | None = None) -> Store:
        """Look at a store somebody else may hold. Raises ``STORE_MISSING`` when there is none."""
        stack = AsyncExitStack()
        try:
            state.check()
            reader = await _open_reader(state, stack)
            await reader.run(lambda connection: check_version(connection, state.db))
        except BaseException:
            await stack.aclose()
            raise
        return cls(state, reader, clock or SystemClock(), stack, None)

    @property
    def state(self) -> StateDir:
        return self._state

    @property
    def read_only(self) -> bool:
        return self._held is None

    @property
    def poisoned(self) -> StorageError | None:
        """Why the store stopped accepting changes, or None."""
        return self._held.writer.poisoned if self._held else None

    @property
    def epoch(self) -> int:
        return self._holding().writer.epoch

    @property
    def writer(self) -> Writer:
        return self._holding().writer

    @property
    def lock(self) -> StoreLock:
        return self._holding().lock

    def submit(self, statements: Sequence[Statement]) -> Ticket:
        """Queue statements for the next transaction (`Writer.submit`)."""
        return self._holding().writer.submit(statements)

    async def flush(self) -> None:
        await self._holding().writer.flush()

    def journal(self, journal_id: str) -> SqlJournal:
        """Where one journal appends (`runtime.kernel.ports.JournalStore`)."""
        return SqlJournal(self._holding().writer, journal_id)

    async def holder(self) -> Holder | None:
        """The process that holds the store now, this one included; None when nobody does."""
        return await holding.live_holder(self._reader, self._state)

    async def close(self) -> None:
        """Stop intake, flush, mark the row released, fold the log into the database, unlock.

        Everything is released even when a step fails; the first failure is raised at the end. Idempotent.
        """
        await self._closing.aclose()

    async def _standing(self) -> Standing:
        if self._held is not None:
            return Standing(True, self._held.writer.epoch)
        return await holding.standing(self._reader, self._state)

    def _holding(self) -> _Held:
        if self._held is None:
            raise StorageError(
                "STORE_READ_ONLY",
                "this process only observes the store",
                where=str(self._state.root),
                hint="send the command to the process that holds it",
            )
        return self._held


class _Held:
    """What only the holder has: the lock, the writer, and the heartbeat."""

    def __init__(self, lock: StoreLock, writer: Writer, clock: Clock) -> None:
        self.lock = lock
        self.writer = writer
        self._clock = clock
        self._heart: asyncio.Task[None] | None = None

    def start_heartbeat(self, stack: AsyncExitStack) -> None:
        self._heart = asyncio.create_task(self._beat(), name="store-heartbeat")
        stack.push_async_callback(self._stop_heartbeat, self._heart)

    async def _beat(self) -> None:
        """One row update at a time, until the store is closed or stops accepting changes."""
        while self.writer.poisoned is None:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            # A poisoned store has announced itself, and a backlog passes or poisons: nothing to add here.
            with suppress(StorageError):
                await self.writer.submit([holding.beat(timestamp(self._clock.now()))])

    async def _stop_heartbeat(self, heart: asyncio.Task[None]) -> None:
        heart.cancel()
        await asyncio.wait({heart})
        if not heart.cancelled():
            heart.result()

    async def finish(self) -> None:
        """Mark the row released and end the writer."""
        try:
            if self.writer.poisoned is None:
                await self.writer.submit([holding.let_go(timestamp(self._clock.now()))])
        finally:
            await self.writer.close()


async def _open_database(state: StateDir, stack: AsyncExitStack) -> aiosqlite.Connection:
    """Under the lock: make room, open, migrate, check, take the reserve back."""
    await asyncio.to_thread(release_reserve, state.reserve)
    state.require_free_space()
    connection = await open_writer(state, lambda inner: check_ours(inner, state.db))
    stack.push_async_callback(_close_connection, connection, state.db)
    with sqlite_faults(state.db):
        await on_thread(connection, lambda inner: migrate(inner, state.db))
        await on_thread(connection, lambda inner: _quick_check(inner, state.db))
    await asyncio.to_thread(create_reserve, state.reserve)
    return connection


async def _open_reader(state: StateDir, stack: AsyncExitStack) -> Reader:
    reader = Reader(await open_reader(state), state.db)
    stack.push_async_callback(reader.close)
    return reader


async def _hold(
    state: StateDir,
    stack: AsyncExitStack,
    connection: aiosqlite.Connection,
    lock: StoreLock,
    me: LockHolder,
    clock: Clock,
    on_poison: Callable[[StorageError], None],
) -> _Held:
    """Take the next epoch and start the writer; unwinding folds the log into the database when all went well."""
    with sqlite_faults(state.db):
        epoch = await on_thread(connection, lambda inner: holding.claim(inner, me))
    writer = Writer(
        connection,
        epoch=epoch,
        clock=clock,
        on_poison=on_poison,
        relieve=partial(_relieve, state.reserve),
        where=state.db,
    )
    held = _Held(lock, writer, clock)
    stack.push_async_callback(_checkpoint, connection, writer, state.db)
    stack.push_async_callback(held.finish)
    return held


def _relieve(reserve: Path) -> bool:
    """Release the reserve; on a disk in trouble, failing to is worth no second error."""
    try:
        return release_reserve(reserve)
    except StorageError:
        return False


def _quick_check(connection: sqlite3.Connection, where: Path) -> None:
    size = 1
    for factor in ("page_count", "page_size"):
        size *= int(connection.execute(f"PRAGMA {factor}").fetchone()[0])
    checks = ["PRAGMA quick_check"]
    if size > CHECKED_WHOLE:
        checks = [f"PRAGMA quick_check('{table}')" for table in _ALWAYS_CHECKED]
    answers = [str(row[0]) for check in checks for row in connection.execute(check)]
    problems = [answer for answer in answers if answer != "ok"]
    if problems:
        quoted = "; ".join(problems[:_QUOTED_PROBLEMS])
        raise StorageError(
            "STORE_CORRUPT",
            f"the database is damaged ({len(problems)} problems): {quoted}",
            where=str(where),
            hint="copy the whole folder aside, see what can be trusted with `quarterdeck verify`,"
            " and start with another --store",
        )


async def _checkpoint(connection: aiosqlite.Connection, writer: Writer, where: Path) -> None:
    if writer.poisoned is None:
        with sqlite_faults(where):
            await on_thread(connection, lambda inner: inner.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())


async def _close_connection(connection: aiosqlite.Connection, where: Path) -> None:
    with sqlite_faults(where):
        await connection.close()
