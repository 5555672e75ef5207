"""The single-cursor discipline: follow links and branches, cycles included, at most ``max_steps`` visits (spec §12)."""

from __future__ import annotations

from runtime.blocks.conditions import holds
from runtime.blocks.envelope import Response
from runtime.blocks.errors import GraphError, engine_error
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.handlers import run_handlers
from runtime.blocks.plan import PlanNode


async def run_routed(graph: GraphRun, item: Response | None = None) -> Response:
    """Walk from the entry until a node without outgoing edge succeeds. ``item``: what a recurring entry gave."""
    plan, limit = graph.plan, graph.workflow.max_steps
    current = plan.entry or ""
    value = graph.request.payload
    previous: tuple[str, ...] = ()
    for _ in range(limit):
        node = plan.nodes.get(current)
        if node is None:
            return graph.graph_failure(current, _fault("graph.unknown_node", f"there is no node {current!r}", current))
        response, item = item or await graph.execute_node(current, value, previous), None
        if not response.success:
            await run_handlers(graph, current, response)
            return graph.skipped(current, response) if response.skipped else graph.failure(current, response)
        graph.commit(current, response)
        if not node.outbound and not node.arms:
            return graph.success(current, response.data, response)
        try:
            following = _next(graph, node, response)
        except GraphError as fault:
            return graph.graph_failure(current, fault, response)
        value, previous, current = response.data, (current,), following
    text = f"the walk did not end within {limit} steps; it would visit {current!r} next"
    error = engine_error(GraphError, "graph.max_steps_exceeded", text, details={"max_steps": limit, "node": current})
    return graph.graph_failure(current, error)


def _next(graph: GraphRun, node: PlanNode, response: Response) -> str:
    """The next node name; raises `GraphError` when a condition fails or none holds."""
    if node.outbound:
        return node.outbound[0].target
    state = graph.ledger.view
    for arm in node.arms:
        if arm.condition is None or holds(arm.condition, arm.label, response, state):
            return arm.target
    raise _fault("graph.no_transition", f"no condition after {node.name!r} holds; add an otherwise", node.name)


def _fault(code: str, message: str, node: str) -> GraphError:
    return engine_error(GraphError, code, message, details={"node": node})
