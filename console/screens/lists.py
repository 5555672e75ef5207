"""Lists across runs: open questions, and refused operations."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from console.model.home import question_row
from console.model.reasons import answer_reason
from console.model.violations import Columns, matches, violation_row
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen
from runtime.events.facts import Escalation, Violation

VIOLATIONS_PAGE: Final = 500


class ApprovalsScreen(DeckScreen):
    """Every open question of every run, oldest first."""

    HELP = "Open questions, oldest first. Enter shows one in full with its answers; o opens the run that asks."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "answer('approved')", "Approve", id="question.approve"),
        Binding("R", "answer('rejected')", "Reject …", id="question.reject"),
        Binding("o", "open", "Open run", id="question.run"),
        Binding("escape,q", "back", "Back", id="list.back"),
    ]

    def body(self) -> ComposeResult:
        yield LinesPanel(id="questions", selectable=True, empty="nothing needs you")

    def on_mount(self) -> None:
        self.query_one("#questions").focus()
        super().on_mount()

    def draw(self) -> None:
        home = self.console_app.home
        questions = [*home.notices(), *home.blocking()]
        panel = self.query_one("#questions", LinesPanel)
        panel.border_title = f"approvals  {len(questions)}"
        panel.show(questions, lambda item: question_row(item, self._mission(item)), mark=home.revision)

    def _mission(self, item: Escalation) -> str:
        run = self.console_app.home.runs.get(item.run_id)
        return run.mission if run is not None else ""

    def selected(self) -> Escalation | None:
        item = self.query_one("#questions", LinesPanel).item
        return item if isinstance(item, Escalation) else None

    def off_here(self, action: str, choice: str) -> str | None:
        selected = self.selected()
        if action in ("answer", "open"):
            return answer_reason((selected,) if selected is not None else (), choice)
        return None

    def action_answer(self, resolution: str) -> None:
        question = self.selected()
        if question is None:
            return
        if resolution == "approved":
            self.console_app.answer(question.escalation_id, resolution)
        else:
            self.console_app.ask(question, resolution)

    def action_open(self) -> None:
        question = self.selected()
        if question is not None:
            self.console_app.open_run(question.run_id)

    def action_back(self) -> None:
        self.app.pop_screen()

    @on(LinesPanel.Moved)
    def _moved(self) -> None:
        self._refresh_keys()

    @on(LinesPanel.Chosen)
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        if self.off("answer") is None:
            self.console_app.ask(event.item)


class ViolationsScreen(DeckScreen):
    """Refused operations of all runs, newest first."""

    HELP = (
        "Refused operations of all runs, newest first: amber where the mission expected it, red elsewhere. Enter or w"
        " says why: the rule and its place, and what it would have taken. / filters by what the line says."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "why", "Why", id="violation.why"),
        Binding("slash", "filter", "Filter", key_display="/", id="violation.filter"),
        Binding("o", "open", "Open run", id="violation.run"),
        Binding("ctrl+r", "reload", "Reload", id="violation.reload"),
        Binding("escape,q", "back", "Back", id="list.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._violations: tuple[Violation, ...] = ()
        self._empty = "reading …"
        self._refused = -1

    def body(self) -> ComposeResult:
        yield Input(placeholder="code, step, mission, rule or path", id="filter", select_on_focus=False)
        yield LinesPanel(id="refused", selectable=True, empty="reading …")

    def on_mount(self) -> None:
        self.box.display = False
        self.panel.focus()
        super().on_mount()

    @property
    def box(self) -> Input:
        return self.query_one("#filter", Input)

    @property
    def panel(self) -> LinesPanel:
        return self.query_one("#refused", LinesPanel)

    def draw(self) -> None:
        refused = sum(run.violations for run in self.console_app.home.recent())
        if refused != self._refused:
            self._refused = refused
            self.action_reload()
        self._show()

    def _show(self) -> None:
        text = self.box.value
        found = [item for item in self._violations if matches(item, text)]
        more = "+" if len(self._violations) == VIOLATIONS_PAGE else ""
        some = f"{len(found)} of " if text else ""
        self.panel.border_title = f"violations  {some}{len(self._violations)}{more}"
        self.panel.show(
            found,
            partial(violation_row, columns=Columns.of(found, with_run=True)),
            mark=(id(self._violations), text),
            empty="nothing matches; esc clears the filter" if text and self._violations else self._empty,
        )

    def action_reload(self) -> None:
        self.run_worker(self._read, group="violations", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        async def read() -> None:
            self._violations = await self.console_app.deck.violations(limit=VIOLATIONS_PAGE)

        done = await self.console_app.guarded(read)
        self._empty = "nothing was refused" if done else "could not be read; ctrl+r tries again"
        self._show()
        self._refresh_keys()

    def off_here(self, action: str, choice: str) -> str | None:
        return "nothing is selected" if action in ("open", "why") and self.panel.item is None else None

    def action_filter(self) -> None:
        self.box.display = True
        self.box.focus()

    def action_why(self) -> None:
        self.console_app.explain(self.panel.item)

    def action_open(self) -> None:
        self.console_app.open_run(self.panel.item.run_id)

    def action_back(self) -> None:
        """Clear the filter, then leave."""
        if self.box.display or self.box.value:
            self.box.value, self.box.display = "", False
            self.panel.focus()
        else:
            self.app.pop_screen()

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self._show()
        self._refresh_keys()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.box.display = False
        self.panel.focus()

    @on(LinesPanel.Chosen)
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        self.console_app.explain(event.item)
