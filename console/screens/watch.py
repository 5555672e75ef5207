"""Watches: which missions rerun when files change, what started their last run, and what was left out and why."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from console.model import watch
from console.model.reasons import rearm_reason, watch_reason
from console.model.rows import Row, piece
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen
from runtime.events.facts import WatchState

_EMPTY = "nothing is watched; t on a mission in the home screen does that"


class WatchScreen(DeckScreen):
    """All watches of the holder, oldest first."""

    HELP = "Watched missions. A suspended watch would rerun for ever: its reason says why, u goes on from here."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "rearm", "Resume", id="watch.rearm"),
        Binding("t,x", "unwatch", "Stop watching", key_display="t", id="watch.disarm"),
        Binding("o", "open", "Open run", id="watch.run"),
        Binding("1", "panel('watches')", "Watches", show=False, id="watch.list"),
        Binding("2", "panel('watch')", "Details", show=False, id="watch.details"),
        Binding("3", "panel('ignored')", "Ignored", show=False, id="watch.ignored"),
        Binding("escape,q", "back", "Back", id="list.back"),
    ]

    def body(self) -> ComposeResult:
        yield LinesPanel(id="watches", selectable=True, empty=_EMPTY)
        with VerticalScroll(id="watch"):
            yield Static("", id="watch-details", markup=False)
        yield LinesPanel(id="ignored", empty="nothing was ignored yet")

    def on_mount(self) -> None:
        self.query_one("#watch").border_title = "2 watch"
        self.query_one("#watches").focus()
        super().on_mount()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        home, panel = self.console_app.home, self.query_one("#watches", LinesPanel)
        width = panel.scrollable_content_region.width or self.app.size.width - 4
        panel.border_title = f"1 watches  {len(home.watches)}"
        panel.show(
            home.watches,
            partial(watch.watch_row, width=width),
            mark=(home.revision, width),
            header=watch.watch_header(width),
        )
        self._draw_selected()

    def _draw_selected(self) -> None:
        home, state, ignored = self.console_app.home, self.selected(), self.query_one("#ignored", LinesPanel)
        rows: list[Row] = [(piece("no watch is selected", "dim"),)]
        if state is not None:
            rows = watch.details(state, home.runs)
        self.put("#watch-details", rows, layout=True)
        items = tuple(reversed(state.recent_ignored)) if state is not None else ()
        more = f", newest {len(items)}" if state is not None and state.ignored > len(items) else ""
        ignored.border_title = f"3 ignored  {state.ignored if state is not None else 0}{more}"
        ignored.show(items, watch.ignored_row, mark=(home.revision, state and state.watch_id))

    def selected(self) -> WatchState | None:
        item = self.query_one("#watches", LinesPanel).item
        return item if isinstance(item, WatchState) else None

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        state = self.selected()
        if action == "rearm":
            return rearm_reason(state)
        if action in ("unwatch", "open"):
            return watch_reason(action, state)
        return None

    def action_rearm(self) -> None:
        state = self.selected()
        if state is not None:
            self.console_app.intend(lambda: self.console_app.deck.rearm(state.watch_id))

    def action_unwatch(self) -> None:
        state = self.selected()
        if state is not None:
            self.console_app.intend(lambda: self.console_app.deck.unwatch(state.watch_id))

    def action_open(self) -> None:
        state = self.selected()
        run_id = state.active_run_id or state.last_run_id if state is not None else None
        if run_id is not None:
            self.console_app.open_run(run_id)

    def action_panel(self, name: str) -> None:
        self.set_focus(self.query_one(f"#{name}"))

    def action_back(self) -> None:
        self.app.pop_screen()

    @on(LinesPanel.Moved, "#watches")
    def _moved(self) -> None:
        self._draw_selected()
        self._refresh_keys()

    @on(LinesPanel.Chosen, "#watches")
    def _chosen(self) -> None:
        if not self.explain("open"):
            self.action_open()
