"""Watching from the console: the toggle in the mission list, the watch screen in each state, and what keys do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_deck import AT, NODES, RUN, FakeDeck, mission, run_summary
from support.pictures import SIZES, drawn, notices, press, settle, sized_picture
from textual.pilot import Pilot

from console.app import ConsoleApp
from console.model.watch import WatchTale
from console.screens.run import RunScreen
from console.screens.watch import WatchScreen
from runtime.events.facts import FileChange, Holder, IgnoredChange, RunChanged, WatchesChanged, WatchState
from runtime.host.api import InputInfo, RunStatus, Watch

A, B = "sha256:51c2" + "0" * 60, "sha256:e09b" + "1" * 60
IGNORED = (
    IgnoredChange(path="src/parse.py", why="same_content", at="2026-01-02T07:57:00.000000Z"),
    IgnoredChange(path="out/tmp.json", why="own_write", at="2026-01-02T07:57:41.000000Z", run_id=RUN, seq=416),
    IgnoredChange(path="src/debug.log", why="excluded", at="2026-01-02T07:58:02.000000Z"),
    IgnoredChange(path="src/rank.py", why="busy", at="2026-01-02T07:58:12.000000Z"),
)
LOOP = f"run {RUN[:8]} wrote prompts/cache.md (entry 12), which it also reads (entry 5); it would rerun for ever"


def watching(**changes: Any) -> WatchState:
    members: dict[str, Any] = {
        "watch_id": "w1",
        "mission": "nightly-report",
        "mission_path": "reports/mission.yaml",
        "session_id": "s9",
        "root": "/home/ada/reports",
        "paths": ("src/**", "prompts/**"),
        "excludes": ("**/*_test.py",),
        "debounce_ms": 300,
        "overlap": "queue",
        "status": "armed",
        "since": AT,
        "files": 214,
        "events": 31,
        "runs": 1,
        "last_run_id": RUN,
        "last_fired_at": "2026-01-02T07:58:12.000000Z",
        "last_changes": (
            FileChange(path="src/parse.py", before=A, after=B),
            FileChange(path="prompts/new.md", before=None, after=B),
        ),
        "ignored": 16,
        "recent_ignored": IGNORED,
    }
    return WatchState(**{**members, **changes})


ARMED = watching(watch_id="w0", mission="digest", runs=0, last_run_id=None, last_fired_at=None, last_changes=())
QUIET = replace(ARMED, ignored=0, recent_ignored=(), events=0, files=3)
RUNNING = watching(status="running", active_run_id=RUN, pending=1)
SUSPENDED = watching(status="suspended", code="WATCH_LOOP", reason=LOOP)
FAILED = watching(
    status="failed", code="WATCH_ROOT", reason="/home/ada/reports: the watched folder is not there (bring it back)"
)
BROKEN = watching(code="MISSION_INVALID", reason="mission.yaml:4:1: MISSION_UNKNOWN_KEY: there is no key 'blocs' here")


def deck(*watches: WatchState, **changes: Any) -> FakeDeck:
    members: dict[str, Any] = {
        "missions_list": [
            mission("nightly-report", path="reports/mission.yaml", watch=("src/**", "prompts/**"), inputs=()),
            mission("hello", inputs=(), nodes=tuple(NODES[:1])),
            mission("asks", watch=("src/**",), inputs=(InputInfo(name="who", type="string", required=True),)),
        ],
        "runs_list": [run_summary(mission="nightly-report", session_id="s9")],
        "nodes_list": NODES,
        "watch_list": list(watches),
    }
    return FakeDeck(**{**members, **changes})


SCREENS = {
    "watch": (QUIET, RUNNING, SUSPENDED),
    "watch-armed": (ARMED,),
    "watch-suspended": (SUSPENDED,),
    "watch-failed": (FAILED,),
    "watch-broken": (BROKEN,),
    "watch-empty": (),
}


async def opened(pilot: Pilot[Any]) -> None:
    await settle(pilot)
    await press(pilot, "T", "j")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_screen(still: None, snap_compare: Any, size: tuple[int, int]) -> None:
    fake = deck(*SCREENS["watch"])
    sized_picture(snap_compare, "watch", size, lambda: ConsoleApp(fake, clock=lambda: 0.0), opened)


@pytest.mark.parametrize("name", [name for name in SCREENS if name != "watch"])
def test_state(still: None, snap_compare: Any, name: str) -> None:
    app = ConsoleApp(deck(*SCREENS[name]), clock=lambda: 0.0)
    app.animation_level = "none"
    assert snap_compare(app, terminal_size=(80, 24), run_before=opened)


async def test_the_toggle_watches_with_default_inputs_and_lets_go() -> None:
    fake = deck(watching(status="arming", mission_path="elsewhere"))
    app = ConsoleApp(fake)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert "│ nightly-report  ● running" in drawn(pilot)
        await press(pilot, "t")
        assert fake.intents == [("watch", Watch(path="reports/mission.yaml", directory=str(Path.cwd())))]
        assert "watching nightly-report: 214 files of src/**, prompts/**" in notices(pilot)
        fake.publish(WatchesChanged(watches=(SUSPENDED,)))
        await settle(pilot)
        assert "∞ nightly-report  ● running" in drawn(pilot)
        assert "∞ 1 watch stopped" in drawn(pilot), "the attention bar says that somebody has to look"
        await press(pilot, "t")
        assert fake.intents[1:] == [("unwatch", "w1", "")]


async def test_a_toggle_that_makes_no_sense_says_why() -> None:
    app = ConsoleApp(deck())
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "j", "t", "j", "t")
        assert "this mission has no `watch:` section" in notices(pilot)
        assert "this mission needs who" in notices(pilot)
    holder = Holder(pid=4711, host="bridge", epoch=2, started_at=AT, heartbeat_at=AT)
    app = ConsoleApp(deck(SUSPENDED, read_only=True, holder_info=holder))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "t", "T", "u", "t")
        assert notices(pilot).count("only observes: writer is pid 4711") == 3
        assert app.deck.intents == []  # type: ignore[attr-defined]


async def test_the_watch_screen_rearms_disarms_and_opens_the_run() -> None:
    fake = deck(QUIET, SUSPENDED)
    app = ConsoleApp(fake)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "T")
        assert isinstance(app.screen, WatchScreen)
        await press(pilot, "u", "enter")
        assert "only suspended and failed watches resume" in notices(pilot)
        assert "no change has started a run yet" in notices(pilot)
        await press(pilot, "j")
        text = drawn(pilot)
        assert LOOP[:60] in text
        assert "src/parse.py 51c2…→e09b…" in text
        assert "prompts/new.md new→e09b…  → run 8b3f0000  ● running" in text
        assert "out/tmp.json  written by the mission (run 8b3f0000, entry 416)" in text
        await press(pilot, "u", "x")
        assert fake.intents == [("rearm", "w1", ""), ("unwatch", "w1", "")]
        fake.publish(RunChanged(run=run_summary(session_id="s9", status=RunStatus.SUCCEEDED)))
        await settle(pilot)
        assert "→ run 8b3f0000  ✓ succeeded" in drawn(pilot)
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen)


async def test_hostile_names_of_files_stay_text() -> None:
    evil = "src/\x1b]2;x\x07\u202e.py"
    state = replace(SUSPENDED, reason=evil, last_changes=(FileChange(path=evil, before=None, after=None),), root=evil)
    state = replace(state, recent_ignored=(IgnoredChange(path=evil, why="busy", at=AT),))
    app = ConsoleApp(deck(state))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await press(pilot, "T")
        assert "\x1b" not in drawn(pilot)
        assert "\u202e" not in drawn(pilot)


def test_the_tale_tells_each_thing_once_and_in_order() -> None:
    """As the command line prints it, from a feed that only keeps the newest of everything."""
    tale = WatchTale(replace(QUIET, watch_id="w1"))
    run = run_summary(session_id="s9", cause="src/parse.py changed", status=RunStatus.SUCCEEDED)
    fired = watching(ignored=2, recent_ignored=IGNORED[:2], skipped=1)
    batch = [RunChanged(run=run), RunChanged(run=run_summary(session_id="other")), WatchesChanged(watches=(fired,))]
    assert [name for name, _ in tale.take(batch)] == ["ignored", "ignored", "skipped", "changed", "launch", "done"]
    assert tale.take(batch) == []
    told = []
    for state in (
        replace(fired, code="MISSION_INVALID", reason="bad"),
        replace(fired, status="suspended", code="WATCH_LOOP", reason=LOOP),
        fired,
        replace(fired, status="failed", code="WATCH_ROOT", reason="gone"),
    ):
        told += tale.take([WatchesChanged(watches=(state,))])
    assert [name for name, _ in told] == ["problem", "suspended", "armed", "failed"]
    assert told[1][1] == {"code": "WATCH_LOOP", "reason": LOOP}
    assert tale.take([WatchesChanged(watches=())]) == [("disarmed", {"watch_id": "w1"})]
    assert tale.over
