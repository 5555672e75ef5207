"""Replay and compare by keys: what they show, where they go, what they remember."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_deck import NODES, RUN, FakeDeck, entry, run_summary
from support.recorded import FORK, diverged, equal, lookback_deck, recorded, report
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from console.panels.lines import LinesPanel
from console.screens.compare import CompareScreen
from console.screens.dialogs import AskScreen, DetailScreen, PickScreen
from console.screens.help import HelpScreen
from console.screens.home import HomeScreen
from console.screens.launch import LaunchScreen
from console.screens.replay import ReplayScreen
from console.screens.run import RunScreen
from runtime.events.facts import RunChanged
from runtime.host.api import RunStatus

SIZES = [(80, 24), (120, 40), (180, 50)]


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(pilot: Pilot[Any]) -> str:
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


def notices(pilot: Pilot[Any]) -> str:
    return " ".join(str(item.message) for item in pilot.app._notifications)


async def settle(pilot: Pilot[Any]) -> None:
    await pilot.app.workers.wait_for_complete()
    pilot.app._tick()  # type: ignore[attr-defined]
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def press(pilot: Pilot[Any], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settle(pilot)


async def open_replay(pilot: Pilot[Any]) -> ReplayScreen:
    """The failed run is the second of the list."""
    await settle(pilot)
    await press(pilot, "2", "j", "P")
    return replaying(pilot)


def replaying(pilot: Pilot[Any]) -> ReplayScreen:
    screen = pilot.app.screen
    assert isinstance(screen, ReplayScreen)
    return screen


def comparing(pilot: Pilot[Any]) -> CompareScreen:
    screen = pilot.app.screen
    assert isinstance(screen, CompareScreen)
    return screen


def bar(pilot: Pilot[Any]) -> str:
    return str(pilot.app.screen.query_one("#bar").render())


# -- replay --------------------------------------------------------------------------------------------------------


async def test_the_screen_shows_the_run_as_it_was(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        screen = await open_replay(pilot)
        assert "0/6 steps" in drawn(pilot)
        assert "failed" not in str(screen.query_one("#headline").render())
        await press(pilot, "S", *"#13", "enter")
        shown = drawn(pilot)
        assert "waiting for you  2/6 steps" in shown
        assert "entry 0013/0020" in shown
        assert '"reason": "Write?"' in shown
        assert [row.seq for row in screen.query_one("#journal", LinesPanel)._items][-1] == 13
        await press(pilot, "G")
        assert "✗ failed" in drawn(pilot)
        assert fake.intents == []


async def test_keys_step_jump_and_seek(tmp_path: Path) -> None:
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        replay = (await open_replay(pilot)).replay
        places = []
        for key in (
            "right_square_bracket",
            "right_square_bracket",
            "left_square_bracket",
            "right_curly_bracket",
            "right_curly_bracket",
            "left_curly_bracket",
            "G",
            "g",
        ):
            await press(pilot, key)
            places.append(replay.here)
        assert places == [1, 2, 1, 8, 9, 8, 20, 0]
        await press(pilot, "left_square_bracket")
        assert "this is the first entry" in notices(pilot)
        await press(pilot, "S", *"+3s", "enter")
        assert replay.here == 9
        await press(pilot, "S", *"greed", "enter")
        assert isinstance(pilot.app.screen, AskScreen)
        assert "there is no step 'greed'; there is green" in str(pilot.app.screen.query_one("#complaint").render())
        pilot.app.screen.query_one("#asked-text", Input).value = "green"
        await press(pilot, "enter")
        assert replay.here == 17
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, DetailScreen)


async def test_a_click_on_the_bar_goes_there(tmp_path: Path) -> None:
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        replay = (await open_replay(pilot)).replay
        column = bar(pilot).index("!")
        await pilot.click("#bar", offset=(column + 1, 0))
        await settle(pilot)
        assert replay.here == 8
        await pilot.click("#bar", offset=(118, 0))
        await settle(pilot)
        assert replay.here == 20


async def test_playing_follows_the_clock_and_shortens_waits(tmp_path: Path) -> None:
    clock = Clock()
    async with ConsoleApp(lookback_deck(tmp_path), clock=clock).run_test(size=(120, 40)) as pilot:
        screen = await open_replay(pilot)
        await press(pilot, "p")
        assert "▶ ×1" in drawn(pilot)
        clock.now += 0.35
        await settle(pilot)
        assert screen.replay.here == 3
        await press(pilot, "plus")
        await press(pilot, "S", *"13", "enter", "p")
        assert "▶ ×4" in drawn(pilot)
        assert "… 4:10 waiting" in drawn(pilot)
        clock.now += 0.9
        await settle(pilot)
        assert screen.replay.here == 13
        clock.now += 0.2
        await settle(pilot)
        assert screen.replay.here == 15
        await press(pilot, "p")
        clock.now += 60
        await settle(pilot)
        assert screen.replay.here == 15


async def test_a_dialog_in_front_holds_the_playing(tmp_path: Path) -> None:
    clock = Clock()
    async with ConsoleApp(lookback_deck(tmp_path), clock=clock).run_test(size=(120, 40)) as pilot:
        screen = await open_replay(pilot)
        await press(pilot, "p", "question_mark")
        assert isinstance(pilot.app.screen, HelpScreen)
        clock.now += 60
        await press(pilot, "escape")
        assert (screen.replay.here, screen.playback.playing) == (0, False)


async def test_bookmarks_and_the_position_are_there_the_next_time(tmp_path: Path) -> None:
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "S", *"8", "enter", "b", *"why?", "enter", "S", *"12", "enter", "b", "enter", "escape")
        assert isinstance(pilot.app.screen, HomeScreen)
    kept = json.loads((tmp_path / "console" / "replay.json").read_text())["runs"][RUN]
    assert kept == {"at": 12, "bookmarks": [{"seq": 8, "label": "why?"}, {"seq": 12, "label": ""}]}
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        replay = (await open_replay(pilot)).replay
        assert replay.here == 12
        await press(pilot, "b")
        assert list(replay.bookmarks) == [8]
        await press(pilot, "B")
        assert isinstance(pilot.app.screen, PickScreen)
        assert "#0008  why?   operation denied" in drawn(pilot)
        await press(pilot, "enter")
        assert replay.here == 8
        assert "◆ why?" in drawn(pilot)
        await press(pilot, "right_square_bracket", "ctrl+q")
    kept = json.loads((tmp_path / "console" / "replay.json").read_text())["runs"][RUN]
    assert kept == {"at": 9, "bookmarks": [{"seq": 8, "label": "why?"}]}


async def test_a_damaged_place_file_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "console").mkdir()
    (tmp_path / "console" / "replay.json").write_text("{")
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        assert "cannot be used" in notices(pilot)
        await press(pilot, "b", "enter", "escape")
    assert (tmp_path / "console" / "replay.json").read_text() == "{"


async def test_an_equivalent_check_is_one_line_and_its_report_opens(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path, replay_report=report(equal("replay")))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "D")
        assert "R runs the recorded check first" in notices(pilot)
        await press(pilot, "R")
        assert "✓ equivalent · 3 of 3 operations answered from receipts · 1 questions" in drawn(pilot)
        await press(pilot, "D")
        assert comparing(pilot).comparison.other == "replay"
        await press(pilot, "x", "O")
        assert "there is no run to stand on" in notices(pilot)
        await press(pilot, "escape")
        replaying(pilot)
    assert [intent[1].run_id for intent in fake.intents] == [RUN]


async def test_a_diverging_check_opens_on_the_first_divergence(tmp_path: Path) -> None:
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "R")
        line = comparing(pilot).line
        assert line is not None
        assert line.first
        assert "after it  2 steps: green, commit" in drawn(pilot)
        await press(pilot, "escape")
        replay = replaying(pilot).replay
        assert replay.here == 16
        await press(pilot, "right_curly_bracket")
        assert replay.here == 18
        await press(pilot, "right_curly_bracket")
        assert "no divergence after this entry" in notices(pilot)


async def test_a_check_that_cannot_run_says_why(tmp_path: Path) -> None:
    async with ConsoleApp(lookback_deck(tmp_path, replay_report=None)).run_test(size=(120, 40)) as pilot:
        screen = await open_replay(pilot)
        await press(pilot, "R")
        assert "prepared no replay" in notices(pilot)
        assert not screen.checking


async def test_a_fork_is_handed_over_from_the_step_at_the_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    fake = lookback_deck(tmp_path)
    fake.missions_list = [replace(fake.missions_list[0], path="fix-the-build")]
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "F")
        assert "no step has begun here" in notices(pilot)
        await press(pilot, "S", *"15", "enter", "F")
        assert isinstance(pilot.app.screen, LaunchScreen)
        await press(pilot, "escape")
        hand_over = pilot.app.lookback  # type: ignore[attr-defined]
        monkeypatch.setattr(hand_over, "fork_from", lambda run, step: asked.append((run.run_id, step)))
        await press(pilot, "F")
    assert asked == [(RUN, "apply")]


async def test_an_observer_looks_and_checks_but_does_not_fork(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path, read_only=True)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "S", *"15", "enter", "F")
        assert "only observes" in notices(pilot)
        await press(pilot, "b", "enter")
        assert "last until this console closes" in notices(pilot)
        await press(pilot, "R")
        comparing(pilot)
    assert not (tmp_path / "console").exists()


async def test_a_live_run_is_replayed_so_far_and_grows(tmp_path: Path) -> None:
    entries = recorded()
    live = run_summary(entries=5, status=RunStatus.RUNNING)
    fake = lookback_deck(tmp_path, runs_list=[live], entries_list=entries[:5])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "P", "G")
        assert "entry 0004/0004" in drawn(pilot)
        fake.entries_list = entries[:9]
        fake.publish(RunChanged(run=replace(live, entries=9)))
        await settle(pilot)
        await press(pilot, "G")
        assert "entry 0008/0008" in drawn(pilot)


async def test_a_journal_shorter_than_its_row_is_said(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    fake.entries_list = fake.entries_list[:9]
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        assert "9 of 21 entries readable" in drawn(pilot)
        await press(pilot, "G")
        assert replaying(pilot).replay.here == 8


async def test_a_long_journal_is_paged_and_keys_come_through(tmp_path: Path) -> None:
    members = {"step_id": "red", "operation_id": "red.0", "code": "ENV_TOOL"}
    entries = [entry(0, "journal_opened", mission_id="m")]
    entries += [entry(seq, "operation_denied", **members) for seq in range(1, 4000)]
    fake = lookback_deck(tmp_path, runs_list=[run_summary(entries=4000)], entries_list=entries)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("P")
        while not isinstance(pilot.app.screen, ReplayScreen):
            await pilot.pause()
        replay = replaying(pilot).replay
        await pilot.press("right_square_bracket")
        assert replay.target == 1
        await settle(pilot)
        assert (replay.here, replay.scanned, replay.view.violation_count) == (1, 4000, 1)
        assert "1,999 more marks not shown" in drawn(pilot)
        fake.reads.clear()
        await press(pilot, "G", "left_square_bracket", "left_square_bracket")
        assert (replay.here, replay.view.violation_count) == (3997, 3997)
        assert len(fake.reads) <= 3
        assert all(limit <= 256 for _, limit in fake.reads)


async def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "[@click=app.quit]free[/] \x1b]0;owned\x07"
    fake = lookback_deck(tmp_path)
    first = replace(diverged().divergences[0], detail=hostile, field=hostile, expected=hostile)
    fake.comparison = replace(diverged(), divergences=(first,), first=first, downstream=(hostile,))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_replay(pilot)
        await press(pilot, "b", *"[x]", "enter")
        assert "◆ [x]" in drawn(pilot)
        await press(pilot, "escape", "2", "W", "j", "k", "W", "j", "W")
        await press(pilot, "k", "W")
        assert "[@click=app.quit]free[/]" in drawn(pilot)
        assert "\x1b" not in drawn(pilot)


# -- compare -------------------------------------------------------------------------------------------------------


async def test_w_marks_a_base_and_then_compares(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "j", "W")
        assert "8b3f0000⇄ fix-the-build" in drawn(pilot)
        assert "base is 8b3f0000" in notices(pilot)
        await press(pilot, "k", "W")
        assert fake.intents == [("compare", (RUN, FORK))]
        shown = drawn(pilot)
        assert "first divergence: apply · OUTCOME · entry 16" in shown
        assert "forked from 8b3f0000 at apply" in shown
        await press(pilot, "escape", "j", "W")
        assert "⇄" not in drawn(pilot)


async def test_a_fork_offers_its_parent(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "enter")
        assert isinstance(pilot.app.screen, RunScreen)
        await press(pilot, "W")
        assert "its parent 8b3f0000, as base" in drawn(pilot)
        await press(pilot, "enter")
        assert fake.intents == [("compare", (RUN, FORK))]
        await press(pilot, "escape", "W", "j", "enter")
        assert "base is 77aa0000" in notices(pilot)


async def test_keys_of_the_comparison(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "W", "enter")
        screen = comparing(pilot)

        def step() -> str:
            assert screen.line is not None
            assert screen.line.pair is not None
            return screen.line.pair.step_id

        assert step() == "apply"
        await press(pilot, "right_curly_bracket")
        assert step() == "green"
        assert "410 ms apart" in drawn(pilot)
        await press(pilot, "equals_sign")
        assert (step(), len(screen.pairs._items)) == ("green", 2)
        await press(pilot, "left_curly_bracket", "equals_sign")
        assert (step(), len(screen.pairs._items)) == ("apply", 5)
        await press(pilot, "enter")
        assert "sha256:88d2" in drawn(pilot)
        await press(pilot, "escape", "x")
        assert fake.intents[-1] == ("compare", (FORK, RUN))
        await press(pilot, "P")
        assert replaying(pilot).replay.here == 16
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, HomeScreen)


@pytest.mark.parametrize(("key", "run_id"), [("o", RUN), ("O", FORK)])
async def test_either_side_opens(tmp_path: Path, key: str, run_id: str) -> None:
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "W", "enter", key)
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.opened.run.run_id == run_id  # type: ignore[attr-defined]


async def test_a_run_without_a_journal_is_neither_replayed_nor_compared(tmp_path: Path) -> None:
    refused = run_summary(status=RunStatus.REFUSED, code="REPO_DIRTY")
    fake = lookback_deck(tmp_path, runs_list=[refused])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "P", "W")
        assert "it has no journal: REPO_DIRTY" in notices(pilot)
        assert isinstance(pilot.app.screen, HomeScreen)


# -- pictures ------------------------------------------------------------------------------------------------------

Show = Callable[[Pilot[Any]], Awaitable[None]]


def keys(*pressed: str) -> Show:
    async def show(pilot: Pilot[Any]) -> None:
        await settle(pilot)
        await press(pilot, "2", *pressed)

    return show


_MIDDLE = ("j", "P", "S", *"8", "enter", "b", *"why?", "enter", "S", *"13", "enter")
PICTURES: dict[str, tuple[Show, dict[str, Any]]] = {
    "replay": (keys(*_MIDDLE), {}),
    "compare": (keys("W", "enter"), {}),
}
MORE: dict[str, tuple[Show, dict[str, Any]]] = {
    "replay-start": (keys("j", "P"), {}),
    "replay-equivalent": (keys("j", "P", "R", "G"), {"replay_report": report(equal("replay"))}),
    "replay-diverged": (keys("j", "P", "R", "escape"), {}),
    "replay-seek": (keys("j", "P", "S", *"nowhere", "enter"), {}),
    "compare-replay": (keys("j", "P", "R"), {}),
    "compare-equal": (keys("W", "enter"), {"comparison": equal()}),
    "compare-parent": (keys("W"), {}),
    "runs-base": (keys("j", "W"), {"nodes_list": NODES[:1]}),
}


def picture(snap_compare: Any, shown: tuple[Show, dict[str, Any]], size: tuple[int, int], store: Path) -> None:
    show, changes = shown
    fake: FakeDeck = lookback_deck(store, **changes)
    app = ConsoleApp(fake, clock=lambda: 0.0)
    app.animation_level = "none"

    async def prepare(pilot: Pilot[Any]) -> None:
        await show(pilot)
        app.clear_notifications()
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=prepare)


@pytest.fixture
def steady_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Input, "_toggle_cursor", lambda box: None)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", PICTURES)
def test_screen(
    still: None, steady_cursor: None, snap_compare: Any, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    picture(snap_compare, PICTURES[name], size, tmp_path)


@pytest.mark.parametrize("name", MORE)
def test_state(still: None, steady_cursor: None, snap_compare: Any, tmp_path: Path, name: str) -> None:
    picture(snap_compare, MORE[name], (80, 24), tmp_path)
