"""The replay screen: time travel over a run's journal, a recorded check of it, and the hand-over to a fork."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widgets import Static

from console import journal_reader
from console.model import rows, scrub
from console.model.fold import JournalRow, StepRow
from console.model.playback import Playback, advance
from console.model.reasons import position_reason
from console.model.replay import PAGE, Replay, as_it_was, elapsed_ms, step_at
from console.model.safe import safe
from console.model.seek import HINT, seek
from console.model.violations import Columns, violation_row
from console.panels.lines import LinesPanel
from console.panels.scrub import ScrubBar
from console.screens.base import DeckScreen
from console.screens.dialogs import AskScreen, DetailScreen, PickScreen
from runtime.events.facts import Comparison
from runtime.host import api

_PANELS = ("turn", "steps", "journal", "entry", "violations")


class ReplayScreen(DeckScreen):
    """One run as it was at one entry of its journal. Nothing is executed, nothing is appended."""

    HELP = (
        "The run as it was at one entry. { } go to divergences once R found some, else to any mark: ◆ bookmarks, "
        "! refusals, failures, questions and operator actions. R executes the blocks again with every operation "
        "answered from its receipt: no process, no request. Pauses longer than a second are shortened."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "play", "Play", id="replay.play"),
        Binding("left_square_bracket", "step(-1)", "Step", key_display="[ ]", id="replay.back"),
        Binding("right_square_bracket", "step(1)", "Step forward", show=False, id="replay.forward"),
        Binding("left_curly_bracket", "stop(-1)", "Mark", key_display="{ }", id="replay.previous"),
        Binding("right_curly_bracket", "stop(1)", "Next mark", show=False, id="replay.next"),
        Binding("S", "seek", "Seek", id="replay.seek"),
        Binding("b", "bookmark", "Bookmark", show=False, id="replay.bookmark"),
        Binding("B", "bookmarks", "Bookmarks …", show=False, id="replay.bookmarks"),
        Binding("R", "check", "Check", id="replay.check"),
        Binding("D", "report", "Report of the check", show=False, id="replay.report"),
        Binding("F", "fork", "Fork", id="replay.fork"),
        Binding("W", "compare", "Compare", show=False, id="replay.compare"),
        Binding("g,home", "end(0)", "First entry", show=False, id="replay.start"),
        Binding("G,end", "end(1)", "Last entry", show=False, id="replay.end"),
        Binding("plus", "speed(1)", "Faster", key_display="+", show=False, id="replay.faster"),
        Binding("minus", "speed(-1)", "Slower", key_display="-", show=False, id="replay.slower"),
        Binding("enter", "entry", "Entry in full", show=False, id="replay.entry"),
        *(
            Binding(str(index), f"panel('{name}')", f"Panel {name}", show=False, id=f"replay.{name}-panel")
            for index, name in enumerate(_PANELS, 1)
        ),
        Binding("escape,q", "back", "Back", id="replay.leave"),
    ]

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.replay = replay
        self.playback = Playback()
        self.checking = False
        self._busy = False
        self._now = 0.0
        self._shown_at = -1

    def body(self) -> ComposeResult:
        yield Static("", id="headline", markup=False)
        yield Static("", id="place", markup=False)
        yield ScrubBar("", id="bar", markup=False)
        yield Static("", id="report", markup=False)
        with Grid(id="panels", classes="-replay"):
            yield Static("", id="turn", markup=False)
            yield LinesPanel(id="steps", empty="this run has no plan: it ended before one was frozen", selectable=True)
            yield LinesPanel(id="journal", empty="reading …", follow=True, selectable=True)
            yield LinesPanel(id="entry", empty="reading …")
            yield LinesPanel(id="violations", empty="nothing refused so far", selectable=True)

    def on_mount(self) -> None:
        for index, name in enumerate(_PANELS, 1):
            self.query_one(f"#{name}").border_title = f"{index} {name}"
        self.query_one("#turn").can_focus = True
        self.query_one("#bar").focus()
        super().on_mount()
        self._read()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    # -- reading and playing ------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Fold and read on in the background until the picture is complete, unless that is being done."""
        if not self._busy and not (self.replay.arrived and self.replay.wanted() is None):
            self._busy = True
            self.run_worker(self._reading, group="replay", exit_on_error=False)

    async def _reading(self) -> None:
        try:
            await self.console_app.guarded(self._read_on)
        finally:
            self._busy = False
        self.redraw()

    async def _read_on(self) -> None:
        """Slice by slice, so that keys come through. A summary may be ahead of what is committed: look again."""
        replay, deck, fruitless = self.replay, self.console_app.deck, 0
        while True:
            if not replay.fold():
                wanted = replay.wanted()
                if wanted is None:
                    return
                after = wanted - wanted % PAGE - 1
                if replay.feed(wanted, await deck.entries(replay.run.run_id, after=after, limit=PAGE)):
                    fruitless = 0
                elif fruitless < journal_reader.FRUITLESS_READS:
                    fruitless += 1
                    await asyncio.sleep(journal_reader.FRUITLESS_PAUSE)
                else:
                    replay.end_before(wanted)
            await asyncio.sleep(0)

    def tick(self, now: float) -> None:
        """Play on, and follow a live run."""
        self._now, replay, play = now, self.replay, self.playback
        known = self.console_app.home.runs.get(replay.run.run_id)
        if known is not None and replay.grow(known):
            self._read()
        if play.playing and not replay.arrived:
            self.playback = replace(play, since=now)
        elif play.playing:
            self.playback, position = advance(play, now, replay.target, replay.last, replay.time)
            replay.eager = self.playback.playing
            if position != replay.target:
                replay.seek(position)
            self._read()

    def picture(self) -> object:
        return self.replay.revision, self.playback, self.checking

    def pause(self) -> None:
        self.playback = replace(self.playback, playing=False)
        self.replay.eager = False

    def remember(self) -> None:
        """Keep the place for the next time, in memory; `Lookback.save` writes it."""
        self.console_app.lookback.places.keep(self.replay.run.run_id, self.replay.place)

    def on_screen_suspend(self) -> None:
        """Something is in front: time stands still, so that no one misses a part of it."""
        self.pause()
        self.remember()

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        replay, view = self.replay, self.replay.view
        width = self.app.size.width - 2
        headline = rows.headline(as_it_was(replay), elapsed_ms(replay))
        self.put("#headline", [(rows.piece("replay  ", "accent"), *headline)])
        self.put("#place", [scrub.place_row(replay, self.playback)])
        self.put("#bar", [scrub.bar_row(replay, width)])
        told = scrub.report_row(replay.report, checking=self.checking) or scrub.legend_row(replay, width)
        self.put("#report", [told])
        turn = rows.turn_row(view, self.query_one("#turn").content_size.width)
        self.put("#turn", [turn, *scrub.lane_rows(replay)])
        steps, held = view.step_rows(), not (replay.run.resumable and replay.here == replay.last)
        draw = partial(rows.step_row, width=rows.step_width(steps), held=held)
        self._panel("steps").show(steps, draw, mark=(view.marks["steps"], held))
        self._draw_journal()
        self._draw_entry()
        violations = self._panel("violations")
        violations.border_title = f"5 violations  {view.violation_count}"
        violations.set_class(bool(view.violation_count), "-some")
        refused = tuple(view.violations)
        draw_refused = partial(violation_row, columns=Columns.of(refused))
        violations.show(refused, draw_refused, mark=view.marks["violations"])
        self._shown_at = replay.here

    def _draw_journal(self) -> None:
        view, panel = self.replay.view, self._panel("journal")
        width = panel.content_size.width
        panel.border_title = f"3 journal  to #{view.last_seq:04d}" if view.journal else "3 journal"
        look = rows.JournalLook.of(None, width)
        first = view.journal[0].seq if view.journal else 0
        panel.show(tuple(view.journal), look.row, mark=(view.marks["journal"], width), base=first)
        if self._shown_at != view.last_seq:
            panel.follow()

    def _draw_entry(self) -> None:
        entry, panel = self.replay.entry, self._panel("entry")
        if not panel.display:
            return
        panel.border_title = f"4 entry  #{entry.seq:04d} {entry.kind}" if entry is not None else "4 entry"
        details = rows.entry_details(entry) if entry is not None else []
        if panel.show(details, lambda row: row, mark=entry.seq if entry is not None else -1):
            panel.scroll_home(animate=False)

    def _panel(self, name: str) -> LinesPanel:
        return self.query_one(f"#{name}", LinesPanel)

    # -- going somewhere ----------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return position_reason(action, self.replay, checking=self.checking)

    def _go(self, position: int) -> None:
        self.pause()
        self.replay.seek(position)
        self._moved()

    def _moved(self) -> None:
        self._read()
        self.redraw()

    def action_step(self, direction: int) -> None:
        """One entry on or back. At an end it says so, rather than switching one half of a footer key off."""
        if self.replay.position == (self.replay.last if direction > 0 else 0):
            self.notify(f"this is the {'last' if direction > 0 else 'first'} entry", markup=False)
        self._go(self.replay.position + direction)

    def action_stop(self, direction: int) -> None:
        mark = self.replay.stop(direction)
        if mark is not None:
            self._go(mark.seq)
        else:
            what = "divergence" if self.replay.divergences() else "mark"
            self.notify(f"no {what} {'after' if direction > 0 else 'before'} this entry", markup=False)

    def action_end(self, end: int) -> None:
        self._go(self.replay.last if end else 0)

    def action_play(self) -> None:
        """Play from here; at the end, from the start."""
        if not self.playback.playing and self.replay.position >= self.replay.last:
            self.replay.seek(0)
        self.playback = self.playback.toggled(self._now)
        self.replay.eager = self.playback.playing
        self._moved()

    def action_speed(self, step: int) -> None:
        self.playback = self.playback.faster(step)
        self.redraw()

    def action_seek(self) -> None:
        def accept(text: str) -> str | None:
            try:
                seek(self.replay, text)
            except ValueError as error:
                return str(error)
            return None

        self.app.push_screen(AskScreen("go to", HINT, accept), lambda _: self._moved())

    @on(ScrubBar.Clicked)
    def _bar_clicked(self, event: ScrubBar.Clicked) -> None:
        self._go(scrub.seq_at(event.column, self.replay, self.app.size.width - 2))

    # -- bookmarks ----------------------------------------------------------------------------------------------

    def action_bookmark(self) -> None:
        """Mark this entry, with a label if one is typed; a mark that is there goes."""
        self.pause()
        if self.replay.position in self.replay.bookmarks:
            self.replay.forget()
            self._marked()
            return

        def labelled(label: str | None) -> None:
            if label is not None:
                self.replay.bookmark(label)
                self._marked()

        title = safe(f"bookmark entry #{self.replay.position:04d}")
        self.app.push_screen(AskScreen(title, "a label (optional)", lambda text: None), labelled)

    def _marked(self) -> None:
        self.remember()
        self.console_app.lookback.save()
        self.redraw()

    def action_bookmarks(self) -> None:
        listed = scrub.bookmark_rows(self.replay)

        def chosen(index: int | None) -> None:
            if index is not None:
                self._go(listed[index][0])

        self.app.push_screen(PickScreen(safe("bookmarks"), [row for _, row in listed]), chosen)

    # -- recorded check, compare, fork --------------------------------------------------------------------------

    def action_check(self) -> None:
        self.pause()
        self.checking = True
        self.redraw()
        self.run_worker(self._check, group="check", exclusive=True, exit_on_error=False)

    async def _check(self) -> None:
        async def check() -> None:
            self.replay.judge(await self.console_app.deck.replay(api.Replay(run_id=self.replay.run.run_id)))

        try:
            done = await self.console_app.guarded(check)
        finally:
            self.checking = False
        report = self.replay.report
        if done and report is not None and not report.comparison.equivalent:
            await self._diverged(report.comparison)
        self.redraw()

    async def _diverged(self, comparison: Comparison) -> None:
        """Stand on the first divergence and open the comparison there, unless the operator went elsewhere."""
        if comparison.first is not None and comparison.first.base_seq is not None:
            self._go(comparison.first.base_seq)
        if self.app.screen is self:
            await self.console_app.guarded(lambda: self.console_app.lookback.show(comparison))

    def action_report(self) -> None:
        report = self.replay.report
        if report is not None:
            self.console_app.lookback.open(report.comparison)

    def action_compare(self) -> None:
        self.console_app.lookback.weigh(self.replay.run)

    def action_fork(self) -> None:
        step = step_at(self.replay)
        if step is not None:
            self.pause()
            self.console_app.run_again(self.replay.run, step)

    # -- one thing in full --------------------------------------------------------------------------------------

    def action_entry(self) -> None:
        entry = self.replay.entry
        if entry is not None:
            self.pause()
            title = safe(f"entry #{entry.seq:04d} {entry.kind}")
            self.app.push_screen(DetailScreen(title, rows.entry_details(entry)))

    @on(LinesPanel.Chosen, "#journal")
    def _row_chosen(self, event: LinesPanel.Chosen) -> None:
        """An entry further up the journal panel: go there; the one we stand on: show it."""
        item: JournalRow = event.item
        if item.seq == self.replay.here:
            self.action_entry()
        else:
            self._go(item.seq)

    @on(LinesPanel.Chosen, "#steps")
    def _step_chosen(self, event: LinesPanel.Chosen) -> None:
        item: StepRow = event.item
        self.app.push_screen(DetailScreen(safe(f"step {item.step_id}"), rows.step_details(item)))

    @on(LinesPanel.Chosen, "#violations")
    def _violation_chosen(self, event: LinesPanel.Chosen) -> None:
        self.console_app.explain(event.item)

    def action_panel(self, name: str) -> None:
        panel = self.query_one(f"#{name}")
        self.set_focus(panel if panel.display else self.query_one("#bar"))

    def action_back(self) -> None:
        """From a panel to the bar, from the bar away."""
        bar = self.query_one("#bar")
        if self.focused is not bar:
            self.set_focus(bar)
            return
        self.remember()
        self.console_app.lookback.save()
        self.app.pop_screen()
