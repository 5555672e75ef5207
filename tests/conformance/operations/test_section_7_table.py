"""Operations specification §7.4, the table of manipulations, and the attacks of reliability §1.2.

What the product says a verdict is worth (`manipulations`) is compared with what it finds when the same things are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from runtime.orchestration.journal_evidence import Evidence, Held
from runtime.orchestration.journal_findings import JournalVerification
from runtime.orchestration.journal_verify import verify, verify_jsonl
from runtime.orchestration.manipulations import Shown, manipulations
from tests.support.attacks import (
    CLASSES,
    HMAC_KEY,
    TAIL,
    World,
    anchors,
    by_checkpoints,
    cut,
    cut_back,
    edit,
    forged,
    notes,
    rewritten,
    sizes,
    stolen,
    witness,
    world,
)
from tests.support.journals import JOURNAL_ID

Attack = Callable[[World], World]

#: A journal of 25 entries, the last three of which nothing covers.
SHORT: Final = world(steps=6, tail=TAIL)
ENTRIES: Final = len(SHORT.bodies)

#: Row of §7.4 → what is done, and which column shows it; None: the table says nothing.
TABLE: Final[dict[str, tuple[Attack, tuple[bool | None, bool, bool]]]] = {
    "edit, insert, drop or swap entries inside": (lambda it: edit(it, 9), (True, True, True)),
    "cut off the end, back past what is remembered": (lambda it: cut(it, ENTRIES - TAIL - 1), (False, True, True)),
    "cut off only entries after the newest checkpoint": (lambda it: cut(it, ENTRIES - TAIL), (False, False, True)),
    "rewrite everything with fresh hashes": (lambda it: rewritten(it, 9), (False, True, True)),
    "rewrite journal and checkpoints without the key": (lambda it: forged(it, 9), (False, True, True)),
    "restore an older copy of everything": (lambda it: cut_back(it, 17), (False, False, True)),
    "delete the journal": (lambda it: replace(it, bodies=()), (None, True, True)),
    "rewrite everything with the key": (lambda it: stolen(it, 9), (False, False, True)),
}


def by_anchors(it: World, witnesses: tuple[str, ...] = ()) -> JournalVerification:
    return verify(it.lines, anchors=it.anchors, key=HMAC_KEY, witnesses=witnesses, run_id=JOURNAL_ID)


def by_notes(it: World, witnesses: tuple[str, ...] = ()) -> JournalVerification:
    return verify_jsonl(it.lines, run_id=JOURNAL_ID, evidence=by_checkpoints(it, witnesses=witnesses))


@pytest.mark.parametrize("beside", [by_anchors, by_notes], ids=["anchors", "checkpoints"])
@pytest.mark.parametrize("what", TABLE)
def test_each_column_shows_what_the_table_says(what: str, beside: Callable[..., JournalVerification]) -> None:
    attack, expected = TABLE[what]
    seen = witness(SHORT.bodies)
    ways: list[Callable[[World], JournalVerification]] = [
        lambda it: verify(it.lines, run_id=JOURNAL_ID),
        beside,
        lambda it: beside(it, (seen,)),
    ]
    for look, shows in zip(ways, expected, strict=True):
        untouched = look(SHORT)
        assert untouched.ok, untouched.findings
        told = {item.what: item.revealed for item in manipulations(Shown.by(untouched))}
        assert told[what] is bool(shows), (what, untouched.level)
        if shows is not None:
            found = look(attack(SHORT))
            assert found.ok is not shows, (untouched.level, found.findings)


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("cut off the end, back past what is remembered", "J_TRUNCATED"),
        ("rewrite everything with fresh hashes", "J_ANCHOR_MISMATCH"),
        ("rewrite journal and checkpoints without the key", "J_ANCHOR_MAC"),
        ("delete the journal", "J_MISSING"),
    ],
)
def test_the_codes_of_the_table(attack: str, code: str) -> None:
    for look in (by_anchors, by_notes):
        assert code in {item.code for item in look(TABLE[attack][0](SHORT)).findings}


# -- reliability §1.2 -------------------------------------------------------------------------------------------------

LONG: Final = world()
POSITIONS: Final = range(1, 101)
COPY: Final = Held(LONG.notes[-1], "a disk elsewhere")


def chain(it: World) -> JournalVerification:
    return verify_jsonl(it.lines, run_id=JOURNAL_ID)


def copied(it: World) -> JournalVerification:
    return verify_jsonl(it.lines, run_id=JOURNAL_ID, evidence=by_checkpoints(it, elsewhere=(COPY,)))


LOOKS: Final = {"a": (chain, (1, 40, 98)), "b": (by_notes, (1, 40, 98)), "c": (copied, POSITIONS)}


@pytest.mark.parametrize("name", CLASSES)
def test_an_attack_shows_where_the_matrix_says(name: str) -> None:
    attack, shown = CLASSES[name]
    for column, (look, positions) in LOOKS.items():
        for position in positions:
            found = look(attack(LONG, position))
            assert found.ok is (column not in shown), (column, position, found.findings)


def test_the_untouched_journal_is_good_in_every_column() -> None:
    assert [look(LONG).ok for look, _ in LOOKS.values()] == [True] * 3
    assert [look(LONG).level for look, _ in LOOKS.values()] == ["chain", "authenticated", "witnessed"]


@pytest.mark.parametrize("position", [0, 1, 15, 16, 17, 50, 99])
def test_a_rewrite_is_narrowed_to_the_entries_between_two_checkpoints(position: int) -> None:
    covered = sizes(len(LONG.bodies))
    found = by_notes(rewritten(LONG, position))
    first = max((size for size in covered if size <= position), default=0)
    last = min(size for size in covered if size > position) - 1
    assert found.bad_between == (first, last)
    assert first <= position <= last
    assert found.trusted_prefix == first


def test_what_is_edited_and_resealed_alone_is_inside_the_interval() -> None:
    """The link breaks one entry later; the entry before it is the false one."""
    again = rewritten(LONG, 40).bodies[40]
    lone = replace(LONG, bodies=(*LONG.bodies[:40], again, *LONG.bodies[41:]))
    assert chain(lone).bad_between == (41, 41)
    assert by_notes(lone).bad_between == (32, 41)


def test_an_older_copy_is_found_through_a_later_journal() -> None:  # 7.m, with checkpoints
    evidence = Evidence(linked=frozenset())
    assert {item.code for item in verify_jsonl(_later(), evidence=evidence).findings} == {"J_ANCHOR_CHAIN"}
    assert verify_jsonl(_later(), evidence=replace(evidence, linked={"sha256:" + "7" * 64})).ok


def _later() -> bytes:
    from runtime.kernel.canonical import parse_strict
    from runtime.orchestration.journal_format import sealed

    first = parse_strict(LONG.bodies[0])
    del first["entry_hash"]
    return sealed({**first, "prev_journal_head": "sha256:" + "7" * 64})[0] + b"\n"


def test_without_the_key_the_maker_is_not_known() -> None:
    unknown = replace(by_checkpoints(LONG), trusted=())
    found = verify_jsonl(LONG.lines, evidence=unknown)
    assert (found.ok, found.level, found.anchoring.standing) == (True, "anchored", "warn")
    assert [(item.code, item.severity) for item in found.findings] == [("J_KEY_MISSING", "warning")]
    strict = verify_jsonl(LONG.lines, evidence=replace(unknown, strict=True))
    assert [(item.code, item.severity) for item in strict.findings] == [("J_KEY_MISSING", "error")]
    assert not strict.ok
    assert not verify(LONG.lines, anchors=LONG.anchors, strict=True).ok


def test_a_loss_that_was_accepted_is_told_and_no_error() -> None:
    """Entries 40 to 100 were lost; whoever signed them signs a new generation of what is left and what followed."""
    from runtime.orchestration.checkpoints import Checkpoint, signed_note
    from runtime.orchestration.merkle import leaf_hash, root_of
    from tests.support.attacks import SECRET, appended, key_of

    left = appended(cut(LONG, 40), 5)
    root = root_of(map(leaf_hash, left.bodies))
    later = signed_note(Checkpoint(JOURNAL_ID, 45, root, 2), key_of(SECRET), SECRET.sign)
    found = by_notes(replace(left, notes=(*LONG.notes, later)))
    assert found.ok
    assert {(item.code, item.severity) for item in found.findings} == {("J_TRUNCATED", "warning")}
    assert found.completeness.standing == "warn"
    assert found.checkpoint_size == 45
    assert not by_notes(replace(left, notes=LONG.notes)).ok
    changed = by_notes(replace(rewritten(left, 20), notes=(*LONG.notes, later)))
    assert not changed.ok, "a new generation excuses nothing but the loss"


def test_notes_and_anchors_of_another_journal_or_none_at_all_do_not_pass() -> None:
    for note, code in (
        (b"no note", "J_ANCHOR_CHAIN"),
        (LONG.notes[0].replace(b"0001\n", b"0002\n"), "J_ANCHOR_MISMATCH"),
    ):
        found = by_notes(replace(LONG, notes=(note,)))
        assert [item.code for item in found.findings] == [code]
        assert found.anchoring.standing == "bad"
    others = anchors(LONG.bodies, [5]).replace(JOURNAL_ID.encode(), JOURNAL_ID.replace("0001", "0002").encode())
    assert by_anchors(replace(LONG, anchors=others)).level == "chain"
    assert len(notes(LONG.bodies, sizes(len(LONG.bodies)))) == len(LONG.notes)
