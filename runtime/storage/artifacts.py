"""Bodies by digest, in the same database as the entries that name them.

Being in the same database is the point: the writer keeps order, so one commit makes a body and the entry after
it durable together (`runtime.kernel.ports.ArtifactStore`), and no file can go missing on its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import StorageError
from runtime.storage.faults import DAMAGE, from_sqlite
from runtime.storage.reader import Reader, Row
from runtime.storage.writer import Writer

#: Captured output is capped well below; a larger body is a fault, not data.
MAX_ARTIFACT_BYTES: Final = 32 * 1024 * 1024
_BODY: Final = "SELECT body FROM artifacts WHERE digest = ?"


class Artifacts:
    """Content-addressed storage. Without a writer (an observer) only `get` and `raw` work."""

    def __init__(self, reader: Reader, writer: Writer | None, clock: Clock) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock

    def put(self, data: bytes) -> str:
        """Keep ``data``, durable no later than any entry appended afterwards, and return its digest."""
        if self._writer is None:
            raise StorageError("STORE_READ_ONLY", "this process only observes the store")
        if len(data) > MAX_ARTIFACT_BYTES:
            raise StorageError(
                "STORE_ARTIFACT_SIZE", f"a body of {len(data)} bytes exceeds the limit of {MAX_ARTIFACT_BYTES}"
            )
        digest = digest_bytes(data)
        self._writer.submit(
            [
                (
                    "INSERT OR IGNORE INTO artifacts (digest, bytes, body, at) VALUES (?, ?, ?, ?)",
                    (digest, len(data), data, timestamp(self._clock.now())),
                )
            ]
        )
        return digest

    async def get(self, digest: str) -> bytes | None:
        """The body, or None when it is not stored. Raises ``STORE_ARTIFACT_DAMAGED`` when it does not match."""
        body = await self.raw(digest)
        if body is not None and digest_bytes(body) != digest:
            raise StorageError(
                "STORE_ARTIFACT_DAMAGED",
                f"the stored body of {digest} hashes to {digest_bytes(body)}",
                where=str(self._reader.where),
                hint="run `quarterdeck verify` to see which runs refer to it",
            )
        return body

    async def flush(self) -> None:
        """Wait until everything put so far is on disk. Raises `StorageError` with what it failed with."""
        if self._writer is not None:
            await self._writer.flush()

    async def raw(self, digest: str) -> bytes | None:
        """The body as stored, unchecked: for a verifier that reports mismatches itself."""
        row = await self._row(digest)
        if row is None and self._writer is not None and self._writer.poisoned is None:
            # What this process has put may still wait for its commit.
            await self._writer.flush()
            row = await self._row(digest)
        if row is None:
            return None
        return _bytes(row[0])

    async def raw_batch(
        self, digests: Sequence[str], most_bytes: int
    ) -> tuple[dict[str, bytes | None], dict[str, StorageError]]:
        """The bodies of the first of ``digests`` as stored, unchecked, until they have ``most_bytes``; at least one.

        None stands for one that is not stored. For one that the disk refuses, the reason is in the second mapping instead.
        """
        found, faults = await self._batch(digests, most_bytes)
        if self._writer is not None and self._writer.poisoned is None and None in found.values():
            # What this process has put may still wait for its commit.
            await self._writer.flush()
            found, faults = await self._batch(digests, most_bytes)
        return found, faults

    async def _batch(
        self, digests: Sequence[str], most_bytes: int
    ) -> tuple[dict[str, bytes | None], dict[str, StorageError]]:
        return await self._reader.run(lambda connection: _bodies(connection, digests, most_bytes, self._reader.where))

    async def _row(self, digest: str) -> Row | None:
        return await self._reader.fetch_one(_BODY, (digest,))


def _bodies(
    connection: sqlite3.Connection, digests: Sequence[str], most_bytes: int, where: Path
) -> tuple[dict[str, bytes | None], dict[str, StorageError]]:
    found: dict[str, bytes | None] = {}
    faults: dict[str, StorageError] = {}
    size = 0
    for digest in digests:
        try:
            row = connection.execute(_BODY, (digest,)).fetchone()
        except sqlite3.DatabaseError as error:
            fault = from_sqlite(error, where)
            if fault.code not in DAMAGE:
                raise
            faults[digest] = fault
            continue
        body = None if row is None else _bytes(row[0])
        found[digest] = body
        size += len(body or b"")
        if size >= most_bytes:
            break
    return found, faults


def _bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode("utf-8", "replace")
