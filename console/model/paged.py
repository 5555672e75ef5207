"""A list of any length of which only the pages looked at are held.

The list is asked row by row and answers at once, with None for a row that is not here. ``wanted`` names the pages to
fetch for what is in view; whoever fetches them hands them to ``fill``. Nothing else about the list is known: jumping
to the end of a million rows wants the last page and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar, overload

T = TypeVar("T")

PAGE: Final = 100
#: Pages held: a few screens around the view, whatever the terminal's size.
KEPT: Final = 24


class Paged(Sequence[T | None], Generic[T]):
    """``total`` rows in pages of ``page``, of which at most ``kept`` are held: the ones wanted last.

    ``generation`` counts restarts: an answer to the question before the last one is refused.
    """

    def __init__(self, *, page: int = PAGE, kept: int = KEPT) -> None:
        self.page = page
        self.kept = kept
        self.total = 0
        self.generation = 0
        self.revision = 0
        self._pages: dict[int, tuple[T, ...]] = {}
        self._stale: set[int] = set()

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> T | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[T | None]: ...
    def __getitem__(self, index: int | slice) -> T | list[T | None] | None:
        if isinstance(index, slice):
            return [self.get(place) for place in range(*index.indices(self.total))]
        place = index + self.total if index < 0 else index
        if not 0 <= place < self.total:
            raise IndexError(index)
        return self.get(place)

    def get(self, index: int) -> T | None:
        """The row at ``index``, None while it is not here or there is none."""
        page, place = divmod(index, self.page)
        rows = self._pages.get(page, ())
        return rows[place] if 0 <= index < self.total and place < len(rows) else None

    def held(self) -> Iterator[tuple[int, T]]:
        """Every row that is here, with its index."""
        for page, rows in self._pages.items():
            for place, row in enumerate(rows):
                if page * self.page + place < self.total:
                    yield page * self.page + place, row

    def supersede(self) -> None:
        """Another question was asked: what is here is shown until its answer comes, answers to the last one are not."""
        self.generation += 1

    def restart(self, total: int = 0) -> None:
        """The first answer to another question: forget everything before it."""
        self._pages.clear()
        self._stale.clear()
        self.total = total
        self.supersede()
        self.revision += 1

    def resize(self, total: int) -> None:
        """The list grew or shrank at its end; a page that was not full is read again."""
        if total == self.total:
            return
        for page in self._pages:
            if len(self._pages[page]) < self.page or (page + 1) * self.page > total:
                self._stale.add(page)
        self.total = total
        self.revision += 1

    def stale(self) -> None:
        """Rows may have changed: what is here is shown on, and wanted again when it is in view."""
        self._stale.update(self._pages)

    def wanted(self, first: int, last: int) -> list[int]:
        """The pages to fetch to show rows ``first`` to ``last``, those in view before their neighbours.

        Says which pages matter now, too: they are the last to be dropped.
        """
        if not self.total:
            return []
        end = (self.total - 1) // self.page
        low, high = max(0, first) // self.page, min(max(first, last), self.total - 1) // self.page
        high = min(high, low + self.kept - 1)
        around = [page for page in (high + 1, low - 1) if 0 <= page <= end and high - low + 3 <= self.kept]
        looked_at = [*range(low, high + 1), *around]
        for page in reversed(looked_at):
            if page in self._pages:
                self._pages[page] = self._pages.pop(page)
        return [page for page in looked_at if page not in self._pages or page in self._stale]

    def fill(self, generation: int, page: int, rows: Sequence[T]) -> bool:
        """Take a fetched page in; False for an answer nobody waits for any more."""
        if generation != self.generation:
            return False
        self._pages.pop(page, None)
        self._pages[page] = tuple(rows)
        self._stale.discard(page)
        while len(self._pages) > self.kept:
            dropped = next(iter(self._pages))
            del self._pages[dropped]
            self._stale.discard(dropped)
        self.revision += 1
        return True
