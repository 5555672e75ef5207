"""Home: the missions of the catalogue, what the selected one may touch, and recent runs."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Static

from console.model.compare import marked
from console.model.home import mission_rows, preview_rows, run_header, run_row
from console.model.reasons import launch_reason, toggle_watch_reason
from console.model.rows import Row, piece
from console.panels.lines import LinesPanel
from console.screens.graph import GraphScreen
from console.screens.launch import LaunchScreen
from console.screens.onrun import OnRunScreen
from runtime.events.facts import RunSummary
from runtime.host.api import MissionInfo

_SEARCH_FROM = 2  # characters from which the store is asked too


class HomeScreen(OnRunScreen):
    """Missions on the left, preview on the right, runs below."""

    HELP = "Missions and runs. Select a mission and press n to launch it; enter on a run opens its dashboard."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "launch", "New run", id="mission.launch"),
        Binding("b", "graph", "Graph", show=False, id="mission.graph"),
        Binding("r", "resume", "Resume", id="run.resume"),
        Binding("t", "toggle_watch", "Watch", id="mission.watch"),
        Binding("H", "app.history", "Runs", id="home.history"),
        Binding("slash", "filter", "Filter", key_display="/", id="home.filter"),
        Binding("v", "app.violations", "Violations", id="home.violations"),
        Binding("i", "app.approvals", "Inbox", id="home.approvals"),
        Binding("1", "panel('missions')", "Missions", show=False, id="home.missions"),
        Binding("2", "panel('runs')", "Runs", show=False, id="home.runs"),
        Binding("3", "panel('side')", "Preview", show=False, id="home.preview"),
        Binding("ctrl+r", "reload", "Reload", show=False, id="home.reload"),
        Binding("escape", "clear_filter", "Clear filter", show=False, id="home.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._missions: list[MissionInfo] = []

    def body(self) -> ComposeResult:
        yield Input(placeholder="filter missions and runs", id="filter", select_on_focus=False)
        with Horizontal(id="upper"):
            yield LinesPanel(id="missions", selectable=True)
            with VerticalScroll(id="side"):
                yield Static("", id="preview", markup=False)
        yield LinesPanel(id="runs", selectable=True)

    def on_mount(self) -> None:
        self.query_one("#missions").border_title = "1 missions"
        self.query_one("#side").border_title = "3 preview"
        self.query_one("#filter").display = False
        self.query_one("#missions").focus()
        super().on_mount()

    def on_resize(self) -> None:
        self.redraw()

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        home, text = self.console_app.home, self.query_one("#filter", Input).value
        self._missions = home.matching(text)
        missions = mission_rows(self._missions, home)
        found = dict(zip((item.path for item in self._missions), missions, strict=True))
        self.query_one("#missions", LinesPanel).show(
            self._missions,
            lambda item: found.get(item.path, ()),
            mark=(home.revision, text),
            empty=self._empty("no missions found; `quarterdeck init` makes one", text),
        )
        self._draw_preview()
        self._draw_runs(text)

    def _empty(self, nothing: str, text: str) -> str:
        home = self.console_app.home
        if home.loading:
            return "reading …"
        if home.problem is not None:
            return "could not be read; ctrl+r tries again"
        return f"nothing matches {text!r}; esc clears the filter" if text else nothing

    def _draw_preview(self) -> None:
        mission, home = self.selected_mission(), self.console_app.home
        rows: list[Row] = preview_rows(mission) if mission is not None else []
        if home.problem is not None:
            rows = [(piece(home.problem, "bad"),)]
        self.put("#preview", rows, layout=True)

    def _draw_runs(self, text: str) -> None:
        home, panel = self.console_app.home, self.query_one("#runs", LinesPanel)
        runs = home.recent(text)
        width = panel.scrollable_content_region.width or self.app.size.width - 4
        more = "" if home.complete or home.loading else "+"
        panel.border_title = f"2 runs  {len(runs)}{more} · H all runs" if runs else "2 runs"
        panel.show(
            runs,
            lambda run: marked(run_row(run, width), base=run.run_id == home.base),
            mark=(home.revision, text, width),
            header=run_header(width),
            empty=self._empty("no runs yet; n launches the selected mission", text),
        )

    def selected_mission(self) -> MissionInfo | None:
        item = self.query_one("#missions", LinesPanel).item
        return item if isinstance(item, MissionInfo) else None

    def run_at_hand(self) -> RunSummary | None:
        item = self.query_one("#runs", LinesPanel).item
        return item if isinstance(item, RunSummary) else None

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        if action in ("launch", "graph"):
            return launch_reason(self.selected_mission())
        if action == "toggle_watch":
            return toggle_watch_reason(self.selected_mission(), self.console_app.home)
        return super().off_here(action, choice)

    def action_launch(self) -> None:
        mission = self.selected_mission()
        if mission is not None:
            self.app.push_screen(LaunchScreen(mission))

    def action_graph(self) -> None:
        mission = self.selected_mission()
        if mission is not None:
            self.app.push_screen(GraphScreen(mission))

    def action_toggle_watch(self) -> None:
        """Watch the selected mission with its default inputs, or let it go."""
        mission = self.selected_mission()
        if mission is not None:
            self.console_app.toggle_watch(mission.path)

    def action_panel(self, name: str) -> None:
        self.set_focus(self.query_one(f"#{name}"))

    def action_reload(self) -> None:
        self.console_app.load()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        box.focus()

    def action_clear_filter(self) -> None:
        box = self.query_one("#filter", Input)
        if box.display:
            box.value = ""
            box.display = False
            self.query_one("#missions").focus()

    # -- messages -----------------------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if len(event.value) >= _SEARCH_FROM:
            self.console_app.search_runs(event.value)
        self.redraw()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#missions" if self._missions else "#runs").focus()

    @on(LinesPanel.Chosen, "#missions")
    def _mission_chosen(self) -> None:
        if not self.explain("launch"):
            self.action_launch()

    @on(LinesPanel.Moved, "#missions")
    def _mission_moved(self) -> None:
        self._draw_preview()
        self._refresh_keys()

    @on(LinesPanel.Moved, "#runs")
    def _run_moved(self, event: LinesPanel.Moved) -> None:
        self._refresh_keys()
        if event.last:
            self.console_app.load_older()

    @on(LinesPanel.Chosen, "#runs")
    def _run_chosen(self, event: LinesPanel.Chosen) -> None:
        self.console_app.open_run(event.item.run_id)
