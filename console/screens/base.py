"""What every screen shares: the attention bar on top, a footer, and one `redraw` from view state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from console.model.home import attention_row
from console.model.rows import Row

if TYPE_CHECKING:
    from console.app import ConsoleApp

_STYLES = {
    "plain": "",
    "dim": "$foreground 55%",
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "accent": "$primary",
    "mark": "italic $secondary",
}


def content(row: Row) -> Content:
    """One row as Textual content: styled pieces, no markup interpretation anywhere."""
    return Content.assemble(*((text, _STYLES[role]) for text, role in row))


def block(rows: list[Row]) -> Content:
    """Several rows as one content."""
    return Content("\n").join([content(row) for row in rows])


class DeckScreen(Screen[Any]):
    """A full screen of the console."""

    @property
    def console_app(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static("", id="attention", markup=False)
        yield from self.body()
        yield Footer(show_command_palette=False)

    def body(self) -> ComposeResult:
        """The widgets between attention bar and footer."""
        yield from ()

    def on_mount(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Draw the view state; called at most once per tick."""
        if not self.is_mounted:
            return
        self.query_one("#attention", Static).update(content(attention_row(self.console_app.home)))
        self.draw()

    def draw(self) -> None:
        """Draw what is particular to this screen."""
