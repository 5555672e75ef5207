"""Making history: golden bytes, steps without mutation, refusals that append nothing (operations spec §7.1-7.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runtime.kernel.canonical import JOURNAL_GENESIS, RECEIPT_GENESIS, canonical_bytes, digest, parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import JournalError, StorageError
from runtime.kernel.ports import Durable, Settled, StoredEntry
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.mission_journal import MAX_LINE_BYTES, MemoryJournalStore, MissionJournal
from runtime.orchestration.operation_table import Known
from tests.support.journals import (
    JOURNAL_ID,
    new_journal,
    opened,
    receipt,
    run_of,
    start_operation,
)


def test_stored_bytes_are_the_canonical_entry_and_hash_without_its_own_hash() -> None:
    _, store = run_of(2)
    for stored in store.entries:
        entry = parse_strict(stored.body)
        claimed = entry.pop("entry_hash")
        assert claimed == stored.entry_hash == digest(entry)
        assert canonical_bytes({**entry, "entry_hash": claimed}) == stored.body


def test_an_empty_journal_has_the_genesis_as_root() -> None:
    journal = MissionJournal(MemoryJournalStore(), journal_id=JOURNAL_ID, clock=ManualClock())
    assert journal.get_chain_root() == JOURNAL_GENESIS
    assert journal.last_receipt_hash == RECEIPT_GENESIS


def test_attempts_visits_and_ticks_are_different_steps() -> None:
    journal, store, _ = new_journal()
    for attempt, visit, tick in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]:
        journal.record_step("a", operation_type="t", attempt=attempt, visit=visit, tick=tick)
        record = journal.complete_step("a", "completed")
        assert (record.attempt, record.visit, record.tick) == (attempt, visit, tick)
    assert "visit" not in parse_strict(store.entries[1].body)
    assert parse_strict(store.entries[5].body)["visit"] == 2
    assert verify_entries(store.entries).ok


def test_nothing_follows_the_end() -> None:
    journal, store, _ = new_journal()
    journal.close("completed", result_commit=None, exit_code=0)
    assert parse_strict(store.entries[-1].body)["entries"] == 2
    with pytest.raises(JournalError, match="J_CLOSED"):
        journal.append("signal", signals=[])
    assert journal.closed
    assert len(store.entries) == 2


@pytest.mark.parametrize(
    ("kind", "members", "code"),
    [
        ("invented", {}, "J_SCHEMA"),
        ("signal", {}, "J_SCHEMA"),
        ("signal", {"signals": [], "seq": 7}, "J_SCHEMA"),
        ("signal", {"signals": [b"bytes"]}, "J_SCHEMA"),
        ("signal", {"signals": [-0.0]}, "J_SCHEMA"),
        ("signal", {"signals": ["x" * MAX_LINE_BYTES]}, "J_LINE_TOO_LONG"),
        ("signal", {"signals": ["x" * (MAX_LINE_BYTES * 5)]}, "J_LINE_TOO_LONG"),
        ("receipt", {"receipt": {"nonsense": 1}}, "J_SCHEMA"),
        ("receipt", {"receipt": receipt("k", prev_receipt_hash=JOURNAL_GENESIS).record()}, "J_RECEIPT_CHAIN"),
        ("receipt", {"receipt": {**receipt("k").record(), "attempt": 2}}, "J_RECEIPT_CHAIN"),
        ("journal_opened", {}, "J_STATE"),
    ],
)
def test_a_refused_entry_changes_nothing(kind: str, members: Mapping[str, Any], code: str) -> None:
    journal, store, _ = new_journal()
    root = journal.get_chain_root()
    with pytest.raises(JournalError) as caught:
        journal.append(kind, **members)
    assert caught.value.code == code
    assert (journal.get_chain_root(), len(store.entries)) == (root, 1)
    journal.append("signal", signals=[])
    assert verify_entries(store.entries).ok


class _RefusingStore(MemoryJournalStore):
    def append(self, entry: StoredEntry) -> Durable:
        if entry.kind == "evidence":
            raise StorageError("STORE_BACKLOG", "too much is waiting to be written")
        return super().append(entry)


def test_the_journal_moves_only_after_the_store_accepted_and_then_tells_the_listener() -> None:
    store, heard = _RefusingStore(), []
    journal = MissionJournal(
        store, journal_id=JOURNAL_ID, clock=ManualClock(), listener=lambda entry: heard.append(entry["seq"])
    )
    opened(journal)
    with pytest.raises(StorageError):
        journal.append("evidence", evidence={})
    assert journal.entries == 1
    journal.append("signal", signals=[])
    assert heard == [0, 1]
    assert verify_entries(store.entries).ok


async def test_every_entry_comes_with_its_durable() -> None:
    journal, _, _ = new_journal()
    appended = journal.append("signal", signals=[])
    assert isinstance(appended.durable, Settled)
    await appended.durable
    await appended.durable
    assert journal.durable is appended.durable


def test_receipts_are_chained() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k1")
    first = journal.append_receipt(receipt("k1"))
    start_operation(journal, "k2", operation_id="s1.1")
    second = journal.append_receipt(receipt("k2", operation_id="s1.1"))
    assert first.prev_receipt_hash == RECEIPT_GENESIS
    assert second.prev_receipt_hash == first.receipt_hash
    assert journal.last_receipt_hash == second.receipt_hash
    assert verify_entries(store.entries).ok


CHANGED = digest({"x": 1})


def test_idempotency_states() -> None:
    journal, _, _ = new_journal()

    def state(key: str) -> Known | None:
        known = journal.check_idempotency(key)
        return None if known is None else known.state

    assert state("k") is None
    start_operation(journal, "k", effect="write")
    assert state("k") is Known.OPEN
    assert journal.operations.open()[0]["idempotency_key"] == "k"
    done = journal.append_receipt(receipt("k", effect="write", post_state_hash=CHANGED))
    assert state("k") is Known.DONE
    assert journal.operations.open() == ()
    assert journal.operations.successful_writes() == (done,)

    start_operation(journal, "clean", operation_id="s1.1")
    journal.append_receipt(receipt("clean", operation_id="s1.1", status="failed", reason_code="OP_FAILED"))
    assert state("clean") is Known.RETRYABLE

    start_operation(journal, "dirty", operation_id="s1.2", effect="write")
    half = journal.append_receipt(
        receipt("dirty", operation_id="s1.2", status="failed", effect="write", post_state_hash=CHANGED)
    )
    assert state("dirty") is Known.PENDING
    assert [item.receipt for item in journal.operations.unresolved()] == [half]
    _undo(journal, half.receipt_hash, "dirty", verified=False)
    assert state("dirty") is Known.STUCK
    _undo(journal, half.receipt_hash, "dirty", verified=True)
    assert state("dirty") is Known.RETRYABLE
    assert journal.operations.successful_writes() == (done,)

    assert journal.operations.conflict("s1.0", "other")
    assert not journal.operations.conflict("s1.0", "k")
    assert not journal.operations.conflict("never.seen", "k")


def _undo(journal: MissionJournal, compensates: str | None, key: str, *, verified: bool) -> None:
    journal.append("compensation_started", operation_id="s1.2", compensates=compensates)
    journal.append(
        "compensation_finished",
        operation_id="s1.2",
        compensates=compensates,
        outcome="compensated" if verified else "failed",
        verified=verified,
        checks={},
    )
    journal.append_receipt(
        receipt(key, operation_id="s1.2", effect="write", compensates=compensates, compensation_verified=verified)
    )


def test_an_undone_success_may_run_again_and_a_denial_is_clean() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k", operation_id="s1.2", effect="write")
    done = journal.append_receipt(receipt("k", operation_id="s1.2", effect="write", post_state_hash=CHANGED))
    _undo(journal, done.receipt_hash, "k", verified=True)
    assert _state(journal, "k") is Known.RETRYABLE
    _deny(journal, "d", "s1.3")
    assert _state(journal, "d") is Known.RETRYABLE
    assert verify_entries(store.entries).ok


def test_a_denial_decides_nothing_about_work_that_was_done_or_is_open() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "done", effect="write")
    done = journal.append_receipt(receipt("done", effect="write", post_state_hash=CHANGED))
    start_operation(journal, "open", operation_id="s1.1", effect="write")
    _deny(journal, "done", "s1.0", attempt=2)
    _deny(journal, "open", "s1.1", attempt=2)
    assert (_state(journal, "done"), _state(journal, "open")) == (Known.DONE, Known.OPEN)
    assert journal.operations.successful_writes() == (done,)
    again = MissionJournal.resume(store, store.entries, ManualClock())
    assert [item.key for item in again.operations.unresolved()] == ["open"]


def _state(journal: MissionJournal, key: str) -> Known:
    known = journal.check_idempotency(key)
    assert known is not None
    return known.state


def _deny(journal: MissionJournal, key: str, operation_id: str, attempt: int = 1) -> None:
    journal.append(
        "operation_denied",
        step_id="s1",
        operation_id=operation_id,
        idempotency_key=key,
        code="ENV_TOOL",
        evidence_hash=CHANGED,
    )
    refused = {"status": "escalated", "reason_code": "ENV_TOOL", "attempt": attempt}
    journal.append_receipt(receipt(key, operation_id=operation_id, **refused))


def test_undoing_an_older_attempt_says_nothing_about_the_newest() -> None:
    journal, _, _ = new_journal()
    start_operation(journal, "k", operation_id="s1.2", effect="write")
    first = journal.append_receipt(receipt("k", operation_id="s1.2", effect="write", post_state_hash=CHANGED))
    start_operation(journal, "k", operation_id="s1.2", effect="write", attempt=2)
    second = receipt("k", operation_id="s1.2", effect="write", post_state_hash=CHANGED, attempt=2)
    second = journal.append_receipt(second)
    _undo(journal, first.receipt_hash, "k", verified=True)
    known = journal.check_idempotency("k")
    assert known is not None
    assert (known.state, known.attempt, known.receipt) == (Known.DONE, 2, second)


def test_a_failed_step_whose_writes_were_undone_reads_compensated() -> None:
    journal, _, _ = new_journal()
    journal.record_step("s1", operation_type="tool_invoke", attempt=1)
    journal.complete_step("s1", "failed", code="OP_FAILED")
    assert [step.status for step in journal.steps()] == ["failed"]
    journal.record_step("s1", operation_type="tool_invoke", attempt=2)
    name = "s1~1.1.2.0"
    start_operation(journal, "k", operation_id=name, effect="write")
    done = journal.append_receipt(receipt("k", operation_id=name, effect="write", post_state_hash=CHANGED))
    journal.complete_step("s1", "failed")
    journal.append("compensation_started", operation_id=name, compensates=done.receipt_hash)
    journal.append_receipt(
        receipt("k", operation_id=name, effect="write", compensates=done.receipt_hash, compensation_verified=True)
    )
    assert [(step.attempt, step.status) for step in journal.steps()] == [(1, "failed"), (2, "compensated")]
    assert journal.get_incomplete_steps() == ()
