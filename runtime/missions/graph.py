"""The shape of a mission: which block follows which, read from ``links``, ``branches``, ``on_error``, ``fallback``.

Works on what the file says before it is known to be valid, so that a mistake elsewhere hides nothing here. Links
are text (``red -> propose -> apply``); several links to one block join there, and ``draft -> mail as body`` gives the
link a name in the join. A mission with ``branches`` is
routed: one block at a time, cycles allowed. Without, it is a dataflow: every ready block runs, cycles are errors.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.events.facts import NodeInfo
from runtime.kernel.ids import BLOCK_NAME
from runtime.missions.problems import did_you_mean
from runtime.missions.yaml_reader import Document, Where

_ARROW: Final = "->"
#: One end of a link: a block, and the name of the link that leads to it.
_END: Final = re.compile(r"(\S+)\s+as\s+(\S.*)\Z", re.DOTALL)
#: Lanes as a mission spells them, and as events and plans do.
LANES: Final[Mapping[object, str]] = {"data": "DataLane", "control": "ControlLane"}


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from a block to the next, and where the file says so. ``case`` numbers a branch's cases, ``as_`` is the
    link's name in the join."""

    source: str
    target: str
    place: tuple[int, int]
    case: int | None = None
    as_: str | None = None


@dataclass(slots=True)
class Graph:
    """The blocks in file order and the edges between them. Only edges between existing blocks are kept."""

    blocks: tuple[str, ...]
    #: Block → its type and its lane.
    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Composite → what it is made of: ``each: llm_call``, ``review.yaml``.
    inside: dict[str, str] = field(default_factory=dict)
    links: list[Edge] = field(default_factory=list)
    branches: list[Edge] = field(default_factory=list)
    handlers: dict[str, str] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    routed: bool = False
    entry: str = ""
    #: Some edge could not be read: what follows what is not fully known.
    loose: bool = False
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = frozenset(self.blocks)

    @property
    def edges(self) -> Iterator[Edge]:
        yield from self.links
        yield from self.branches

    def successors(self) -> dict[str, list[str]]:
        """Block → the blocks an edge leads to."""
        following: dict[str, list[str]] = {name: [] for name in self.blocks}
        for edge in self.edges:
            following[edge.source].append(edge.target)
        return following

    def after(self) -> dict[str, tuple[str, ...]]:
        """Block → its direct predecessors, in the order written."""
        before: dict[str, dict[str, None]] = {name: {} for name in self.blocks}
        for edge in self.edges:
            before[edge.target][edge.source] = None
        return {name: tuple(sources) for name, sources in before.items()}

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The blocks as a plan shows them, in file order."""
        after = self.after()
        return tuple(
            NodeInfo(
                node_id=name,
                block_type=self.kinds[name][0],
                lane=self.kinds[name][1],
                after=after[name],
                inside=self.inside.get(name, ""),
            )
            for name in self.blocks
        )

    def ancestry(self) -> Ancestry:
        """Who may have run before whom; a stand-in sees what its principal sees."""
        before: dict[str, set[str]] = {name: set() for name in self.blocks}
        for edge in self.edges:
            before[edge.target].add(edge.source)
        linked = {name: frozenset(sources) for name, sources in before.items()}
        for principal, stand_in in (*self.handlers.items(), *self.fallbacks.items()):
            before[stand_in] |= linked[principal] - {stand_in}
        return Ancestry(before)

    def stand_ins(self) -> set[str]:
        """Blocks that run when another fails."""
        return {*self.handlers.values(), *self.fallbacks.values()}


class Ancestry:
    """Answers who comes before a block. Sets of blocks are bit masks, so that a dense graph stays cheap."""

    def __init__(self, before: Mapping[str, set[str]]) -> None:
        self._names = tuple(before)
        self._index = {name: position for position, name in enumerate(self._names)}
        self._before = [sum(1 << self._index[source] for source in before[name]) for name in self._names]

    def upstream(self, name: str) -> set[str]:
        """Every block that may have run before ``name``; in a circle that includes itself."""
        found: set[str] = set()
        seen, waiting = 0, self._before[self._index[name]]
        while waiting:
            lowest = waiting & -waiting
            position = lowest.bit_length() - 1
            found.add(self._names[position])
            seen |= lowest
            waiting = (waiting | self._before[position]) & ~seen
        return found


def read_graph(document: Document, data: Mapping[str, Any], blocks: Mapping[str, Any]) -> Graph:
    """The graph of the file; everything wrong with it goes to the document's report."""
    graph = Graph(tuple(blocks), {name: _kind(block) for name, block in blocks.items()})
    graph.inside = {name: told for name, block in blocks.items() if (told := _inside(block))}
    _read_links(document, data.get("links"), graph)
    branches = data.get("branches")
    graph.routed = bool(branches)
    _read_branches(document, branches, graph)
    _read_pairs(document, data.get("on_error"), graph)
    _read_fallbacks(document, blocks, graph)
    if graph.blocks:
        _check_discipline(document, graph)
        _check_joins(document, graph)
        _find_entry(graph)
        _check_cycles(document, graph)
        _check_reachable(document, graph)
    return graph


def _kind(block: Mapping[str, Any]) -> tuple[str, str]:
    return str(block.get("type", "")), LANES.get(block.get("lane"), LANES["data"])


def _inside(block: Mapping[str, Any]) -> str:
    """What a composite is made of, in words; '' for other blocks."""
    each, child = block.get("each"), block.get("mission")
    if block.get("type") == "map_over" and isinstance(each, dict):
        return " ".join(filter(None, ("each:", str(each.get("type", "")), _inside(each))))
    return child if block.get("type") == "child_workflow" and isinstance(child, str) else ""


def _read_links(document: Document, links: object, graph: Graph) -> None:
    edges: dict[tuple[str, str], Edge] = {}
    for index, link in enumerate(links if isinstance(links, list) else ()):
        if isinstance(link, str):
            for edge in _read_chain(document, ("links", index), link, graph):
                edges.setdefault((edge.source, edge.target), edge)
    graph.links = list(edges.values())


def _read_chain(document: Document, where: Where, text: str, graph: Graph) -> Iterator[Edge]:
    """The edges of one ``a -> b as x -> c``."""
    names: list[tuple[str, tuple[int, int]]] = []
    labels: list[str | None] = []
    offset = 0
    for piece in text.split(_ARROW):
        start = offset + len(piece) - len(piece.lstrip())
        end = _END.match(piece.strip())
        name, label = (end[1], end[2]) if end else (piece.strip(), None)
        if label is not None and (not labels or not BLOCK_NAME.match(label)):
            hint = (
                "write 'a -> b as name'" if labels else "a name belongs to the block a link leads to: 'a -> b as name'"
            )
            place = document.within(where, start + (end.start(2) if end else 0), label)
            _complain(document, graph, "MISSION_LINK", f"{label[:70]!r} is not the name of a link", place, hint)
            label = None
        names.append((name, document.within(where, start, name)))
        labels.append(label)
        offset += len(piece) + len(_ARROW)
    if len(names) < 2:
        _complain(document, graph, "MISSION_LINK", f"{text[:70]!r} links nothing", document.at(where), "write 'a -> b'")
        return
    known = [_known(document, graph, name, place, "MISSION_LINK") for name, place in names]
    for index in range(len(names) - 1):
        if known[index] and known[index + 1]:
            yield Edge(names[index][0], names[index + 1][0], names[index + 1][1], as_=labels[index + 1])


def _known(document: Document, graph: Graph, name: str, place: tuple[int, int], malformed: str) -> bool:
    if name in graph.known:
        return True
    if BLOCK_NAME.match(name):
        hint = did_you_mean(name, graph.blocks)
        _complain(document, graph, "graph.unknown_target", f"there is no block {name!r}", place, hint)
    else:
        shown = repr(name)[:70]
        _complain(document, graph, malformed, f"{shown} is not a block name", place, "write 'a -> b -> c'")
    return False


def _complain(
    document: Document, graph: Graph, code: str, message: str, place: tuple[int, int], hint: str = ""
) -> None:
    """Report; with a broken edge the graph is loose, and questions of reachability are left for the next run."""
    graph.loose = True
    document.report.add(code, message, place, hint=hint)


def _read_branches(document: Document, branches: object, graph: Graph) -> None:
    for source, cases in (branches if isinstance(branches, dict) else {}).items():
        where: Where = ("branches", source)
        fine = _known(document, graph, source, document.at(where, key=True), "MISSION_NAME")
        for index, case in enumerate(cases if isinstance(cases, list) else ()):
            if isinstance(case, dict):
                _read_case(document, graph, source if fine else None, (*where, index), case, index == len(cases) - 1)
        if isinstance(cases, list) and not any(isinstance(case, dict) and "otherwise" in case for case in cases):
            document.problem(
                "graph.no_default",
                f"no case of {source!r} may hold, and then the run fails",
                where,
                key=True,
                hint="add {otherwise: block}",
                severity="warning",
            )


def _read_case(
    document: Document, graph: Graph, source: str | None, where: Where, case: Mapping[str, Any], last: bool
) -> None:
    for key in ("to", "otherwise"):
        target = case.get(key)
        if isinstance(target, str):
            place = document.at((*where, key))
            if _known(document, graph, target, place, "MISSION_NAME") and source is not None:
                graph.branches.append(Edge(source, target, place, int(where[-1])))
    if "otherwise" in case and not last:
        document.problem("graph.default_not_last", "'otherwise' must be the last case", where, hint="move it down")


def _read_pairs(document: Document, pairs: object, graph: Graph) -> None:
    for source, handler in (pairs if isinstance(pairs, dict) else {}).items():
        where: Where = ("on_error", source)
        fine = _known(document, graph, source, document.at(where, key=True), "MISSION_NAME")
        if isinstance(handler, str) and _known(document, graph, handler, document.at(where), "MISSION_NAME") and fine:
            graph.handlers[source] = handler
            if source == handler:
                document.problem("graph.self_handler", f"{source!r} cannot handle its own failure", where)


def _read_fallbacks(document: Document, blocks: Mapping[str, Any], graph: Graph) -> None:
    for name, block in blocks.items():
        target = block.get("fallback") if isinstance(block, dict) else None
        where: Where = ("blocks", name, "fallback")
        if isinstance(target, str) and _known(document, graph, target, document.at(where), "MISSION_NAME"):
            graph.fallbacks[name] = target
    for name in graph.fallbacks:
        seen, here = {name}, graph.fallbacks[name]
        while here in graph.fallbacks and here not in seen:
            seen.add(here)
            here = graph.fallbacks[here]
        if here == name:
            document.problem("graph.cycle", f"the fallback of {name!r} leads back to it", ("blocks", name, "fallback"))


def _check_discipline(document: Document, graph: Graph) -> None:
    if not graph.routed:
        return
    seen: dict[str, Edge] = {}
    branching = {edge.source for edge in graph.branches}
    for edge in graph.links:
        if edge.source in branching:
            why = f"{edge.source!r} has both a link and branches"
        elif edge.source in seen:
            why = f"{edge.source!r} has two links, and a mission with branches runs one block at a time"
        else:
            seen[edge.source] = edge
            continue
        document.report.add("graph.mixed_discipline", why, edge.place, hint="keep one way out, or branch")


def _check_joins(document: Document, graph: Graph) -> None:
    """Links to one block are all named, each with a name of its own, or none is."""
    links: dict[str, list[Edge]] = {}
    for edge in graph.links:
        links.setdefault(edge.target, []).append(edge)
    for target, edges in links.items():
        named = [edge for edge in edges if edge.as_ is not None]
        if named and graph.routed:
            why = f"the link to {target!r} has a name, and a mission with branches joins nothing"
            document.report.add("graph.mixed_discipline", why, named[0].place, hint="remove 'as'")
            continue
        for edge in edges if named else ():
            if edge.as_ is None:
                why = f"this link to {target!r} has no name, and others have one"
                document.report.add("validation.bad_join", why, edge.place, hint="write 'as name', or name none")
            elif next(other for other in named if other.as_ == edge.as_) is not edge:
                document.report.add(
                    "validation.bad_join", f"two links to {target!r} are named {edge.as_!r}", edge.place
                )


def _find_entry(graph: Graph) -> None:
    """The block nothing leads to; when everything is part of a circle, the first block of the file."""
    targets = {edge.target for edge in graph.edges}
    wired = {edge.source for edge in graph.edges} | targets
    aside = graph.stand_ins() - wired
    starts = (name for name in graph.blocks if name not in targets and name not in aside)
    graph.entry = next(starts, graph.blocks[0])


def _check_cycles(document: Document, graph: Graph) -> None:
    """Kahn's algorithm; what is left holds a cycle, which is shown as names."""
    if graph.routed:
        return
    following = graph.successors()
    waiting_for = dict.fromkeys(graph.blocks, 0)
    for edge in graph.links:
        waiting_for[edge.target] += 1
    ready = deque(name for name, count in waiting_for.items() if not count)
    while ready:
        for name in following[ready.popleft()]:
            waiting_for[name] -= 1
            if not waiting_for[name]:
                ready.append(name)
    stuck = {name for name, count in waiting_for.items() if count}
    if stuck:
        cycle = _one_cycle(stuck, graph)
        place = next(edge.place for edge in graph.links if (edge.source, edge.target) == (cycle[-2], cycle[-1]))
        shown = " -> ".join(cycle if len(cycle) <= 12 else [*cycle[:11], "…", cycle[-1]])
        graph.loose = True
        document.report.add(
            "graph.cycle", f"the links go in a circle: {shown}", place, hint="a mission with branches may repeat blocks"
        )


def _one_cycle(stuck: set[str], graph: Graph) -> list[str]:
    """Walk backwards inside the stuck part until a block repeats: every one of them has a stuck predecessor."""
    before = {edge.target: edge.source for edge in graph.links if edge.source in stuck and edge.target in stuck}
    walk = [next(name for name in graph.blocks if name in stuck)]
    while before[walk[-1]] not in walk:
        walk.append(before[walk[-1]])
    start = walk.index(before[walk[-1]])
    return [walk[start], *reversed(walk[start:])]


def _check_reachable(document: Document, graph: Graph) -> None:
    if graph.loose:
        return
    following = graph.successors()
    for principal, stand_in in (*graph.handlers.items(), *graph.fallbacks.items()):
        following[principal].append(stand_in)
    seen = {graph.entry}
    waiting = [graph.entry]
    while waiting:
        for name in following[waiting.pop()]:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    for name in graph.blocks:
        if name not in seen:
            document.problem(
                "graph.unreachable",
                f"{name!r} never runs: nothing leads to it from {graph.entry!r}, where the mission starts",
                ("blocks", name),
                key=True,
                hint="link it, or remove it",
            )
