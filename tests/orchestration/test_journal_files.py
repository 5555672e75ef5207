"""The JSON lines store: modes, torn tail, resume (operations spec §7.1, §7.6)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import JournalError
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_verify import verify_jsonl
from runtime.orchestration.mission_journal import (
    MAX_LINE_BYTES,
    JsonlJournalStore,
    MemoryJournalStore,
    MissionJournal,
    reopen_jsonl,
)
from tests.support.journals import JOURNAL_ID, new_journal, opened, receipt, run_of, start_operation, written


def test_lines_are_private_and_verify(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    written(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().count(b"\n") == 4
    assert verify_jsonl(path, run_id=JOURNAL_ID).ok


def test_a_lost_entry_that_is_known_elsewhere_is_no_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(JournalError, match="J_TRUNCATED"):
        reopen_jsonl(path, clock=ManualClock(), known_seq=3)
    assert path.read_bytes() == data[:-5]
    _, store = reopen_jsonl(path, clock=ManualClock(), known_seq=2)
    store.close()


def test_a_complete_but_invalid_last_line_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    damaged = path.read_bytes() + b'{"half":\n'
    path.write_bytes(damaged)
    with pytest.raises(JournalError) as caught:
        reopen_jsonl(path, clock=ManualClock())
    assert caught.value.code == "J_NOT_JSON"
    assert caught.value.where == "line 5"
    assert path.read_bytes() == damaged


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="J_IO"):
        JsonlJournalStore(tmp_path / "journal.jsonl")


def test_after_a_failed_write_nothing_more_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JsonlJournalStore(tmp_path / "journal.jsonl")
    journal = MissionJournal(store, journal_id=JOURNAL_ID, clock=ManualClock())
    opened(journal)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
    with pytest.raises(JournalError, match="only written in part"):
        journal.append("signal", signals=[])
    monkeypatch.undo()
    with pytest.raises(JournalError, match="accepts nothing"):
        journal.append("signal", signals=[])
    store.close()
    reopened, store = reopen_jsonl(tmp_path / "journal.jsonl", clock=ManualClock())
    assert reopened.entries == 2  # the first entry and the recovery
    store.close()


def test_a_store_refuses_lines_over_the_limit(tmp_path: Path) -> None:
    store = JsonlJournalStore(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="J_LINE_TOO_LONG"):
        store.append(StoredEntry(0, "signal", "", "", "", b"x" * (MAX_LINE_BYTES + 1)))
    store.close()


def test_resume_goes_on_where_the_journal_ended() -> None:
    journal, store, clock = new_journal()
    journal.record_step("a", operation_type="t", inputs={"value": 1})
    start_operation(journal, "k", step_id="a", operation_id="a.0")
    heard: list[int] = []
    again = MissionJournal.resume(store, list(store.entries), clock, lambda entry: heard.append(entry["seq"]))
    assert (again.get_chain_root(), again.last_receipt_hash) == (journal.get_chain_root(), journal.last_receipt_hash)
    assert again.check_idempotency("k") == journal.check_idempotency("k")
    record = again.open_step("a")
    assert record is not None
    assert record.inputs == {"value": 1}
    again.append_receipt(receipt("k", step_id="a", operation_id="a.0"))
    again.complete_step("a", "completed")
    again.close("completed", result_commit=None)
    assert heard == [3, 4, 5]
    assert again.open_step("a") is None


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda entries: entries[1:], "J_SEQ"),
        (lambda entries: [entries[0], entries[2]], "J_SEQ"),
        (lambda entries: [], "J_EMPTY"),
        (lambda entries: [entries[0], run_of(1)[1].entries[0]], "J_SEQ"),
        (lambda entries: [entries[0], new_other()], "J_JOURNAL_ID"),
        (lambda entries: [_edited(entries[0])], "J_ENTRY_HASH"),
        (lambda entries: [_relabelled(entries[0])], "J_COLUMN_MISMATCH"),
    ],
)
def test_resume_refuses_a_damaged_journal(damage, code: str) -> None:  # type: ignore[no-untyped-def]
    entries = run_of(1)[1].entries
    with pytest.raises(JournalError) as caught:
        MissionJournal.resume(MemoryJournalStore(), damage(entries), ManualClock())
    assert caught.value.code == code


def new_other() -> StoredEntry:
    journal, store, _ = new_journal("00000000-0000-4000-8000-0000000000aa")
    journal.append("signal", signals=[])
    return store.entries[1]


def _edited(entry: StoredEntry) -> StoredEntry:
    body = entry.body.replace(b'"m1"', b'"m2"')
    return StoredEntry(entry.seq, entry.kind, entry.at, entry.prev_entry_hash, entry.entry_hash, body)


def _relabelled(entry: StoredEntry) -> StoredEntry:
    return StoredEntry(entry.seq, "plan", entry.at, entry.prev_entry_hash, entry.entry_hash, entry.body)
