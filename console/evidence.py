"""Judging a journal from any screen: check it, prove an entry, go to the first bad one, hand the run on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from console.model.rows import bad_place
from console.model.safe import safe
from console.screens.dialogs import AskScreen
from console.screens.export import ExportScreen
from console.screens.journal import JournalScreen
from console.screens.proof import ProofScreen
from console.screens.verdicts import VerdictsScreen
from runtime.events.facts import JournalVerified, RunSummary, Verification

if TYPE_CHECKING:
    from console.app import ConsoleApp


class Evidence:
    """What ``V``, ``B``, ``o`` and ``E`` do; one for the whole application."""

    def __init__(self, app: ConsoleApp) -> None:
        self._app = app

    def _work(self, work: Callable[[], Awaitable[object]]) -> None:
        guarded = partial(self._app.guarded, work)
        self._app.run_worker(guarded, group="evidence", exclusive=True, exit_on_error=False)

    def show(self, run: RunSummary) -> None:
        """Open the verify view, which checks at once."""
        self._app.push_screen(VerdictsScreen(run))

    async def verify(self, run_id: str) -> None:
        """Check a journal; every screen that shows its verdict hears of the new one. Raises `QuarterdeckError`."""
        verdict = await self._app.deck.verify(run_id)
        self._app.take((JournalVerified(verification=verdict),))

    def jump(self, run: RunSummary, verdict: Verification) -> None:
        """Show the first entry that is not to be trusted in the journal; of several that may be it, the first."""
        place = bad_place(verdict)
        if place is None:
            return
        first, last = place
        if first != last:
            told = f"the first bad entry is one of #{first:04d} to #{last:04d}: this is the first of them"
            self._app.notify(safe(told), title="first bad entry", severity="warning", markup=False)
        below = self._app.screen_stack[-2]
        if isinstance(below, JournalScreen) and below.run.run_id == run.run_id:
            self._app.pop_screen()
            below.go_to(first)
        else:
            self._app.open_journal(run, first)

    # -- proofs -------------------------------------------------------------------------------------------------

    def prove(self, run: RunSummary, seq: int) -> None:
        """Show that an entry is inside the newest checkpoint."""
        self._work(lambda: self._prove(run, seq))

    async def _prove(self, run: RunSummary, seq: int) -> None:
        proof = await self._app.deck.proof(run.run_id, seq)
        await self._app.push_screen(ProofScreen(run, proof))

    def prove_one(self, run: RunSummary, entries: int) -> None:
        """Ask which of ``entries`` entries, then show its proof."""

        def accept(text: str) -> str | None:
            number = text.lstrip("#")
            fits = number.isascii() and number.isdecimal() and len(number) < 16 and int(number) < entries
            return None if fits else f"entries are numbered 0 to {entries - 1}"

        def asked(text: str | None) -> None:
            if text is not None:
                self.prove(run, int(text.lstrip("#")))

        self._app.push_screen(AskScreen("prove which entry?", "its number", accept), asked)

    # -- handing on ---------------------------------------------------------------------------------------------

    def export(self, run: RunSummary) -> None:
        """Open the export sheet."""
        self._app.push_screen(ExportScreen(run))
