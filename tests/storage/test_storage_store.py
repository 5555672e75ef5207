"""Opening, holding, observing and closing, on good and on bad ground."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import SequenceIds
from runtime.kernel.ports import StoredEntry
from runtime.storage.layout import RESERVE_BYTES, StateDir
from runtime.storage.migrations import MIGRATIONS, VERSION
from runtime.storage.runs import RunRecord, insert_run
from runtime.storage.store import Store

Entry = Callable[..., StoredEntry]
Run = Callable[..., RunRecord]


async def open_store(state: StateDir) -> Store:
    return await Store.open(state, ManualClock(), SequenceIds())


def assert_no_connection_left(but: int = 0) -> None:
    """A connection that is not closed keeps its thread, and the process from exiting."""
    threads = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    for thread in threads:
        thread.join(0.2 if not but else 0)
    assert sum(thread.is_alive() for thread in threads) == but


async def opening_fails(state: StateDir, code: str, *, observe: bool = False, others: int = 0) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await (Store.observe(state) if observe else open_store(state))
    assert caught.value.code == code
    assert caught.value.hint
    assert_no_connection_left(but=others)
    return caught.value


def sql(state: StateDir, *statements: str) -> None:
    connection = sqlite3.connect(state.db, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_files_are_private_under_any_umask(state: StateDir) -> None:
    before = os.umask(0)
    try:
        store = await open_store(state)
        await store.submit([("INSERT INTO meta VALUES ('a', 'b')", ())])
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.root.iterdir() if path.is_file()}
    assert files == dict.fromkeys(
        ("quarterdeck.db", "quarterdeck.db-wal", "quarterdeck.db-shm", "store.lock", "reserve"), 0o600
    )
    await store.close()


async def test_a_store_leaves_no_thread_no_log_and_no_lock(state: StateDir) -> None:
    store = await open_store(state)
    await store.close()
    await store.close()
    assert_no_connection_left()
    assert not state.wal.exists()
    assert state.reserve.stat().st_size == RESERVE_BYTES
    again = await open_store(state)
    await again.close()


async def test_each_holder_gets_the_next_epoch(state: StateDir) -> None:
    epochs = []
    for _ in range(3):
        store = await open_store(state)
        epochs.append(store.epoch)
        await store.close()
    assert epochs == [1, 2, 3]


async def test_the_connection_is_as_durable_as_promised(store: Store) -> None:
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema", "cell_size_check", "mmap_size")
    connection = store.writer._connection
    values = [(await (await connection.execute(f"PRAGMA {name}")).fetchone() or (None,))[0] for name in pragmas]
    assert values == ["wal", 2, 1, 0, 1, 0]


async def test_heartbeat_every_two_seconds_of_the_injected_clock(store: Store, clock: ManualClock) -> None:
    async def beat_at() -> str:
        holder = await store.holder()
        assert holder is not None
        return holder.heartbeat_at

    assert await beat_at() == "2026-01-01T00:00:00.000000Z"
    for second in (2, 4):
        await asyncio.sleep(0)
        clock.advance(2.0)
        while store.writer.statistics().commits < second // 2:
            await asyncio.sleep(0.001)
        assert await beat_at() == f"2026-01-01T00:00:0{second}.000000Z"
    assert set(clock.slept) == {2.0}


async def test_holder_is_visible_while_held_and_gone_after(state: StateDir) -> None:
    store = await open_store(state)
    observer = await Store.observe(state)
    holder = await observer.holder()
    assert holder is not None
    assert (holder.pid, holder.epoch, holder.socket) == (os.getpid(), 1, str(state.socket))
    assert await store.holder() == holder
    await store.close()
    assert await observer.holder() is None
    await observer.close()


async def test_a_second_holder_is_refused_and_changes_nothing(store: Store, state: StateDir) -> None:
    error = await opening_fails(state, "STORE_LOCKED", others=2)
    assert f"process {os.getpid()} on" in error.message
    assert state.reserve.exists()
    await store.submit([("INSERT INTO meta VALUES ('a', 'b')", ())])


async def test_observers_see_committed_rows_while_the_holder_writes(
    store: Store, state: StateDir, entry: Entry
) -> None:
    observer = await Store.observe(state)
    journal = store.journal("j")
    for seq in range(5):
        await journal.append(entry(seq))
        assert [e.seq for e in await observer.journals.read("j")] == list(range(seq + 1))
    assert observer.read_only
    for action in (
        lambda: observer.submit([]),
        lambda: observer.journal("j"),
        lambda: observer.artifacts.put(b"x"),
        lambda: observer.epoch,
    ):
        with pytest.raises(StorageError, match="STORE_READ_ONLY"):
            action()  # type: ignore[no-untyped-call]
    with pytest.raises(StorageError, match="STORE_READ_ONLY"):
        await observer._reader.fetch("DELETE FROM meta")
    await observer.close()


async def test_observers_work_without_a_holder_and_without_the_log(state: StateDir, entry: Entry) -> None:
    store = await open_store(state)
    await store.journal("j").append(entry(0))
    await store.close()
    assert not state.wal.exists()
    observer = await Store.observe(state)
    assert len(await observer.journals.read("j")) == 1
    await observer.close()


async def test_observers_work_in_a_read_only_folder(
    state: StateDir, entry: Entry, make_read_only: Callable[[Path], None]
) -> None:
    store = await open_store(state)
    await store.journal("j").append(entry(0))
    await store.close()
    make_read_only(state.root)
    observer = await Store.observe(state)
    assert len(await observer.journals.read("j")) == 1
    assert await observer.holder() is None
    await observer.close()
    error = await _refusal(state)
    assert error.code in ("STORE_READ_ONLY", "STORE_UNWRITABLE")


async def _refusal(state: StateDir) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await open_store(state)
    return caught.value


async def test_an_unread_log_in_a_read_only_folder_is_not_silently_skipped(
    state: StateDir, entry: Entry, make_read_only: Callable[[Path], None]
) -> None:
    store = await open_store(state)
    await store.journal("j").append(entry(0))
    log = state.wal.read_bytes()
    await store.close()
    state.wal.write_bytes(log)
    make_read_only(state.root)
    await opening_fails(state, "STORE_CANNOT_OPEN", observe=True)


async def test_observing_nothing_is_store_missing(state: StateDir) -> None:
    await opening_fails(state, "STORE_MISSING", observe=True)
    state.create()
    await opening_fails(state, "STORE_MISSING", observe=True)
    state.db.touch(0o600)
    await opening_fails(state, "STORE_MISSING", observe=True)


async def test_a_newer_schema_is_refused_both_ways(state: StateDir) -> None:
    await (await open_store(state)).close()
    sql(state, f"PRAGMA user_version={VERSION + 1}")
    await opening_fails(state, "STORE_TOO_NEW")
    await opening_fails(state, "STORE_TOO_NEW", observe=True)


async def test_a_database_of_another_program_is_left_alone(state: StateDir) -> None:
    state.create()
    sql(state, "CREATE TABLE theirs (x)")
    content = state.db.read_bytes()
    await opening_fails(state, "STORE_NOT_OURS")
    sql(state, "PRAGMA journal_mode=DELETE")
    assert len(content) == len(state.db.read_bytes())


async def test_an_interrupted_migration_is_repeated(state: StateDir) -> None:
    """Version 0 with our marker unset and no tables is what an interrupted first start leaves."""
    state.create()
    sql(state, "PRAGMA journal_mode=WAL")
    store = await open_store(state)
    assert store.epoch == 1
    await store.close()


async def test_a_store_of_the_version_before_checkpoints_goes_on(state: StateDir, entry: Entry) -> None:
    state.create()
    state.db.touch(0o600)
    sql(state, "PRAGMA journal_mode=WAL", *MIGRATIONS[0], *MIGRATIONS[1], "PRAGMA user_version=2")
    sql(state, "INSERT INTO journal_entries VALUES ('j', 0, 'k', 'a', 'p', 'h', x'00')")
    await opening_fails(state, "STORE_TOO_OLD", observe=True)
    store = await open_store(state)
    await store.journal("j").append(entry(1))
    assert [item.seq for item in await store.journals.read("j")] == [0, 1]
    assert await store.checkpoints.newest("j") is None
    first = await store.checkpoints.store_id()
    await store.close()
    again = await open_store(state)
    assert (await again.checkpoints.store_id(), len(first)) == (first, 32)
    await again.close()


@pytest.mark.parametrize("damage", [b"not a database, not at all", bytes(100)])
async def test_a_corrupt_header_is_named(state: StateDir, damage: bytes) -> None:
    await (await open_store(state)).close()
    with state.db.open("r+b") as file:
        file.write(damage)
    error = await opening_fails(state, "STORE_CORRUPT")
    assert "verify" in (error.hint or "")
    await opening_fails(state, "STORE_CORRUPT", observe=True)


async def test_damage_inside_is_found_before_anything_is_written(state: StateDir, entry: Entry) -> None:
    store = await open_store(state)
    for seq in range(400):
        store.journal("j").append(entry(seq, body=b"x" * 500))
    await store.close()
    size = state.db.stat().st_size
    with state.db.open("r+b") as file:
        file.seek(size // 8192 * 4096)
        file.write(b"\xff" * 4096)
    error = await opening_fails(state, "STORE_CORRUPT")
    assert "problems" in error.message or "damaged" in error.message


async def test_opening_a_large_store_does_not_read_all_of_it(
    state: StateDir, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journals are not read, but what a start relies on is."""
    store = await open_store(state)
    for seq in range(400):
        store.journal("j").append(entry(seq, body=b"x" * 500))
    await store.close()
    content = state.db.read_bytes()
    monkeypatch.setattr("runtime.storage.store.CHECKED_WHOLE", len(content) - 1)
    damaged = bytearray(content)
    place = len(content) // 8192 * 4096
    damaged[place : place + 4096] = b"\xff" * 4096
    state.db.write_bytes(damaged)
    await (await open_store(state)).close()
    plain = sqlite3.connect(state.db)
    root = plain.execute("SELECT rootpage FROM sqlite_master WHERE name = 'escalations'").fetchone()[0]
    plain.close()
    damaged = bytearray(state.db.read_bytes())
    damaged[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    state.db.write_bytes(damaged)
    await opening_fails(state, "STORE_CORRUPT")


async def test_a_linked_database_is_refused(state: StateDir, tmp_path: Path) -> None:
    state.create()
    state.db.symlink_to(tmp_path / "elsewhere.db")
    await opening_fails(state, "STORE_SYMLINK")
    assert not (tmp_path / "elsewhere.db").exists()


async def test_a_full_disk_is_refused_before_the_database_is_touched(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await open_store(state)).close()
    before = state.db.read_bytes()
    monkeypatch.setattr(StateDir, "free_bytes", lambda self: 7 * 1024 * 1024)
    error = await opening_fails(state, "STORE_FULL")
    assert "7168 KiB" in error.message
    assert state.db.read_bytes() == before


async def test_an_observer_on_a_full_disk_does_not_map_a_new_index(
    state: StateDir, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(state)
    await store.journal("j").append(entry(0))
    await store.close()
    monkeypatch.setattr(StateDir, "free_bytes", lambda self: 0)
    observer = await Store.observe(state)
    assert len(await observer.journals.read("j")) == 1
    assert not state.shm.exists()
    await observer.close()


async def test_a_real_full_disk_loses_nothing_acknowledged(small_disk: Path, entry: Entry) -> None:
    state = StateDir(small_disk / "state")
    seen: list[StorageError] = []
    store = await Store.open(state, ManualClock(), SequenceIds(), on_poison=seen.append)
    acknowledged = 0
    journal = store.journal("j")

    async def fill() -> None:
        nonlocal acknowledged
        for seq in range(1000):
            await journal.append(entry(seq, body=os.urandom(64 * 1024)))
            acknowledged += 1

    with pytest.raises(StorageError) as caught:
        await fill()
    assert caught.value.code == "STORE_FULL"
    assert "reserve" in (caught.value.hint or "")
    assert not state.reserve.exists()
    assert acknowledged > 10
    await store.close()
    assert (await opening_fails(state, "STORE_FULL")).hint
    observer = await Store.observe(state)
    assert [e.seq async for e in observer.journals.stream("j")][:acknowledged] == list(range(acknowledged))
    await observer.close()


async def test_a_read_that_takes_too_long_is_stopped_and_the_next_one_works(store: Store) -> None:
    reader = store._reader
    reader._limit = 0.05
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(StorageError, match="STORE_TIMEOUT"):
        await reader.fetch(endless)
    assert await reader.fetch("SELECT 1") == [(1,)]
    reader._limit = 5.0
    task = asyncio.create_task(reader.fetch(endless))
    waiting = asyncio.create_task(reader.fetch("SELECT 2"))
    await asyncio.sleep(0.01)
    task.cancel()
    assert await waiting == [(2,)]
    assert task.cancelled()


async def test_resumable_means_unfinished_and_nobody_working_on_it(state: StateDir, run: Run) -> None:
    first = await open_store(state)
    await first.submit([insert_run(run(1, epoch=first.epoch))])
    observer = await Store.observe(state)

    async def resumable(store: Store) -> bool:
        summary = await store.runs.latest()
        assert summary is not None
        return summary.resumable

    assert [await resumable(first), await resumable(observer)] == [False, False]
    await first.close()
    assert await resumable(observer)  # nobody holds the store
    second = await open_store(state)
    assert [await resumable(second), await resumable(observer)] == [True, True]
    second.live_run_ids = lambda: {run(1).summary.run_id}
    assert not await resumable(second)  # being continued right now
    await second.close()
    await observer.close()
