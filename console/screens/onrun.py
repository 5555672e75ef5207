"""A screen with one run at hand: the keys that look back at it, take it up again, or run it anew."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from console.model.reasons import (
    again_reason,
    export_reason,
    lookback_reason,
    resume_reason,
    run_selected_reason,
    undo_reason,
    verdicts_reason,
)
from console.screens.base import DeckScreen
from runtime.events.facts import RunSummary


class OnRunScreen(DeckScreen):
    """Subclasses say which run is meant; they may declare a key again to show it in their footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "detail", "Detail", show=False, id="run.detail"),
        Binding("J", "journal", "Journal", show=False, id="run.journal"),
        Binding("r", "resume", "Resume", show=False, id="run.resume"),
        Binding("F", "again", "Run again …", show=False, id="run.again"),
        Binding("U", "undo", "Undo what it did …", show=False, id="run.undo"),
        Binding("P", "replay", "Replay", show=False, id="run.replay"),
        Binding("W", "compare", "Compare", show=False, id="run.compare"),
        Binding("V", "verdicts", "Verify", show=False, id="run.verify"),
        Binding("E", "export", "Export …", show=False, id="run.export"),
    ]

    def run_at_hand(self) -> RunSummary | None:
        """The run the keys are about; None when none is selected."""
        return None

    def step_at_hand(self) -> str | None:
        """The step the keys are about, where one is selected."""
        return None

    def off_here(self, action: str, choice: str) -> str | None:
        run = self.run_at_hand()
        match action:
            case "detail" | "journal":
                return run_selected_reason(run)
            case "resume":
                return resume_reason(run)
            case "again":
                mission = None if run is None else self.console_app.home.mission_at(run.mission_path)
                return again_reason(run, mission)
            case "undo":
                return undo_reason(run)
            case "replay" | "compare":
                return lookback_reason(run)
            case "verdicts":
                return verdicts_reason(run)
            case "export":
                return export_reason(run)
            case _:
                return None

    def action_detail(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.open_detail(run.run_id, self.step_at_hand() or "")

    def action_journal(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.open_journal(run)

    def action_resume(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.intend(lambda: self.console_app.deck.resume(run.run_id, "resumed from the console"))

    def action_again(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.run_again(run, self.step_at_hand())

    def action_undo(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.undo(run.run_id)

    def action_replay(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.lookback.replay(run.run_id)

    def action_compare(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.lookback.weigh(run)

    def action_verdicts(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.evidence.show(run)

    def action_export(self) -> None:
        if (run := self.run_at_hand()) is not None:
            self.console_app.evidence.export(run)
