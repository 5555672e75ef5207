"""The writer keeps order, groups, and once anything fails accepts nothing more."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import SequenceIds
from runtime.kernel.ports import StoredEntry
from runtime.storage import writer as writing
from runtime.storage.database import on_thread
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from runtime.storage.writer import Statement

Entry = Callable[..., StoredEntry]


def mark(key: str, value: object) -> Statement:
    return "INSERT INTO meta (key, value) VALUES (?, ?)", (key, value)


def keys(state: StateDir) -> list[str]:
    with sqlite3.connect(state.db) as connection:
        found = [row[0] for row in connection.execute("SELECT key FROM meta WHERE key <> 'store_id' ORDER BY key")]
    connection.close()
    return found


async def code_of(awaitable: object) -> str:
    with pytest.raises(StorageError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.code


class Poisoning:
    def __init__(self) -> None:
        self.errors: list[StorageError] = []

    def __call__(self, error: StorageError) -> None:
        self.errors.append(error)


async def open_store(state: StateDir, on_poison: Callable[[StorageError], None] | None = None) -> Store:
    return await Store.open(state, ManualClock(), SequenceIds(), on_poison=on_poison or Poisoning())


Plan = list[tuple[int, int, bool]]
#: Per step: how many rows one submission carries, how often the loop turns afterwards, whether somebody waits.
plans = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=40)


@given(plans)
@settings(max_examples=25, deadline=None)
def test_law_rows_land_in_call_order_and_waiters_resolve_in_that_order(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_order(Path(folder) / "state", plan))


async def _order(root: Path, plan: Plan) -> None:
    store = await open_store(StateDir(root))
    resolved: list[int] = []

    async def wait(number: int, ticket: writing.Ticket) -> None:
        await ticket
        resolved.append(number)

    waiters = []
    row = 0
    try:
        await on_thread(store.writer._connection, lambda c: c.execute("CREATE TABLE law (n INTEGER)").fetchall())
        for number, (rows, turns, waits) in enumerate(plan):
            statements = [("INSERT INTO law VALUES (?)", (row + offset,)) for offset in range(rows)]
            row += rows
            ticket = store.submit(statements)
            if waits:
                waiters.append(asyncio.create_task(wait(number, ticket)))
            for _ in range(turns):
                await asyncio.sleep(0)
        await store.flush()
        await asyncio.gather(*waiters)
        stored = await on_thread(
            store.writer._connection, lambda c: c.execute("SELECT n FROM law ORDER BY rowid").fetchall()
        )
    finally:
        await store.close()
    assert [value for (value,) in stored] == list(range(row))
    assert resolved == sorted(resolved)
    assert len(resolved) == sum(waits for _, _, waits in plan)


async def test_waiting_submissions_share_a_transaction(store: Store) -> None:
    before = store.writer.statistics().commits
    tickets = [store.submit([mark(f"k{n:04d}", "v")]) for n in range(1500)]
    assert store.writer.statistics().pending == 1500
    await tickets[-1]
    assert all(ticket.settled for ticket in tickets)
    after = store.writer.statistics()
    assert after.commits - before == 3
    assert after.largest_batch == writing.BATCH_SUBMISSIONS
    assert (after.pending, after.pending_bytes) == (0, 0)


async def test_a_ticket_resolves_only_after_the_commit(store: Store, state: StateDir) -> None:
    ticket = store.submit([mark("a", "v")])
    assert not ticket.settled
    assert keys(state) == []
    await ticket
    await ticket
    assert keys(state) == ["a"]


async def test_a_cancelled_waiter_disturbs_nobody(store: Store, state: StateDir) -> None:
    ticket = store.submit([mark("a", "v")])

    async def wait() -> None:
        await ticket

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    await store.submit([mark("b", "v")])
    assert keys(state) == ["a", "b"]


async def test_a_failure_poisons_everything_behind_it(state: StateDir) -> None:
    seen = Poisoning()
    store = await open_store(state, seen)
    await store.submit([mark("kept", "v")])
    bad = store.submit([mark("same-batch", "v"), mark("kept", "again")])
    behind = store.submit([mark("behind", "v")])
    assert await code_of(behind) == "STORE_CONSTRAINT"
    assert await code_of(bad) == "STORE_CONSTRAINT"
    assert [error.code for error in seen.errors] == ["STORE_CONSTRAINT"]
    with pytest.raises(StorageError, match="stopped accepting changes after STORE_CONSTRAINT") as caught:
        store.submit([mark("late", "v")])
    assert caught.value.code == "STORE_POISONED"
    assert store.poisoned is not None
    assert await code_of(store.flush()) == "STORE_CONSTRAINT"
    await store.close()
    assert keys(state) == ["kept"]


@pytest.mark.parametrize("value", [object(), 2**70])
async def test_a_value_sqlite_cannot_hold_poisons_instead_of_killing_the_task(state: StateDir, value: object) -> None:
    store = await open_store(state)
    assert (await code_of(store.submit([mark("a", value)]))) == "STORE_FAILED"
    await store.close()


async def test_a_superseded_epoch_writes_nothing_more(state: StateDir) -> None:
    store = await open_store(state)
    with sqlite3.connect(state.db) as connection:
        connection.execute("UPDATE holder SET epoch = epoch + 1")
    connection.close()
    ticket = store.submit([mark("a", "v")])
    with pytest.raises(StorageError, match="epoch 2, ours is 1") as caught:
        await ticket
    assert caught.value.code == "STORE_SUPERSEDED"
    await store.close()
    assert keys(state) == []


async def test_a_stuck_disk_is_heard_as_backlog(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_PENDING", 3)
    tickets = [store.submit([mark(str(n), "v")]) for n in range(3)]
    with pytest.raises(StorageError, match="3 changes") as caught:
        store.submit([mark("four", "v")])
    assert caught.value.code == "STORE_BACKLOG"
    await tickets[-1]
    await store.submit([mark("four", "v")])


async def test_large_bodies_bound_the_batch_and_the_backlog(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH_BYTES", 1000)
    monkeypatch.setattr(writing, "MAX_PENDING_BYTES", 3000)
    for n in range(3):
        store.submit([mark(str(n), "v" * 1000)])
    with pytest.raises(StorageError, match="STORE_BACKLOG"):
        store.submit([mark("four", "v")])
    await store.flush()
    assert store.writer.statistics().largest_batch == 1


async def test_close_writes_what_is_queued_and_then_refuses(state: StateDir) -> None:
    store = await open_store(state)
    for n in range(600):
        store.submit([mark(f"{n:03d}", "v")])
    await store.close()
    assert len(keys(state)) == 600
    with pytest.raises(StorageError, match="STORE_CLOSED"):
        store.submit([mark("late", "v")])
    await store.close()


async def test_a_cancelled_writer_fails_its_waiters(state: StateDir) -> None:
    seen = Poisoning()
    store = await open_store(state, seen)
    ticket = store.submit([mark("a", "v")])
    store.writer._task.cancel()
    assert await code_of(ticket) == "STORE_CLOSED"
    assert [error.code for error in seen.errors] == ["STORE_CLOSED"]
    await store.close()


async def test_a_full_database_says_what_to_do(state: StateDir) -> None:
    """SQLite's own page limit stands in for a full disk where no file system can be made."""
    seen = Poisoning()
    store = await open_store(state, seen)
    await store.submit([mark("kept", "v")])
    await on_thread(store.writer._connection, lambda c: c.execute("PRAGMA max_page_count=40").fetchall())
    assert state.reserve.exists()
    assert await code_of(store.submit([mark("big", "v" * 1_000_000)])) == "STORE_FULL"
    assert not state.reserve.exists()
    assert "reserve space was released" in (seen.errors[0].hint or "")
    with pytest.raises(StorageError, match="free more, then start again"):
        store.submit([mark("late", "v")])
    await store.close()
    reopened = await open_store(state)
    assert state.reserve.exists()
    await reopened.close()
    assert keys(state) == ["kept"]
