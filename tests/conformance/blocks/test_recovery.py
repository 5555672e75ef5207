"""Who runs again, when, and what a node's options make of a failure (blocks spec §14, §15; rulings R14, R16, R30)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, recorded_response
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockRuntimeError,
    BlockSkip,
    BlockValidationError,
    OperationFailed,
)
from runtime.blocks.policies import (
    BubblePolicy,
    DebugPolicy,
    RepairPolicy,
    RepairRegistry,
    RetryPolicy,
    add_validation_feedback,
    unit_interval,
)
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from tests.support.blocks_kit import (
    Events,
    FakeHost,
    Recorder,
    attempts,
    failing,
    operation,
    raising,
    respond,
    scope,
    single,
    stack,
    step,
    stuck,
)
from tests.support.loop_time import turns


def same(request: Request, failure: Response) -> Request:
    return request


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((RetryPolicy(3),), [1, 2, 3]),
        ((RetryPolicy(2), RepairPolicy(same), RetryPolicy(4)), [1, 2, 3, 4]),
        ((RetryPolicy(1),), [1]),
        ((), [1]),
        ((BubblePolicy(), RetryPolicy(9)), [1]),
        ((RetryPolicy.none(),), [1]),
        ((DebugPolicy(),), [1]),
        ((DebugPolicy(), RetryPolicy(2)), [1, 2]),
        ((DebugPolicy(lambda session: "resume"), RetryPolicy(4)), [1, 2, 3, 4]),
        ((DebugPolicy(lambda session: "give_up"), BubblePolicy()), [1]),
    ],
)
async def test_worked_examples(policies: tuple[object, ...], expected: list[int]) -> None:
    response, seen = await attempts(failing("f"), *policies)
    assert seen == expected
    left = [policy for policy in policies if isinstance(policy, DebugPolicy)] and len(expected) == 1
    assert response.code == ("recovery.debug_breakpoint" if left else "demo.broken")


async def test_a_repair_that_helps_ends_the_stack() -> None:
    response, seen = await attempts(failing("f", 1), RepairPolicy(same), BubblePolicy())
    assert seen == [1, 2]
    assert response.success


@settings(deadline=None)
@given(st.lists(st.sampled_from(["retry1", "retry2", "retry4", "repair", "resume", "break", "bubble"]), max_size=5))
def test_executions_are_bounded_and_numbered_without_gaps(names: list[str]) -> None:
    made: dict[str, object] = {"repair": RepairPolicy(same), "bubble": BubblePolicy(), "break": DebugPolicy()}
    made["resume"] = DebugPolicy(lambda session: "resume")
    policies = [made.get(name) or RetryPolicy(int(name[-1])) for name in names]
    _, seen = asyncio.run(attempts(failing("f"), *policies))
    largest = max([policy.max_attempts for policy in policies if isinstance(policy, RetryPolicy)], default=1)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) <= largest + names.count("repair") + names.count("resume")


async def test_every_attempt_has_its_own_envelope_and_shares_the_run() -> None:
    runner = Recorder()
    await attempts(failing("f"), RetryPolicy(3), runner=runner)
    metadata = [call.request.metadata for call in runner.calls]
    assert len({item["id"] for item in metadata}) == len({item["span_id"] for item in metadata}) == 3
    assert len({(item["run_id"], item["trace_id"], item["parent_span_id"], item["visit"]) for item in metadata}) == 1
    assert [response.metadata["id"] for response in runner.responses] == [item["id"] for item in metadata]


async def test_globs_and_vetoes_stop_a_retry() -> None:
    _, seen = await attempts(failing("f", code="http.auth.401"), RetryPolicy(3, retry_on=("http.5*", "http.timeout")))
    assert seen == [1]
    for disposition in ("never", "manual"):
        _, seen = await attempts(failing("f", retry_disposition=disposition), RetryPolicy(3))
        assert seen == [1]


async def test_a_veto_outlives_the_policies_in_between() -> None:
    vetoed = failing("f", retry_disposition="never")
    for between in (DebugPolicy(), RepairPolicy("no_such_repair")):
        _, seen = await attempts(vetoed, between, RetryPolicy(3))
        assert seen == [1]


async def test_a_busy_block_is_not_tried_again() -> None:
    shared, runner = step("shared", stuck), Recorder()
    using = asyncio.create_task(respond(shared))
    await turns()
    response = await respond(single(shared, retry=RetryPolicy(3)), runner=runner)
    assert (response.code, len(runner.calls)) == ("runtime.block_busy", 1)
    using.cancel()
    await asyncio.wait([using])


async def test_a_skip_is_never_recovered() -> None:
    def action(value: Any, ctx: Any) -> None:
        raise BlockSkip

    response, seen = await attempts(step("s", action), RetryPolicy(3), optional=True)
    assert seen == [1]
    assert response.skipped


async def test_backoff_sequence_on_a_manual_clock() -> None:
    clock = ManualClock()
    workflow = single(failing("f", 4), retry=RetryPolicy(5, initial=1.0, factor=2.0, cap=3.0))
    task = asyncio.create_task(workflow.execute(Request(), scope=scope(clock)))
    for _ in range(200):
        await asyncio.sleep(0)
        clock.advance(1.0)
    assert (await task).success
    assert clock.slept == [1.0, 2.0, 3.0, 3.0]


async def test_a_run_told_again_waits_the_same_time() -> None:
    async def slept(node: str) -> list[float]:
        clock = ManualClock()
        workflow = single(failing(node), retry=RetryPolicy.exponential(3, jitter=1.0))
        task = asyncio.create_task(workflow.execute(Request(), scope=scope(clock)))
        while not task.done():
            await turns()
            clock.advance(30.0)
        return clock.slept

    first = await slept("f")
    assert first == await slept("f")
    assert first != await slept("g")
    assert len(set(first)) == 3


@given(st.text(), st.floats(0, 1), st.integers(1, 8))
def test_jitter_is_bounded_and_reproducible(seed: str, jitter: float, retry: int) -> None:
    policy = RetryPolicy(initial=0.5, factor=2.0, cap=10.0, jitter=jitter)
    base = min(10.0, 0.5 * 2.0 ** (retry - 1))
    delay = policy.delay(retry, seed)
    assert delay == policy.delay(retry, seed)
    assert base * (1 - jitter) - 1e-9 <= delay <= min(10.0, base * (1 + jitter)) + 1e-9
    assert 0 <= unit_interval(seed) < 1


def test_exponential_counts_retries_and_mends_bad_numbers() -> None:
    policy = RetryPolicy.exponential(2, initial=-1, factor=0, cap=0)
    assert (policy.max_attempts, policy.initial, policy.factor, policy.cap) == (3, 1.0, 2.0, 0.001)
    for bad in ({"max_attempts": 0}, {"initial": -1.0}, {"factor": 0.0}, {"jitter": 1.1}):
        with pytest.raises(BlockValidationError, match=r"validation\.bad_config"):
            RetryPolicy(**bad)


# -- repair ---------------------------------------------------------------------------------------------------------


async def test_repair_gets_the_last_request_and_the_current_failure() -> None:
    told: list[tuple[Any, str | None]] = []

    def repair(request: Request, failure: Response) -> Request:
        told.append((request.payload.to_python(), failure.code))
        return Request(BlockValue.of([request.payload, len(told)]), metadata={"run_id": "forged", "attempt": 99})

    runner = Recorder()
    workflow = single(failing("f"), recovery=stack(RepairPolicy(repair), RetryPolicy(3), RepairPolicy(repair)))
    request = Request(BlockValue.of("in"))
    await workflow.execute(request, runner=runner)
    assert told == [("in", "demo.broken"), (["in", 1], "demo.broken")]
    assert [call.request.payload.to_python() for call in runner.calls] == ["in", ["in", 1], ["in", 1], [["in", 1], 2]]
    assert [call.request.metadata["attempt"] for call in runner.calls] == [1, 2, 3, 4]
    assert len({call.request.metadata["run_id"] for call in runner.calls}) == 1
    assert request == Request(BlockValue.of("in"))


def explode(request: Request, failure: Response) -> Request:
    raise ValueError("cannot")


@pytest.mark.parametrize("repair", ["no_such_repair", explode, lambda request, failure: None])
async def test_a_repair_that_fails_consumes_no_attempt_and_the_next_policy_is_tried(repair: Any) -> None:
    response, seen = await attempts(failing("f"), RepairPolicy(repair))
    assert seen == [1]
    assert (response.reason, response.code) == ("repair_execution_failed", "recovery.repair_failed")
    assert response.details.path("original.code") == BlockValue.of("demo.broken")
    response, seen = await attempts(failing("f", 1), RepairPolicy(repair), RetryPolicy(2))
    assert response.success
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("payload", "key"),
    [({"prompt": "p"}, "prompt"), ({"content": "c"}, "content"), ({"n": 1}, "prompt"), ("text", None)],
)
async def test_add_validation_feedback(payload: Any, key: str | None) -> None:
    def action(value: Any, ctx: Any) -> None:
        raise BlockInputError("input.not_object", "no", details={"error": "field 'x' is missing"})

    failure = await respond(step("s", action))
    repaired = add_validation_feedback(Request(BlockValue.of(payload)), failure).payload
    text = repaired.payload if key is None else repaired[key].payload
    assert "field 'x' is missing" in text
    assert str(payload if key is None else payload.get(key, "")) in text


def test_the_shipped_repairs_survive_clear() -> None:
    registry = RepairRegistry()
    registry.register("mine", same)
    registry.clear()
    assert registry.lookup("add_validation_feedback") is add_validation_feedback
    with pytest.raises(ValueError, match="mine"):
        registry.lookup("mine")
    with pytest.raises(ValueError, match=r"registry\.reserved_name"):
        registry.register("add_validation_feedback", same)


async def test_feedback_falls_back_to_the_message_and_leaves_other_payloads_alone() -> None:
    told = await respond(step("s", raising(BlockInputError("input.x", "no", details={"message": "too short"}))))
    plain = await respond(step("s", raising(BlockInputError("input.x", "the text itself"))))
    assert "too short" in add_validation_feedback(Request(BlockValue.of("p")), told).payload.text()
    assert "the text itself" in add_validation_feedback(Request(BlockValue.of("p")), plain).payload.text()
    assert add_validation_feedback(Request(BlockValue.of([1])), plain).payload == BlockValue.of([1])


async def test_a_class_stamped_nowhere_is_the_declared_one() -> None:
    class Bare(Recorder):
        """Answers without saying which class the attempt had."""

        async def attempt(self, call: Any) -> Response:
            self.calls.append(call)
            return recorded_response(call.request, code="demo.broken", message="told again")

    for effects, count in (("none", 2), ("non_idempotent", 1)):
        runner = Bare()
        await respond(single(step("s", effects=effects), retry=RetryPolicy(2)), runner=runner)
        assert len(runner.calls) == count


# -- stacks ---------------------------------------------------------------------------------------------------------


async def test_the_stack_is_chosen_once_from_the_first_failure() -> None:
    codes = iter([BlockInputError("input.x", "1"), BlockRuntimeError("demo.x", "2"), BlockRuntimeError("demo.x", "3")])

    def action(value: Any, ctx: Any) -> None:
        raise next(codes)

    workflow = single(step("s", action), recovery={BlockInputError: (RetryPolicy(3),), BlockRuntimeError: ()})
    runner = Recorder()
    await respond(workflow, runner=runner)
    assert len(runner.calls) == 3


class Wide(BlockRuntimeError): ...


class Near(Wide): ...


STACKS = {BlockRuntimeError: (RetryPolicy(2),), Wide: (RetryPolicy(3),), BlockInputError: (RetryPolicy(4),)}


@pytest.mark.parametrize(
    ("kind", "count"), [(Near, 3), (Wide, 3), (BlockRuntimeError, 2), (BlockInputError, 4), (BlockValidationError, 1)]
)
async def test_the_nearest_class_in_the_error_types_mro_wins(kind: type[BlockError], count: int) -> None:
    runner = Recorder()
    block = step("s", raising(kind("demo.broken", "no")))
    await respond(single(block, recovery=STACKS, retry=RetryPolicy(9)), runner=runner)
    assert len(runner.calls) == count, "a mapping without a match is an empty stack, whatever retry says"


class Declared(Block, side_effects="none", retry=RetryPolicy(5)):
    """Fails; its class declares five attempts."""

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    async def run(self, input: BlockValue, ctx: Any) -> None:
        raise BlockRuntimeError("demo.broken", "no")


@pytest.mark.parametrize(
    ("block", "node", "count"),
    [
        (Declared(), {}, 5),
        (Declared().with_retry(RetryPolicy(4)), {}, 4),
        (Declared().with_recovery({BlockInputError: (RetryPolicy(4),)}), {}, 1),
        (Declared().with_retry(RetryPolicy(4)), {"retry": RetryPolicy(3)}, 3),
        (Declared().with_retry(RetryPolicy(4)), {"recovery": {BlockInputError: (RetryPolicy(3),)}}, 1),
        (Declared(), {"retry": RetryPolicy.none()}, 1),
    ],
)
async def test_the_first_level_that_declares_anything_wins_as_a_whole(
    block: Block, node: dict[str, Any], count: int
) -> None:
    runner = Recorder()
    await respond(single(block, **node), runner=runner)
    assert len(runner.calls) == count


@pytest.mark.parametrize(
    ("code", "count"),
    [("input.x", 2), ("value.x", 2), ("validation.x", 3), ("graph.x", 3), ("http.timeout", 4), ("runtime.timeout", 4)],
)
async def test_without_a_class_the_code_prefix_selects(code: str, count: int) -> None:
    class Told(Recorder):
        """Answers from a record, where classes did not survive."""

        async def attempt(self, call: Any) -> Response:
            self.calls.append(call)
            return recorded_response(call.request, code=code, message="told again")

    runner = Told(undone=SideEffects.NONE)
    kinds = {BlockInputError: (RetryPolicy(2),), BlockValidationError: (RetryPolicy(3),)}
    await respond(single(step("s"), recovery={**kinds, BlockRuntimeError: (RetryPolicy(4),)}), runner=runner)
    assert len(runner.calls) == count


class Choosy(Block, side_effects="none"):
    """Overrides the look-up."""

    policies: Any = ()

    def get_policy_stack(self, error_type: type[Exception]) -> tuple[object, ...]:
        if self.policies == "raise":
            raise RuntimeError("lookup")
        return tuple(self.policies)

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    async def run(self, input: BlockValue, ctx: Any) -> None:
        raise BlockRuntimeError("demo.broken", "no")


async def test_an_unknown_policy_is_reported_and_a_failing_lookup_bubbles() -> None:
    events = Events()
    response = await Workflow("w").add(Choosy(policies=["surprise"])).execute(Request(), scope=scope(observer=events))
    assert (response.reason, response.code) == ("unknown_policy_type", "recovery.unknown_policy")
    events = Events()
    response = await Workflow("w").add(Choosy(policies="raise")).execute(Request(), scope=scope(observer=events))
    assert response.code == "demo.broken"
    assert [fields["code"] for name, fields in events.seen if name == "recovery.failed"] == [
        "recovery.policy_lookup_failed"
    ]


async def test_recovery_events_tell_the_story() -> None:
    events = Events()
    workflow = single(failing("f", 2), recovery=stack(RetryPolicy(2), RepairPolicy(same)))
    response = await workflow.execute(Request(), scope=scope(observer=events))
    assert response.success
    assert events.names("recovery.") == [
        "recovery.started",
        "recovery.policy_started",
        "recovery.policy_exhausted",
        "recovery.policy_started",
        "recovery.succeeded",
    ]
    node = [name for name, fields in events.seen if name.startswith("block.") and fields.get("node_path") == "f"]
    assert [name.removeprefix("block.") for name in node] == [
        *("started", "failed", "retry_scheduled"),
        *("started", "failed"),
        *("started", "succeeded"),
    ]


async def test_a_recovery_that_fails_says_so_once_at_its_end() -> None:
    events = Events()
    workflow = single(failing("f"), recovery=stack(RetryPolicy(2), RepairPolicy(same)))
    await workflow.execute(Request(), scope=scope(observer=events))
    told = [(name, fields) for name, fields in events.seen if name.startswith("recovery.")]
    assert [(name, fields.get("policy"), fields.get("position")) for name, fields in told] == [
        ("recovery.started", None, None),
        ("recovery.policy_started", "retry", 0),
        ("recovery.policy_exhausted", "retry", 0),
        ("recovery.policy_started", "repair", 1),
        ("recovery.policy_exhausted", "repair", 1),
        ("recovery.failed", None, None),
    ]
    assert told[-1][1]["code"] == "demo.broken"
    scheduled = [fields for name, fields in events.seen if name == "block.retry_scheduled"]
    assert [(item["backoff_ms"], item["next_attempt"], item["code"]) for item in scheduled] == [(0.0, 2, "demo.broken")]
    events = Events()
    await single(failing("f"), retry=RetryPolicy(2), optional=True).execute(Request(), scope=scope(observer=events))
    assert events.names("recovery.")[-1] == "recovery.succeeded"


# -- accept, fallback, optional -------------------------------------------------------------------------------------


def refused(code: str = "op.test_failed") -> Any:
    def action(value: Any, ctx: Any) -> None:
        raise OperationFailed(code, "red", output={"stdout": "1 failed"})

    return step("tests", action)


async def test_accept_always_yields_the_same_shape() -> None:
    response = await respond(single(refused(), accept=("op.test_failed",)))
    assert response.data.to_python() == {"ok": False, "code": "op.test_failed", "output": {"stdout": "1 failed"}}
    response = await respond(single(step("fine", lambda value, ctx: 5), accept=("op.test_failed",)))
    assert response.data.to_python() == {"ok": True, "code": None, "output": 5}


async def test_accept_comes_after_recovery_and_lists_exact_codes() -> None:
    runner = Recorder()
    workflow = single(refused(), accept=("op.test_failed",), retry=RetryPolicy(2))
    assert (await workflow.execute(Request(), runner=runner)).success
    assert len(runner.calls) == 2
    assert not (await respond(single(refused("op.env_tool"), accept=("op.test_failed",)))).success


async def test_refusals_bypass_everything_but_accept() -> None:
    runner = Recorder()
    options: dict[str, Any] = {
        "recovery": stack(RetryPolicy(5), RepairPolicy(same)),
        "fallback": "other",
        "optional": True,
    }
    workflow = Workflow("w").add(step("other")).add(refused("op.path_traversal")).set_entry("tests")
    workflow.configure("tests", **options)
    response = await workflow.execute(Request(), runner=runner)
    assert (response.code, response.ends_run) == ("op.path_traversal", True)
    assert runner.sequence() == [("tests", 1, 1)]
    workflow.configure("tests", accept=("op.path_traversal",))
    assert (await workflow.execute(Request(), runner=runner)).data.get("code") == BlockValue.of("op.path_traversal")


async def test_a_retry_that_meets_a_refusal_stops_there() -> None:
    codes = iter(["op.test_failed", "op.budget_exceeded", "op.test_failed"])

    def action(value: Any, ctx: Any) -> None:
        raise OperationFailed(next(codes), "no")

    response, seen = await attempts(step("s", action), RetryPolicy(5))
    assert (seen, response.code) == ([1, 2], "op.budget_exceeded")


async def test_a_fallback_gets_the_same_input_and_speaks_for_its_primary() -> None:
    after = step("after")
    workflow = Workflow("w").link(failing("f"), after).add(step("other", lambda value, ctx: [value, "other"]))
    workflow.configure("f", fallback="other")
    runner = Recorder()
    response = await workflow.execute(Request(BlockValue.of("in")), runner=runner)
    assert response.data.to_python() == ["in", "other"]
    assert runner.sequence() == [("f", 1, 1), ("other", 1, 1), ("after", 1, 1)]
    assert after.calls == [BlockValue.of(["in", "other"])]


async def test_a_failing_fallback_fails_the_node_or_lets_it_degrade() -> None:
    workflow = Workflow("w").add(failing("f")).add(failing("other", code="demo.second")).set_entry("f")
    workflow.configure("f", fallback="other")
    assert (await respond(workflow)).code == "demo.second"
    workflow.configure("f", optional=True)
    response = await respond(workflow)
    assert response.success
    assert response.data.is_null


async def test_a_fallback_that_skips_skips_its_node() -> None:
    workflow = Workflow("w").add(failing("f")).add(step("other", raising(BlockSkip()))).set_entry("f")
    workflow.configure("f", fallback="other", optional=True)
    assert (await respond(workflow)).skipped


async def test_two_nodes_may_share_a_fallback_in_one_level() -> None:
    inside: list[int] = [0, 0]

    async def action(value: Any, ctx: Any) -> str:
        inside[0] += 1
        inside[1] = max(inside)
        await asyncio.sleep(0)
        inside[0] -= 1
        return "stood in"

    workflow = Workflow("w").add(step("other", action))
    workflow.link(step("start"), failing("a")).link("start", failing("b")).link("a", step("end")).link("b", "end")
    workflow.configure("a", fallback="other").configure("b", fallback="other")
    workflow.set_entry("start")
    response = await respond(workflow)
    assert response.data.to_python() == ["stood in", "stood in"]
    assert inside == [0, 1]


async def test_an_optional_node_delivers_null() -> None:
    after = step("after", lambda value, ctx: value.kind.name)
    response = await respond(Workflow("w").link(failing("f"), after).configure("f", optional=True))
    assert response.data == BlockValue.of("NULL")
    workflow = single(failing("f"), optional=True, accept=("op.test_failed",))
    assert (await respond(workflow)).data.to_python() == {"ok": False, "code": "demo.broken", "output": None}


async def test_what_recovered_a_node_is_recorded() -> None:
    workflow = Workflow("w").add(failing("f", 1)).configure("f", retry=RetryPolicy(2))
    report = await workflow.run_async()
    assert (report.nodes["f"].attempts, report.nodes["f"].recovered_by) == (2, "retry")


async def test_a_runner_that_fails_is_an_internal_error_of_the_attempt() -> None:
    class Faulty(Recorder):
        async def attempt(self, call: Any) -> Response:
            raise OSError("pool gone")

    response = await respond(single(step("s")), runner=Faulty())
    assert response.code == "runtime.internal"
    assert "pool gone" in response.message


async def test_an_operation_block_retries_only_after_its_writes_were_undone() -> None:
    async def action(value: Any, ctx: Any) -> Any:
        return await ctx.operate("tool_invoke", {})

    host = FakeHost([operation("TOOL_CONFLICT"), operation(done=True)])
    runner = Recorder(undone=SideEffects.NONE, host=host)
    workflow = single(step("write", action, effects=None), retry=RetryPolicy(2))
    assert (await workflow.execute(Request(), runner=runner)).data.to_python() == {"done": True}
    assert runner.undone == [("write", 1)]
