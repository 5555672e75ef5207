"""Drives the console for pilot tests and snapshots: settle, press, and what is on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from unittest import mock

from support.fake_deck import AT, NODES, RUN, FakeDeck, entry, mission, run_summary
from textual.pilot import Pilot

from console.app import ConsoleApp
from console.screens.run import RunScreen
from runtime.events.facts import Escalation

Show = Callable[[Pilot[Any], FakeDeck], Awaitable[None]]

SIZES: Final = ((80, 24), (120, 40), (180, 50))
#: One screen in every size, by the name of what it shows: starting and driving an application costs more than a picture.
_TAKEN: dict[str, dict[tuple[int, int], str]] = {}


async def settle(pilot: Pilot[Any]) -> None:
    """Let workers finish, one tick of the feed pass, and what both asked for be drawn."""
    for _ in range(2):
        await pilot.app.workers.wait_for_complete()
        pilot.app._tick()  # type: ignore[attr-defined]
        await pilot.pause()


async def press(pilot: Pilot[Any], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settle(pilot)


def drawn(pilot: Pilot[Any]) -> str:
    """The visible screen as text."""
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


def notices(pilot: Pilot[Any]) -> str:
    return " ".join(str(item.message) for item in pilot.app._notifications)


def sized_picture(
    snap_compare: Any,
    name: str,
    size: tuple[int, int],
    begin: Callable[[], ConsoleApp],
    show: Callable[[Pilot[Any]], Awaitable[None]],
) -> None:
    """Compare one of a screen's three pictures. They are taken in one go, by resizing the terminal from small to large,
    so that what a resize leaves behind is in the picture as well."""
    if name not in _TAKEN:
        _TAKEN[name] = asyncio.run(_take(begin(), show))
    with mock.patch("textual._doc.take_svg_screenshot", return_value=_TAKEN[name][size]):
        assert snap_compare(begin(), terminal_size=size)


async def _take(app: ConsoleApp, show: Callable[[Pilot[Any]], Awaitable[None]]) -> dict[tuple[int, int], str]:
    app.animation_level = "none"
    taken = {}
    async with app.run_test(size=SIZES[0]) as pilot:
        await show(pilot)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await settle(pilot)
            await pilot.wait_for_scheduled_animations()
            taken[size] = app.export_screenshot(title=app.title, simplify=True)
    return taken


def picture(snap_compare: Any, show: Show, fake: FakeDeck, size: tuple[int, int]) -> None:
    """Compare what a screen looks like with its stored picture."""
    app = ConsoleApp(fake, clock=lambda: 0.0)
    app.animation_level = "none"

    async def prepare(pilot: Pilot[Any]) -> None:
        await settle(pilot)
        await show(pilot, fake)

    assert snap_compare(app, terminal_size=size, run_before=prepare)


QUESTION = Escalation(
    escalation_id=f"{RUN}/ask.0",
    run_id=RUN,
    step_id="ask",
    reason="Publish this note?",
    severity="info",
    blocking=True,
    choices=("approved", "rejected"),
    subject_digest="sha256:" + "a" * 64,
    created_at=AT,
)


def deck(**changes: Any) -> FakeDeck:
    members: dict[str, Any] = {
        "missions_list": [mission(), mission("hello", inputs=())],
        "runs_list": [run_summary()],
        "nodes_list": NODES,
        "entries_list": [entry(0, "journal_opened", mission_id="fix-the-build")],
    }
    return FakeDeck(**{**members, **changes})


async def open_run(pilot: Pilot[Any]) -> None:
    await settle(pilot)
    await pilot.press("2", "enter")
    await settle(pilot)
    assert isinstance(pilot.app.screen, RunScreen)
