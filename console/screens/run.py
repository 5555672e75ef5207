"""The run dashboard: lanes, turn and steps, journal with its chain verdict, violations, log, and the open question."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widgets import Static

from console.model import rows, verdicts
from console.model.fold import RunState, StepRow
from console.model.reasons import run_reason
from console.model.rows import piece
from console.model.safe import safe
from console.model.violations import Columns, violation_row
from console.panels.lines import LinesPanel
from console.screens.base import content, title_room
from console.screens.dialogs import ConfirmScreen, DetailScreen
from console.screens.onrun import OnRunScreen
from runtime.events.facts import RunSummary

_PANELS = ("lanes", "steps", "journal", "violations", "log")


class RunScreen(OnRunScreen):
    """One run, live or finished."""

    HELP = (
        "One run. The journal panel's title tells the last verdicts on it: is the chain intact, is it complete, how far do"
        " checkpoints reach. V checks again and shows all of it; ┊ marks entries after the newest checkpoint."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="run.pause"),
        Binding("s", "stop", "Stop after tick", show=False, id="run.stop"),
        Binding("x", "cancel", "Cancel", id="run.cancel"),
        Binding("X", "terminate", "Terminate", id="run.terminate"),
        Binding("a", "answer('approved')", "Approve", show=False, id="question.approve"),
        Binding("R", "answer('rejected')", "Reject …", show=False, id="question.reject"),
        Binding("d", "detail", "Detail", id="run.detail"),
        Binding("V", "verdicts", "Verify", id="run.verify"),
        Binding("f", "full", "Full", show=False, id="run.full"),
        *(
            Binding(str(index), f"panel('{name}')", f"Panel {name}", show=False, id=f"run.{name}")
            for index, name in enumerate(_PANELS, 1)
        ),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def body(self) -> ComposeResult:
        yield Static("", id="headline", markup=False)
        yield Static("", id="notice", markup=False)
        with Grid(id="panels"):
            yield Static("", id="lanes", markup=False)
            yield LinesPanel(id="steps", empty="this run has no plan: it ended before one was frozen", selectable=True)
            yield LinesPanel(id="journal", empty="no entries yet", follow=True, selectable=True)
            yield LinesPanel(id="violations", empty="nothing refused", selectable=True)
            yield LinesPanel(id="log", empty="no output yet", follow=True)

    def on_mount(self) -> None:
        for index, name in enumerate(_PANELS, 1):
            self.query_one(f"#{name}").border_title = f"{index} {name}"
        self.query_one("#lanes").can_focus = True
        self.query_one("#journal").focus()
        if self.state is not None:
            self.console_app.look_up(self.state.run.mission_path)
        super().on_mount()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    @property
    def state(self) -> RunState | None:
        return self.console_app.opened

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        state = self.state
        if state is None:
            return
        self.put("#headline", [rows.headline(state.run, self.console_app.elapsed_ms())])
        self._draw_notice(state)
        width = self.query_one("#lanes").content_size.width
        self.put("#lanes", [rows.turn_row(state, width), *rows.lane_rows(state, width)])
        steps = state.step_rows()
        held = not state.run.resumable
        draw = partial(rows.step_row, width=rows.step_width(steps), held=held)
        self._panel("steps").show(steps, draw, mark=(state.marks["steps"], held))
        self._draw_journal(state)
        violations = self._panel("violations")
        violations.border_title = f"4 violations  {state.violation_count}"
        violations.set_class(bool(state.violation_count), "-some")
        base = state.violation_count - len(state.violations)
        shown = tuple(state.violations)
        draw_refused = partial(violation_row, columns=Columns.of(shown))
        violations.show(shown, draw_refused, mark=state.marks["violations"], base=base)
        self._draw_log(state)

    def _draw_notice(self, state: RunState) -> None:
        row = rows.notice_row(state)
        bar = self.query_one("#notice", Static)
        bar.display = bool(row)
        bar.set_class(bool(state.waiting) or state.run.resumable, "-asks")
        self.put("#notice", [row], layout=True)

    def _draw_journal(self, state: RunState) -> None:
        journal = self._panel("journal")
        head = piece("3 journal ")
        told = verdicts.journal_title(state, title_room(journal) - len(head[0]))
        journal.border_title = content((head, *told))  # type: ignore[assignment]
        role = verdicts.title_role(state.verification)
        journal.border_subtitle = "".join(text for text, _ in rows.progress_row(state))
        journal.set_class(role == "bad", "-broken")
        journal.set_class(role == "good", "-good")
        width = journal.content_size.width
        look = rows.JournalLook.of(state.verification, width)
        first = state.journal[0].seq if state.journal else 0
        journal.show(tuple(state.journal), look.row, mark=(state.marks["journal"], width), base=first)

    def _draw_log(self, state: RunState) -> None:
        log = self._panel("log")
        log.border_title = f"5 log  {state.log_dropped} lines dropped" if state.log_dropped else "5 log"
        ended = state.run.status.terminal or state.run.resumable
        log.show(
            tuple(state.log),
            rows.log_row,
            mark=state.marks["log"],
            base=state.log_total - len(state.log),
            empty="its steps printed nothing" if ended else "no output yet",
        )

    def _panel(self, name: str) -> LinesPanel:
        return self.query_one(f"#{name}", LinesPanel)

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return run_reason(action, choice, self.state) or super().off_here(action, choice)

    def run_at_hand(self) -> RunSummary | None:
        return self.state.run if self.state is not None else None

    def step_at_hand(self) -> str | None:
        """The step the cursor is on, while the steps panel has the focus."""
        steps = self._panel("steps")
        row = steps.item if self.focused is steps else None
        return row.step_id if isinstance(row, StepRow) else None

    def action_cancel(self) -> None:
        self._control("cancel")

    def action_stop(self) -> None:
        """Ends a recurring run after its current tick; the host refuses it for others, and says so."""
        self._control("stop")

    def action_pause(self) -> None:
        state = self.state
        if state is not None:
            self._control("resume" if state.run.status.value == "paused" else "pause")

    def _control(self, verb: str) -> None:
        state, deck = self.state, self.console_app.deck
        if state is not None:
            run_id = state.run.run_id
            self.console_app.intend(lambda: getattr(deck, verb)(run_id, f"{verb} from the console"))

    def action_terminate(self) -> None:
        state = self.state
        if state is None:
            return
        run_id = state.run.run_id

        def confirmed(reason: str | None) -> None:
            if reason is not None:
                self.console_app.intend(lambda: self.console_app.deck.terminate(run_id, reason))

        self.app.push_screen(ConfirmScreen(run_id[:8], "Kill this run and keep what it has done?"), confirmed)

    def action_answer(self, resolution: str) -> None:
        """Approving is one key; rejecting ends the run, so it asks for a reason first."""
        waiting = self.state.waiting if self.state is not None else ()
        if waiting and resolution == "approved":
            self.console_app.answer(waiting[0].escalation_id, resolution)
        elif waiting:
            self.console_app.ask(waiting[0], resolution)

    def action_panel(self, name: str) -> None:
        if self.maximized is not None:
            self.minimize()
        self.set_focus(self.query_one(f"#{name}"))

    def action_full(self) -> None:
        """The focused panel alone, and back."""
        if self.maximized is not None:
            self.minimize()
        elif isinstance(self.focused, LinesPanel):
            self.maximize(self.focused, container=False)
        self.call_after_refresh(self.redraw)

    def action_back(self) -> None:
        if self.maximized is not None:
            self.minimize()
        else:
            self.app.pop_screen()

    # -- one thing in full --------------------------------------------------------------------------------------

    @on(LinesPanel.Chosen, "#violations")
    def _violation_chosen(self, event: LinesPanel.Chosen) -> None:
        self.console_app.explain(event.item)

    @on(LinesPanel.Chosen, "#steps")
    def _step_chosen(self, event: LinesPanel.Chosen) -> None:
        item: StepRow = event.item
        self.app.push_screen(DetailScreen(safe(f"step {item.step_id}"), rows.step_details(item)))

    @on(LinesPanel.Chosen, "#journal")
    def _entry_chosen(self, event: LinesPanel.Chosen) -> None:
        """The open question is what enter means while one waits; else the entry as the journal has it."""
        state = self.state
        if state is None:
            return
        if state.waiting and self.off("answer") is None:
            self.console_app.ask(state.waiting[0])
        else:
            self.console_app.open_entry(state.run.run_id, event.item.seq)
