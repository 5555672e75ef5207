"""Debug policies: a look at a failed node, its ledger mended or rolled back, and one more attempt (blocks spec §14.4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.conditions import otherwise
from runtime.blocks.debug import DebugSession
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockRuntimeError,
    LedgerOwnershipError,
    RecoveryError,
    WaitRefused,
)
from runtime.blocks.policies import DebugAction, DebugPolicy, RepairPolicy, RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import (
    Events,
    FakeHost,
    Recorder,
    attempts,
    failing,
    scope,
    single,
    stack,
    step,
)
from tests.support.loop_time import turns


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
    chain = (RepairPolicy(repair), DebugPolicy(lambda session: "resume"))
    await attempts(failing("f"), *chain, runner=runner)
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
