"""The Textual application: one deck, one feed, one clock tick, and screens that only draw.

The runtime lives on its own thread behind a `Deck`; this application sends it intents and, ten times a second,
drains the feed into the view state of `console.model` and asks the visible screen to redraw what changed. No widget
is called per event, and nothing here can hold the runtime up.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, Final

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.screen import Screen

from console.assets import mission_folders
from console.commands import DeckCommands
from console.model.fold import RunState
from console.model.home import HomeState, holder_text
from console.model.safe import safe
from console.screens.base import DeckScreen
from console.screens.help import HelpScreen
from console.screens.home import HomeScreen
from console.screens.run import RunScreen
from console.themes import load_themes
from runtime.events.facts import StreamEvent
from runtime.host.api import Ack, Answer, Deck, Exit, QuarterdeckError, Subscription

TICK_SECONDS: Final = 0.1
RUNS_LOADED: Final = 200
ENTRIES_PAGE: Final = 500
DEFAULT_THEME: Final = "night-watch"
_HERE = Path(__file__).parent


class ConsoleApp(App[int]):
    """Quarterdeck's console over one `Deck`."""

    TITLE = "quarterdeck"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {DeckCommands}
    CSS_PATH: ClassVar[list[str | Path]] = [  # type: ignore[assignment]
        _HERE / "app.tcss",
        _HERE / "panels" / "lines.tcss",
        _HERE / "screens" / "home.tcss",
        _HERE / "screens" / "run.tcss",
        _HERE / "screens" / "dialogs.tcss",
    ]
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True, show=False),
        Binding("colon", "command_palette", "Commands", key_display=":", id="app.commands"),
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding("exclamation_mark", "next_question", "Next question", key_display="!", id="app.question"),
    ]

    def __init__(self, deck: Deck, *, theme: str | None = None) -> None:
        super().__init__()
        self.deck = deck
        self.home = HomeState(store=deck.store_path, read_only=deck.read_only)
        self.opened: RunState | None = None
        self._feed: Subscription | None = None
        self._wanted_theme = theme or DEFAULT_THEME

    # -- life ---------------------------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        for problem in load_themes(self):
            self.notify(safe(problem), severity="warning", markup=False)
        self.theme = self._wanted_theme if self._wanted_theme in self.available_themes else DEFAULT_THEME
        self._feed = self.deck.subscribe()
        self.push_screen(HomeScreen())
        self.run_worker(self._load(), group="load", exit_on_error=False)
        self.set_interval(TICK_SECONDS, self._tick)

    async def _load(self) -> None:
        await self.guarded(self._read_store)

    async def _read_store(self) -> None:
        self.home.holder = await self.deck.holder()
        self.home.load(
            await self.deck.missions(), await self.deck.runs(limit=RUNS_LOADED), await self.deck.escalations()
        )
        self._redraw()

    async def action_quit(self) -> None:
        if self._feed is not None:
            self._feed.close()
        self.exit(Exit.OK)

    # -- events → view state → screens --------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._feed is None:
            return
        events = self._feed.drain()
        if events:
            self.take(events)

    def take(self, events: list[StreamEvent] | tuple[StreamEvent, ...] | object) -> None:
        """Fold a batch of events and redraw the visible screen once."""
        assert isinstance(events, list | tuple)
        before = self.home.revision, self.opened.revision if self.opened else 0
        for event in events:
            self.home.apply(event)
            if self.opened is not None:
                self.opened.apply(event)
        if before != (self.home.revision, self.opened.revision if self.opened else 0):
            self._redraw()

    def _redraw(self) -> None:
        if isinstance(self.screen, DeckScreen):
            self.screen.redraw()

    # -- what screens and commands ask for ----------------------------------------------------------------------

    async def guarded(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Run an intent; an expected error becomes a notice with its code. True when it went through."""
        try:
            await work()
        except QuarterdeckError as error:
            self.complain(error)
            return False
        return True

    def complain(self, error: QuarterdeckError) -> None:
        """Show an error: what, code, and what to do."""
        hint = f"\n{error.hint}" if error.hint else ""
        self.notify(safe(f"{error.message}{hint}", lines=True), title=safe(error.code), severity="error", markup=False)

    def may_write(self) -> bool:
        """True when this console holds the store; otherwise says who does."""
        if not self.home.read_only:
            return True
        self.notify(safe(holder_text(self.home.holder)), title="observing", severity="warning", markup=False)
        return False

    def intend(self, work: Callable[[], Awaitable[Ack]]) -> None:
        """Send a control intent in the background and show what became of it."""
        if self.may_write():
            self.run_worker(self._send(work), group="intents", exit_on_error=False)

    async def _send(self, work: Callable[[], Awaitable[Ack]]) -> None:
        async def acknowledged() -> None:
            ack = await work()
            self.notify(safe(ack.message), severity="information" if ack.done else "warning", markup=False)

        await self.guarded(acknowledged)

    async def open_run(self, run_id: str) -> None:
        """Show one run: read what its journal holds, then follow it live."""

        async def show() -> None:
            run = await self.deck.find(run_id)
            self.opened = RunState.begin(run, await self.deck.nodes(run_id))
            await self.catch_up()
            self.opened.questions = tuple(item for item in self.home.inbox if item.run_id == run_id)
            if isinstance(self.screen, RunScreen):
                self.screen.redraw()
            else:
                await self.push_screen(RunScreen())

        await self.guarded(show)

    async def catch_up(self) -> None:
        """Page in the journal entries the feed has not delivered."""
        state = self.opened
        while state is not None:
            page = await self.deck.entries(state.run.run_id, after=state.last_seq, limit=ENTRIES_PAGE)
            state.apply_all(page)
            if len(page) < ENTRIES_PAGE:
                return

    def answer(self, escalation_id: str, resolution: str, notes: str = "") -> None:
        """Answer an open question."""
        intent = Answer(escalation_id=escalation_id, resolution=resolution, notes=notes)
        self.intend(lambda: self.deck.answer(intent))

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    async def action_next_question(self) -> None:
        waiting = self.home.blocking()
        if waiting:
            await self.open_run(waiting[0].run_id)
        else:
            self.notify("nothing needs you", markup=False)

    def get_system_commands(self, screen: Screen[object]):  # type: ignore[no-untyped-def]
        yield SystemCommand("Help", "All keys of this screen", self.action_help)
        yield SystemCommand("Next question", "Jump to the oldest question", self.action_next_question)
        yield SystemCommand("Theme", "Change the theme", self.action_change_theme)
        yield SystemCommand("Quit", "Leave the console", self.action_quit)


def run_console(options: argparse.Namespace) -> int:
    """Open the console on the store; returns the process exit code."""
    import sys

    from console.verbs.output import say
    from runtime.host.thread import open_threaded_deck

    if not sys.stdout.isatty() or not sys.stdin.isatty():
        say("quarterdeck: the console needs a terminal; `quarterdeck --help` lists the verbs that do not")
        return Exit.USAGE
    with open_threaded_deck(options.store, missions=mission_folders(options.missions)) as deck:
        return ConsoleApp(deck, theme=options.theme).run() or Exit.OK
