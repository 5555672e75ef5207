"""A store as it looks after years: 100,000 runs, and one run whose journal has a million entries.

Rows go through the real schema with its triggers, and every entry is sealed and chained as the journal seals it, so
that the journal verifies; only the transactions are larger than the runtime's. Built once per folder.
"""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import NodeInfo, RunSummary
from runtime.host.api import RunStatus
from runtime.host.contract import node_record
from runtime.kernel.canonical import JOURNAL_GENESIS, RECEIPT_GENESIS, canonical_bytes, digest, digest_bytes
from runtime.kernel.clock import timestamp
from runtime.kernel.model import OperationReceipt
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_format import SCHEMA, sealed
from runtime.storage.database import transaction
from runtime.storage.journals import insert_entry
from runtime.storage.layout import StateDir
from runtime.storage.migrations import migrate
from runtime.storage.runs import RunRecord, insert_run

LONG_RUN: Final = "10000000-0000-4000-8000-000000000000"
#: The same mission with a journal of ordinary length, to compare with.
SHORT_RUN: Final = "20000000-0000-4000-8000-000000000000"
SHORT: Final = 403
BATCH: Final = 5_000
PER_CYCLE: Final = 4  # entries of one step: start, operation, receipt, end
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MISSIONS: Final = tuple(f"mission-{number:02d}" for number in range(40))
_ENDS: Final = (RunStatus.SUCCEEDED,) * 7 + (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMED_OUT)
_STATE: Final = digest({"schema": "state/1", "entries": []})
_NOTHING: Final = digest({})
_RECIPE: Final = "sha256:" + "0" * 64
NODES: Final = tuple(
    NodeInfo(node_id=f"step_{number}", block_type="tool_invoke", after=(f"step_{number - 1}",) if number else ())
    for number in range(6)
)


@dataclass(frozen=True, slots=True)
class Built:
    """A finished store, and how long it took (0 when it was there)."""

    state: StateDir
    seconds: float


def build(folder: Path, *, runs: int, entries: int) -> Built:
    """The store in ``folder``, made if it is not there yet."""
    state = StateDir(folder, folder.with_name(folder.name + "-sockets"))
    if state.db.exists():
        return Built(state, 0.0)
    started = time.perf_counter()
    state.create()
    draft = folder / "draft.db"
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        migrate(connection, draft)
        _fill(connection, runs, entries)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    draft.chmod(0o600)
    draft.rename(state.db)  # a build that was interrupted leaves no store
    return Built(state, time.perf_counter() - started)


def _fill(connection: sqlite3.Connection, runs: int, entries: int) -> None:
    told = 0
    if entries:
        plan = canonical_bytes({"contract": {"contract": {"nodes": [node_record(node) for node in NODES]}}})
        connection.execute(
            "INSERT INTO artifacts (digest, bytes, body, at) VALUES (?, ?, ?, ?)",
            (digest_bytes(plan), len(plan), plan, timestamp(_START)),
        )
        for run_id, length in ((SHORT_RUN, SHORT), (LONG_RUN, entries)):
            add_journal(connection, run_id, length, digest_bytes(plan), runs + told)
            told += 1
    for rows in _batches(_runs(runs - told)):
        _insert(connection, map(insert_run, rows))


def add_journal(connection: sqlite3.Connection, run_id: str, entries: int, plan: str, minute: int) -> None:
    """A finished run with a journal of that many entries."""
    head = ""
    for batch in _batches(_journal(run_id, entries, plan)):
        head = batch[-1].entry_hash
        _insert(connection, (insert_entry(run_id, item) for item in batch))
    _insert(connection, [insert_run(_told_run(run_id, minute, entries, head, plan))])


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    source = iter(items)
    while batch := list(islice(source, BATCH)):
        yield batch


def _insert(connection: sqlite3.Connection, statements: Iterable[tuple[str, Any]]) -> None:
    with transaction(connection):
        for statement, values in statements:
            connection.execute(statement, values)


def _runs(count: int) -> Iterator[RunRecord]:
    """Runs of forty missions, one a minute; a fixed seed, so that two builds agree."""
    chance = random.Random(7)
    for number in range(count):
        run_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        status = chance.choice(_ENDS)
        milliseconds = int(chance.expovariate(1 / 90_000))
        begun = _START + timedelta(minutes=number)
        ended = begun + timedelta(milliseconds=milliseconds)
        yield RunRecord(summary=_summary(run_id, number, status, begun, ended, milliseconds, chance), epoch=1)


def _summary(
    run_id: str,
    number: int,
    status: RunStatus,
    begun: datetime,
    ended: datetime,
    milliseconds: int,
    chance: random.Random,
) -> RunSummary:
    good = status is RunStatus.SUCCEEDED
    return RunSummary(
        run_id=run_id,
        session_id=run_id,
        lineage_id=run_id,
        mission=chance.choice(_MISSIONS),
        mission_version="1",
        mission_path="/missions/nightly/mission.yaml",
        status=status,
        code=None if good else "op.test_failed",
        created_at=timestamp(begun),
        finished_at=timestamp(ended),
        duration_ms=milliseconds,
        inputs={"goal": "Make the failing tests pass."},
        outputs={"commit": digest({"n": number})[7:47]} if good else None,
        trigger="watch" if number % 3 == 0 else "console",
        cause="src/parse.py, tests/test_parse.py" if number % 3 == 0 else None,
        entries=40,
        violations=chance.choice((0,) * 9 + (2,)),
        steps_done=6 if good else chance.randrange(6),
        steps_total=6,
    )


def _told_run(run_id: str, minute: int, entries: int, head: str, plan: str) -> RunRecord:
    """The row of a run whose journal is there."""
    begun = _START + timedelta(minutes=minute)
    summary = RunSummary(
        run_id=run_id,
        session_id=run_id,
        lineage_id=run_id,
        mission="storm",
        mission_version="1",
        mission_path="/missions/storm/mission.yaml",
        status=RunStatus.SUCCEEDED,
        created_at=timestamp(begun),
        finished_at=timestamp(begun + timedelta(milliseconds=entries)),
        duration_ms=entries,
        entries=entries,
        head_hash=head,
        steps_done=len(NODES),
        steps_total=len(NODES),
        exit_code=0,
    )
    return RunRecord(summary=summary, epoch=1, plan_digest=plan, last_seq=entries - 1)


class _Chain:
    """Seals members into chained entries, a millisecond apart."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seq = 0
        self.head = JOURNAL_GENESIS
        self.receipts = RECEIPT_GENESIS

    @property
    def now(self) -> str:
        return timestamp(_START + timedelta(milliseconds=self.seq))

    def entry(self, kind: str, **members: Any) -> StoredEntry:
        seq, at, previous = self.seq, self.now, self.head
        header = {"schema": SCHEMA, "seq": seq, "kind": kind, "journal_id": self.run_id, "at": at}
        body, self.head = sealed({**header, "prev_entry_hash": previous, **members})
        self.seq += 1
        return StoredEntry(seq, kind, at, previous, self.head, body)

    def receipt(self, receipt: OperationReceipt) -> StoredEntry:
        record = receipt.record()
        self.receipts = str(record["receipt_hash"])
        return self.entry("receipt", receipt=record)


def _journal(run_id: str, count: int, plan: str) -> Iterator[StoredEntry]:
    """``count`` entries: opened, plan, a turn of as many steps as fit, closed."""
    chain = _Chain(run_id)
    yield chain.entry(
        "journal_opened",
        mission_id="storm",
        run_id=_RECIPE,
        mission_type="storm",
        baseline_commit="0" * 40,
        envelope_hash=_NOTHING,
        prev_journal_head=None,
    )
    yield chain.entry("plan", plan_hash=_NOTHING, contract_hash=_NOTHING, document=plan, steps=len(NODES))
    cycles, odd = divmod(count - 3, PER_CYCLE)
    for _ in range(odd):
        yield chain.entry("signal", signals=[{"signal": "turn_open"}])
    for number in range(cycles):
        yield from _cycle(chain, number)
    yield chain.entry(
        "journal_closed",
        status="completed",
        result_commit=None,
        entries=chain.seq + 1,
        last_receipt_hash=chain.receipts,
    )


def _cycle(chain: _Chain, number: int) -> Iterator[StoredEntry]:
    """One attempt of one step with one operation."""
    visit, index = divmod(number, len(NODES))
    name, key, at = f"step_{index}", digest({"n": number}), chain.now
    step: dict[str, Any] = {
        "step_id": name,
        "name": name,
        "operation_type": "tool_invoke",
        "attempt": 1,
        "started_at": at,
        "inputs": {"value": {"path": f"src/file_{index}.py", "round": visit}},
        "pre_state_hash": None,
        "post_state_hash": None,
        "error_message": None,
        "compensation_status": "not_needed",
        **({"visit": visit + 1} if visit else {}),
    }
    operation = {"step_id": name, "operation_id": f"{name}.{visit}", "operation_type": "tool_invoke", "attempt": 1}
    undo = {"compensation_type": "none", "compensation_command": "", "pre_state_hash": _STATE}
    yield chain.entry("step_started", **step, status="running", completed_at=None, outputs={})
    yield chain.entry(
        "operation_started",
        **operation,
        **undo,
        idempotency_key=key,
        pre_workspace=None,
        pre_head=None,
        effect="read",
        affected_paths=[f"src/file_{index}.py"],
        plan_hash=_NOTHING,
    )
    yield chain.receipt(
        OperationReceipt(
            **operation,
            **undo,
            timestamp=chain.now,
            post_state_hash=_STATE,
            idempotency_key=key,
            run_id=_RECIPE,
            status="success",
            effect="read",
            affected_paths=(f"src/file_{index}.py",),
            params_hash=_NOTHING,
            output_hash=_NOTHING,
            evidence_hash=_NOTHING,
            prev_receipt_hash=chain.receipts,
        )
    )
    yield chain.entry(
        "step_finished", **step, status="completed", completed_at=chain.now, outputs={"value": {"size": 329 + index}}
    )
