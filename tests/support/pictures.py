"""Drives the console for pilot tests and snapshots: settle, press, and what is on the screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from support.fake_deck import FakeDeck
from textual.pilot import Pilot

from console.app import ConsoleApp

Show = Callable[[Pilot[Any], FakeDeck], Awaitable[None]]


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


def picture(snap_compare: Any, show: Show, fake: FakeDeck, size: tuple[int, int]) -> None:
    """Compare what a screen looks like with its stored picture."""
    app = ConsoleApp(fake, clock=lambda: 0.0)
    app.animation_level = "none"

    async def prepare(pilot: Pilot[Any]) -> None:
        await settle(pilot)
        await show(pilot, fake)

    assert snap_compare(app, terminal_size=size, run_before=prepare)
