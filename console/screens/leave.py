"""Leaving the console: what becomes of live runs, and a picture while they stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList, Static
from textual.widgets.option_list import Option

from console.model.home import run_row
from console.model.rows import Row, piece
from console.screens.base import block, content
from runtime.events.facts import RunSummary

_NARROW = 60
_RUNS_SHOWN = 5
_CHOICES = (
    ("stay", "stay here"),
    ("leave", "quit; leave them resumable (finished steps are kept)"),
    ("cancel", "cancel all, undo what they did, then quit"),
)


class LeaveScreen(ModalScreen[str | None]):
    """Stay, leave runs resumable, or cancel them all. The safe answer is selected."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "stay", "Stay")]

    def __init__(self, live: Sequence[RunSummary]) -> None:
        super().__init__()
        self._live = live

    def compose(self) -> ComposeResult:
        count = len(self._live)
        with Vertical(classes="dialog"):
            yield Label(f"{count} run{'s are' if count != 1 else ' is'} still live", markup=False, classes="title")
            yield Static(block(self._rows()), markup=False, classes="text")
            options = (Option(content((piece(text),)), id=name) for name, text in _CHOICES)
            yield OptionList(*options, id="leave", markup=False)
            yield Label("j k choose   enter do it   esc stay", markup=False, classes="keys")

    def _rows(self) -> list[Row]:
        rows = [run_row(run, _NARROW)[:3] for run in self._live[:_RUNS_SHOWN]]
        if len(self._live) > _RUNS_SHOWN:
            rows.append((piece(f"and {len(self._live) - _RUNS_SHOWN} more", "dim"),))
        return rows

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def key_j(self) -> None:
        self.query_one(OptionList).action_cursor_down()

    def key_k(self) -> None:
        self.query_one(OptionList).action_cursor_up()

    def action_stay(self) -> None:
        self.dismiss("stay")


class StoppingScreen(ModalScreen[bool]):
    """Says what is being stopped while it is; True once it has stopped, False when the operator stays after all."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "stay", "Stay")]

    def __init__(self, verb: str, work: Callable[[], Awaitable[None]], *, may_stay: bool = True) -> None:
        super().__init__()
        self._verb = verb
        self._work = work
        self._may_stay = may_stay

    def compose(self) -> ComposeResult:
        why = (
            "running work is killed and undone; esc stays in the console"
            if self._may_stay
            else "runs stop at once and stay resumable; the journal is flushed"
        )
        with Vertical(classes="dialog"):
            yield Label(f"{self._verb} …", markup=False, classes="title")
            yield Label(why, markup=False, classes="keys")

    def on_mount(self) -> None:
        self.run_worker(self._stop, group="stopping", exit_on_error=False)

    async def _stop(self) -> None:
        from console.app import ConsoleApp

        assert isinstance(self.app, ConsoleApp)
        try:
            done = await self.app.guarded(self._work)
        except Exception:
            self.dismiss(not self._may_stay)
            raise
        self.dismiss(done or not self._may_stay)

    def action_stay(self) -> None:
        if self._may_stay:
            self.dismiss(False)
