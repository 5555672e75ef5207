"""Reading: one query at a time per connection, each with a time limit that really stops it.

Cancelling an awaited aiosqlite call leaves the statement running and the next call waiting behind it. A reader
therefore interrupts SQLite, and lets the next query in only when the interrupted one has left the thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite

from runtime.kernel.errors import StorageError
from runtime.storage.database import on_thread
from runtime.storage.faults import DAMAGE, from_sqlite, sqlite_faults

T = TypeVar("T")
Row = tuple[Any, ...]

#: Every query of the console is indexed and paged; one that takes longer is in the way of the others.
READ_SECONDS: Final = 10.0


class Reader:
    """A read-only connection shared by the repositories of one store."""

    def __init__(self, connection: aiosqlite.Connection, where: Path, *, limit: float = READ_SECONDS) -> None:
        self._connection = connection
        self._where = where
        self._limit = limit
        self._turn = asyncio.Lock()

    @property
    def where(self) -> Path:
        return self._where

    async def fetch(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All rows of one query. Raises `StorageError`, ``STORE_TIMEOUT`` after the time limit."""
        return await self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    async def fetch_one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        rows = await self.fetch(sql, parameters)
        return rows[0] if rows else None

    async def fetch_until_damage(
        self, whole: str, keys: str, parameters: Sequence[object], row: str
    ) -> tuple[list[Row], StorageError | None]:
        """The rows up to the point where SQLite refuses, and the refusal.

        ``whole`` selects all rows at once, with no value in the first column of one that is gone. Where that fails,
        ``keys`` selects row numbers in order and ``row`` one whole row by its number: asked one by one, no sort and no read-ahead can turn damage in a late row into the loss of
        the early ones.
        """
        return await self.run(lambda connection: _collect(connection, whole, keys, parameters, row, self._where))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on the connection's thread when it is this caller's turn."""
        async with self._turn:
            hop = asyncio.ensure_future(on_thread(self._connection, work))
            try:
                done, _ = await asyncio.wait({hop}, timeout=self._limit)
            except asyncio.CancelledError:
                await self._stop(hop)
                raise
            if not done:
                await self._stop(hop)
            with sqlite_faults(self._where):
                return hop.result()

    async def close(self) -> None:
        """Stop the running query and close the connection."""
        with sqlite_faults(self._where):
            if self._turn.locked():
                await self._connection.interrupt()
            await self._connection.close()

    async def _stop(self, hop: asyncio.Future[Any]) -> None:
        """Interrupt, and wait for the statement to leave the thread (SQLite answers within milliseconds)."""
        with sqlite_faults(self._where):
            await self._connection.interrupt()
        await asyncio.wait({hop})
        if not hop.cancelled():
            hop.exception()  # marks it as seen: the caller reports its own reason for stopping


def _collect(
    connection: sqlite3.Connection, whole: str, keys: str, parameters: Sequence[object], row: str, where: Path
) -> tuple[list[Row], StorageError | None]:
    rows: list[Row] = []
    try:
        found = connection.execute(whole, parameters).fetchall()
        if all(row[0] is not None for row in found):
            return found, None
    except sqlite3.DatabaseError as error:
        if from_sqlite(error, where).code not in DAMAGE:
            raise
    try:
        for key in connection.execute(keys, parameters):
            found = connection.execute(row, key).fetchone()
            if found is None:
                return rows, StorageError("STORE_CORRUPT", "an index names a row that is gone", where=str(where))
            rows.append(found)
    except sqlite3.DatabaseError as error:
        fault = from_sqlite(error, where)
        if fault.code not in DAMAGE:
            raise
        return rows, fault
    return rows, None
