"""Replay and compare by keys: what they show, where they go, what they remember."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_deck import RUN, entry, run_summary
from support.pictures import SIZES, drawn, notices, sized_picture
from support.recorded import FORK, diverged, equal, lookback_deck, recorded, report
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from console.model.home import HomeState
from console.model.reasons import lookback_reason, observer_reason
from console.screens.compare import CompareScreen
from console.screens.dialogs import AskScreen, DetailScreen, PickScreen
from console.screens.home import HomeScreen
from console.screens.replay import ReplayScreen
from console.screens.run import RunScreen
from runtime.events.facts import RunChanged
from runtime.host.api import RunStatus

SMALL = (80, 24)


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def settle(pilot: Pilot[Any]) -> None:
    await pilot.app.workers.wait_for_complete()
    pilot.app._tick()  # type: ignore[attr-defined]
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def press(pilot: Pilot[Any], *keys: str) -> None:
    await pilot.press(*keys)
    await settle(pilot)


async def fill(pilot: Pilot[Any], text: str) -> None:
    """Type into the open dialog and take it."""
    pilot.app.screen.query_one(Input).value = text
    await press(pilot, "enter")


async def open_replay(pilot: Pilot[Any], at: int | None = None) -> ReplayScreen:
    await settle(pilot)
    pilot.app.lookback.replay(RUN, at)  # type: ignore[attr-defined]
    await settle(pilot)
    return replaying(pilot)


def replaying(pilot: Pilot[Any]) -> ReplayScreen:
    screen = pilot.app.screen
    assert isinstance(screen, ReplayScreen)
    return screen


def comparing(pilot: Pilot[Any]) -> CompareScreen:
    screen = pilot.app.screen
    assert isinstance(screen, CompareScreen)
    return screen


def selected_step(pilot: Pilot[Any]) -> str:
    line = comparing(pilot).line
    assert line is not None
    assert line.pair is not None
    return line.pair.step_id


# -- replay --------------------------------------------------------------------------------------------------------


async def test_keys_travel_and_the_screen_shows_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, forks = lookback_deck(tmp_path), []
    app = ConsoleApp(fake)
    monkeypatch.setattr(app, "run_again", lambda run, step: forks.append((run.run_id, step)))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "j", "P")
        replay = replaying(pilot).replay
        assert "● running  0/6 steps" in drawn(pilot)
        assert "failed" not in drawn(pilot)
        await press(pilot, "left_square_bracket", "F")
        assert "this is the first entry" in notices(pilot)
        assert "no step has begun here" in notices(pilot)
        await press(pilot, "right_square_bracket", "right_square_bracket", "left_square_bracket")
        assert replay.here == 1
        await press(pilot, "right_curly_bracket", "right_curly_bracket", "left_curly_bracket")
        assert replay.here == 8
        await press(pilot, "S")
        await fill(pilot, "greed")
        assert "there is no step 'greed'; there is green" in drawn(pilot)
        await fill(pilot, "#13")
        shown = drawn(pilot)
        assert "waiting for you  2/6 steps" in shown
        assert "entry 0013/0020" in shown
        assert '"reason": "Write?"' in shown
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, DetailScreen)
        await press(pilot, "escape", "F")
        assert forks == [(RUN, "apply")]
        await press(pilot, "G")
        assert "✗ failed" in drawn(pilot)
        column = str(pilot.app.screen.query_one("#bar").render()).index("!")
        await pilot.click("#bar", offset=(column + 1, 0))
        await settle(pilot)
        assert replay.here == 8
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, HomeScreen)
    assert fake.intents == []


async def test_playing_follows_the_clock_and_a_dialog_in_front_holds_it(tmp_path: Path) -> None:
    clock = Clock()
    app = ConsoleApp(lookback_deck(tmp_path), clock=clock)
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_replay(pilot)

        def after(seconds: float) -> int:
            clock.now += seconds
            app._tick()
            return screen.replay.here

        await press(pilot, "p", "plus")
        assert "▶ ×4" in drawn(pilot)
        assert after(0.08) == 3
        await press(pilot, "p")
        assert after(60) == 3
        screen.replay.seek(13)
        await press(pilot, "p")
        assert "… 4:10 waiting" in drawn(pilot)
        assert after(0.9) == 13
        assert after(0.2) == 15
        await press(pilot, "question_mark")
        assert after(60) == 15
        assert not screen.playback.playing


async def test_bookmarks_and_the_position_are_there_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "console" / "replay.json"
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=SMALL) as pilot:
        await open_replay(pilot, at=8)
        await press(pilot, "b")
        assert isinstance(pilot.app.screen, AskScreen)
        await fill(pilot, "[why]?")
        await press(pilot, "right_square_bracket", "b")
        await fill(pilot, "")
        await press(pilot, "right_square_bracket", "escape")
    assert json.loads(file.read_text())["runs"][RUN] == {
        "at": 10,
        "bookmarks": [{"seq": 8, "label": "[why]?"}, {"seq": 9, "label": ""}],
    }
    async with ConsoleApp(lookback_deck(tmp_path)).run_test(size=SMALL) as pilot:
        replay = (await open_replay(pilot)).replay
        assert replay.here == 10
        await press(pilot, "left_square_bracket", "b", "B")
        assert list(replay.bookmarks) == [8]
        assert isinstance(pilot.app.screen, PickScreen)
        assert "#0008  [why]?   operation denied" in drawn(pilot)
        await press(pilot, "enter")
        assert replay.here == 8
        assert "◆ [why]?" in drawn(pilot)
        await press(pilot, "ctrl+q")
    assert json.loads(file.read_text())["runs"][RUN] == {"at": 8, "bookmarks": [{"seq": 8, "label": "[why]?"}]}


async def test_a_recorded_check_is_one_line_or_opens_on_the_first_divergence(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path, replay_report=None)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        screen = await open_replay(pilot)
        await press(pilot, "D", "R")
        assert "R runs the recorded check first" in notices(pilot)
        assert "prepared no replay" in notices(pilot)
        assert not screen.checking
        fake.replay_report = report(equal("replay"))
        await press(pilot, "R")
        assert "✓ equivalent · 3 of 3 operations answered from receipts · 1 answer reused" in drawn(pilot)
        await press(pilot, "D", "x")
        assert comparing(pilot).comparison.other == "replay"
        assert "there is no run to stand on" in notices(pilot)
        fake.replay_report = report(diverged("replay"))
        await press(pilot, "escape", "R")
        assert selected_step(pilot) == "apply"
        assert "after it  2 steps: green, commit" in drawn(pilot)
        await press(pilot, "escape")
        assert (replaying(pilot), screen.replay.here) == (screen, 16)
        await press(pilot, "right_curly_bracket")
        assert screen.replay.here == 18
    assert {intent[1].run_id for intent in fake.intents} == {RUN}


async def test_a_live_run_grows_and_a_long_journal_is_paged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.journal_reader.FRUITLESS_PAUSE", 0.0)
    members = {"step_id": "red", "operation_id": "red.0", "code": "ENV_TOOL"}
    entries = [entry(0, "journal_opened", mission_id="m")]
    entries += [entry(seq, "operation_denied", **members) for seq in range(1, 3000)]
    live = run_summary(entries=9)
    fake = lookback_deck(tmp_path, runs_list=[live], entries_list=entries[:9])
    async with ConsoleApp(fake).run_test(size=SMALL) as pilot:
        replay = (await open_replay(pilot, at=8)).replay
        assert "entry 0008/0008" in drawn(pilot)
        fake.entries_list = entries
        fake.publish(RunChanged(run=replace(live, entries=3000)))
        pilot.app._tick()  # type: ignore[attr-defined]
        await pilot.press("left_square_bracket")
        assert replay.target == 7
        await settle(pilot)
        assert (replay.here, replay.scanned, replay.view.violation_count) == (7, 3000, 7)
        fake.reads.clear()
        await press(pilot, "G", "left_square_bracket", "left_square_bracket")
        assert (replay.here, replay.view.violation_count) == (2997, 2997)
        assert 0 < len(fake.reads) <= 3
        fake.publish(RunChanged(run=replace(live, entries=3100)))
        await settle(pilot)
        assert "▲ 100 unreadable" in drawn(pilot)


# -- compare -------------------------------------------------------------------------------------------------------


async def test_w_marks_a_base_and_then_compares(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    hostile = "[@click=app.quit]free[/] \x1b]0;owned\x07"
    first = replace(diverged().divergences[0], detail=hostile, field=hostile)
    fake.comparison = replace(diverged(), divergences=(first,), first=first, downstream=(hostile,))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "2", "j", "W")
        assert "8b3f0000⇄ fix-the-build" in drawn(pilot)
        await press(pilot, "k", "W")
        assert fake.intents == [("compare", (RUN, FORK))]
        shown = drawn(pilot)
        assert "first divergence: apply · OUTCOME · entry 16" in shown
        assert "forked from 8b3f0000 at apply" in shown
        assert shown.count("[@click=app.quit]free[/]") == 3
        assert "\x1b" not in shown
        await press(pilot, "escape", "j", "W")
        assert "⇄" not in drawn(pilot)


async def test_a_fork_is_compared_with_its_parent_and_keys_go_through_the_differences(tmp_path: Path) -> None:
    fake = lookback_deck(tmp_path)
    async with ConsoleApp(fake).run_test(size=SMALL) as pilot:
        await settle(pilot)
        await press(pilot, "2", "W")
        assert "its parent 8b3f0000, as base" in drawn(pilot)
        await press(pilot, "enter")
        assert fake.intents == [("compare", (RUN, FORK))]
        assert selected_step(pilot) == "apply"
        await press(pilot, "right_curly_bracket")
        assert selected_step(pilot) == "green"
        assert "410 ms apart" in drawn(pilot)
        await press(pilot, "equals_sign", "left_curly_bracket")
        assert (selected_step(pilot), len(comparing(pilot).pairs._items)) == ("apply", 2)
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, DetailScreen)
        assert "tool_invoke" in drawn(pilot)
        await press(pilot, "escape", "x")
        assert fake.intents[-1] == ("compare", (FORK, RUN))
        await press(pilot, "P")
        assert replaying(pilot).replay.here == 16
        pilot.app.lookback.compare(RUN, FORK)  # type: ignore[attr-defined]
        await settle(pilot)
        await press(pilot, "O")
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.opened.run.run_id == FORK  # type: ignore[attr-defined]
        await press(pilot, "W", "j", "enter")
        assert "base is 77aa0000" in notices(pilot)


def test_an_observer_looks_but_does_not_fork() -> None:
    observing = HomeState(store="s", read_only=True)
    assert "only observes" in (observer_reason("fork", observing) or "")
    assert [observer_reason(action, observing) for action in ("replay", "compare", "check", "bookmark")] == [None] * 4


def test_a_run_without_a_journal_is_neither_replayed_nor_compared() -> None:
    refused = run_summary(status=RunStatus.REFUSED, code="REPO_DIRTY")
    assert lookback_reason(refused) == "it has no journal: REPO_DIRTY"
    assert lookback_reason(None) == "select a run first"
    assert lookback_reason(run_summary(entries=1)) is None


# -- pictures ------------------------------------------------------------------------------------------------------

Show = Callable[[Pilot[Any]], Awaitable[None]]


async def show_replay(pilot: Pilot[Any]) -> None:
    replay = (await open_replay(pilot, at=8)).replay
    replay.bookmark("why?")
    replay.seek(13)
    await settle(pilot)


async def show_start(pilot: Pilot[Any]) -> None:
    await open_replay(pilot)


async def show_checked(pilot: Pilot[Any]) -> None:
    await open_replay(pilot)
    await press(pilot, "R", "escape")


async def show_compare(pilot: Pilot[Any]) -> None:
    await settle(pilot)
    pilot.app.lookback.compare(RUN, FORK)  # type: ignore[attr-defined]
    await settle(pilot)


PICTURES: dict[str, Show] = {"replay": show_replay, "compare": show_compare}
MORE: dict[str, tuple[Show, dict[str, Any]]] = {
    "replay-start": (show_start, {}),
    "replay-diverged": (show_checked, {}),
    "compare-equal": (show_compare, {"comparison": equal()}),
}


def check(snap_compare: Any, store: Path, show: Show, changes: dict[str, Any], size: tuple[int, int]) -> None:
    app = ConsoleApp(lookback_deck(store, **changes), clock=lambda: 0.0)
    app.animation_level = "none"
    assert snap_compare(app, terminal_size=size, run_before=show)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", PICTURES)
def test_screen(still: None, snap_compare: Any, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    fake = lookback_deck(tmp_path)
    sized_picture(snap_compare, name, size, lambda: ConsoleApp(fake, clock=lambda: 0.0), PICTURES[name])


@pytest.mark.parametrize("name", MORE)
def test_state(still: None, snap_compare: Any, tmp_path: Path, name: str) -> None:
    check(snap_compare, tmp_path, *MORE[name], SMALL)


def test_the_recorded_run_ends_as_its_entries_say() -> None:
    """The pictures above stand on it."""
    assert recorded()[-1].kind == "journal_closed"
