"""One attempt: states, gates, errors, timeouts, threads and the world behind ``ctx`` (blocks spec §5–§8)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import (
    BlockInputError,
    OperationFailed,
)
from runtime.blocks.execute import run_inner
from runtime.blocks.values import BlockValue
from runtime.kernel.errors import Halted, JournalError, ModelError
from runtime.kernel.model import OperationStatus
from tests.support.blocks_kit import FakeHost, Threaded, operation, respond, step


class Strict(Block, input=once("string"), output=once("string")):
    """Refuses empty text by the given means."""

    def validate(self, input: BlockValue, ctx: Any) -> Any:
        if input.payload == "":
            raise BlockInputError("input.path_required", "empty")
        return False if input.payload == "false" else None

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        return 1 if input.payload == "one" else input


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


async def test_what_is_logged_without_a_host_cannot_reach_a_terminal_raw(caplog: pytest.LogCaptureFixture) -> None:
    """Python writes warnings nobody collects to standard error; a pack's transform of packets has no host either."""
    await respond(Threaded(action=lambda value, ctx: ctx.log_warn("\x1b]0;owned\x07\n", "\x1b[31mred ü")))
    (record,) = caplog.records
    assert record.getMessage() == "\\x1b]0;owned\\x07\\n \\x1b[31mred ü"


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


async def test_run_inner_applies_the_inner_blocks_own_gates() -> None:
    inner = Threaded(action=lambda value, ctx: value.text() + "!")

    async def action(value: Any, ctx: BlockContext) -> Any:
        target = inner if value.is_string else Strict()
        return (await run_inner(target, value, ctx)).data

    outer = step("outer", action)
    assert (await respond(outer, "hi")).data == BlockValue.of("hi!")
    assert (await respond(outer, 1)).code == "input.kind_mismatch"
