"""The export sheet: where a run's bundle goes, what is left out of it, and what it would hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Checkbox, Input, Label, Static

from console.model import bundles
from console.model.reasons import sheet_reason
from console.model.rows import Row, piece
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen
from console.screens.dialogs import PickScreen
from runtime.events.facts import BundlePlan, RunSummary
from runtime.host.api import ExportBundle, QuarterdeckError


class Toggle(Checkbox):
    """A box that space ticks; enter belongs to the sheet. Its mark is a glyph, not a colour alone."""

    BUTTON_LEFT = BUTTON_RIGHT = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "sheet", "Export", show=False),
        Binding("space", "toggle_button", "Toggle", show=False),
    ]

    def __init__(self, label: str, kind: str | None, **more: Any) -> None:
        self.BUTTON_INNER = "[ ]"
        super().__init__(Content(safe(label)), compact=True, **more)
        self.kind = kind

    def watch_value(self) -> None:
        self.BUTTON_INNER = "[x]" if self.value else "[ ]"
        super().watch_value()

    def action_sheet(self) -> None:
        cast("ExportScreen", self.screen).enter()


class ExportScreen(DeckScreen):
    """One run about to be handed on. Nothing is written until enter, and nothing typed here is lost by an error."""

    HELP = (
        "Hand a run on as one file that anybody can verify. Tick what has to stay here: its digests go with the bundle,"
        " its content does not. The list below is what the file would hold. enter or ctrl+s writes it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "export", "Export", id="export.start"),
        Binding("ctrl+r", "plan", "Look again", id="export.plan"),
        Binding("escape", "back", "Back", id="run.back"),
    ]

    def __init__(self, run: RunSummary) -> None:
        super().__init__()
        self.run = run
        self.plan: BundlePlan | None = None
        self._planning = False
        self._exporting = False
        self._outcome: list[Row] = []
        self._revision = 0

    def body(self) -> ComposeResult:
        yield Label(
            safe(f"hand on run {self.run.run_id[:8]} {self.run.mission} as a new file"), markup=False, id="sheet"
        )
        yield Input(bundles.default_target(self.run), id="target", select_on_focus=False)
        with Vertical(id="choices"):
            yield Toggle("attest: add a signed statement about what is inside", None, id="attest")
        yield LinesPanel(id="members", selectable=True, empty="working out what it would hold …")
        yield Static("", id="outcome", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#members").focus()
        self.action_plan()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def picture(self) -> object:
        return self._revision

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        panel = self.query_one("#members", LinesPanel)
        width = panel.scrollable_content_region.width
        panel.border_title = Content(bundles.plan_title(self.plan))  # type: ignore[assignment]
        lines = bundles.plan_lines(self.plan) if self.plan is not None else []
        draw = partial(bundles.plan_row, width=width)
        empty = "working out what it would hold …" if self._planning else "not known; ctrl+r tries again"
        panel.show(lines, draw, mark=(self._revision, width), empty=empty)
        self.put("#outcome", self._outcome, layout=True)

    def _tell(self, *told: Row) -> None:
        self._outcome = list(told)
        self._revision += 1
        if self.is_attached:
            self.redraw()

    def _toggles(self) -> list[Toggle]:
        return [item for item in self.query(Toggle) if item.kind is not None]

    def _withheld(self) -> tuple[str, ...]:
        return tuple(item.kind for item in self._toggles() if item.value and item.kind is not None)

    # -- what it would hold -------------------------------------------------------------------------------------

    def action_plan(self) -> None:
        self._planning = True
        self._revision += 1
        self.redraw()
        self.run_worker(self._plan, group="plan", exclusive=True, exit_on_error=False)

    async def _plan(self) -> None:
        """A newer question cancels this one, and says itself when it is answered."""
        try:
            plan = await self.console_app.deck.bundle_plan(self.run.run_id, self._withheld())
        except QuarterdeckError as error:
            self.plan, self._planning = None, False
            self._tell(*bundles.error_rows(error.code, error.message, error.hint, "what it would hold is not known"))
            return
        self.plan, self._planning = plan, False
        await self._offer(plan)
        self._tell(bundles.standing_row(plan))

    async def _offer(self, plan: BundlePlan) -> None:
        """One box per kind of content, made when the first plan names them."""
        known = [item.kind for item in self._toggles()]
        boxes = [Toggle(bundles.kind_label(plan, kind), kind) for kind in plan.kinds if kind not in known]
        if boxes:
            await self.query_one("#choices").mount(*boxes, before="#attest")
            if self.focused is self.query_one("#members"):
                boxes[0].focus()

    @on(Checkbox.Changed)
    def _ticked(self, event: Checkbox.Changed) -> None:
        if isinstance(event.checkbox, Toggle) and event.checkbox.kind is not None:
            self.action_plan()

    # -- writing it ---------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return sheet_reason(action, self.plan, planning=self._planning, exporting=self._exporting)

    @on(Input.Submitted)
    @on(LinesPanel.Chosen)
    def enter(self) -> None:
        """Enter, wherever the cursor is."""
        if not self.explain("export"):
            self.action_export()

    def action_export(self) -> None:
        if not self.query_one("#target", Input).value.strip():
            self._tell((piece("✗ name the file it goes to", "bad"),))
        elif self.plan is not None and bundles.unverified(self.plan):
            self.app.push_screen(PickScreen(safe("this journal does not verify"), _CHOICES), self._confirmed)
        else:
            self._begin(force=False)

    def _confirmed(self, choice: int | None) -> None:
        if choice == _CHOICES.index(_ANYWAY):
            self._begin(force=True)

    def _begin(self, *, force: bool) -> None:
        self._exporting = True
        self._tell((piece("● writing and verifying it …", "accent"),))
        intent = ExportBundle(
            run_id=self.run.run_id,
            target=str(Path.cwd() / self.query_one("#target", Input).value.strip()),
            withhold=self._withheld(),
            attest=self.query_one("#attest", Toggle).value,
            force=force,
        )
        # The application's worker: leaving the sheet must not leave half a file.
        self.app.run_worker(partial(self._export, intent), group="export", exit_on_error=False)

    async def _export(self, intent: ExportBundle) -> None:
        try:
            done = await self.console_app.deck.bundle(intent)
        except QuarterdeckError as error:
            told = bundles.error_rows(error.code, error.message, error.hint)
            if not self.is_attached:
                self.console_app.complain(error)
        else:
            told = bundles.exported_rows(done)
            if not self.is_attached:
                self.app.notify(safe(f"exported {done.path}"), title="bundle", markup=False)
        finally:
            self._exporting = False
        self._tell(*told)

    def action_back(self) -> None:
        self.app.pop_screen()


_ANYWAY: Row = (piece("export it although it does not verify; the bundle says so", "warn"),)
_CHOICES: list[Row] = [(piece("leave it here"),), _ANYWAY]
