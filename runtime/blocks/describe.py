"""A workflow as plain data: for consoles to draw, and built from mappings (blocks spec §9.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.blocks.block import Block
from runtime.blocks.conditions import Case, Condition
from runtime.blocks.plan import effective_output, is_routed
from runtime.blocks.validation import PRESENCE
from runtime.blocks.wiring import Issue, Node
from runtime.blocks.workflow import Workflow


def describe(workflow: Workflow) -> dict[str, Any]:
    """Nodes, links, branches, handlers and contracts, in registration order."""
    wiring = workflow.wiring
    return {
        "name": workflow.block_name,
        "discipline": "routed" if is_routed(wiring) else "dataflow",
        "entry": wiring.entry_name,
        "nodes": [_node(workflow, node) for node in wiring.nodes.values()],
        "links": [{"source": edge.source, "target": edge.target, "pick": edge.pick} for edge in wiring.edges],
        "branches": {
            source: [{"condition": case.label, "target": case.target} for case in cases]
            for source, cases in wiring.branches.items()
        },
        "on_error": [{"source": source, "handler": handler} for source, handler in wiring.handlers],
        "issues": [issue.record() for issue in workflow.issues()],
    }


def _node(workflow: Workflow, node: Node) -> dict[str, Any]:
    block = node.variant()
    picture: dict[str, Any] = {
        "name": node.name,
        "type": "workflow" if block.is_workflow else block.spec.type_id,
        "input": str(block.input_contract),
        "output": str(effective_output(workflow.wiring, node)),
        "side_effects": block.side_effects.value,
        "timeout": block.attempt_timeout,
        "reads": list(node.read_keys),
        "accept": list(node.options.accept),
        "fallback": node.options.fallback,
        "optional": node.options.optional,
        "lane": node.options.lane,
    }
    if isinstance(block, Workflow) and not any(issue.code == "graph.recursive_workflow" for issue in block.issues()):
        picture["workflow"] = describe(block)
    return picture


def from_transitions(
    name: str,
    nodes: Mapping[str, Block],
    entry_point: str,
    transitions: Mapping[str, object],
    max_steps: int = 128,
) -> Workflow:
    """The routed form as mappings: a transition is a target name, or a list of ``{condition?, target}`` mappings."""
    workflow = Workflow(name, max_steps=max_steps)
    for node_name, block in nodes.items():
        workflow.configure(block, name=node_name)
    workflow.wiring.routed = True
    workflow.wiring.entry = entry_point
    for source, transition in transitions.items():
        if isinstance(transition, str):
            workflow.link(source, transition)
        elif isinstance(transition, Sequence):
            _import_cases(workflow, source, transition)
        else:
            text = f"the transition of {source!r} must be a node name or a list of cases"
            workflow.wiring.imported.append((PRESENCE, Issue("graph.bad_transition", "error", source, text)))
    return workflow


def _import_cases(workflow: Workflow, source: str, cases: Sequence[object]) -> None:
    made: list[Case] = []
    for case in cases:
        if not isinstance(case, Mapping) or not case.get("target"):
            text = f"a branch of {source!r} names no target"
            workflow.wiring.imported.append((PRESENCE, Issue("graph.missing_target", "error", source, text)))
            continue
        condition: Condition = case.get("condition") or "default"
        made.append(Case(condition, str(case["target"])))
    if made:
        workflow.branch(source, *made)
