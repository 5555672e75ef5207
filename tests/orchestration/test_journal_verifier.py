"""A verifier that is asked while it is fed: same answers as at the end, late checkpoints, time, and what never ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, digest_bytes
from runtime.kernel.errors import JournalError
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_bodies import long_content
from runtime.orchestration.journal_evidence import Evidence, Held
from runtime.orchestration.journal_format import stored_line
from runtime.orchestration.journal_verifier import JournalVerifier
from runtime.orchestration.journal_verify import verify_entries
from tests.support.attacks import CLASSES, World, by_checkpoints, key_of, rewritten, world
from tests.support.attacks import SECRET as SIGNER
from tests.support.journals import JOURNAL_ID, NOTHING, new_journal, receipt, start_operation

WORLD = world(steps=9)


def rows(it: World) -> list[StoredEntry]:
    """The rows a store would have; one whose bytes are no entry gets the columns of nothing."""
    found = []
    for number, body in enumerate(it.bodies):
        try:
            found.append(stored_line(body))
        except (CanonicalizationError, JournalError):
            found.append(StoredEntry(number, "", "", "", "", body))
    return found


def fed(entries: Sequence[StoredEntry], **members: Any) -> JournalVerifier:
    verifier = JournalVerifier(run_id=JOURNAL_ID, **members)
    for stored in entries:
        verifier.feed(stored)
    return verifier


@settings(max_examples=60, deadline=None)
@given(
    attack=st.sampled_from([None, *CLASSES]),
    at=st.integers(1, len(WORLD.bodies) - 1),
    stops=st.sets(st.integers(0, len(WORLD.bodies))),
)
def test_asked_on_the_way_the_verdict_at_the_end_is_the_same(attack: str | None, at: int, stops: set[int]) -> None:
    it = WORLD if attack is None else CLASSES[attack][0](WORLD, at)
    evidence, entries = by_checkpoints(it), rows(it)
    verifier = JournalVerifier(run_id=JOURNAL_ID, evidence=evidence)
    for number, stored in enumerate(entries):
        if number in stops:
            verifier.verdict()
        verifier.feed(stored)
    assert verifier.verdict() == verify_entries(entries, run_id=JOURNAL_ID, evidence=evidence) == verifier.verdict()


@pytest.mark.parametrize("late", [0, 1, 5, 30])
@pytest.mark.parametrize("lie", [False, True])
def test_checkpoints_heard_while_a_journal_grows_are_judged(late: int, lie: bool) -> None:
    """A checkpoint may become known some entries after those it covers have gone by."""
    entries = rows(rewritten(WORLD, 4) if lie else WORLD)
    verifier = fed([], evidence=Evidence(trusted=(key_of(SIGNER),), check=by_checkpoints(WORLD).check), live=True)
    heard = 0
    for number, stored in enumerate(entries, 1):
        verifier.feed(stored)
        due = [note for note, size in zip(WORLD.notes, (1, 16, 32, 37), strict=True) if size + late <= number]
        verifier.hear(Evidence(checkpoints=[Held(note) for note in due[heard:]]), "")
        heard = len(due)
    found = verifier.verdict()
    assert found.ok is not (lie and heard > 1)
    assert found.checkpoint_size == (1 if lie else (1, 16, 32, 37)[heard - 1])


def test_a_row_that_tells_of_more_is_a_cut_off_end_also_while_the_run_goes_on() -> None:
    entries = rows(WORLD)
    assert fed(entries, evidence=Evidence(told_entries=len(entries))).verdict().ok
    found = fed(entries, evidence=Evidence(told_entries=len(entries) + 1)).verdict()
    assert ([item.code for item in found.findings], found.completeness.standing) == (["J_TRUNCATED"], "bad")
    longer = fed(entries, evidence=Evidence(told_entries=len(entries) - 1)).verdict()
    assert longer.ok, "the row of a run that has not ended is written after its entries"
    ended = fed(entries, evidence=Evidence(told_entries=len(entries) - 1, told_head="sha256:1")).verdict()
    assert [item.code for item in ended.findings] == ["J_WITNESS_MISMATCH"]
    assert [item.code for item in fed([], evidence=Evidence(told_entries=3)).verdict().findings] == [
        "J_MISSING",
        "J_TRUNCATED",
    ]


def test_an_entry_of_the_future_is_a_warning() -> None:
    """After the time of the check, or after the checkpoint that covers it was made."""
    entries = rows(WORLD)
    assert fed(entries, not_after=entries[-1].at).verdict().findings == ()
    late = fed(entries, not_after=entries[4].at).verdict()
    assert [(item.code, item.severity, item.seq) for item in late.findings] == [("J_CLOCK_SKEW", "warning", 7)]
    assert late.integrity.standing == "warn"
    evidence = by_checkpoints(WORLD)
    made = [Held(held.note, at=entries[8].at) for held in evidence.checkpoints]
    before = fed(entries, evidence=replace(evidence, checkpoints=made)).verdict()
    assert [(item.code, item.seq) for item in before.findings] == [("J_CLOCK_SKEW", 15)]


def test_what_never_ended_is_told() -> None:
    journal, store, _ = new_journal()
    journal.record_step("a", operation_type="t")
    start_operation(journal, "k", step_id="a", operation_id="a.0")
    crashed = fed(store.entries).verdict()
    assert (crashed.completeness.standing, crashed.findings) == ("warn", ())
    assert "2 operations and steps under way" in crashed.completeness.words
    assert fed(store.entries, live=True).verdict().completeness.standing == "good"
    journal.append_receipt(receipt("k", step_id="a", operation_id="a.0"))
    journal.close("cancelled", result_commit=None)
    cut_short = fed(store.entries).verdict()
    assert (cut_short.completeness.standing, cut_short.findings) == ("warn", ())
    assert "step a attempt 1 (entry 1)" in cut_short.completeness.words


def test_an_operation_or_undo_left_open_in_a_closed_journal_is_a_finding() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k")
    journal.append("compensation_started", operation_id="s1.0", compensates=NOTHING)
    journal.close("failed", result_commit=None)
    found = fed(store.entries)
    assert [(item.code, item.severity, item.seq) for item in found.verdict().findings] == [
        ("J_OPEN_WORK", "warning", 1)
    ]
    assert found.states.foreign == {NOTHING: 2}, "no write of this journal has that receipt"


def params(content: str) -> bytes:
    data = content.encode()
    return canonical_bytes({"content": {"$artifact": digest_bytes(data), "bytes": len(data)}, "path": "out/big"})


@pytest.mark.parametrize(
    ("held", "code"),
    [
        (lambda name: b"long", None),
        (lambda name: None, "J_ARTIFACT_MISSING"),
        (lambda name: b"other", "J_ARTIFACT_HASH"),
    ],
)
def test_long_content_that_params_name_is_looked_up_too(held: Callable[[str], bytes | None], code: str | None) -> None:
    body = params("long")
    journal, store, _ = new_journal()
    start_operation(journal, "k")
    journal.append_receipt(receipt("k", params_hash=digest_bytes(body)))

    def fetch(name: str) -> bytes | None:
        if name == NOTHING:
            return None
        return body if name == digest_bytes(body) else held(name)

    found = verify_entries(store.entries, artifacts=fetch)
    assert [item.code for item in found.findings] == ([] if code is None else [code])


def test_only_the_content_of_params_is_a_name() -> None:
    assert long_content(params("long")) == digest_bytes(b"long")
    for other in (b"{", b"[]", canonical_bytes({"inner": {"content": {"$artifact": digest({})}}})):
        assert long_content(other) is None


def test_withheld_bodies_are_a_warning() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k")
    journal.append_receipt(receipt("k", output_hash=digest({"out": 1})))
    found = verify_entries(store.entries, artifacts=lambda name: None, withheld={digest({"out": 1})})
    assert ([item.code for item in found.findings], found.ok) == (["J_ARTIFACT_WITHHELD"], True)
