"""Home: the missions of the catalogue, what the selected one may touch, and recent runs."""

from __future__ import annotations

from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Input, Static

from console.model.home import mission_rows, preview_rows, run_cells
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen, block, content
from console.screens.launch import LaunchScreen
from runtime.events.facts import RunSummary
from runtime.host.api import MissionInfo

_ROOMY: Final = 100
_WIDE_COLUMNS: Final = (("run", 8), ("mission", 20), ("status", 34), ("steps", 7), ("time", 7), ("started", 11))
_NARROW_COLUMNS: Final = (("run", 8), ("mission", 16), ("status", 26), ("steps", 5), ("time", 7))


class HomeScreen(DeckScreen):
    """Missions on the left, preview on the right, runs below."""

    HELP = "Missions and runs. Select a mission and press n to launch it; enter on a run opens its dashboard."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "launch", "New run", id="mission.launch"),
        Binding("enter", "open", "Open", id="home.open"),
        Binding("r", "resume", "Resume", id="run.resume"),
        Binding("slash", "filter", "Filter", key_display="/", id="home.filter"),
        Binding("1", "panel('missions')", "Missions", show=False, id="home.missions"),
        Binding("2", "panel('runs')", "Runs", show=False, id="home.runs"),
        Binding("ctrl+r", "reload", "Reload", show=False, id="home.reload"),
        Binding("escape", "clear_filter", "Clear filter", show=False, id="home.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._missions: list[MissionInfo] = []
        self._runs: list[RunSummary] = []

    def body(self) -> ComposeResult:
        yield Input(placeholder="filter missions and runs", id="filter", select_on_focus=False)
        with Horizontal(id="upper"):
            yield LinesPanel(id="missions", selectable=True, empty="no missions found; `quarterdeck init` makes one")
            with Vertical(id="side"):
                yield Static("", id="preview", markup=False)
        yield DataTable(id="runs", cursor_type="row", zebra_stripes=False)

    def on_mount(self) -> None:
        table = self.query_one("#runs", DataTable)
        self.query_one("#missions", LinesPanel).border_title = "1 missions"
        self.query_one("#side").border_title = "preview"
        table.border_title = "2 runs"
        self.query_one("#filter", Input).display = False
        self.query_one("#missions", LinesPanel).focus()
        super().on_mount()

    def on_resize(self) -> None:
        """Columns follow the width; a narrow terminal leaves out when a run started."""
        columns = _WIDE_COLUMNS if self.app.size.width >= _ROOMY else _NARROW_COLUMNS
        table = self.query_one("#runs", DataTable)
        if [str(column.value) for column in table.columns] != [label for label, _ in columns]:
            table.clear(columns=True)
            for label, width in columns:
                table.add_column(label, width=width, key=label)
            self._runs = []
            self.redraw()

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        home = self.console_app.home
        text = self.query_one("#filter", Input).value
        self._missions = home.matching(text)
        self.query_one("#missions", LinesPanel).show_rows(mission_rows(self._missions, home))
        self._draw_preview()
        self._draw_runs(home.recent(text))

    def _draw_preview(self) -> None:
        mission = self.selected_mission()
        rows = preview_rows(mission) if mission is not None else []
        self.query_one("#preview", Static).update(block(rows))

    def _draw_runs(self, runs: list[RunSummary]) -> None:
        """Touch only the cells that changed; rebuild when the list itself did."""
        table = self.query_one("#runs", DataTable)
        if not table.columns:
            return
        if [run.run_id for run in runs] != [run.run_id for run in self._runs]:
            row = table.cursor_row
            table.clear()
            for run in runs:
                table.add_row(*(content((cell,)) for cell in run_cells(run)[: len(table.columns)]), key=run.run_id)
            table.move_cursor(row=min(row, max(0, len(runs) - 1)))
        else:
            for old, new in zip(self._runs, runs, strict=True):
                if old != new:
                    for column, cell in zip(table.columns, run_cells(new), strict=False):
                        table.update_cell(new.run_id, column, content((cell,)))
        self._runs = runs

    def selected_mission(self) -> MissionInfo | None:
        index = self.query_one("#missions", LinesPanel).cursor
        return self._missions[index] if index < len(self._missions) else None

    def selected_run(self) -> RunSummary | None:
        row = self.query_one("#runs", DataTable).cursor_row
        return self._runs[row] if 0 <= row < len(self._runs) else None

    # -- actions ------------------------------------------------------------------------------------------------

    def action_launch(self) -> None:
        mission = self.selected_mission()
        if mission is None or not self.console_app.may_write():
            return
        if mission.problems:
            self.notify("this mission does not load; the preview lists its problems", severity="warning", markup=False)
            return
        self.app.push_screen(LaunchScreen(mission))

    async def action_open(self) -> None:
        if self.query_one("#runs", DataTable).has_focus:
            run = self.selected_run()
            if run is not None:
                await self.console_app.open_run(run.run_id)
        else:
            self.action_launch()

    def action_resume(self) -> None:
        run = self.selected_run()
        if run is None:
            self.notify("select a run first (2 jumps to the runs)", severity="warning", markup=False)
            return
        self.console_app.intend(lambda: self.console_app.deck.resume(run.run_id, "resumed from the console"))

    def action_panel(self, name: str) -> None:
        self.query_one(f"#{name}").focus()

    async def action_reload(self) -> None:
        await self.console_app._load()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        box.focus()

    def action_clear_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value = ""
        box.display = False
        self.query_one("#missions").focus()
        self.redraw()

    # -- messages -----------------------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self.redraw()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#missions" if self._missions else "#runs").focus()

    @on(LinesPanel.Chosen, "#missions")
    def _mission_chosen(self) -> None:
        self.action_launch()

    @on(LinesPanel.Moved, "#missions")
    def _mission_moved(self) -> None:
        self._draw_preview()

    @on(DataTable.RowSelected, "#runs")
    async def _run_chosen(self, event: DataTable.RowSelected) -> None:
        await self.console_app.open_run(str(event.row_key.value))
