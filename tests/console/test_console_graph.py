"""A mission's graph in the console: what is drawn, what is inert, and where its keys lead."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_deck import FakeDeck
from support.pictures import SIZES, deck, drawn, press, settle, sized_picture
from textual.pilot import Pilot

from console.app import ConsoleApp
from console.screens.graph import GraphScreen
from console.screens.home import HomeScreen
from console.screens.launch import LaunchScreen
from runtime.host.api import Refused

PICTURE = """\
review-each: dataflow, multiple any -> once map
  * pages [tool_invoke] multiple any -> once map
      --> reviews
  - reviews [map_over] multiple any -> once list
      | * each [llm_call] multiple any -> once map
      --> summary (as reviews)
  - summary [template] multiple any -> once string
"""


def console(**changes: Any) -> FakeDeck:
    return deck(**{"picture": PICTURE, **changes})


async def opened(fake: FakeDeck, *keys: str) -> tuple[str, type]:
    async with ConsoleApp(fake).run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        await press(pilot, "1", *keys)
        return drawn(pilot), type(pilot.app.screen)


async def test_b_shows_where_each_block_leads_and_starts_nothing() -> None:
    fake = console()
    text, screen = await opened(fake, "b")
    assert screen is GraphScreen
    assert "- reviews [map_over]" in text
    assert "--> summary (as reviews)" in text
    assert fake.intents == []


async def test_foreign_text_is_drawn_and_does_nothing() -> None:
    text, _ = await opened(console(picture="hello: [@click=app.quit]free[/]\x1b]52;c;AAAA\x07\n"), "b")
    assert "[@click=app.quit]free[/]" in text
    assert "\x1b" not in text


async def test_a_mission_that_cannot_be_read_says_why() -> None:
    text, _ = await opened(console(refusals={"graph": Refused("MISSION_NOT_FOUND", "there is no such file")}), "b")
    assert "MISSION_NOT_FOUND: there is no such file" in text


@pytest.mark.parametrize(("key", "screen"), [("n", LaunchScreen), ("q", HomeScreen), ("escape", HomeScreen)])
async def test_its_keys_launch_the_mission_or_go_back(key: str, screen: type) -> None:
    assert (await opened(console(), "b", key))[1] is screen


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_screen(still: None, snap_compare: Any, size: tuple[int, int]) -> None:
    async def show(pilot: Pilot[Any]) -> None:
        await settle(pilot)
        await press(pilot, "1", "b")

    sized_picture(snap_compare, "graph", size, lambda: ConsoleApp(console(), clock=lambda: 0.0), show)
