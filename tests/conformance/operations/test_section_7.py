"""Operations specification §7, mission journal: its tests 7.a–7.n.

The table of §7.4 and the attacks of reliability §1.2 are in ``test_section_7_table.py``. That a tampered journal is not
exported (7.l, second half) is shown where bundles are made.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import digest_bytes, parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import JournalError
from runtime.orchestration.anchors import Witness
from runtime.orchestration.journal_findings import JournalVerification
from runtime.orchestration.journal_verify import export_jsonl, verify, verify_entries, verify_integrity, verify_jsonl
from runtime.orchestration.mission_journal import JsonlJournalStore, reopen_jsonl
from tests.support.attacks import HMAC_KEY, anchors, cut, forged, head, rewritten, world
from tests.support.journals import JOURNAL_ID, new_journal, rebuilt, run_of, written

WHOLE = run_of(4)[1].entries
LINES = b"".join(export_jsonl(WHOLE))
#: Twenty-five entries, all of them anchored.
ANCHORED = world(steps=6)


def codes(verdict: JournalVerification) -> set[str]:
    return {finding.code for finding in verdict.findings}


def test_7a_start_and_finish_are_two_entries_and_the_first_keeps_its_bytes() -> None:
    journal, store, clock = new_journal()
    journal.record_step("a", operation_type="gate_check")
    before = store.entries[1].body
    clock.advance(1)
    done = journal.complete_step("a", "completed", outputs={"value": 1})
    journal.record_step("b", operation_type="gate_check")
    journal.complete_step("b", "failed", code="GATE_CLOSED", error_message="no", accepted=True)
    journal.close("completed", result_commit=None)
    verdict = verify_entries(store.entries, run_id=JOURNAL_ID)
    assert verdict.ok
    assert verdict.closed
    assert verdict.head_hash == journal.get_chain_root() == store.entries[-1].entry_hash
    assert store.entries[1].body == before
    assert (done.started_at, done.completed_at) == ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.000000Z")
    finished = parse_strict(store.entries[4].body)
    assert (finished["code"], finished["accepted"]) == ("GATE_CLOSED", True)


@pytest.mark.parametrize(
    ("acts", "code"),
    [
        ([("complete", "x")], "J_STEP_UNKNOWN"),
        ([("record", "a"), ("complete", "a"), ("complete", "a")], "J_STEP_CLOSED"),
        ([("record", "a"), ("record", "a")], "J_STEP_OPEN"),
        ([("record", "a"), ("complete", "a"), ("record", "a")], "J_STEP_CLOSED"),
        ([("record", "a"), ("second", "a")], "J_STEP_OPEN"),
    ],
)
def test_7b_steps_refuse_what_did_not_happen(acts: list[tuple[str, str]], code: str) -> None:
    journal, store, _ = new_journal()
    do: dict[str, Any] = {
        "record": lambda step: journal.record_step(step, operation_type="t"),
        "second": lambda step: journal.record_step(step, operation_type="t", attempt=2),
        "complete": lambda step: journal.complete_step(step, "completed"),
    }
    for name, step in acts[:-1]:
        do[name](step)
    count = len(store.entries)
    with pytest.raises(JournalError) as caught:
        do[acts[-1][0]](acts[-1][1])
    assert caught.value.code == code
    assert len(store.entries) == count


def test_7c_no_flipped_byte_of_a_twenty_entry_file_goes_unnoticed() -> None:
    journal, store, _ = new_journal()
    for number in range(9):
        journal.append("signal", signals=[number])
        journal.append("evidence", evidence={"n": number})
    journal.close("completed", result_commit=None)
    data = b"".join(export_jsonl(store.entries))
    assert verify_jsonl(data, run_id=JOURNAL_ID).entries == 20
    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert not verify_jsonl(flipped, run_id=JOURNAL_ID).ok, position


def test_7d_a_journal_without_its_last_lines_is_behind_its_anchors() -> None:
    found = verify(cut(ANCHORED, 22).lines, anchors=ANCHORED.anchors, key=HMAC_KEY)
    assert codes(found) == {"J_TRUNCATED"}
    assert found.trusted_prefix == 16, "what the newest anchor that agrees covers"
    assert verify(cut(ANCHORED, 22).lines).ok, "the chain alone cannot show it"


def test_7e_a_chain_computed_anew_is_not_what_was_anchored() -> None:
    changed = rewritten(ANCHORED, 9)
    assert verify(changed.lines).ok, "the chain alone cannot show it"
    found = verify(changed.lines, anchors=changed.anchors, key=HMAC_KEY)
    assert codes(found) == {"J_ANCHOR_MISMATCH"}
    assert found.bad_between == (1, 15)


def test_7f_anchors_by_another_key_are_no_anchors() -> None:
    changed = forged(ANCHORED, 9)
    assert codes(verify(changed.lines, anchors=changed.anchors, key=HMAC_KEY)) == {"J_ANCHOR_MAC"}
    unknown = verify(changed.lines, anchors=changed.anchors)
    assert (codes(unknown), unknown.ok, unknown.level) == ({"J_KEY_MISSING"}, True, "anchored")
    assert not verify(changed.lines, anchors=changed.anchors, strict=True).ok


def test_7g_an_entry_of_another_journal_is_found() -> None:
    other, store, _ = new_journal("00000000-0000-4000-8000-0000000000ff")
    other.append("signal", signals=[])
    spliced = [WHOLE[0], store.entries[1], *WHOLE[2:]]
    assert {"J_JOURNAL_ID", "J_PREV_HASH"} <= codes(verify_entries(spliced))


def test_7h_an_edited_receipt_breaks_its_entry() -> None:
    entries = list(WHOLE)
    assert entries[3].kind == "receipt"
    entries[3] = replace(entries[3], body=entries[3].body.replace(b'"cost_micros":0', b'"cost_micros":1'))
    assert {"J_ENTRY_HASH", "J_RECEIPT_CHAIN"} <= codes(verify_entries(entries))


def test_7i_a_crash_after_half_a_line_is_set_aside_and_journalled(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    half = b'{"at":"2026-01-01T00:0'
    with path.open("ab") as file:
        file.write(half)
    journal, store = reopen_jsonl(path, clock=ManualClock())
    journal.complete_step("s1", "completed")
    journal.close("completed", result_commit=None)
    store.close()
    assert verify_jsonl(path).ok
    recovery = parse_strict(path.read_bytes().split(b"\n")[4])
    assert (recovery["kind"], recovery["bytes"], recovery["sha256"]) == ("recovery", len(half), digest_bytes(half))
    (side,) = tmp_path.glob("journal.jsonl.torn-*")
    assert side.read_bytes() == half


_APPENDER = """
import sys
from pathlib import Path
from runtime.kernel.errors import JournalError
from runtime.orchestration.mission_journal import JsonlJournalStore
try:
    JsonlJournalStore(Path(sys.argv[1]))
except JournalError as error:
    print(error.code)
"""


def test_7j_a_second_process_cannot_append(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    store = JsonlJournalStore(path)
    root = Path(__file__).parents[3]
    second = subprocess.run(
        [sys.executable, "-c", _APPENDER, str(path)], capture_output=True, text=True, cwd=root, check=True
    )
    assert second.stdout.strip() == "J_LOCKED"
    with pytest.raises(JournalError, match="J_LOCKED"):
        JsonlJournalStore(path)
    store.close()
    JsonlJournalStore(path).close()
    assert path.read_bytes() == b""


def test_7k_returned_records_cannot_alter_history() -> None:
    journal, store, _ = new_journal()
    inputs: dict[str, Any] = {"value": {"deep": [1]}}
    appended = journal.append("signal", signals=[inputs])
    record = journal.record_step("a", operation_type="t", inputs=inputs)
    inputs["value"]["deep"].append(2)
    with pytest.raises(TypeError):
        appended.entry["signals"][0]["value"]["deep"] = []
    with pytest.raises(TypeError):
        record.inputs["value"]["deep"] = []  # type: ignore[index]
    journal.complete_step("a", "completed")
    assert [parse_strict(item.body).get("inputs", {}) for item in store.entries[2:]] == [{"value": {"deep": [1]}}] * 2


def test_7l_exporting_twice_gives_the_same_bytes_and_verifies() -> None:
    assert b"".join(export_jsonl(WHOLE)) == LINES
    assert verify_jsonl(LINES).head_hash == WHOLE[-1].entry_hash


def test_7m_an_older_copy_of_everything_is_found_through_a_later_journal() -> None:
    """The later journal names the newest anchor of its time, which the older log does not have."""
    newest = anchors(ANCHORED.bodies, [1, 16, 25])
    older = anchors(ANCHORED.bodies, [1, 16])

    def names_the_newest(entry: dict[str, Any]) -> None:
        entry["prev_journal_head"] = digest_bytes(newest.splitlines()[-1])

    later = b"".join(export_jsonl(rebuilt(run_of(1)[1].entries, 0, names_the_newest)))
    assert "J_ANCHOR_CHAIN" not in codes(verify(later, anchors=newest))
    assert "J_ANCHOR_CHAIN" in codes(verify(later, anchors=older))
    assert verify(cut(ANCHORED, 16).lines, anchors=older, key=HMAC_KEY).ok, "by itself the older copy is whole"


def test_7n_a_key_that_stands_twice_is_found_although_the_last_value_hashes() -> None:
    doubled = WHOLE[0].body.replace(b'{"at"', b'{"at":"1999-01-01T00:00:00.000000Z","at"', 1)
    assert "J_DUPLICATE_KEY" in codes(verify_entries([replace(WHOLE[0], body=doubled)]))


def test_a_witness_counts_and_one_of_another_entry_or_journal_does_not_hold() -> None:
    """The face of §7.5: witness lines, and the two-part form."""
    last = Witness(JOURNAL_ID, 24, head(ANCHORED.bodies[-1]))
    seen = verify(ANCHORED.lines, witnesses=[last.text])
    assert (seen.level, seen.witnessed_size, seen.ok) == ("witnessed", 25, True)
    for wrong, code in (
        (replace(last, seq=23), "J_WITNESS_MISMATCH"),
        (replace(last, seq=25), "J_TRUNCATED"),
        (replace(last, journal_id="store"), "J_WITNESS_MISMATCH"),
    ):
        assert codes(verify(ANCHORED.lines, witnesses=[wrong.text])) == {code}
    with pytest.raises(JournalError, match="WITNESS_FORMAT"):
        verify(ANCHORED.lines, witnesses=["I saw it"])
    assert verify_integrity(LINES) == (True, [])
    ok, texts = verify_integrity(LINES[:-1])
    assert (ok, [text.split()[0] for text in texts]) == (False, ["J_TORN_TAIL"])
