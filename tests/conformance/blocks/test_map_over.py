"""`map_over`: one block over the items of a list, with the failure rules of a level (blocks spec §11.5, ruling R41)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.contracts import once
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockRuntimeError, BlockSkip, BlockValidationError, WorkflowWiringError
from runtime.blocks.map_over import MapOver, map_over
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Events, Recorder, Step, respond, scope, step


def failing_at(*bad: int, gate: asyncio.Event | None = None) -> Step:
    """Fails for the items ``bad``; item 0 waits for ``gate`` first."""

    async def action(value: BlockValue, ctx: Any) -> Any:
        if gate is not None and value.payload == 0:
            await gate.wait()
        if value.payload in bad:
            raise BlockRuntimeError("demo.broken", f"item {value.payload} broke")
        return value

    return step("work", action)


async def test_results_come_in_item_order_whatever_finished_first() -> None:
    async def action(value: BlockValue, ctx: Any) -> Any:
        for _ in range(10 - value.payload):
            await asyncio.sleep(0)
        return value.payload * 10

    response = await respond(map_over(step("work", action)), [1, 2, 3])
    assert response.data.to_python() == [10, 20, 30]


async def test_every_item_is_a_node_of_its_own_below_the_composite() -> None:
    workflow = Workflow("w").link(step("list", lambda v, c: ["a", "b"]), map_over(step("work")).named("all"))
    runner = Recorder()
    response = await workflow.execute(Request(), runner=runner, scope=scope())
    assert response.success
    assert [call.node_path for call in runner.calls] == ["list", "all", "all/0", "all/1"]
    assert [item.metadata["node_name"] for item in runner.responses if "all/" in item.metadata["node_path"]] == [
        "0",
        "1",
    ]


async def test_no_more_than_max_parallel_items_are_at_work() -> None:
    at_work, most = 0, 0

    async def action(value: BlockValue, ctx: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        return value

    response = await respond(map_over(step("work", action), max_parallel=3), list(range(20)))
    assert response.success
    assert most == 3


async def test_an_empty_list_gives_an_empty_list() -> None:
    response = await respond(map_over(step("work")), [])
    assert response.success
    assert response.data.to_python() == []


async def test_siblings_at_work_end_further_items_do_not_start_and_the_first_by_index_is_reported() -> None:
    gate = asyncio.Event()
    work = failing_at(0, 1, gate=gate)
    running = asyncio.create_task(respond(map_over(work, max_parallel=2), [0, 1, 2, 3]))
    while len(work.calls) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # item 1 has failed, item 0 is still at work
    gate.set()
    response = await running
    assert (response.code, response.message) == ("demo.broken", "item 0 broke")
    assert response.metadata["failure_path"] == ["0"]
    assert response.metadata["also_failed"] == ["1"]
    assert response.metadata["phase"] == "graph"
    assert [value.payload for value in work.calls] == [0, 1]


async def test_recovery_belongs_to_the_item() -> None:
    calls: dict[int, int] = {}

    def action(value: BlockValue, ctx: Any) -> Any:
        calls[value.payload] = ctx.attempt
        if value.payload == 1 and ctx.attempt < 3:
            raise BlockRuntimeError("demo.broken", "not yet")
        return value

    response = await respond(map_over(step("work", action).with_retry(RetryPolicy(max_attempts=3))), [0, 1, 2])
    assert response.success
    assert calls == {0: 1, 1: 3, 2: 1}


async def test_node_settings_hold_for_every_item() -> None:
    response = await respond(map_over(failing_at(1), optional=True), [0, 1, 2])
    assert response.data.to_python() == [0, None, 2]


async def test_a_skipped_item_skips_the_whole_unless_one_failed() -> None:
    def action(value: BlockValue, ctx: Any) -> Any:
        if value.payload == "skip":
            raise BlockSkip("nothing new")
        if value.payload == "fail":
            raise BlockRuntimeError("demo.broken", "broke")
        return value

    skipped = await respond(map_over(step("work", action)), ["a", "skip", "b"])
    assert skipped.skipped
    failed = await respond(map_over(step("work", action)), ["skip", "fail"])
    assert failed.code == "demo.broken"


async def test_too_many_items_are_refused_before_the_first() -> None:
    work = step("work")
    response = await respond(map_over(work, limit=3), [1, 2, 3, 4])
    assert response.code == "input.too_many_items"
    assert response.metadata["phase"] == "input"
    assert response.metadata["side_effect_class"] == "none"
    assert response.details.to_python() == {"items": 4, "limit": 3}
    assert work.calls == []


@pytest.mark.parametrize("given", [{"a": 1}, "text", None])
async def test_what_is_no_list_is_refused(given: object) -> None:
    response = await respond(map_over(step("work")), given)
    assert response.code == "validation.entry_input"
    assert (await respond(map_over(step("work", takes=once("string"))), ["a", 1])).code == "input.kind_mismatch"


async def test_a_nested_workflow_is_mapped_with_a_fresh_ledger_per_item() -> None:
    inner = Workflow("inner", seed={"sum": 0})
    inner.link(step("first", lambda v, c: v.payload + 1), step("second", lambda v, c: v.payload * 2))
    runner = Recorder()
    response = await map_over(inner, max_parallel=2).execute(Request([1, 2, 3]), runner=runner, scope=scope())
    assert response.data.to_python() == [4, 6, 8]
    assert "2/second" in [call.node_path for call in runner.calls]


async def test_a_map_inside_a_map_works() -> None:
    response = await respond(map_over(map_over(step("work", lambda v, c: v.payload + 1))), [[1, 2], [], [3]])
    assert response.data.to_python() == [[2, 3], [], [4]]


async def test_what_the_node_reads_every_item_reads() -> None:
    mapped = map_over(step("work", lambda v, c: c.state["start"].payload + v.payload))
    workflow = Workflow("w").link(step("start", lambda v, c: 100), step("list", lambda v, c: [1, 2]), mapped)
    workflow.configure(mapped, reads=["start"])
    assert (await respond(workflow)).data.to_python() == [101, 102]


async def test_a_node_inside_counts_its_visits_over_the_whole_run() -> None:
    """A composite that is tried again does not repeat the places of its nodes: operations are keyed by them."""
    broken = [True]

    def action(value: BlockValue, ctx: Any) -> Any:
        if broken.pop() if broken else False:
            raise BlockRuntimeError("demo.broken", "once")
        return value

    mapped = map_over(step("work", action)).with_retry(RetryPolicy(max_attempts=2)).named("all")
    runner = Recorder()
    workflow = Workflow("w").link(step("list", lambda v, c: ["a", "b"]), mapped)
    assert (await workflow.execute(Request(), runner=runner, scope=scope())).success
    places = [(call.node_path, call.visit, call.attempt) for call in runner.calls]
    assert len(set(places)) == len(places)
    assert ("all/0", 2, 1) in places


def test_the_effects_class_is_that_of_the_block() -> None:
    assert map_over(step("work", effects="none")).side_effects is SideEffects.NONE
    assert map_over(step("work", effects="idempotent")).side_effects is SideEffects.IDEMPOTENT
    assert map_over(step("work", effects=None)).side_effects is SideEffects.NON_IDEMPOTENT


def test_the_block_is_checked_like_any_node() -> None:
    inner = Workflow("inner").link(step("a", gives=once("string")), step("b", takes=once("map")))
    issues = Workflow("w").add(map_over(inner).named("all")).issues()
    assert [(issue.code, issue.node_path) for issue in issues] == [("validation.kind_mismatch", "all/each/b")]


def test_wrong_settings_and_rewiring_are_refused() -> None:
    with pytest.raises(BlockValidationError, match="limit"):
        map_over(step("work"), limit=0)
    with pytest.raises(WorkflowWiringError, match="one block"):
        map_over(step("work")).add(step("other"))
    issues = map_over(step("work"), max_parallel=0).issues()
    assert [issue.code for issue in issues] == ["validation.bad_config"]


async def test_cancelling_ends_every_item() -> None:
    ended: list[int] = []

    async def action(value: BlockValue, ctx: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(value.payload)

    mapped = map_over(step("work", action), max_parallel=2)
    running = asyncio.create_task(respond(mapped, [0, 1, 2]))
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(ended) == [0, 1]
    assert isinstance(mapped.clone(), MapOver)


async def test_a_thousand_items_compile_nothing_per_item(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    plan = Workflow.plan

    def counted(self: Workflow) -> Any:
        compiled.append(self)
        return plan(self)

    monkeypatch.setattr(Workflow, "plan", counted)
    inner = Workflow("inner").link(step("a"), step("b"))
    response = await respond(map_over(inner, max_parallel=4), list(range(1000)))
    assert response.data.to_python() == list(range(1000))
    assert len({id(item) for item in compiled}) <= 5  # the map, and a copy per item at work


async def test_events_and_types_say_what_it_is() -> None:
    events = Events()
    response = await map_over(step("work")).execute(Request([1]), scope=scope(observer=events))
    assert response.success
    types = [fields["block_type"] for event, fields in events.seen if event == "block.started"]
    assert types[0] == "map_over"
    assert MapOver.spec.local  # what it maps is an object, so it has no portable form
