"""Signers and sinks for tests, and what a store holds of checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime.host.runtime_host import RuntimeHost
from runtime.host.signing import check_signature, trusted_keys
from runtime.host.sinks.port import Continues, Offer
from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import KEY_NAME, Note, VerifierKey, read_note
from runtime.orchestration.merkle import Frontier


class ExternalSigner:
    """Another program's key: it is waited for. ``broken`` makes it fail, ``held`` makes it hang."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.key = VerifierKey(KEY_NAME, self._private.public_key().public_bytes_raw())
        self.broken = False
        self.going = asyncio.Event()
        self.going.set()
        self.asked = 0

    async def sign(self, text: bytes) -> bytes:
        self.asked += 1
        await self.going.wait()
        await asyncio.sleep(0)
        if self.broken:
            raise Refused("SIGN_TROUBLE", "the card is not in the reader")
        return self._private.sign(text)


@dataclass
class MemorySink:
    """Remembers the newest note per origin, and refuses what does not continue it."""

    name: str = "memory"
    notes: dict[str, Note] = field(default_factory=dict)
    offers: list[Note] = field(default_factory=list)
    going: asyncio.Event | None = None
    trouble: bool = False

    async def offer(self, offer: Offer, continues: Continues) -> None:
        await self._answer()
        note = offer.note
        known = self.notes.get(note.checkpoint.origin)
        if known is not None:
            root = await continues(known.checkpoint.size)
            if root != known.checkpoint.root or note.checkpoint.size < known.checkpoint.size:
                raise Refused("SINK_BACKWARDS", "not a continuation")
        self.offers.append(note)
        self.notes[note.checkpoint.origin] = note

    async def newest(self, origin: str) -> Note | None:
        await self._answer()
        return self.notes.get(origin)

    async def _answer(self) -> None:
        if self.trouble:
            raise Refused("SINK_TROUBLE", "the mount is gone")
        if self.going is not None:
            await self.going.wait()


async def notes_of(host: RuntimeHost, journal_id: str) -> list[Note]:
    """What is on disk, oldest first."""
    await host._store.flush()
    return [read_note(row.note) for row in await host._store.checkpoints.of(journal_id)]


async def sizes(host: RuntimeHost, journal_id: str) -> list[int]:
    return [note.checkpoint.size for note in await notes_of(host, journal_id)]


async def assert_covered(host: RuntimeHost, journal_id: str) -> Note:
    """The newest checkpoint is signed by the store's key and covers all there is, byte for byte."""
    newest = (await notes_of(host, journal_id))[-1]
    stored = [entry async for entry in host._store.journals.stream(journal_id)]
    tree = Frontier()
    for entry in stored:
        tree.append(entry.body)
    assert (newest.checkpoint.size, newest.checkpoint.root) == (len(stored), tree.root())
    assert newest.signed_by(trusted_keys(host._store.state), check_signature) is not None
    return newest


@contextlib.contextmanager
def rewriting(store: Path) -> Iterator[sqlite3.Connection]:
    """The database of a closed store, with nothing to hold a forger back."""
    with contextlib.closing(sqlite3.connect(store / "quarterdeck.db", isolation_level=None)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        yield database
        for _, sql in triggers:
            database.execute(sql)
