"""States of a block and of a run, and waiting for the operator (blocks spec §8.1, §8.2, §8.5–§8.7, §24)."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, WaitRefused, WorkflowRunFailed
from runtime.blocks.report import RunHandle
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted
from tests.support.blocks_kit import Events, FakeHost, Threaded, failing, raising, respond, scope, step, stuck
from tests.support.loop_time import leap, turns

CHOICES = ("yes", "no")


async def until_waiting(handle: RunHandle, count: int = 1) -> None:
    for _ in range(1000):
        if len(handle.waits) == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{len(handle.waits)} questions are open, not {count}")


async def asks(value: Any, ctx: BlockContext) -> BlockValue:
    return await ctx.wait("go on?", kinds=("string",), choices=CHOICES)


# -- the three states of a block ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["success", "failure", "timeout", "cancel", "halt"])
async def test_busy_inside_run_and_ready_after_every_end(end: str) -> None:
    seen: list[BlockPhase] = []

    async def action(value: Any, ctx: Any) -> None:
        seen.append(block.block_phase)
        if end == "failure":
            raise BlockInputError("input.not_object", "no")
        if end == "halt":
            raise Halted("KILL_SWITCH")
        if end != "success":
            await asyncio.Event().wait()

    block: Block = step("s", action)
    block = block.with_timeout(60) if end == "timeout" else block
    task = asyncio.create_task(respond(block))
    await turns()
    if end == "timeout":
        leap(61)
    if end == "cancel":
        task.cancel()
    await asyncio.wait([task])
    assert seen == [BlockPhase.BUSY]
    assert block.block_phase is BlockPhase.READY
    if end == "cancel":
        assert task.cancelled()
    elif end == "halt":
        assert isinstance(task.exception(), Halted)
    else:
        codes = {"success": None, "failure": "input.not_object", "timeout": "runtime.timeout"}
        assert task.result().code == codes[end]


async def test_a_second_concurrent_call_is_busy_and_the_first_is_unaffected() -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def action(value: Any, ctx: Any) -> str:
        started.set()
        await gate.wait()
        return "done"

    block, events = step("s", action), Events()
    first = asyncio.create_task(respond(block))
    await started.wait()
    second = await respond(block, scope=scope(observer=events))
    assert (second.reason, second.code, second.metadata["phase"]) == ("block_busy", "runtime.block_busy", "guard")
    assert second.error is not None
    assert second.error.retry_disposition == "never"
    assert block.block_phase is BlockPhase.BUSY
    assert events.names() == []
    gate.set()
    assert (await first).data == BlockValue.of("done")


async def test_cancellation_is_not_converted_and_is_told() -> None:
    block, events = step("s", stuck), Events()
    task = asyncio.create_task(block.execute(Request(), scope=scope(observer=events)))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events.names() == ["block.started", "block.canceled"]


async def test_halts_pass_through_threads_too() -> None:
    block = Threaded(action=raising(Halted("KILL_SWITCH")))
    with pytest.raises(Halted):
        await respond(block)
    assert block.block_phase is BlockPhase.READY


# -- waiting --------------------------------------------------------------------------------------------------------


async def test_a_wait_shows_on_the_handle_refuses_wrong_answers_and_goes_on_with_the_right_one() -> None:
    block = step("ask", asks)
    handle = Workflow("w").add(block).start(scope=scope())
    assert handle.status == "created"
    await until_waiting(handle)
    (ticket,) = handle.waits
    assert (ticket.node_path, ticket.prompt, ticket.kinds, ticket.choices) == ("ask", "go on?", ("string",), CHOICES)
    assert ticket.since == "2026-01-01T00:00:00.000000Z"
    assert ticket.wait_id == f"{handle.run_id}/ask.ask0"
    assert (handle.status, block.block_phase) == ("waiting", BlockPhase.WAITING)
    for answer, code in (
        (5, "wait.kind_mismatch"),
        ("perhaps", "wait.bad_choice"),
        ({"choice": "yes"}, "wait.kind_mismatch"),
    ):
        with pytest.raises(WaitRefused) as refused:
            handle.answer(ticket.wait_id, answer)
        assert refused.value.code == code
    with pytest.raises(BlockInputError, match=r"value\.unsupported_type"):
        handle.answer(ticket.wait_id, object())
    with pytest.raises(WaitRefused, match=r"wait\.unknown"):
        handle.answer("another", "yes")
    await turns()
    assert (handle.status, block.block_phase, handle.waits) == ("waiting", BlockPhase.WAITING, (ticket,))
    handle.answer(ticket.wait_id, "yes")
    assert handle.waits == ()
    with pytest.raises(WaitRefused, match=r"wait\.unknown"):
        handle.answer(ticket.wait_id, "no")
    report = await handle.result()
    assert (report.status, report.value) == ("succeeded", BlockValue.of("yes"))
    assert block.block_phase is BlockPhase.READY


@pytest.mark.parametrize(
    ("kinds", "choices", "fits", "refused"),
    [
        ((), (), [None, 1, {"a": 1}], []),
        (("number",), (), [1, 1.5], [True, "1"]),
        ((), ("1", "yes"), [1, "yes", {"choice": "yes"}], [2, {"choice": "no"}, {"other": "yes"}, b"\xff"]),
        (("map",), CHOICES, [{"choice": "no"}], ["no"]),
    ],
)
async def test_kinds_and_choices_decide_what_fits(
    kinds: tuple[str, ...], choices: tuple[str, ...], fits: list[Any], refused: list[Any]
) -> None:
    workflow = Workflow("w").add(step("a", lambda value, ctx: ctx.wait("?", kinds=kinds, choices=choices)))
    for right in fits:
        handle = workflow.start()
        await until_waiting(handle)
        for wrong in refused:
            with pytest.raises(WaitRefused):
                handle.answer(handle.waits[0].wait_id, wrong)
        handle.answer(handle.waits[0].wait_id, right)
        assert (await handle.result()).value == BlockValue.of(right)


async def test_a_kind_that_does_not_exist_is_bad_configuration() -> None:
    handle = Workflow("w").add(step("a", lambda value, ctx: ctx.wait("?", kinds=("text",)))).start()
    assert (await handle.result()).response.code == "validation.bad_config"


async def test_the_deadline_stands_still_while_waiting() -> None:
    deadlines: list[float | None] = []

    async def action(value: Any, ctx: BlockContext) -> Any:
        deadlines.append(ctx.deadline)
        contexts.append(ctx)
        reply = await ctx.wait("?")
        deadlines.append(ctx.deadline)
        return reply

    contexts: list[BlockContext] = []
    handle = Workflow("w").add(step("a", action).with_timeout(60)).start()
    await until_waiting(handle)
    assert contexts[0].deadline is None
    leap(10_000)
    await turns()
    assert handle.status == "waiting"
    handle.answer(handle.waits[0].wait_id, "late")
    assert (await handle.result()).value == BlockValue.of("late")
    before, after = deadlines
    assert before is not None
    assert after is not None
    assert 10_000 <= after - before < 10_060


async def test_overlapping_waits_of_one_node_take_turns_and_keep_the_deadline_still() -> None:
    contexts: list[BlockContext] = []

    async def action(value: Any, ctx: BlockContext) -> list[BlockValue]:
        contexts.append(ctx)
        return list(await asyncio.gather(ctx.wait("first"), ctx.wait("second")))

    handle = Workflow("w").add(step("a", action).with_timeout(60)).start()
    for prompt in ("first", "second"):
        await until_waiting(handle)
        await turns()
        (ticket,) = handle.waits
        assert ticket.prompt == prompt
        assert contexts[0].deadline is None
        handle.answer(ticket.wait_id, prompt)
    assert (await handle.result()).value.to_python() == ["first", "second"]


async def test_approvals_that_overlap_pause_until_the_last_is_given() -> None:
    class Asking(FakeHost):
        """Operations that ask first, several at once."""

        async def operate(self, *args: Any, **options: Any) -> Any:
            with options["waiting"]("may I?"):
                phases.append((block.block_phase, contexts[0].deadline))
                await gates[options["key"]].wait()
            raise BlockRuntimeError("demo.asked", options["key"])

    async def action(value: Any, ctx: BlockContext) -> None:
        contexts.append(ctx)
        before = ctx.deadline
        calls = [asyncio.create_task(ctx.operate("tool_invoke", {}, key=key)) for key in gates]
        await turns()
        gates["a"].set()
        await asyncio.wait(calls[:1])
        phases.append((block.block_phase, ctx.deadline))
        gates["b"].set()
        await asyncio.wait(calls)
        phases.append((block.block_phase, None))
        assert before is not None
        assert ctx.deadline is not None
        assert ctx.deadline - before < 1, "what was left when the first began"
        assert all(call.exception() for call in calls)

    contexts: list[BlockContext] = []
    phases: list[tuple[BlockPhase, float | None]] = []
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}
    block = step("s", action).with_timeout(60)
    assert (await respond(block, host=Asking())).success
    assert phases == [(BlockPhase.WAITING, None)] * 3 + [(BlockPhase.BUSY, None)]


async def test_a_threaded_run_waits_through_its_blocking_twin() -> None:
    def action(value: Any, ctx: BlockingContext) -> Any:
        return ctx.wait("go on?", choices=CHOICES)

    handle = Workflow("w").add(Threaded(action=action).named("t")).start()
    async with asyncio.timeout(5):
        while not handle.waits:
            await asyncio.sleep(0)
    assert handle.status == "waiting"
    handle.answer(handle.waits[0].wait_id, "no")
    assert (await handle.result()).value == BlockValue.of("no")


async def test_two_nodes_wait_at_the_same_time_oldest_first_and_nested_ones_say_where() -> None:
    inner = Workflow("inner").add(step("deep", asks))
    workflow, start = Workflow("w"), step("start")
    workflow.link(start, step("flat", asks), step("end")).link(start, inner).link(inner, "end")
    handle = workflow.start()
    await until_waiting(handle, 2)
    assert [ticket.node_path for ticket in handle.waits] == ["flat", "inner/deep"]
    handle.answer(handle.waits[1].wait_id, "no")
    await turns()
    assert handle.status == "waiting"
    handle.answer(handle.waits[0].wait_id, "yes")
    assert (await handle.result()).value.to_python() == ["yes", "no"]
    assert handle.status == "succeeded"


async def test_nobody_can_answer_without_a_handle() -> None:
    block = step("ask", asks)
    assert (await respond(block)).code == "runtime.no_operator"
    workflow = Workflow("w").add(block)
    assert (await respond(workflow)).code == "runtime.no_operator"
    with pytest.raises(WorkflowRunFailed, match=r"runtime\.no_operator"):
        await workflow.run_async()
    unattended = RunHandle(workflow, Request(), None, None, scope(), attended=False)
    with pytest.raises(WaitRefused, match=r"wait\.unknown"):
        unattended.answer("any", "yes")
    assert (await unattended.result()).response.code == "runtime.no_operator"


async def test_a_host_answers_before_the_handle() -> None:
    handle = Workflow("w").add(step("ask", asks)).start(host=FakeHost(answer="yes"))
    assert (await handle.result()).value == BlockValue.of("yes")


async def test_a_host_that_thinks_shows_as_waiting() -> None:
    class Slow(FakeHost):
        async def wait(self, *args: Any, **options: Any) -> BlockValue:
            await gate.wait()
            return BlockValue.of("yes")

    gate = asyncio.Event()
    handle = Workflow("w").add(step("ask", asks)).start(host=Slow())
    await turns()
    assert (handle.status, handle.waits) == ("waiting", ())
    gate.set()
    await handle.result()


async def test_a_cancelled_wait_leaves_the_block_ready_and_takes_the_question_back() -> None:
    block = step("ask", asks)
    handle = Workflow("w").add(block).start()
    await until_waiting(handle)
    (ticket,) = handle.waits
    handle.cancel()
    assert (await handle.result()).status == "canceled"
    assert (block.block_phase, handle.waits) == (BlockPhase.READY, ())
    with pytest.raises(WaitRefused):
        handle.answer(ticket.wait_id, "yes")


async def test_a_block_may_give_up_waiting_and_goes_on_busy() -> None:
    async def action(value: Any, ctx: BlockContext) -> str:
        asking = asyncio.create_task(ctx.wait("?"))
        await turns()
        asking.cancel()
        await asyncio.wait([asking])
        return block.block_phase.value

    block = step("s", action)
    assert (await Workflow("w").add(block).start().result()).value == BlockValue.of("busy")


async def test_a_question_that_comes_after_the_attempt_is_refused() -> None:
    contexts: list[BlockContext] = []
    handle = Workflow("w").add(step("s", lambda value, ctx: contexts.append(ctx))).start()
    await handle.result()
    with pytest.raises(Halted):
        await contexts[0].wait("too late?")
    assert handle.waits == ()


async def test_refusals_of_a_human_end_the_run() -> None:
    host = FakeHost(answer=BlockRuntimeError("approval.refused", "no"))
    response = await respond(step("s", lambda value, ctx: ctx.wait("ok?")), host=host)
    assert response.code == "approval.refused"
    assert response.ends_run


# -- statuses of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (lambda value, ctx: value, "succeeded"),
        (raising(BlockRuntimeError("demo.broken", "no")), "failed"),
        (stuck, "timed_out"),
    ],
)
async def test_a_terminal_status_never_changes(action: Any, status: str) -> None:
    async def watched(value: Any, ctx: Any) -> Any:
        seen.append(handle.status)
        result = action(value, ctx)
        return await result if inspect.isawaitable(result) else result

    handle = Workflow("w").add(step("s", watched)).with_timeout(60).start()
    seen = [handle.status]
    await turns()
    leap(61)
    assert (await handle.result()).status == status
    handle.cancel()
    handle.stop()
    await turns()
    assert [*seen, handle.status] == ["created", "running", status]
    assert (await handle.result()).status == status


async def test_a_run_cancelled_before_it_began_is_canceled() -> None:
    block = step("s")
    handle = Workflow("w").add(block).start()
    handle.cancel()
    report = await handle.result()
    assert (report.status, report.response.reason, report.response.code) == ("canceled", "canceled", "runtime.canceled")
    assert (block.calls, handle.status, dict(report.nodes)) == ([], "canceled", {})


async def test_cancel_reaches_no_recovery_and_no_handler_and_says_how_long_it_took() -> None:
    clock, handler = ManualClock(), step("handler")
    workflow = Workflow("w").on_error(step("s", stuck), handler).configure("s", optional=True)
    handle = workflow.start(scope=scope(clock))
    await turns()
    clock.advance(1.5)
    handle.cancel()
    report = await handle.result()
    assert (report.status, handler.calls) == ("canceled", [])
    assert report.response.metadata["duration_ms"] == 1500.0


async def test_cancelling_whoever_awaits_the_result_cancels_the_run() -> None:
    block = step("s", stuck)
    handle = Workflow("w").add(block).start()
    waiter = asyncio.create_task(handle.result())
    await turns()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await turns()
    assert handle.status == "canceled"


async def test_stop_is_asked_of_the_scope_and_lets_a_plain_run_end() -> None:
    run = scope()
    handle = Workflow("w").add(failing("f", 0)).start(scope=run)
    handle.stop()
    assert run.stop_requested
    assert (await handle.result()).status == "succeeded"
