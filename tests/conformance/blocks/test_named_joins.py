"""Named joins: links with a name join into a MAP (issue 4, beside blocks spec §11.2)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.conditions import otherwise
from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.results import Multiple
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import failing, respond, step, tagged


def joined(workflow: Workflow) -> list[tuple[str, str, str | None]]:
    return [(issue.code, issue.node_path, issue.other) for issue in workflow.issues()]


async def test_links_that_all_have_a_name_join_into_a_map_in_link_order() -> None:
    seen: list[tuple[tuple[str, ...], bool]] = []

    def end(value: BlockValue, ctx: Any) -> Any:
        seen.append((ctx.sources, value.is_map))
        return value

    start, a, b, last = step("start"), tagged("a"), tagged("b"), step("end", end, takes=once("map"))
    workflow = Workflow("w").link(start, b).link(start, a).link(b, last, as_="body").link(a, last, as_="head")
    response = await respond(workflow)
    assert response.data.to_python() == {"body": "b", "head": "a"}
    assert seen == [(("b", "a"), True)]


async def test_a_single_named_link_is_a_map_too() -> None:
    workflow = Workflow("w").link(tagged("a"), step("end"), as_="only")
    assert (await respond(workflow)).data.to_python() == {"only": "a"}


async def test_every_link_of_a_chain_gets_the_name() -> None:
    workflow = Workflow("w").link(tagged("a"), step("b"), step("c"), as_="x")
    assert (await respond(workflow)).data.to_python() == {"x": {"x": "a"}}


async def test_a_picked_value_can_be_named() -> None:
    source = step("two", lambda v, c: Multiple([1, 2]), gives=multiple())
    workflow = Workflow("w").link(source, step("end"), pick=1, as_="second")
    assert (await respond(workflow)).data.to_python() == {"second": 2}


async def test_a_fallback_gets_the_map_its_principal_had() -> None:
    principal, stand_in = failing("principal"), step("stand_in")
    workflow = Workflow("w").link(tagged("a"), principal, as_="x").configure(principal, fallback=stand_in)
    assert (await respond(workflow)).data.to_python() == {"x": "a"}


def two_into(end: Any, first: str | None, second: str | None) -> Workflow:
    start, a, b = step("start"), tagged("a"), tagged("b")
    return Workflow("w").link(start, a).link(start, b).link(a, end, as_=first).link(b, end, as_=second)


@pytest.mark.parametrize(("first", "second"), [("x", None), (None, "x"), ("x", "x")])
def test_names_on_some_links_only_or_twice_are_refused(first: str | None, second: str | None) -> None:
    assert joined(two_into(step("end"), first, second)) == [("validation.bad_join", "end", None)]


@pytest.mark.parametrize(
    ("takes", "code"), [(once("string"), "validation.kind_mismatch"), (once("map"), None), (multiple(), None)]
)
def test_who_takes_named_links_must_take_a_map_and_only_that(takes: BlockValueContract, code: str | None) -> None:
    """One MAP is one value: a block that takes one input may have several named links."""
    found = joined(two_into(step("end", takes=takes), "x", "y"))
    assert {item[0] for item in found} == ({code} if code else set())


def test_a_fallback_must_take_a_map_too() -> None:
    principal, stand_in = step("principal"), step("stand_in", takes=once("string"))
    workflow = Workflow("w").link(tagged("a"), principal, as_="x").configure(principal, fallback=stand_in)
    assert joined(workflow) == [("validation.kind_mismatch", "stand_in", "a")]


def test_routed_workflows_have_no_joins_to_name() -> None:
    first, second = step("first"), step("second")
    workflow = Workflow("w").link(first, second, as_="x").branch(second, otherwise(step("third")))
    assert ("graph.mixed_discipline", "second", None) in joined(workflow)


def test_repeating_a_link_keeps_its_first_name() -> None:
    a, b = tagged("a"), step("b")
    workflow = Workflow("w").link(a, b, as_="x").link(a, b)
    assert [edge.as_ for edge in workflow.clone().wiring.edges] == ["x"]
