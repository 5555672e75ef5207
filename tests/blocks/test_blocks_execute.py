"""One attempt: states, gates, errors, timeouts, threads and the world behind ``ctx`` (blocks spec §5–§8)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.envelope import Request
from runtime.blocks.errors import (
    BlockInputError,
    BlockRuntimeError,
    BlockTimeout,
    OperationFailed,
)
from runtime.blocks.execute import run_inner
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted, JournalError, ModelError
from runtime.kernel.model import OperationStatus
from tests.support.blocks_kit import Events, FakeHost, operation, respond, scope, step


class Threaded(Block, local=True):
    """A plain run, in a worker thread."""

    action: Callable[[BlockValue, BlockingContext], Any]

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    def run(self, input: BlockValue, ctx: BlockingContext) -> Any:
        return self.action(input, ctx)


class Strict(Block, input=once("string"), output=once("string")):
    """Refuses empty text by the given means."""

    def validate(self, input: BlockValue, ctx: Any) -> Any:
        if input.payload == "":
            raise BlockInputError("input.path_required", "empty")
        return False if input.payload == "false" else None

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        return 1 if input.payload == "one" else input


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def action(value: Any, ctx: Any) -> Any:
        raise error

    return action


# -- states ---------------------------------------------------------------------------------------------------------


async def test_a_second_concurrent_call_is_busy_and_the_first_is_unaffected() -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    seen: list[BlockPhase] = []

    async def action(value: Any, ctx: Any) -> str:
        seen.append(block.block_phase)
        started.set()
        await gate.wait()
        return "done"

    block = step("s", action)
    first = asyncio.create_task(respond(block))
    await started.wait()
    second = await respond(block)
    assert (second.reason, second.code, second.metadata["phase"]) == ("block_busy", "runtime.block_busy", "guard")
    assert second.error is not None
    assert second.error.retry_disposition == "never"
    gate.set()
    assert (await first).data == BlockValue.of("done")
    assert seen == [BlockPhase.BUSY]
    assert block.block_phase is BlockPhase.READY


async def test_cancellation_is_not_converted_and_leaves_the_block_ready() -> None:
    started = asyncio.Event()
    events = Events()

    async def action(value: Any, ctx: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    block = step("s", action)
    task = asyncio.create_task(block.execute(Request(), scope=scope(observer=events)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert block.block_phase is BlockPhase.READY
    assert events.names() == ["block.started", "block.canceled"]


async def test_halts_pass_through_everything() -> None:
    for block in (step("s", raising(Halted("KILL_SWITCH"))), Threaded(action=raising(Halted("KILL_SWITCH")))):
        with pytest.raises(Halted):
            await respond(block)
        assert block.block_phase is BlockPhase.READY


# -- timeouts and threads -------------------------------------------------------------------------------------------


async def test_an_async_run_is_cancelled_at_its_deadline() -> None:
    ended: list[str] = []

    async def action(value: Any, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    response = await respond(step("s", action, effects="non_idempotent").with_timeout(0.01))
    assert (response.error_type, response.reason, response.code) == (BlockTimeout, "timeout", "runtime.timeout")
    assert response.metadata["side_effect_class"] == "non_idempotent"
    assert ended == ["cleaned up"]


async def test_a_timeout_error_of_the_author_is_not_a_deadline() -> None:
    response = await respond(step("s", raising(TimeoutError("mine"))).with_timeout(5))
    assert response.code == "runtime.internal"


async def test_a_threaded_run_is_abandoned_and_can_start_nothing_more() -> None:
    release, late = threading.Event(), threading.Event()
    events, host = Events(), FakeHost([operation()])
    outcome: list[str] = []

    def action(value: Any, ctx: BlockingContext) -> str:
        release.wait(5)
        try:
            ctx.operate("tool_invoke", {})
        except Halted as halted:
            outcome.append(halted.code)
        outcome.append(f"cancelled {ctx.cancelled}")
        late.set()
        return "late"

    block = Threaded(action=action).with_timeout(0.01)
    response = await block.execute(Request(), host=host, scope=scope(observer=events))
    assert response.code == "runtime.timeout"
    assert block.block_phase is BlockPhase.READY
    release.set()
    await asyncio.to_thread(late.wait, 5)
    for _ in range(200):
        if "block.abandoned" in events.names():
            break
        await asyncio.sleep(0.001)
    assert outcome == ["runtime.canceled", "cancelled True"]
    assert host.operations == []
    assert "block.abandoned" in events.names()


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
    cancelled = asyncio.Event()

    class Stuck(FakeHost):
        async def operate(self, *args: Any, **options: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    block = Threaded(action=lambda value, ctx: ctx.operate("tool_invoke", {})).with_timeout(0.02)
    response = await respond(block, host=Stuck())
    assert response.code == "runtime.timeout"
    assert cancelled.is_set()


# -- operations and waits -------------------------------------------------------------------------------------------


def operating(kind: str = "tool_invoke") -> Any:
    async def action(value: Any, ctx: BlockContext) -> Any:
        return await ctx.operate(kind, {"n": 1})

    return step("s", action)


async def test_a_successful_operation_returns_its_output() -> None:
    response = await respond(operating(), host=FakeHost([operation(a=1)]))
    assert response.data.to_python() == {"a": 1}


@pytest.mark.parametrize(
    ("code", "ends_run"),
    [("TEST_FAILED", False), ("GATE_NOT_PASSED", False), ("PATH_TRAVERSAL", True), ("SELFMOD_PROTECTED", True),
     ("BUDGET_EXCEEDED", True), ("ENV_DEADLINE", True), ("APPROVAL_REFUSED", True), ("LOCK_LOST", True)],
)  # fmt: skip
async def test_a_failed_operation_is_a_block_error_with_its_output(code: str, ends_run: bool) -> None:
    response = await respond(operating(), host=FakeHost([operation(code, stdout="red")]))
    assert response.code == f"op.{code.lower()}"
    assert response.error_type is OperationFailed
    assert response.output.to_python() == {"stdout": "red"}
    assert response.ends_run is ends_run
    assert response.error is not None
    assert (response.error.retry_disposition == "never") is ends_run


async def test_an_escalation_succeeds_although_its_status_is_escalated() -> None:
    told = operation(status=OperationStatus.ESCALATED, escalation_id="e")
    assert (await respond(operating("escalate"), host=FakeHost([told]))).success
    assert not (await respond(operating(), host=FakeHost([told]))).success


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ModelError("COMP_REQUIRED", "undo"), "op.comp_required"), (OSError("disk"), "runtime.internal")],
)
async def test_what_the_host_raises_is_translated(raised: Exception, code: str) -> None:
    class Host(FakeHost):
        async def operate(self, *args: Any, **options: Any) -> Any:
            raise raised

    assert (await respond(operating(), host=Host())).code == code


async def test_a_journal_that_refuses_is_a_halt() -> None:
    class Host(FakeHost):
        async def operate(self, *args: Any, **options: Any) -> Any:
            raise JournalError("J_CLOSED", "closed")

    with pytest.raises(Halted):
        await respond(operating(), host=Host())


async def test_without_a_host_there_is_no_world() -> None:
    assert (await respond(operating())).code == "runtime.no_operations"
    asking = step("s", lambda value, ctx: ctx.wait("ok?"))
    assert (await respond(asking)).code == "runtime.no_operator"


async def test_waiting_shows_and_pauses_the_deadline() -> None:
    phases: list[BlockPhase] = []
    deadlines: list[float | None] = []
    answered = asyncio.Event()

    class Host(FakeHost):
        async def wait(self, *args: Any, **options: Any) -> BlockValue:
            phases.append(block.block_phase)
            await asyncio.sleep(0.04)  # longer than the whole attempt may take
            answered.set()
            return BlockValue.of("yes")

    async def action(value: Any, ctx: BlockContext) -> Any:
        reply = await ctx.wait("ok?", choices=("yes", "no"))
        phases.append(block.block_phase)
        deadlines.append(ctx.deadline)
        return reply

    block = step("s", action).with_timeout(0.02)
    response = await respond(block, host=Host())
    assert answered.is_set()
    assert response.data == BlockValue.of("yes")
    assert phases == [BlockPhase.WAITING, BlockPhase.BUSY]
    assert deadlines[0] is not None


async def test_a_cancelled_wait_leaves_the_block_ready() -> None:
    waiting = asyncio.Event()

    class Host(FakeHost):
        async def wait(self, *args: Any, **options: Any) -> BlockValue:
            waiting.set()
            await asyncio.Event().wait()
            raise AssertionError

    block = step("s", lambda value, ctx: ctx.wait("ok?"))
    task = asyncio.create_task(respond(block, host=Host()))
    await waiting.wait()
    assert block.block_phase is BlockPhase.WAITING
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert block.block_phase is BlockPhase.READY


async def test_refusals_of_a_human_end_the_run() -> None:
    host = FakeHost(answer=BlockRuntimeError("approval.refused", "no"))
    response = await respond(step("s", lambda value, ctx: ctx.wait("ok?")), host=host)
    assert response.code == "approval.refused"
    assert response.ends_run


async def test_stream_items_and_logs_reach_the_host() -> None:
    host = FakeHost()

    async def action(value: Any, ctx: BlockContext) -> None:
        ctx.emit("telemetry", 5)
        await ctx.emit("telemetry", 6)
        await ctx.emit("data", {"n": 7})
        ctx.log_info("sent", {"password": "x", "count": 2})

    assert (await respond(step("s", action), host=host)).success
    assert host.emitted == [
        ("telemetry", BlockValue.of(5)),
        ("telemetry", BlockValue.of(6)),
        ("data", BlockValue.of({"n": 7})),
    ]
    assert host.logged == [("info", "sent", {"password": "x", "count": 2})], "which sanitises it"
    assert (await respond(step("s", action))).success, "outside a run nothing happens"


async def test_threaded_runs_emit_and_log_on_the_loop() -> None:
    loop_thread = threading.get_ident()

    class Host(FakeHost):
        def __init__(self) -> None:
            super().__init__()
            self.threads: set[int] = set()

        async def send(self, value: BlockValue) -> None:
            self.threads.add(threading.get_ident())
            await super().send(value)

        def offer(self, value: BlockValue) -> None:
            self.threads.add(threading.get_ident())
            super().offer(value)

        def log(self, level: str, event: str, value: object) -> None:
            self.threads.add(threading.get_ident())
            super().log(level, event, value)

    def action(value: BlockValue, ctx: Any) -> int:
        ctx.emit("data", 1)
        ctx.emit("telemetry", 2)
        ctx.log_warn("odd")
        return threading.get_ident()

    host = Host()
    response = await respond(Threaded(action=action), host=host)
    assert host.emitted == [("data", BlockValue.of(1)), ("telemetry", BlockValue.of(2))]
    assert host.logged == [("warn", "odd", None)]
    assert host.threads == {loop_thread}
    assert response.data != BlockValue.of(loop_thread)


class Inline(Block, inline=True, input=multiple(), side_effects="none"):
    """Emits on the lane it is told to."""

    lane: str

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None: ...

    def run(self, input: BlockValue, ctx: BlockContext) -> None:
        ctx.emit(self.lane, "item")


async def test_inline_runs_emit_telemetry_only_and_unknown_lanes_are_explained() -> None:
    host = FakeHost()
    assert (await respond(Inline(lane="telemetry"), host=host)).success
    for lane, expected in (("data", "make run async"), ("DataLane", "'data' (kept) and 'telemetry'")):
        for where in (host, None):
            response = await respond(Inline(lane=lane), host=where)
            assert response.code == "validation.stream_lane"
            assert expected in response.message
    assert host.emitted == [("telemetry", BlockValue.of("item"))]


async def test_an_attempt_that_has_ended_emits_nothing_more() -> None:
    host, kept = FakeHost(), []
    await respond(step("s", lambda value, ctx: kept.append(ctx)), host=host)
    with pytest.raises(Halted):
        kept[0].emit("telemetry", 1)
    with pytest.raises(Halted):
        await kept[0].emit("data", 1)
    assert host.emitted == []


async def test_a_block_cannot_change_the_ledger() -> None:
    def action(value: Any, ctx: Any) -> None:
        ctx.state["x"] = 1

    response = await respond(step("s", action))
    assert response.code == "runtime.ledger_not_owner"


async def test_run_inner_applies_the_inner_blocks_own_gates() -> None:
    inner = Threaded(action=lambda value, ctx: value.text() + "!")

    async def action(value: Any, ctx: BlockContext) -> Any:
        target = inner if value.is_string else Strict()
        return (await run_inner(target, value, ctx)).data

    outer = step("outer", action)
    assert (await respond(outer, "hi")).data == BlockValue.of("hi!")
    assert (await respond(outer, 1)).code == "input.kind_mismatch"
