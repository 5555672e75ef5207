"""One run in detail: its graph, its timeline, every attempt, the log, values in and out, and the files it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher, Static

from console.model import detail, rows, timeline
from console.model.detail import ValueLine
from console.model.fold import Attempt, AttemptKey, RunState, Write
from console.model.graph import Graph, lay_out
from console.model.rows import Row, piece
from console.model.safe import safe
from console.panels.graph import GraphPanel
from console.panels.lines import LinesPanel
from console.screens.dialogs import DetailScreen
from console.screens.onrun import OnRunScreen
from runtime.events.facts import NodeInfo, RunSummary

TABS = ("graph", "timeline", "attempts", "log", "values", "files")


class RunDetailScreen(OnRunScreen):
    """What a run did, block by block. A step selected in one place is selected everywhere."""

    HELP = (
        "One run in detail. [ and ] or 1 to 6 change what is shown; in the graph h j k l walk from block to block; enter"
        " opens the selected record. In the timeline the chain that took longest stands out, waiting for you is dotted."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "turn(-1)", "Tab back", key_display="[", id="detail.previous"),
        Binding("right_square_bracket", "turn(1)", "Tab on", key_display="]", id="detail.next"),
        Binding("J", "journal", "Journal", id="run.journal"),
        *(
            Binding(str(index), f"tab('{name}')", f"Show {name}", show=False, id=f"detail.{name}")
            for index, name in enumerate(TABS, 1)
        ),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def __init__(self, step_id: str = "") -> None:
        super().__init__()
        self.chosen = step_id
        self.attempt: AttemptKey | None = None
        self._plan: tuple[NodeInfo, ...] = ()
        self._graph: Graph | None = None
        self._line = timeline.Timeline()
        self._lines_of: int = -1
        self._values: list[ValueLine] = []
        self._values_of: tuple[object, ...] = ()

    def body(self) -> ComposeResult:
        yield Static("", id="headline", markup=False)
        yield Static("", id="tabs", markup=False)
        with ContentSwitcher(initial="graph", id="pages"):
            yield GraphPanel(id="graph", empty="this run has no plan: it ended before one was frozen")
            yield LinesPanel(id="timeline", selectable=True, empty="nothing has started yet")
            yield LinesPanel(id="attempts", selectable=True, empty="nothing has started yet")
            yield LinesPanel(id="log", follow=True, empty="its steps printed nothing")
            yield LinesPanel(id="values", selectable=True, empty="reading …")
            yield LinesPanel(id="files", selectable=True, empty="nothing was written")
        yield Static("", id="step", markup=False)

    def on_mount(self) -> None:
        state = self.state
        if state is not None and state.steps and self.chosen not in state.steps:
            self.chosen = next(iter(state.steps))
        self.query_one("#step").border_title = "step"
        super().on_mount()
        self.query_one("#graph").focus()
        self.call_after_refresh(self._follow_choice)

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    @property
    def state(self) -> RunState | None:
        return self.console_app.opened

    @property
    def tab(self) -> str:
        return str(self.query_one("#pages", ContentSwitcher).current)

    def _panel(self, name: str) -> LinesPanel:
        return self.query_one(f"#{name}", LinesPanel)

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Only the page that is shown."""
        state = self.state
        if state is None:
            return
        self.put("#headline", [rows.headline(state.run, self.console_app.elapsed_ms())])
        self.put("#tabs", [self._tab_row()])
        getattr(self, f"_draw_{self.tab}")(state)
        panel = self._panel(self.tab)
        panel.border_subtitle = "".join(text for text, _ in rows.progress_row(state))
        self.put("#step", detail.step_pane(state, self.chosen))

    def _tab_row(self) -> Row:
        return tuple(
            piece(
                f"[{index} {name}]" if name == self.tab else f" {index} {name} ",
                "accent" if name == self.tab else "dim",
            )
            for index, name in enumerate(TABS, 1)
        )

    def _draw_graph(self, state: RunState) -> None:
        panel, held = self.query_one("#graph", GraphPanel), not state.run.resumable
        if self._plan is not state.nodes:
            self._plan, self._graph = state.nodes, lay_out(state.nodes)
            panel.walk_to(self.chosen)
        mark = (state.marks["steps"], held, len(self._plan))
        if self._graph is not None:
            panel.draw_graph(self._graph, lambda name: detail.look(state.steps.get(name), held=held), mark=mark)
            return
        width = rows.step_width(state.step_rows())
        panel.list_nodes(
            self._plan,
            lambda node: detail.node_row(node, state.steps.get(node.node_id), width, held=held),
            mark=mark,
        )

    def _draw_timeline(self, state: RunState) -> None:
        panel = self._panel("timeline")
        if self._lines_of != state.marks["steps"] or not state.run.status.terminal:
            self._lines_of = state.marks["steps"]
            self._line = timeline.build(state.tries.values(), state.nodes, state.last_at)
        label = timeline.label_cells(self._line.bars)
        cells = timeline.bar_cells(panel.content_size.width, label)
        span = self._line.span
        panel.border_title = self._dropped(state)
        panel.show(
            self._line.bars,
            partial(timeline.bar_row, span=span, label=label, cells=cells),
            mark=(self._lines_of, cells, span),
            header=timeline.axis_row(span, label, cells),
        )

    def _draw_attempts(self, state: RunState) -> None:
        panel, tries = self._panel("attempts"), list(state.tries.values())
        width = rows.step_width(state.step_rows())
        panel.border_title = self._dropped(state)
        panel.show(
            tries,
            partial(detail.attempt_row, width=width),
            mark=state.marks["steps"],
            base=state.tries_dropped,
            header=detail.attempt_header(width),
        )

    @staticmethod
    def _dropped(state: RunState) -> str:
        return f"the newest {len(state.tries):,} attempts" if state.tries_dropped else ""

    def _draw_log(self, state: RunState) -> None:
        base = state.log_total - len(state.log)
        self._panel("log").show(tuple(state.log), rows.log_row, mark=state.marks["log"], base=base)

    def _draw_values(self, state: RunState) -> None:
        self._read_values(state)
        self._panel("values").show(self._values, lambda line: line.row, mark=(self._values_of, len(self._values)))

    def _draw_files(self, state: RunState) -> None:
        width = rows.step_width(state.step_rows())
        draw = partial(detail.write_row, width=width)
        self._panel("files").show(tuple(state.writes), draw, mark=state.marks["steps"])

    # -- values -------------------------------------------------------------------------------------------------

    def _read_values(self, state: RunState) -> None:
        """Fetch what the chosen attempt was given and gave, when another one is chosen or it has ended."""
        item = self._attempt(state)
        of = (item.key, item.finished_seq) if item is not None else (self.chosen,)
        wanted = (*of, state.run.status, self._plan is not state.nodes)
        if wanted != self._values_of:
            self._values_of = wanted
            self.run_worker(
                partial(self._fetch_values, state, item), group="values", exclusive=True, exit_on_error=False
            )

    async def _fetch_values(self, state: RunState, item: Attempt | None) -> None:
        async def fetch() -> None:
            run, found = state.run, list[ValueLine]()
            if item is not None:
                given = await self._entry(state, item.started_seq)
                gave = await self._entry(state, item.finished_seq) if item.finished_seq is not None else None
                what = f"{item.step_id}{f' visit {item.visit}' if item.visit > 1 else ''}"
                gone = "nothing recorded" if gave is not None else "it has not ended"
                found += detail.value_lines(
                    f"{what} was given", detail.recorded_value(given, "inputs"), absent="nothing"
                )
                found += detail.value_lines(f"{what} gave", detail.recorded_value(gave, "outputs"), absent=gone)
            found += detail.value_lines("inputs of the run", run.inputs, absent="none")
            found += detail.value_lines("outputs of the run", run.outputs, absent="none so far")
            self._values = found
            self.redraw()

        await self.console_app.guarded(fetch)

    async def _entry(self, state: RunState, seq: int) -> Mapping[str, Any] | None:
        found = await self.console_app.deck.entries(state.run.run_id, after=seq - 1, limit=1)
        return found[0].entry if found and found[0].seq == seq else None

    # -- the selected step --------------------------------------------------------------------------------------

    def _attempt(self, state: RunState) -> Attempt | None:
        """The chosen attempt, or the latest of the chosen step."""
        if self.attempt is not None and self.attempt in state.tries:
            return state.tries[self.attempt]
        return next(iter(reversed(state.attempts_of(self.chosen))), None)

    def _choose(self, step_id: str, attempt: AttemptKey | None = None) -> None:
        self.chosen, self.attempt = step_id, attempt
        self.redraw()

    def _follow_choice(self) -> None:
        """Put the cursor of the page that is shown on the chosen step."""
        state, tab = self.state, self.tab
        if state is None:
            return
        if tab == "graph":
            self.query_one("#graph", GraphPanel).walk_to(self.chosen)
            return
        item = self._attempt(state)
        keys = {"timeline": [bar.attempt.key for bar in self._line.bars], "attempts": list(state.tries)}.get(tab, [])
        if item is not None and item.key in keys:
            self._panel(tab).reveal(keys.index(item.key))

    @on(LinesPanel.Moved)
    def _moved(self, event: LinesPanel.Moved) -> None:
        if isinstance(event.panel, GraphPanel):
            self._choose(event.panel.chosen)
            return
        item = event.panel.item
        item = item.attempt if isinstance(item, timeline.Bar) else item
        if isinstance(item, Attempt):
            self._choose(item.step_id, item.key)

    @on(LinesPanel.Chosen)
    def _opened(self, event: LinesPanel.Chosen) -> None:
        state, item = self.state, event.item
        if state is None:
            return
        item = item.attempt if isinstance(item, timeline.Bar) else item
        if isinstance(item, Attempt):
            self._show(item.step_id, detail.attempt_details(item))
        elif isinstance(item, Write):
            self._show(item.operation_id, detail.write_details(item))
        elif isinstance(item, ValueLine):
            self._open_artifact(item)
        else:
            self._open_step(state)

    def _open_step(self, state: RunState) -> None:
        row = state.steps.get(self.chosen)
        if row is not None:
            tries = [detail.attempt_row(item, len(self.chosen)) for item in state.attempts_of(self.chosen)]
            self._show(self.chosen, [*rows.step_details(row), (), (piece("attempts", "accent"),), *tries])

    def _show(self, title: str, record: list[Row]) -> None:
        self.app.push_screen(DetailScreen(safe(title), record))

    def _open_artifact(self, line: ValueLine) -> None:
        digest = line.digest
        if digest is None:
            return

        async def fetch() -> None:
            body = await self.console_app.deck.artifact(digest)
            self._show(f"artifact {digest[:15]}…", detail.artifact_rows(body))

        self.run_worker(partial(self.console_app.guarded, fetch), group="artifact", exclusive=True, exit_on_error=False)

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return "it is shown" if action == "detail" else super().off_here(action, choice)

    def run_at_hand(self) -> RunSummary | None:
        return self.state.run if self.state is not None else None

    def step_at_hand(self) -> str | None:
        return self.chosen or None

    def action_tab(self, name: str) -> None:
        self.query_one("#pages", ContentSwitcher).current = name
        self.set_focus(self._panel(name))
        self.redraw()
        self.call_after_refresh(self._settle_tab)

    def _settle_tab(self) -> None:
        """A page that was hidden has its size only now."""
        self.redraw()
        self._follow_choice()

    def action_turn(self, step: int) -> None:
        self.action_tab(TABS[(TABS.index(self.tab) + step) % len(TABS)])

    def action_back(self) -> None:
        self.app.pop_screen()
