"""Hostile process trees, fifty cancels of each kind on every tier; and a console that is killed. Figures are printed."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from runtime.governance.sandbox import Sandbox
from tests.support.sandboxing import KINDS, backend, cancel_hostile, kill_console

CANCELS = 50
CONSOLE_KILLS = 20


def figures(what: str, seconds: list[float]) -> None:
    ordered = sorted(value * 1000 for value in seconds)
    p95 = ordered[int(len(ordered) * 0.95) - 1]
    print(
        f"\n{what}: {len(ordered)} times, no survivor; gone after {statistics.median(ordered):.1f} ms p50,"
        f" {p95:.1f} ms p95, {ordered[-1]:.1f} ms worst"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", ["A", "B", "D"])
async def test_no_survivor_of_any_cancel(tmp_path: Path, tier: str, kind: str) -> None:
    runner = Sandbox(backend(tier), confinement="best_effort")
    figures(f"tier {tier}, {kind}", [await cancel_hostile(runner, tmp_path, kind) for _ in range(CANCELS)])


@pytest.mark.parametrize("tier", ["A", "B", "D"])
async def test_no_survivor_of_a_killed_console(tmp_path: Path, tier: str) -> None:
    backend(tier)  # skips where the tier cannot be had
    figures(f"tier {tier}, console killed", [await kill_console(tier, tmp_path) for _ in range(CONSOLE_KILLS)])
