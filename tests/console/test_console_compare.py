"""Divergences find their step, the first one is where the comparison opens, and nothing is claimed equal that is not."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_deck import RUN, run_summary

from console.model import compare
from console.model.compare import Line
from console.model.rows import Row
from runtime.events.facts import Comparison, Divergence, StepPair

OTHER = "77aa0000-0000-4000-8000-000000000002"


def pair(step: str, **changes: Any) -> StepPair:
    members: dict[str, Any] = {
        "step_id": step,
        "block_type": "run_tests",
        "base_status": "completed",
        "other_status": "completed",
        "base_output": "sha256:3f0c",
        "other_output": "sha256:3f0c",
        "base_ms": 110,
        "other_ms": 120,
    }
    return StepPair(**{**members, **changes})


def divergence(step: str | None, **changes: Any) -> Divergence:
    members: dict[str, Any] = {
        "kind": "OUTCOME_DIVERGENCE",
        "scope": f"step:{step}",
        "field": "output",
        "detail": "rows differ",
        "step_id": step,
        "expected": "sha256:88d2aaaaaa",
        "actual": "sha256:91aaaaaaaa",
    }
    return Divergence(**{**members, **changes})


def comparison(*steps: StepPair, found: tuple[Divergence, ...] = (), **changes: Any) -> Comparison:
    first = found[0] if found else None
    members = {"equivalent": not found, "divergences": found, "first": first, "steps": steps}
    return Comparison(base=RUN, other=OTHER, **{**members, **changes})


def text(row: Row) -> str:
    return "".join(part for part, _ in row)


def shown(compared: Comparison, width: int) -> list[str]:
    return [text(compare.line_row(line, width)).rstrip() for line in compare.lines(compared)]


def test_divergences_go_to_the_attempt_they_belong_to() -> None:
    late = divergence("parse", base_seq=9)
    early = divergence("parse", base_seq=5, kind="TIMING_DIVERGENCE")
    plan = divergence(None, kind="PLAN_DIVERGENCE", scope="turn:t", field="contract_hash")
    unlisted = divergence("gone", base_seq=7)
    found = compare.lines(
        comparison(
            pair("parse", base_seq=3, attempt=1),
            pair("parse", base_seq=8, attempt=2, kind="OUTCOME_DIVERGENCE"),
            found=(late, early, plan, unlisted),
        )
    )
    assert [line.divergences for line in found] == [(plan,), (unlisted,), (early,), (late,)]
    assert [line.first for line in found] == [False, False, False, True]
    assert compare.opening(found) == 3
    assert [line.base_seq for line in found] == [None, 7, 5, 9]


def test_a_divergence_without_entries_goes_to_the_attempt_that_is_marked() -> None:
    steps = (pair("parse"), pair("parse", attempt=2, kind="OUTCOME_DIVERGENCE"))
    assert [bool(line.divergences) for line in compare.lines(comparison(*steps, found=(divergence("parse"),)))] == [
        False,
        True,
    ]


def test_only_differences_and_jumps() -> None:
    found = compare.lines(
        comparison(
            pair("a"), pair("b", kind="TIMING_DIVERGENCE"), pair("c"), pair("d"), found=(divergence("d", base_seq=1),)
        )
    )
    assert [line.pair.step_id for line in compare.differences(found) if line.pair] == ["b", "d"]
    assert compare.next_difference(found, 0, 1) == 1
    assert compare.next_difference(found, 1, 1) == 3
    assert compare.next_difference(found, 3, 1) is None
    assert compare.next_difference(found, 3, -1) == 1
    assert compare.opening(compare.lines(comparison(pair("a")))) == 0


@pytest.mark.parametrize("width", [76, 116, 176])
def test_rows_fit_their_width_and_name_the_class(width: int) -> None:
    long = "a/very/long/step/name/that/does/not/fit/in/its/column"
    compared = comparison(
        pair(long, attempt=2, base_code="op.a_rather_long_code_of_a_failure", base_status="failed"),
        pair("late", other_status=None, other_output=None, other_ms=None, other_seq=None),
        pair("again", reused_from=RUN),
        found=(divergence(long, base_seq=1, kind="PROVIDER_CHOICE_DIVERGENCE"), divergence(None, scope="trace")),
    )
    rows = shown(compared, width)
    assert all(len(row) <= width for row in rows)
    assert rows[0].endswith("OUTCOME")
    assert rows[1].startswith("▸ ")
    assert rows[1].endswith("PROVIDER CHOICE")
    assert rows[2].endswith("≠")
    assert "–" in rows[2]
    assert rows[3].count("↺") == 1
    assert rows[3].endswith("=")


def test_the_cause_names_field_values_entries_and_what_comes_after() -> None:
    first = divergence("parse", base_seq=417, other_seq=421, diff_ms=35)
    compared = comparison(pair("parse"), pair("rank"), found=(first,), downstream=("rank", "write"))
    told = "\n".join(text(row) for row in compare.cause_rows(compare.lines(compared)[0], compared))
    for part in ("OUTCOME", "output", "#0417 → #0421", "35 ms", "88d2aaaa… → 91aaaaaa…", "rows differ", "rank, write"):
        assert part in told
    assert "first divergence: parse · OUTCOME · entry 417 · 2 steps after it" in text(compare.verdict_row(compared))


def test_equal_is_only_said_of_what_is_equal() -> None:
    def said(line: Line) -> str:
        return text(compare.cause_rows(line, comparison())[0])

    assert said(Line(pair("a"))).startswith("equal")
    assert said(Line(pair("a", other_output="sha256:1"))).startswith("≠")
    assert "beyond those listed" in said(Line(pair("a", kind="OUTCOME_DIVERGENCE")))
    assert "equivalent · 1 step" in text(compare.verdict_row(comparison(pair("a"))))
    drifted = comparison(pair("a"), drift="version_drift", truncated=3)
    assert "version drift · 3 more not listed" in text(compare.verdict_row(drifted))
    assert text(compare.verdict_row(comparison(equivalent=False))) == "✗ not equivalent"


def test_the_base_carries_its_mark_in_lists() -> None:
    from console.model.home import run_row

    row = run_row(run_summary(), 80)
    assert text(compare.marked(row, base=True)).startswith("8b3f0000⇄ fix-the-build")
    assert compare.marked(row, base=False) == row
    assert len(text(compare.marked(row, base=True))) == len(text(row))
