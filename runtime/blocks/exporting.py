"""A workflow as portable data; the form is told in `runtime.blocks.definitions`, which reads it (blocks spec §9.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, cast

from runtime.blocks import errors, policies
from runtime.blocks.block import UNSET, Block
from runtime.blocks.conditions import Case, KeyCase
from runtime.blocks.errors import BlockDefinitionError, BlockInputError
from runtime.blocks.policies import Policy
from runtime.blocks.running import NodeOptions
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Node
from runtime.blocks.workflow import Workflow

#: The type of a node that holds a workflow.
CHILD: Final = "child_workflow"
DEFAULTS: Final = NodeOptions()
#: The policies the engine knows, by name. One that holds a function says so when it is exported.
POLICIES: Final[Mapping[str, Callable[..., Policy]]] = {
    kind.name: kind
    for kind in vars(policies).values()
    if isinstance(kind, type) and issubclass(kind, Policy) and kind is not Policy
}
#: Error classes a recovery may name in a definition; an author's own class is code and does not travel.
ERRORS: Final[Mapping[str, type[Exception]]] = {
    kind.__name__: kind
    for kind in (
        Exception,
        errors.BlockError,
        errors.BlockInputError,
        errors.BlockValidationError,
        errors.BlockRuntimeError,
        errors.BlockTimeout,
        errors.BlockInternalError,
        errors.GraphError,
        errors.RecoveryError,
        errors.OperationFailed,
    )
}


def to_definition(workflow: Workflow, inside: tuple[int, ...] = ()) -> dict[str, Any]:
    """The definition of ``workflow``, as fresh plain data. Raises `BlockDefinitionError` ``definition.not_exportable``."""
    if id(workflow.wiring) in inside:
        raise _not_exportable(workflow.block_name, "it contains itself")
    wiring, deeper = workflow.wiring, (*inside, id(workflow.wiring))
    if wiring.imported:
        raise _not_exportable(workflow.block_name, wiring.imported[0][1].message)
    told: dict[str, Any] = {
        "name": workflow.workflow_name,
        "max_steps": workflow.max_steps,
        "max_parallel": workflow.max_parallel,
        "entry": wiring.entry_name,
        "nodes": [_node_out(node, deeper) for node in wiring.nodes.values()],
        "links": [
            _known(**{"source": edge.source, "target": edge.target, "pick": edge.pick, "as": edge.as_})
            for edge in wiring.edges
        ],
        "branches": [
            {"source": source, "cases": [_case_out(source, item) for item in cases]}
            for source, cases in wiring.branches.items()
        ],
        "on_error": [{"source": source, "handler": handler} for source, handler in wiring.handlers],
        **_known(output=wiring.output, routed=wiring.routed or None, seed=dict(workflow.seed) or None),
        **_known(propagate=list(workflow.propagate) or None),
        **({} if inside else _overrides_out(workflow, workflow.block_name)),
    }
    return cast("dict[str, Any]", BlockValue.of(told).to_python())


def _node_out(node: Node, inside: tuple[int, ...]) -> dict[str, Any]:
    block, options = node.variant(), node.options
    told = {"name": node.name, **_block_out(block, node.name, inside), **_overrides_out(block, node.name)}
    told |= _known(reads=None if node.reads is None else list(node.reads), store_as=node.store_as)
    for key in ("accept", "fallback", "optional", "lane", "extra"):
        value = getattr(options, key)
        if value != getattr(DEFAULTS, key):
            told[key] = _portable(value, node.name, key)
    return told


def _block_out(block: Block, name: str, inside: tuple[int, ...]) -> dict[str, Any]:
    if block.is_workflow and not block.spec.local:
        return {"type": CHILD, "config": {"definition": to_definition(cast(Workflow, block), inside)}}
    if block.spec.local:
        raise _not_exportable(name, f"{type(block).__name__} holds functions or other things that are no values")
    config = block.config()
    if block.free_form_field is not None:
        config = config[block.free_form_field]
    values = {key: _portable(value, name, key) for key, value in config.items()}
    return {"type": block.spec.type_id, "version": block.spec.version, "config": values}


def _overrides_out(block: Block, name: str) -> dict[str, Any]:
    said = block._overrides
    told: dict[str, Any] = _known(block_name=said.name, side_effects=said.side_effects and said.side_effects.value)
    if said.timeout is not UNSET:
        told["timeout"] = said.timeout
    if said.retry is not None:
        told["retry"] = _policy_out(said.retry, name)
    if said.recovery is not None:
        told["recovery"] = [
            {"error": _error_out(kind, name), "policies": [_policy_out(policy, name) for policy in stack]}
            for kind, stack in said.recovery.items()
        ]
    return told


def _error_out(kind: type[Exception], name: str) -> str:
    if ERRORS.get(kind.__name__) is not kind:
        raise _not_exportable(name, f"its recovery names the class {kind.__name__}, which is code; use its base class")
    return kind.__name__


def _policy_out(policy: object, name: str) -> dict[str, Any]:
    if type(policy) not in POLICIES.values():
        raise _not_exportable(name, f"its recovery holds a {type(policy).__name__}, which is code")
    said = {item.name: getattr(policy, item.name) for item in fields(cast(Any, policy))}
    told = {key: _portable(value, name, f"the {key} of its recovery") for key, value in said.items()}
    return {"policy": cast(Policy, policy).name, **told}


def _case_out(source: str, item: Case) -> dict[str, Any]:
    if item.is_default:
        return {"target": item.target}
    if isinstance(item.condition, str):
        return {"target": item.target, "condition": item.condition}
    if isinstance(item.condition, KeyCase):
        told = _known(key=item.condition.key, contains=item.condition.contains)
        if item.condition.equals is not None:
            told["equals"] = item.condition.equals
        return {"target": item.target, "condition": told}
    raise _not_exportable(source, f"the condition {item.label!r} is a function; register it by name, or use case(...)")


def _portable(value: object, name: str, key: str) -> BlockValue:
    try:
        return BlockValue.of(value)
    except BlockInputError as error:
        raise _not_exportable(name, f"{key}: {error.message}") from None


def _known(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def _not_exportable(name: str, why: str) -> BlockDefinitionError:
    return BlockDefinitionError("definition.not_exportable", f"{name!r} cannot be put into a definition: {why}")
