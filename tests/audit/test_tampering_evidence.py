"""What the chain cannot show, and what shows it: the table of operations spec §7.4, row by row and place by place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from tests.support.doubters import Doubter, Held, before_each, both
from tests.support.run_bundles import (
    ANCHOR_KEY,
    FOREIGN,
    SIGNING,
    anchors_of,
    lines_of,
    notes_of,
    public_key,
    resealed,
    the_run,
    witness_of,
)

KEYS = [public_key(SIGNING)]
OTHER_MAC = bytes(32)
#: Entries of a run that still goes on, the last checkpoint of it, and where its tail is cut.
OPEN, LAST, CUT = 190, 176, 180

Lines = Sequence[bytes]


@cache
def lines() -> list[bytes]:
    return lines_of(the_run().entries)


@cache
def known() -> list[list[Doubter]]:
    return [before_each(start, lines()) for start in both()]


def read(journal: Lines) -> list[Doubter]:
    """Each verifier at the end of ``journal``. What agrees with the good one at the start is not read again."""
    differs = (at for at, (a, b) in enumerate(zip(journal, lines(), strict=False)) if a != b)
    at = next(differs, min(len(journal), len(lines())))
    ends = [states[at].copy() for states in known()]
    for end in ends:
        for line in journal[at:]:
            end.feed(line)
    return ends


def found(journal: Lines, held: Held) -> list[set[str]]:
    """The errors of each verifier."""
    return [end.against(held) for end in read(journal)]


def signed(of: Lines, *, every: int = 16) -> Held:
    return Held(notes=notes_of(of, every=every), keys=KEYS)


def logged(of: Lines) -> Held:
    return Held(anchors=anchors_of(of), anchor_key=ANCHOR_KEY)


def so_far(of: Lines) -> Lines:
    """What checkpoints and anchors of a run that goes on cover: not its newest entries."""
    return of[: len(of) // 16 * 16]


def seen(of: Lines, seq: int = -1) -> Held:
    return Held(witnesses=[witness_of(of, seq)])


def edited(of: Lines) -> list[bytes]:
    changed = list(of)
    changed[50] = changed[50].replace(b'"journal_id":"0', b'"journal_id":"1', 1)
    return changed


@cache
def table() -> dict[str, tuple[Lines, Held, Held, Held, tuple[str, str, str, str]]]:
    """By manipulation: the journal as it is afterwards, checkpoints, anchors and witness beside it, and what is found
    by the chain alone, with checkpoints, with anchors, with a witness. An empty text: missed."""
    whole, running = lines(), lines()[:OPEN]
    anew = resealed(whole, 3, "false")
    forged_notes = Held(notes=notes_of(anew, key=FOREIGN), keys=KEYS)
    forged_log = Held(anchors=anchors_of(anew, key=OTHER_MAC), anchor_key=ANCHOR_KEY)
    older = whole[: 10 * 16]
    mismatch, cut, mac, witness = "J_ANCHOR_MISMATCH", "J_TRUNCATED", "J_ANCHOR_MAC", "J_WITNESS_MISMATCH"
    link = "J_JOURNAL_ID"
    return {
        "edit": (edited(whole), signed(whole), logged(whole), seen(whole), (link, link, link, link)),
        "cut past the last anchor": (whole[:CUT], signed(whole), logged(whole), seen(whole), ("", cut, cut, cut)),
        "cut after the last anchor": (
            running[:CUT],
            signed(so_far(running)),
            logged(so_far(running)),
            seen(running),
            ("", "", "", cut),
        ),
        "rewrite all": (anew, signed(whole), logged(whole), seen(whole), ("", mismatch, mismatch, witness)),
        "rewrite journal and anchors without the key": (
            anew,
            forged_notes,
            forged_log,
            seen(whole),
            ("", mac, mac, witness),
        ),
        "restore an older copy of both": (older, signed(older), logged(older), seen(whole), ("", "", "", cut)),
        "the holder of the key rewrites everything": (
            anew,
            signed(anew),
            logged(anew),
            seen(whole),
            ("", "", "", witness),
        ),
    }


@pytest.mark.parametrize("manipulation", table())
def test_the_table_of_what_is_found_by_what(manipulation: str) -> None:
    journal, checkpoints, anchors, witness, expected = table()[manipulation]
    for held, code in zip((Held(), checkpoints, anchors, witness), expected, strict=True):
        for answer in found(journal, held):
            assert (code in answer) if code else answer == set(), (held, answer)


def test_the_good_journal_is_good_with_everything_beside_it() -> None:
    checkpoints = signed(lines())
    everything = Held(
        notes=checkpoints.notes,
        keys=KEYS,
        anchors=anchors_of(lines()),
        anchor_key=ANCHOR_KEY,
        witnesses=[witness_of(lines(), 0), witness_of(lines()), notes_of(lines())[3].decode()],
    )
    assert found(lines(), everything) == [set()] * len(known())


def test_a_cut_at_any_place_is_shown_by_checkpoints_anchors_and_witness() -> None:
    beside = (signed(lines()), logged(lines()), seen(lines()))
    for at in range(1, len(lines())):
        for end in read(lines()[:at]):
            assert all("J_TRUNCATED" in end.against(held) for held in beside), at


def test_a_history_written_anew_from_any_place_is_shown_by_them_too() -> None:
    beside = (
        (signed(lines()), "J_ANCHOR_MISMATCH"),
        (logged(lines()), "J_ANCHOR_MISMATCH"),
        (seen(lines()), "J_WITNESS_MISMATCH"),
    )
    for at in range(len(lines())):
        for end in read(resealed(lines(), at, "false")):
            assert all(code in end.against(held) for held, code in beside), at


def test_a_checkpoint_that_went_missing_at_the_end_is_no_error_for_either() -> None:
    """A signer in trouble leaves the same behind; both only warn, and what is appended to an ended run is found anyway."""
    notes = notes_of(lines())[:-1]
    assert found(lines(), Held(notes=notes, keys=KEYS)) == [set()] * len(known())
    longer = [*lines(), lines()[-1]]
    assert all(found(longer, Held(notes=notes, keys=KEYS)))
