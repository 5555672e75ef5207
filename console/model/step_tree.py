"""The order in which steps are shown: those inside a composite stand below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def as_tree(steps: Sequence[str]) -> list[str]:
    """Step ids in the order of their tree: items by number, everything else as it was first seen."""
    seen = {step_id: place for place, step_id in enumerate(steps)}
    return sorted(steps, key=lambda step_id: _rank(step_id, seen))


def _rank(step_id: str, seen: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """Where a step stands: each part of its id by number, or else by when it was first seen."""
    parts = step_id.split("/")
    ways = ("/".join(parts[: size + 1]) for size in range(len(parts)))
    return tuple(
        (0, int(part)) if part.isdecimal() else (1, seen.get(way, 0)) for part, way in zip(parts, ways, strict=True)
    )
