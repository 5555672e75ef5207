"""Connections: how the database is opened for the one writer and for any number of readers.

The default virtual file system is used on purpose (ruling R34). The writer's connection is the only one that
writes or checkpoints, which removes the precondition of SQLite's known write-ahead-log race. Files are created
with mode 0600 before SQLite sees them; it gives the log and its index the same mode.

An aiosqlite connection owns a thread that would keep the process from exiting until it is closed. Ours are daemons:
the store closes them, but a process that fails before it can must end, not hang, and what was acknowledged is on
disk either way.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from runtime.kernel.errors import StorageError
from runtime.storage.faults import os_faults, sqlite_faults
from runtime.storage.layout import FILE_MODE, StateDir

T = TypeVar("T")

#: How long SQLite itself waits for a foreign lock before it reports one.
BUSY_SECONDS: Final = 5.0
#: A reader maps a new index file on a disk with less than this only at the risk of SIGBUS.
READER_FREE_BYTES: Final = 1024 * 1024
#: The log is cut back to this after a checkpoint.
_LOG_LIMIT: Final = 64 * 1024 * 1024

#: aiosqlite's own default; only its cursors use it, and we fetch on the thread instead.
_CHUNK: Final = 64

_COMMON: Final = (
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
)
_WRITER: Final = (
    "PRAGMA synchronous=FULL",
    "PRAGMA recursive_triggers=ON",  # REPLACE must not slip past the triggers that refuse DELETE
    f"PRAGMA journal_size_limit={_LOG_LIMIT}",
)


async def on_thread(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run ``work`` on the connection's own thread in one hop. Cancelling the await does not stop it."""
    inner = connection._conn
    execute = cast(Callable[..., Any], connection._execute)
    return cast(T, await execute(work, inner))


async def open_writer(state: StateDir, check: Callable[[sqlite3.Connection], None]) -> aiosqlite.Connection:
    """Open, and if need be create, the database for writing. The caller holds the store lock.

    ``check`` raises for a database that is not ours, before anything in it is changed.
    """
    _prepare_file(state.db)
    return await _open(state.db, lambda: _connect(str(state.db)), partial(_configure_writer, check))


async def open_reader(state: StateDir) -> aiosqlite.Connection:
    """Open the database for reading only, beside a live writer or without one.

    SQLite needs the log's index file. Where it neither exists nor can be created (read-only folder, full disk)
    and there is no log, the file is complete in itself and is opened as immutable.
    """
    _require_database(state.db)
    if not state.shm.exists() and state.free_bytes() < READER_FREE_BYTES:
        return await _open_immutable(state)
    try:
        return await _open(state.db, lambda: _connect(_uri(state.db, "mode=ro"), uri=True), _configure_reader)
    except StorageError as error:
        if error.code not in ("STORE_CANNOT_OPEN", "STORE_READ_ONLY"):
            raise
        return await _open_immutable(state)


async def _open_immutable(state: StateDir) -> aiosqlite.Connection:
    if state.wal.exists() and state.wal.stat().st_size > 0:
        raise StorageError(
            "STORE_CANNOT_OPEN",
            "the newest entries are still in the write-ahead log, which cannot be read from a read-only place",
            where=str(state.root),
            hint="copy the whole folder to a writable disk and open it there with --store",
        )
    uri = _uri(state.db, "mode=ro&immutable=1")
    return await _open(state.db, lambda: _connect(uri, uri=True), _configure_reader)


async def _open(
    path: Path, connect: Callable[[], sqlite3.Connection], configure: Callable[[sqlite3.Connection], None]
) -> aiosqlite.Connection:
    with sqlite_faults(path):
        connection = aiosqlite.Connection(connect, iter_chunk_size=_CHUNK)
        connection._thread.daemon = True
        await connection
        try:
            await on_thread(connection, configure)
        except BaseException:
            await connection.close()
            raise
    return connection


def _connect(database: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None, uri=uri)


def _configure_writer(check: Callable[[sqlite3.Connection], None], connection: sqlite3.Connection) -> None:
    run_all(connection, _COMMON)
    check(connection)  # switching to a write-ahead log already rewrites the header
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StorageError(
            "STORE_CANNOT_OPEN",
            f"this file system cannot hold a write-ahead log (journal mode {mode})",
            hint="choose a folder on a local disk with --store or QUARTERDECK_HOME",
        )
    run_all(connection, _WRITER)


def _configure_reader(connection: sqlite3.Connection) -> None:
    # Damaged text must reach the verifier as a mismatch, not stop the read as a decoding error.
    connection.text_factory = methodcaller("decode", "utf-8", "replace")
    run_all(connection, _COMMON)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA user_version").fetchone()  # the first touch of the file; fails here if at all


def run_all(connection: sqlite3.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, on the connection's thread. Undoing never hides the error that made it necessary."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(str(path.absolute()))}?{options}"


def _prepare_file(path: Path) -> None:
    """Create the file with its final mode. An existing one is only looked at: opening and closing it outside
    SQLite would drop the locks another connection of this process holds."""
    try:
        with os_faults(path, "create the database"):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    except StorageError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        _require_database(path)
        with os_faults(path, "make the database private"):
            path.chmod(FILE_MODE)


def _require_database(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StorageError(
            "STORE_MISSING",
            "there is no store here yet",
            where=str(path.parent),
            hint="run a mission first, or name the folder with --store or QUARTERDECK_HOME",
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(
            "STORE_SYMLINK",
            "the database is not a regular file",
            where=str(path),
            hint="replace the link by the real file, or choose another folder with --store",
        )
