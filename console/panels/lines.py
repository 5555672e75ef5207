"""A scrolling list of rows that draws only the lines on screen, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from console.model.rows import Row

ROLES: Final = ("plain", "dim", "good", "warn", "bad", "accent", "mark", "cursor")


class LinesPanel(ScrollView, can_focus=True):
    """Rows with roles, a cursor when ``selectable``, and a tail that follows new rows until scrolled away."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lines--{role}" for role in ROLES}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False),
        Binding("k,up", "move(-1)", "Up", show=False),
        Binding("g,home", "jump(0)", "Top", show=False),
        Binding("G,end", "jump(-1)", "Bottom", show=False),
        Binding("ctrl+d", "move(10)", "Half page down", show=False),
        Binding("ctrl+u", "move(-10)", "Half page up", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    class Chosen(Message):
        """A row was opened."""

        def __init__(self, panel: LinesPanel, index: int) -> None:
            super().__init__()
            self.panel = panel
            self.index = index

        @property
        def control(self) -> LinesPanel:
            return self.panel

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, panel: LinesPanel, index: int) -> None:
            super().__init__()
            self.panel = panel
            self.index = index

        @property
        def control(self) -> LinesPanel:
            return self.panel

    def __init__(self, *, empty: str = "nothing yet", selectable: bool = False, follow: bool = False, id: str) -> None:
        super().__init__(id=id)
        self._rows: Sequence[Row] = ()
        self._empty = empty
        self._selectable = selectable
        self._follow = follow
        self.cursor = 0

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Replace the rows; keeps the place, or the tail when following."""
        at_end = self._follow and self.scroll_offset.y >= self.max_scroll_y - 1
        self._rows = rows
        self.cursor = min(self.cursor, max(0, len(rows) - 1))
        width = max((sum(len(text) for text, _ in row) for row in rows[-200:]), default=0)
        self.virtual_size = Size(width, len(rows))
        if at_end:
            self.scroll_end(animate=False, immediate=True, x_axis=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        scroll_x, scroll_y = self.scroll_offset
        width = self.size.width
        index = y + scroll_y
        base = self.rich_style
        if not self._rows:
            text = self._empty if y == 0 else ""
            return Strip([Segment(text, base + self._role("dim"))]).crop_extend(0, width, base)
        if index >= len(self._rows):
            return Strip.blank(width, base)
        under_cursor = self._selectable and self.has_focus and index == self.cursor
        highlight = self._role("cursor") if under_cursor else Style.null()
        segments = [Segment(text, base + self._role(role) + highlight) for text, role in self._rows[index]]
        return Strip(segments).crop_extend(scroll_x, scroll_x + width, base + highlight)

    def _role(self, role: str) -> Style:
        """The Rich style of a role: translucent colours blended with what lies below, as Rich has no alpha."""
        styles = self.get_component_styles(f"lines--{role}")
        below = self.background_colors[1]
        style = styles.text_style + Style.from_color((below + styles.color).rich_color)
        if role == "cursor":
            style += Style.from_color(None, (below + styles.background).rich_color)
        return style

    def action_move(self, step: int) -> None:
        if not self._selectable:
            self.scroll_relative(y=step, animate=False)
            return
        self._place(self.cursor + step)

    def action_jump(self, index: int) -> None:
        if not self._selectable:
            (self.scroll_home if index == 0 else self.scroll_end)(animate=False)
            return
        self._place(0 if index == 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        if self._selectable and self._rows:
            self.post_message(self.Chosen(self, self.cursor))

    def _place(self, index: int) -> None:
        self.cursor = max(0, min(index, len(self._rows) - 1))
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
        self.refresh()
        self.post_message(self.Moved(self, self.cursor))
