"""Who runs again, when, and what a node's options make of a failure (blocks spec §14, §15; rulings R14, R16, R30)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.conditions import otherwise
from runtime.blocks.debug import DebugSession
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, recorded_response
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockError,
    BlockInputError,
    BlockRuntimeError,
    BlockSkip,
    BlockValidationError,
    LedgerOwnershipError,
    OperationFailed,
    RecoveryError,
    WaitRefused,
)
from runtime.blocks.policies import (
    BubblePolicy,
    DebugAction,
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
    failing,
    operation,
    raising,
    respond,
    scope,
    single,
    step,
    stuck,
)
from tests.support.loop_time import turns


def same(request: Request, failure: Response) -> Request:
    return request


def stack(*policies: object) -> Mapping[type[Exception], Sequence[object]]:
    return {Exception: policies}


async def attempts(
    block: Block, *policies: object, runner: Recorder | None = None, **options: Any
) -> tuple[Response, list[int]]:
    runner = runner or Recorder()
    response = await respond(single(block, recovery=stack(*policies), **options), runner=runner)
    return response, [call.attempt for call in runner.calls]


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


# -- debug ----------------------------------------------------------------------------------------------------------


async def test_a_breakpoint_without_a_hook_keeps_the_original_and_lets_the_next_policy_try() -> None:
    told: list[Response] = []

    def repair(request: Request, failure: Response) -> Request:
        told.append(failure)
        return request

    block = failing("f", 1, details={"prompt": "why", "n": 1}, effects="none")
    response, seen = await attempts(block, DebugPolicy(), RepairPolicy(repair))
    assert (response.success, seen) == (True, [1, 2])
    (failure,) = told
    assert (failure.reason, failure.code) == ("debug_breakpoint_hit", "recovery.debug_breakpoint")
    assert (failure.error_type, failure.metadata["phase"]) == (RecoveryError, "recovery")
    assert (failure.metadata["attempt"], failure.metadata["node_path"]) == (1, "f")
    original = failure.details["original_error"].to_python()
    assert (original["success"], original["reason"], original["code"]) == (False, "demo.broken", "demo.broken")
    assert original["details"] == {"prompt": "why", "n": 1}, "in full for recovery"
    assert original["metadata"]["span_id"] == failure.metadata["span_id"]
    assert failure.record()["details"]["original_error"]["details"] == {"prompt": "<redacted>", "n": 1}


def readable(session: DebugSession) -> dict[str, Any]:
    return {key: value.to_python() for key, value in session.ledger.items()}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_debug_hook_patches_the_ledger_and_resumes(asynchronous: bool) -> None:
    seen: list[Any] = []

    def action(value: BlockValue, ctx: Any) -> str:
        if ctx.state["limit"].payload < 5:
            raise BlockRuntimeError("demo.limit", "too low")
        return f"{value.text()} in attempt {ctx.attempt}"

    def hook(session: DebugSession) -> DebugAction:
        seen.append((session.failure.code, session.request.payload.to_python(), readable(session)))
        with pytest.raises(LedgerOwnershipError):
            session.ledger.set("limit", 9)
        session.patch("limit", 5)
        session.replace_payload("mended")
        return DebugAction.RESUME

    async def slow(session: DebugSession) -> DebugAction:
        await asyncio.sleep(0)
        return hook(session)

    block = step("s", action)
    workflow = Workflow("w", seed={"limit": 1}).add(block)
    workflow.configure(block, reads=["limit"], recovery=stack(DebugPolicy(slow if asynchronous else hook)))
    report = await workflow.start("in").result()
    assert report.value == BlockValue.of("mended in attempt 2")
    assert report.nodes["s"].recovered_by == "debug"
    assert seen == [("demo.limit", "in", {"$input": "in", "limit": 1})]
    assert report.ledger is not None
    entry = report.ledger.get_entry("limit")
    assert entry is not None
    assert (entry.source_block_id, entry.value) == ("$recovery", BlockValue.of(5))
    assert (entry.metadata["node_name"], entry.metadata["attempt"]) == ("s", 1)


async def test_a_resume_is_one_more_attempt_and_a_failing_one_exhausts_the_policy() -> None:
    asked: list[str | None] = []

    def hook(session: DebugSession) -> str:
        asked.append(session.failure.code)
        return "resume"

    response, seen = await attempts(failing("f"), DebugPolicy(hook))
    assert (response.code, seen, asked) == ("demo.broken", [1, 2], ["demo.broken"])


async def test_a_resume_without_changes_repeats_the_last_request_repairs_included() -> None:
    def repair(request: Request, failure: Response) -> Request:
        return Request(BlockValue.of("repaired"), {"told": BlockValue.of(1)})

    runner = Recorder()
    policies = (RepairPolicy(repair), DebugPolicy(lambda session: "resume"))
    await attempts(failing("f"), *policies, runner=runner)
    assert [(call.request.payload.to_python(), dict(call.request.context)) for call in runner.calls] == [
        (None, {}),
        ("repaired", {"told": BlockValue.of(1)}),
        ("repaired", {"told": BlockValue.of(1)}),
    ]


async def test_giving_up_is_a_breakpoint() -> None:
    response, seen = await attempts(failing("f"), DebugPolicy(lambda session: "give_up"))
    assert (response.reason, seen) == ("debug_breakpoint_hit", [1])
    assert response.details.path("original_error.code") == BlockValue.of("demo.broken")


async def test_a_hook_looks_at_the_attempt_that_failed_not_at_what_recovery_made_of_it() -> None:
    codes: list[str | None] = []

    def hook(session: DebugSession) -> str:
        codes.append(session.failure.code)
        return "give_up"

    response, _ = await attempts(failing("f"), RepairPolicy("no_such_repair"), DebugPolicy(hook))
    assert codes == ["demo.broken"]
    assert response.details.path("original_error.code") == BlockValue.of("demo.broken")


def raising_hook(error: Exception) -> Any:
    def hook(session: DebugSession) -> str:
        raise error

    return hook


def raises(session: DebugSession) -> str:
    session.patch("kept", 1)
    raise ValueError("Bearer abcdefgh12345678")


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (raises, "ValueError"),
        (lambda session: "again", "'again' is not a valid DebugAction"),
        (lambda session: None, "None is not a valid DebugAction"),
        (lambda session: session.rollback("nowhere"), "ledger.unknown_checkpoint"),
        (lambda session: session.patch("k", object()), "value.unsupported_type"),
        (lambda session: "wait", "runtime.no_operator"),
        (raising_hook(RecoveryError("demo.own", "mine")), "demo.own"),
    ],
)
async def test_a_hook_that_fails_is_a_failed_repair_of_stage_debug(hook: Any, why: str) -> None:
    response, seen = await attempts(failing("f"), DebugPolicy(hook))
    details = response.details.to_python()
    assert (response.reason, response.code, seen) == ("repair_execution_failed", "recovery.repair_failed", [1])
    assert (details["stage"], details["original"]["code"]) == ("debug", "demo.broken")
    assert why in details["error"]
    assert "abcdefgh" not in details["error"]
    response, seen = await attempts(failing("f", 1), DebugPolicy(hook), RetryPolicy(2))
    assert (response.success, seen) == (True, [1, 2])


async def test_a_hook_may_wait_for_the_operator_and_is_asked_again() -> None:
    answers: list[Any] = []

    def hook(session: DebugSession) -> str:
        answers.append(None if session.answer is None else session.answer.to_python())
        session.prompt, session.choices = "which value?", ("1", "2")
        return "resume" if len(answers) == 3 else "wait"

    workflow = Workflow("w").add(
        Workflow("inner").add(failing("f", 1)).configure("f", recovery=stack(DebugPolicy(hook)))
    )
    handle = workflow.start()
    for number, answer in enumerate((1, 2)):
        await turns()
        (ticket,) = handle.waits
        assert (ticket.node_path, ticket.prompt, handle.status) == ("inner/f", "which value?", "waiting")
        assert ticket.wait_id == f"{handle.run_id}/inner/f.debug{number}"
        with pytest.raises(WaitRefused):
            handle.answer(ticket.wait_id, 3)
        handle.answer(ticket.wait_id, answer)
    report = await handle.result()
    assert (report.status, answers) == ("succeeded", [None, 1, 2])


async def test_a_hook_that_never_decides_is_a_failed_repair() -> None:
    host = FakeHost(answer="again")
    workflow = single(failing("f"), recovery=stack(DebugPolicy(lambda session: "wait")))
    response = await workflow.execute(Request(), host=host)
    assert (response.code, response.details["stage"]) == ("recovery.repair_failed", BlockValue.of("debug"))
    assert "did not decide" in response.message
    assert 1 < len(host.questions) < 1000


async def test_a_session_ends_with_its_hook() -> None:
    kept: list[DebugSession] = []

    def hook(session: DebugSession) -> str:
        kept.append(session)
        return "resume"

    report = await single(failing("f", 1), recovery=stack(DebugPolicy(hook))).start().result()
    for use in (lambda: kept[0].patch("k", 1), lambda: kept[0].rollback(), lambda: kept[0].replace_payload(1)):
        with pytest.raises(LedgerOwnershipError):
            use()
    assert report.ledger is not None
    assert "k" not in report.ledger


async def test_rolling_back_in_a_routed_run_may_reach_far_and_the_block_sees_it() -> None:
    events, states = Events(), []

    def action(value: BlockValue, ctx: Any) -> None:
        states.append(sorted(ctx.state))
        if len(states) == 1:
            raise BlockRuntimeError("demo.broken", "no")

    def hook(session: DebugSession) -> str:
        session.rollback("pre:b:1")
        return "resume"

    last = step("c", action)
    workflow = Workflow("w").link(step("a"), step("b")).branch("b", otherwise(last))
    workflow.configure(last, reads=["a", "b"], recovery=stack(DebugPolicy(hook)))
    assert (await workflow.execute(Request(), scope=scope(observer=events))).success
    assert states == [["a", "b"], ["a"]]
    (told,) = [fields for name, fields in events.seen if name == "ledger.rolled_back"]
    assert (told["checkpoint_id"], told["node_path"]) == ("pre:b:1", "c")
    created = [fields["checkpoint_id"] for name, fields in events.seen if name == "ledger.checkpoint_created"]
    assert created == ["pre:a:1", "pre:b:1", "pre:c:1"]


async def test_in_dataflow_only_checkpoints_of_the_current_level_are_targets() -> None:
    tried: list[str] = []

    def hook(session: DebugSession) -> str:
        for checkpoint in ("pre:a:1", "pre:start:1"):
            with pytest.raises(BlockRuntimeError, match=r"ledger\.unknown_checkpoint"):
                session.rollback(checkpoint)
            tried.append(checkpoint)
        session.rollback("pre:b:1")  # another node of the level
        session.rollback()  # the visit's own checkpoint is newer, and gone
        return "resume"

    workflow = Workflow("w").link(step("start"), step("a")).link("a", step("b")).link("a", failing("f", 1))
    workflow.link("b", step("end")).link("f", "end").configure("f", recovery=stack(DebugPolicy(hook)))
    report = await workflow.start().result()
    assert tried == ["pre:a:1", "pre:start:1"]
    assert report.response.code == "recovery.repair_failed"
    assert report.response.details["error"].payload.startswith("BlockRuntimeError: ledger.unknown_checkpoint")


async def test_rollback_to_names_where_a_rollback_without_a_checkpoint_goes() -> None:
    def hook(session: DebugSession) -> str:
        session.rollback()
        return "resume"

    last = failing("c", 1)
    workflow = Workflow("w").branch(step("a"), otherwise(step("b"))).branch("b", otherwise(last))
    workflow.configure(last, recovery=stack(DebugPolicy(hook, rollback_to="pre:a:1")))
    report = await workflow.start().result()
    assert report.ledger is not None
    assert list(report.ledger) == ["$input", "c"]


def test_a_class_that_could_resume_must_say_what_it_does() -> None:
    def declare(policy: DebugPolicy) -> type:
        class Undeclared(Block, recovery={Exception: (policy,)}):
            def validate(self, input: BlockValue, ctx: Any) -> None: ...

            async def run(self, input: BlockValue, ctx: Any) -> None: ...

        return Undeclared

    declare(DebugPolicy())
    with pytest.raises(BlockDefinitionError, match=r"definition\.side_effects_undeclared"):
        declare(DebugPolicy(lambda session: "resume"))


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
