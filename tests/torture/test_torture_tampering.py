"""Every single bit: of a journal of 200 entries, by both verifiers, and of bundles. Figures are printed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.support.doubters import both
from tests.support.run_bundles import bundle_files, jsonl, lines_of, packed, recorded_run, the_run
from tests.support.tampering import missed_in_archive, unnoticed


def bits(_: int) -> Iterator[int]:
    return iter([1 << bit for bit in range(8)])


def test_no_changed_bit_of_a_journal_goes_unnoticed() -> None:
    lines, began = lines_of(the_run().entries), time.perf_counter()
    assert unnoticed(both(), lines, bits, slice(None)) == []
    print(f"\njournal: {8 * len(jsonl(lines)):,} bits, two verifiers, none missed; {time.perf_counter() - began:.0f} s")


def test_no_changed_bit_of_a_small_bundle_goes_unnoticed() -> None:
    archive, began = packed(bundle_files(recorded_run(1))), time.perf_counter()
    assert missed_in_archive(archive, bits) == []
    print(f"\nsmall bundle: {8 * len(archive):,} bits, none missed; {time.perf_counter() - began:.0f} s")


def test_no_changed_byte_of_a_bundle_of_200_entries_goes_unnoticed() -> None:
    archive, began = packed(bundle_files(the_run())), time.perf_counter()
    assert missed_in_archive(archive, lambda place: iter((1 << place % 8,))) == []
    print(f"\nbundle: {len(archive):,} bytes, none missed; {time.perf_counter() - began:.0f} s")
