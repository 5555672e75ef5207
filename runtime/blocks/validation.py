"""Plan validation: every problem of a graph, found before anything runs (blocks spec §10).

Stages run in order and collect issues in registration order. Nothing here calls author code that may have effects:
only contracts, config and wiring are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from runtime.blocks import topology
from runtime.blocks.conditions import Predicate, StatefulCondition
from runtime.blocks.contracts import BlockMode, BlockValueKindSet
from runtime.blocks.ledger import INPUT
from runtime.blocks.plan import (
    Plan,
    build_nodes,
    data_kinds,
    effective_output,
    is_routed,
    output_node,
    successors,
    wiring_version,
)
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Issue, Node, Wiring
from runtime.kernel.outcomes import acceptable

if TYPE_CHECKING:
    from runtime.blocks.workflow import Workflow

PRESENCE, TYPES, DISCIPLINE, TOPOLOGY, CONDITIONS, BINDINGS, MODES, KINDS, HANDLERS, READS, CONFIG, NESTED, ENTRY = (
    range(1, 14)
)
WARNINGS: Final = 14
_MAP: Final = BlockValueKindSet.MAP


def compile_plan(workflow: Workflow, *, path: str = "", inside: tuple[int, ...] = ()) -> Plan:
    """The plan of a workflow with every issue found, nested ones path-prefixed."""
    return _Check(workflow, path, (*inside, id(workflow.wiring))).plan()


def entry_issue(plan: Plan, value: BlockValue) -> Issue | None:
    """Does the run input's kind pass the entry's input gate (P13)?"""
    if plan.entry is None or plan.entry not in plan.nodes:
        return None
    contract = plan.nodes[plan.entry].block.input_contract
    if contract.admits(value):
        return None
    kind = value.kind.name.lower()
    return Issue(
        "validation.entry_input", "error", plan.entry, f"the entry takes {contract.kinds}, but the input is a {kind}"
    )


class _Check:
    """One pass over one workflow."""

    def __init__(self, workflow: Workflow, path: str, inside: tuple[int, ...]) -> None:
        self.workflow = workflow
        self.wiring: Wiring = workflow.wiring
        self.path = path
        self.inside = inside
        self.routed = is_routed(self.wiring)
        self.follow = successors(self.wiring)
        self.back = topology.reversed_graph(self.follow)
        self.entry = self.wiring.entry_name
        starts = [self.entry] if self.entry in self.wiring.nodes and self.entry is not None else []
        self.reached = topology.reachable(self.follow, starts)
        self.fallbacks = self.wiring.fallbacks()
        self.handler_names = {handler for _, handler in self.wiring.handlers}
        self.conditions: dict[int, Predicate | StatefulCondition] = {}
        self.found: list[tuple[int, Issue]] = []
        self.picks: dict[str, list[int | None]] = {}
        #: Target → the names of its links, in link order; only targets with a named one.
        self.joins: dict[str, list[str | None]] = {}
        for edge in self.wiring.edges:
            self.picks.setdefault(edge.source, []).append(edge.pick)
            self.joins.setdefault(edge.target, []).append(edge.as_)
        self.joins = {target: names for target, names in self.joins.items() if any(name is not None for name in names)}

    def plan(self) -> Plan:
        stages = [
            (PRESENCE, self.presence()),
            (DISCIPLINE, self.discipline()),
            (TOPOLOGY, self.topology()),
            (CONDITIONS, self.resolve_conditions()),
            (BINDINGS, self.bindings()),
            (MODES, self.modes()),
            (KINDS, self.kinds()),
            (HANDLERS, self.check_handlers()),
            (READS, self.check_reads()),
            (CONFIG, self.config()),
        ]
        for stage, issues in stages:
            self.found.extend(self._imported(stage))
            self.found.extend((stage, issue) for issue in issues)
            if stage == PRESENCE:
                self.found.extend(self._imported(TYPES))
        self.nested()
        self.found.extend((WARNINGS, issue) for issue in self.warnings())
        return self._assemble()

    def _imported(self, stage: int) -> Iterator[tuple[int, Issue]]:
        """What was found wrong with ``stage`` when the workflow was made from data."""
        for at, issue in self.wiring.imported:
            if at == stage:
                yield stage, replace(issue, node_path=self.path + issue.node_path)

    def _assemble(self) -> Plan:
        broken = any(issue.is_error for _, issue in self.found)
        order: list[list[str]] = []
        if not broken and not self.routed:
            order = topology.levels(self.follow, list(self.wiring.nodes), self.reached) or []
        return Plan(
            routed=self.routed,
            recurring=not broken and self.recurs(self.wiring.nodes[self.entry or ""]),
            entry=self.entry,
            nodes=build_nodes(self.wiring, self.conditions),
            levels=tuple(tuple(level) for level in order),
            output=output_node(self.wiring, self.reached, self.follow),
            issues=tuple(issue for _, issue in self.found),
            stages=tuple(stage for stage, _ in self.found),
            version=wiring_version(self.workflow) if not self.path else (),
            reached=frozenset(self.reached),
            side_effects=self.workflow.config_side_effects,
        )

    def error(self, code: str, node: str, message: str, other: str | None = None) -> Issue:
        return Issue(code, "error", self.path + node, message, other)

    # -- P1 -----------------------------------------------------------------------------------------------------

    def presence(self) -> Iterator[Issue]:
        nodes = self.wiring.nodes
        if self.entry is None:
            how = "the workflow is empty" if not nodes else "say which block starts with link or set_entry"
            yield self.error("graph.no_entry", "", f"no entry: {how}")
        elif self.entry not in nodes:
            yield self.error(
                "graph.unknown_entry", self.entry, f"the entry {self.entry!r} is not a block of this workflow"
            )
        for edge in self.wiring.edges:
            yield from self._known(edge.source, edge.target)
        for source, cases in self.wiring.branches.items():
            if not cases:
                yield self.error("graph.missing_target", source, f"the branch of {source!r} has no case")
            for case in cases:
                yield from self._known(source, str(case.target))
        for source, handler in self.wiring.handlers:
            yield from self._known(source, handler)
        for fallback, primaries in self.fallbacks.items():
            if fallback not in nodes:
                yield self.error(
                    "graph.unknown_target", primaries[0], f"the fallback {fallback!r} is not a block", fallback
                )

    def _known(self, source: str, target: str) -> Iterator[Issue]:
        if source not in self.wiring.nodes:
            yield self.error(
                "graph.unknown_source", source, f"a link starts at {source!r}, which is not a block here", target
            )
        if target not in self.wiring.nodes:
            yield self.error(
                "graph.unknown_target", source, f"a link leads to {target!r}, which is not a block here", target
            )

    # -- P3, P4 -------------------------------------------------------------------------------------------------

    def discipline(self) -> Iterator[Issue]:
        if not self.routed:
            return
        links: dict[str, int] = {}
        for edge in self.wiring.edges:
            links[edge.source] = links.get(edge.source, 0) + 1
            if edge.pick is not None:
                yield self._mixed(edge.source, "uses pick, which only the parallel discipline has")
            if edge.as_ is not None:
                yield self._mixed(edge.target, "has a named link, which only the parallel discipline has")
        for name, count in links.items():
            if name in self.wiring.branches:
                yield self._mixed(name, "has both links and a branch")
            elif count > 1:
                yield self._mixed(name, "links to several blocks")

    def _mixed(self, node: str, what: str) -> Issue:
        advice = "a workflow with branches follows one path; put the parallel part into a nested workflow"
        return self.error("graph.mixed_discipline", node, f"{node!r} {what}; {advice}")

    def topology(self) -> Iterator[Issue]:
        if not self.routed:
            cycle = topology.find_cycle(self.follow, list(self.wiring.nodes))
            if cycle is not None:
                text = f"the links form a cycle: {' -> '.join(cycle)}"
                yield replace(self.error("graph.cycle", cycle[0], text, cycle[-2]), details=(("cycle", tuple(cycle)),))
        for source, cases in self.wiring.branches.items():
            for position, case in enumerate(cases[:-1]):
                if case.is_default:
                    text = f"case {position + 1} of {source!r} is the default; move it to the end"
                    yield self.error("graph.default_not_last", source, text)
        for name, node in self.wiring.nodes.items():
            inner = _nested(node)
            if inner is not None and id(inner.wiring) in self.inside:
                yield self.error("graph.recursive_workflow", name, f"{name!r} contains the workflow it is part of")

    # -- P5, P6 -------------------------------------------------------------------------------------------------

    def resolve_conditions(self) -> Iterator[Issue]:
        for source, cases in self.wiring.branches.items():
            for case in cases:
                if case.is_default or case.condition is None:
                    continue
                condition = self.workflow.conditions.resolve(case.condition)
                if condition is None:
                    text = f"the condition {case.condition!r} of {source!r} is not registered"
                    yield self.error("graph.condition_unresolved", source, text)
                else:
                    self.conditions[id(case)] = condition

    def bindings(self) -> Iterator[Issue]:
        if not self.reached:
            return
        for source in self.wiring.nodes:
            if self.follow[source] and source not in self.reached:
                text = f"{source!r} feeds other blocks but cannot be reached from {self.entry!r}"
                yield self.error("validation.source_unreachable", source, text, self.follow[source][0])

    # -- P7 -----------------------------------------------------------------------------------------------------

    def modes(self) -> Iterator[Issue]:
        for name, node in self.wiring.nodes.items():
            if not self.routed:
                yield from self._join(name) if name in self.joins else self._single_input(name, node)
            yield from self._recurring(name, node)
            yield from self._fan_out(name, node)

    def _single_input(self, name: str, node: Node) -> Iterator[Issue]:
        sources = self.back.get(name, ())
        if len(sources) > 1 and node.block.input_contract.mode is not BlockMode.MULTIPLE:
            text = f"{name!r} takes one input but is linked from {', '.join(sources)}; declare input=multiple(...)"
            yield self.error("validation.mode_mismatch", name, text, sources[1])

    def _join(self, name: str) -> Iterator[Issue]:
        """A named join: all links have a name, and no two the same."""
        names = self.joins[name]
        if None in names:
            yield self.error("validation.bad_join", name, f"some links to {name!r} have a name and some have none")
        for item in dict.fromkeys(item for item in names if item is not None and names.count(item) > 1):
            yield self.error("validation.bad_join", name, f"two links to {name!r} have the name {item!r}")

    def _recurring(self, name: str, node: Node) -> Iterator[Issue]:
        if not self.recurs(node):
            return
        if self.path:
            yield self.error(
                "validation.recurring_nested", name, f"{name!r} recurs; that is not possible in a nested workflow"
            )
        elif name in self.handler_names:
            yield self.error("validation.recurring_handler", name, f"{name!r} recurs; a failure handler cannot")
        elif name != self.entry:
            yield self.error("validation.recurring_not_entry", name, f"{name!r} recurs; only the entry may")
        elif self.back.get(name):
            text = f"{name!r} recurs, so nothing may lead back to it; the next item starts the next round by itself"
            yield self.error("validation.recurring_not_entry", name, text, self.back[name][0])

    @staticmethod
    def recurs(node: Node) -> bool:
        return node.block.output_contract.mode is BlockMode.RECURRING

    def _fan_out(self, name: str, node: Node) -> Iterator[Issue]:
        edges = self.picks.get(name, [])
        picks = [pick for pick in edges if pick is not None]
        contract = effective_output(self.wiring, node)
        if picks and (len(picks) < len(edges) or contract.mode is not BlockMode.MULTIPLE):
            why = (
                "on all links of a block or on none"
                if len(picks) < len(edges)
                else "only behind a block with several outputs"
            )
            yield self.error("validation.bad_pick", name, f"pick may be used {why}")
            return
        count = node.block.output_count
        if contract.mode is not BlockMode.MULTIPLE or count is None or self.routed:
            return
        if (not picks and len(edges) >= 2 and len(edges) != count) or any(pick >= count for pick in picks):
            text = f"{name!r} produces {count} values for {len(edges)} links"
            yield self.error("validation.fanout_mismatch", name, text)

    # -- P8, P9 -------------------------------------------------------------------------------------------------

    def kinds(self) -> Iterator[Issue]:
        stand_ins = {primary: name for name, primaries in self.fallbacks.items() for primary in primaries}
        for source, targets in self.follow.items():
            delivered = self._delivered(source, len(targets))
            for target in targets:
                for taker in (target, stand_ins.get(target)):
                    node = self.wiring.nodes.get(taker or "")
                    gives = _MAP if target in self.joins else delivered
                    if node is not None and not gives.intersects(node.block.input_contract.kinds):
                        what = f"{source!r} gives" if target not in self.joins else "the named links give"
                        text = f"{what} {gives}, but {taker!r} takes {node.block.input_contract.kinds}"
                        yield self.error("validation.kind_mismatch", node.name, text, source)

    def _delivered(self, source: str, links: int) -> BlockValueKindSet:
        contract = effective_output(self.wiring, self.wiring.nodes[source])
        picked = any(pick is not None for pick in self.picks.get(source, ()))
        spread = contract.mode is BlockMode.MULTIPLE and not self.routed and (picked or links >= 2)
        return contract.kinds if spread else data_kinds(contract)

    def check_handlers(self) -> Iterator[Issue]:
        for source, handler in self.wiring.handlers:
            node = self.wiring.nodes.get(handler)
            if node is None:
                continue
            if handler == source:
                yield self.error("graph.self_handler", source, f"{source!r} cannot handle its own failure")
            if not node.block.input_contract.kinds.intersects(_MAP):
                text = f"{handler!r} handles failures, so it must take a map, not {node.block.input_contract.kinds}"
                yield self.error("validation.handler_kind_mismatch", handler, text, source)

    # -- P10, P11 -----------------------------------------------------------------------------------------------

    def check_reads(self) -> Iterator[Issue]:
        for name, node in self.wiring.nodes.items():
            keys = node.read_keys
            if not keys:
                continue
            upstream = {self.wiring.nodes[other].store_key for other in self._upstream(name)}
            known = upstream | {INPUT} | set(self.workflow.seed)
            for key in keys:
                if key not in known:
                    text = f"{name!r} reads {key!r}, which no block before it stores"
                    yield self.error("validation.unknown_read", name, text, key)

    def _upstream(self, name: str) -> set[str]:
        stands_for = self.fallbacks.get(name, [])
        handles = [
            source for source, handler in self.wiring.handlers if handler == name and source in self.wiring.nodes
        ]
        result = topology.ancestors(self.back, name)
        for primary in stands_for:
            result |= topology.ancestors(self.back, primary)
        for source in handles:
            result |= topology.ancestors(self.back, source) | {source}
        return result

    def config(self) -> Iterator[Issue]:
        for label, number in (("max_steps", self.workflow.max_steps), ("max_parallel", self.workflow.max_parallel)):
            if number < 1:
                yield self.error("validation.bad_config", "", f"{label} must be at least 1, not {number}")
        for name, node in self.wiring.nodes.items():
            for code in node.options.accept:
                if not acceptable(code):
                    yield self.error(
                        "validation.bad_config", name, f"{name!r} cannot accept {code}: it always ends the run"
                    )
            if node.options.fallback == name:
                yield self.error("validation.bad_config", name, f"{name!r} cannot be its own fallback")

    # -- P12 and warnings ---------------------------------------------------------------------------------------

    def nested(self) -> None:
        for name, node in self.wiring.nodes.items():
            inner = _nested(node)
            if inner is None or id(inner.wiring) in self.inside:
                continue
            plan = compile_plan(inner, path=f"{self.path}{name}/", inside=self.inside)
            self.found.extend(zip(plan.stages, plan.issues, strict=True))

    def warnings(self) -> Iterator[Issue]:
        for name in self.wiring.nodes:
            used = name in self.reached or name in self.handler_names or name in self.fallbacks
            if not used and not self.follow[name] and self.reached:
                yield Issue("graph.unreachable", "warning", self.path + name, f"{name!r} is never reached")
        for source, cases in self.wiring.branches.items():
            if cases and not cases[-1].is_default:
                yield Issue(
                    "graph.no_default", "warning", self.path + source, f"the branch of {source!r} has no otherwise"
                )


def _nested(node: Node) -> Workflow | None:
    return cast("Workflow", node.block) if node.block.is_workflow else None
