"""The verify view: three verdicts on one journal, what vouches for them, and all that was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.model import verdict_view, verdicts
from console.model.reasons import evidence_reason, verdicts_reason
from console.model.rows import Row, piece
from console.model.safe import SafeText, safe
from console.panels.lines import LinesPanel
from console.screens.base import as_it_is, content, title_room
from console.screens.onrun import OnRunScreen
from runtime.events.facts import (
    EntryAppended,
    Finding,
    JournalVerified,
    RunChanged,
    RunSummary,
    StreamEvent,
    Verification,
)
from runtime.host.api import QuarterdeckError


class VerdictsScreen(OnRunScreen):
    """One journal judged: opening it checks, and while the run works every later check shows as well."""

    HELP = (
        "Is the journal unaltered, is it complete, and who could show that? Read the six words to whoever keeps a copy:"
        " equal words, equal checkpoint. B goes to the first bad entry, o proves one, ctrl+r checks again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("B", "bad", "First bad", id="verdicts.bad"),
        Binding("o", "proof", "Proof …", id="verdicts.proof"),
        Binding("ctrl+r", "check", "Check again", id="verdicts.check"),
        Binding("E", "export", "Export …", id="run.export"),
        Binding("1", "panel('verdict')", "Verdicts", show=False, id="verdicts.verdict"),
        Binding("2", "panel('findings')", "Findings", show=False, id="verdicts.findings"),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def __init__(self, run: RunSummary) -> None:
        super().__init__()
        self.run = run
        self.verdict: Verification | None = None
        self._newest = run.entries
        self._checking = False
        self._failure = ""
        self._lines: list[verdict_view.Line] = []
        self._revision = 0

    def body(self) -> ComposeResult:
        yield LinesPanel(id="verdict", empty="checking …")
        yield LinesPanel(id="findings", selectable=True, empty="nothing was found")

    def on_mount(self) -> None:
        self.query_one("#findings").border_title = "findings"
        opened = self.console_app.opened
        if opened is not None and opened.run.run_id == self.run.run_id:
            self._newest = max(self._newest, opened.last_seq + 1)
            self._take(opened.verification)
        super().on_mount()
        self.query_one("#verdict").focus()
        self.action_check()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def picture(self) -> object:
        return self._revision

    def hear(self, events: Sequence[StreamEvent]) -> None:
        for event in events:
            match event:
                case JournalVerified() if event.verification.run_id == self.run.run_id:
                    self._take(event.verification)
                case EntryAppended() if event.run_id == self.run.run_id:
                    self._newest = max(self._newest, event.seq + 1)
                    self._revision += 1
                case RunChanged() if event.run.run_id == self.run.run_id:
                    self.run, self._newest = event.run, max(self._newest, event.run.entries)
                    self._revision += 1
                case _:
                    pass

    def _take(self, verdict: Verification | None) -> None:
        if verdict is not None:
            self.verdict, self._failure = verdict, ""
            self._lines = verdict_view.finding_lines(verdict)
            self._newest = max(self._newest, verdict.entries)
            self._revision += 1

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        verdict, panel, findings = self.verdict, self._panel("verdict"), self._panel("findings")
        panel.border_title = content(self._title(panel))  # type: ignore[assignment]
        role = "bad" if self._failure else verdicts.title_role(verdict)
        panel.set_class(role == "bad", "-broken")
        panel.set_class(role == "good", "-good")
        width = panel.scrollable_content_region.width
        panel.show(self._summary(width), as_it_is, mark=(self._revision, self._checking, width), empty=self._empty())
        findings.display = bool(self._lines)
        findings.styles.max_height = len(self._lines) + 2
        findings.show(self._lines, verdict_view.finding_row, mark=id(self._lines))

    def _title(self, panel: LinesPanel) -> Row:
        head = piece(f"verify {self.run.run_id[:8]} {self.run.mission}  ")
        if self._checking:
            return (head, piece("checking …", "dim"))
        if self._failure:
            return (head, piece("could not be checked", "bad"))
        return (head, *verdicts.title_row(self.verdict, self._newest, title_room(panel) - len(head[0])))

    def _summary(self, width: int) -> list[Row]:
        failed: list[Row] = []
        if self._failure:
            failed = [(piece("✗ the last check could not be made: ", "bad"), piece(self._failure, "bad"))]
            failed += [(piece("  what is below is older; ctrl+r checks again", "dim"),), ()] if self.verdict else []
        if self.verdict is None:
            return failed
        return [*failed, *verdict_view.summary_rows(self.verdict, self._newest, width)]

    def _empty(self) -> SafeText:
        return safe("checking …" if self._checking else "not checked; ctrl+r checks")

    def _panel(self, name: str) -> LinesPanel:
        return self.query_one(f"#{name}", LinesPanel)

    # -- actions ------------------------------------------------------------------------------------------------

    def run_at_hand(self) -> RunSummary:
        return self.run

    def off_here(self, action: str, choice: str) -> str | None:
        if action == "panel" and choice == "findings" and not self._lines:
            return "nothing was found"
        if action in ("bad", "proof", "check"):
            missing = verdicts_reason(self.run)
            return missing or evidence_reason(action, self.verdict, checking=self._checking)
        return super().off_here(action, choice)

    def action_verdicts(self) -> None:
        """Here the key that leads here checks again."""
        if not self.explain("check"):
            self.action_check()

    def action_check(self) -> None:
        self._checking = True
        self.redraw()
        self.run_worker(self._check, exclusive=True, group="verify", exit_on_error=False)

    async def _check(self) -> None:
        try:
            await self.console_app.evidence.verify(self.run.run_id)
        except QuarterdeckError as error:
            self._failure = f"{error.message} [{error.code}]"
            self.console_app.complain(error)
        finally:
            self._checking = False
            self._revision += 1
        self.redraw()

    def action_bad(self) -> None:
        if self.verdict is not None:
            self.console_app.evidence.jump(self.run, self.verdict)

    def action_proof(self) -> None:
        self.console_app.evidence.prove_one(self.run, self._newest)

    def action_panel(self, name: str) -> None:
        self._panel(name).focus()

    def action_back(self) -> None:
        self.app.pop_screen()

    @on(LinesPanel.Chosen, "#findings")
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        if isinstance(event.item, Finding) and event.item.seq is not None:
            self.console_app.open_entry(self.run.run_id, event.item.seq)
