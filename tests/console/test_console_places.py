"""Positions and bookmarks outlive the console, within bounds; a file nobody understands is never written over."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from console.model.places import BOOKMARKS_KEPT, RUNS_KEPT, Place, Places
from console.place_file import PlaceFile


class Told(list[str]):
    """Notices, as the application would show them."""

    def __call__(self, text: str) -> None:
        self.append(text)


def place_file(store: Path, told: Told | None = None, *, read_only: bool = False) -> PlaceFile:
    return PlaceFile(str(store), read_only=lambda: read_only, notice=told if told is not None else Told())


async def test_places_come_back_from_a_private_file(tmp_path: Path) -> None:
    told = Told()
    places = place_file(tmp_path, told)
    place = Place(417, ((3, "why?"), (9, "")))
    assert await places.of("run") == Place()
    places.keep("run", place)
    await places.save()
    assert await place_file(tmp_path).of("run") == place
    assert stat.S_IMODE(places.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(places.path.parent.stat().st_mode) == 0o700
    assert [item.name for item in places.path.parent.iterdir()] == ["replay.json"]
    assert told == []


async def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    places = place_file(tmp_path)
    places.keep("run", Place())
    await places.save()
    assert not places.path.exists()


def test_runs_and_bookmarks_are_bounded_and_the_oldest_go() -> None:
    places = Places()
    for index in range(RUNS_KEPT + 5):
        places.keep(f"run-{index}", Place(1))
    many = tuple((seq, "") for seq in range(BOOKMARKS_KEPT + 3))
    places.keep("run-9", Place(0, many))
    assert len(places) == RUNS_KEPT
    assert places.of("run-4") == Place()
    assert places.of("run-5") == Place(1)
    assert places.of("run-9").bookmarks == many[3:]
    places.keep("run-9", Place())
    assert len(places) == RUNS_KEPT - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "runs": {}}',
        '{"version": 1}',
        '{"version": 1, "runs": {"a": {"at": -1, "bookmarks": []}}}',
        '{"version": 1, "runs": {"a": {"at": true, "bookmarks": []}}}',
        '{"version": 1, "runs": {"a": {"at": 1}}}',
        '{"version": 1, "runs": {"a": {"at": 1, "bookmarks": [{"seq": 1}]}}}',
        "[" * 100_000,
        "\udcff",
    ],
)
async def test_a_damaged_file_is_reported_ignored_and_left_alone(tmp_path: Path, text: str) -> None:
    told = Told()
    places = place_file(tmp_path, told)
    places.path.parent.mkdir()
    body = text.encode("utf-8", "surrogateescape")
    places.path.write_bytes(body)
    assert await places.of("a") == Place()
    places.keep("a", Place(3))
    await places.save()
    assert places.path.read_bytes() == body
    assert await places.of("a") == Place(3)
    assert len(told) == 1
    assert str(places.path) in told[0]
    assert "move it away" in told[0]


async def test_an_observer_keeps_places_in_memory_and_says_so_once(tmp_path: Path) -> None:
    told = Told()
    places = place_file(tmp_path, told, read_only=True)
    for at in (1, 2):
        places.keep("run", Place(at))
        await places.save()
    assert await places.of("run") == Place(2)
    assert len(told) == 1
    assert "observes" in told[0]
    assert not places.path.exists()


async def test_a_store_that_cannot_be_written_is_said_once_and_tried_again(tmp_path: Path) -> None:
    """A file where the folder should be: refused to root too."""
    told = Told()
    places = place_file(tmp_path, told)
    await places.of("run")
    (tmp_path / "console").write_text("in the way")
    for at in (1, 2):
        places.keep("run", Place(at))
        await places.save()
    assert len(told) == 1
    assert "cannot be written" in told[0]
    (tmp_path / "console").unlink()
    await places.save()
    assert json.loads(places.path.read_text())["runs"]["run"]["at"] == 2


async def test_a_link_in_the_way_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    told = Told()
    places = place_file(tmp_path, told)
    places.path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    places.path.with_name("replay.json.new").symlink_to(victim)
    places.keep("run", Place(1))
    await places.save()
    assert victim.read_text() == "mine"
    assert len(told) == 1
