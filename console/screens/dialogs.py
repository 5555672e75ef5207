"""Small dialogs: confirm something that cannot be undone, look at one thing in full."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from console.model.rows import Row
from console.model.safe import SafeText
from console.screens.base import block


class ConfirmScreen(ModalScreen[str | None]):
    """Type the short id and a reason; anything else is no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "refuse", "No")]

    def __init__(self, word: str, question: str) -> None:
        super().__init__()
        self._word = word
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._question, markup=False, classes="title")
            yield Label(f"Type {self._word} and a reason, then enter. Esc leaves it running.", markup=False)
            yield Input(placeholder=f"{self._word} because …", id="confirmation")
            yield Label("", id="complaint", markup=False)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        word, _, reason = event.value.strip().partition(" ")
        if word != self._word or not reason.strip():
            self.query_one("#complaint", Label).update(f"type {self._word}, a space, and a reason")
            return
        self.dismiss(reason.strip())

    def action_refuse(self) -> None:
        self.dismiss(None)


class DetailScreen(ModalScreen[None]):
    """One record in full."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "close", "Close")]

    def __init__(self, title: SafeText, rows: list[Row]) -> None:
        super().__init__()
        self._title = title
        self._rows = rows

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Label(self._title, markup=False, classes="title")
            yield Static(block(self._rows), markup=False)

    def action_close(self) -> None:
        self.dismiss(None)
