"""Events of library runs: what happened where, with kinds and sizes, never contents (blocks spec §19.1).

`emit` is the only place that builds one. Without an observer it does nothing, and callers on the path of an ordinary
attempt look first. Whoever listens can neither slow a run down nor break it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from runtime.blocks.values import BlockValue, BlockValueKind
from runtime.kernel.clock import timestamp

if TYPE_CHECKING:
    from runtime.blocks.running import Observer, Scope

_LOGGER: Final = logging.getLogger("runtime.blocks")
_KEYS: Final = (
    "run_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "node_path",
    "block_name",
    "attempt",
    "visit",
    "tick",
)
_SIZED: Final = frozenset({BlockValueKind.STRING, BlockValueKind.BYTES, BlockValueKind.LIST, BlockValueKind.MAP})
#: Events a subscriber may be behind; the oldest make room and are counted.
STREAM_LIMIT: Final = 1024


def emit(
    scope: Scope,
    event: str,
    metadata: Mapping[str, Any],
    fields: Mapping[str, Any] | None = None,
    *,
    block_type: str | None = None,
) -> None:
    """Tell the observer, if there is one. What it raises is logged and changes nothing."""
    observer = scope.observer
    if observer is None:
        return
    told: dict[str, Any] = {"event": event, "ts": timestamp(scope.services.clock.now())}
    if scope.workflow_id:
        told["workflow_id"] = scope.workflow_id
    told.update((key, metadata[key]) for key in _KEYS if key in metadata)
    if block_type is not None:
        told["block_type"] = block_type
    told.update(fields or {})
    try:
        observer(event, MappingProxyType(told))
    except Exception:
        _LOGGER.warning("an observer failed at %s", event, exc_info=True)


def sizes(which: str, value: BlockValue) -> dict[str, Any]:
    """``<which>_kind`` and, for texts, bytes, lists and maps, ``<which>_size``: how many of their parts."""
    told: dict[str, Any] = {f"{which}_kind": value.kind.name.lower()}
    if value.kind in _SIZED:
        told[f"{which}_size"] = len(value.payload)
    return told


class EventStream:
    """The events of one run for one reader, oldest first; ends after the run's last one.

    A reader that falls behind loses the oldest events; ``dropped`` says how many. Iterate from one task at a time.
    """

    def __init__(self, limit: int = STREAM_LIMIT) -> None:
        self._events: deque[Mapping[str, Any]] = deque(maxlen=limit)
        self._news = asyncio.Event()
        self._ended = False
        self.dropped = 0

    def put(self, event: Mapping[str, Any]) -> None:
        if self._ended:
            return
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._news.set()

    def close(self) -> None:
        """Nothing more will come. Events not read yet stay readable."""
        self._ended = True
        self._news.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Mapping[str, Any]:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()


class Feed:
    """An observer that fills every open stream and then tells the observer that was there before."""

    def __init__(self, before: Observer | None) -> None:
        self.before = before
        self._streams: list[EventStream] = []

    def open(self, limit: int) -> EventStream:
        stream = EventStream(limit)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        for stream in self._streams:
            stream.put(fields)
        if self.before is not None:
            self.before(event, fields)
