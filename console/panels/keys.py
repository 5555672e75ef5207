"""The line of keys at the bottom: one widget, one line, drawn from the bindings in force.

Textual's own footer mounts a widget per key and restyles all of them whenever one goes on or off; measured here, that
was half the cost of opening a screen. A key still answers to a click.
"""

from __future__ import annotations

from typing import Any

from textual.binding import ActiveBinding, Binding
from textual.content import Content
from textual.screen import Screen
from textual.style import Style
from textual.widgets import Static


def bindings_of(screen: Screen[Any]) -> list[ActiveBinding]:
    """The keys in force, first those the screen's own class declares, in its order, then inherited and general ones."""
    own = [key for item in type(screen).BINDINGS if isinstance(item, Binding) for key in item.key.split(",")]
    places = {key: index for index, key in enumerate(own)}
    return sorted(screen.active_bindings.values(), key=lambda active: places.get(active.binding.key, len(own)))


class KeyBar(Static):
    """Shown bindings of the screen, disabled ones dim."""

    def __init__(self) -> None:
        super().__init__("", markup=False)

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self._show()

    def _changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen and self.app.app_focus:
            self._show()

    def _show(self) -> None:
        seen: set[str] = set()
        pieces: list[Content] = []
        for active in bindings_of(self.screen):
            binding = active.binding
            if not binding.show or binding.action in seen:
                continue
            seen.add(binding.action)
            key = Content.styled(f" {self.app.get_key_display(binding)} ", "bold $footer-key-foreground")
            text = Content.styled(f"{binding.description} ", "$footer-description-foreground")
            piece = (key + text).stylize(Style.from_meta({"@click": f"app.simulate_key({binding.key!r})"}))
            pieces.append(piece if active.enabled else piece.stylize("dim"))
        self.update(Content("").join(pieces), layout=False)
