"""The parallel discipline: levels of a graph without cycles, one after the other (blocks spec §11).

Order never depends on timing: nodes of a level start in registration order, outputs join in link order, and the ledger
is written after the level ended, in registration order. A failing node never cancels its siblings; cancellation and
halts do, and they are awaited.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from runtime.blocks.bounded import run_bounded
from runtime.blocks.contracts import BlockMode
from runtime.blocks.envelope import Response, failed
from runtime.blocks.errors import BlockRuntimeError, engine_error
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.handlers import run_handlers
from runtime.blocks.plan import PlanNode
from runtime.blocks.results import Multiple
from runtime.blocks.values import BlockValue, list_of

#: Values on their way, by link.
Deliveries = dict[tuple[str, str], BlockValue]


async def run_dataflow(graph: GraphRun, item: Response | None = None) -> Response:
    """Run every level; ends with the workflow's output, or with the first failed node in registration order.

    ``item`` is what a recurring entry gave: the entry alone is the first level.
    """
    plan = graph.plan
    deliveries: Deliveries = {}
    kept: dict[str, Response] = {}
    for index, level in enumerate(plan.levels):
        if graph.scope.observer is not None:
            graph.observe("level.started", {"index": index, "nodes": list(level)})
        given = None if index else item
        responses = {level[0]: given} if given is not None else await _run_level(graph, level, deliveries)
        ended = _settle_level(graph, level, responses, deliveries)
        if graph.scope.observer is not None:
            graph.observe("level.completed", {"index": index, "nodes": list(level)})
        if ended:
            return await _fail(graph, ended)
        if plan.output in responses:
            kept[plan.output] = responses[plan.output]
    output = plan.output or plan.levels[-1][-1]
    return graph.success(output, kept[output].data, kept[output])


async def _run_level(graph: GraphRun, level: Sequence[str], deliveries: Deliveries) -> dict[str, Response]:
    graph.level_floor = graph.ledger.length
    if len(level) == 1:
        name = level[0]
        return {name: await graph.execute_node(name, *_input(graph, graph.plan.nodes[name], deliveries))}

    def start(name: str) -> Coroutine[Any, Any, Response]:
        value, sources = _input(graph, graph.plan.nodes[name], deliveries)
        return graph.execute_node(name, value, sources)

    return await run_bounded(level, start, graph.workflow.max_parallel, stop=lambda response: not response.success)


def _input(graph: GraphRun, node: PlanNode, deliveries: Deliveries) -> tuple[BlockValue, tuple[str, ...]]:
    edges = node.inbound
    if node.name == graph.plan.entry:
        return graph.request.payload, ()
    if edges[0].as_ is not None:  # the plan saw to it that all are named
        named = {edge.as_: deliveries[edge.source, node.name] for edge in edges}
        return BlockValue.of(named), tuple(edge.source for edge in edges)
    if len(edges) == 1:
        return deliveries[edges[0].source, node.name], (edges[0].source,)
    return list_of(deliveries[edge.source, node.name] for edge in edges), tuple(edge.source for edge in edges)


def _settle_level(
    graph: GraphRun,
    level: Sequence[str],
    responses: dict[str, Response],
    deliveries: Deliveries,
) -> dict[str, Response]:
    """Commit and deliver in registration order; returns the nodes that failed or skipped, in that order."""
    ended: dict[str, Response] = {}
    for name in level:
        response = responses.get(name)
        if response is None:
            continue  # never started, because a sibling failed first
        if response.success:
            graph.commit(name, response)
            mismatch = _deliver(graph.plan.nodes[name], response, deliveries)
            if mismatch is not None:
                outcome = graph.outcomes[name]  # its visit went well, but the fault is put down to it
                outcome.status, outcome.code = "failed", mismatch.code
                ended[name] = mismatch
        else:
            ended[name] = response
    return ended


def _deliver(node: PlanNode, response: Response, deliveries: Deliveries) -> Response | None:
    """Hand a node's output to its links (blocks spec §11.4); returns a failure when the counts cannot match."""
    edges = node.outbound
    picked = bool(edges) and edges[0].pick is not None
    spread = picked or len(edges) >= 2
    if not (isinstance(response.result, Multiple) and spread and node.output.mode is BlockMode.MULTIPLE):
        for edge in edges:
            deliveries[edge.source, edge.target] = response.data
        return None
    values = response.result.values
    wanted = [edge.pick for edge in edges if edge.pick is not None] if picked else list(range(len(edges)))
    if (not picked and len(values) != len(edges)) or any(index >= len(values) for index in wanted):
        return _mismatch(node, response, len(values), len(edges))
    for edge, index in zip(edges, wanted, strict=True):
        deliveries[edge.source, edge.target] = values[index]
    return None


def _mismatch(node: PlanNode, response: Response, produced: int, links: int) -> Response:
    error = engine_error(
        BlockRuntimeError,
        "runtime.fanout_mismatch",
        f"{node.name} produced {produced} values for {links} links",
        details={"values": produced, "links": links},
    )
    return failed(response.metadata, error, "graph")


async def _fail(graph: GraphRun, ended: dict[str, Response]) -> Response:
    for name, response in ended.items():
        await run_handlers(graph, name, response)
    broken = [name for name, response in ended.items() if not response.skipped]
    if not broken:
        first = next(iter(ended))
        return graph.skipped(first, ended[first])
    return graph.failure(broken[0], ended[broken[0]], tuple(broken[1:]))
