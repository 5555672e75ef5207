"""A mission's graph as boxes and lines on a grid of characters, left to right (a layered drawing).

Every block stands in the column after its last predecessor; a link that skips columns passes them on a row of its own.
Between two columns each block with links has at most one upright track, from which its lines branch off. Two rules make
the picture readable: no line enters a box it does not lead to, and lines of two blocks share cells only on the last
stretch to a block that follows both. Links that lead back (a routed mission's loops) are listed, not drawn.

Laying out is done once per plan; drawing a row looks only at the part of it that is in view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from console.model.rows import Piece, Role, Row, piece
from console.model.safe import SafeText, safe
from runtime.events.facts import NodeInfo

NAME_CELLS: Final = 20
NOTE_CELLS: Final = 6
BOX_ROWS: Final = 3
#: Boxes, passages and cells of upright lines beyond which a list shows more than a picture.
MAX_ITEMS: Final = 6_000
MAX_CELLS: Final = 60_000
_LEFT, _RIGHT, _UP, _DOWN = 1, 2, 4, 8
_GLYPHS: Final = " ╴╶─╵┘└┴╷┐┌┬│┤├┼"

Edge = tuple[str, str]
#: What stands in a column: a block, or the passage of a block's line (its name, marked).
Item = tuple[str, bool]
Stretch = tuple[int, int, int, int]
"""Part of a line: from x, y to x, y; one of the two stays the same."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one box is drawn now."""

    glyph: str
    note: str
    role: Role


@dataclass(frozen=True, slots=True)
class Box:
    """A block's place: ``row`` is the one its name and its lines are on."""

    node_id: str
    column: int
    x: int
    row: int
    width: int


@dataclass(slots=True)
class _Column:
    """One column while it is laid out: the row of each item, and where it stands."""

    rows: dict[Item, int] = field(default_factory=dict)
    width: int = 1
    x: int = 0


@dataclass(frozen=True, slots=True)
class _Route:
    """One block's lines across one gap: from ``row`` at ``start``, by the track at ``x``, to ``ends``."""

    row: int
    start: int
    x: int | None
    ends: Mapping[Item, tuple[int, int]]  # item → row, and how far right its line goes

    def to(self, item: Item) -> Iterator[Stretch]:
        """The stretches from the start to one end."""
        row, end = self.ends[item]
        if self.x is None or row == self.row:
            yield self.start, self.row, end, self.row
            return
        yield self.start, self.row, self.x, self.row
        yield self.x, min(self.row, row), self.x, max(self.row, row)
        yield self.x, row, end, row


@dataclass(slots=True)
class Graph:
    """The finished drawing. ``back`` are the links that lead back."""

    boxes: dict[str, Box]
    edges: tuple[Edge, ...]
    back: tuple[Edge, ...]
    width: int
    height: int
    _routes: dict[tuple[int, Item], _Route]
    _level: dict[int, list[tuple[int, int, int, int]]]
    _upright: dict[int, list[tuple[int, int]]]
    _boxes_at: dict[int, list[Box]]
    _sources: frozenset[str]

    def path(self, source: str, target: str) -> list[Stretch]:
        """The line of one link, from box to box."""
        column, end = self.boxes[source].column, self.boxes[target].column
        item: Item = (source, False)
        found: list[Stretch] = []
        while column < end:
            goal = (target, False) if column + 1 == end else (source, True)
            found.extend(self._routes[column, item].to(goal))
            item, column = (source, True), column + 1
        return found

    def links_of(self, node_id: str) -> list[Edge]:
        """The drawn links from and to a block."""
        return [edge for edge in self.edges if node_id in edge]

    def step(self, node_id: str, across: int, down: int) -> str:
        """The block a key leads to: along a link if there is one, else to the nearest in that direction."""
        here = self.boxes.get(node_id)
        if here is None:
            return next(iter(self.boxes), node_id)
        linked = {other for edge in self.links_of(node_id) for other in edge}
        if across:
            ahead = [box for box in self.boxes.values() if (box.column - here.column) * across > 0]
            return min(ahead, default=here, key=lambda box: self._distance(here, box, linked)).node_id
        column = [box for box in self.boxes.values() if box.column == here.column and (box.row - here.row) * down > 0]
        return min(column, default=here, key=lambda box: abs(box.row - here.row)).node_id

    @staticmethod
    def _distance(here: Box, box: Box, linked: set[str]) -> tuple[bool, int, int]:
        return (box.node_id not in linked, abs(box.column - here.column), abs(box.row - here.row))

    def row(
        self,
        y: int,
        first: int,
        last: int,
        look: Callable[[str], Look],
        *,
        selected: str = "",
        lit: Iterable[Stretch] = (),
    ) -> Row:
        """The cells ``first`` to ``last`` of a row, with blanks up to ``first``. Lines on ``lit`` stretches stand out."""
        pieces: list[tuple[int, Piece]] = [
            item
            for box in self._boxes_at.get(y, ())
            if box.x <= last and box.x + box.width > first
            for item in self._box(box, y, look(box.node_id), chosen=box.node_id == selected)
        ]
        bright = _cells(lit, y, first, last)
        pieces.extend(
            (x, (SafeText(glyph), "accent" if x in bright else "dim")) for x, glyph in self._lines(y, first, last)
        )
        return _joined(pieces)

    def _box(self, box: Box, y: int, look: Look, *, chosen: bool) -> Iterator[tuple[int, Piece]]:
        edge: Role = "accent" if chosen else "dim"
        inner = box.width - 2
        if y != box.row:
            ends = "┌┐" if y < box.row else "└┘"
            yield box.x, (SafeText(ends[0] + "─" * inner + ends[1]), edge)
            return
        text = f"{look.glyph} {safe(box.node_id, limit=NAME_CELLS)}"
        yield box.x, (SafeText("│"), edge)
        yield box.x + 1, piece(f"{text:<{inner - NOTE_CELLS}}{look.note:>{NOTE_CELLS}}", look.role)
        yield box.x + 1 + inner, (SafeText("├" if box.node_id in self._sources else "│"), edge)

    def _lines(self, y: int, first: int, last: int) -> Iterator[tuple[int, str]]:
        """Every line cell of a row in view; an arrow head stands before a box."""
        masks: dict[int, int] = {}
        for left, right, begins, ends in self._level.get(y, ()):
            for x in range(max(left, first), min(right, last) + 1):
                masks[x] = masks.get(x, 0) | (_LEFT if x > left else begins) | (_RIGHT if x < right else ends)
        for x, mask in self._upright.get(y, ()):
            if first <= x <= last:
                masks[x] = masks.get(x, 0) | mask
        heads = {box.x - 1 for box in self._boxes_at.get(y, ()) if box.row == y}
        for x, mask in masks.items():
            yield x, "▸" if x in heads and mask & _LEFT else _GLYPHS[mask]


def lay_out(nodes: Sequence[NodeInfo]) -> Graph | None:
    """Place every block and every link; None when the picture would be too large to be one."""
    edges, back = _links(nodes)
    order = _order([node.node_id for node in nodes], edges)
    layer = _layers(order, edges)
    if sum(layer[target] - layer[source] for source, target in edges) > MAX_ITEMS * 4 or len(nodes) > MAX_ITEMS:
        return None
    reach: dict[str, int] = {}
    for source, target in edges:
        reach[source] = max(reach.get(source, 0), layer[target])
    passages = sum(max(0, end - layer[source] - 1) for source, end in reach.items())
    if len(nodes) + passages > MAX_ITEMS:
        return None
    follows = _follows(edges, layer, reach)
    columns = _place(order, layer, reach, follows)
    return _draw(columns, edges, back, follows)


def _links(nodes: Sequence[NodeInfo]) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """The links forward, and those back: a walk from the blocks nothing leads to finds them on its own path."""
    known = {node.node_id: node for node in nodes}
    after: dict[str, list[str]] = {name: [] for name in known}
    for node in known.values():
        for source in dict.fromkeys(node.after):
            if source in known:
                after[source].append(node.node_id)
    back: list[Edge] = []
    state: dict[str, int] = {}
    for root in sorted(known, key=lambda name: bool(known[name].after)):
        if root in state:
            continue
        state[root] = 1
        walk = [(root, iter(after[root]))]
        while walk:
            name, rest = walk[-1]
            target = next(rest, None)
            if target is None:
                state[name] = 2
                walk.pop()
            elif target not in state:
                state[target] = 1
                walk.append((target, iter(after[target])))
            elif state[target] == 1:
                back.append((name, target))
    leading_back = set(back)
    forward = tuple((name, target) for name in known for target in after[name] if (name, target) not in leading_back)
    return forward, tuple(back)


def _order(names: Sequence[str], edges: Iterable[Edge]) -> list[str]:
    """The blocks so that every link leads to a later one; otherwise as they were written."""
    leads: dict[str, list[int]] = {name: [] for name in names}
    place = {name: index for index, name in enumerate(names)}
    open_links = dict.fromkeys(names, 0)
    for source, target in edges:
        leads[source].append(place[target])
        open_links[target] += 1
    ready = [place[name] for name in names if not open_links[name]]
    found: list[str] = []
    while ready:
        name = names[heappop(ready)]
        found.append(name)
        for index in leads[name]:
            open_links[names[index]] -= 1
            if not open_links[names[index]]:
                heappush(ready, index)
    return found


def _layers(order: Sequence[str], edges: Iterable[Edge]) -> dict[str, int]:
    """The column of each block: after its last predecessor."""
    layer = dict.fromkeys(order, 0)
    leads: dict[str, list[str]] = {name: [] for name in order}
    for source, target in edges:
        leads[source].append(target)
    for name in order:
        for target in leads[name]:
            layer[target] = max(layer[target], layer[name] + 1)
    return layer


def _follows(
    edges: Iterable[Edge], layer: Mapping[str, int], reach: Mapping[str, int]
) -> dict[tuple[int, Item], list[Item]]:
    """Column and item → the items of the next column its line leads to."""
    found: dict[tuple[int, Item], list[Item]] = {}
    for source, end in reach.items():
        for column in range(layer[source], end - 1):
            found[column, (source, column > layer[source])] = [(source, True)]
    for source, target in edges:
        column = layer[target] - 1
        found.setdefault((column, (source, column > layer[source])), []).append((target, False))
    return found


def _place(
    order: Sequence[str],
    layer: Mapping[str, int],
    reach: Mapping[str, int],
    follows: Mapping[tuple[int, Item], Sequence[Item]],
) -> list[_Column]:
    """The row of every item, column by column: level with what leads to it, where there is room."""
    members: list[list[Item]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in order:
        members[layer[name]].append((name, False))
        for column in range(layer[name] + 1, reach.get(name, 0)):
            members[column].append((name, True))
    columns: list[_Column] = []
    for number, items in enumerate(members):
        before = columns[-1].rows if columns else {}
        origins: dict[Item, list[int]] = {item: [] for item in items}
        for item, row in before.items():
            for target in follows.get((number - 1, item), ()):
                origins[target].append(row)
        columns.append(_stack(items, origins, set(before.values())))
    return columns


def _stack(items: Sequence[Item], origins: Mapping[Item, list[int]], taken: set[int]) -> _Column:
    """Items below each other. None is level with a line that does not lead to it (``taken`` by another's)."""
    column, free = _Column(), 0
    for item in sorted(items, key=lambda item: sum(origins[item]) / len(origins[item]) if origins[item] else 0.0):
        name, passage = item
        above = 0 if passage else 1
        rows = sorted(origins[item])
        row = max(free + above, rows[len(rows) // 2] if rows else 0)
        while row in taken and row not in rows:
            row += 1
        column.rows[item] = row
        free = row + 1 + above
        if not passage:
            column.width = max(column.width, 4 + len(safe(name, limit=NAME_CELLS)) + 1 + NOTE_CELLS)
    return column


def _draw(
    columns: Sequence[_Column],
    edges: tuple[Edge, ...],
    back: tuple[Edge, ...],
    follows: Mapping[tuple[int, Item], Sequence[Item]],
) -> Graph | None:
    """Columns side by side, as far apart as the tracks between them need."""
    routes: dict[tuple[int, Item], _Route] = {}
    x = cells = 0
    for number, column in enumerate(columns):
        column.x = x
        start = x + column.width
        ends = columns[number + 1].rows if number + 1 < len(columns) else {}
        leads = {item: follows[number, item] for item in column.rows if (number, item) in follows}
        nets = {item: (column.rows[item], [ends[goal] for goal in goals]) for item, goals in leads.items()}
        cells += sum(max(row, *goals) - min(row, *goals) for row, goals in nets.values())
        if cells > MAX_CELLS:
            return None
        tracks = _tracks(nets)
        x = start + max(3, 2 + max(tracks.values(), default=-1) + 1)
        after = columns[number + 1].width if number + 1 < len(columns) else 0
        for item, goals in leads.items():
            place = start + 1 + tracks[item] if item in tracks else None
            reach = {goal: (ends[goal], x - 1 + (after if goal[1] else 0)) for goal in goals}
            routes[number, item] = _Route(column.rows[item], start, place, reach)
    return _picture(columns, edges, back, routes, x)


def _tracks(nets: Mapping[Item, tuple[int, list[int]]]) -> dict[Item, int]:
    """A track for every net that turns. Two nets share one when their spans are apart; one whose row another arrives
    on turns before that other's track, so that the shared stretch is the last one."""
    turning = {item: (row, goals) for item, (row, goals) in nets.items() if any(goal != row for goal in goals)}
    owner = {row: item for item, (row, _) in turning.items()}
    before = {
        item: {owner[goal] for goal in goals if goal != row and goal in owner} for item, (row, goals) in turning.items()
    }
    found: dict[Item, int] = {}
    spans: list[list[tuple[int, int]]] = []
    for item in _ordered(turning, before):
        row, goals = turning[item]
        low, high = min(row, *goals), max(row, *goals)
        track = max((found[other] + 1 for other in before[item] if other in found), default=0)
        while track < len(spans) and any(low <= bottom and top <= high for top, bottom in spans[track]):
            track += 1
        spans.extend([] for _ in range(track + 1 - len(spans)))
        spans[track].append((low, high))
        found[item] = track
    return found


def _ordered(turning: Mapping[Item, tuple[int, list[int]]], before: Mapping[Item, set[Item]]) -> Iterator[Item]:
    """Nets from the leftmost track on: what must turn first, then what crosses least. A circle is cut anywhere."""

    def rank(item: Item) -> tuple[int, int]:
        row, goals = turning[item]
        return (-row, 0) if sum(goals) >= row * len(goals) else (row, 1)

    left = sorted(turning, key=rank)
    placed: set[Item] = set()
    while left:
        ready = [item for item in left if before[item] <= placed] or left[:1]
        yield from ready
        placed.update(ready)
        left = [item for item in left if item not in placed]


def _picture(
    columns: Sequence[_Column],
    edges: tuple[Edge, ...],
    back: tuple[Edge, ...],
    routes: dict[tuple[int, Item], _Route],
    width: int,
) -> Graph:
    """Index everything by row."""
    boxes: dict[str, Box] = {}
    boxes_at: dict[int, list[Box]] = {}
    for number, column in enumerate(columns):
        for (name, passage), row in column.rows.items():
            if not passage:
                box = boxes[name] = Box(name, number, column.x, row, column.width)
                for y in range(row - 1, row + BOX_ROWS - 1):
                    boxes_at.setdefault(y, []).append(box)
    level: dict[int, list[tuple[int, int, int, int]]] = {}
    upright: dict[int, list[tuple[int, int]]] = {}
    for route in routes.values():
        for left, top, right, bottom in {part for goal in route.ends for part in route.to(goal)}:
            if top == bottom:
                begins, ends = (_LEFT if left == route.start else 0), (0 if right == route.x else _RIGHT)
                level.setdefault(top, []).append((left, right, begins, ends))
                continue
            for y in range(top, bottom + 1):
                upright.setdefault(y, []).append((left, (_UP if y > top else 0) | (_DOWN if y < bottom else 0)))
    height = max((row for column in columns for row in column.rows.values()), default=-2) + 2
    sources = frozenset(source for source, _ in edges)
    return Graph(boxes, edges, back, max(0, width - 3), height, routes, level, upright, boxes_at, sources)


def _cells(stretches: Iterable[Stretch], y: int, first: int, last: int) -> set[int]:
    """The cells of a row the stretches cover."""
    found: set[int] = set()
    for left, top, right, bottom in stretches:
        if top <= y <= bottom:
            found.update(range(max(left, first), min(right, last) + 1))
    return found


def _joined(pieces: list[tuple[int, Piece]]) -> Row:
    """Pieces at their places, blanks between them; neighbours of one role become one."""
    row: list[Piece] = []
    at = 0
    for x, (text, role) in sorted(pieces, key=lambda item: item[0]):
        if x > at:
            row.append((SafeText(" " * (x - at)), "plain"))
        if row and row[-1][1] == role and x == at:
            row[-1] = (SafeText(row[-1][0] + text), role)
        else:
            row.append((text, role))
        at = x + len(text)
    return tuple(row)
