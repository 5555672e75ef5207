"""The frozen picture a scheduler runs from: ordered nodes, levels, deliveries and the issues found on the way.

Compiling a plan runs no author code, touches no service and writes no ledger. A plan is reused until the wiring
changes, at any depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.blocks import topology
from runtime.blocks.conditions import Case, Predicate, StatefulCondition
from runtime.blocks.contracts import BlockMode, BlockValueContract, BlockValueKindSet
from runtime.blocks.effects import SideEffects
from runtime.blocks.running import NodeOptions
from runtime.blocks.wiring import Edge, Issue, Node, Wiring

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One resolved case of a branch; ``condition`` None always holds."""

    condition: Predicate | StatefulCondition | None
    label: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """One node as the scheduler sees it; ``index`` is its registration position."""

    name: str
    index: int
    block: Block
    options: NodeOptions
    reads: tuple[str, ...]
    store_key: str
    output: BlockValueContract
    inbound: tuple[Edge, ...] = ()
    outbound: tuple[Edge, ...] = ()
    arms: tuple[Arm, ...] = ()
    handlers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything one execution needs. ``issues`` is complete; with an error-level one nothing may run.

    ``recurring``: the entry gives a stream, and the rest runs once per item.
    """

    routed: bool
    recurring: bool = False
    entry: str | None
    nodes: Mapping[str, PlanNode]
    levels: tuple[tuple[str, ...], ...] = ()
    output: str | None = None
    issues: tuple[Issue, ...] = ()
    stages: tuple[int, ...] = ()  # the validation stage of each issue
    version: tuple[int, ...] = ()
    reached: frozenset[str] = field(default_factory=frozenset)
    side_effects: SideEffects = SideEffects.NON_IDEMPOTENT  # the worst its nodes declare

    @property
    def errors(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.is_error)


def successors(wiring: Wiring) -> dict[str, list[str]]:
    """Data successors per node, links before branches, in wiring order; unknown names are left out."""
    result: dict[str, list[str]] = {name: [] for name in wiring.nodes}
    pairs = [(edge.source, edge.target) for edge in wiring.edges]
    pairs += [(source, case.target) for source, cases in wiring.branches.items() for case in cases]
    for source, target in pairs:
        if source in result and target in result:
            result[source].append(target)
    return result


def is_routed(wiring: Wiring) -> bool:
    return wiring.routed or bool(wiring.branches)


def effective_output(wiring: Wiring, node: Node, *, follow: bool = True) -> BlockValueContract:
    """What successors really get: ``accept`` makes a MAP, ``optional`` may make NULL, ``fallback`` adds its kinds."""
    contract = node.block.output_contract
    if node.options.accept:
        return BlockValueContract(BlockMode.ONCE, BlockValueKindSet.MAP)
    kinds = contract.kinds
    fallback = wiring.nodes.get(node.options.fallback or "")
    if follow and fallback is not None:
        kinds |= effective_output(wiring, fallback, follow=False).kinds
    if node.options.optional:
        kinds |= BlockValueKindSet.NULL
    return BlockValueContract(contract.mode, kinds)


def data_kinds(contract: BlockValueContract) -> BlockValueKindSet:
    """The kinds of a node's output as one value: a MULTIPLE producer's data is a LIST."""
    return BlockValueKindSet.LIST if contract.mode is BlockMode.MULTIPLE else contract.kinds


def output_node(wiring: Wiring, reached: set[str], follow: Mapping[str, list[str]]) -> str | None:
    """The node whose value is the workflow's (blocks spec §11.6), as far as the plan can tell."""
    if wiring.output is not None and wiring.output in reached:
        return wiring.output
    sinks = [name for name in wiring.nodes if name in reached and not follow.get(name)]
    if len(sinks) <= 1:
        return sinks[0] if sinks else None
    for edge in reversed(wiring.edges):
        if edge.target in sinks:
            return edge.target
    return sinks[0]


def workflow_contracts(wiring: Wiring) -> tuple[BlockValueContract, BlockValueContract]:
    """Input and output contract of a workflow node (blocks spec §10)."""
    entry = wiring.nodes.get(wiring.entry_name or "")
    if entry is None or wiring.asked:
        return BlockValueContract(), BlockValueContract()
    wiring.asked = True  # a workflow that contains itself would ask for ever; validation reports it
    try:
        return entry.block.input_contract, _output_contract(wiring, entry)
    finally:
        wiring.asked = False


def _output_contract(wiring: Wiring, entry: Node) -> BlockValueContract:
    follow = successors(wiring)
    reached = topology.reachable(follow, [entry.name])
    if is_routed(wiring):
        kinds = BlockValueKindSet.EMPTY
        for name in wiring.nodes:
            if name in reached and not follow[name]:
                kinds |= data_kinds(effective_output(wiring, wiring.nodes[name]))
        return BlockValueContract(BlockMode.ONCE, kinds or BlockValueKindSet.ANY)
    last = output_node(wiring, reached, follow)
    contract = effective_output(wiring, wiring.nodes[last]) if last else BlockValueContract()
    return BlockValueContract(BlockMode.ONCE, data_kinds(contract))


def build_nodes(wiring: Wiring, conditions: Mapping[int, Predicate | StatefulCondition]) -> dict[str, PlanNode]:
    """Plan nodes with their resolved neighbours; ``conditions`` maps the identity of a case to its condition."""
    known = wiring.nodes
    inbound: dict[str, list[Edge]] = {}
    outbound: dict[str, list[Edge]] = {}
    handlers: dict[str, list[str]] = {}
    for edge in wiring.edges:
        if edge.source in known and edge.target in known:
            inbound.setdefault(edge.target, []).append(edge)
            outbound.setdefault(edge.source, []).append(edge)
    for source, handler in wiring.handlers:
        handlers.setdefault(source, []).append(handler)
    return {
        name: PlanNode(
            name=name,
            index=index,
            block=node.variant(),
            options=node.options,
            reads=node.read_keys,
            store_key=node.store_key,
            output=effective_output(wiring, node),
            inbound=tuple(inbound.get(name, ())),
            outbound=tuple(outbound.get(name, ())),
            arms=tuple(_arm(case, conditions) for case in wiring.branches.get(name, ())),
            handlers=tuple(handlers.get(name, ())),
        )
        for index, (name, node) in enumerate(known.items())
    }


def _arm(case: Case, conditions: Mapping[int, Predicate | StatefulCondition]) -> Arm:
    return Arm(condition=conditions.get(id(case)), label=case.label, target=str(case.target))


def wiring_version(workflow: Workflow, inside: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Changes whenever the wiring of this workflow or of one inside it does; ends where one contains itself."""
    if id(workflow.wiring) in inside:
        return ()
    deeper = (*inside, id(workflow.wiring))
    parts = [wiring_version(inner, deeper) for inner in workflow.nested()]
    return (workflow.wiring.version, *(number for part in parts for number in part))
