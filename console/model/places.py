"""What the console remembers of replays: the last position and the bookmarks of each run, within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

RUNS_KEPT: Final = 200
BOOKMARKS_KEPT: Final = 64
LABEL_LIMIT: Final = 80
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator was in a run, and ``(entry, label)`` of the bookmarks in the order they were set."""

    at: int = 0
    bookmarks: tuple[tuple[int, str], ...] = ()


class Places:
    """The places of the runs looked at last; the one looked at longest ago goes first."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def of(self, run_id: str) -> Place:
        return self._places.get(run_id, Place())

    def keep(self, run_id: str, place: Place) -> bool:
        """Remember a place, or forget a run that has nothing to remember; True when that changed anything."""
        before = self._places.pop(run_id, Place())
        if place != Place():
            self._places[run_id] = Place(place.at, place.bookmarks[-BOOKMARKS_KEPT:])
        while len(self._places) > RUNS_KEPT:
            del self._places[next(iter(self._places))]
        return before != self.of(run_id)

    def to_json(self) -> str:
        """The file's text."""
        runs = {
            run_id: {"at": place.at, "bookmarks": [{"seq": seq, "label": label} for seq, label in place.bookmarks]}
            for run_id, place in self._places.items()
        }
        return json.dumps({"version": VERSION, "runs": runs}, indent=1)

    def load(self, text: str) -> None:
        """Take in a file's text. Raises ValueError saying what is wrong with it, and then nothing has changed."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"it is not a version {VERSION} file")
        runs = document.get("runs")
        if not isinstance(runs, dict):
            raise ValueError("runs is not an object")
        found = {run_id: _place(run_id, value) for run_id, value in runs.items()}
        for run_id, place in found.items():
            self.keep(run_id, place)


def _place(run_id: str, value: Any) -> Place:
    if not isinstance(value, dict) or not isinstance(value.get("bookmarks"), list):
        raise ValueError(f"run {run_id} is not an object with bookmarks")
    return Place(_number(value.get("at"), run_id), tuple(_bookmarks(run_id, value["bookmarks"])))


def _bookmarks(run_id: str, values: list[Any]) -> Iterator[tuple[int, str]]:
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get("label"), str):
            raise ValueError(f"a bookmark of run {run_id} has no label")
        yield _number(value.get("seq"), run_id), value["label"][:LABEL_LIMIT]


def _number(value: Any, run_id: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"run {run_id} has {value!r} for an entry number")
    return value
