"""The look-back screens at the three sizes operators use, and their other states where they may not fit."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_deck import RUN, FakeDeck, run_summary
from support.history import LOOP, Telling, deck, told
from support.pictures import SIZES, Show, picture, press, settle, sized_picture
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from runtime.events.facts import Finding, NodeInfo, OutputDelta, Verification
from runtime.host.api import RunStatus

ENDED = run_summary(mission="nightly-report", status=RunStatus.SUCCEEDED, entries=len(told()))
BROKEN = Verification(
    run_id=RUN,
    ok=False,
    entries=20,
    trusted_prefix=12,
    head_seq=19,
    head_hash=None,
    closed=False,
    findings=(Finding(code="J_ENTRY_HASH", severity="error", seq=12, detail="hash differs"),),
)


def keys(*pressed: str) -> Show:
    """A screen reached by keys alone."""

    async def show(pilot: Pilot[Any], fake: FakeDeck) -> None:
        await press(pilot, *pressed)

    return show


def filtered(text: str, *before: str) -> Show:
    """A screen with a filter typed and sent off."""

    async def show(pilot: Pilot[Any], fake: FakeDeck) -> None:
        await press(pilot, *before, "slash")
        pilot.app.screen.query_one("#filter", Input).value = text
        await press(pilot, "enter")

    return show


async def show_log(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await press(pilot, "2", "d", "4")
    fake.publish(
        OutputDelta(run_id=RUN, step_id="parse", stream="stdout", text="42 rows\n"),
        OutputDelta(run_id=RUN, step_id="rank", stream="model", text="top candidate: A-113\n"),
    )
    await settle(pilot)


def looping() -> dict[str, Any]:
    """A routed run that went round once and was undone."""
    book = Telling("triage")
    for visit in (1, 2):
        book.start("draft", "llm_call", visit=visit)
        book.clock += 5
        book.finish("draft")
        book.start("review", "human", visit=visit)
        book.clock += 9
        book.finish("review")
    book.start("publish")
    book.write("publish", "out/a.md", undone=True)
    book.write("publish", "out/b.md", undone=False)
    book.finish("publish", "failed", code="op.env_path", error_message="out/c.md is outside the envelope")
    run = run_summary(mission="triage", status=RunStatus.FAILED, code="op.env_path", entries=len(book.entries))
    return {"runs_list": [run], "nodes_list": LOOP, "entries_list": book.entries}


def wide_plan() -> dict[str, Any]:
    """A plan too large for a picture."""
    middle = [NodeInfo(node_id=f"part_{index}", block_type="tool_invoke", after=("split",)) for index in range(600)]
    joined = NodeInfo(node_id="join", block_type="tool_invoke", after=tuple(node.node_id for node in middle))
    return {"nodes_list": [NodeInfo(node_id="split", block_type="tool_invoke"), *middle, joined]}


SCREENS: dict[str, Show] = {
    "runs": keys("H", "j", "j"),
    "detail-graph": keys("2", "d", "l", "l"),
    "detail-timeline": keys("2", "d", "2"),
    "detail-values": keys("2", "d", "5"),
    "journal": keys("2", "J"),
}
#: Lists like those above, in one size.
TABS: dict[str, Show] = {
    "detail-attempts": keys("2", "d", "l", "l", "3"),
    "detail-log": show_log,
    "detail-files": keys("2", "d", "6"),
}
STATES: dict[str, tuple[Show, dict[str, Any]]] = {
    "runs-empty": (keys("H"), {"runs_list": []}),
    "runs-filtered": (filtered("watch", "H", "shift+right", "O", "s", "s"), {}),
    "detail-loop": (keys("2", "d", "G"), looping()),
    "detail-undone-files": (keys("2", "d", "6"), looping()),
    "detail-list": (keys("2", "d", "j"), wide_plan()),
    "detail-no-plan": (keys("2", "d"), {"nodes_list": [], "entries_list": []}),
    "journal-broken": (keys("2", "J"), {"runs_list": [ENDED], "verdict": BROKEN}),
    "journal-filtered": (filtered("rank", "2", "J"), {}),
    "journal-unreadable": (keys("2", "J"), {"runs_list": [ENDED], "entries_list": told()[:14]}),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.journal_reader.FRUITLESS_PAUSE", 0.0)
    monkeypatch.setattr(Input, "_toggle_cursor", lambda box: None)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
def test_screen(still: None, snap_compare: Any, name: str, size: tuple[int, int]) -> None:
    fake = deck()

    async def show(pilot: Pilot[Any]) -> None:
        await settle(pilot)
        await SCREENS[name](pilot, fake)

    sized_picture(snap_compare, name, size, lambda: ConsoleApp(fake, clock=lambda: 0.0), show)


@pytest.mark.parametrize("name", TABS)
def test_tab(still: None, snap_compare: Any, name: str) -> None:
    picture(snap_compare, TABS[name], deck(), (80, 24))


@pytest.mark.parametrize("name", STATES)
def test_state(still: None, snap_compare: Any, name: str) -> None:
    show, changes = STATES[name]
    picture(snap_compare, show, deck(**changes), (80, 24))
