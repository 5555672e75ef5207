"""The compare screen: two runs, or a run and its replay, step by step, opened on the first divergence."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from console.model import compare
from console.model.compare import Line
from console.model.reasons import comparison_reason
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen
from console.screens.dialogs import DetailScreen
from runtime.events.facts import Comparison, RunSummary


class CompareScreen(DeckScreen):
    """Aligned block attempts of two tellings, and why the selected one differs."""

    HELP = (
        "Two tellings of a mission, aligned by step: ▸ the first divergence, ┊ the steps after it, ↺ reused from the "
        "other run, – missing on that side. { } jump between differences, = lists only them, o and O open the base and "
        "the other run, P replays the base at the selected entry. A marked base (⇄ in the lists) stays until W is pressed on it again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_curly_bracket", "jump(-1)", "Jump", key_display="{ }", id="compare.previous"),
        Binding("right_curly_bracket", "jump(1)", "Next divergence", show=False, id="compare.next"),
        Binding("equals_sign", "only", "Filter", key_display="=", id="compare.only"),
        Binding("x", "swap", "Swap", id="compare.swap"),
        Binding("o", "open('base')", "Base", id="compare.base"),
        Binding("O", "open('other')", "Other run", show=False, id="compare.other"),
        Binding("P", "replay", "Replay", id="compare.replay"),
        Binding("1", "panel('pairs')", "Steps", show=False, id="compare.pairs"),
        Binding("2", "panel('cause')", "Cause", show=False, id="compare.cause"),
        Binding("escape,q", "back", "Back", id="compare.back"),
    ]

    def __init__(self, comparison: Comparison, base: RunSummary | None, other: RunSummary | None) -> None:
        super().__init__()
        self._only = False
        self._take(comparison, base, other)

    def _take(self, comparison: Comparison, base: RunSummary | None, other: RunSummary | None) -> None:
        self.comparison = comparison
        self._base = base
        self._other = other
        self._lines = compare.lines(comparison)

    def body(self) -> ComposeResult:
        yield Static("", id="sides", markup=False)
        yield LinesPanel(id="pairs", selectable=True, empty="nothing differs; = shows every step")
        with VerticalScroll(id="cause"):
            yield Static("", id="cause-text", markup=False)

    def on_mount(self) -> None:
        self.query_one("#pairs").border_title = "1 steps"
        self.query_one("#cause").border_title = "2 cause"
        self.pairs.focus()
        super().on_mount()
        self.call_after_refresh(self._begin)

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    @property
    def pairs(self) -> LinesPanel:
        return self.query_one("#pairs", LinesPanel)

    @property
    def line(self) -> Line | None:
        """What the cursor is on."""
        item = self.pairs.item
        return item if isinstance(item, Line) else None

    def load(self, comparison: Comparison, base: RunSummary | None, other: RunSummary | None) -> None:
        """Show another comparison."""
        self._take(comparison, base, other)
        self._begin()

    def _begin(self) -> None:
        """Stand on the first divergence."""
        self.redraw()
        self.pairs.place(compare.opening(self._listed()))
        self._cursor_moved()

    def _listed(self) -> list[Line]:
        return compare.differences(self._lines) if self._only else self._lines

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        comparison = self.comparison
        self.put(
            "#sides",
            [
                compare.side_row("base", self._base, comparison.base),
                compare.side_row("with", self._other, comparison.other),
                compare.verdict_row(comparison),
            ],
        )
        width = self.pairs.scrollable_content_region.width or self.app.size.width - 4
        listed = self._listed()
        differing = len(compare.differences(self._lines))
        self.pairs.border_title = f"1 steps  {differing} of {len(self._lines)} differ"
        self.pairs.show(
            listed,
            lambda line: compare.line_row(line, width),
            mark=(id(comparison), self._only, width),
            header=compare.header_row(comparison, width),
        )
        self._draw_cause()

    def _draw_cause(self) -> None:
        line = self.line
        name = f"  {line.pair.step_id}" if line is not None and line.pair is not None else ""
        self.query_one("#cause").border_title = safe(f"2 cause{name}")
        self.put("#cause-text", compare.cause_rows(line, self.comparison), layout=True)

    @on(LinesPanel.Moved, "#pairs")
    def _cursor_moved(self) -> None:
        self.query_one("#cause").scroll_home(animate=False)
        self._draw_cause()

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return comparison_reason(action, choice, self.comparison)

    def action_jump(self, direction: int) -> None:
        found = compare.next_difference(self._listed(), self.pairs.cursor, direction)
        if found is None:
            self.notify(f"no difference {'after' if direction > 0 else 'before'} this one", markup=False)
            return
        self.pairs.place(found)
        self._cursor_moved()

    def action_only(self) -> None:
        """Only what differs, or everything; the cursor stays on its line where that is listed."""
        line = self.line
        self._only = not self._only
        self.redraw()
        listed = self._listed()
        self.pairs.place(listed.index(line) if line in listed else compare.opening(listed))
        self._cursor_moved()

    def action_swap(self) -> None:
        self.console_app.lookback.compare(self.comparison.other, self.comparison.base)

    def action_open(self, side: str) -> None:
        self.console_app.open_run(self.comparison.base if side == "base" else self.comparison.other)

    def action_replay(self) -> None:
        line = self.line
        self.console_app.lookback.replay(self.comparison.base, line.base_seq if line is not None else None)

    def action_panel(self, name: str) -> None:
        self.set_focus(self.query_one(f"#{name}"))

    def action_back(self) -> None:
        self.app.pop_screen()

    @on(LinesPanel.Chosen, "#pairs")
    def _line_chosen(self, event: LinesPanel.Chosen) -> None:
        line: Line = event.item
        title = line.pair.step_id if line.pair is not None else line.divergences[0].scope
        self.app.push_screen(DetailScreen(safe(title), compare.line_details(line)))
