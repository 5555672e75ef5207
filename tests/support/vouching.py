"""Stores with signed checkpoints in them, and what somebody with the file in hand can do to them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from runtime.host.gathering import origin_of
from runtime.host.signing import open_signer
from runtime.kernel.clock import SystemClock, timestamp
from runtime.orchestration.checkpoints import Checkpoint, Note, read_note, signature_line
from runtime.orchestration.merkle import Frontier
from runtime.storage.checkpoints import StoredCheckpoint, insert_checkpoint
from runtime.storage.store import Store
from tests.support.hosting import hosting, plain, run_to_end


async def checkpointed(store: Store, journal_id: str) -> Note:
    """A signed checkpoint of all entries there are, stored beside them unless there is one."""
    await store.flush()
    newest = await store.checkpoints.newest(journal_id)
    frontier, head = Frontier(), ""
    async for entry in store.journals.stream(journal_id):
        frontier.append(entry.body)
        head = entry.entry_hash
    if newest is not None and newest.size == frontier.size:
        return read_note(newest.note)
    signer = await open_signer(store.state, SystemClock())
    said = Checkpoint(await origin_of(store, journal_id), frontier.size, frontier.root())
    data = said.text() + b"\n" + signature_line(signer.key, await signer.sign(said.text()))
    at = timestamp(SystemClock().now())
    row = StoredCheckpoint(journal_id=journal_id, generation=1, size=said.size, head_hash=head, note=data, at=at)
    await store.submit([insert_checkpoint(row)])
    return read_note(data)


async def finished(folder: Path) -> tuple[str, Note]:
    """A run that has ended, with a checkpoint of its whole journal; the store is closed."""
    path = plain(folder / "m", "  a: {type: template, template: hi}\n  b: {type: template, template: you}", "[a -> b]")
    async with hosting(folder / "store") as host:
        run_id = (await run_to_end(host, path)).run_id
        return run_id, await checkpointed(host._store, run_id)


def tamper(folder: Path, *statements: str) -> None:
    """What somebody with the file in hand can do."""
    with closing(sqlite3.connect(folder / "store" / "quarterdeck.db")) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert database.execute(statement).rowcount > 0, statement
