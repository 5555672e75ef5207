"""One attempt: states, gates, errors, timeouts, threads and the world behind ``ctx`` (blocks spec §5–§8)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple, once, recurring
from runtime.blocks.envelope import Request, recorded_response
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockInternalError,
    BlockRuntimeError,
    BlockSkip,
    BlockValidationError,
    OperationFailed,
)
from runtime.blocks.execute import run_inner
from runtime.blocks.results import Multiple, Once, Recurring
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.kernel.errors import Halted, JournalError, ModelError
from runtime.kernel.model import OperationStatus
from tests.support.blocks_kit import FakeHost, Threaded, operation, raising, respond, scope, step


class Strict(Block, input=once("string"), output=once("string")):
    """Refuses empty text by the given means."""

    def validate(self, input: BlockValue, ctx: Any) -> Any:
        if input.payload == "":
            raise BlockInputError("input.path_required", "empty")
        return False if input.payload == "false" else None

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        return 1 if input.payload == "one" else input


async def items() -> Any:
    yield 1


RESULTS: list[tuple[Any, BlockValueContract, Any]] = [
    ("x", once(), "x"),
    (None, once("null"), None),
    ([1, 2], once("list"), [1, 2]),
    (Once({"a": 1}), once(), {"a": 1}),
    (Multiple([1, "b"]), multiple(), [1, "b"]),
    (Multiple([]), multiple(), []),
    (Recurring(items()), recurring(), None),
]


@pytest.mark.parametrize(("returned", "contract", "data"), RESULTS)
async def test_each_return_style_becomes_its_variant(returned: Any, contract: BlockValueContract, data: Any) -> None:
    response = await respond(step("s", lambda value, ctx: returned, gives=contract))
    assert response.success
    assert response.result is not None
    assert response.result.mode is contract.mode
    assert response.data.to_python() == data
    if isinstance(response.result, Recurring):
        await response.result.aclose()


@pytest.mark.parametrize(
    ("returned", "contract"),
    [("x", multiple()), (Multiple([1]), once()), (1, once("string")), (Multiple(["a", 1]), multiple("string"))],
)
async def test_a_result_outside_the_contract_is_bad(returned: Any, contract: BlockValueContract) -> None:
    response = await respond(step("s", lambda value, ctx: returned, gives=contract))
    assert (response.reason, response.code) == ("bad_result", "runtime.bad_result")
    assert response.metadata["phase"] == "result"
    assert {"expected", "actual"} <= set(response.details)


async def test_reading_a_result_as_another_variant_is_an_ordinary_error() -> None:
    with pytest.raises(TypeError):
        Once(1).as_multiple()
    stream = Recurring(items())
    taken = stream.as_stream()
    with pytest.raises(TypeError, match="taken"):
        stream.as_stream()
    await taken.aclose()  # type: ignore[attr-defined]


async def test_the_gates_stand_in_order() -> None:
    block = Strict()
    cases = {
        5: ("input.kind_mismatch", "input"),
        "": ("input.path_required", "validate"),
        "false": ("validation.returned_value", "validate"),
        "one": ("runtime.bad_result", "result"),
    }
    for value, (code, phase) in cases.items():
        response = await respond(block, value)
        assert (response.code, response.metadata["phase"]) == (code, phase)
    assert (await respond(block, "fine")).data == BlockValue.of("fine")


async def test_a_joined_input_is_gated_element_by_element() -> None:
    block = step("s", takes=multiple("string"))
    joined = BlockValue.of(["a", "b"])
    assert (await block.execute(Request(joined, sources=("x", "y")))).success
    assert (await block.execute(Request(joined))).code == "input.kind_mismatch"


class Broken(BlockRuntimeError):
    """An author's own class."""


@pytest.mark.parametrize(
    ("error", "kind", "reason", "code"),
    [
        (Broken("demo.broken", "no"), Broken, "demo.broken", "demo.broken"),
        (BlockInputError("input.not_object", "no"), BlockInputError, "input.not_object", "input.not_object"),
        (KeyError("x"), BlockInternalError, "internal_error", "runtime.internal"),
        (BlockSkip(), BlockSkip, "skipped", "skip.no_new_items"),
    ],
)
async def test_raised_errors_become_responses(error: Exception, kind: type, reason: str, code: str) -> None:
    for block in (step("s", raising(error)), Threaded(action=raising(error))):
        response = await respond(block)
        assert not response.success
        assert (response.error_type, response.reason, response.code) == (kind, reason, code)
        assert block.block_phase is BlockPhase.READY


async def test_an_internal_error_names_its_cause_without_secrets() -> None:
    def action(value: Any, ctx: Any) -> Any:
        try:
            raise ValueError("token Bearer abcdefgh12345678 was refused")
        except ValueError as cause:
            raise RuntimeError("sk-abcdefghijklmnopqrstuvwx leaked") from cause

    response = await respond(step("s", action))
    assert response.details["error_class"].payload == "RuntimeError"
    assert response.details["cause_class"].payload == "ValueError"
    told = response.message + response.details.to_json()
    assert "abcdefgh" not in told
    assert "<redacted>" in told


async def test_secret_details_are_removed_at_once_and_content_when_serialised() -> None:
    error = BlockRuntimeError("demo.x", "no", details={"api_key": "k", "message": "why", "n": 1})
    response = await respond(step("s", raising(error)))
    assert response.details.to_python() == {"api_key": "<redacted>", "message": "why", "n": 1}
    assert response.record()["details"] == {"api_key": "<redacted>", "message": "<redacted>", "n": 1}


@pytest.mark.parametrize("code", ["nodots", "Upper.case", "a..b", ""])
def test_malformed_codes_are_refused_where_the_error_is_built(code: str) -> None:
    with pytest.raises(ValueError, match="dotted"):
        BlockRuntimeError(code, "x")


# -- metadata -------------------------------------------------------------------------------------------------------


async def test_golden_metadata() -> None:
    response = await respond(step("s"))
    assert dict(response.metadata) == {
        "id": "00000000-0000-4000-8000-000000000001",
        "trace_id": "00000000000040008000000000000002",
        "run_id": "00000000-0000-4000-8000-000000000002",
        "span_id": "8000000000000001",
        "block_name": "s",
        "attempt": 1,
        "visit": 1,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "duration_ms": 0.0,
        "side_effect_class": "none",
    }


async def test_a_given_id_survives_and_reserved_keys_cannot_be_forged() -> None:
    def action(value: Any, ctx: BlockContext) -> None:
        ctx.annotate("app.note", {"n": 1})
        ctx.annotate("run_id", "forged")

    request = Request(metadata={"id": "mine", "app.kept": 1})
    response = await step("s", action).execute(request, scope=scope())
    assert response.metadata["id"] == "mine"
    assert response.metadata["app.note"] == {"n": 1}
    assert response.metadata["app.kept"] == 1
    assert response.metadata["run_id"] != "forged"
    assert dict(request.metadata) == {"id": "mine", "app.kept": 1}


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


# -- recorded responses ---------------------------------------------------------------------------------------------


def test_recorded_responses_rebuild_the_attempt() -> None:
    request = Request(metadata={"id": "i", "run_id": "r", "attempt": 2})
    assert recorded_response(request, value=BlockValue.of(4)).data == BlockValue.of(4)
    failed = recorded_response(request, code="op.test_failed", message="red", output=BlockValue.of({"stdout": "x"}))
    assert failed.output.to_python() == {"stdout": "x"}
    assert failed.metadata["attempt"] == 2
    assert not failed.ends_run
    assert recorded_response(request, code="op.env_tool").ends_run
    assert recorded_response(request, code="skip.no_new_items").skipped
    kinds = {"input.x": BlockInputError, "graph.x": BlockValidationError, "demo.x": BlockRuntimeError}
    for code, kind in kinds.items():
        error = recorded_response(request, code=code).error
        assert isinstance(error, BlockError)
        assert type(error) is kind
