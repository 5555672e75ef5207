"""What a mission will take, in plain words: on the launch sheet and before anything is started by ``plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from console.cli import main
from console.model.estimates import NO_HISTORY, confidence_line, expected_line, step_cells
from runtime.events.facts import MissionEstimate, StepEstimate
from runtime.host.api import Exit
from tests.support.hosting import plain


def found(**members: object) -> MissionEstimate:
    base = {"mission": "m", "version": "1", "samples": 5, "source": "stats", "confidence": "medium"}
    return MissionEstimate(**{**base, **members})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("estimate", "line", "trust"),
    [
        (MissionEstimate(mission="m", version="1"), NO_HISTORY, ""),
        (
            found(time_ms=12_345, time_std_ms=950, cost_usd=0.5, cost_std_usd=0.012, llm_calls=2.5),
            "12s ± 950ms, $0.50 ± $0.012, 2.5 model calls",
            "medium confidence: from 5 earlier runs",
        ),
        (
            found(time_ms=40, samples=1, confidence="low", llm_calls=1),
            "40ms, no cost, 1 model call",
            "low confidence: from 1 earlier run",
        ),
        (
            found(time_ms=185_000, time_std_ms=59_700, samples=0, confidence="low", cost_usd=0.00001),
            "3m05s ± 1m00s, under $0.0001, no model calls",
            "low confidence: a guess from single blocks",
        ),
        (
            found(time_ms=7_620_000, time_std_ms=2_000, samples=20, confidence="high"),
            "2h07m ± 2.0s, no cost, no model calls",
            "high confidence: from 20 earlier runs",
        ),
    ],
)
def test_an_estimate_is_told_in_plain_words(estimate: MissionEstimate, line: str, trust: str) -> None:
    assert (expected_line(estimate), confidence_line(estimate)) == (line, trust)


def test_a_block_without_history_claims_nothing() -> None:
    assert step_cells(StepEstimate(node_id="a", block_type="b")) == ("no history", "", "")
    known = StepEstimate(node_id="a", block_type="b", samples=3, time_ms=10, time_std_ms=5, cost_usd=0.2, llm_calls=1)
    assert step_cells(known) == ("10ms ± 5ms", "$0.20", "1")


def test_plan_shows_blocks_and_what_is_known_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plain(
        tmp_path / "m", "  one: {type: template, template: a}\n  two: {type: template, template: b}", "[one -> two]"
    )
    before = ["--store", str(tmp_path / "store"), "plan", path]
    assert main(before) == Exit.OK
    told = capsys.readouterr().out
    assert "two    template  one    no history" in told
    assert f"expected: {NO_HISTORY}" in told
    assert main(["--store", str(tmp_path / "store"), "run", path]) == Exit.OK
    capsys.readouterr()
    assert main([*before, "--json"]) == Exit.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "plain"
    estimate = shown["estimate"]
    assert (estimate["samples"], estimate["confidence"], estimate["source"]) == (1, "low", "stats")
    assert [step["samples"] for step in estimate["steps"]] == [1, 1]
    assert main(["--store", str(tmp_path / "store"), "runs", "--json"]) == Exit.OK
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_mission_that_does_not_load_has_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path / "store"), "plan", str(tmp_path / "none")]) == Exit.USAGE
    assert "MISSION_NOT_FOUND" in capsys.readouterr().err
