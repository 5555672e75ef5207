"""Where a comparison begins: a place in the base, looked up in the other telling (turn runtime §3.27, cursor)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from runtime.kernel.errors import Refused


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where both tellings go on, inclusive. ``moved``: the other has no such place, so it goes on at the same
    position, or at its end when it is shorter; that is an ordering divergence."""

    base: int
    other: int
    moved: bool


def resume(base: Sequence[Hashable], other: Sequence[Hashable], place: Hashable) -> Resumed:
    """Both positions of ``place``. Raises `Refused` ``replay_cursor_not_found`` when the base does not have it."""
    if place not in base:
        raise Refused("replay_cursor_not_found", f"the recorded run never came to {place}")
    at = base.index(place)
    if place in other:
        return Resumed(at, other.index(place), moved=False)
    return Resumed(at, min(at, len(other)), moved=True)
