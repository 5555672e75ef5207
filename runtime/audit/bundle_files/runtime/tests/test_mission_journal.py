"""The chain: made once, never edited, and nothing that was done to it goes unnoticed when it is read again."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import JOURNAL_GENESIS, RECEIPT_GENESIS, canonical_bytes, digest, digest_bytes
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import JournalError
from runtime.orchestration.anchors import AnchorChain
from runtime.orchestration.journal_format import MAX_LINE_BYTES, stored_lines
from runtime.orchestration.journal_verify import verify
from runtime.orchestration.mission_journal import (
    JsonlJournalStore,
    MemoryJournalStore,
    MissionJournal,
    reopen_jsonl,
)

from .rig import EMPTY_STATE, JOURNAL_ID, NOTHING, new_journal, opened, receipt

OTHER_ID = "00000000-0000-4000-8000-000000000002"


def journal_of(journal_id: str = JOURNAL_ID) -> list[bytes]:
    """The lines of a closed journal: a step with one operation and its receipt, then a second one."""
    journal, store, clock = new_journal(journal_id)
    for number in range(2):
        name, key = f"s{number}", digest({"n": number})
        journal.record_step(name, operation_type="tool_invoke")
        start_operation(journal, key, step_id=name, operation_id=f"{name}.0")
        clock.advance(0.5)
        journal.append_receipt(receipt(key, step_id=name, operation_id=f"{name}.0"))
        journal.complete_step(name, "completed")
    journal.close("completed", result_commit=None)
    return [entry.body for entry in store.entries]


def start_operation(journal: MissionJournal, key: str, **changes: Any) -> None:
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


def read_again(lines: list[bytes]) -> MissionJournal:
    data = b"".join(line + b"\n" for line in lines)
    return MissionJournal.resume(MemoryJournalStore(), stored_lines(data), ManualClock())


def code_of(lines: list[bytes]) -> str:
    with pytest.raises(JournalError) as caught:
        read_again(lines)
    return caught.value.code


# Making history


def test_the_entries_of_the_worked_example() -> None:
    assert JOURNAL_GENESIS == "sha256:b00644ac55ca78aa7b6d0d13d593e40c8c3f579c43b958a052ac8d109d18461f"
    journal, store, clock = new_journal()
    assert store.entries[0].prev_entry_hash == JOURNAL_GENESIS
    assert journal.get_chain_root() == "sha256:d9ce5bafa967788a3de4ca2c5ea94c8050fe82beeb57bd13d6934f5c78556dcd"
    clock.advance(1)
    record = journal.record_step("s1", operation_type="gate_check", pre_state_hash=EMPTY_STATE)
    assert record.entry_hash == journal.get_chain_root()
    assert record.entry_hash == "sha256:194bf9e6c894662da4d860bc29fd4b0c7efff57b6813ee0a90b3d5b85f46c099"


def test_completing_a_step_leaves_its_start_as_it_was() -> None:
    journal, store, _ = new_journal()
    started = journal.record_step("s1", operation_type="gate_check", inputs={"x": [1]})
    before = store.entries[1].body
    finished = journal.complete_step("s1", "completed", outputs={"y": 2})
    assert store.entries[1].body == before
    assert (started.status, finished.status) == ("running", "completed")
    assert (finished.prev_entry_hash, finished.started_at) == (started.entry_hash, started.started_at)
    assert [step.status for step in journal.steps()] == ["completed"]
    assert read_again([entry.body for entry in store.entries]).get_chain_root() == journal.get_chain_root()


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (lambda journal: journal.complete_step("s9", "completed"), "J_STEP_UNKNOWN"),
        (lambda journal: journal.complete_step("done", "completed"), "J_STEP_CLOSED"),
        (lambda journal: journal.record_step("open", operation_type="x"), "J_STEP_OPEN"),
        (lambda journal: journal.record_step("done", operation_type="x"), "J_STEP_CLOSED"),
        (lambda journal: journal.append("invented"), "J_SCHEMA"),
        (lambda journal: journal.append("signal"), "J_SCHEMA"),
        (lambda journal: journal.append("signal", signals=[], seq=7), "J_SCHEMA"),
        (lambda journal: journal.append("signal", signals=[{1, 2}]), "J_SCHEMA"),
        (lambda journal: journal.append("signal", signals="x" * MAX_LINE_BYTES), "J_LINE_TOO_LONG"),
        (lambda journal: opened(journal), "J_STATE"),
        (lambda journal: journal.append("receipt", receipt=receipt("k", prev_receipt_hash=NOTHING).record()), "J_RECEIPT_CHAIN"),
        (lambda journal: journal.append("receipt", receipt={**receipt("k").record(), "cost_micros": 1}), "J_RECEIPT_CHAIN"),
        (lambda journal: journal.append("receipt", receipt={"operation_id": "s1.0"}), "J_SCHEMA"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(attempt: Callable[[MissionJournal], object], code: str) -> None:
    journal, store, _ = new_journal()
    journal.record_step("done", operation_type="x")
    journal.complete_step("done", "completed")
    journal.record_step("open", operation_type="x")
    root, count = journal.get_chain_root(), len(store.entries)
    with pytest.raises(JournalError) as caught:
        attempt(journal)
    assert caught.value.code == code
    assert (journal.get_chain_root(), len(store.entries)) == (root, count)
    assert [step.step_id for step in journal.get_incomplete_steps()] == ["open"]


def test_nothing_follows_the_end() -> None:
    journal = read_again(journal_of())
    assert journal.closed
    with pytest.raises(JournalError, match="J_CLOSED"):
        journal.append("kill_switch")


def test_records_handed_out_cannot_alter_history() -> None:
    journal, store, _ = new_journal()
    given = {"x": {"y": [1]}}
    record = journal.record_step("s1", operation_type="x", inputs=given)
    given["x"]["y"].append(2)
    with pytest.raises(TypeError):
        record.inputs["x"]["y"] = 3
    assert json.loads(store.entries[1].body)["inputs"] == {"x": {"y": [1]}}


def test_receipts_form_a_chain_of_their_own() -> None:
    journal, _, _ = new_journal()
    assert journal.last_receipt_hash == RECEIPT_GENESIS
    first = journal.append_receipt(receipt("k1"))
    second = journal.append_receipt(receipt("k2", operation_id="s1.1"))
    assert (first.prev_receipt_hash, second.prev_receipt_hash) == (RECEIPT_GENESIS, first.receipt_hash)
    closing = journal.close("completed", result_commit=None).entry
    assert (closing["entries"], closing["last_receipt_hash"]) == (4, second.receipt_hash)


# Tampering


def resealed(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The line with a change and a fresh hash of its own: what somebody who knows the format would write."""
    entry = json.loads(line)
    change(entry)
    body = {key: value for key, value in entry.items() if key != "entry_hash"}
    return canonical_bytes({**body, "entry_hash": digest(body)})


def rechained(lines: list[bytes]) -> list[bytes]:
    """Everything with fresh numbers, links and hashes."""
    done: list[bytes] = []
    head = JOURNAL_GENESIS
    for number, line in enumerate(lines):
        done.append(resealed(line, partial(dict.update, seq=number, prev_entry_hash=head)))
        head = json.loads(done[-1])["entry_hash"]
    return done


def test_the_journal_itself_is_good() -> None:
    lines = journal_of()
    assert len(lines) == 10
    assert read_again(lines).entries == 10
    assert rechained(lines) == lines


def test_no_flipped_byte_goes_unnoticed() -> None:
    lines = journal_of()
    for row in (0, 3):
        for place in range(len(lines[row])):
            altered = bytearray(lines[row])
            altered[place] ^= 1
            with pytest.raises(JournalError):
                read_again([*lines[:row], bytes(altered), *lines[row + 1 : row + 2]])


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda lines: lines[:3] + lines[4:], "J_SEQ"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "J_SEQ"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "J_SEQ"),
        (lambda lines: lines[1:], "J_SEQ"),
        (lambda lines: [], "J_EMPTY"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"attempt":1', b'"attempt":2'), *lines[3:]], "J_ENTRY_HASH"),
        (lambda lines: [*lines[:2], resealed(lines[2], lambda e: e.update(attempt=2)), *lines[3:]], "J_PREV_HASH"),
        (lambda lines: [resealed(lines[0], lambda e: e.update(prev_entry_hash=NOTHING)), *lines[1:]], "J_GENESIS"),
        (lambda lines: [*lines[:2], *journal_of(OTHER_ID)[2:]], "J_JOURNAL_ID"),
        (lambda lines: [*lines[:2], lines[2].replace(b",", b", ", 1), *lines[3:]], "J_NONCANONICAL"),
        (lambda lines: [*lines[:2], b'{"at":"x",' + lines[2][1:], *lines[3:]], "J_DUPLICATE_KEY"),
        (lambda lines: [*lines[:2], resealed(lines[2], lambda e: e.update(kind="invented")), *lines[3:]], "J_SCHEMA"),
        (lambda lines: [*lines, resealed(lines[-1], lambda e: e.update(seq=10, prev_entry_hash=e["entry_hash"]))], "J_STATE"),
        (lambda lines: rechained([resealed(line, lambda e: e["kind"] == "receipt" and e["receipt"].update(cost_micros=5)) for line in lines]), "J_RECEIPT_CHAIN"),
        (lambda lines: rechained([line for line in lines if json.loads(line)["seq"] != 3]), "J_RECEIPT_CHAIN"),
    ],
    ids=[
        "dropped", "swapped", "repeated", "beginning cut", "empty", "edited", "edited and rehashed", "other genesis",
        "spliced", "spaced", "key twice", "kind", "after the end", "receipts edited, all rehashed", "receipt dropped, all rehashed",
    ],
)  # fmt: skip
def test_tampering_is_found(tamper: Callable[[list[bytes]], list[bytes]], code: str) -> None:
    assert code_of(tamper(journal_of())) == code


KEY = bytes(range(32))


def anchored(lines: list[bytes], key: bytes = KEY) -> bytes:
    """An anchor log that names the last of ``lines``."""
    last = json.loads(lines[-1])
    chain = AnchorChain(key)
    named = {name: last[name] for name in ("journal_id", "seq", "entry_hash", "at")}
    return chain.next(run_id="sha256:" + "0" * 64, **named)


def errors(lines: list[bytes], anchors: bytes | None = None) -> set[str]:
    """What verification finds, by the chain alone or by anchors whose key is known."""
    told = verify(b"".join(line + b"\n" for line in lines), anchors=anchors, key=KEY if anchors else None)
    return {item.code for item in told.findings if item.severity == "error"}


def test_what_a_chain_cannot_show_its_anchors_do() -> None:
    lines = journal_of()
    anew = rechained([line.replace(b'"name":"s1"', b'"name":"s9"') for line in lines])
    assert errors(lines) == errors(lines, anchored(lines)) == set()
    assert errors(lines[:-2]) == errors(anew) == set()
    assert errors(lines[:-2], anchored(lines)) == {"J_TRUNCATED"}
    assert errors(anew, anchored(lines)) == {"J_ANCHOR_MISMATCH"}
    assert errors(anew, anchored(anew, bytes(32))) == {"J_ANCHOR_MAC"}


def test_columns_must_say_what_the_bytes_say() -> None:
    entries = list(stored_lines(b"".join(line + b"\n" for line in journal_of())))
    object.__setattr__(entries[2], "at", "2026-01-02T00:00:00.000000Z")
    with pytest.raises(JournalError, match="J_COLUMN_MISMATCH"):
        MissionJournal.resume(MemoryJournalStore(), entries, ManualClock())


# Files


def written(path: Path) -> None:
    store = JsonlJournalStore(path)
    journal = MissionJournal(store, journal_id=JOURNAL_ID, clock=ManualClock())
    opened(journal)
    journal.record_step("s1", operation_type="x")
    store.close()


def test_a_file_is_private_and_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    written(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = JsonlJournalStore(path)
    with pytest.raises(JournalError, match="J_LOCKED"):
        JsonlJournalStore(path)
    store.close()
    JsonlJournalStore(path).close()


def test_a_torn_last_line_is_set_aside_and_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    half = b'{"at":"2026-01-01T00:0'
    with path.open("ab") as file:
        file.write(half)
    journal, store = reopen_jsonl(path, clock=ManualClock())
    journal.complete_step("s1", "completed")
    store.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines[1:]] == ["step_started", "recovery", "step_finished"]
    recovery = json.loads(lines[2])
    assert (recovery["bytes"], recovery["sha256"]) == (len(half), digest_bytes(half))
    (kept,) = tmp_path.glob("journal.jsonl.torn-*")
    assert kept.read_bytes() == half
    assert read_again(lines).entries == 4


def test_a_loss_is_not_a_torn_line(tmp_path: Path) -> None:
    """Somebody knows of an entry that is gone: nothing is cut away and nothing is appended."""
    path = tmp_path / "journal.jsonl"
    written(path)
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    with pytest.raises(JournalError, match="J_TRUNCATED"):
        reopen_jsonl(path, clock=ManualClock(), known_seq=1)
    assert path.read_bytes() == torn


def test_a_whole_but_wrong_last_line_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    with path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(JournalError, match="J_SCHEMA"):
        reopen_jsonl(path, clock=ManualClock())
