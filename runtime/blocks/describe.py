"""A workflow as plain data, and the data as pictures: Mermaid for documents, lines of text for a terminal (spec §9.1).

The data is::

    {"name", "discipline": "dataflow" | "routed", "entry", "output_node", "input", "output", "max_steps", "max_parallel",
     "nodes": [{"name", "type", "title", "input", "output", "side_effects", "timeout", "reads", "store_as", "accept",
                "fallback", "optional", "lane", "workflow"?: {… the same of a nested workflow}}],
     "links": [{"source", "target", "pick", "as"}],
     "branches": {source: [{"condition", "target"}]},
     "on_error": [{"source", "handler"}],
     "issues": [{"code", "severity", "node_path", "other", "message", "details"?}]}

Contracts read like ``once string|map``; nodes, links and cases stand in registration order. Names and conditions come
from whoever wrote the workflow, so a picture holds them as inert text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from runtime.blocks.contracts import BlockValueKindSet
from runtime.blocks.plan import effective_output, is_routed

if TYPE_CHECKING:
    from runtime.blocks.wiring import Node
    from runtime.blocks.workflow import Workflow

#: Longest label in a picture, in characters.
MAX_LABEL: Final = 120
_MAPPING: Final = "map_over"


def describe(workflow: Workflow) -> dict[str, Any]:
    """The data above. Runs nothing; a workflow that contains itself is described down to where it does."""
    wiring = workflow.wiring
    plan = workflow.plan()
    return {
        "name": workflow.block_name,
        "discipline": "routed" if is_routed(wiring) else "dataflow",
        "entry": wiring.entry_name,
        "output_node": plan.output,
        "input": str(workflow.input_contract),
        "output": str(workflow.output_contract),
        "max_steps": workflow.max_steps,
        "max_parallel": workflow.max_parallel,
        "nodes": [_node(workflow, node) for node in wiring.nodes.values()],
        "links": [
            {"source": edge.source, "target": edge.target, "pick": edge.pick, "as": edge.as_} for edge in wiring.edges
        ],
        "branches": {
            source: [{"condition": case.label, "target": str(case.target)} for case in cases]
            for source, cases in wiring.branches.items()
        },
        "on_error": [{"source": source, "handler": handler} for source, handler in wiring.handlers],
        "issues": [issue.record() for issue in plan.issues],
    }


def _node(workflow: Workflow, node: Node) -> dict[str, Any]:
    block = node.variant()
    kind = block.spec.type_id
    picture: dict[str, Any] = {
        "name": node.name,
        "type": "workflow" if block.is_workflow and kind != _MAPPING else kind,
        "title": block.block_name if block.is_workflow else block.spec.display_name,
        "input": str(block.input_contract),
        "output": str(effective_output(workflow.wiring, node)),
        "side_effects": block.side_effects.value,
        "timeout": block.attempt_timeout,
        "reads": list(node.read_keys),
        "store_as": node.store_key,
        "accept": list(node.options.accept),
        "fallback": node.options.fallback,
        "optional": node.options.optional,
        "lane": node.options.lane,
    }
    if block.is_workflow:
        inner = cast("Workflow", block)
        if not any(issue.code == "graph.recursive_workflow" for issue in inner.issues()):
            picture["workflow"] = describe(inner)
    return picture


def plain_label(text: object, limit: int = MAX_LABEL) -> str:
    """One printable line: everything else is spelled as ``\\uXXXX``, and what is too long is cut."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(text))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


# -- Mermaid ------------------------------------------------------------------------------------------------------


def mermaid(data: Mapping[str, Any]) -> str:
    """A Mermaid flowchart. Node ids are made up and every label is quoted, so no text can end its label."""
    return "\n".join(["flowchart TD", *_chart(data, "n", "    ")]) + "\n"


def _chart(data: Mapping[str, Any], prefix: str, indent: str) -> Iterator[str]:
    ids = {node["name"]: f"{prefix}{index}" for index, node in enumerate(data["nodes"])}
    for node in data["nodes"]:
        own = ids[node["name"]]
        if "workflow" in node and node["workflow"]["nodes"]:
            yield f"{indent}subgraph {own}[{_quoted(node['name'], *_mapping(node))}]"
            yield from _chart(node["workflow"], f"{own}_", indent + "    ")
            yield f"{indent}end"
            continue
        left, right = ("([", "])") if node["name"] == data["entry"] else ("[", "]")
        yield f"{indent}{own}{left}{_quoted(node['name'], node['type'])}{right}"
    for source, target, label, dotted in _arrows(data):
        if source in ids and target in ids:
            arrow = "-.->" if dotted else "-->"
            yield f"{indent}{ids[source]} {arrow}{f'|{_quoted(label)}|' if label else ''} {ids[target]}"


def _mapping(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a composite that runs what is in it once per item: its kind, and how many at once."""
    return (f"{_MAPPING}, {node['workflow']['max_parallel']} at once",) if node["type"] == _MAPPING else ()


def _quoted(*parts: str) -> str:
    lines = [
        "".join(char if char.isalnum() or char in " _.-=…" else f"#{ord(char)};" for char in plain_label(part))
        for part in parts
    ]
    return f'"{"<br>".join(lines)}"'


def _arrows(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Everything that leads from one node to another: source, target, what to write on it, and is it a side path."""
    for link in data["links"]:
        picked = "" if link["pick"] is None else f"pick {link['pick']} "
        named = "" if link["as"] is None else f"as {link['as']}"
        yield link["source"], link["target"], f"{picked}{named}".rstrip(), False
    for source, cases in data["branches"].items():
        for case in cases:
            yield source, case["target"], case["condition"], False
    for pair in data["on_error"]:
        yield pair["source"], pair["handler"], "on error", True
    for node in data["nodes"]:
        if node["fallback"] is not None:
            yield node["name"], node["fallback"], "fallback", True


# -- text ---------------------------------------------------------------------------------------------------------


def text(data: Mapping[str, Any]) -> str:
    """Lines for a terminal: every node with what it takes and gives, below it where it leads; then the issues."""
    lines = [f"{plain_label(data['name'])}: {data['discipline']}, {_contracts(data)}"]
    lines += _nodes(data, "  ")
    if data["issues"]:
        lines.append("issues:")
    for issue in data["issues"]:
        where = plain_label(issue["node_path"]) or plain_label(data["name"])
        lines.append(f"  {issue['severity']} {issue['code']} at {where}: {plain_label(issue['message'], 400)}")
    return "\n".join(lines) + "\n"


def _contracts(data: Mapping[str, Any]) -> str:
    return f"{data['input']} -> {data['output']}".replace(str(BlockValueKindSet.ANY), "any")


def _nodes(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    arrows = list(_arrows(data))
    for node in data["nodes"]:
        mark = "* " if node["name"] == data["entry"] else "- "
        kind = "".join(_mapping(node)) if "workflow" in node else ""
        yield f"{indent}{mark}{plain_label(node['name'])} [{kind or node['type']}] {_contracts(node)}"
        if "workflow" in node:
            yield from _nodes(node["workflow"], indent + "    | ")
        for source, target, label, dotted in arrows:
            if source == node["name"]:
                told = f" ({plain_label(label)})" if label else ""
                yield f"{indent}    {'..>' if dotted else '-->'} {plain_label(target)}{told}"
