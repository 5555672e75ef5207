"""Several outputs of one node: n values for k links (blocks spec §11.4, §24)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.contracts import multiple
from runtime.blocks.envelope import Response
from runtime.blocks.results import Multiple
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Step, respond, step


def several(*values: Any, count: int | None = None) -> Step:
    return step("many", lambda v, c: Multiple(values), gives=multiple(), count=count)


async def fan(values: int, links: int) -> tuple[Response, list[Any]]:
    workflow, source = Workflow("w"), several(*range(values))
    workflow.add(source)
    targets = [step(f"t{index}") for index in range(links)]
    for target in targets:
        workflow.link(source, target)
    response = await respond(workflow)
    return response, [target.calls[0].to_python() if target.calls else None for target in targets]


async def test_as_many_values_as_links_go_one_to_each_in_link_order() -> None:
    assert (await fan(3, 3))[1] == [0, 1, 2]


async def test_one_link_gets_the_list_of_all_values() -> None:
    assert (await fan(3, 1))[1] == [[0, 1, 2]]
    assert (await fan(0, 1))[1] == [[]]


async def test_no_link_makes_the_list_the_nodes_output() -> None:
    assert (await fan(3, 0))[0].data.to_python() == [0, 1, 2]


@pytest.mark.parametrize(("values", "links"), [(3, 2), (2, 3), (0, 2)])
async def test_more_or_fewer_values_than_links_start_no_successor(values: int, links: int) -> None:
    response, delivered = await fan(values, links)
    assert (response.reason, response.code) == ("fanout_mismatch", "runtime.fanout_mismatch")
    assert response.details.to_python() == {"values": values, "links": links}
    assert response.metadata["phase"] == "graph"
    assert delivered == [None] * links


async def test_a_mismatch_is_charged_to_the_producer_and_told_its_handlers() -> None:
    handler = step("handler", lambda value, ctx: value)
    workflow, source = Workflow("w"), several(1, 2, 3)
    workflow.link(source, step("a")).link(source, step("b")).on_error(source, handler)
    report = await workflow.start().result()
    assert report.response.metadata["failure_path"] == ["many"]
    assert (report.nodes["many"].status, report.nodes["many"].code) == ("failed", "runtime.fanout_mismatch")
    assert handler.calls[0]["code"] == BlockValue.of("runtime.fanout_mismatch")
    assert report.ledger is not None
    assert report.ledger["many"].to_python() == [1, 2, 3]


async def test_pick_selects_one_value_per_link() -> None:
    workflow, source = Workflow("w"), several("a", "b", "c")
    last, first = step("last"), step("first")
    workflow.link(source, last, pick=2).link(source, first, pick=0)
    await respond(workflow)
    assert (last.calls[0].payload, first.calls[0].payload) == ("c", "a")
    workflow = Workflow("w").link(several("a"), step("x"), pick=3)
    assert (await respond(workflow)).code == "runtime.fanout_mismatch"


async def test_one_picked_link_gets_its_value_and_not_the_list() -> None:
    only = step("only")
    await respond(Workflow("w").link(several("a", "b"), only, pick=1))
    assert [value.payload for value in only.calls] == ["b"]


async def test_a_handed_on_list_counts_as_one_value() -> None:
    workflow = Workflow("w").link(several([1, 2], [3]), step("first"), pick=0)
    assert (await respond(workflow)).data.to_python() == [1, 2]
