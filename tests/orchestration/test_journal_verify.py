"""Doubting history: every altered byte, link, column, receipt and body is found (operations spec §7.5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernel.canonical import canonical_bytes, digest, digest_bytes
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_verify import JournalVerification, export_jsonl, verify_entries, verify_jsonl
from runtime.orchestration.stream_index import MAX_LEVELS, SCHEMA, WIDTH, StreamIndex
from tests.support.journals import JOURNAL_ID, NOTHING, RECIPE, new_journal, rebuilt, receipt, run_of, start_operation

Entries = list[StoredEntry]


def codes(verdict: JournalVerification) -> set[str]:
    return {finding.code for finding in verdict.findings}


def test_a_whole_journal_is_good() -> None:
    journal, store = run_of(3)
    verdict = verify_entries(store.entries, run_id=JOURNAL_ID, artifacts=lambda reference: None)
    assert (verdict.ok, verdict.level, verdict.closed, verdict.findings) == (True, "chain", True, ())
    assert (verdict.entries, verdict.head_seq, verdict.head_hash) == (14, 13, journal.get_chain_root())
    assert (verdict.trusted_prefix, verdict.bad_between, verdict.unanchored_tail) == (14, None, 14)
    assert verdict.summary() == (True, [])


WHOLE = run_of(4)[1].entries
LINES = b"".join(export_jsonl(WHOLE))


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, len(LINES) - 1), mask=st.integers(1, 255))
def test_any_change_of_any_byte_is_found(position: int, mask: int) -> None:
    changed = LINES[:position] + bytes([LINES[position] ^ mask]) + LINES[position + 1 :]
    assert not verify_jsonl(changed, run_id=JOURNAL_ID).ok


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(len(WHOLE))))
def test_only_the_true_order_verifies(order: list[int]) -> None:
    assert verify_entries([WHOLE[index] for index in order]).ok == (order == sorted(order))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_reported_and_never_raised(data: bytes) -> None:
    assert not verify_jsonl(data).ok
    assert not verify_entries([StoredEntry(0, "signal", "", "", "", data)]).ok


@settings(max_examples=100, deadline=None)
@given(
    seq=st.integers(0, len(WHOLE) - 1),
    member=st.sampled_from(["receipt", "attempt", "step_id", "inputs", "entries", "at", "idempotency_key", "signals"]),
    value=st.sampled_from([None, 1, "x", [], [[]], {}, {"$artifact": 3}, {"compensates": []}]),
)
def test_hashed_nonsense_is_reported_and_never_raised(seq: int, member: str, value: object) -> None:
    """A liar may hash anything; verification must survive every type in every place."""
    verify_entries(rebuilt(WHOLE, seq, lambda entry: entry.update({member: value})), artifacts=lambda name: b"")


def test_all_findings_are_collected_and_the_good_prefix_is_counted() -> None:
    entries = list(WHOLE)
    entries[5] = replace(entries[5], body=entries[5].body.replace(b"s1", b"sX", 1))
    entries[9] = replace(entries[9], body=b"not json")
    verdict = verify_entries(entries, run_id=JOURNAL_ID)
    assert verdict.trusted_prefix == 5
    assert verdict.entries == len(WHOLE)
    assert {finding.seq for finding in verdict.findings} == {5, 9, 12}  # 12 finishes what the lost entry 9 started
    assert {"J_ENTRY_HASH", "J_NOT_JSON"} <= codes(verdict)


@pytest.mark.parametrize("column", ["seq", "kind", "at", "prev_entry_hash", "entry_hash"])
def test_columns_must_agree_with_the_bytes(column: str) -> None:
    entries = list(WHOLE)
    changed: Any = 99 if column == "seq" else getattr(entries[3], column) + "0"
    entries[3] = replace(entries[3], **{column: changed})
    verdict = verify_entries(entries)
    assert codes(verdict) == {"J_COLUMN_MISMATCH"}
    assert verdict.trusted_prefix == 3


def test_dropped_doubled_swapped_and_foreign_entries() -> None:
    assert "J_PREV_HASH" in codes(verify_entries([*WHOLE[:4], *WHOLE[5:]]))
    assert "J_SEQ" in codes(verify_entries([*WHOLE[:4], WHOLE[3], *WHOLE[4:]]))
    assert {"J_SEQ", "J_GENESIS"} <= codes(verify_entries(WHOLE[1:]))
    assert codes(verify_entries(WHOLE, run_id="another")) == {"J_JOURNAL_ID"}


def test_an_edited_receipt_breaks_its_own_chain_when_its_entry_is_sealed_again() -> None:
    def cheaper(entry: dict[str, Any]) -> None:
        entry["receipt"]["cost_micros"] = 7

    assert codes(verify_entries(rebuilt(WHOLE, 3, cheaper))) == {"J_RECEIPT_CHAIN"}


def test_a_receipt_that_skips_its_predecessor_is_found() -> None:
    def skip(entry: dict[str, Any]) -> None:
        body = {**entry["receipt"], "prev_receipt_hash": digest({"other": 1})}
        del body["receipt_hash"]
        entry["receipt"] = {**body, "receipt_hash": digest(body)}

    verdict = verify_entries(rebuilt(WHOLE, 7, skip))
    assert {(item.code, item.seq) for item in verdict.findings} == {("J_RECEIPT_CHAIN", 7), ("J_RECEIPT_CHAIN", 11)}


def _kind(kind: str, **members: Any) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        keep = {name: entry[name] for name in ("schema", "seq", "journal_id", "at")}
        entry.clear()
        entry.update(keep, kind=kind, **members)

    return change


@pytest.mark.parametrize(
    ("seq", "change"),
    [
        (1, _kind("signal", signals=[])),  # a finish and an operation without their start
        (2, _kind("signal", signals=[])),  # a receipt without operation
        (6, _kind("journal_closed", status="x", result_commit=None, entries=7, last_receipt_hash=None)),
        (5, _kind("compensation_finished", operation_id="o", compensates=None, outcome="x", verified=True)),
        (8, lambda entry: entry.update(step_id="s0")),  # finished twice
        (5, lambda entry: entry.update(step_id="s0")),  # started twice
        (17, lambda entry: entry.update(entries=3)),
    ],
)
def test_what_may_not_follow_is_found(seq: int, change: Callable[[dict[str, Any]], None]) -> None:
    assert "J_STATE" in codes(verify_entries(rebuilt(WHOLE, seq, change)))


def test_an_undo_receipt_needs_an_undo_of_the_same_receipt() -> None:
    """The operation itself may be an earlier run's, and stand in its journal."""
    journal, store, _ = new_journal()
    journal.append("compensation_started", operation_id="s1.0", compensates=NOTHING)
    journal.append_receipt(receipt("k", compensates=NOTHING, compensation_verified=True))
    assert codes(verify_entries(store.entries)) == set()
    journal.append_receipt(receipt("k", compensates=RECIPE, compensation_verified=True))
    assert codes(verify_entries(store.entries)) == {"J_STATE"}


def test_loose_encodings_are_found() -> None:
    body = WHOLE[0].body
    assert "J_NONCANONICAL" in codes(verify_entries([replace(WHOLE[0], body=body.replace(b",", b", ", 1))]))
    assert "J_NOT_UTF8" in codes(verify_entries([replace(WHOLE[0], body=b"\xff" + body)]))


def test_unknown_kinds_schemas_and_long_lines_are_found() -> None:
    assert "J_SCHEMA" in codes(verify_entries(rebuilt(WHOLE, 2, lambda entry: entry.update(kind="invented"))))
    assert "J_SCHEMA" in codes(verify_entries(rebuilt(WHOLE, 2, lambda entry: entry.update(schema="receipt/1"))))
    long = b'{"a":"' + b"x" * 300_000 + b'"}'
    assert "J_LINE_TOO_LONG" in codes(verify_entries([replace(WHOLE[0], body=long)]))


def test_time_going_back_is_a_warning_only() -> None:
    journal, store, clock = new_journal()
    clock.advance(-5)
    journal.append("signal", signals=[])
    verdict = verify_entries(store.entries)
    assert codes(verdict) == {"J_TIME_REGRESSION"}
    assert verdict.ok
    assert verdict.trusted_prefix == 2


def test_bodies_are_fetched_and_compared() -> None:
    body = b'{"out":1}'
    reference = digest_bytes(body)
    journal, store, _ = new_journal()
    start_operation(journal, "k")
    journal.append_receipt(receipt("k", output_hash=reference))
    journal.record_step("s1", operation_type="t", inputs={"value": [{"$artifact": digest({"in": 1}), "bytes": 9}]})
    held = {reference: body, digest({"in": 1}): b"other"}
    assert codes(verify_entries(store.entries, artifacts=held.get)) == {"J_ARTIFACT_HASH"}
    del held[reference]
    assert codes(verify_entries(store.entries, artifacts=held.get)) == {"J_ARTIFACT_HASH", "J_ARTIFACT_MISSING"}
    assert verify_entries(store.entries).ok


def test_an_empty_or_missing_journal_is_not_ok(tmp_path: Path) -> None:
    assert codes(verify_entries([])) == {"J_EMPTY"}
    assert codes(verify_jsonl(tmp_path / "none.jsonl")) == {"J_MISSING"}
    verdict = verify_jsonl(b"")
    assert (verdict.ok, verdict.head_hash, verdict.trusted_prefix) == (False, None, 0)


def test_a_torn_tail_leaves_the_whole_lines_trusted() -> None:
    verdict = verify_jsonl(LINES + b'{"at":"20')
    assert codes(verdict) == {"J_TORN_TAIL"}
    assert (verdict.torn_tail_bytes, verdict.trusted_prefix) == (9, len(WHOLE))


def test_verification_keeps_its_pace() -> None:
    """The target is 100 000 entries in six seconds; a tenth of it in a tenth, with room for a busy machine."""
    entries = run_of(500)[1].entries
    began = time.process_time()
    assert verify_entries(entries).ok
    assert (time.process_time() - began) / len(entries) < 6 / 100_000 * 5


# -- what steps emitted -----------------------------------------------------------------------------------------------


def put(held: dict[str, bytes], body: bytes) -> str:
    name = digest_bytes(body)
    held[name] = body
    return name


def node(held: dict[str, bytes], level: int, items: int, *parts: str, **more: Any) -> str:
    record = {"schema": SCHEMA, "level": level, "items": items, "parts": list(parts), **more}
    return put(held, canonical_bytes(record))


def streaming(index: object, items: int) -> Entries:
    """A journal whose one step says it emitted ``items`` items, listed by ``index``."""
    journal, store, _ = new_journal()
    journal.record_step("s1", operation_type="burst")
    journal.complete_step("s1", "completed", stream={"items": items, "bytes": 1, "content": digest({}), "index": index})
    return store.entries


def test_every_chunk_of_a_stream_is_checked() -> None:
    held: dict[str, bytes] = {}
    index = StreamIndex(lambda body: put(held, body))
    chunks = [put(held, b"chunk %d" % number) for number in range(WIDTH + 3)]
    for chunk in chunks:
        index.add(chunk, 2)
    entries = streaming(index.root(), 2 * len(chunks))
    assert verify_entries(entries, artifacts=held.get).ok
    assert verify_entries(entries).ok, "without the store only the chain is checked"
    for chunk in (chunks[0], chunks[-1]):
        for damaged, code in ((b"another", "J_ARTIFACT_HASH"), (None, "J_ARTIFACT_MISSING")):
            verdict = verify_entries(entries, artifacts=lambda name, c=chunk, d=damaged: d if name == c else held[name])
            assert [(item.code, item.seq) for item in verdict.findings] == [(code, 2)]


MALFORMED: list[Callable[[dict[str, bytes]], object]] = [
    lambda held: None,
    lambda held: "no digest",
    lambda held: put(held, b"[]"),
    lambda held: put(held, b"{"),
    lambda held: node(held, 0, 1, schema="stream-index/2"),
    lambda held: node(held, 0, 1, extra=1),
    lambda held: node(held, MAX_LEVELS, 1),
    lambda held: node(held, 0, 1, "no digest"),
    lambda held: node(held, 0, 1, *[put(held, b"x")] * (WIDTH + 1)),
    lambda held: node(held, 0, 2, put(held, b"x")),
    lambda held: node(held, 1, 1, put(held, b"x")),
    lambda held: node(held, 1, 1, node(held, 0, 3, put(held, b"x"))),
    lambda held: node(held, 1, 1, node(held, 1, 1, put(held, b"x"))),
]


@pytest.mark.parametrize("make", MALFORMED)
def test_an_index_that_is_none_or_does_not_add_up_is_found(make: Callable[[dict[str, bytes]], object]) -> None:
    held: dict[str, bytes] = {}
    entries = streaming(make(held), 1)
    assert codes(verify_entries(entries, artifacts=held.get)) == {"J_SCHEMA"}


def test_an_index_that_lists_itself_over_and_over_is_read_once() -> None:
    """A forger could name 256 ** 8 parts in eight small bodies."""
    held: dict[str, bytes] = {}
    part, items = put(held, b"x"), 1
    for level in range(MAX_LEVELS):
        items *= WIDTH
        part = node(held, level, min(items, 2**53 - 1), *[part] * WIDTH)
    reads: list[str] = []

    def fetch(name: str) -> bytes | None:
        reads.append(name)
        return held.get(name)

    verify_entries(streaming(part, 1), artifacts=fetch)
    assert len(reads) <= 3 * len(held)
