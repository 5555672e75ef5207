"""The single-cursor discipline: branches, cycles and their bound (blocks spec §9.5, §12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.conditions import ConditionRegistry, case, otherwise, when
from runtime.blocks.contracts import multiple
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import RegistryError, WorkflowWiringError
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.results import Multiple
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Recorder, failing, respond, step, tagged


def yes(response: Response) -> bool:
    return True


def no(response: Response) -> bool:
    return False


def below(limit: int) -> Any:
    return lambda response: response.data.payload < limit


async def test_the_first_true_case_wins_and_later_ones_are_not_asked() -> None:
    asked: list[str] = []

    def ask(name: str, verdict: bool) -> Any:
        def condition(response: Response) -> bool:
            asked.append(name)
            return verdict

        return condition

    workflow = Workflow("w")
    cases = [
        when(ask("a", False), tagged("one")),
        when(ask("b", True), tagged("two")),
        when(ask("c", True), tagged("three")),
    ]
    workflow.branch(step("start"), *cases, otherwise(tagged("four")))
    response = await respond(workflow)
    assert response.data.payload == "two"
    assert asked == ["a", "b"]
    assert (response.metadata["source"], response.metadata["last_node"]) == ("two", "two")


async def test_no_true_case_is_no_transition() -> None:
    response = await respond(Workflow("w").branch(step("start"), when(no, tagged("x"))))
    assert (response.reason, response.code) == ("no_transition", "graph.no_transition")
    assert response.details["node"].payload == "start"
    assert response.metadata["phase"] == "graph"


async def test_a_cycle_ends_by_its_condition() -> None:
    runner = Recorder()
    workflow = Workflow("w")
    count = step("count", lambda value, ctx: value.payload + 1)
    workflow.branch(count, when(below(4), count), otherwise(step("end")))
    response = await workflow.execute(Request(BlockValue.of(0)), runner=runner)
    assert response.data == BlockValue.of(4)
    assert runner.sequence() == [("count", visit, 1) for visit in (1, 2, 3, 4)] + [("end", 1, 1)]


@settings(deadline=None)
@given(st.integers(1, 40))
async def test_a_cycle_is_bounded_by_exactly_max_steps_visits(limit: int) -> None:
    spin = step("spin")
    response = await respond(Workflow("w", max_steps=limit).branch(spin, otherwise(spin)))
    assert len(spin.calls) == limit
    assert (response.reason, response.code) == ("max_steps_exceeded", "graph.max_steps_exceeded")
    assert response.details.to_python() == {"max_steps": limit, "node": "spin"}


async def test_a_node_that_vanished_is_told() -> None:
    workflow = Workflow("w").branch(step("start"), otherwise(step("gone")))
    del workflow.plan().nodes["gone"]  # type: ignore[attr-defined]  # only misuse can do this
    response = await respond(workflow)
    assert (response.reason, response.code) == ("unknown_node", "graph.unknown_node")


async def test_attempts_do_not_count_as_steps() -> None:
    workflow = (
        Workflow("w", max_steps=2).branch(failing("f", 3), otherwise(step("end"))).configure("f", retry=RetryPolicy(4))
    )
    assert (await respond(workflow)).success


def boom(response: Response) -> bool:
    raise ValueError("oops")


@pytest.mark.parametrize("condition", [boom, lambda response: 1, lambda response: None])
async def test_conditions_are_strict(condition: Any) -> None:
    end = step("end")
    workflow = Workflow("w").branch(step("start"), when(condition, end), otherwise(end))
    response = await respond(workflow)
    assert (response.reason, response.code) == ("condition_execution_error", "graph.condition_failed")
    assert "condition" in response.details
    assert end.calls == []


async def test_stateful_conditions_see_earlier_outputs() -> None:
    class Score:
        def evaluate(self, response: Response, state: Mapping[str, BlockValue]) -> bool:
            return state["first"] == BlockValue.of(1) and response.data == BlockValue.of(2)

    workflow = Workflow("w").link(step("first", lambda v, c: 1), step("second", lambda v, c: 2))
    workflow.branch("second", when(Score(), tagged("both")), otherwise(tagged("not")))
    assert (await respond(workflow)).data.payload == "both"


async def test_named_conditions_come_from_an_injectable_registry() -> None:
    registry = ConditionRegistry()
    registry.register("always", yes)
    for name in ("default", "always"):
        with pytest.raises(RegistryError, match=r"registry\.reserved_name"):
            registry.register(name, yes)
    workflow = Workflow("w", conditions=registry).branch(step("start"), when("always", tagged("x")))
    assert (await respond(workflow)).data.payload == "x"
    registry.clear()
    workflow.branch("start", when("gone", tagged("y")))
    response = await respond(workflow)
    assert (response.reason, response.code) == ("condition_resolution_error", "graph.condition_unresolved")


@pytest.mark.parametrize(
    ("helper", "data", "verdict"),
    [
        (case(key="status", equals="ok"), {"status": "ok"}, True),
        (case(key="status", equals=1), {"status": 1.0}, False),
        (case(key="a.b", contains="x"), {"a": {"b": "axb"}}, True),
        (case(key="missing", equals=None), {}, False),
        (case(equals=5), 5, True),
    ],
)
async def test_case_helper(helper: Any, data: Any, verdict: bool) -> None:
    workflow = Workflow("w").branch(step("start"), when(helper, tagged("yes")), otherwise(tagged("no")))
    assert (await respond(workflow, data)).data.payload == ("yes" if verdict else "no")


async def test_a_node_reached_from_two_sides_gets_the_value_of_the_side_that_came() -> None:
    sources: list[tuple[str, ...]] = []
    end = step("end", lambda value, ctx: sources.append(ctx.sources))
    workflow = Workflow("w").branch(step("start"), when(yes, step("left")), otherwise(step("right")))
    workflow.link("left", end).link("right", end)
    await respond(workflow, "v")
    assert end.calls == [BlockValue.of("v")]
    assert sources == [("left",)]


async def test_several_outputs_travel_as_a_list() -> None:
    many = step("many", lambda value, ctx: Multiple([1, 2]), gives=multiple())
    workflow = Workflow("w").branch(many, otherwise(step("end")))
    assert (await respond(workflow)).data.to_python() == [1, 2]


async def test_a_failing_node_ends_the_walk_after_its_handlers() -> None:
    handler = step("handler")
    workflow = Workflow("w").branch(failing("f"), otherwise(tagged("x"))).on_error("f", handler)
    response = await respond(workflow)
    assert response.code == "demo.broken"
    assert response.metadata["last_node"] == "f"
    assert len(handler.calls) == 1


async def test_branch_takes_cases_only() -> None:
    with pytest.raises(WorkflowWiringError, match=r"graph\.bad_endpoint"):
        Workflow("w").branch(step("start"), tagged("x"))  # type: ignore[arg-type]


async def test_the_mapping_form() -> None:
    nodes = {"a": step("x", lambda v, c: v.payload + 1), "b": tagged("y")}
    registry_free = Workflow.from_transitions(
        "w", nodes, "a", {"a": [{"condition": below(3), "target": "a"}, {"target": "b"}]}
    )
    response = await respond(registry_free, 0)
    assert response.data.payload == "y"
    assert registry_free.wiring.nodes["a"].name == "a"


async def test_the_same_choices_give_the_same_walk() -> None:
    async def walk() -> Any:
        count = step("count", lambda value, ctx: value.payload + 1)
        workflow = Workflow("w").branch(count, when(below(5), count), otherwise(step("end")))
        report = await workflow.run_async(0)
        assert report.ledger is not None
        return [(op.seq, op.op, op.key, op.checkpoint_id, op.entry and op.entry.value) for op in report.ledger.log()]

    assert await walk() == await walk()
