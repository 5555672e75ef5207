"""Journal entries as rows: appended through the writer, read in order, and read as far as damage allows.

The body holds the hashed canonical bytes; the other columns only find it. Reading for verification therefore
takes every column from the table itself, never from an index that may still hold an undamaged copy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.errors import StorageError
from runtime.kernel.ports import Durable, StoredEntry
from runtime.storage.reader import Reader, Row
from runtime.storage.writer import Statement, Writer

#: The journal of the store itself: refusals, trust, takeovers (ruling R33).
STORE_JOURNAL: Final = "store"
#: Entries per query: some hundred KiB, a few milliseconds.
PAGE: Final = 500

_INSERT: Final = (
    "INSERT INTO journal_entries (journal_id, seq, kind, at, prev_entry_hash, entry_hash, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_COLUMNS: Final = "e.journal_id, e.seq, e.kind, e.at, e.prev_entry_hash, e.entry_hash, e.body"
_KEYS: Final = "SELECT rowid AS r FROM journal_entries WHERE journal_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_FOUND: Final = "SELECT rowid AS r, seq FROM journal_entries{by} WHERE {where}"
_ROW: Final = f"SELECT {_COLUMNS} FROM journal_entries AS e WHERE e.rowid = ?"
#: The same in one statement, for a page without damage.
_ROWS: Final = f"WITH page AS MATERIALIZED ({{keys}}) SELECT {_COLUMNS} FROM page LEFT JOIN journal_entries AS e ON e.rowid = page.r"
_BY_KIND: Final = (
    "WITH page AS (SELECT rowid AS r FROM journal_entries INDEXED BY journal_by_kind WHERE kind = ?{more}"
    f" ORDER BY r DESC LIMIT ?) SELECT {_COLUMNS} FROM page CROSS JOIN journal_entries AS e ON e.rowid = page.r"
    " ORDER BY page.r DESC"
)
_BODIES: Final = (
    "SELECT seq, entry_hash, body FROM journal_entries"
    " WHERE journal_id = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?"
)
# Quotes inside canonical strings are escaped: such a byte sequence can only be a member.
_NAMING: Final = (
    "SELECT body FROM journal_entries INDEXED BY journal_by_kind"
    " WHERE kind = ? AND journal_id = ? AND instr(body, ?) > 0 ORDER BY seq"
)
_OF_RUNS: Final = (
    f"SELECT {_COLUMNS} FROM runs AS r CROSS JOIN journal_entries AS e INDEXED BY journal_by_kind"
    " ON e.kind = ? AND e.journal_id = r.run_id"
    " WHERE (r.finished_at IS NULL OR r.finished_at >= ?) AND e.at >= ? AND e.at < ? ORDER BY e.journal_id, e.seq"
)


class DamagedJournal(StorageError):
    """SQLite, or the row itself, refused to give up an entry. ``entries`` are those read before it."""

    def __init__(self, cause: StorageError, journal_id: str, entries: Sequence[StoredEntry], before: int) -> None:
        self.entries = tuple(entries)
        self.count = before + len(entries)
        """How many leading entries of the journal could be read in all."""
        super().__init__(
            cause.code,
            f"journal {journal_id} can be read for {self.count} entries only: {cause.message}",
            where=cause.where,
            hint=cause.hint,
        )


class SqlJournal:
    """Append-only storage of one journal (`runtime.kernel.ports.JournalStore`)."""

    def __init__(self, writer: Writer, journal_id: str) -> None:
        self._writer = writer
        self._journal_id = journal_id

    def append(self, entry: StoredEntry) -> Durable:
        return self._writer.submit([insert_entry(self._journal_id, entry)])


def insert_entry(journal_id: str, entry: StoredEntry) -> Statement:
    return _INSERT, (
        journal_id,
        entry.seq,
        entry.kind,
        entry.at,
        entry.prev_entry_hash,
        entry.entry_hash,
        entry.body,
    )


class Journals:
    """Queries over journal entries."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def read(
        self,
        journal_id: str,
        after: int = -1,
        limit: int = PAGE,
        *,
        until: int | None = None,
        kinds: Sequence[str] = (),
        step: str | None = None,
        offset: int = 0,
    ) -> list[StoredEntry]:
        """Entries with ``seq > after``, in order. Raises `DamagedJournal` with what came before the damage;
        its ``count`` takes the ``after + 1`` earlier entries as read.

        Only those up to ``until``, of ``kinds``, and of one step, after skipping ``offset`` of them. Kinds come from
        an index; a step is searched for in the bodies, which ``until`` should bound.
        """
        if until is None and not kinds and step is None and not offset:
            keys, parameters = _KEYS, [journal_id, after, limit]
        else:
            keys, parameters = _keys(journal_id, after, limit, until, kinds, step, offset)
        rows, fault = await self._reader.fetch_until_damage(_ROWS.format(keys=keys), keys, parameters, _ROW)
        entries: list[StoredEntry] = []
        for row in rows:
            if row[0] != journal_id or type(row[1]) is not int:
                fault = _misfiled(row, str(self._reader.where))
                break
            entries.append(_entry(row))
        if fault is not None:
            raise DamagedJournal(fault, journal_id, entries, after + 1)
        return entries

    async def stream(self, journal_id: str) -> AsyncIterator[StoredEntry]:
        """The whole journal. On damage, yields what can be read and then raises `DamagedJournal`."""
        async for page in self.pages(journal_id):
            for entry in page:
                yield entry

    async def pages(self, journal_id: str, after: int = -1) -> AsyncIterator[list[StoredEntry]]:
        """Entries with ``seq > after``, page by page. On damage, yields what can be read and then raises
        `DamagedJournal`, so that a verifier knows the prefix it has seen.

        No page is read ahead: SQLite gives up the interpreter at every row and would wait for whoever checks a page.
        """
        while True:
            try:
                page = await self.read(journal_id, after)
            except DamagedJournal as damage:
                yield list(damage.entries)
                raise
            yield page
            if len(page) < PAGE:
                return
            # A damaged number could send us back; only ever go forward.
            after = max(after + 1, page[-1].seq)

    async def each(self, journal_id: str, take: Callable[[str, bytes], None], *, until: int) -> None:
        """Call ``take`` with hash and body of every entry with ``seq < until``, in order, on the reader's thread.

        Page by page, so that others have their turn and nothing is held in memory. Raises `StorageError` where the
        rows cannot be read.
        """

        def page(connection: sqlite3.Connection) -> tuple[int, int]:
            count, last = 0, seen
            for seq, entry_hash, body in connection.execute(_BODIES, (journal_id, seen, until, PAGE)):
                take(_text(entry_hash), body if isinstance(body, bytes) else _text(body).encode())
                # A damaged number could send us back; only ever go forward.
                count, last = count + 1, max(last + 1, seq if isinstance(seq, int) else 0)
            return count, last

        seen, count = -1, PAGE
        while count == PAGE:
            count, seen = await self._reader.run(page)

    async def naming(self, journal_id: str, kind: str, member: str, value: str) -> list[bytes]:
        """The bodies of all entries of one kind that have this text member, in order."""
        rows = await self._reader.fetch(_NAMING, (kind, journal_id, canonical_bytes({member: value})[1:-1]))
        return [bytes(row[0]) for row in rows]

    async def count(self, journal_id: str, kinds: Sequence[str] = ()) -> int:
        """How many entries there are, of these kinds or of any."""
        marks = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = await self._reader.fetch(
            f"SELECT count(*) FROM journal_entries WHERE journal_id = ?{marks}", (journal_id, *kinds)
        )
        return int(rows[0][0])

    async def head(self, journal_id: str) -> StoredEntry | None:
        """The newest entry."""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM journal_entries AS e WHERE journal_id = ? ORDER BY seq DESC LIMIT 1",
            (journal_id,),
        )
        return _entry(rows[0]) if rows else None

    async def receipts(self, journal_id: str) -> frozenset[str]:
        """The hashes of all receipts of a journal that still hold one."""
        found: set[str] = set()
        page = await self.read(journal_id, kinds=["receipt"])
        while page:
            found.update(_named_in(row.body) for row in page)
            page = await self.read(journal_id, page[-1].seq, kinds=["receipt"])
        return frozenset(found)

    async def by_kind(self, kind: str, journal_id: str | None = None, limit: int = 200) -> list[StoredEntry]:
        """The newest entries of one kind, newest first, of one journal or of all (bodies name theirs)."""
        more, parameters = ("", [kind]) if journal_id is None else (" AND journal_id = ?", [kind, journal_id])
        rows = await self._reader.fetch(_BY_KIND.format(more=more), (*parameters, limit))
        return [_entry(row) for row in rows]

    async def between(self, kind: str, since: str, until: str) -> list[StoredEntry]:
        """The entries of one kind, of every run, at or after ``since`` and before ``until``, run by run in order."""
        return [_entry(row) for row in await self._reader.fetch(_OF_RUNS, (kind, since, since, until))]


def _keys(
    journal_id: str, after: int, limit: int, until: int | None, kinds: Sequence[str], step: str | None, offset: int
) -> tuple[str, list[object]]:
    """Row numbers of the entries a filter lets through: one ordered index search per kind, merged by number."""
    conditions, parameters = ["journal_id = ?", "seq > ?"], [journal_id, after]
    if until is not None:
        conditions.append("seq <= ?")
        parameters.append(until)
    if step is not None:
        # Quotes inside canonical strings are escaped: this byte sequence can only be a member.
        conditions.append("instr(body, ?) > 0")
        parameters.append(b'"step_id":' + canonical_bytes(step))
    where = " AND ".join(conditions)
    by_kind = _FOUND.format(by=" INDEXED BY journal_by_kind", where=f"kind = ? AND {where}")
    searches = [by_kind] * len(kinds) or [_FOUND.format(by="", where=where)]
    values = [value for kind in kinds for value in (kind, *parameters)] or parameters
    merged = f"{' UNION ALL '.join(searches)} ORDER BY seq LIMIT ? OFFSET ?"
    return f"SELECT r FROM ({merged}) ORDER BY seq", [*values, limit, offset]


def _named_in(body: bytes) -> str:
    """The hash a receipt says it has; quotes inside canonical strings are escaped, so this can only be a member."""
    return body.partition(b'"receipt_hash":"')[2].partition(b'"')[0].decode("utf-8", "replace")


def _misfiled(row: Row, where: str) -> StorageError:
    return StorageError(
        "STORE_CORRUPT",
        f"a row found under this journal names journal {row[0]!r} and number {row[1]!r}",
        where=where,
        hint="copy the folder aside before anything else writes to it",
    )


def _entry(row: Row) -> StoredEntry:
    """Damaged columns keep a value of the declared type, so that verification can name the mismatch."""
    _, seq, kind, at, previous, entry_hash, body = row
    if type(kind) is type(at) is type(previous) is type(entry_hash) is str and type(body) is bytes:
        return StoredEntry(seq, kind, at, previous, entry_hash, body)
    return StoredEntry(
        seq=seq,
        kind=_text(kind),
        at=_text(at),
        prev_entry_hash=_text(previous),
        entry_hash=_text(entry_hash),
        body=body if isinstance(body, bytes) else _text(body).encode("utf-8", "replace"),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)
