"""The one writer: everything durable in Quarterdeck passes through here, in the order it was submitted.

Group commit (architecture §4.3): while one transaction is on its way to the disk, new submissions queue; the
next transaction takes all of them up to a bound, and every waiter is resolved after its COMMIT returned with
``synchronous=FULL``. A whole transaction is one hop onto the connection's thread.

Order is the contract: a submission that is durable implies that all before it are. Therefore nothing is ever
skipped. The first failure of any kind *poisons* the writer (ruling R24): the batch and everything queued behind
it fail, nothing new is admitted, and what the disk really holds is established by the next start. A failed
COMMIT may have landed, which is why it is never retried.

Every transaction begins by checking that the holder row still carries our epoch (ruling R28).

Single loop: `submit` may be called only from the loop the writer was started on.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiosqlite

from runtime.kernel.clock import Clock
from runtime.kernel.errors import StorageError
from runtime.storage.database import on_thread, transaction
from runtime.storage.faults import again, from_sqlite

#: One statement and its parameters.
Statement = tuple[str, Sequence[object]]

#: Submissions per transaction: large enough to amortise a flush, small enough to keep the last waiter's delay low.
BATCH_SUBMISSIONS: Final = 512
BATCH_BYTES: Final = 8 * 1024 * 1024
#: Beyond these the disk is not keeping up and callers must hear it (every queue is bounded).
MAX_PENDING: Final = 20_000
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024


class Ticket:
    """A promise that one submission is on disk (`runtime.kernel.ports.Durable`).

    May be awaited by several tasks, several times, or not at all; a cancelled waiter disturbs nobody.
    """

    __slots__ = ("_error", "_settled", "_waiters")

    def __init__(self) -> None:
        self._settled = False
        self._error: StorageError | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def settled(self) -> bool:
        return self._settled

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if not self._settled:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._error is not None:
            raise again(self._error)

    def settle(self, error: StorageError | None) -> None:
        self._settled, self._error = True, error
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class _Submission:
    statements: tuple[Statement, ...]
    size: int
    ticket: Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStatistics:
    """A snapshot for the console and for tests."""

    pending: int
    pending_bytes: int
    commits: int
    submissions: int
    largest_batch: int
    last_commit_seconds: float


class _Superseded(Exception):
    """The holder row carries another epoch than ours."""

    def __init__(self, found: object) -> None:
        super().__init__(found)
        self.found = found


class Writer:
    """Owns the writing connection's transactions; the caller owns the connection itself."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        epoch: int,
        clock: Clock,
        on_poison: Callable[[StorageError], None],
        relieve: Callable[[], bool] = lambda: False,
        where: Path | None = None,
    ) -> None:
        """``relieve`` frees space when the disk is full and says whether it could; ``where`` names the database
        in messages. ``on_poison`` is called once, on the loop, after every waiter has been failed."""
        self._connection = connection
        self._epoch = epoch
        self._clock = clock
        self._on_poison = on_poison
        self._relieve = relieve
        self._where = where if where is not None else Path("store")
        self._queue: deque[_Submission] = deque()
        self._pending_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._poisoned: StorageError | None = None
        self._last = Ticket()
        self._last.settle(None)
        self._commits = self._submissions = self._largest = 0
        self._last_commit_seconds = 0.0
        self._task = asyncio.create_task(self._run(), name="store-writer")

    @property
    def poisoned(self) -> StorageError | None:
        """Why the writer stopped for good, or None."""
        return self._poisoned

    @property
    def epoch(self) -> int:
        return self._epoch

    def statistics(self) -> WriterStatistics:
        return WriterStatistics(
            pending=len(self._queue),
            pending_bytes=self._pending_bytes,
            commits=self._commits,
            submissions=self._submissions,
            largest_batch=self._largest,
            last_commit_seconds=self._last_commit_seconds,
        )

    def submit(self, statements: Sequence[Statement]) -> Ticket:
        """Queue ``statements`` for one transaction, behind everything submitted before. Never waits.

        Raises ``STORE_POISONED`` after a failure, ``STORE_CLOSED`` after `close`, ``STORE_BACKLOG`` when the
        disk has fallen too far behind; then nothing was queued.
        """
        self._refuse_intake()
        submission = _Submission(tuple(statements), _size(statements), Ticket())
        self._queue.append(submission)
        self._pending_bytes += submission.size
        self._last = submission.ticket
        self._wake.set()
        return submission.ticket

    async def flush(self) -> None:
        """Wait until everything submitted so far is on disk; raises what it failed with."""
        await self._last

    async def close(self) -> None:
        """Stop intake, write what is queued, end the task. Does not raise for a poisoned writer."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    def _refuse_intake(self) -> None:
        if self._poisoned is not None:
            raise StorageError(
                "STORE_POISONED",
                f"the store stopped accepting changes after {self._poisoned.code}: {self._poisoned.message}",
                where=self._poisoned.where,
                hint=self._poisoned.hint,
            )
        if self._closing:
            raise StorageError("STORE_CLOSED", "the store is closing", where=str(self._where))
        if len(self._queue) >= MAX_PENDING or self._pending_bytes >= MAX_PENDING_BYTES:
            raise StorageError(
                "STORE_BACKLOG",
                f"{len(self._queue)} changes ({self._pending_bytes} bytes) are waiting for the disk",
                where=str(self._where),
                hint="the disk is too slow or stuck; launch less at once",
            )

    async def _run(self) -> None:
        try:
            while self._poisoned is None and not (self._closing and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                while self._queue and self._poisoned is None:
                    await self._commit(self._take())
        except asyncio.CancelledError:
            self._poison([], StorageError("STORE_CLOSED", "the writer was cancelled", where=str(self._where)))
            raise

    def _take(self) -> list[_Submission]:
        batch: list[_Submission] = []
        size = 0
        while self._queue and len(batch) < BATCH_SUBMISSIONS and size < BATCH_BYTES:
            submission = self._queue.popleft()
            size += submission.size
            batch.append(submission)
        self._pending_bytes -= size
        return batch

    async def _commit(self, batch: list[_Submission]) -> None:
        statements = [statement for submission in batch for statement in submission.statements]
        started = self._clock.monotonic()
        try:
            await on_thread(self._connection, lambda inner: _write(inner, self._epoch, statements))
        except asyncio.CancelledError:
            # The statement runs on without us: whether it landed is for the next start to find out.
            self._settle(batch, StorageError("STORE_CLOSED", "the writer was cancelled", where=str(self._where)))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the order is broken: everything must fail
            self._poison(batch, self._translate(error))
            return
        self._count(batch, self._clock.monotonic() - started)
        self._settle(batch, None)

    def _count(self, batch: list[_Submission], seconds: float) -> None:
        self._commits += 1
        self._submissions += len(batch)
        self._largest = max(self._largest, len(batch))
        self._last_commit_seconds = seconds

    def _translate(self, error: Exception) -> StorageError:
        if isinstance(error, _Superseded):
            return StorageError(
                "STORE_SUPERSEDED",
                f"another process took the store over (epoch {error.found}, ours is {self._epoch})",
                where=str(self._where),
                hint="close this console; the new holder continues the runs",
            )
        if not isinstance(error, sqlite3.Error):
            return StorageError("STORE_FAILED", f"a batch could not be written: {error!r}", where=str(self._where))
        fault = from_sqlite(error, self._where)
        if fault.code == "STORE_FULL" and self._relieve():
            hint = "reserve space was released so that you can act; free more, then start again"
            return StorageError(fault.code, fault.message, where=fault.where, hint=hint)
        return fault

    def _poison(self, batch: list[_Submission], error: StorageError) -> None:
        self._poisoned = error
        queued, self._queue = list(self._queue), deque()
        self._pending_bytes = 0
        self._settle(batch + queued, error)
        self._on_poison(error)

    @staticmethod
    def _settle(batch: list[_Submission], error: StorageError | None) -> None:
        for submission in batch:
            submission.ticket.settle(error)


def _write(connection: sqlite3.Connection, epoch: int, statements: Sequence[Statement]) -> None:
    """One transaction, on the connection's thread."""
    with transaction(connection):
        row = connection.execute("SELECT epoch FROM holder WHERE slot = 1").fetchone()
        found = row[0] if row else None
        if found != epoch:
            raise _Superseded(found)
        for sql, parameters in statements:
            connection.execute(sql, parameters)


def _size(statements: Sequence[Statement]) -> int:
    return sum(len(value) for _, values in statements for value in values if isinstance(value, bytes | str))
