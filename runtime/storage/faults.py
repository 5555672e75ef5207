"""The one place where the operating system's and SQLite's words become ours.

Nothing above this room ever sees a ``sqlite3.Error`` or an ``OSError`` from the store: every failure is a
`StorageError` with a ``STORE_*`` code, the path, and advice an operator can follow. The first error is always
the one reported; rolling back afterwards never replaces it.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.kernel.errors import StorageError

#: SQLite's extended result codes keep the primary code in the low byte.
_PRIMARY: Final = 0xFF

_FREE_SPACE: Final = "free some disk space, then start again; nothing recorded so far is lost"
_MAKE_WRITABLE: Final = "make it writable, or choose another folder with --store or QUARTERDECK_HOME"
_DAMAGED: Final = (
    "copy the whole folder aside, see what can be trusted with `quarterdeck verify`, and start with another --store"
)

#: Codes of what is damaged in place: something else may still be readable.
DAMAGE: Final = frozenset({"STORE_CORRUPT", "STORE_IO"})

#: Primary result code → (our code, what happened, what to do).
_SQLITE: Final[dict[int, tuple[str, str, str]]] = {
    sqlite3.SQLITE_CORRUPT: ("STORE_CORRUPT", "the database is damaged", _DAMAGED),
    sqlite3.SQLITE_NOTADB: ("STORE_CORRUPT", "the file is not a database", _DAMAGED),
    sqlite3.SQLITE_FULL: ("STORE_FULL", "the disk is full", _FREE_SPACE),
    sqlite3.SQLITE_READONLY: ("STORE_READ_ONLY", "the database cannot be written", _MAKE_WRITABLE),
    sqlite3.SQLITE_CANTOPEN: (
        "STORE_CANNOT_OPEN",
        "the database cannot be opened",
        "check the permissions of the folder and its files",
    ),
    sqlite3.SQLITE_PERM: ("STORE_UNWRITABLE", "access to the database is denied", _MAKE_WRITABLE),
    sqlite3.SQLITE_BUSY: (
        "STORE_BUSY",
        "another process keeps the database locked",
        "close other programs that have the database open, then try again",
    ),
    sqlite3.SQLITE_LOCKED: ("STORE_BUSY", "the database is locked", "try again"),
    sqlite3.SQLITE_IOERR: (
        "STORE_IO",
        "the disk refused to read or write",
        "check the disk, its quota and the system log; what was acknowledged before is kept",
    ),
    sqlite3.SQLITE_INTERRUPT: ("STORE_TIMEOUT", "the query took too long and was stopped", "ask for less"),
    sqlite3.SQLITE_NOMEM: ("STORE_MEMORY", "there is not enough memory", "close other programs"),
    sqlite3.SQLITE_CONSTRAINT: (
        "STORE_CONSTRAINT",
        "a rule of the store refused a statement",
        "this is a fault of Quarterdeck; the refused change was not made",
    ),
}

_OS: Final[dict[int, tuple[str, str]]] = {
    errno.EROFS: ("STORE_READ_ONLY", _MAKE_WRITABLE),
    errno.EACCES: ("STORE_UNWRITABLE", _MAKE_WRITABLE),
    errno.EPERM: ("STORE_UNWRITABLE", _MAKE_WRITABLE),
    errno.ENOSPC: ("STORE_FULL", _FREE_SPACE),
    errno.EDQUOT: ("STORE_FULL", _FREE_SPACE),
    errno.ENOTDIR: ("STORE_NOT_FOLDER", "choose a folder with --store or QUARTERDECK_HOME"),
    errno.EEXIST: ("STORE_NOT_FOLDER", "choose a folder with --store or QUARTERDECK_HOME"),
    errno.ELOOP: ("STORE_SYMLINK", "name the real path instead of a symbolic link"),
    errno.ENOENT: ("STORE_MISSING", "check the path given with --store or QUARTERDECK_HOME"),
}


def from_sqlite(error: sqlite3.Error, where: Path) -> StorageError:
    """Translate what SQLite said."""
    number = getattr(error, "sqlite_errorcode", None)
    known = _SQLITE.get(number & _PRIMARY) if isinstance(number, int) else None
    if known is None:
        return StorageError("STORE_FAILED", f"the database refused: {error}", where=str(where))
    code, what, hint = known
    return StorageError(code, f"{what}: {error}", where=str(where), hint=hint)


def from_os(error: OSError, where: Path, action: str) -> StorageError:
    """Translate a failed system call; ``action`` completes "cannot …"."""
    code, hint = _OS.get(error.errno or 0, ("STORE_IO", "check the disk and that the folder is on a local file system"))
    return StorageError(code, f"cannot {action}: {error.strerror or error}", where=str(where), hint=hint)


def again(error: StorageError) -> StorageError:
    """A fresh copy to raise, so that several waiters do not share one traceback."""
    return StorageError(error.code, error.message, where=error.where, hint=error.hint)


@contextmanager
def sqlite_faults(where: Path) -> Iterator[None]:
    """Turn every error SQLite or a closed connection raises inside the block into a `StorageError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, where) from error
    except ValueError as error:  # aiosqlite's word for a connection that was closed under us
        raise StorageError("STORE_CLOSED", f"the store is closed: {error}", where=str(where)) from error


@contextmanager
def os_faults(where: Path, action: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise from_os(error, where, action) from error
