"""Failure observers: told once about every node that failed for good, unable to change anything (blocks spec §17)."""

from __future__ import annotations

from typing import Any, Final

from runtime.blocks.bounded import run_bounded
from runtime.blocks.envelope import Response
from runtime.blocks.errors import BlockTimeout
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.plan import PlanNode
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import BlockValue

_ENGINE_FAMILIES: Final = frozenset({"runtime", "graph", "recovery"})


async def run_handlers(graph: GraphRun, name: str, failure: Response) -> None:
    """Run all handlers of ``name`` concurrently with the same envelope; their outcome changes nothing."""
    node = graph.plan.nodes[name]
    if not node.handlers:
        return
    envelope = failure_envelope(graph, node, failure)
    graph.observe("on_error.dispatch_started", {"source": name, "count": len(node.handlers)})
    responses = await run_bounded(
        node.handlers,
        lambda handler: _run_one(graph, name, handler, envelope),
        graph.workflow.max_parallel,
    )
    for handler in node.handlers:
        if responses[handler].success:
            graph.commit(handler, responses[handler])
    succeeded = sum(response.success for response in responses.values())
    counts = {"count": len(node.handlers), "succeeded": succeeded, "failed": len(node.handlers) - succeeded}
    graph.observe("on_error.dispatch_completed", {"source": name, **counts})


async def _run_one(graph: GraphRun, source: str, handler: str, envelope: BlockValue) -> Response:
    graph.observe("on_error.handler_started", {"source": source, "handler": handler})
    response = await graph.execute_node(handler, envelope, (source,), kind="handler")
    event = "on_error.handler_succeeded" if response.success else "on_error.handler_failed"
    graph.observe(event, {"source": source, "handler": handler, "code": response.code})
    return response


def failure_envelope(graph: GraphRun, node: PlanNode, failure: Response) -> BlockValue:
    """The MAP every handler of this failure receives."""
    error = failure.error
    code = failure.code or "runtime.internal"
    family = code.partition(".")[0]
    members: dict[str, Any] = {
        "origin": "runtime" if family in _ENGINE_FAMILIES else "block",
        "domain": family if error is None else error.domain,
        "code": code,
        "message": clean_text(failure.message),
        "retry_disposition": (error.retry_disposition if error else None) or "never",
        "severity": error.severity if error else "error",
        "workflow_id": graph.workflow.block_name,
        "run_id": graph.attempt.metadata["run_id"],
        "block_id": graph.path_of(node.name),
        "attempt": failure.metadata.get("attempt", 1),
        "provider_status": error.provider_status if error else None,
        "ts": int(graph.scope.services.clock.now().timestamp() * 1000),
        "reason": failure.reason,
        "details": failure.details,
    }
    if node.block.is_workflow and not failure.skipped:
        own_deadline = failure.error_type is BlockTimeout and "failure_path" not in failure.metadata
        members |= {"cause_domain": members["domain"], "cause_code": code, "domain": "child_workflow"}
        members["code"] = "child.timeout" if own_deadline else "child.failed"
    return BlockValue.of(members)
