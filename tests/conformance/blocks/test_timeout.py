"""Deadlines of attempts: cancelled coroutines, abandoned threads, and what a retry may make of them (spec §8.4, §24)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from runtime.blocks.contexts import BlockingContext
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockTimeout, BlockValidationError
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted
from tests.support.blocks_kit import (
    Events,
    FakeHost,
    Recorder,
    Threaded,
    operation,
    raising,
    respond,
    scope,
    single,
    step,
    stuck,
)
from tests.support.loop_time import leap, turns


async def late(work: asyncio.Task[Any], seconds: float = 61) -> Any:
    """The result of ``work`` when nothing in it ends before ``seconds`` have passed."""
    await turns()
    leap(seconds)
    return await work


async def test_an_async_run_is_cancelled_and_awaited_at_its_deadline() -> None:
    ended: list[str] = []

    async def action(value: Any, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    block = step("s", action, effects="non_idempotent").with_timeout(60)
    response = await late(asyncio.create_task(respond(block)))
    assert (response.error_type, response.reason, response.code) == (BlockTimeout, "timeout", "runtime.timeout")
    assert response.details.to_python() == {"timeout_seconds": 60.0}
    assert (response.metadata["side_effect_class"], response.metadata["phase"]) == ("non_idempotent", "run")
    assert ended == ["cleaned up"]


async def test_a_timeout_error_of_the_author_is_not_a_deadline() -> None:
    response = await respond(step("s", raising(TimeoutError("mine"))).with_timeout(5))
    assert response.code == "runtime.internal"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True])
def test_a_timeout_must_be_positive(timeout: Any) -> None:
    with pytest.raises(BlockValidationError, match=r"validation\.bad_config"):
        step("s").with_timeout(timeout)


async def test_none_means_unbounded() -> None:
    gate = asyncio.Event()

    async def action(value: Any, ctx: Any) -> Any:
        await gate.wait()
        return ctx.deadline

    work = asyncio.create_task(respond(step("s", action).with_timeout(60).with_timeout(None)))
    await turns()
    leap(1e9)
    await turns()
    gate.set()
    assert (await work).data.is_null


async def test_a_threaded_run_is_abandoned_its_late_result_ignored_and_nothing_more_is_started() -> None:
    started, release, done = threading.Event(), threading.Event(), threading.Event()
    events, host = Events(), FakeHost([operation()])
    outcome: list[str] = []

    def action(value: Any, ctx: BlockingContext) -> str:
        started.set()
        release.wait(5)
        try:
            ctx.operate("tool_invoke", {})
        except Halted as halted:
            outcome.append(halted.code)
        outcome.append(f"cancelled {ctx.cancelled}")
        done.set()
        return "late"

    block = Threaded(action=action).with_timeout(60)
    work = asyncio.create_task(block.execute(Request(), host=host, scope=scope(observer=events)))
    while not started.is_set():
        await asyncio.sleep(0)
    response = await late(work)
    assert (response.code, response.data) == ("runtime.timeout", BlockValue.of(None))
    assert block.block_phase is BlockPhase.READY
    assert "block.abandoned" not in events.names()
    release.set()
    await asyncio.to_thread(done.wait, 5)
    async with asyncio.timeout(5):
        while "block.abandoned" not in events.names():
            await asyncio.sleep(0)
    assert outcome == ["runtime.canceled", "cancelled True"]
    assert host.operations == []
    assert events.names() == ["block.started", "block.failed", "block.abandoned"]


async def test_a_threaded_run_uses_blocking_twins() -> None:
    host = FakeHost([operation(size=3)], answer={"choice": "approved"})
    clock = ManualClock()

    def action(value: Any, ctx: BlockingContext) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        ctx.sleep(0)
        return [ctx.operate("tool_invoke", {"tool": "x"}), ctx.wait("ok?", choices=("approved",))]

    response = await Threaded(action=action).execute(Request(), host=host, scope=scope(clock))
    assert response.data.to_python() == [{"size": 3}, {"choice": "approved"}]
    assert host.operations == [("tool_invoke", {"tool": "x"})]
    assert clock.slept == [0]


async def test_what_an_abandoned_thread_had_posted_is_cancelled() -> None:
    posted, cancelled = asyncio.Event(), asyncio.Event()

    class Stuck(FakeHost):
        async def operate(self, *args: Any, **options: Any) -> Any:
            posted.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    block = Threaded(action=lambda value, ctx: ctx.operate("tool_invoke", {})).with_timeout(60)
    work = asyncio.create_task(respond(block, host=Stuck()))
    await posted.wait()
    assert (await late(work)).code == "runtime.timeout"
    assert cancelled.is_set()


async def test_what_a_thread_posts_while_it_is_being_abandoned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go, posted = threading.Event(), threading.Event(), threading.Event()
    loop, outcome = asyncio.get_running_loop(), []
    post = loop.call_soon_threadsafe

    def noted(*args: Any, **options: Any) -> asyncio.Handle:
        handle = post(*args, **options)
        posted.set()
        return handle

    def action(value: Any, ctx: BlockingContext) -> None:
        started.set()
        go.wait(5)
        try:
            ctx.operate("tool_invoke", {})
        except Halted as halted:
            outcome.append(halted.code)

    host = FakeHost([operation()])
    work = asyncio.create_task(respond(Threaded(action=action), host=host))
    while not started.is_set():
        await asyncio.sleep(0)
    monkeypatch.setattr(loop, "call_soon_threadsafe", noted)
    work.cancel()
    go.set()
    assert posted.wait(5)  # the loop stands still here, so that what was posted meets the cancellation
    with pytest.raises(asyncio.CancelledError):
        await work
    async with asyncio.timeout(5):
        while not outcome:
            await asyncio.sleep(0)
    assert (outcome, host.operations) == (["runtime.canceled"], [])


@pytest.mark.parametrize(("effects", "attempts"), [("non_idempotent", 1), (None, 1), ("idempotent", 2), ("none", 2)])
async def test_after_a_timeout_only_what_is_safe_runs_again(effects: str | None, attempts: int) -> None:
    runner = Recorder()
    block = step("s", stuck, effects=effects).with_timeout(60)
    work = asyncio.create_task(respond(single(block, retry=RetryPolicy(2)), runner=runner))
    await turns()
    leap(61)
    await turns()
    response = await late(work)
    assert [call.attempt for call in runner.calls] == list(range(1, attempts + 1))
    assert response.code == ("runtime.timeout" if attempts == 2 else "recovery.unsafe_to_retry")


async def test_a_nodes_timeout_fails_the_run_and_the_workflows_own_times_it_out() -> None:
    cleaned: list[str] = []

    async def action(value: Any, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(ctx.node_name)

    workflow, start = Workflow("w"), step("start")
    workflow.link(start, step("a", action)).link(start, step("b", action))
    handle = workflow.with_timeout(60).start()
    report = await late(asyncio.create_task(handle.result()))
    assert (report.status, report.response.code, sorted(cleaned)) == ("timed_out", "runtime.timeout", ["a", "b"])
    handle = Workflow("w").add(step("s", stuck).with_timeout(60)).start()
    report = await late(asyncio.create_task(handle.result()))
    assert (report.status, report.response.code) == ("failed", "runtime.timeout")
