"""Records of attempts, where they are kept, and what they say a block will take (blocks spec §19.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.attempts import AttemptRecord, AttemptStore, FileAttempts, MemoryAttempts
from runtime.blocks.conditions import otherwise, when
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.estimates import NOTHING, PRIOR_MS, Confidence, EstimateSource, Measure
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SequenceIds
from tests.support.blocks_kit import failing, single, step


def record(name: str = "a", ms: float = 10.0, **changes: Any) -> AttemptRecord:
    base = AttemptRecord(run_id="r", block_name=name, block_type="Step", version="1", success=True, duration_ms=ms)
    return replace(base, **changes)


class Kept(MemoryAttempts):
    """Records whatever their type and version: test blocks have types of their own making."""

    def samples(self, block_name: str, block_type: str, version: str) -> Sequence[AttemptRecord]:
        return [item for item in self.records if item.block_name == block_name]


class Broken:
    def add(self, record: AttemptRecord) -> None:
        raise OSError("no room")

    def samples(self, block_name: str, block_type: str, version: str) -> Sequence[AttemptRecord]:
        raise OSError("gone")


def scope_with(store: AttemptStore, clock: ManualClock | None = None) -> Scope:
    return Scope(services=Services(clock=clock or ManualClock(), ids=SequenceIds()), attempts=store)


# -- records ---------------------------------------------------------------------------------------------------------


async def test_every_attempt_of_a_leaf_leaves_one_record() -> None:
    clock, store = ManualClock(), MemoryAttempts()

    def work(value: Any, ctx: Any) -> str:
        clock.advance(0.25)
        for key, told in {
            "ai.model": "m",
            "ai.tokens_in": 3,
            "ai.tokens_out": 5,
            "ai.calls": 2,
            "ai.cost_usd": 0.5,
        }.items():
            ctx.annotate(key, told)
        return "done"

    again = failing("again", times=1).with_retry(RetryPolicy(max_attempts=2, retry_on=("demo.broken",)))
    workflow = Workflow("outer").link(step("asks", work), again)
    await workflow.run_async(scope=scope_with(store, clock))
    asks, first, second = store.records
    assert (asks.block_name, asks.node_path, asks.success, asks.duration_ms) == ("asks", "asks", True, 250.0)
    assert (asks.model, asks.tokens_in, asks.tokens_out, asks.llm_calls, asks.cost_usd) == ("m", 3, 5, 2, 0.5)
    assert [(item.attempt, item.success, item.error_type) for item in (first, second)] == [
        (1, False, "BlockRuntimeError"),
        (2, True, None),
    ]
    assert first.reason is not None
    assert len({item.run_id for item in store.records}) == 1
    assert len({item.span_id for item in store.records}) == 3
    assert {(item.llm_calls, item.cost_usd, item.block_executions) for item in (first, second)} == {(0, None, 1)}


async def test_a_store_that_fails_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "runtime.blocks"):
        response = await step("a").execute(Request(), scope=scope_with(Broken()))
    assert response.success
    assert "an attempt of a was not recorded: OSError" in caplog.text
    assert "no room" not in caplog.text


async def test_what_a_block_annotates_cannot_spoil_a_record() -> None:
    store = MemoryAttempts()

    def lies(value: Any, ctx: Any) -> None:
        for key, told in {"ai.calls": "many", "ai.tokens_in": -1, "ai.cost_usd": True, "ai.model": [1]}.items():
            ctx.annotate(key, told)

    await step("a", lies).execute(Request(), scope=scope_with(store))
    (found,) = store.records
    assert (found.llm_calls, found.tokens_in, found.cost_usd, found.model) == (0, None, None, None)


def test_memory_keeps_the_newest_and_finds_by_name_type_and_version() -> None:
    store = MemoryAttempts(limit=3)
    for number in range(4):
        store.add(record(ms=number))
    store.add(record(version="2"))
    assert [item.duration_ms for item in store.samples("a", "Step", "1")] == [2, 3]
    assert len(store.samples("a", "Step", "2")) == 1
    assert not store.samples("a", "Other", "1")


# -- the file --------------------------------------------------------------------------------------------------------


def written(path: Path, *records: AttemptRecord, **limits: int) -> FileAttempts:
    store = FileAttempts(path, **limits)
    for item in records:
        store.add(item)
    store.close()
    return store


def test_a_file_is_the_owners_alone_and_read_back_whole(tmp_path: Path) -> None:
    full = record(reason="r", error_type="E", cost_usd=0.25, model="m", tokens_in=1, tokens_out=2, llm_calls=3)
    written(tmp_path / "log", full, record("b"))
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    again = FileAttempts(tmp_path / "log")
    again.close()
    assert list(again.samples("a", "Step", "1")) == [full]


def test_lines_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path, record("a"))
    good = path.read_bytes()
    odd = [b"{", b"[]", b"null", b"\xff", b'{"run_id": 1}', good.strip().replace(b'"a"', b"7"), b"[" * 5000]
    path.write_bytes(b"\n".join(odd) + b"\n" + good + good[:20])
    store = written(path, record("b"))
    assert store.unreadable == len(odd) + 1
    assert [len(FileAttempts(path).samples(name, "Step", "1")) for name in ("a", "b")] == [1, 1]


@pytest.mark.parametrize("limits", [{"max_records": 10}, {"max_bytes": 4000}])
def test_a_file_never_outgrows_its_bounds_and_keeps_the_newest(tmp_path: Path, limits: dict[str, int]) -> None:
    path = tmp_path / "log"
    written(path, *(record(ms=number) for number in range(50)), **limits)
    kept = [item.duration_ms for item in FileAttempts(path).samples("a", "Step", "1")]
    assert len(kept) <= 10 or path.stat().st_size <= 4000
    assert kept == [float(number) for number in range(50 - len(kept), 50)]
    assert len(kept) > 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_refuses_loses_records_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = written(tmp_path / "gone" / "log", record("a"), record("a"))
    assert store.lost == 2
    assert len(store.samples("a", "Step", "1")) == 2
    assert "cannot be written" in caplog.text


# -- estimates -------------------------------------------------------------------------------------------------------


def test_without_samples_there_is_the_prior() -> None:
    found = step("a").estimate_execution()
    assert (found.estimate_source, found.confidence, found.sample_size) == (EstimateSource.PRIOR, Confidence.LOW, 0)
    assert (found.time_ms, found.cost_usd, found.expected_llm_calls) == (Measure(10.0, 5.0), NOTHING, 0.0)
    assert found.notes == ("no history",)


@pytest.mark.parametrize(
    ("count", "confidence"),
    [(1, Confidence.LOW), (4, Confidence.LOW), (5, Confidence.MEDIUM), (19, Confidence.MEDIUM), (20, Confidence.HIGH)],
)
def test_confidence_grows_with_the_samples(count: int, confidence: Confidence) -> None:
    found = step("a").estimate_execution(attempts=Kept([record()] * count))
    assert (found.confidence, found.sample_size, found.estimate_source) == (confidence, count, EstimateSource.STATS)


def test_mean_and_deviation_are_of_the_successes() -> None:
    samples = [
        record(ms=10, cost_usd=0.1, llm_calls=1), record(ms=30, cost_usd=0.3, llm_calls=2), record(ms=20),
        record(ms=9000, success=False),
    ]  # fmt: skip
    found = step("a").estimate_execution(Request(), attempts=Kept(samples))
    assert found.time_ms.mean == 20
    assert found.time_ms.std == pytest.approx(math.sqrt(200 / 3))
    assert (found.cost_usd.mean, found.cost_usd.std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.expected_llm_calls == 1
    assert found.notes == ("1 of 4 attempts failed",)


def test_a_measure_no_sample_has_falls_back_and_says_so() -> None:
    found = step("a").estimate_execution(attempts=Kept([record(ms=7)]))
    assert (found.time_ms, found.cost_usd) == (Measure(7.0, 0.0), NOTHING)
    assert found.notes == ("no sample says what it costs",)
    failed = step("a").estimate_execution(attempts=Kept([record(success=False)]))
    assert (failed.time_ms, failed.estimate_source) == (PRIOR_MS, EstimateSource.PRIOR)


def test_a_workflow_takes_its_slowest_way_and_all_its_costs() -> None:
    wide = Workflow("wide")
    first, slow, quick, last = (step(name) for name in ("first", "slow", "quick", "last"))
    wide.link(first, slow).link(first, quick).link(slow, last).link(quick, last)
    wide.add(step("rescue")).on_error(slow, "rescue")
    samples = [record("first", 10), record("slow", 100), record("slow", 140), record("quick", 5), record("last", 1)]
    found = wide.estimate_execution(attempts=Kept([replace(item, cost_usd=0.5, llm_calls=1) for item in samples]))
    assert found.time_ms == Measure(131.0, 20.0)
    assert (found.cost_usd.mean, found.expected_llm_calls, found.expected_block_executions) == (2.0, 4.0, 4.0)
    assert [item.block_name for item in found.components] == ["first", "slow", "quick", "last"]
    assert (found.estimate_source, found.sample_size, found.confidence) == (EstimateSource.STATS, 1, Confidence.LOW)


def test_parts_without_history_make_the_whole_a_guess() -> None:
    pair = Workflow("pair").link(step("a"), step("b"))
    found = pair.estimate_execution(attempts=Kept([record("a", 30)] * 20))
    assert (found.estimate_source, found.confidence) == (EstimateSource.HEURISTIC, Confidence.LOW)
    assert found.time_ms == Measure(40.0, 5.0)
    assert found.notes == ("assumed, not measured: b",)
    assert pair.estimate_execution().estimate_source is EstimateSource.PRIOR


def test_branches_are_counted_one_after_the_other_and_nesting_goes_down() -> None:
    routed = Workflow("routed")
    start, left = step("start"), single(step("left"))
    routed.branch(start, when(lambda response, state: True, left), otherwise(step("right")))
    found = routed.estimate_execution(attempts=Kept([record(name, 10) for name in ("start", "left", "right")]))
    assert found.time_ms.mean == 30
    assert "all branches" in found.notes[0]
    assert found.components[1].components[0].block_name == "left"


def test_an_estimate_runs_nothing_and_is_never_refused() -> None:
    def boom(value: Any, ctx: Any) -> None:
        raise BlockRuntimeError("demo.ran", "it ran")

    block = step("a", boom)
    broken = block.estimate_execution(attempts=Broken())
    assert (broken.estimate_source, broken.time_ms) == (EstimateSource.UNKNOWN, PRIOR_MS)
    assert block.calls == []
    empty = Workflow("empty").estimate_execution()
    assert empty.estimate_source is EstimateSource.UNKNOWN
    assert "graph." in empty.notes[0]
    inside = Workflow("inside")
    inside.link(step("x"), inside)
    assert inside.estimate_execution().estimate_source is EstimateSource.UNKNOWN
