"""Looking back: the runs screen pages, sorts and follows; run detail keeps one selection; a journal of any length."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from support.fake_deck import RUN, FakeDeck, entry, run_summary
from support.history import BODY, deck, many_runs
from support.pictures import drawn, notices, press, settle
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from console.panels.graph import GraphPanel
from console.panels.lines import LinesPanel
from console.screens.detail import RunDetailScreen
from console.screens.dialogs import DetailScreen
from console.screens.home import HomeScreen
from console.screens.journal import JournalScreen
from console.screens.run import RunScreen
from console.screens.runs import RunsScreen
from runtime.events.facts import EntryAppended, Finding, RunChanged, RunSummary, Verification
from runtime.host.api import RunStatus, StorageError

SIZE = (120, 40)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.screens.paging.REFRESH_SECONDS", 0.001)
    monkeypatch.setattr("console.journal_reader.FRUITLESS_PAUSE", 0.0)


async def runs_screen(pilot: Pilot[Any]) -> RunsScreen:
    await settle(pilot)
    await press(pilot, "H")
    screen = pilot.app.screen
    assert isinstance(screen, RunsScreen)
    return screen


def selected(screen: RunsScreen) -> str:
    run = screen.run_at_hand()
    assert run is not None
    return run.run_id[:8]


async def typed(pilot: Pilot[Any], text: str, *, box: str = "slash") -> None:
    """Open the box, type into it, and send it off."""
    await pilot.press(box)
    pilot.app.screen.query_one("#filter", Input).value = text
    await pilot.press("enter")
    await settle(pilot)


def rows(screen: RunsScreen) -> list[RunSummary]:
    """The runs that are here, in the order of the list."""
    return [run for run in screen.pager.rows if run is not None]


# -- runs -----------------------------------------------------------------------------------------------------------


async def test_the_end_of_the_list_is_one_jump_and_few_reads() -> None:
    fake = deck(runs_list=many_runs(5000))
    asked: list[int] = []
    runs = fake.runs

    async def noted(**arguments: Any) -> tuple[RunSummary, ...]:
        asked.append(arguments["offset"])
        return await runs(**arguments)

    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        await settle(pilot)
        fake.runs = noted  # type: ignore[method-assign]
        screen = await runs_screen(pilot)
        await press(pilot, "G")
        assert selected(screen) == "00000000"
        assert "runs  5,000" in str(screen.panel.border_title)
        assert len(asked) <= 4
        await press(pilot, "pageup", "k", "g")
        assert selected(screen) == "00001387"


async def test_sorting_by_a_column_and_turning_it_round() -> None:
    async with ConsoleApp(deck()).run_test(size=SIZE) as pilot:
        screen = await runs_screen(pilot)
        await press(pilot, "shift+right", "O")
        assert screen.asked.sort == "violations"
        assert "refused↓" in drawn(pilot)
        counts = [run.violations for run in rows(screen)]
        assert counts == sorted(counts, reverse=True)
        await press(pilot, "O", "shift+left", "shift+left", "O")
        assert (screen.asked.sort, screen.asked.descending) == ("duration", True)
        times = [run.duration_ms for run in rows(screen)]
        assert times == sorted(times, reverse=True)


async def test_filters_narrow_and_escape_takes_them_away_before_it_leaves() -> None:
    async with ConsoleApp(deck()).run_test(size=SIZE) as pilot:
        screen = await runs_screen(pilot)
        await pilot.press("slash", "H", "O", "d", "q")
        assert screen.query_one("#filter", Input).value == "HOdq"
        await typed(pilot, "watch")
        await press(pilot, "s", "s")
        assert "· failed · /watch" in str(screen.panel.border_title)
        found = rows(screen)
        assert found
        assert all(run.mission == "watch-tests" and run.status is RunStatus.FAILED for run in found)
        await press(pilot, "escape")
        assert len(screen.pager.rows) == 241
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, HomeScreen)


async def test_a_run_opens_and_escape_comes_back_to_its_row() -> None:
    async with ConsoleApp(deck()).run_test(size=SIZE) as pilot:
        screen = await runs_screen(pilot)
        await press(pilot, "j", "enter")
        assert isinstance(pilot.app.screen, RunScreen)
        await press(pilot, "2", "j", "j", "d")
        assert isinstance(pilot.app.screen, RunDetailScreen)
        assert pilot.app.screen.chosen == "rank"
        await press(pilot, "r")
        assert "the run has ended" in notices(pilot)
        await press(pilot, "H")
        assert pilot.app.screen is screen
        assert screen.panel.cursor == 1
        await press(pilot, "d")
        assert isinstance(pilot.app.screen, RunDetailScreen)
        await press(pilot, "escape")
        assert pilot.app.screen is screen


async def test_the_cursor_stays_on_its_run_when_new_ones_begin() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(80, 24)) as pilot:
        screen = await runs_screen(pilot)
        await press(pilot, *["pagedown"] * 3)
        before, line = selected(screen), screen.panel.cursor - screen.panel.scroll_offset.y
        newer = [
            run_summary(run_id=f"f{number}000000-0000-4000-8000-000000000000", created_at="2026-01-03T00:00:00.000000Z")
            for number in range(3)
        ]
        fake.runs_list = [*newer, *fake.runs_list]
        fake.publish(RunChanged(run=newer[0]))
        await settle(pilot)
        assert selected(screen) == before
        assert screen.panel.cursor - screen.panel.scroll_offset.y == line
        assert len(screen.pager.rows) == 244
        await press(pilot, "g")
        assert selected(screen) == "f0000000"


async def test_moving_on_while_rows_are_fetched_does_not_jump_back() -> None:
    """The rows that come belong to where the cursor is now, not to where it was when they were asked for."""
    fake = deck(runs_list=many_runs(900))
    gate = asyncio.Event()
    runs = fake.runs

    async def slow(**arguments: Any) -> tuple[RunSummary, ...]:
        await gate.wait()
        return await runs(**arguments)

    async with ConsoleApp(fake).run_test(size=(80, 24)) as pilot:
        screen = await runs_screen(pilot)
        await press(pilot, "j")
        fake.runs = slow  # type: ignore[method-assign]
        await pilot.press(*["pagedown"] * 20)
        place = screen.panel.cursor
        assert screen.run_at_hand() is None
        assert "…" in drawn(pilot)
        gate.set()
        await settle(pilot)
        assert screen.panel.cursor == place
        assert selected(screen) == f"{899 - place:08x}"


async def test_an_answer_to_the_last_filter_is_never_shown() -> None:
    fake = deck()
    gates: list[asyncio.Event] = []
    count = fake.count_runs

    async def slow(**arguments: Any) -> int:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        return await count(**arguments)

    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        screen = await runs_screen(pilot)
        fake.count_runs = slow  # type: ignore[method-assign]
        await pilot.press("slash", "w", "a")
        await pilot.pause()
        gates[0].set()
        while len(gates) < 2:
            await pilot.pause()
        assert not screen.pager.known
        gates[1].set()
        await settle(pilot)
        assert len(gates) == 2  # the letters between were never asked for
        assert {run.mission for run in rows(screen)} == {"watch-tests"}


async def test_a_list_that_cannot_be_read_says_so_and_can_be_read_again() -> None:
    fake = deck()
    count = fake.count_runs

    async def broken(**arguments: Any) -> int:
        raise StorageError("STORE_IO", "the disk is gone")

    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        await settle(pilot)
        fake.count_runs = broken  # type: ignore[method-assign]
        screen = await runs_screen(pilot)
        assert "could not be read" in drawn(pilot)
        assert "the disk is gone" in notices(pilot)
        fake.count_runs = count  # type: ignore[method-assign]
        await press(pilot, "ctrl+r")
        assert len(screen.pager.rows) == 241


async def test_keys_without_a_run_say_why() -> None:
    async with ConsoleApp(FakeDeck()).run_test(size=SIZE) as pilot:
        await runs_screen(pilot)
        assert "no runs yet" in drawn(pilot)
        await press(pilot, "d", "J", "r")
        assert notices(pilot).count("select a run first") == 3


# -- run detail -----------------------------------------------------------------------------------------------------


async def detail_screen(pilot: Pilot[Any]) -> RunDetailScreen:
    await settle(pilot)
    await press(pilot, "2", "d")
    screen = pilot.app.screen
    assert isinstance(screen, RunDetailScreen)
    return screen


async def test_a_step_selected_in_one_place_is_selected_everywhere() -> None:
    async with ConsoleApp(deck()).run_test(size=SIZE) as pilot:
        screen = await detail_screen(pilot)
        assert screen.chosen == "fetch"
        await press(pilot, "l", "l", "2")
        assert screen.chosen == "rank"
        bars = screen.query_one("#timeline", LinesPanel)
        assert (bars.item.attempt.step_id, bars.item.attempt.attempt) == ("rank", 2)
        await press(pilot, "k", "k", "3")
        assert screen.query_one("#attempts", LinesPanel).item.key == ("rank", 1, 1, 1)
        assert "429: slow down" in drawn(pilot)
        await press(pilot, "g", "1")
        assert screen.query_one("#graph", GraphPanel).chosen == "fetch"
        await press(pilot, "G", "enter")
        assert isinstance(pilot.app.screen, DetailScreen)
        assert "notify" in drawn(pilot)


async def test_brackets_turn_through_every_page_and_values_are_read_when_looked_at() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        screen = await detail_screen(pilot)
        reads = len(fake.reads)
        seen = []
        for _ in range(6):
            await press(pilot, "left_square_bracket")
            seen.append(screen.tab)
            assert screen.focused is screen.query_one(f"#{screen.tab}")
            assert len(fake.reads) == reads + 2 * ("values" in seen)
        assert seen == ["files", "values", "log", "attempts", "timeline", "graph"]
        await press(pilot, "left_square_bracket")
        assert "out/report.md" in drawn(pilot)
        await press(pilot, "5")
        assert '"date": "2026-01-02"' in drawn(pilot)
        place = next(index for index, line in enumerate(screen._values) if line.digest == BODY)
        screen.query_one("#values", LinesPanel).reveal(place)
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, DetailScreen)
        assert "a,b" in drawn(pilot)


# -- journal --------------------------------------------------------------------------------------------------------


def long_journal(count: int) -> list[EntryAppended]:
    """A journal whose every tenth entry is a refusal, of alternating steps."""
    refusal = {"operation_id": "red.0", "idempotency_key": "k", "code": "ENV_TOOL"}
    rows = [entry(0, "journal_opened", mission_id="m")]
    for seq in range(1, count):
        kind = "operation_denied" if seq % 10 == 0 else "signal"
        rows.append(entry(seq, kind, step_id=("fetch", "rank")[seq // 10 % 2], signals=[], **refusal))
    return rows


async def journal_screen(pilot: Pilot[Any]) -> tuple[JournalScreen, LinesPanel]:
    await settle(pilot)
    await press(pilot, "2", "J")
    screen = pilot.app.screen
    assert isinstance(screen, JournalScreen)
    return screen, screen.panel


def ended(entries: int, **changes: Any) -> RunSummary:
    return run_summary(status=RunStatus.SUCCEEDED, entries=entries, **changes)


async def test_a_long_journal_is_read_where_it_is_looked_at() -> None:
    fake = deck(entries_list=long_journal(30_000), runs_list=[ended(30_000)])
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        _, panel = await journal_screen(pilot)
        assert panel.item.seq == 29_999
        assert len(fake.reads) <= 2
        await typed(pilot, "12345", box="S")
        assert panel.item.seq == 12_345
        assert "#12345" in drawn(pilot)
        await press(pilot, "g")
        assert panel.item.seq == 0
        assert len(fake.reads) <= 7
        await press(pilot, "enter")
        assert '"kind": "journal_opened"' in drawn(pilot)
        await press(pilot, "escape")
        await typed(pilot, "99999", box="S")
        assert "numbered 0 to 29999" in notices(pilot)


async def test_kinds_and_steps_can_be_looked_for() -> None:
    fake = deck(entries_list=long_journal(1000), runs_list=[ended(1000)])
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        screen, panel = await journal_screen(pilot)
        await typed(pilot, "denied")
        assert len(screen.pager.rows) == 99
        assert panel.item.seq == 990
        await press(pilot, "escape")
        await typed(pilot, "denied fetch")
        assert [row.seq for row in screen._found[:3]] == [20, 40, 60]
        assert "49 found in 1,000 of 1,000" in str(panel.border_subtitle)
        await typed(pilot, "nonsense")
        assert "neither a step nor part of a kind" in notices(pilot)
        await press(pilot, "escape")
        assert len(screen.pager.rows) == 1000
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, HomeScreen)


async def test_the_end_is_followed_while_the_run_goes_on() -> None:
    entries = long_journal(320)
    fake = deck(entries_list=entries[:300], runs_list=[run_summary(entries=300)])
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        _, panel = await journal_screen(pilot)
        assert panel.item.seq == 299
        fake.entries_list = entries
        fake.publish(*entries[300:])
        await settle(pilot)
        assert panel.item.seq == 319
        await press(pilot, "k")
        fake.entries_list = [*entries, replace(entries[-1], seq=320)]
        fake.publish(fake.entries_list[-1])
        await settle(pilot)
        assert panel.item.seq == 318


async def test_what_cannot_be_read_is_shown_as_such_and_untrusted_entries_are_red() -> None:
    finding = Finding(code="J_CHAIN", severity="error", seq=5, detail="hash differs")
    verdict = Verification(
        run_id=RUN,
        ok=False,
        entries=40,
        trusted_prefix=5,
        head_seq=39,
        head_hash=None,
        closed=False,
        findings=(finding,),
    )
    kept = [item for item in long_journal(40) if item.seq not in (7, 8)]
    fake = deck(entries_list=kept, runs_list=[ended(40)], verdict=verdict)
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        _, panel = await journal_screen(pilot)
        assert panel.has_class("-broken")
        assert "chain broken at #0005 J_CHAIN" in str(panel.border_title)
        assert drawn(pilot).count("cannot be read") == 2
        panel.reveal(7)
        await press(pilot, "enter")
        assert "it cannot be read" in drawn(pilot)


async def test_a_refused_run_has_no_journal_to_look_at() -> None:
    fake = deck(entries_list=[], runs_list=[run_summary(status=RunStatus.REFUSED, entries=0)])
    async with ConsoleApp(fake).run_test(size=SIZE) as pilot:
        await journal_screen(pilot)
        assert "this run has no journal" in drawn(pilot)
        await press(pilot, "V")
        assert "it was refused" in notices(pilot)
