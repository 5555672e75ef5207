"""What every screen shares: the attention bar on top, a footer, one `redraw` from view state, and keys that explain
themselves when they are off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from console.model.home import attention_row
from console.model.reasons import observer_reason
from console.model.rows import Row
from console.model.safe import safe
from console.panels.keys import KeyBar
from runtime.events.facts import StreamEvent

if TYPE_CHECKING:
    from console.app import ConsoleApp

_STYLES = {
    "plain": "",
    "dim": "$foreground 70%",
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


def as_it_is(row: Row) -> Row:
    """How a panel of rows draws one."""
    return row


def title_room(panel: Widget) -> int:
    """Cells for a title in a panel's border: a corner, a stroke and a blank on either side take six."""
    return panel.outer_size.width - 6


class DeckScreen(Screen[Any]):
    """A full screen of the console."""

    HELP = ""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, list[Row]] = {}
        self._availability: tuple[object, ...] = ()

    @property
    def console_app(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def compose(self) -> ComposeResult:
        yield Static("", id="attention", markup=False)
        yield from self.body()
        yield KeyBar()

    def body(self) -> ComposeResult:
        """The widgets between attention bar and footer."""
        yield from ()

    def on_mount(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    # -- drawing ------------------------------------------------------------------------------------------------

    def redraw(self) -> None:
        """Draw the view state; called at most once per tick."""
        if not (self.app.is_running and self.is_mounted) or not self.query(KeyBar):
            return  # not composed yet, or its widgets are being taken down already, one by one
        self.put("#attention", [attention_row(self.console_app.home)])
        self.draw()
        self._refresh_keys()

    def draw(self) -> None:
        """Draw what is particular to this screen."""

    def tick(self, now: float) -> None:
        """The application's clock has moved on to ``now``, in seconds; called ten times a second while visible."""

    def picture(self) -> object:
        """What this screen shows beside the application's view state; another value means another picture."""
        return None

    def hear(self, events: Sequence[StreamEvent]) -> None:
        """What the runtime told in this tick, for a screen that reads the store itself."""

    def put(self, selector: str, rows: list[Row], *, layout: bool = False) -> None:
        """Show rows in a static, unless it shows them already. ``layout`` when its height may change."""
        if self._shown.get(selector) != rows:
            self._shown[selector] = rows
            self.query_one(selector, Static).update(block(rows), layout=layout)

    def _refresh_keys(self) -> None:
        """The footer is rebuilt only when one of its keys went on or off: that costs as much as a frame."""
        now = tuple(
            self.off(*_action(binding.action)) is None
            for _, binding in self._bindings
            if binding.show and "." not in binding.action
        )
        if now != self._availability:
            self._availability = now
            self.refresh_bindings()

    # -- keys ---------------------------------------------------------------------------------------------------

    def off(self, action: str, choice: str = "") -> str | None:
        """Why an action is off just now; None when it is on."""
        return observer_reason(action, self.console_app.home) or self.off_here(action, choice)

    def off_here(self, action: str, choice: str) -> str | None:
        """The same, for what is particular to this screen."""
        return None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense now are shown disabled, not hidden."""
        if not self.is_attached:
            return True
        return None if self.off(action, str(parameters[0]) if parameters else "") else True

    def on_key(self, event: events.Key) -> None:
        """A disabled key says why."""
        active = self.active_bindings.get(event.key)
        if active is None or active.enabled or active.node is not self:
            return
        event.stop()
        self.explain(*_action(active.binding.action))

    def explain(self, action: str, choice: str = "") -> bool:
        """Say why an action is off; False when it is on."""
        reason = self.off(action, choice)
        if reason is not None:
            self.notify(safe(reason), title=action, severity="warning", markup=False)
        return reason is not None


def _action(text: str) -> tuple[str, str]:
    """``answer('approved')`` as name and first argument."""
    name, _, rest = text.partition("(")
    return name, rest.rstrip(")").strip("'\"")
