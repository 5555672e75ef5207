"""Looking back from any screen: replay a run, set runs side by side, hand a step over to a new run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from console.model.compare import REPLAY
from console.model.replay import Replay
from console.model.rows import piece
from console.model.safe import safe
from console.place_file import PlaceFile
from console.screens.compare import CompareScreen
from console.screens.dialogs import PickScreen
from console.screens.replay import ReplayScreen
from runtime.events.facts import Comparison, RunSummary

if TYPE_CHECKING:
    from console.app import ConsoleApp


class Lookback:
    """What ``P``, ``W`` and ``F`` do; one for the whole application."""

    def __init__(self, app: ConsoleApp) -> None:
        self._app = app
        self.places = PlaceFile(app.deck.store_path, read_only=lambda: app.home.read_only, notice=self._notice)

    def _notice(self, text: str) -> None:
        self._app.notify(safe(text), severity="warning", markup=False)

    def _work(self, work: Callable[[], Awaitable[object]]) -> None:
        guarded = partial(self._app.guarded, work)
        self._app.run_worker(guarded, group="lookback", exclusive=True, exit_on_error=False)

    # -- replay -------------------------------------------------------------------------------------------------

    def replay(self, run_id: str, at: int | None = None) -> None:
        """Open the replay of a run, at an entry or where it was left."""
        self._work(lambda: self._replay(run_id, at))

    async def _replay(self, run_id: str, at: int | None) -> None:
        run = await self._app.deck.find(run_id)
        replay = Replay(run, await self._app.deck.nodes(run.run_id), await self.places.of(run.run_id))
        if at is not None:
            replay.seek(at)
        while isinstance(self._app.screen, ReplayScreen | CompareScreen):
            self._app.pop_screen()
        await self._app.push_screen(ReplayScreen(replay))

    def save(self) -> None:
        """Let what is remembered of replays reach its file."""
        self._app.run_worker(self.places.save, group="places", exit_on_error=False)

    async def close(self) -> None:
        """Keep where open replays stand, before the console ends."""
        for screen in self._app.screen_stack:
            if isinstance(screen, ReplayScreen):
                screen.remember()
        await self.places.save()

    # -- compare ------------------------------------------------------------------------------------------------

    def weigh(self, run: RunSummary) -> None:
        """``W`` on a run: mark it as base, or compare it with the base; a fork offers its parent."""
        base = self._app.home.base
        if base is None and run.parent_run_id is not None:
            self._offer_parent(run, run.parent_run_id)
        elif base is None:
            self._mark(run)
        elif base == run.run_id:
            self._app.home.set_base(None)
            self._app.notify("no base is marked any more", markup=False)
        else:
            self.compare(base, run.run_id)

    def _mark(self, run: RunSummary) -> None:
        self._app.home.set_base(run.run_id)
        self._app.notify(safe(f"base is {run.run_id[:8]} {run.mission}; W on another run compares"), markup=False)

    def _offer_parent(self, run: RunSummary, parent: str) -> None:
        choices = [
            (piece(f"its parent {parent[:8]}, as base"),),
            (piece("another run: mark this one as base"),),
        ]

        def chosen(index: int | None) -> None:
            if index == 0:
                self.compare(parent, run.run_id)
            elif index == 1:
                self._mark(run)

        self._app.push_screen(PickScreen(safe(f"compare {run.run_id[:8]} with"), choices), chosen)

    def compare(self, base: str, other: str) -> None:
        """Set two runs side by side, by full id."""
        self._work(lambda: self._compare(base, other))

    async def _compare(self, base: str, other: str) -> None:
        await self.show(await self._app.deck.compare(base, other))

    def open(self, comparison: Comparison) -> None:
        """Show a comparison that is at hand."""
        self._work(lambda: self.show(comparison))

    async def show(self, comparison: Comparison) -> None:
        """Open a comparison, in place of one that is open."""
        base = await self._app.deck.find(comparison.base)
        other = await self._app.deck.find(comparison.other) if comparison.other != REPLAY else None
        if isinstance(self._app.screen, CompareScreen):
            self._app.screen.load(comparison, base, other)
        else:
            await self._app.push_screen(CompareScreen(comparison, base, other))
