"""Failure observers and nested workflows (blocks spec §17, §18)."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError, BlockSkip
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Events, Recorder, failing, respond, scope, step


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
