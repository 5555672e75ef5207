"""Small dialogs: confirm something that cannot be undone, look at one thing in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from console.model.home import question_details
from console.model.rows import Row, piece
from console.model.safe import SafeText, safe
from console.screens.base import block, content
from runtime.events.facts import Escalation


class ConfirmScreen(ModalScreen[str | None]):
    """Type the word shown and a reason; anything else is no. ``about`` says what it is about."""

    AUTO_FOCUS = "#confirmation"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "refuse", "No")]

    def __init__(
        self, word: str, question: str, *, about: Sequence[Row] = (), otherwise: str = "Esc leaves it running."
    ) -> None:
        super().__init__()
        self._word = word
        self._question = question
        self._about = list(about)
        self._otherwise = otherwise

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._question, markup=False, classes="title")
            if self._about:
                with VerticalScroll(id="asked"):
                    yield Static(block(self._about), markup=False)
            yield Label(f"Type {self._word} and a reason, then enter. {self._otherwise}", markup=False)
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


class AskScreen(ModalScreen[str | None]):
    """One line of text. ``accept`` says what is wrong with it, or None to take it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "refuse", "No")]

    def __init__(self, title: str, hint: str, accept: Callable[[str], str | None]) -> None:
        super().__init__()
        self._title = title
        self._hint = hint
        self._accept = accept

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(safe(self._title), markup=False, classes="title")
            yield Input(placeholder=self._hint, id="asked-text")
            yield Label("", id="complaint", markup=False)
            yield Label("enter take it   esc back", markup=False, classes="keys")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        problem = self._accept(event.value.strip())
        if problem is None:
            self.dismiss(event.value.strip())
        else:
            self.query_one("#complaint", Label).update(safe(problem))

    def action_refuse(self) -> None:
        self.dismiss(None)


class PickScreen(ModalScreen[int | None]):
    """One of several; the index of what was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "refuse", "No")]

    def __init__(self, title: SafeText, choices: Sequence[Row]) -> None:
        super().__init__()
        self._title = title
        self._choices = choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, markup=False, classes="title")
            yield OptionList(*(Option(content(choice)) for choice in self._choices), id="choices", markup=False)
            yield Label("j k choose   enter take it   esc back", markup=False, classes="keys")

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)

    def key_j(self) -> None:
        self.query_one(OptionList).action_cursor_down()

    def key_k(self) -> None:
        self.query_one(OptionList).action_cursor_up()

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
        with VerticalScroll(classes="dialog wide"):
            yield Label(self._title, markup=False, classes="title")
            yield Static(block(self._rows), markup=False, classes="text")
            yield Label("j k scroll   esc close", markup=False, classes="keys")

    def key_j(self) -> None:
        self.query_one(VerticalScroll).scroll_down(animate=False)

    def key_k(self) -> None:
        self.query_one(VerticalScroll).scroll_up(animate=False)

    def action_close(self) -> None:
        self.dismiss(None)


class AnswerScreen(ModalScreen[tuple[str, str] | None]):
    """A question in full, the answers it offers, and a note for the journal."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Not now")]

    def __init__(self, question: Escalation, about: SafeText, choice: str) -> None:
        super().__init__()
        self._question = question
        self._about = about
        self._choice = choice

    def compose(self) -> ComposeResult:
        question = self._question
        with Vertical(classes="dialog"):
            yield Label(safe(f"question from {question.step_id}"), markup=False, classes="title")
            with VerticalScroll(id="asked"):
                yield Static(block(question_details(question, self._about)), markup=False)
            yield Input(placeholder="a note for the journal (optional)", id="note")
            options = [Option(content((piece(choice),))) for choice in question.choices]
            yield OptionList(*options, id="choices", markup=False)
            yield Label("enter answer   tab note   esc not now", markup=False, classes="keys")

    def on_mount(self) -> None:
        choices = self.query_one("#choices", OptionList)
        if self._choice in self._question.choices:
            choices.highlighted = self._question.choices.index(self._choice)
        choices.focus()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self._answer(event.option_index)

    @on(Input.Submitted)
    def _noted(self) -> None:
        highlighted = self.query_one("#choices", OptionList).highlighted
        if highlighted is not None:
            self._answer(highlighted)

    def _answer(self, index: int) -> None:
        self.dismiss((self._question.choices[index], self.query_one("#note", Input).value.strip()))

    def action_back(self) -> None:
        self.dismiss(None)
