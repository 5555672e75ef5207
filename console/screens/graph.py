"""A mission's blocks and where each leads, before anything runs: the same picture `quarterdeck graph` prints."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.model.rows import Row, piece
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen, as_it_is, content
from runtime.host.api import MissionInfo, QuarterdeckError


class GraphScreen(DeckScreen):
    """The workflow of one mission as lines of text; child missions stand inside the block that runs them."""

    HELP = (
        "Each block with its type and what it takes and gives; arrows say where its output goes, dotted ones who observes"
        " its failure or stands in for it. The star marks where a run begins."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "launch", "New run", id="mission.launch"),
        Binding("escape,q", "back", "Back", id="list.back"),
    ]

    def __init__(self, mission: MissionInfo) -> None:
        super().__init__()
        self.mission = mission
        self._rows: tuple[Row, ...] = ()
        self._empty = "reading the mission …"

    def body(self) -> ComposeResult:
        yield LinesPanel(id="graph")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#graph").focus()
        self.run_worker(self._load(), group="graph", exclusive=True, exit_on_error=False)

    async def _load(self) -> None:
        try:
            picture = await self.console_app.deck.graph(self.mission.path)
        except QuarterdeckError as error:
            self._empty = safe(f"{error.code}: {error.message}")
        else:
            self._rows = tuple((piece(safe(line)),) for line in picture.splitlines())
        self.redraw()

    def draw(self) -> None:
        panel = self.query_one("#graph", LinesPanel)
        panel.border_title = content((piece(safe(f"graph of {self.mission.name}")),))  # type: ignore[assignment]
        panel.show(self._rows, as_it_is, mark=len(self._rows), empty=self._empty)

    def action_back(self) -> None:
        self.app.pop_screen()

    def action_launch(self) -> None:
        from console.screens.launch import LaunchScreen  # the launch sheet is opened from many screens

        self.app.push_screen(LaunchScreen(self.mission))
