"""All runs of the store: filter, sort and page through as many as there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from console.model import runs
from console.panels.lines import LinesPanel
from console.screens.onrun import OnRunScreen
from console.screens.paging import Pager
from runtime.events.facts import RunChanged, RunSummary, StreamEvent


class RunsScreen(OnRunScreen):
    """Every run, in the order and with the filter the operator chose."""

    HELP = (
        "All runs of the store. / filters by mission, id or status; s shows one group of statuses; shift+left and"
        " shift+right pick a column, O sorts by it and turns the order around."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="runs.filter"),
        Binding("s", "group", "Status", id="runs.group"),
        Binding("O", "sort", "Sort", id="runs.sort"),
        Binding("shift+left", "pick(-1)", "Column left", show=False, id="runs.left"),
        Binding("shift+right", "pick(1)", "Column right", show=False, id="runs.right"),
        Binding("d", "detail", "Detail", id="run.detail"),
        Binding("J", "journal", "Journal", id="run.journal"),
        Binding("ctrl+r", "reload", "Reload", show=False, id="runs.reload"),
        Binding("escape,q", "back", "Back", id="list.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.asked = runs.Query()
        self.picked = "started"
        self.pager: Pager[RunSummary] = Pager(
            self, "history", count=self._count, fetch=self._fetch, shown=self._rows_came
        )
        self._on: tuple[int, str] | None = None

    def body(self) -> ComposeResult:
        yield Input(placeholder="mission, run id or status", id="filter", select_on_focus=False)
        yield LinesPanel(id="history", selectable=True)

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.panel.focus()
        super().on_mount()
        self.call_after_refresh(self.pager.look)  # what is in view is known once it has a place

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    @property
    def panel(self) -> LinesPanel:
        return self.query_one("#history", LinesPanel)

    def run_at_hand(self) -> RunSummary | None:
        item = self.panel.item
        return item if isinstance(item, RunSummary) else None

    # -- what the store is asked --------------------------------------------------------------------------------

    async def _count(self) -> int:
        return await self.console_app.deck.count_runs(text=self.asked.text, statuses=self.asked.statuses)

    async def _fetch(self, offset: int, limit: int) -> Sequence[RunSummary]:
        asked = self.asked
        return await self.console_app.deck.runs(
            text=asked.text,
            statuses=asked.statuses,
            sort=asked.sort,
            descending=asked.descending,
            offset=offset,
            limit=limit,
        )

    def ask(self, query: runs.Query) -> None:
        """Show another filter or order, from its top."""
        if query != self.asked:
            self.asked, self._on = query, None
            self.panel.action_jump(0)
            self.pager.restart()
            self.redraw()

    def hear(self, events: Sequence[StreamEvent]) -> None:
        """A run that began or changed may stand elsewhere now."""
        if any(isinstance(event, RunChanged) for event in events):
            self.pager.changed()

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        panel, rows = self.panel, self.pager.rows
        width = panel.scrollable_content_region.width or self.app.size.width - 4
        panel.border_title = runs.title(len(rows), self.asked, known=self.pager.known)
        panel.border_subtitle = "shift+←→ column  O sort  s status  / filter"
        panel.show(
            rows,
            partial(runs.row, width=width),
            mark=(rows.revision, width),
            header=runs.header(self.asked, self.picked, width),
            empty=self._empty(),
        )

    def _empty(self) -> str:
        if self.pager.failed:
            return "could not be read; ctrl+r tries again"
        if not self.pager.known:
            return "reading …"
        return "no run matches; esc clears the filter" if self.asked.filtered else "no runs yet"

    def _rows_came(self) -> None:
        """Draw, with the cursor on the run it was on before the rows moved, unless it has been moved itself."""
        self.redraw()
        place, here = self.panel.cursor, self.run_at_hand()
        if self._on is not None and self._on[0] == place and (here is None or here.run_id != self._on[1]):
            found = next((index for index, run in self.pager.rows.held() if run.run_id == self._on[1]), None)
            if found is not None:
                self.panel.shift(found - place)
        self._note_place()

    def _note_place(self) -> None:
        """Remember the run under the cursor; at the top of the list the top is what is looked at."""
        place, here = self.panel.cursor, self.run_at_hand()
        self._on = (place, here.run_id) if here is not None and place else None
        self._refresh_keys()

    # -- actions ------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        box.focus()

    def action_group(self) -> None:
        self.ask(self.asked.next_group())

    def action_pick(self, step: int) -> None:
        names = runs.sortable(self.panel.size.width)
        place = names.index(self.picked) if self.picked in names else 0
        self.picked = names[(place + step) % len(names)]
        self.redraw()

    def action_sort(self) -> None:
        self.ask(self.asked.by(runs.sort_of(self.picked)))

    def action_reload(self) -> None:
        self.pager.restart()
        self.redraw()

    def action_back(self) -> None:
        """Clear the filter, then leave."""
        box = self.query_one("#filter", Input)
        if box.display or self.asked.filtered:
            box.value, box.display = "", False
            self.panel.focus()
            self.ask(replace(self.asked, text="", group=0))
        else:
            self.app.pop_screen()

    # -- messages -----------------------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.ask(replace(self.asked, text=event.value))

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#filter").display = False
        self.panel.focus()

    @on(LinesPanel.Viewed)
    def _viewed(self) -> None:
        self.pager.look()

    @on(LinesPanel.Moved)
    def _moved(self) -> None:
        self._note_place()

    @on(LinesPanel.Chosen)
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        if isinstance(event.item, RunSummary):
            self.console_app.open_run(event.item.run_id)
