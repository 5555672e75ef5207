"""Every way to tamper with a journal by rule, and what two verifiers say about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.support.doubters import Doubter, before_each, breaks, stand_alone


def altered(lines: Sequence[bytes], at: int, place: int, mask: int) -> list[bytes]:
    """What stands from line ``at`` on when its byte ``place``, the LF at its end included, is XORed with ``mask``."""
    data = bytearray(lines[at] + b"\n")
    data[place] ^= mask
    rest = lines[at + 1 :]
    if data[-1:] != b"\n":  # the line now runs into the next one
        following, rest = (rest[:1] or [b""])[0], rest[1:]
        data += following
    else:
        del data[-1]
    return [*bytes(data).split(b"\n"), *rest]


def unnoticed(
    doubters: Sequence[Doubter], lines: Sequence[bytes], masks: Callable[[int], Iterator[int]], part: slice
) -> list[tuple[str, int, int, int]]:
    """Which changes of single bytes of the lines in ``part`` some verifier would miss; ``masks`` gives them by position."""
    missed = []
    for doubter in doubters:
        known = before_each(doubter, lines)
        for at in range(len(lines))[part]:
            for place in range(len(lines[at]) + 1):
                for mask in masks(place):
                    if not breaks(known[at], altered(lines, at, place, mask)):
                        missed.append((type(doubter).__name__, at, place, mask))
    return missed


def missed_in_archive(archive: bytes, masks: Callable[[int], Iterator[int]], step: int = 1) -> list[tuple[int, int]]:
    """Which changes of single bytes of a bundle the stand-alone verifier would miss: place and mask."""
    verifier = stand_alone()
    changed = bytearray(archive)
    missed = []
    for place in range(0, len(archive), step):
        for mask in masks(place):
            changed[place] ^= mask
            data = bytes(changed)
            result = verifier.check_files("", partial(verifier.unzipped, data), verifier.proofs.Evidence())
            if result.exit_code == verifier.OK:
                missed.append((place, mask))
            changed[place] ^= mask
    return missed
