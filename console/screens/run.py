"""The run dashboard: lanes, turn and steps, journal with its chain verdict, violations, log, and the open question."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widgets import Static

from console.model import rows
from console.model.fold import RunState
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen, block, content
from console.screens.dialogs import ConfirmScreen, DetailScreen
from runtime.events.facts import Escalation

_PANELS = ("lanes", "steps", "journal", "violations", "log")


class RunScreen(DeckScreen):
    """One run, live or finished."""

    HELP = "One run. The journal panel's title is the verdict of the last hash-chain check; V checks again now."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause/resume", id="run.pause"),
        Binding("x", "cancel", "Cancel", id="run.cancel"),
        Binding("X", "terminate", "Terminate", id="run.terminate"),
        Binding("a", "answer('approved')", "Approve", id="question.approve"),
        Binding("R", "answer('rejected')", "Reject", id="question.reject"),
        Binding("r", "resume", "Resume", show=False, id="run.resume"),
        Binding("V", "verify", "Verify", id="run.verify"),
        Binding("slash", "violations", "All violations", key_display="/", show=False, id="run.violations"),
        *(Binding(str(index), f"panel('{name}')", name, show=False) for index, name in enumerate(_PANELS, 1)),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def body(self) -> ComposeResult:
        yield Static("", id="headline", markup=False)
        yield Static("", id="question", markup=False)
        with Grid(id="panels"):
            yield Static("", id="lanes", markup=False)
            yield LinesPanel(id="steps", empty="no steps")
            yield LinesPanel(id="journal", empty="no entries yet", follow=True)
            yield LinesPanel(id="violations", empty="nothing refused", selectable=True)
            yield LinesPanel(id="log", empty="no output yet", follow=True)

    def on_mount(self) -> None:
        for index, name in enumerate(_PANELS, 1):
            self.query_one(f"#{name}").border_title = f"{index} {name}"
        self.query_one("#lanes").can_focus = True
        self.query_one("#journal").focus()
        super().on_mount()

    @property
    def state(self) -> RunState | None:
        return self.console_app.opened

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        state = self.state
        if state is None:
            return
        self.query_one("#headline", Static).update(content(rows.headline(state.run)))
        self._draw_question(state.questions)
        lanes = self.query_one("#lanes", Static)
        width = lanes.content_size.width
        lanes.update(block([rows.turn_row(state, width), *rows.lane_rows(state, width)]))
        self.query_one("#steps", LinesPanel).show_rows(rows.step_rows(state))
        journal = self.query_one("#journal", LinesPanel)
        title, role = rows.journal_title(state)
        journal.border_title = f"3 journal  {title}"
        journal.set_class(role == "bad", "-broken")
        journal.set_class(role == "good", "-good")
        journal.show_rows(rows.journal_rows(state))
        violations = self.query_one("#violations", LinesPanel)
        violations.border_title = f"4 violations  {state.violation_count}"
        violations.set_class(bool(state.violation_count), "-some")
        violations.show_rows(rows.violation_rows(state.violations))
        log = self.query_one("#log", LinesPanel)
        log.border_title = f"5 log  {state.log_dropped} lines dropped" if state.log_dropped else "5 log"
        log.show_rows(rows.log_rows(state.log))
        self.refresh_bindings()

    def _draw_question(self, questions: tuple[Escalation, ...]) -> None:
        bar = self.query_one("#question", Static)
        waiting = [item for item in questions if item.blocking]
        bar.display = bool(waiting)
        if waiting:
            item = waiting[0]
            more = f"  (+{len(waiting) - 1} more)" if len(waiting) > 1 else ""
            row = (
                rows.piece("◐ ", "warn"),
                rows.piece(item.reason),
                rows.piece(f"   {item.step_id}  subject {item.subject_digest[7:15]}…{more}   ", "dim"),
                rows.piece("a approve   R reject", "accent"),
            )
            bar.update(content(row))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense now are shown disabled, not hidden."""
        state = self.state
        if state is None:
            return True
        ended = state.run.status.terminal
        if action in ("cancel", "terminate", "pause") and (ended or state.run.resumable):
            return None
        if action == "answer" and not any(item.blocking for item in state.questions):
            return None
        return True

    # -- actions ------------------------------------------------------------------------------------------------

    def action_cancel(self) -> None:
        self._control("cancel")

    def action_pause(self) -> None:
        state = self.state
        if state is not None:
            self._control("resume" if state.run.status.value == "paused" else "pause")

    def action_resume(self) -> None:
        self._control("resume")

    def _control(self, verb: str) -> None:
        state, deck = self.state, self.console_app.deck
        if state is not None:
            run_id = state.run.run_id
            self.console_app.intend(lambda: getattr(deck, verb)(run_id, f"{verb} from the console"))

    def action_terminate(self) -> None:
        state = self.state
        if state is None or not self.console_app.may_write():
            return
        run_id = state.run.run_id

        def confirmed(reason: str | None) -> None:
            if reason is not None:
                self.console_app.intend(lambda: self.console_app.deck.terminate(run_id, reason))

        self.app.push_screen(ConfirmScreen(run_id[:8], "Kill this run and keep what it has done?"), confirmed)

    def action_answer(self, resolution: str) -> None:
        waiting = [item for item in self.state.questions if item.blocking] if self.state is not None else []
        if waiting:
            self.console_app.answer(waiting[0].escalation_id, resolution, "answered in the console")

    def action_verify(self) -> None:
        self.run_worker(self._verify(), exclusive=True, group="verify", exit_on_error=False)

    async def _verify(self) -> None:
        state = self.state
        if state is None:
            return

        async def check() -> None:
            state.verification = await self.console_app.deck.verify(state.run.run_id)
            title, role = rows.journal_title(state)
            self.notify(title, severity="error" if role == "bad" else "information", markup=False)

        await self.console_app.guarded(check)
        self.redraw()

    def action_panel(self, name: str) -> None:
        self.query_one(f"#{name}").focus()

    def action_violations(self) -> None:
        self.query_one("#violations").focus()

    def action_back(self) -> None:
        self.app.pop_screen()

    @on(LinesPanel.Chosen, "#violations")
    def _violation_chosen(self, event: LinesPanel.Chosen) -> None:
        state = self.state
        if state is None or event.index >= len(state.violations):
            return
        item = state.violations[event.index]
        self.app.push_screen(
            DetailScreen(
                safe(item.code),
                [
                    (rows.piece(item.reason),),
                    (),
                    *(
                        (rows.piece(f"{label:<10}", "dim"), rows.piece(value))
                        for label, value in (
                            ("step", item.step_id),
                            ("operation", item.operation_id),
                            ("path", item.path or "–"),
                            ("check", item.check or "–"),
                            ("entry", f"#{item.seq:04d} {item.at}"),
                            ("expected", "yes, the mission accepts this code" if item.accepted else "no"),
                        )
                    ),
                ],
            )
        )
