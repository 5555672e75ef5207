"""Two verifiers written apart against every simple way to tamper with a journal: both find it, or both cannot.

What neither can find by the chain alone is found by checkpoints, anchors or a witness, as the table of operations spec
§7.4 says. Every single bit is changed by `make torture`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import pytest

from runtime.kernel.canonical import digest, parse_strict
from runtime.orchestration.journal_format import sealed
from runtime.orchestration.journal_verify import verify_jsonl
from tests.support.doubters import Doubter, before_each, both, breaks, stand_alone
from tests.support.run_bundles import bundle_files as files_of
from tests.support.run_bundles import foreign_line, jsonl, lines_of, packed, rebuilt, recorded_run, resealed, the_run
from tests.support.tampering import missed_in_archive, unnoticed

PARTS = 4


@cache
def lines() -> list[bytes]:
    return lines_of(the_run().entries)


@cache
def known() -> list[list[Doubter]]:
    """For each verifier, what it knows before each line and after the last."""
    return [before_each(doubter, lines()) for doubter in both()]


def verdicts(at: int, rest: Sequence[bytes]) -> set[bool]:
    """Is a journal broken that agrees with the good one up to entry ``at`` and goes on with ``rest``? One answer each."""
    return {breaks(states[at], rest) for states in known()}


def test_the_run_is_good_and_of_the_size_it_is_meant_to_have() -> None:
    assert len(lines()) == 200
    assert 100_000 < len(jsonl(lines())) < 150_000
    assert not any(states[-1].broken for states in known())


@pytest.mark.parametrize("part", range(PARTS))
def test_no_changed_byte_goes_unnoticed(part: int) -> None:
    """Every byte of the journal, line ends included, once. The lowest bit: digits stay digits, letters letters."""
    assert unnoticed(both(), lines(), lambda place: iter((1,)), slice(part, None, PARTS)) == []


def test_resuming_before_a_change_finds_what_reading_from_the_start_finds() -> None:
    """The test above starts at the entry before the change; here a few changes are read as a stranger reads them."""
    whole = jsonl(lines())
    for place in range(0, len(whole), len(whole) // 25):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        assert verify_jsonl(changed).ok is False
        journal = stand_alone().rules.Journal()
        stand_alone().rules.feed_all(journal, [changed])
        assert journal.errors


def test_no_deleted_swapped_repeated_or_foreign_entry_goes_unnoticed() -> None:
    all_of, foreign = lines(), foreign_line()
    for at in range(len(all_of)):
        if at + 1 < len(all_of):  # without its last entry a journal is a good, shorter one
            assert verdicts(at, all_of[at + 1 :]) == {True}, f"entry {at} deleted"
            swapped = [all_of[at + 1], all_of[at], *all_of[at + 2 :]]
            assert verdicts(at, swapped) == {True}, f"entries {at} and {at + 1} swapped"
        assert verdicts(at, [all_of[at], *all_of[at:]]) == {True}, f"entry {at} repeated"
        assert verdicts(at, [foreign, *all_of[at:]]) == {True}, f"a foreign entry before {at}"
    assert verdicts(len(all_of), [foreign]) == verdicts(len(all_of), [all_of[-1]]) == {True}


def test_a_chain_alone_shows_neither_a_cut_end_nor_a_history_written_anew() -> None:
    """Both verifiers say so by saying nothing: this is what checkpoints and witnesses are for."""
    for at in range(1, len(lines())):
        assert verdicts(at, []) == {False}, f"cut to {at}"
    for at in range(len(lines())):
        assert verdicts(at, resealed(lines(), at, "false")[at:]) == {False}, f"written anew from {at}"


@pytest.mark.parametrize("how", ["dropped", "swapped", "repeated"])
def test_both_judge_alike_what_a_careful_forger_makes(how: str) -> None:
    """Numbers, links, counts and hashes fit again; what is left to notice is an order of things that cannot be."""
    all_of, caught = lines(), 0
    for at in range(0, len(all_of) - 1, 3):
        one, two = all_of[at : at + 2]
        instead = {"dropped": [two], "swapped": [two, one], "repeated": [one, one, two]}[how]
        forged = rebuilt([*all_of[:at], *instead, *all_of[at + 2 :]], at)
        answers = verdicts(at, forged[at:])
        assert len(answers) == 1, f"entry {at} {how}: the verifiers disagree"
        caught += answers == {True}
    assert caught > len(all_of) // 30


def odd_entries(line: bytes) -> Iterator[tuple[str, bytes]]:
    """The entry with each member of its own and of its receipt gone or replaced in turn, and hashed anew."""
    own, inner = parse_strict(line), parse_strict(line).get("receipt", {})
    linking = {"prev_entry_hash", "entry_hash", "receipt_hash"}
    for inside, name in [(False, name) for name in own.keys() - linking] + [
        (True, name) for name in inner.keys() - linking
    ]:
        for odd in (..., None, True, 7, 0.5, "x", [], {}, {"$artifact": []}):
            entry = parse_strict(line)
            del entry["entry_hash"]
            holder = entry["receipt"] if inside else entry
            if odd is ...:
                del holder[name]
            else:
                holder[name] = odd
            if inside:
                holder["receipt_hash"] = digest({key: holder[key] for key in holder.keys() - {"receipt_hash"}})
            yield f"{own['kind']} with {name} {odd!r}", sealed(entry)[0]


def test_both_judge_alike_entries_whose_members_are_missing_or_odd() -> None:
    """One entry of each kind, and the one that names a stream."""
    by_kind = {parse_strict(line)["kind"]: at for at, line in reversed(list(enumerate(lines())))}
    stream = next(at for at, line in enumerate(lines()) if b'"stream":{' in line)
    broken = 0
    for at in {*by_kind.values(), stream}:
        for what, line in odd_entries(lines()[at]):
            answers = verdicts(at, [line])
            assert len(answers) == 1, f"{what}: the verifiers disagree"
            broken += answers == {True}
    assert len(by_kind) == 16
    assert broken > 500


def test_a_cut_within_an_entry_is_a_torn_tail_to_both() -> None:
    whole = jsonl(lines())
    for length in range(1, len(whole), 1009):
        if whole[length - 1 : length] != b"\n":
            journal = stand_alone().rules.Journal()
            stand_alone().rules.feed_all(journal, [whole[:length]])
            assert {item.code for item in journal.findings} == {"J_TORN_TAIL"}
            assert {item.code for item in verify_jsonl(whole[:length]).findings} == {"J_TORN_TAIL"}


def test_no_changed_byte_of_a_bundle_goes_unnoticed() -> None:
    """Of a small one, so that every byte can be tried; `make torture` tries those of a large one."""
    archive = packed(files_of(recorded_run(1)))
    assert missed_in_archive(archive, lambda place: iter((1 << place % 8,))) == []
