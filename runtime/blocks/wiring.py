"""What was wired: nodes, links, branches, handlers — plain data, before any judgement (blocks spec §9).

Blocks are registered on first use under object identity, with a strong reference, so an identity is never recycled.
Order of first occurrence is the link order used everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from runtime.blocks.conditions import Case
from runtime.blocks.errors import WorkflowWiringError
from runtime.blocks.running import NodeOptions

if TYPE_CHECKING:
    from runtime.blocks.block import Block

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Edge:
    """One data link. ``pick`` selects one value of a MULTIPLE source, ``as_`` names the value in a joined MAP."""

    source: str
    target: str
    pick: int | None = None
    as_: str | None = None


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding of plan validation."""

    code: str
    severity: str
    node_path: str
    message: str
    other: str | None = None
    #: What a program may want to know beside the message, as pairs: ``pack`` and ``skip_code``, or ``cycle``.
    details: tuple[tuple[str, Any], ...] = ()

    @property
    def is_error(self) -> bool:
        return self.severity == "error"

    def record(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "node_path": self.node_path,
            "other": self.other,
            "message": self.message,
            **({"details": dict(self.details)} if self.details else {}),
        }


@dataclass(slots=True)
class Node:
    """One registered block and its per-node settings. ``reads`` None means: what the block class declares."""

    name: str
    block: Block
    options: NodeOptions = field(default_factory=NodeOptions)
    reads: tuple[str, ...] | None = None
    store_as: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def store_key(self) -> str:
        return self.store_as or self.name

    @property
    def read_keys(self) -> tuple[str, ...]:
        return self.block.spec.reads if self.reads is None else self.reads

    def variant(self) -> Block:
        """The block with this node's overrides applied, sharing the instance's state."""
        return self.block.node_variant(**self.overrides)


class Wiring:
    """The mutable picture of one workflow."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.branches: dict[str, list[Case]] = {}
        self.handlers: list[tuple[str, str]] = []
        self.entry: str | None = None
        self.output: str | None = None
        self.first_source: str | None = None
        self.routed = False
        #: Problems found while importing a definition, reported with the stage they belong to.
        self.imported: list[tuple[int, Issue]] = []
        self.version = 0
        #: True while a question about the whole graph is being answered; see the askers.
        self.asked = False
        self._names: dict[int, str] = {}
        self._pairs: set[tuple[str, str]] = set()

    def touch(self) -> None:
        self.version += 1

    def node_for(self, block: Block, name: str | None = None) -> Node:
        """The node of this very object, registering it if new; raises ``graph.duplicate_name``."""
        known = self._names.get(id(block))
        if known is not None:
            node = self.nodes[known]
            if name is not None:
                self.rename(node, name)
            return node
        explicit = name or block.explicit_name
        name = self._claim(explicit) if explicit else self._free_name(block.block_name)
        node = Node(name, block)
        self.nodes[name] = node
        self._names[id(block)] = name
        return node

    def rename(self, node: Node, name: str) -> None:
        """Give a node an explicit name, keeping its place and its links."""
        old = node.name
        if name == old:
            return
        self._claim(name)
        self._names[id(node.block)] = name
        node.name = name
        self.nodes = {name if key == old else key: item for key, item in self.nodes.items()}
        self.edges = [
            replace(edge, source=_swap(edge.source, old, name), target=_swap(edge.target, old, name))
            for edge in self.edges
        ]
        self._pairs = {(edge.source, edge.target) for edge in self.edges}
        self.branches = {
            _swap(source, old, name): [replace(case, target=_swap(case.target, old, name)) for case in cases]
            for source, cases in self.branches.items()
        }
        self.handlers = [(_swap(a, old, name), _swap(b, old, name)) for a, b in self.handlers]
        self.entry, self.output, self.first_source = (
            _swap(item, old, name) for item in (self.entry, self.output, self.first_source)
        )
        for other in self.nodes.values():
            if other.options.fallback == old:
                other.options = replace(other.options, fallback=name)

    def add_edge(self, edge: Edge) -> None:
        """Record a link; repeating one changes nothing and keeps the first position."""
        if (edge.source, edge.target) not in self._pairs:
            self._pairs.add((edge.source, edge.target))
            self.edges.append(edge)
        if self.first_source is None:
            self.first_source = edge.source

    @property
    def entry_name(self) -> str | None:
        """The entry by the rules of blocks spec §9.3; None when there is none."""
        if self.entry is not None:
            return self.entry
        if self.first_source is not None:
            return self.first_source
        if self.handlers:
            return self.handlers[0][0]
        return next(iter(self.nodes)) if len(self.nodes) == 1 else None

    def fallbacks(self) -> dict[str, list[str]]:
        """Fallback node → the nodes it stands in for."""
        found: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.options.fallback is not None:
                found.setdefault(node.options.fallback, []).append(node.name)
        return found

    def copy(self, twins: Mapping[int, Block]) -> Wiring:
        """The same wiring over other block instances (``twins`` maps old identity to new block)."""
        other = Wiring()
        for node in self.nodes.values():
            twin = replace(node, block=twins[id(node.block)], overrides=dict(node.overrides))
            other.nodes[node.name] = twin
            other._names[id(twin.block)] = node.name
        other.edges, other._pairs = list(self.edges), set(self._pairs)
        other.branches = {source: list(cases) for source, cases in self.branches.items()}
        other.handlers = list(self.handlers)
        other.entry, other.output, other.first_source = self.entry, self.output, self.first_source
        other.routed, other.imported = self.routed, list(self.imported)
        return other

    def _claim(self, name: str) -> str:
        if not _NAME.match(name):
            raise WorkflowWiringError("graph.bad_endpoint", f"node name {name!r} must match [A-Za-z0-9_.-]{{1,64}}")
        if name in self.nodes:
            raise WorkflowWiringError("graph.duplicate_name", f"two blocks claim the node name {name!r}")
        return name

    def _free_name(self, base: str) -> str:
        taken: Iterable[str] = self.nodes
        if base not in taken:
            return self._claim(base)
        number = 2
        while f"{base}_{number}" in taken:
            number += 1
        return self._claim(f"{base}_{number}")


def _swap(value: Any, old: str, new: str) -> Any:
    return new if value == old else value
