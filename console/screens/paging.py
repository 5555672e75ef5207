"""Fetching what a panel over a `Paged` list shows: one query at a time, what is in view now before anything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from textual.timer import Timer

from console.model.paged import Paged
from console.panels.lines import LinesPanel

if TYPE_CHECKING:
    from console.screens.base import DeckScreen

T = TypeVar("T")

#: A list that changes all the time is read again this often at most.
REFRESH_SECONDS: Final = 0.5


class Pager(Generic[T]):
    """Keeps one panel's rows fetched.

    ``count`` says how many rows there are and ``fetch`` gives some, by offset and limit; both may raise
    `QuarterdeckError`, which is shown, and then nothing is fetched until `restart`. ``shown`` is called when rows came.
    """

    def __init__(
        self,
        screen: DeckScreen,
        panel: str,
        *,
        count: Callable[[], Awaitable[int]],
        fetch: Callable[[int, int], Awaitable[Sequence[T]]],
        shown: Callable[[], None],
    ) -> None:
        self.rows: Paged[T] = Paged()
        self.known = False
        self.failed = False
        self._screen = screen
        self._panel = panel
        self._count = count
        self._fetch = fetch
        self._shown = shown
        self._another = True
        self._recount = False
        self._changed = False
        self._pause: Timer | None = None
        self._busy = False

    def restart(self) -> None:
        """Another question. What is here is shown until the first page of its answer has come."""
        self.rows.supersede()
        self.known = self.failed = False
        self._another = True
        self.look()

    def changed(self) -> None:
        """The store says something else by now: read again, but not for every change."""
        if self._pause is not None:
            self._changed = True
            return
        self._pause = self._screen.set_timer(REFRESH_SECONDS, self._paused)
        self._recount = True
        self.look()

    def _paused(self) -> None:
        self._pause = None
        if self._changed:
            self._changed = False
            self.changed()

    def look(self) -> None:
        """See that what is in view now is fetched."""
        if not self._busy and not self.failed:
            self._busy = True
            self._screen.run_worker(self._serve, group=f"pages-{self._panel}", exit_on_error=False)

    async def _serve(self) -> None:
        try:
            self.failed = not await self._screen.console_app.guarded(self._fetch_all)
        finally:
            self._busy = False
        if self.failed:
            self.rows.restart()
            self._shown()

    async def _fetch_all(self) -> None:
        """Until nothing in view is wanted. An answer that comes after `restart` is dropped, and the new one asked."""
        rows = self.rows
        while True:
            if self._another:
                await self._begin()
                continue
            generation = rows.generation
            if self._recount:
                self._recount = False
                total = await self._count()
                if generation == rows.generation:
                    rows.resize(total)
                    rows.stale()
                    self._shown()
                continue
            wanted = rows.wanted(*self._view())
            if not wanted:
                return
            page = await self._fetch(wanted[0] * rows.page, rows.page)
            if rows.fill(generation, wanted[0], page):
                self._shown()

    async def _begin(self) -> None:
        """The first answer: how many rows, and those in view, at once, so that nothing flickers."""
        self._another = self._recount = False
        rows = self.rows
        generation = rows.generation
        total = await self._count()
        page = min(total if self._list().following else self._view()[0], max(0, total - 1)) // rows.page
        first = await self._fetch(page * rows.page, rows.page)
        if generation == rows.generation:
            rows.restart(total)
            rows.fill(rows.generation, page, first)
            self.known = True
            self._shown()

    def _list(self) -> LinesPanel:
        return self._screen.query_one(f"#{self._panel}", LinesPanel)

    def _view(self) -> tuple[int, int]:
        return self._list().view
