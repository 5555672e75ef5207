"""What models cost is what the operator says, and all runs of a day share what it allows (operations spec §10.7)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.clock import ManualClock
from runtime.kernel.ports import ModelReply
from runtime.orchestration.budget import Day, Ledger, Limits
from tests.support.hosting import entries, hosting, run_to_end, write_mission

MISSION = """\
mission: asks-a-model
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: [], max_budget_usd: 1}
provider: {openai: {base_url: "http://localhost:9", model: gpt-x}}
blocks:
  ask: {type: llm_call, prompt: hi, model: gpt-x, max_tokens: 100}
"""
#: Every call of the mission sets aside 100 tokens' worth and pays for 40: 100 USD per million are 100 micro-USD each.
PRICES = "prices: {gpt-x: {in: 0, out: 100}}\n"


class Model:
    name = "model"

    async def complete(self, request: Any, on_delta: Any = None) -> ModelReply:
        return ModelReply(text="hi", model="gpt-x", provider="model", tokens_in=5, tokens_out=40, latency_ms=1)


@pytest.fixture(autouse=True)
def _answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.host.assembly.build_provider", lambda *args, **options: Model())


def rules(tmp_path: Path, text: str) -> None:
    (tmp_path / "store" / "rules.yaml").write_text(text)


async def call(host: RuntimeHost, tmp_path: Path) -> str | None:
    return (await run_to_end(host, write_mission(tmp_path / "m", MISSION))).code


async def test_a_model_costs_what_the_operator_says(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        unpriced = await run_to_end(host, write_mission(tmp_path / "m", MISSION))
        assert (unpriced.code, unpriced.exit_code) == ("op.budget_price_unknown", 5)
        assert "prices: in rules.yaml" in str(unpriced.message)
        rules(tmp_path, PRICES)
        paid = await run_to_end(host, write_mission(tmp_path / "m", MISSION))
        assert [item["micros"] for item in await entries(host, paid.run_id, "budget")] == [10_000, 4_000]
        rules(tmp_path, "prices: {gpt-x: {in: 0, out: 0}}\n")
        assert await call(host, tmp_path) is None, "0 is a price"


async def test_a_day_has_one_budget_for_all_runs(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as first:
        rules(tmp_path, PRICES)
        assert await call(first, tmp_path) is None, "spent before there was a limit, and counted"
    async with hosting(tmp_path / "store") as second:
        rules(tmp_path, PRICES + "budget: {day_usd: 0.02}\n")
        assert await call(second, tmp_path) is None
        assert await call(second, tmp_path) is None, "12 of 20 thousand are spent"
        over = await run_to_end(second, write_mission(tmp_path / "m", MISSION))
        assert (over.code, over.exit_code) == ("op.budget_exceeded", 5)
        assert "8000 remain of what all runs may use today" in str(over.message)
        assert "raise budget.day_usd in rules.yaml" in str(over.message)


def test_what_runs_set_aside_together_stays_below_the_days_limit() -> None:
    clock = ManualClock()
    day = Day(lambda: clock.now().date().isoformat())
    one, two = (Ledger(Limits(micros=100, day_micros=100), day=day, run_id=name) for name in ("one", "two"))
    held = one.reserve("a", 60, 0)
    with pytest.raises(Exception, match="40 remain"):
        two.reserve("a", 60, 0)
    one.settle(held, 10, 0)
    other = two.reserve("a", 60, 0)
    assert day.spent_micros == 70
    day.add(clock.now().date().isoformat(), 20, {("crashed", "x"): 5})
    assert day.spent_micros == 95
    clock.advance(timedelta(days=1).total_seconds())
    assert day.spent_micros == 65, "a new day; what is set aside stays so"
    two.release(other)
    crashed = Ledger(Limits(micros=100, day_micros=100), day=day, run_id="crashed")
    crashed.replay([{"kind": "budget", "phase": "reserved", "operation_id": "x", "micros": 5, "tokens": 0}])
    crashed.lose("x")
    assert day.spent_micros == 5, "a lost answer is paid on the day it is given up"
