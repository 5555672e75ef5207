"""Signed checkpoints as rows beside the journals they speak of: append-only, and only ever forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runtime.kernel.canonical import digest_bytes
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.reader import Reader, Row
from runtime.storage.writer import Statement

_COLUMNS: Final = "journal_id, generation, size, head_hash, note, at"


_INSERT: Final = f"INSERT INTO checkpoints ({_COLUMNS}, note_hash) VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A signed note as stored. Only ``note`` is evidence; the columns find it, and ``head_hash`` is that of the last entry
    it covers."""

    journal_id: str
    generation: int
    size: int
    head_hash: str
    note: bytes
    at: str


def insert_checkpoint(row: StoredCheckpoint) -> Statement:
    return (
        _INSERT,
        (row.journal_id, row.generation, row.size, row.head_hash, row.note, row.at, digest_bytes(row.note)),
    )


def named(journal_id: str, store_id: str) -> str:
    """What a journal is called in notes: a store's own is one of many, so it carries the name of its store."""
    return f"{STORE_JOURNAL}-{store_id}" if journal_id == STORE_JOURNAL else journal_id


class Checkpoints:
    """Queries over checkpoints."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def store_id(self) -> str:
        """The random name of this store, made when it was created; backups of it have the same."""
        return str((await self._reader.fetch("SELECT value FROM meta WHERE key = 'store_id'"))[0][0])

    async def of(self, journal_id: str) -> list[StoredCheckpoint]:
        """All of one journal, oldest first."""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM checkpoints WHERE journal_id = ? ORDER BY generation, size", (journal_id,)
        )
        return [_checkpoint(row) for row in rows]

    async def after(self, journal_id: str, generation: int, size: int) -> list[StoredCheckpoint]:
        """Those of one journal made after the one of that generation and size, oldest first."""
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM checkpoints WHERE journal_id = ? AND (generation, size) > (?, ?)"
            " ORDER BY generation, size",
            (journal_id, generation, size),
        )
        return [_checkpoint(row) for row in rows]

    async def covering(self, journal_id: str, seq: int) -> StoredCheckpoint | None:
        """The newest one that covers an entry."""
        found = await self.newest(journal_id)
        return found if found is not None and found.size > seq else None

    async def newest(self, journal_id: str) -> StoredCheckpoint | None:
        rows = await self._reader.fetch(
            f"SELECT {_COLUMNS} FROM checkpoints WHERE journal_id = ? ORDER BY generation DESC, size DESC LIMIT 1",
            (journal_id,),
        )
        return _checkpoint(rows[0]) if rows else None

    async def newest_hash(self) -> str | None:
        """The digest of the note stored last, of whatever journal."""
        rows = await self._reader.fetch("SELECT note_hash FROM checkpoints ORDER BY rowid DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    async def known(self, note_hash: str) -> bool:
        """Is there a checkpoint whose note has this digest?"""
        return bool(await self._reader.fetch("SELECT 1 FROM checkpoints WHERE note_hash = ?", (note_hash,)))


def _checkpoint(row: Row) -> StoredCheckpoint:
    journal_id, generation, size, head_hash, note, at = row
    return StoredCheckpoint(
        journal_id=str(journal_id),
        generation=int(generation),
        size=int(size),
        head_hash=str(head_hash),
        note=note if isinstance(note, bytes) else str(note).encode("utf-8", "replace"),
        at=str(at),
    )
