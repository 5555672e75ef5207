"""A drawn graph whose keys walk from block to block, or a list of blocks when it is too large to draw."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from textual import events
from textual.geometry import Size

from console.model.graph import BOX_ROWS, Graph, Look, Stretch
from console.model.rows import Row, piece
from console.panels.lines import LinesPanel
from runtime.events.facts import NodeInfo


class GraphPanel(LinesPanel):
    """Shows one `Graph`; ``chosen`` is the selected block. Posts `Moved` and `Chosen` as a list does."""

    def __init__(self, *, empty: str, id: str) -> None:
        super().__init__(empty=empty, selectable=True, id=id)
        self.chosen = ""
        self._graph: Graph | None = None
        self._listed: Sequence[NodeInfo] = ()
        self._look: Callable[[str], Look] | None = None
        self._lit: tuple[Stretch, ...] = ()

    def draw_graph(self, graph: Graph, look: Callable[[str], Look], *, mark: Hashable) -> None:
        """Show the picture, and the links that lead back below it."""
        if self._graph is not graph:
            self._graph, self._selectable = graph, False
            self.walk_to(self.chosen)
        self._look = look
        back = [(piece(f"↺ {source} leads back to {target}", "dim"),) for source, target in graph.back]
        lines: list[int | Row] = [*range(graph.height), *back]
        self.show(lines, self._line, mark=mark)
        self._set_virtual(Size(graph.width, self.virtual_size.height))

    def list_nodes(self, nodes: Sequence[NodeInfo], draw: Callable[[NodeInfo], Row], *, mark: Hashable) -> None:
        """Show the blocks as a list."""
        self._graph, self._listed, self._selectable = None, nodes, True
        self.show(nodes, draw, mark=mark)

    def walk_to(self, node_id: str) -> None:
        """Select a block and bring it into view, without telling anybody."""
        self.chosen = node_id
        if self._graph is None:
            place = next((index for index, node in enumerate(self._listed) if node.node_id == node_id), None)
            if place is not None:
                self.select(place)
            return
        self._lit = tuple(part for edge in self._graph.links_of(node_id) for part in self._graph.path(*edge))
        box = self._graph.boxes.get(node_id)
        if box is not None:
            self._bring(box.x, box.x + box.width, box.row - 1, box.row - 1 + BOX_ROWS)
        self.refresh()

    def _bring(self, left: int, right: int, top: int, bottom: int) -> None:
        """Scroll no further than it takes to see the whole of an area."""
        width, height = self.size
        x, y = self.scroll_offset
        x = left if left < x else max(x, right - width)
        y = top if top < y else max(y, bottom - height)
        self.scroll_to(x=x, y=y, animate=False, immediate=True)

    def _line(self, item: int | Row) -> Row:
        if not isinstance(item, int):
            return item
        if self._graph is None or self._look is None:
            return ()
        left = self.scroll_offset.x
        return self._graph.row(item, left, left + self.size.width, self._look, selected=self.chosen, lit=self._lit)

    # -- moving -------------------------------------------------------------------------------------------------

    def _go(self, node_id: str) -> None:
        self.walk_to(node_id)
        self.post_message(self.Moved(self, 0, last=False))

    def action_move(self, step: int) -> None:
        if self._graph is None:
            super().action_move(step)
        elif abs(step) > 1:
            self.scroll_relative(y=step, animate=False)
        else:
            self._go(self._graph.step(self.chosen, 0, step))

    def action_side(self, step: int) -> None:
        if self._graph is None:
            super().action_side(step)
        else:
            self._go(self._graph.step(self.chosen, 1 if step > 0 else -1, 0))

    def action_jump(self, index: int) -> None:
        if self._graph is None:
            super().action_jump(index)
        elif self._graph.boxes:
            ends = sorted(self._graph.boxes.values(), key=lambda box: (box.column, box.row))
            self._go(ends[index].node_id)

    def action_choose(self) -> None:
        if self._graph is None:
            super().action_choose()
        elif self.chosen:
            self.post_message(self.Chosen(self, self.chosen))

    def _place(self, index: int) -> None:
        if self._graph is None and self._listed:
            self.chosen = self._listed[max(0, min(index, len(self._listed) - 1))].node_id
        super()._place(index)

    def on_click(self, event: events.Click) -> None:
        """A click selects a block, a click on the selected one opens it."""
        spot = event.get_content_offset(self)
        if self._graph is None or spot is None:
            super().on_click(event)
            return
        x, y = spot.x + self.scroll_offset.x, spot.y + self.scroll_offset.y
        for box in self._graph.boxes.values():
            if box.x <= x < box.x + box.width and abs(y - box.row) <= 1:
                if box.node_id == self.chosen:
                    self.action_choose()
                else:
                    self._go(box.node_id)
                return
