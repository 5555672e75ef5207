"""What may run again after a failure, and what may be rolled back (blocks spec §15, §24; rulings R14, R16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.contracts import once
from runtime.blocks.debug import DebugSession
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockInputError, BlockRuntimeError
from runtime.blocks.policies import DebugPolicy, Policy, RepairPolicy, RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.errors import Halted
from tests.support.blocks_kit import Recorder, attempts, failing, respond, step, stuck
from tests.support.loop_time import leap, turns


def same(request: Request, failure: Response) -> Request:
    return request


# -- the matrix: class × policy × phase × effects -------------------------------------------------------------------

POLICIES: dict[str, Callable[[], Policy]] = {
    "retry": lambda: RetryPolicy(2),
    "repair": lambda: RepairPolicy(same),
    "strict": lambda: RepairPolicy(same, assume_idempotent=False),
    "debug": lambda: DebugPolicy(lambda session: "resume"),
}
CLASSES = ("none", "idempotent", "non_idempotent", None, "mostly_harmless")
PHASES = ("input", "validate", "run", "result", "timeout")


class Failing(Block, local=True, input=once("string")):
    """Fails in the phase it is told to, every time."""

    phase: str
    mark: str
    label: str | None

    @property
    def config_side_effects(self) -> SideEffects | None:
        return None if self.label is None else SideEffects.parse(self.label)

    def validate(self, input: BlockValue, ctx: Any) -> None:
        if self.phase == "validate":
            raise self.error()

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        if self.phase == "run":
            raise self.error()
        if self.phase == "timeout":
            await stuck(input, ctx)
        return iter(())  # no value: a bad result

    def error(self) -> BlockRuntimeError:
        return BlockRuntimeError("demo.broken", "no", effects=self.mark)


def permitted(effective: str, policy: str) -> bool:
    """Blocks spec §15.3, row by row."""
    return effective == "none" or (effective == "idempotent" and policy != "strict")


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(CLASSES),
    st.sampled_from(list(POLICIES)),
    st.sampled_from(PHASES),
    st.sampled_from(["none", "unknown"]),
)
def test_the_whole_matrix(label: str | None, policy: str, phase: str, mark: str) -> None:
    async def run() -> tuple[Response, Recorder]:
        block = Failing(phase=phase, mark=mark, label=label).named("f").with_timeout(60)
        workflow = (
            Workflow("w").link(step("start"), block).configure(block, recovery={Exception: (POLICIES[policy](),)})
        )
        runner = Recorder()
        task = asyncio.create_task(respond(workflow, 5 if phase == "input" else "text", runner=runner))
        while phase == "timeout" and not task.done():
            await turns()
            leap(61)
        return await task, runner

    response, runner = asyncio.run(run())
    seen = [call.attempt for call in runner.calls[1:]]
    declared = label if label in ("none", "idempotent") else "non_idempotent"
    harmless = phase in ("input", "validate") or (phase == "run" and mark == "none")
    effective = "none" if harmless else declared
    again = permitted(effective, policy)
    assert seen == ([1, 2] if again else [1])
    assert {told.metadata["side_effect_class"] for told in runner.responses[1:]} == {effective}
    if not again:
        details = response.details.to_python()
        assert (response.reason, response.code) == ("unsafe_to_retry", "recovery.unsafe_to_retry")
        assert details["blocked_policy"] == ("repair" if policy == "strict" else policy)
        assert details["side_effect_class"] == effective


async def test_what_an_unsafe_response_tells() -> None:
    response, _ = await attempts(failing("f", effects=None, details={"n": 1}), RetryPolicy(2))
    assert response.error_type is BlockRuntimeError
    assert response.details.to_python() == {
        "side_effect_class": "non_idempotent",
        "blocked_policy": "retry",
        "cause": "non_idempotent_side_effect",
        "failure_reason": "demo.broken",
        "failure_code": "demo.broken",
        "failure_error_type": "BlockRuntimeError",
        "failure_details": {"n": 1},
    }


async def test_the_details_of_the_failure_are_sanitised_inside_not_dropped() -> None:
    response, _ = await attempts(failing("f", effects=None, details={"prompt": "p", "n": 1}), RetryPolicy(2))
    assert response.record()["details"]["failure_details"] == {"prompt": "<redacted>", "n": 1}


async def test_later_policies_still_run_after_an_unsafe_one() -> None:
    told: list[str | None] = []

    def repair(request: Request, failure: Response) -> Request:
        told.append(failure.code)
        return request

    runner = Recorder(undone=SideEffects.IDEMPOTENT)
    strict, lax = RepairPolicy(repair, assume_idempotent=False), RepairPolicy(repair)
    _, seen = await attempts(failing("f"), strict, lax, runner=runner)
    assert (seen, told) == ([1, 2], ["recovery.unsafe_to_retry"])


async def test_an_unknown_label_behaves_as_non_idempotent() -> None:
    assert SideEffects.parse("mostly_harmless") is SideEffects.NON_IDEMPOTENT
    _, seen = await attempts(failing("f"), RetryPolicy(2), side_effects="mostly_harmless")
    assert seen == [1]


@pytest.mark.parametrize(("override", "again"), [("none", True), ("non_idempotent", False)])
async def test_the_nodes_override_beats_what_the_block_declares(override: str, again: bool) -> None:
    declared = "non_idempotent" if again else "none"
    _, seen = await attempts(failing("f", effects=declared), RetryPolicy(2), side_effects=override)
    assert (2 in seen) is again


async def test_safety_is_only_asked_when_a_reexecution_would_happen() -> None:
    runner = Recorder()
    response, seen = await attempts(
        failing("f", effects="non_idempotent"), RetryPolicy(3, retry_on=("http.*",)), runner=runner
    )
    assert (seen, response.code, runner.undone) == ([1], "demo.broken", [])


# -- nested workflows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "again"),
    [
        (("none", "none"), True),
        (("none", "idempotent"), True),
        (("none", "non_idempotent"), False),
        (("non_idempotent", "none"), False),
    ],
)
async def test_a_nested_workflow_is_safe_only_if_every_attempt_inside_was(inner: tuple[str, str], again: bool) -> None:
    nested = Workflow("inner").link(step("first", effects=inner[0]), failing("second", effects=inner[1]))
    _, seen = await attempts(nested, RetryPolicy(2))
    assert seen == ([1, 2] if again else [1])


@pytest.mark.parametrize(
    ("classes", "worst"),
    [
        ((), "none"),
        (("none", "idempotent"), "idempotent"),
        (("idempotent", "non_idempotent", "none"), "non_idempotent"),
    ],
)
def test_a_workflow_declares_the_worst_class_of_its_nodes(classes: tuple[str, ...], worst: str) -> None:
    workflow = Workflow("w")
    for number, label in enumerate(classes):
        workflow.add(Workflow(f"in{number}").add(step("s", effects=label)))
    assert workflow.side_effects.value == worst


async def test_a_nested_node_that_never_ran_does_not_count() -> None:
    nested = Workflow("inner").link(failing("early", 1), step("later", effects="non_idempotent"))
    response, seen = await attempts(nested, RetryPolicy(2))
    assert response.success
    assert seen == [1, 2]


async def test_a_success_inside_counts_when_a_later_node_fails() -> None:
    nested = Workflow("inner").link(step("sent", effects="idempotent"), failing("late", effects="none"))
    response, seen = await attempts(nested, RepairPolicy(same, assume_idempotent=False))
    assert seen == [1]
    assert response.details["side_effect_class"] == BlockValue.of("idempotent")


async def test_an_inner_proof_or_phase_does_not_clear_the_nested_workflow() -> None:
    def refuse(value: Any, ctx: Any) -> None:
        raise BlockRuntimeError("demo.broken", "no", effects="none")

    class Picky(Block):
        def validate(self, input: BlockValue, ctx: Any) -> None:
            raise BlockInputError("input.not_object", "no")

        async def run(self, input: BlockValue, ctx: Any) -> None:
            raise AssertionError

    for last in (step("late", refuse), Picky()):
        nested = Workflow("inner").link(step("sent", effects="non_idempotent"), last)
        response, seen = await attempts(nested, RetryPolicy(2))
        assert seen == [1]
        assert response.code == "recovery.unsafe_to_retry"


async def test_a_nested_timeout_counts_what_ran_inside() -> None:
    for effects, expected in (("none", [1, 2]), ("non_idempotent", [1])):
        nested = Workflow("inner").link(step("first", effects=effects), step("stuck", stuck)).with_timeout(60)
        runner = Recorder()
        task = asyncio.create_task(attempts(nested, RetryPolicy(2), runner=runner))
        while not task.done():
            await turns()
            leap(61)
        assert task.result()[1] == expected


async def test_a_nested_workflow_overrides_its_class() -> None:
    nested = Workflow("inner").add(failing("f", effects="non_idempotent"))
    _, seen = await attempts(nested, RetryPolicy(2), side_effects="idempotent")
    assert seen == [1, 2]


# -- rolling the ledger back ----------------------------------------------------------------------------------------


async def rolled(
    effects: str | None, *, logical_only: bool = False, undone: SideEffects | None = None
) -> tuple[Response, list[str | None]]:
    """A node that fails, whose hook patches, rolls back, and gives up; also what the patched key holds then."""
    values: list[str | None] = []

    def hook(session: DebugSession) -> str:
        session.patch("mark", "patched")
        session.rollback(logical_only=logical_only)
        values.append(None if "mark" not in session.ledger else session.ledger["mark"].text())
        return "give_up"

    response, _ = await attempts(failing("f", effects=effects), DebugPolicy(hook), runner=Recorder(undone=undone))
    return response, values


@pytest.mark.parametrize("effects", ["non_idempotent", None])
async def test_a_rollback_after_effects_is_refused(effects: str | None) -> None:
    response, values = await rolled(effects)
    assert (response.reason, response.code) == ("rollback_not_supported_for_side_effects", "recovery.rollback_unsafe")
    assert values == []
    assert response.details["side_effect_class"] == BlockValue.of("non_idempotent")
    assert response.details.path("original_error.code") == BlockValue.of("demo.broken")


@pytest.mark.parametrize(
    ("effects", "logical_only", "note"),
    [("none", False, None), ("idempotent", False, "remain"), ("non_idempotent", True, "remain"), ("none", True, None)],
)
async def test_a_rollback_restores_the_ledger_and_notes_effects_that_remain(
    effects: str, logical_only: bool, note: str | None
) -> None:
    response, values = await rolled(effects, logical_only=logical_only)
    assert (response.code, values) == ("recovery.debug_breakpoint", [None])
    assert response.metadata.get("recovery.external_effects") == note


async def test_the_runner_that_undoes_decides_the_class_for_rollback_and_resume() -> None:
    response, values = await rolled("non_idempotent", undone=SideEffects.NONE)
    assert (response.code, values) == ("recovery.debug_breakpoint", [None])
    response, _ = await rolled("none", undone=SideEffects.NON_IDEMPOTENT)
    assert response.code == "recovery.rollback_unsafe"
    runner = Recorder(undone=SideEffects.NON_IDEMPOTENT)

    def resume(session: DebugSession) -> str:
        assert session.side_effects is SideEffects.NON_IDEMPOTENT
        return "resume"

    response, seen = await attempts(failing("f"), DebugPolicy(resume), runner=runner)
    assert (response.details["blocked_policy"].payload, seen, runner.undone) == ("debug", [1], [("f", 1)])


# -- the runner undoes (ruling R14) ---------------------------------------------------------------------------------


async def test_the_runner_undoes_each_failed_attempt_once_and_its_word_is_final() -> None:
    runner = Recorder(undone=SideEffects.NONE)
    _, seen = await attempts(failing("f", effects="non_idempotent"), RetryPolicy(3), runner=runner)
    assert seen == [1, 2, 3]
    assert runner.undone == [("f", 1), ("f", 2)]
    runner = Recorder(undone=SideEffects.NON_IDEMPOTENT)
    response, seen = await attempts(failing("f"), RetryPolicy(3), RepairPolicy(same), runner=runner)
    assert (seen, response.code) == ([1], "recovery.unsafe_to_retry")
    assert runner.undone == [("f", 1)]


@pytest.mark.parametrize("options", [{"accept": ("demo.broken",)}, {"fallback": "other"}, {"optional": True}])
async def test_options_undo_before_going_on(options: dict[str, Any]) -> None:
    runner = Recorder()
    workflow = Workflow("w").add(step("other")).add(failing("f")).set_entry("f").configure("f", **options)
    assert (await workflow.execute(Request(), runner=runner)).success
    assert runner.undone == [("f", 1)]


async def test_a_failure_that_stays_one_is_not_undone_here() -> None:
    runner = Recorder()
    await attempts(failing("f"), runner=runner)
    assert runner.undone == []


async def test_an_undo_that_cannot_be_done_halts() -> None:
    class Stuck(Recorder):
        async def undo(self, call: Any, failure: Response) -> SideEffects | None:
            raise Halted("COMP_FAILED")

    for policy in (RetryPolicy(2), DebugPolicy(lambda session: "give_up")):
        with pytest.raises(Halted):
            await attempts(failing("f"), policy, runner=Stuck())
