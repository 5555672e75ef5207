"""The drawn graph: every link is there, no line enters a foreign box, loops are listed, large graphs are refused."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from console.model.graph import Graph, Look, lay_out
from runtime.events.facts import NodeInfo

#: Which way a line leaves a cell, by its glyph.
WAYS = {glyph: ways for ways, glyph in enumerate(" ╴╶─╵┘└┴╷┐┌┬│┤├┼")} | {"▸": 1 | 2}
LEFT, RIGHT, UP, DOWN = 1, 2, 4, 8


def node(name: str, *after: str) -> NodeInfo:
    return NodeInfo(node_id=name, block_type="tool_invoke", after=after)


@st.composite
def graphs(draw: st.DrawFn, *, loops: bool) -> list[NodeInfo]:
    count = draw(st.integers(1, 11))
    nodes = []
    for index in range(count):
        before = range(count) if loops else range(index)
        sources = draw(st.sets(st.sampled_from(before), max_size=4)) if before else set()
        nodes.append(node(f"n{index}", *(f"n{source}" for source in sorted(sources))))
    return nodes


def drawn(graph: Graph) -> list[str]:
    """The whole picture as text, every line as wide as the picture."""

    def line(y: int) -> str:
        return "".join(text for text, _ in graph.row(y, 0, graph.width, lambda name: Look("●", "1.2s", "plain")))

    return [f"{line(y):<{graph.width}}" for y in range(graph.height)]


def reached(lines: list[str], start: tuple[int, int]) -> set[tuple[int, int]]:
    """Every cell a line that begins at ``start`` runs through."""
    found, waiting = set(), [start]
    while waiting:
        x, y = waiting.pop()
        if (x, y) in found:
            continue
        found.add((x, y))
        ways = WAYS.get(lines[y][x], 0)
        for way, back, dx, dy in ((LEFT, RIGHT, -1, 0), (RIGHT, LEFT, 1, 0), (UP, DOWN, 0, -1), (DOWN, UP, 0, 1)):
            inside = 0 <= y + dy < len(lines) and 0 <= x + dx < len(lines[y])
            if ways & way and inside and WAYS.get(lines[y + dy][x + dx], 0) & back:
                waiting.append((x + dx, y + dy))
    return found


@settings(max_examples=40, deadline=None)
@given(graphs(loops=False))
def test_every_link_is_drawn_and_lines_stay_out_of_boxes(nodes: list[NodeInfo]) -> None:
    graph = lay_out(nodes)
    assert graph is not None
    lines = drawn(graph)
    assert set(graph.edges) == {(source, item.node_id) for item in nodes for source in item.after}
    assert graph.back == ()
    areas = {
        name: {(x, y) for x in range(box.x, box.x + box.width) for y in range(box.row - 1, box.row + 2)}
        for name, box in graph.boxes.items()
    }
    for one, other in combinations(areas.values(), 2):
        assert not one & other
    inside = set().union(*areas.values())
    cells: dict[str, dict[tuple[int, int, bool], set[str]]] = {}
    for source, target in graph.edges:
        path = graph.path(source, target)
        begin, end = graph.boxes[source], graph.boxes[target]
        assert path[0][:2] == (begin.x + begin.width, begin.row)
        assert (end.x - 1, end.row) == path[-1][2:]
        for left, top, right, bottom in path:
            for x in range(left, right + 1):
                for y in range(top, bottom + 1):
                    assert (x, y) not in inside, (source, target)
                    assert WAYS.get(lines[y][x], 0), f"{source}->{target} has a hole at {x},{y}"
                    if (left, top) != (right, bottom):
                        cells.setdefault(source, {}).setdefault((x, y, top == bottom), set()).add(target)
        assert (end.x - 1, end.row) in reached(lines, path[0][:2]), f"{source}->{target} is interrupted"
    for one_source, other_source in combinations(cells, 2):
        for cell in cells[one_source].keys() & cells[other_source].keys():
            shared = cells[one_source][cell] & cells[other_source][cell]
            assert shared, f"lines of {one_source} and {other_source} run over each other at {cell}"


@settings(max_examples=25, deadline=None)
@given(graphs(loops=True))
def test_loops_are_listed_and_the_rest_is_drawn(nodes: list[NodeInfo]) -> None:
    graph = lay_out(nodes)
    assert graph is not None
    links = {(source, item.node_id) for item in nodes for source in item.after}
    assert set(graph.edges) | set(graph.back) == links
    assert not set(graph.edges) & set(graph.back)
    assert all(graph.boxes[source].column < graph.boxes[target].column for source, target in graph.edges)
    assert len(drawn(graph)) == graph.height
    assert set(graph.boxes) == {item.node_id for item in nodes}


def test_a_chain_is_one_level_line() -> None:
    graph = lay_out([node("red"), node("propose", "red"), node("apply", "propose")])
    assert graph is not None
    assert drawn(graph)[1] == "│● red   1.2s├──▸│● propose   1.2s├──▸│● apply   1.2s│"


def test_a_part_of_a_row_is_the_same_part_of_the_picture() -> None:
    graph = lay_out([node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c"), node("e", "a", "d")])
    assert graph is not None
    for y, line in enumerate(drawn(graph)):
        for first, last in ((0, 30), (17, 40), (33, graph.width)):
            part = "".join(text for text, _ in graph.row(y, first, last, lambda name: Look("●", "1.2s", "plain")))
            assert f"{part:<{graph.width}}"[first:last] == line[first:last]


def test_keys_walk_along_links() -> None:
    graph = lay_out([node("a"), node("b", "a"), node("c", "a"), node("d", "c")])
    assert graph is not None
    assert graph.step("a", 1, 0) == "b"
    assert graph.step("b", 0, 1) == "c"
    assert graph.step("c", 1, 0) == "d"
    assert graph.step("d", -1, 0) == "c"
    assert graph.step("d", 0, 1) == "d"
    assert graph.step("gone", 1, 0) == "a"


def test_what_is_too_large_for_a_picture_is_refused() -> None:
    chain = [node(f"n{index}", *((f"n{index - 1}",) if index else ())) for index in range(2000)]
    graph = lay_out(chain)
    assert graph is not None
    assert graph.height == 3
    middle = [node(f"m{index}", "s") for index in range(1998)]
    assert lay_out([node("s"), *middle, node("t", *(item.node_id for item in middle))]) is None
    assert lay_out([]) is not None
