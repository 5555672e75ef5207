"""What becomes of emitted items: Data is kept in chunks before it is shown, Telemetry is only shown (ruling R29).

A chunk is an artifact, the frame of a LIST of consecutive items of one attempt. The attempt's ``step_finished`` entry
names them all by the root of a `StreamIndex`, so that verifying a journal covers what its steps emitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.blocks.values import BlockValue
from runtime.blocks.wire import encode_value, pack
from runtime.flow.streams import StreamItem
from runtime.kernel.ports import ArtifactStore
from runtime.orchestration.stream_index import StreamIndex

DATA: Final = "data"
TELEMETRY: Final = "telemetry"

#: Step id, stream, text: a piece of the live view.
Show = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class DataItem:
    """One emitted value with its canonical bytes. Raises `BlockInputError` when it is too deep to be put in a chunk."""

    step_id: str
    value: BlockValue
    body: bytes

    @classmethod
    def of(cls, step_id: str, value: BlockValue) -> DataItem:
        BlockValue.of([value])
        return cls(step_id, value, pack(value))


@dataclass(frozen=True, slots=True)
class TextItem:
    """A piece of text for the live view."""

    step_id: str
    stream: str
    text: str


@dataclass(slots=True)
class _Kept:
    index: StreamIndex
    items: int = 0
    size: int = 0
    content: Any = field(default_factory=hashlib.sha256)


class StreamKeeper:
    """Keeps the Data of a turn's attempts. What it holds per attempt is bounded, however much was emitted."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._kept: dict[Hashable, _Kept] = {}

    async def keep(self, items: Sequence[StreamItem]) -> None:
        """Store a batch, one chunk per attempt, and wait until it is on disk. Raises what the store raises."""
        batch: dict[Hashable, list[DataItem]] = {}
        for item in items:
            batch.setdefault(item.owner, []).append(item.payload)
        for owner, group in batch.items():
            self._add(owner, group)
        await self._artifacts.flush()

    def finished(self, owner: Hashable) -> dict[str, Any] | None:
        """The ``stream`` member of the attempt's end: what it emitted and where that is; None when it was silent.

        ``content`` hashes the items one after the other, however they were cut into chunks.
        """
        kept = self._kept.pop(owner, None)
        if kept is None:
            return None
        return {
            "items": kept.items,
            "bytes": kept.size,
            "content": f"sha256:{kept.content.hexdigest()}",
            "index": kept.index.root(),
        }

    def forget(self, owner: Hashable) -> None:
        """The attempt stays open: it will emit everything again when it is resumed."""
        self._kept.pop(owner, None)

    def _add(self, owner: Hashable, group: Sequence[DataItem]) -> None:
        kept = self._kept.get(owner)
        if kept is None:
            kept = self._kept[owner] = _Kept(StreamIndex(self._artifacts.put))
        chunk = self._artifacts.put(encode_value(BlockValue.of([item.value for item in group])))
        kept.index.add(chunk, len(group))
        kept.items += len(group)
        for item in group:
            kept.size += len(item.body)
            kept.content.update(item.body)


def shown(items: Sequence[StreamItem]) -> Iterator[tuple[str, str, str]]:
    """A batch as pieces of the live view; neighbours of one step and stream become one piece."""
    step_id = stream = ""
    parts: list[str] = []
    for item in items:
        told = item.payload
        piece = TextItem(told.step_id, DATA, told.value.text() + "\n") if isinstance(told, DataItem) else told
        if parts and (piece.step_id, piece.stream) != (step_id, stream):
            yield step_id, stream, "".join(parts)
            parts = []
        step_id, stream = piece.step_id, piece.stream
        parts.append(piece.text)
    if parts:
        yield step_id, stream, "".join(parts)
