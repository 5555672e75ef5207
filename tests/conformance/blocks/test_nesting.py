"""A workflow as a node: values in and out, failures, deadlines, skips (blocks spec §18, §24)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, BlockSkip
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Recorder, failing, respond, scope, single, step


async def test_values_go_in_and_out_and_the_ids_tell_the_nesting() -> None:
    runner = Recorder()
    inner = Workflow("inner").link(step("x", lambda v, c: v.payload + 1), step("y", lambda v, c: v.payload * 10))
    workflow = Workflow("outer").link(step("a"), inner).link(inner, step("z"))
    response = await workflow.execute(Request(BlockValue.of(1)), runner=runner, scope=scope())
    assert response.data == BlockValue.of(20)
    assert [call.node_path for call in runner.calls] == ["a", "inner", "inner/x", "inner/y", "z"]
    by_path = {call.node_path: call.request.metadata for call in runner.calls}
    assert len({item["run_id"] for item in by_path.values()}) == 1
    assert by_path["inner/x"]["parent_span_id"] == by_path["inner"]["span_id"] != by_path["a"]["span_id"]
    assert len({item["span_id"] for item in by_path.values()}) == 5


async def test_a_scope_that_serves_a_second_run_counts_its_visits_anew() -> None:
    again, runner = scope(), Recorder()
    outer = Workflow("outer").link(step("first"), Workflow("inner").add(step("a")))
    for _ in range(2):
        await outer.run_async(scope=again, runner=runner)
    assert runner.sequence()[3:] == runner.sequence()[:3]


async def test_a_nested_failure_bubbles_untouched_and_records_the_way_in() -> None:
    inner = Workflow("inner").link(step("x"), failing("y", code="http.timeout", details={"n": 1}))
    handler = step("handler")
    workflow = Workflow("outer").add(inner).on_error(inner, handler)
    response = await respond(workflow)
    assert (response.reason, response.code, response.error_type) == ("http.timeout", "http.timeout", BlockRuntimeError)
    assert response.details["n"].payload == 1
    assert response.metadata["failure_path"] == ["inner", "inner/y"]
    told = handler.calls[0].to_python()
    assert (told["domain"], told["code"]) == ("child_workflow", "child.failed")
    assert (told["cause_domain"], told["cause_code"]) == ("http", "http.timeout")


async def test_a_nested_deadline_is_told_apart() -> None:
    async def stuck(value: Any, ctx: Any) -> None:
        await asyncio.Event().wait()

    handler = step("handler")
    inner = Workflow("inner").add(step("s", stuck)).with_timeout(0.01)
    report = await Workflow("outer").add(inner).on_error(inner, handler).start().result()
    assert report.status == "failed"
    assert handler.calls[0]["code"].payload == "child.timeout"
    inner = Workflow("inner").add(step("s", stuck).with_timeout(0.01))
    await respond(Workflow("outer").on_error(inner, handler))
    assert handler.calls[1]["code"].payload == "child.failed"


async def test_a_retry_of_a_workflow_restarts_at_its_entry_with_a_fresh_ledger() -> None:
    runner = Recorder()
    states: list[bool] = []
    inner = Workflow("inner").link(step("x", lambda v, c: states.append("y" in c.state)), failing("y", 1))
    response = await single(inner, retry=RetryPolicy(2)).execute(Request(), runner=runner)
    assert response.success
    assert [call.node_path for call in runner.calls] == ["inner", "inner/x", "inner/y"] * 2
    assert [call.attempt for call in runner.calls if call.node_path == "inner"] == [1, 2]
    # Counted over the run: an attempt inside is never the same attempt twice (ruling R13).
    assert [call.visit for call in runner.calls if call.node_path == "inner/y"] == [1, 2]
    assert states == [False, False]


async def test_the_parent_selects_policies_by_the_inner_error_type() -> None:
    class Narrow(BlockInputError): ...

    def action(value: Any, ctx: Any) -> None:
        raise Narrow("input.not_object", "no")

    runner = Recorder()
    inner = Workflow("inner").add(step("s", action))
    await single(inner, recovery={Narrow: (RetryPolicy(3),)}).execute(Request(), runner=runner)
    assert max(call.attempt for call in runner.calls) == 3


async def test_a_skip_inside_skips_the_parent_node() -> None:
    def skip(value: Any, ctx: Any) -> None:
        raise BlockSkip

    never = step("never")
    response = await respond(Workflow("outer").link(Workflow("inner").add(step("s", skip)), never))
    assert response.skipped
    assert never.calls == []


async def test_a_nested_workflow_never_sees_its_parents_ledger() -> None:
    seen: list[Any] = []
    leaf = step("leaf", lambda value, ctx: seen.append(dict(ctx.state)))
    inner = Workflow("inner").add(leaf).configure(leaf, reads=["$input"])
    await respond(Workflow("outer").link(step("a", lambda v, c: "from a"), inner), "outer input")
    assert seen == [{"$input": BlockValue.of("from a")}]


@pytest.mark.parametrize("instances", [1, 2])
async def test_one_instance_in_two_nested_spots_takes_turns(instances: int) -> None:
    running = most = 0

    async def action(value: Any, ctx: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    first = step("shared", action)
    second = first if instances == 1 else step("shared", action)
    workflow, start = Workflow("w"), step("start")
    workflow.link(start, Workflow("one").add(first)).link(start, Workflow("two").add(second))
    assert (await respond(workflow)).success
    assert most == instances


@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_workflow_that_contains_itself_at_any_depth_never_runs(depth: int) -> None:
    spy = step("spy")
    outer = Workflow("outer").add(spy)
    inner = outer
    for level in range(depth):
        inner = Workflow(f"level{level}").add(inner)
    outer.link(spy, inner)
    response = await respond(outer)
    assert (response.reason, response.code) == ("invalid_graph", "graph.recursive_workflow")
    assert spy.calls == []
