"""What a mission will take is said before it starts, from what its runs took."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.host.api import Launch, QuarterdeckError
from runtime.host.estimating import estimate_mission
from runtime.host.runtime_host import RuntimeHost
from runtime.missions.loader import load
from runtime.storage import past_work
from tests.support.hosting import asking, hosting, plain, question, run_to_end, write_mission

ASKING_A_MODEL = """\
mission: model
version: "{version}"
workspace: {{kind: none}}
envelope: {{allowed_paths: [], allowed_tools: []}}
provider: {{scripted: answers.yaml}}
blocks:
  ask: {{type: llm_call, prompt: Hello}}
  say: {{type: template, template: done}}
links: [ask -> say]
"""
ANSWERS = "runner:\n  - hi\n"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


def model(folder: Path, version: str = "1") -> str:
    return write_mission(folder, ASKING_A_MODEL.format(version=version), {"answers.yaml": ANSWERS})


async def test_without_history_nothing_is_claimed(host: RuntimeHost, tmp_path: Path) -> None:
    found = await host.estimate(model(tmp_path / "m"))
    assert (found.mission, found.samples, found.confidence, found.source) == ("model", 0, "none", "unknown")
    assert (found.time_ms, found.cost_usd, found.llm_calls) == (0, 0, 0)
    assert [(step.node_id, step.samples) for step in found.steps] == [("ask", 0), ("say", 0)]


async def test_runs_that_succeeded_are_the_samples(host: RuntimeHost, tmp_path: Path) -> None:
    path = model(tmp_path / "m")
    took = [(await run_to_end(host, path)).duration_ms for _ in range(5)]
    found = await host.estimate(path)
    assert (found.samples, found.confidence, found.source) == (5, "medium", "stats")
    assert found.time_ms == pytest.approx(sum(took) / 5)
    assert (found.llm_calls, found.block_executions) == (1, 2)
    assert [(step.node_id, step.samples, step.llm_calls) for step in found.steps] == [("ask", 5, 1), ("say", 5, 0)]
    assert all(step.time_ms >= 0 for step in found.steps)
    assert len(await host.runs()) == 5, "estimating starts nothing"


async def test_another_version_is_another_mission(host: RuntimeHost, tmp_path: Path) -> None:
    await run_to_end(host, model(tmp_path / "m"))
    assert (await host.estimate(model(tmp_path / "m", "2"))).samples == 0


async def test_only_the_newest_runs_are_looked_at(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(tmp_path / "m")
    for _ in range(3):
        await run_to_end(host, path)
    assert len({row.run_id for row in await host._store.past_work.of("model", "1", runs=2)}) == 2
    monkeypatch.setattr(past_work, "MAX_ROWS", 5)  # a run has three rows: two steps and a receipt
    assert (await host.estimate(path)).samples == 1, "a run that is cut off is left out"


async def test_a_run_that_failed_still_tells_of_the_blocks_that_finished(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = "  first: {type: template, template: done}\n  then: {type: gate_check, check: compare, condition: {left: 1, op: eq, right: 2}}"
    path = plain(tmp_path / "p", blocks, "[first -> then]")
    await run_to_end(host, path)
    found = await host.estimate(path)
    assert (found.samples, found.source, found.confidence) == (0, "heuristic", "low")
    assert [(step.node_id, step.samples) for step in found.steps] == [("first", 1), ("then", 0)]
    assert "no run has succeeded yet" in found.notes[0]
    assert "then" in found.notes[1]


async def test_waiting_for_people_is_no_part_of_it(host: RuntimeHost, tmp_path: Path) -> None:
    path = asking(tmp_path / "a")
    run = await host.launch(Launch(path=path))
    await question(host, run.run_id)
    await host.cancel(run.run_id)
    await host.wait(run.run_id)
    found = await host.estimate(path)
    assert found.notes == ("waiting for people is not counted",)
    assert found.steps[0].time_ms == 0


async def test_a_run_that_took_steps_over_is_no_sample_of_a_whole_one(host: RuntimeHost, tmp_path: Path) -> None:
    path = model(tmp_path / "m")
    await run_to_end(host, path)
    rows = await host._store.past_work.of("model", "1")
    next(row for row in rows if row.told["step_id"] == "ask").told["reused_from"] = "another run"
    found = estimate_mission(load(path), rows)
    assert (found.samples, found.source) == (0, "heuristic")
    assert [step.samples for step in found.steps] == [0, 1]


async def test_a_record_that_was_tampered_with_costs_no_estimate(host: RuntimeHost, tmp_path: Path) -> None:
    path = model(tmp_path / "m")
    await run_to_end(host, path)
    rows = await host._store.past_work.of("model", "1")
    next(row for row in rows if row.told["step_id"] == "say").told["completed_at"] = 7
    found = estimate_mission(load(path), rows)
    assert found.notes == ("1 records of earlier runs could not be read",)
    assert found.samples == 1


async def test_a_mission_that_does_not_load_is_not_estimated(host: RuntimeHost, tmp_path: Path) -> None:
    with pytest.raises(QuarterdeckError) as caught:
        await host.estimate(str(tmp_path / "nothing"))
    assert caught.value.code == "MISSION_INVALID"
