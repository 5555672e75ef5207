"""A place outside the store that remembers checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from runtime.orchestration.checkpoints import Note
from runtime.storage.layout import StateDir

#: Root of the first n entries of the journal the note speaks of, or None when it has fewer.
Continues = Callable[[int], Awaitable[bytes | None]]


class Sink(Protocol):
    """Append-only and monotonic: it never gives up what it remembers for something smaller or inconsistent."""

    name: str

    async def offer(self, note: Note, continues: Continues) -> None:
        """Raises `Refused` ``SINK_BACKWARDS``, ``SINK_TROUBLE``."""
        ...

    async def newest(self, origin: str) -> Note | None:
        """Raises `Refused` ``SINK_TROUBLE``."""
        ...


def load_sinks(state: StateDir) -> tuple[Sink, ...]:
    """Those of ``evidence.yaml``; none without the file."""
    return ()
