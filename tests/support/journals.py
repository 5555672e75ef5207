"""Journals with known content, for tests of everything that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.kernel.canonical import digest, parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.model import OperationReceipt
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_format import sealed
from runtime.orchestration.mission_journal import JsonlJournalStore, MemoryJournalStore, MissionJournal

JOURNAL_ID = "00000000-0000-4000-8000-000000000001"
RECIPE = "sha256:" + "0" * 64
EMPTY_STATE = digest({"schema": "state/1", "entries": []})
NOTHING = digest({})


def opened(journal: MissionJournal, **extra: Any) -> None:
    """Append the entry 0 of the worked example."""
    journal.append(
        "journal_opened",
        mission_id="m1",
        run_id=RECIPE,
        mission_type="echo",
        baseline_commit=NO_COMMIT,
        envelope_hash=NOTHING,
        prev_journal_head=None,
        **extra,
    )


def new_journal(journal_id: str = JOURNAL_ID) -> tuple[MissionJournal, MemoryJournalStore, ManualClock]:
    """An opened in-memory journal."""
    store, clock = MemoryJournalStore(), ManualClock()
    journal = MissionJournal(store, journal_id=journal_id, clock=clock)
    opened(journal)
    return journal, store, clock


def receipt(key: str, **changes: Any) -> OperationReceipt:
    """A receipt of a successful read, changed at will."""
    members: dict[str, Any] = {
        "operation_id": "s1.0",
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "pre_state_hash": EMPTY_STATE,
        "post_state_hash": EMPTY_STATE,
        "compensation_type": "none",
        "compensation_command": "",
        "idempotency_key": key,
        "run_id": RECIPE,
        "step_id": "s1",
        "operation_type": "tool_invoke",
        "attempt": 1,
        "status": "success",
        "effect": "read",
        "params_hash": NOTHING,
        "output_hash": NOTHING,
        "evidence_hash": NOTHING,
    }
    return OperationReceipt(**{**members, **changes})


def start_operation(journal: MissionJournal, key: str, **changes: Any) -> None:
    """Append ``operation_started``."""
    members: dict[str, Any] = {
        "step_id": "s1",
        "operation_id": "s1.0",
        "operation_type": "tool_invoke",
        "attempt": 1,
        "idempotency_key": key,
        "pre_state_hash": EMPTY_STATE,
        "pre_workspace": None,
        "pre_head": None,
        "effect": "read",
        "affected_paths": [],
        "compensation_type": "none",
        "compensation_command": "",
        "plan_hash": NOTHING,
    }
    journal.append("operation_started", **{**members, **changes})


def run_of(steps: int) -> tuple[MissionJournal, MemoryJournalStore]:
    """A closed journal of ``2 + 4 * steps`` entries: each step has one operation."""
    journal, store, clock = new_journal()
    for number in range(steps):
        name, key = f"s{number}", digest({"n": number})
        journal.record_step(name, operation_type="tool_invoke")
        start_operation(journal, key, step_id=name, operation_id=f"{name}.0")
        clock.advance(0.5)
        journal.append_receipt(receipt(key, step_id=name, operation_id=f"{name}.0"))
        journal.complete_step(name, "completed")
    journal.close("completed", result_commit=None)
    return journal, store


def rebuilt(entries: list[StoredEntry], seq: int, change: Callable[[dict[str, Any]], None]) -> list[StoredEntry]:
    """Edit one entry and recompute every hash after it, as somebody without anchors to fear would."""
    result: list[StoredEntry] = []
    head = entries[0].prev_entry_hash
    for stored in entries:
        entry = parse_strict(stored.body)
        del entry["entry_hash"]
        if stored.seq == seq:
            change(entry)
        entry["prev_entry_hash"] = head
        body, head = sealed(entry)
        result.append(StoredEntry(entry["seq"], entry["kind"], entry["at"], entry["prev_entry_hash"], head, body))
    return result


def written(path: Path) -> None:
    """A short journal on disk: entry 0, a step, an operation with its receipt."""
    store = JsonlJournalStore(path)
    journal = MissionJournal(store, journal_id=JOURNAL_ID, clock=ManualClock())
    opened(journal)
    journal.record_step("s1", operation_type="t")
    start_operation(journal, "k")
    journal.append_receipt(receipt("k"))
    store.close()
