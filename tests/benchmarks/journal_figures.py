"""What it costs to write a journal and to doubt it: figures side by side, each beside the least it could cost.

Builds a store with one run of a million entries once (about two minutes, 1.2 GB), then prints one JSON object:
reading all rows and nothing else; checking stored bytes (hash and link, no parsing); the verification itself, through
the observer the command uses; and appending through the real writer beside bare rows in the same transactions. Every
figure is the best of some rounds taken in turn, so that whatever slows the machine slows them alike.
Run it with ``PYTHONPATH=.:tests python tests/benchmarks/journal_figures.py [FOLDER] [entries]``; without a folder a
temporary one is used. It is not part of the suite.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.history_store import LONG_RUN, build

from runtime.host.observer import Observer
from runtime.kernel.canonical import JOURNAL_GENESIS, digest
from runtime.kernel.clock import SystemClock
from runtime.kernel.ids import SystemIds
from runtime.orchestration.journal_format import hash_of_body
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from runtime.storage.database import transaction
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

ROUNDS: Final = 3
APPENDED: Final = 51_200
#: Rows of one commit (goal 6).
GROUP: Final = 256
_SCAN: Final = (
    "SELECT seq, kind, at, prev_entry_hash, entry_hash, body FROM journal_entries WHERE journal_id = ? ORDER BY seq"
)
_PLAIN: Final = (
    "CREATE TABLE plain (journal_id TEXT, seq INTEGER, kind TEXT, at TEXT, prev_entry_hash TEXT, entry_hash TEXT,"
    " body BLOB, PRIMARY KEY (journal_id, seq))"
)


def scan(database: Path) -> int:
    """Read every row, do nothing with it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return sum(1 for _ in connection.execute(_SCAN, (LONG_RUN,)))


def stored_bytes(database: Path) -> int:
    """Hash and link of every row, by the columns."""
    count, head = 0, JOURNAL_GENESIS
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for _, _, _, previous, entry_hash, body in connection.execute(_SCAN, (LONG_RUN,)):
            assert previous == head
            assert hash_of_body(body, entry_hash) == entry_hash
            count, head = count + 1, entry_hash
    return count


def verify(state: StateDir) -> int:
    """What `quarterdeck verify` does."""

    async def observed() -> int:
        deck = Observer(await Store.observe(state), missions=(), clock=SystemClock())
        try:
            verdict = await deck.verify(LONG_RUN)
        finally:
            await deck.close()
        assert [item.code for item in verdict.findings if item.code != "J_ARTIFACT_MISSING"] == [], verdict.findings[:3]
        return verdict.entries

    return asyncio.run(observed())


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Entries per second, and by how many bytes the peak of memory grew."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = _memory("VmRSS"), time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started), max(_memory("VmHWM") - before, 0)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def doubting(folder: Path, entries: int) -> dict[str, Any]:
    built = build(folder, runs=2, entries=entries)
    ways: dict[str, Callable[[], int]] = {
        "scan": lambda: scan(built.state.db),
        "stored_bytes": lambda: stored_bytes(built.state.db),
        "verify": lambda: verify(built.state),
    }
    best: dict[str, tuple[float, int]] = {}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            rate, grown = timed(work)
            best[name] = max(best.get(name, (0.0, 0)), (rate, grown))
    rates = {name: rate for name, (rate, _) in best.items()}
    return {
        "entries": entries,
        "megabytes": round(built.state.db.stat().st_size / 1e6),
        "built_in_s": round(built.seconds, 1),
        "per_second": {name: round(rate) for name, rate in rates.items()},
        "of_scan": {name: round(rate / rates["scan"], 3) for name, rate in rates.items()},
        "peak_memory_mib": {name: round(grown / 2**20, 1) for name, (_, grown) in best.items()},
    }


def appending(folder: Path) -> dict[str, Any]:
    """Encode, hash, chain and commit, beside the same rows given to SQLite ready made."""
    rates: dict[str, float] = {"raw": 0.0, "journal": 0.0}
    rows = _rows()
    for number in range(ROUNDS):
        rates["raw"] = max(rates["raw"], _raw(folder / f"raw{number}.db", rows))
        rates["journal"] = max(rates["journal"], asyncio.run(_journal(folder / f"store{number}")))
    return {
        "entries": APPENDED,
        "per_commit": GROUP,
        "per_second": {name: round(rate) for name, rate in rates.items()},
        "of_raw": round(rates["journal"] / rates["raw"], 3),
    }


def _rows() -> list[tuple[Any, ...]]:
    store = MemoryJournalStore()
    _append(MissionJournal(store, journal_id="j", clock=SystemClock()), APPENDED)
    return [
        ("j", item.seq, item.kind, item.at, item.prev_entry_hash, item.entry_hash, item.body) for item in store.entries
    ]


def _append(journal: MissionJournal, count: int) -> None:
    text = hashlib.sha256(b"what an entry of ordinary length says").hexdigest()
    for number in range(count):
        journal.append("operator_action", action="noted", number=number, digest=digest({"n": 1}), text=text)


def _raw(database: Path, rows: list[tuple[Any, ...]]) -> float:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", _PLAIN):
            connection.execute(statement)
        started = time.perf_counter()
        for begin in range(0, len(rows), GROUP):
            with transaction(connection):
                connection.executemany("INSERT INTO plain VALUES (?, ?, ?, ?, ?, ?, ?)", rows[begin : begin + GROUP])
        return len(rows) / (time.perf_counter() - started)


async def _journal(folder: Path) -> float:
    store = await Store.open(StateDir(folder, folder.with_name(folder.name + "-s")), SystemClock(), SystemIds())
    try:
        journal = MissionJournal(store.journal("j"), journal_id="j", clock=SystemClock())
        started = time.perf_counter()
        for _ in range(APPENDED // GROUP):
            _append(journal, GROUP)
            await journal.durable
        return APPENDED / (time.perf_counter() - started)
    finally:
        await store.close()


def main(arguments: list[str]) -> None:
    entries = int(arguments[1]) if len(arguments) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments[0]) if arguments else Path(temporary) / "history"
        figures = {"verify": doubting(folder, entries), "append": appending(Path(temporary))}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
