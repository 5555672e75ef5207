"""Wiring: what a workflow is told, what it refuses on the spot, and which node is which (blocks spec §9)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.errors import WorkflowWiringError
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Step, respond, step


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
