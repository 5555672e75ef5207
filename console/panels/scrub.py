"""The scrub bar: a whole journal in one line, clicked to go somewhere."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.widgets import Static


class ScrubBar(Static, can_focus=True):
    """One line drawn by the screen; it holds the focus so that the replay's keys reach the screen."""

    class Clicked(Message):
        """A cell of the bar was clicked; ``column`` counts from its left end."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is not None:
            self.post_message(self.Clicked(place.x))
