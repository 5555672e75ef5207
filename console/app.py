"""The Textual application: one deck, one feed, one clock tick, and screens that only draw.

The runtime lives on its own thread behind a `Deck`; this application sends it intents and, ten times a second,
drains the feed into the view state of `console.model` and asks the visible screen to redraw what changed. No widget
is called per event, and nothing here can hold the runtime up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from console.assets import mission_folders
from console.commands import DeckCommands
from console.evidence import Evidence
from console.journal_reader import JournalReader
from console.lookback import Lookback
from console.model.examination import examination_rows
from console.model.fold import RunState
from console.model.home import HomeState, title_text, watch_of_mission
from console.model.reasons import again_reason
from console.model.rows import Row, entry_details, piece
from console.model.safe import safe
from console.model.undo import undo_rows, undo_word
from console.model.violations import violation_details
from console.screens.base import DeckScreen
from console.screens.compare import CompareScreen
from console.screens.detail import RunDetailScreen
from console.screens.dialogs import AnswerScreen, ConfirmScreen, DetailScreen
from console.screens.export import ExportScreen
from console.screens.help import HelpScreen
from console.screens.home import HomeScreen
from console.screens.journal import VERIFIED_ON_OPEN, JournalScreen
from console.screens.launch import Again, LaunchScreen
from console.screens.leave import LeaveScreen, StoppingScreen
from console.screens.lists import ApprovalsScreen, ViolationsScreen
from console.screens.proof import ProofScreen
from console.screens.replay import ReplayScreen
from console.screens.run import RunScreen
from console.screens.runs import RunsScreen
from console.screens.verdicts import VerdictsScreen
from console.screens.watch import WatchScreen
from console.themes import load_bundled_themes, load_own_themes
from runtime.events.facts import Escalation, RunSummary, StreamEvent, UndoPlan, Violation
from runtime.host.api import Ack, Answer, Deck, Exit, MissionInfo, QuarterdeckError, RunStatus, Subscription, Watch

TICK_SECONDS: Final = 0.1
#: A journal that is being read in is drawn this often.
CATCHING_UP_SECONDS: Final = 1.0
RUNS_PAGE: Final = 200
DEFAULT_THEME: Final = "night-watch"
_HERE = Path(__file__).parent
#: Screens of one run, or opened over it: another run's screens replace them.
_OF_ONE_RUN: Final = (
    RunScreen,
    RunDetailScreen,
    JournalScreen,
    ReplayScreen,
    CompareScreen,
    ApprovalsScreen,
    ViolationsScreen,
    WatchScreen,
    VerdictsScreen,
    ProofScreen,
    ExportScreen,
)


class ConsoleApp(App[int]):
    """Quarterdeck's console over one `Deck`."""

    TITLE = "quarterdeck"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = App.COMMANDS | {DeckCommands}
    CSS_PATH: ClassVar[list[str | Path]] = [
        _HERE / "app.tcss",
        _HERE / "panels" / "lines.tcss",
        _HERE / "screens" / "home.tcss",
        _HERE / "screens" / "run.tcss",
        _HERE / "screens" / "runs.tcss",
        _HERE / "screens" / "detail.tcss",
        _HERE / "screens" / "lists.tcss",
        _HERE / "screens" / "replay.tcss",
        _HERE / "screens" / "compare.tcss",
        _HERE / "screens" / "dialogs.tcss",
        _HERE / "screens" / "watch.tcss",
        _HERE / "screens" / "verdicts.tcss",
    ]
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True, show=False),
        Binding("colon", "command_palette", "Cmd", key_display=":", id="app.commands"),
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding("exclamation_mark", "next_question", "Next question", key_display="!", show=False, id="app.question"),
        Binding("H", "history", "All runs", show=False, id="app.history"),
        Binding("i", "approvals", "Inbox", show=False, id="app.approvals"),
        Binding("v", "violations", "Violations", show=False, id="app.violations"),
        Binding("T", "watches", "Watches", show=False, id="app.watches"),
    ]

    def __init__(self, deck: Deck, *, theme: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.deck = deck
        self.home = HomeState(store=deck.store_path, read_only=deck.read_only)
        self.opened: RunState | None = None
        self.failure: QuarterdeckError | None = None
        self.lookback = Lookback(self)
        self.evidence = Evidence(self)
        self.repaints = 0
        self._reader = JournalReader(deck)
        self._feed: Subscription | None = None
        self._wanted_theme = theme or DEFAULT_THEME
        # Known before the style sheet is parsed, so that it is parsed once: a switch later costs a tenth of a start.
        self._theme_problems = load_bundled_themes(self)
        if self._wanted_theme in self.available_themes:
            self.theme = self._wanted_theme
        self._clock = clock
        self._seen_at = 0.0
        self._drawn: tuple[object, ...] = ()
        self._reading: RunState | None = None
        self._title = ""

    # -- life ---------------------------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        for problem in (*self._theme_problems, *load_own_themes(self)):
            self.notify(safe(problem), severity="warning", markup=False)
        if self._wanted_theme not in self.available_themes:
            self.notify(safe(f"no theme {self._wanted_theme!r}; using {DEFAULT_THEME}"), markup=False)
            self._wanted_theme = DEFAULT_THEME
        if self.theme != self._wanted_theme:
            self.theme = self._wanted_theme
        self._feed = self.deck.subscribe()
        self.push_screen(HomeScreen())
        self.load()
        self.set_interval(TICK_SECONDS, self._tick)

    def load(self) -> None:
        """Read missions, the newest runs and the inbox again."""
        self.run_worker(self._load, group="load", exclusive=True, exit_on_error=False)

    async def _load(self) -> None:
        try:
            self.home.holder = await self.deck.holder()
            missions = await self.deck.missions()
            runs = await self.deck.runs(limit=RUNS_PAGE)
            self.home.load(missions, (), await self.deck.escalations())
            self.home.page(runs, RUNS_PAGE)
            self.home.watches = await self.deck.watches()
        except QuarterdeckError as error:
            self.home.problem, self.home.loading = f"{error.message} [{error.code}]", False
            self.home.revision += 1
            self.complain(error)
        self._redraw()

    def load_older(self) -> None:
        """The next page of runs, older than all that were paged in so far."""
        if not self.home.complete:
            self.run_worker(partial(self.guarded, self._load_older), group="older", exclusive=True, exit_on_error=False)

    async def _load_older(self) -> None:
        self.home.page(await self.deck.runs(before=self.home.oldest, limit=RUNS_PAGE), RUNS_PAGE)

    def search_runs(self, text: str) -> None:
        """Let the store look for runs that were not paged in."""

        async def search() -> None:
            self.home.add(await self.deck.runs(text=text, limit=RUNS_PAGE))

        if not self.home.complete:
            self.run_worker(partial(self.guarded, search), group="search", exclusive=True, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Every worker's failure has a place to appear."""
        if event.state is WorkerState.ERROR:
            error = event.worker.error
            self.notify(
                safe(f"{type(error).__name__}: {error}"), title="internal error", severity="error", markup=False
            )

    # -- leaving ------------------------------------------------------------------------------------------------

    async def action_quit(self) -> None:
        """Leave; with live runs of this console, ask what becomes of them first."""
        if isinstance(self.screen, LeaveScreen | StoppingScreen):
            return
        live = [] if self.home.read_only else self.home.live()
        if live:
            self.push_screen(LeaveScreen(live), self._leave_as)
        else:
            self.leave()

    def _leave_as(self, choice: str | None) -> None:
        if choice == "leave":
            self.leave()
        elif choice == "cancel":
            self.push_screen(StoppingScreen("cancelling", self._cancel_all), self._cancelled)

    async def _cancel_all(self) -> None:
        live = self.home.live()
        for run in live:
            await self.deck.cancel(run.run_id, "cancelled on quit")
        for run in live:
            await self.deck.wait(run.run_id)

    def _cancelled(self, done: bool | None) -> None:
        if done:
            self.leave()

    def leave(self) -> None:
        """Close the deck while saying so, then exit."""
        self.push_screen(StoppingScreen("stopping", self._close, may_stay=False), lambda _: self.exit(Exit.OK))

    async def _close(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        await self.lookback.close()
        try:
            await self.deck.close()
        except QuarterdeckError as error:
            self.failure = error

    # -- events → view state → screens --------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._feed is None or not self.screen_stack:  # an exiting app may tick once more without a screen
            return
        self.take(self._feed.drain())
        if self.opened is not None and self.opened.missing and not self.opened.stalled:
            self.catch_up()
        if isinstance(self.screen, DeckScreen):
            self.screen.tick(self._clock())
        if self._drawn != self._picture():
            self._redraw()

    def take(self, events: Sequence[StreamEvent]) -> None:
        """Fold a batch of events. Drawing is left to the tick."""
        opened = self.opened
        shown = opened.run if opened is not None else None
        for event in events:
            self.home.apply(event)
            if opened is not None:
                opened.apply(event)
        if opened is not None and opened.run is not shown:
            self._seen_at = self._clock()
        for screen in self.screen_stack if events else ():
            if isinstance(screen, DeckScreen):
                screen.hear(events)

    def _picture(self) -> tuple[object, ...]:
        """What the visible screen shows; another value means another picture."""
        opened = self.opened
        shown: object = opened.revision if opened is not None else None
        if opened is not None and opened.far_behind:  # every page changes it; drawing each would be in the way of keys
            shown = int(self._clock() / CATCHING_UP_SECONDS)
        return (
            self.home.revision,
            shown,
            self.elapsed_ms() // 1000,
            self.screen,
            self.screen.picture() if isinstance(self.screen, DeckScreen) else None,
        )

    def elapsed_ms(self) -> int:
        """The opened run's active time; between summaries of a working run the console counts on."""
        if self.opened is None:
            return 0
        run = self.opened.run
        working = run.status.value in ("running", "stopping") and not run.resumable
        return run.duration_ms + (int((self._clock() - self._seen_at) * 1000) if working else 0)

    def _redraw(self) -> None:
        self._drawn = self._picture()
        if isinstance(self.screen, DeckScreen):
            self.repaints += 1
            self.screen.redraw()
        self._show_title()

    def _show_title(self) -> None:
        """The terminal's title carries the counts, so that a console in the background still tells."""
        title = title_text(self.home)
        if title != self._title and self._driver is not None and not self.is_headless:
            self._driver.write(f"\x1b]2;{title}\x07")
        self._title = title

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

    def intend(self, work: Callable[[], Awaitable[Ack]]) -> None:
        """Send a control intent in the background and show what became of it."""

        async def acknowledged() -> None:
            ack = await work()
            self.notify(safe(ack.message), severity="information" if ack.done else "warning", markup=False)

        self.run_worker(partial(self.guarded, acknowledged), group="intents", exit_on_error=False)

    def toggle_watch(self, path: str) -> None:
        """Watch the mission at ``path``, or stop watching it."""
        deck, watched = self.deck, watch_of_mission(path, self.home.watches)
        if watched is not None:
            self.intend(lambda: deck.unwatch(watched.watch_id))
            return

        async def arm() -> Ack:
            state = await deck.watch(Watch(path=path, directory=str(Path.cwd())))
            told = f"watching {state.mission}: {state.files} files of {', '.join(state.paths)}"
            return Ack(done=True, run_id="", message=told)

        self.intend(arm)

    def open_run(self, run_id: str, show: Callable[[], DeckScreen] = RunScreen) -> None:
        """Show one run: its dashboard at once, its journal as it is read, then whatever happens."""
        self.run_worker(
            partial(self.guarded, lambda: self._open(run_id, show)), group="open", exclusive=True, exit_on_error=False
        )

    def open_detail(self, run_id: str, step_id: str = "") -> None:
        """Show what one run did, block by block; over its dashboard when that is what is shown."""
        if self._is_open(run_id) and isinstance(self.screen, RunScreen):
            self.push_screen(RunDetailScreen(step_id))
        else:
            self.open_run(run_id, RunDetailScreen)

    def open_journal(self, run: RunSummary, at: int | None = None) -> None:
        """Show the whole journal of a run, read as it is looked at, from its end or from an entry on."""
        self.push_screen(JournalScreen(run, at))

    def open_entry(self, run_id: str, seq: int) -> None:
        """Show one journal entry in full."""

        async def show() -> None:
            found = await self.deck.entries(run_id, after=seq - 1, limit=1)
            unreadable: Row = (piece("it cannot be read", "bad"),)
            there = bool(found) and found[0].seq == seq
            details = entry_details(found[0]) if there else [unreadable]
            self.push_screen(DetailScreen(safe(f"entry #{seq:04d} {found[0].kind if there else ''}"), details))

        self.run_worker(partial(self.guarded, show), group="entry", exclusive=True, exit_on_error=False)

    def explain(self, item: Violation) -> None:
        """Show why an operation was refused, with its places in the mission file."""

        async def show() -> None:
            found = await self.deck.violation(item.run_id, item.seq)
            self.push_screen(DetailScreen(safe(f"why {found.code}"), violation_details(found)))

        self.run_worker(partial(self.guarded, show), group="entry", exclusive=True, exit_on_error=False)

    async def _open(self, run_id: str, show: Callable[[], DeckScreen]) -> None:
        state = await self._reader.open(run_id)
        state.questions = tuple(item for item in self.home.inbox if item.run_id == state.run.run_id)
        self.opened, self._seen_at = state, self._clock()
        self._leave_run()
        await self.push_screen(show())
        self.catch_up()

    def _leave_run(self) -> None:
        while isinstance(self.screen, _OF_ONE_RUN):
            self.pop_screen()

    def catch_up(self) -> None:
        """Page in the journal entries the feed has not delivered, unless that is being done."""
        if self.opened is not None and self._reading is not self.opened:
            self._reading = self.opened
            self.run_worker(self._catch_up, group="history", exclusive=True, exit_on_error=False)

    async def _catch_up(self) -> None:
        state = self._reading
        try:
            if state is not None and await self.guarded(lambda: self._reader.catch_up(state)):
                await self.guarded(lambda: self._after_reading(state))
        finally:
            if self._reading is state:
                self._reading = None

    async def _after_reading(self, state: RunState) -> None:
        """A run nobody works on: its kept output, and a fresh verdict."""
        if not (state.run.status.terminal or state.run.resumable):
            return
        if not state.log_total:
            await self._reader.outputs(state)
        if state.verification is None and state.expected <= VERIFIED_ON_OPEN:
            await self.evidence.verify(state.run.run_id)

    def look_up(self, path: str) -> None:
        """Find out whether the mission of a run can still be run, for the keys that need it."""
        if self.home.mission_at(path) is None:
            self.run_worker(partial(self.guarded, lambda: self._look_up(path)), group="mission", exit_on_error=False)

    async def _look_up(self, path: str) -> MissionInfo:
        mission = await self.deck.mission(path)
        self.home.look_up(path, mission)
        return mission

    def run_again(self, run: RunSummary, step: str | None = None) -> None:
        """Open the launch sheet for another run of this run's lineage, from ``step`` or from the start."""
        self.run_worker(
            partial(self.guarded, lambda: self._run_again(run, step)),
            group="again",
            exclusive=True,
            exit_on_error=False,
        )

    async def _run_again(self, run: RunSummary, step: str | None) -> None:
        mission = await self._look_up(run.mission_path)
        reason = again_reason(run, mission)
        if reason is not None:
            self.notify(safe(reason), title="run again", severity="warning", markup=False)
            return
        steps = [node.node_id for node in await self.deck.nodes(run.run_id)]
        if self.opened is not None and self._is_open(run.run_id) and not self.opened.missing:
            steps = [row.step_id for row in self.opened.step_rows() if row.status != "pending"]
        await self.push_screen(LaunchScreen(mission, Again(run, tuple(steps), step if step in steps else None)))

    def undo(self, run_id: str) -> None:
        """Show what undoing a run would undo, and ask."""
        self.run_worker(partial(self.guarded, lambda: self._undo(run_id)), group="undo", exit_on_error=False)

    async def _undo(self, run_id: str) -> None:
        plan = await self.deck.undo_plan(run_id)

        def confirmed(reason: str | None) -> None:
            if reason is not None:
                work = partial(self.guarded, lambda: self._start_undo(plan, reason))
                self.run_worker(work, group="intents", exit_on_error=False)

        title = f"Undo {len(plan.steps)} writes of run {run_id[:8]}, in this order?"
        asked = ConfirmScreen(undo_word(plan), title, about=undo_rows(plan), otherwise="Esc leaves all as it is.")
        await self.push_screen(asked, confirmed)

    async def _start_undo(self, plan: UndoPlan, reason: str) -> None:
        run = await self.deck.undo(plan.run_id, reason, plan.digest)
        if run.status is RunStatus.REFUSED:
            self.notify(safe(run.message or ""), title=safe(run.code or ""), severity="error", markup=False)
        else:
            self.open_run(run.run_id)

    def ask(self, question: Escalation, choice: str = "") -> None:
        """Show a question in full and take the answer."""
        about = (
            self.opened.asked_about(question.step_id) if self._is_open(question.run_id) and self.opened else safe("")
        )

        def answered(answer: tuple[str, str] | None) -> None:
            if answer is not None:
                self.answer(question.escalation_id, *answer)

        self.push_screen(AnswerScreen(question, about, choice), answered)

    def _is_open(self, run_id: str) -> bool:
        return self.opened is not None and self.opened.run.run_id == run_id

    def answer(self, escalation_id: str, resolution: str, notes: str = "") -> None:
        """Answer an open question."""
        intent = Answer(escalation_id=escalation_id, resolution=resolution, notes=notes)
        self.intend(lambda: self.deck.answer(intent))

    def action_help(self) -> None:
        if isinstance(self.screen, DeckScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_next_question(self) -> None:
        waiting = self.home.blocking()
        if waiting:
            self.open_run(waiting[0].run_id)
        else:
            self.notify("nothing needs you", markup=False)

    def action_history(self) -> None:
        if isinstance(self.screen, DeckScreen):
            self._leave_run()
            if not isinstance(self.screen, RunsScreen):
                self.push_screen(RunsScreen())

    def action_approvals(self) -> None:
        self._show(ApprovalsScreen)

    def action_violations(self) -> None:
        self._show(ViolationsScreen)

    def action_watches(self) -> None:
        self._show(WatchScreen)

    def action_self_test(self) -> None:
        """Run the checks of ``quarterdeck doctor`` that are not about the terminal, and show them."""
        self.run_worker(partial(self.guarded, self._examine), group="self-test", exclusive=True, exit_on_error=False)

    async def _examine(self) -> None:
        from runtime.host.doctor import examine

        found = await examine(self.deck.store_path)
        self.push_screen(DetailScreen(safe("self-test"), list(examination_rows(found.checks, found.probes))))

    def _show(self, kind: type[ApprovalsScreen | ViolationsScreen | WatchScreen]) -> None:
        if isinstance(self.screen, DeckScreen) and not isinstance(self.screen, kind):
            self.push_screen(kind())

    def get_system_commands(self, screen: Screen[object]) -> Iterator[SystemCommand]:
        yield SystemCommand("Help", "All keys of this screen", self.action_help)
        yield SystemCommand("Next question", "Jump to the oldest question", self.action_next_question)
        yield SystemCommand("Runs", "All runs: filter, sort, page through", self.action_history)
        yield SystemCommand("Approvals", "All open questions", self.action_approvals)
        yield SystemCommand("Violations", "Refused operations of all runs", self.action_violations)
        yield SystemCommand("Watches", "Missions that rerun when files change", self.action_watches)
        yield SystemCommand("Theme", "Change the theme", self.action_change_theme)
        yield SystemCommand("Self-test", "Confinement, machine and store, with what to do", self.action_self_test)
        yield SystemCommand("Quit", "Leave the console", self.action_quit)


def run_console(options: argparse.Namespace) -> int:
    """Open the console on the store; returns the process exit code. Raises what closing the store raised."""
    from runtime.host.thread import open_threaded_deck

    return show_console(lambda: open_threaded_deck(options.store, missions=mission_folders(options.missions)), options)


def show_console(opening: Callable[[], AbstractContextManager[Deck]], options: argparse.Namespace) -> int:
    """The console on the deck that ``opening`` gives, which is not opened without a terminal to show it on."""
    import sys

    from console.verbs.output import say

    if not sys.stdout.isatty() or not sys.stdin.isatty():
        say("quarterdeck: the console needs a terminal; `quarterdeck --help` lists the verbs that do not")
        return Exit.USAGE
    with opening() as deck:
        app = ConsoleApp(deck, theme=options.theme)
        code = app.run() or Exit.OK
    if app.failure is not None:
        raise app.failure
    return code
