"""Journal entries and artifacts: append-only by the tables themselves, readable as far as damage allows."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import replace

import pytest

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import SequenceIds
from runtime.kernel.ports import StoredEntry
from runtime.storage.checkpoints import StoredCheckpoint, insert_checkpoint
from runtime.storage.journals import PAGE, DamagedJournal
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

Entry = Callable[..., StoredEntry]


async def filled(state: StateDir, entry: Entry, count: int, size: int = 40) -> None:
    store = await Store.open(state, ManualClock(), SequenceIds())
    for seq in range(count):
        store.journal("j").append(entry(seq, body=b"%06d" % seq + b"x" * size))
    await store.close()


async def readable(store: Store) -> tuple[list[StoredEntry], bool]:
    """What can be read of the journal, and whether the store itself noticed damage."""
    try:
        return await store.journals.read("j"), False
    except DamagedJournal as damage:
        return list(damage.entries), True


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal_entries SET body = x'00' WHERE seq = 1",
        "UPDATE OR REPLACE journal_entries SET seq = 7",
        "DELETE FROM journal_entries",
        "INSERT OR REPLACE INTO journal_entries VALUES ('j', 1, 'k', 'a', 'p', 'h', x'00')",
        "INSERT INTO journal_entries VALUES ('j', 1, 'k', 'a', 'p', 'h', x'00')",
        "INSERT INTO journal_entries VALUES ('j', 7, 'k', 'a', 'p', 'h', x'00')",
        "INSERT INTO journal_entries VALUES ('new', 1, 'k', 'a', 'p', 'h', x'00')",
        "INSERT INTO journal_entries VALUES ('j', 3, 'k', 'a', 'p', 'h', 'text')",
        "UPDATE artifacts SET body = x'00', bytes = 1",
        "UPDATE checkpoints SET size = 9",
        "DELETE FROM checkpoints",
        "INSERT OR REPLACE INTO checkpoints VALUES ('j', 1, 2, 'h', 'other', x'00', 'a')",
        "INSERT INTO checkpoints VALUES ('j', 1, 1, 'h', 'smaller', x'00', 'a')",
        "INSERT INTO checkpoints SELECT 'j', 2, 3, 'h', note_hash, note, 'a' FROM checkpoints",
        "INSERT INTO checkpoints VALUES ('j', 0, 9, 'h', 'other', x'00', 'a')",
    ],
)
async def test_tables_refuse_to_change_the_past(state: StateDir, entry: Entry, statement: str) -> None:
    store = await Store.open(state, ManualClock(), SequenceIds())
    digest = store.artifacts.put(b"kept")
    for seq in range(3):
        await store.journal("j").append(entry(seq))
    kept = StoredCheckpoint(journal_id="j", generation=1, size=2, head_hash="h", note=b"n", at="a")
    await store.submit([insert_checkpoint(kept)])
    with pytest.raises(StorageError, match="STORE_CONSTRAINT"):
        await store.submit([(statement, ())])
    assert await store.checkpoints.of("j") == [kept]
    assert await store.journals.read("j") == [entry(0), entry(1), entry(2)]
    assert await store.artifacts.get(digest) == b"kept"
    await store.close()
    plain = sqlite3.connect(state.db)  # and not only on our own connection
    with pytest.raises(sqlite3.IntegrityError):
        plain.execute(statement)
    plain.close()


async def test_reading_pages_by_sequence(store: Store, entry: Entry) -> None:
    for seq in range(10):
        store.journal("j").append(entry(seq))
    store.journal("other").append(entry(0))
    await store.flush()
    assert [e.seq for e in await store.journals.read("j", limit=4)] == [0, 1, 2, 3]
    assert [e.seq for e in await store.journals.read("j", after=7)] == [8, 9]
    assert await store.journals.read("j", after=9) == []
    assert await store.journals.head("j") == entry(9)
    assert await store.journals.head("nothing") is None


async def test_streaming_crosses_pages(store: Store, entry: Entry) -> None:
    count = PAGE + 1
    for seq in range(count):
        store.journal("j").append(entry(seq))
    await store.flush()
    assert [e.seq async for e in store.journals.stream("j")] == list(range(count))


KINDS = ("step_started", "receipt", "step_finished", "signal")


async def mixed(store: Store, entry: Entry, count: int) -> list[StoredEntry]:
    """A journal whose entries name steps, one of them only inside another text."""
    made = []
    for seq in range(count):
        body = f'{{"note":"\\"step_id\\":\\"s0\\"","seq":{seq},"step_id":"s{seq % 5}"}}'.encode()
        made.append(entry(seq, KINDS[seq % 7 % 4], body))
        store.journal("j").append(made[-1])
        store.journal("other").append(entry(seq, "receipt", body))
    await store.flush()
    return made


@pytest.mark.parametrize("kinds", [(), ("receipt",), ("step_started", "step_finished"), ("nothing",)])
@pytest.mark.parametrize("step", [None, "s0", "s", 's"3'])
async def test_filters_page_like_a_filtered_list(
    store: Store, entry: Entry, kinds: tuple[str, ...], step: str | None
) -> None:
    made = await mixed(store, entry, 150)
    rows = [item for item in made if (not kinds or item.kind in kinds) and (step is None or step == f"s{item.seq % 5}")]
    if step is None:
        assert await store.journals.count("j", kinds) == len(rows)
    for after, until, offset in ((-1, None, 0), (-1, None, 7), (40, 90, 0), (40, 90, 3), (149, None, 0)):
        kept = [item for item in rows if after < item.seq <= (until or 150)]
        found = await store.journals.read("j", after, 10, until=until, kinds=kinds, step=step, offset=offset)
        assert found == kept[offset : offset + 10]


async def test_by_kind_newest_first_in_one_journal_or_all(store: Store, entry: Entry) -> None:
    store.journal("a").append(entry(0, "operation_denied", b"a0"))
    store.journal("b").append(entry(0, "operation_denied", b"b0"))
    store.journal("b").append(entry(1, "receipt", b"b1"))
    await store.journal("a").append(entry(1, "operation_denied", b"a1"))
    assert [e.body for e in await store.journals.by_kind("operation_denied")] == [b"a1", b"b0", b"a0"]
    assert [e.body for e in await store.journals.by_kind("operation_denied", "a")] == [b"a1", b"a0"]
    assert [e.body for e in await store.journals.by_kind("operation_denied", limit=1)] == [b"a1"]


async def test_checkpoints_go_forward_in_size_and_then_in_generation(store: Store) -> None:
    rows = [
        StoredCheckpoint(
            journal_id=name, generation=gen, size=size, head_hash="h", note=f"{name}{gen}{size}".encode(), at="a"
        )
        for name, gen, size in (("j", 1, 2), ("other", 1, 1), ("j", 1, 9), ("j", 2, 3), ("j", 2, 4))
    ]
    await store.submit([insert_checkpoint(row) for row in rows])
    assert await store.checkpoints.newest("j") == rows[-1]
    assert await store.checkpoints.newest_hash() == digest_bytes(b"j24")
    with pytest.raises(StorageError, match="STORE_CONSTRAINT"):
        await store.submit([insert_checkpoint(replace(rows[0], size=10, note=b"an older generation"))])


async def test_damage_yields_the_leading_entries_and_their_count(state: StateDir, entry: Entry) -> None:
    await filled(state, entry, 900, size=400)
    content = state.db.read_bytes()
    page = content.index(b"000700" + b"x" * 400) // 4096
    with state.db.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    observer = await Store.observe(state)
    seen: list[StoredEntry] = []

    async def collect() -> None:
        async for stored in observer.journals.stream("j"):
            seen.append(stored)

    with pytest.raises(DamagedJournal) as caught:
        await collect()
    assert caught.value.code == "STORE_CORRUPT"
    assert caught.value.count == len(seen)
    assert 680 <= len(seen) <= 700
    assert [stored.seq for stored in seen] == list(range(len(seen)))
    assert f"{len(seen)} entries only" in caught.value.message
    await observer.close()


async def test_any_flipped_byte_of_a_row_shows(state: StateDir, entry: Entry) -> None:
    """Bytes of the table itself are read, so an intact copy of a column in an index cannot hide damage."""
    await filled(state, entry, 5)
    content = state.db.read_bytes()
    body = content.index(b"000002" + b"x" * 40)
    start = content.index(b"step_started2026-01-01T00:00:02") - 12  # from the cell's header on
    good = [entry(seq, body=b"%06d" % seq + b"x" * 40) for seq in range(5)]
    for offset in range(start, body + 46):
        with state.db.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([content[offset] ^ random.Random(offset).randrange(1, 256)]))
        observer = await Store.observe(state)
        found, damaged = await readable(observer)
        assert found != good
        assert found[:2] == good[:2]
        if damaged:
            assert found == good[: len(found)]
        await observer.close()
        state.db.write_bytes(content)


async def test_artifacts_are_stored_once_and_checked_when_read(state: StateDir) -> None:
    store = await Store.open(state, ManualClock(), SequenceIds())
    digest = store.artifacts.put(b"body")
    assert store.artifacts.put(b"body") == digest == digest_bytes(b"body")
    empty = store.artifacts.put(b"")
    await store.flush()
    assert await store.artifacts.get(digest) == b"body"
    assert await store.artifacts.get(empty) == b""
    assert await store.artifacts.get(digest_bytes(b"other")) is None
    await store.close()
    plain = sqlite3.connect(state.db)
    plain.execute("DROP TRIGGER artifacts_no_update")
    plain.execute("UPDATE artifacts SET body = x'ff', bytes = 1 WHERE digest = ?", (digest,))
    plain.commit()
    plain.close()
    observer = await Store.observe(state)
    with pytest.raises(StorageError, match="STORE_ARTIFACT_DAMAGED"):
        await observer.artifacts.get(digest)
    assert await observer.artifacts.raw(digest) == b"\xff"
    await observer.close()


async def test_an_entry_never_outlives_the_body_it_names(store: Store, entry: Entry) -> None:
    digest = store.artifacts.put(b"plan")
    await store.journal("j").append(entry(0, body=digest.encode()))
    assert await store.artifacts.raw(digest) == b"plan"


async def test_an_oversized_body_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.storage.artifacts.MAX_ARTIFACT_BYTES", 10)
    with pytest.raises(StorageError, match="STORE_ARTIFACT_SIZE"):
        store.artifacts.put(b"x" * 11)


async def test_a_row_that_only_an_index_still_names_ends_what_can_be_read(state: StateDir, entry: Entry) -> None:
    """The table is exchanged for a copy of it without one row; its indexes stay as they were."""
    await filled(state, entry, 5)
    database = sqlite3.connect(state.db, isolation_level=None)
    columns = "journal_id, seq, kind, at, prev_entry_hash, entry_hash, body"
    database.execute("PRAGMA writable_schema=ON")
    database.execute(f"CREATE TABLE copy ({columns})")
    database.execute(
        f"INSERT INTO copy (rowid, {columns}) SELECT rowid, {columns} FROM journal_entries WHERE NOT (journal_id = 'j' AND seq = 3)"
    )
    pages = dict(database.execute("SELECT name, rootpage FROM sqlite_master WHERE name IN ('copy', 'journal_entries')"))
    for name, other in (("copy", "journal_entries"), ("journal_entries", "copy")):
        database.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (pages[other], name))
    database.close()
    store = await Store.observe(state)
    try:
        with pytest.raises(DamagedJournal, match="an index names a row that is gone") as caught:
            await store.journals.read("j")
        assert [item.seq for item in caught.value.entries] == [0, 1, 2]
    finally:
        await store.close()
