"""A scrolling list that draws only the lines on screen, however many there are.

The panel holds items and a function that draws one; nothing is measured or styled until its line becomes visible.
Items may be a `Paged` list: rows that are not here yet are drawn as ``…``, and `Viewed` tells which ones are in view.
``mark`` says whether anything changed since the last time, so that an unchanged panel costs nothing per tick.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Final, TypeVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Offset, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from console.model.paged import Paged
from console.model.rows import Row, piece

T = TypeVar("T")

ROLES: Final = ("plain", "dim", "good", "warn", "bad", "accent", "mark", "cursor", "cursor-off")
SIDE_STEP: Final = 8
SELECTED_LINES: Final = 2_000  # of a mouse selection; a list may have a million
_NOT_HERE: Final[Row] = (piece("…", "dim"),)


class LinesPanel(ScrollView, can_focus=True):
    """Items with a cursor when ``selectable``, and a tail that ``follow``s new ones until scrolled away."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lines--{role}" for role in ROLES}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False, id="panel.down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="panel.up"),
        Binding("g,home", "jump(0)", "Top", show=False, id="panel.top"),
        Binding("G,end", "jump(-1)", "Bottom", show=False, id="panel.bottom"),
        Binding("ctrl+d", "page(1)", "Half page down", show=False, id="panel.half-down"),
        Binding("ctrl+u", "page(-1)", "Half page up", show=False, id="panel.half-up"),
        Binding("pagedown", "page(2)", "Page down", show=False, id="panel.page-down"),
        Binding("pageup", "page(-2)", "Page up", show=False, id="panel.page-up"),
        Binding("h,left", f"side({-SIDE_STEP})", "Left", show=False, id="panel.left"),
        Binding("l,right", f"side({SIDE_STEP})", "Right", show=False, id="panel.right"),
        Binding("enter", "choose", "Open", show=False, id="panel.open"),
    ]

    class Chosen(Message):
        """An item was opened."""

        def __init__(self, panel: LinesPanel, item: Any) -> None:
            super().__init__()
            self.panel = panel
            self.item = item

        @property
        def control(self) -> LinesPanel:
            return self.panel

    class Moved(Message):
        """The cursor is on another item; ``last`` when it is the last one."""

        def __init__(self, panel: LinesPanel, index: int, *, last: bool) -> None:
            super().__init__()
            self.panel = panel
            self.index = index
            self.last = last

        @property
        def control(self) -> LinesPanel:
            return self.panel

    class Viewed(Message):
        """Other rows of a `Paged` list came into view: see `view`."""

        def __init__(self, panel: LinesPanel) -> None:
            super().__init__()
            self.panel = panel

        @property
        def control(self) -> LinesPanel:
            return self.panel

    def __init__(self, *, empty: str = "nothing yet", selectable: bool = False, follow: bool = False, id: str) -> None:
        super().__init__(id=id)
        self._items: Sequence[Any] = ()
        self._draw: Callable[[Any], Row] = _nothing
        self._header: Row | None = None
        self._empty = empty
        self._selectable = selectable
        self._follow = follow
        self._following = follow
        self._mark: Hashable = None
        self._base = 0
        self._styles_by_role: dict[str, Style] = {}
        self.cursor = 0

    # -- content ------------------------------------------------------------------------------------------------

    def show(
        self,
        items: Sequence[T],
        draw: Callable[[T], Row],
        *,
        mark: Hashable = None,
        base: int = 0,
        empty: str | None = None,
        header: Row | None = None,
    ) -> bool:
        """Replace the items; returns whether there was anything to draw.

        ``base`` counts the items that fell off the front ever, so that the same ones stay in view.
        """
        self._empty = self._empty if empty is None else empty
        mark = (mark, len(items), base, self._empty, header)
        if mark[0] is not None and mark == self._mark:
            return False
        shift = max(0, base - self._base)
        self._mark, self._base = mark, base
        self._items, self._draw, self._header = items, draw, header
        self._resize_content()
        if self._following:
            self._to_end()
        else:
            self.cursor = max(0, min(self.cursor - shift, len(items) - 1))
            if shift:
                self.scroll_to(y=max(0, self.scroll_offset.y - shift), animate=False, immediate=True)
        self.refresh()
        return True

    def follow(self) -> None:
        """Go to the newest item and stay with the tail."""
        self._following = self._follow
        self._to_end()

    @property
    def item(self) -> Any:
        """What the cursor is on; None in an empty panel."""
        return self._items[self.cursor] if self.cursor < len(self._items) else None

    @property
    def view(self) -> tuple[int, int]:
        """The first and the last item in view."""
        top = self.scroll_offset.y
        return top, top + max(1, self.size.height) - 1

    def _row(self, item: Any) -> Row:
        return _NOT_HERE if item is None else self._draw(item)

    def _resize_content(self) -> None:
        """Tell the scroll bars; the panel's own place on the screen stays, so no layout is asked for."""
        size = Size(self.virtual_size.width, len(self._items) + self._offset)
        if size != self.virtual_size:
            self._set_virtual(size)

    def _set_virtual(self, size: Size) -> None:
        self.set_reactive(LinesPanel.virtual_size, size)
        self._scroll_update(size)

    def _measure(self) -> None:
        """How far the lines in view reach to the right. Only what is in view is measured."""
        top, height = self.scroll_offset.y, max(1, self.size.height)
        seen = self._items[top : top + height]
        width = max((sum(cell_len(text) for text, _ in self._row(item)) for item in seen), default=0)
        self._set_virtual(Size(width, self.virtual_size.height))

    @property
    def _offset(self) -> int:
        return 1 if self._header is not None and self._items else 0

    def _to_end(self) -> None:
        self.cursor = max(0, len(self._items) - 1)
        self.scroll_end(animate=False, immediate=True, x_axis=False)

    def on_resize(self) -> None:
        self.call_after_refresh(self._stay_at_end)
        self._tell_view()

    def _stay_at_end(self) -> None:
        if self._following:  # nobody has moved since the size changed
            self._to_end()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._tell_view()

    def _tell_view(self) -> None:
        if isinstance(self._items, Paged):
            self.post_message(self.Viewed(self))

    # -- drawing ------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        scroll_x, scroll_y = self.scroll_offset
        width, plain = self.size.width, self._role("plain")
        if not self._items:
            text = self._empty if y == 0 else ""
            return Strip([Segment(text, self._role("dim"))]).crop_extend(0, width, plain)
        if y == 0 and self._offset and self._header is not None:
            return self._strip(self._header, None).crop_extend(scroll_x, scroll_x + width, plain)
        index = y + scroll_y - self._offset
        if not 0 <= index < len(self._items):
            return Strip.blank(width, plain)
        highlight: str | None = None
        if self._selectable and index == self.cursor:
            highlight = "cursor" if self.has_focus else "cursor-off"
        strip = self._marked(self._strip(self._row(self._items[index]), highlight), index)
        rest = plain + self._role(highlight) if highlight else plain
        return strip.crop_extend(scroll_x, scroll_x + width, rest).apply_offsets(scroll_x, index)

    def _strip(self, row: Row, highlight: str | None) -> Strip:
        if highlight is None:
            return Strip([Segment(text, self._role(role)) for text, role in row])
        over = self._role(highlight)
        return Strip([Segment(text, self._role(role) + over) for text, role in row])

    def _marked(self, strip: Strip, index: int) -> Strip:
        """The strip with the operator's mouse selection, if it covers this line."""
        selection = self.text_selection
        span = selection.get_span(index) if selection is not None else None
        if span is None:
            return strip
        start, end = span[0], strip.cell_length if span[1] == -1 else span[1]
        chosen = strip.crop(start, end).apply_style(self.screen.get_component_rich_style("screen--selection"))
        return Strip.join([strip.crop(0, start), chosen, strip.crop(end)])

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text under the operator's mouse selection, for ctrl+c."""
        first = selection.start.y if selection.start is not None else 0
        last = selection.end.y + 1 if selection.end is not None else len(self._items)
        items = self._items[first : min(last, first + SELECTED_LINES)]
        text = "\n".join("".join(part for part, _ in self._row(item)) for item in items)
        up = Offset(0, first)
        begun = None if selection.start is None else selection.start - up
        ended = None if selection.end is None else selection.end - up
        return Selection(begun, ended).extract(text), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def notify_style_update(self) -> None:
        self._styles_by_role.clear()
        super().notify_style_update()

    def watch_has_focus(self, has_focus: bool) -> None:
        self._styles_by_role.clear()
        super().watch_has_focus(has_focus)

    def _role(self, role: str) -> Style:
        """The Rich style of a role: translucent colours blended with what lies below, as Rich has no alpha."""
        found = self._styles_by_role.get(role)
        if found is None:
            found = self._styles_by_role[role] = self._look_up(role)
        return found

    def _look_up(self, role: str) -> Style:
        styles = self.get_component_styles(f"lines--{role}")
        below = self.background_colors[1]
        ground = Style.from_color(None, (below + styles.background).rich_color)
        if role == "cursor-off":
            return ground
        text = styles.text_style + Style.from_color((below + styles.color).rich_color)
        return text + ground if role == "cursor" else self.rich_style + text

    # -- moving -------------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        if self._selectable:
            self._place(self.cursor + step)
        else:
            self.scroll_relative(y=step, animate=False)
            self.call_after_refresh(self._look_where)

    def action_page(self, halves: int) -> None:
        """By half the height of the panel, or by the whole of it."""
        self.action_move(halves * max(1, (self.size.height - self._offset) // 2))

    def action_jump(self, index: int) -> None:
        if self._selectable:
            self._place(0 if index == 0 else len(self._items) - 1)
        else:
            (self.scroll_home if index == 0 else self.scroll_end)(animate=False)
            self.call_after_refresh(self._look_where)

    def action_side(self, step: int) -> None:
        self._measure()
        self.scroll_relative(x=step, animate=False)

    def action_choose(self) -> None:
        if self._selectable and self._items:
            self.post_message(self.Chosen(self, self.item))

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        super()._on_mouse_scroll_up(event)
        self.call_after_refresh(self._look_where)

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        super()._on_mouse_scroll_down(event)
        self.call_after_refresh(self._look_where)

    def _look_where(self) -> None:
        """Scrolled away from the tail: stay there. Back at the tail: follow again."""
        self._following = self._follow and self.scroll_offset.y >= self.max_scroll_y

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor, a click on the cursor opens."""
        place = event.get_content_offset(self)
        if not self._selectable or place is None or self.text_selection is not None:
            return
        index = place.y + self.scroll_offset.y - self._offset
        if index == self.cursor:
            self.action_choose()
        elif 0 <= index < len(self._items):
            self._place(index)

    def select(self, index: int) -> None:
        """Put the cursor somewhere without telling anybody."""
        self.cursor = max(0, min(index, len(self._items) - 1))

    @property
    def following(self) -> bool:
        """Does the panel stay at its end when items are added?"""
        return self._following

    def shift(self, by: int) -> None:
        """Rows were put in, or taken out, above the cursor: keep it, and what is around it, where they are."""
        self.select(self.cursor + by)
        if self.scroll_offset.y > 0:
            self.scroll_to(y=max(0, self.scroll_offset.y + by), animate=False, immediate=True)
        self.refresh()

    def reveal(self, index: int) -> None:
        """Put the cursor somewhere and bring it into view, and tell."""
        self._place(index)

    def place(self, index: int) -> None:
        """Put the cursor somewhere and bring it into view, without telling anybody."""
        self.select(index)
        self._following = self._follow and self.cursor == len(self._items) - 1
        line = self.cursor + self._offset
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False)
        self.refresh()

    def _place(self, index: int) -> None:
        self.place(index)
        self.post_message(self.Moved(self, self.cursor, last=self.cursor == len(self._items) - 1))


def _nothing(item: object) -> Row:
    return ()
