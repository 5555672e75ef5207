"""Wiring: what a workflow is told, what it refuses on the spot, and which node is which (blocks spec §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runtime.blocks.builtin.shaping import Echo
from runtime.blocks.conditions import otherwise
from runtime.blocks.errors import WorkflowWiringError
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Step, failing, respond, step


async def test_the_same_variable_is_one_node_and_an_inline_expression_a_new_one() -> None:
    class Echoing(Step): ...

    shared = step("shared")
    workflow = Workflow("w").link(shared, Echoing(action=lambda v, c: v, calls=[]))
    workflow.link(shared, Echoing(action=lambda v, c: v, calls=[]))
    assert list(workflow.wiring.nodes) == ["shared", "echoing", "echoing_2"]


async def test_wiring_refuses_on_the_spot() -> None:
    workflow = Workflow("w").add(step("a"))
    for endpoint in (Step, 7, None):
        with pytest.raises(WorkflowWiringError, match=r"graph\.bad_endpoint"):
            workflow.link("a", endpoint)  # type: ignore[arg-type]
    with pytest.raises(WorkflowWiringError, match=r"graph\.duplicate_name"):
        workflow.add(step("a"))
    for name in ("a/b", "$x", "", "x" * 65):
        with pytest.raises(WorkflowWiringError, match=r"graph\.bad_endpoint"):
            workflow.add(step(name or "ok").named(name or " "))


async def test_wiring_is_frozen_while_running() -> None:
    refusals: list[str] = []

    def action(value: Any, ctx: Any) -> None:
        try:
            workflow.add(step("more"))
        except WorkflowWiringError as error:
            refusals.append(error.code)

    workflow = Workflow("w").add(step("s", action))
    await respond(workflow)
    assert refusals == ["graph.frozen"]
    workflow.add(step("more"))


async def test_renaming_keeps_links_and_place() -> None:
    a, b = step("a"), step("b")
    workflow = Workflow("w").link(a, b).on_error(a, b).configure(a, name="first", fallback=b)
    workflow.configure(b, name="second")
    assert list(workflow.wiring.nodes) == ["first", "second"]
    assert workflow.wiring.handlers == [("first", "second")]
    assert workflow.wiring.nodes["first"].options.fallback == "second"
    assert (await respond(workflow)).success


async def test_clones_run_side_by_side() -> None:
    both = asyncio.Barrier(2)
    inner = Workflow("inner").add(step("s", lambda v, c: both.wait()))
    workflow = Workflow("w").link(inner, step("end", lambda v, c: 1))
    clone = workflow.clone()
    async with asyncio.timeout(2):
        one, other = await asyncio.gather(respond(workflow), respond(clone))
    assert one.success
    assert other.success
    clone.link("end", step("more"))
    assert "more" not in workflow.wiring.nodes


def test_a_repeated_link_changes_nothing_and_keeps_its_first_place() -> None:
    workflow = Workflow("w").link(step("a"), step("c"), step("d")).link("a", step("b")).link("b", "d")
    before = list(workflow.wiring.edges)
    assert workflow.link("a", "c", "d", pick=1).wiring.edges == before
    assert [(edge.source, edge.target) for edge in before] == [("a", "c"), ("c", "d"), ("a", "b"), ("b", "d")]
    workflow.on_error("a", "b").link_on_error("a", "b")
    assert workflow.wiring.handlers == [("a", "b")]


ENTRIES: dict[str, tuple[Callable[[], Workflow], str | None]] = {
    "the first link's source": (lambda: Workflow("w").add(step("x")).link(step("a"), step("b")).link("x", "b"), "a"),
    "the first branch's source": (lambda: Workflow("w").branch(step("a"), otherwise(step("b"))).link("b", "a"), "a"),
    "the first link's source, handlers or not": (lambda: Workflow("w").on_error(step("x"), step("h")).link(step("a"), "h"), "a"),
    "the first on_error's source": (lambda: Workflow("w").on_error(step("a"), step("h")), "a"),
    "the only added block": (lambda: Workflow("w").add(step("a")), "a"),
    "none of two added blocks": (lambda: Workflow("w").add(step("a")).add(step("b")), None),
    "none of none": (Workflow.new, None),
    "what set_entry says": (lambda: Workflow("w").link(step("a"), step("b")).set_entry("b"), "b"),
}  # fmt: skip


@pytest.mark.parametrize("rule", ENTRIES)
async def test_the_entry_is(rule: str) -> None:
    build, entry = ENTRIES[rule]
    workflow = build()
    assert workflow.wiring.entry_name == entry
    missing = [issue.code for issue in workflow.issues() if issue.code == "graph.no_entry"]
    assert missing == ([] if entry else ["graph.no_entry"])


async def test_an_added_block_alone_and_an_entry_that_only_has_a_handler_run() -> None:
    assert (await respond(Workflow("w").add(step("a", lambda v, c: 1)))).data.payload == 1
    handled = step("h")
    response = await respond(Workflow("w").on_error(failing("a"), handled))
    assert response.code == "demo.broken"
    assert len(handled.calls) == 1


def test_a_variant_is_another_node_and_names_follow_registration_order() -> None:
    original = step("a")
    workflow = Workflow("w").link(original, original.named("b"), Echo(), Echo(), Echo().named("own"))
    assert list(workflow.wiring.nodes) == ["a", "b", "echo", "echo_2", "own"]
    assert workflow.wiring.nodes["a"].block is original
