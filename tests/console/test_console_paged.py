"""A paged list against the whole list: whatever is looked at, in whatever order, the right rows and few of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from console.model.paged import Paged

PAGE, KEPT = 7, 5


class PagedList(RuleBasedStateMachine):
    """A store that changes under a view which moves, restarts, and hears answers late."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.paged: Paged[str] = Paged(page=PAGE, kept=KEPT)
        self.late: list[tuple[int, int, list[str]]] = []
        self.known = True  # what is held says what the store says

    @initialize(count=st.integers(0, 200))
    def begin(self, count: int) -> None:
        self.rows = [f"a{index}" for index in range(count)]
        self.paged.restart(count)

    def fetch(self, page: int) -> list[str]:
        return self.rows[page * PAGE : (page + 1) * PAGE]

    @rule(first=st.integers(-5, 220), height=st.integers(1, PAGE * 3))
    def look(self, first: int, height: int) -> None:
        for page in self.paged.wanted(first, first + height - 1):
            assert self.paged.fill(self.paged.generation, page, self.fetch(page))
        if self.known:
            for index in range(max(0, first), min(first + height, len(self.rows))):
                assert self.paged[index] == self.rows[index]
            assert self.paged.wanted(first, first + height - 1) == []

    @rule()
    def jump_to_the_end(self) -> None:
        pages = self.paged.wanted(len(self.rows) - 1, len(self.rows) - 1)
        assert len(pages) <= 2
        for page in pages:
            self.paged.fill(self.paged.generation, page, self.fetch(page))
        if self.rows and self.known:
            assert self.paged[-1] == self.rows[-1]

    @rule(more=st.integers(1, 20))
    def grow(self, more: int) -> None:
        self.rows += [f"b{len(self.rows) + index}" for index in range(more)]
        self.paged.resize(len(self.rows))

    @rule()
    def ask_late(self) -> None:
        for page in self.paged.wanted(0, 0)[:1]:
            self.late.append((self.paged.generation, page, self.fetch(page)))

    @rule(count=st.integers(0, 60))
    def another_question(self, count: int) -> None:
        self.rows = [f"c{self.paged.generation}.{index}" for index in range(count)]
        self.paged.restart(count)
        self.known = True

    @precondition(lambda self: self.late)
    @rule()
    def hear_late(self) -> None:
        generation, page, rows = self.late.pop()
        asked_now = generation == self.paged.generation
        assert self.paged.fill(generation, page, rows) is asked_now
        self.known = self.known and (not asked_now or rows == self.fetch(page))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        self.rows[data.draw(st.integers(0, len(self.rows) - 1))] = "changed"
        self.paged.stale()

    @invariant()
    def few_pages_and_the_right_length(self) -> None:
        held = list(self.paged.held())
        assert len(self.paged) == len(self.rows)
        assert len(held) <= PAGE * KEPT
        assert all(self.paged.get(index) == row for index, row in held)
        assert self.paged.get(len(self.rows)) is None


TestPagedList = PagedList.TestCase
TestPagedList.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.integers(1, 2_000_000), st.integers(0, 2_000_000), st.integers(1, 200))
def test_any_view_wants_a_handful_of_pages(total: int, first: int, height: int) -> None:
    paged: Paged[int] = Paged()
    paged.restart(total)
    pages = paged.wanted(min(first, total - 1), min(first, total - 1) + height)
    assert len(pages) <= height // paged.page + 4
    assert all(0 <= page <= (total - 1) // paged.page for page in pages)


def test_a_changed_row_stays_until_it_is_fetched_again() -> None:
    paged: Paged[str] = Paged(page=2)
    paged.restart(4)
    for page in paged.wanted(0, 3):
        paged.fill(paged.generation, page, [f"{page}a", f"{page}b"])
    paged.stale()
    assert paged[0:4] == ["0a", "0b", "1a", "1b"]
    assert paged.wanted(0, 1) == [0, 1]
