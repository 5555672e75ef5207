"""The file the console keeps its replay places in: ``<store>/console/replay.json``, private, replaced whole.

Only the console that holds the store writes it, so there is one writer; an observer, a read-only folder or a file
that cannot be understood leave the places in memory, and say so once. A file that cannot be understood is never
written over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from console.model.places import Place, Places

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
#: Far above what the bounds of `Places` allow.
READ_LIMIT: Final = 8 * 1024 * 1024
_IN_MEMORY: Final = "positions and bookmarks last until this console closes"


class PlaceFile:
    """`Places` with a file behind them. ``notice`` is told, once each, why something is not kept."""

    def __init__(self, store: str, *, read_only: Callable[[], bool], notice: Callable[[str], None]) -> None:
        self.path = Path(store) / "console" / "replay.json"
        self._places = Places()
        self._read_only = read_only
        self._notice = notice
        self._told: set[str] = set()
        self._loaded = False
        self._usable = True
        self._dirty = False
        self._turn = asyncio.Lock()

    async def of(self, run_id: str) -> Place:
        """What is remembered of a run; the file is read the first time."""
        async with self._turn:
            if not self._loaded:
                self._loaded = True
                await self._load()
        return self._places.of(run_id)

    def keep(self, run_id: str, place: Place) -> None:
        """Remember a place; it reaches the file with the next `save`."""
        self._dirty = self._places.keep(run_id, place) or self._dirty

    async def save(self) -> None:
        """Write what changed, if it may be written."""
        async with self._turn:
            if not (self._dirty and self._usable):
                return
            if self._read_only():
                self._tell(f"this console only observes: {_IN_MEMORY}")
                return
            self._dirty = False
            try:
                await asyncio.to_thread(_replace, self.path, self._places.to_json())
            except OSError as error:
                self._dirty = True
                self._tell(f"{self.path} cannot be written ({error.strerror}): {_IN_MEMORY}")

    async def _load(self) -> None:
        try:
            text = await asyncio.to_thread(_read, self.path)
            if text is not None:
                self._places.load(text)
        except (OSError, ValueError, RecursionError) as error:
            self._usable = False
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._tell(
                f"{self.path} cannot be used ({why}) and is left as it is: {_IN_MEMORY}; move it away to begin anew"
            )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._notice(text)


def _read(path: Path) -> str | None:
    """The file's text; None when there is none. Raises OSError, ValueError."""
    try:
        with path.open("rb") as file:
            body = file.read(READ_LIMIT + 1)
    except FileNotFoundError:
        return None
    if len(body) > READ_LIMIT:
        raise ValueError(f"it is longer than {READ_LIMIT} bytes")
    return body.decode("utf-8")


def _replace(path: Path, text: str) -> None:
    """Write beside, make durable, rename over: a reader sees the old or the new file, whole. Raises OSError."""
    path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
