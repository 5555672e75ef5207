"""Failure observers and nested workflows (blocks spec §17, §18)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, BlockSkip
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Events, Recorder, failing, respond, scope, single, step


async def test_the_envelope_is_complete_and_the_same_for_every_handler() -> None:
    errors: list[Any] = []
    one, other = step("one", lambda value, ctx: errors.append(ctx.error)), step("other")
    broken = failing("broken", code="http.server_error.500", provider_status="500", details={"n": 1, "token": "x"})
    workflow = Workflow("w").on_error(broken, one).on_error(broken, other).on_error(broken, one)
    await workflow.execute(Request(), scope=scope())
    assert one.calls == other.calls
    assert len(one.calls) == 1
    assert errors[0]["code"] == BlockValue.of("http.server_error.500")
    assert one.calls[0].to_python() == {
        "origin": "block",
        "domain": "http",
        "code": "http.server_error.500",
        "message": "broken broke",
        "retry_disposition": "never",
        "severity": "error",
        "workflow_id": "w",
        "run_id": "00000000-0000-4000-8000-000000000002",
        "block_id": "broken",
        "attempt": 1,
        "provider_status": "500",
        "ts": 1767225600000,
        "reason": "http.server_error.500",
        "details": {"n": 1, "token": "<redacted>"},
    }


async def test_handlers_run_once_after_recovery_with_their_own_recovery() -> None:
    runner = Recorder()
    handler = failing("handler", 1)
    workflow = Workflow("w").on_error(failing("f"), handler).configure("f", retry=RetryPolicy(3))
    workflow.configure("handler", retry=RetryPolicy(2))
    report = await workflow.start(runner=runner).result()
    assert runner.sequence() == [("f", 1, 1), ("f", 1, 2), ("f", 1, 3), ("handler", 1, 1), ("handler", 1, 2)]
    assert [call.kind for call in runner.calls] == ["node"] * 3 + ["handler"] * 2
    assert handler.calls[0]["attempt"] == BlockValue.of(3)
    assert report.status == "failed"
    assert report.ledger is not None
    assert report.ledger["handler"] == BlockValue.of(2)


async def test_handlers_overlap_and_a_failing_one_changes_nothing() -> None:
    both = asyncio.Barrier(2)
    events = Events()

    async def meet(value: Any, ctx: Any) -> None:
        await both.wait()

    async def meet_and_fail(value: Any, ctx: Any) -> None:
        await both.wait()
        raise BlockInputError("input.not_object", "handler")

    further = step("further")
    workflow = Workflow("w").on_error(failing("f"), step("a", meet)).on_error("f", step("b", meet_and_fail))
    workflow.on_error("b", further)
    async with asyncio.timeout(2):
        response = await workflow.execute(Request(), scope=scope(observer=events))
    assert response.code == "demo.broken"
    assert further.calls == []
    assert sorted(events.names("on_error.handler_")) == sorted(
        ["on_error.handler_started"] * 2 + ["on_error.handler_succeeded", "on_error.handler_failed"]
    )


async def test_a_skip_reaches_handlers_as_information() -> None:
    def skip(value: Any, ctx: Any) -> None:
        raise BlockSkip("nothing new")

    handler = step("handler")
    response = await respond(Workflow("w").on_error(step("s", skip), handler))
    assert response.skipped
    assert (handler.calls[0]["severity"].payload, handler.calls[0]["code"].payload) == ("info", "skip.no_new_items")


async def test_a_shared_handler_is_used_once_per_failure_one_after_the_other() -> None:
    handler = step("handler", lambda value, ctx: value["block_id"])
    workflow, start = Workflow("w"), step("start")
    workflow.link(start, failing("a")).link(start, failing("b")).on_error("a", handler).on_error("b", handler)
    report = await workflow.start().result()
    assert [call["block_id"].payload for call in handler.calls] == ["a", "b"]
    assert report.nodes["handler"].visits == 2


async def test_links_leaving_a_handler_are_not_followed_for_it() -> None:
    after = step("after")
    handler = step("handler")
    workflow = Workflow("w").link(step("start"), handler).link(handler, after).on_error("start", step("other"))
    workflow.link("start", failing("f")).on_error("f", handler)
    await respond(workflow)
    assert len(handler.calls) == 2
    assert after.calls == []


async def test_plan_failures_and_cancellation_reach_no_handler() -> None:
    handler = step("handler")
    workflow = Workflow("w").link(step("a"), "gone").on_error("a", handler)
    await respond(workflow)
    assert handler.calls == []


async def test_a_workflow_may_be_a_handler() -> None:
    logged = step("logged", lambda value, ctx: value["code"])
    inner = Workflow("logger").add(logged)
    await respond(Workflow("w").on_error(failing("f"), inner))
    assert logged.calls[0]["code"].payload == "demo.broken"


# -- nesting --------------------------------------------------------------------------------------------------------


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
