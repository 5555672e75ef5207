"""Which chunks hold the stream items of one step: a tree of index artifacts named by its root's digest alone.

A step may emit any number of items, and neither memory nor its journal entry may grow with them. So chunks are listed
in nodes of bounded width, full nodes are stored and listed in a node above, and only the newest node of each level is
held. A node is canonical JSON, so that a verifier with nothing but the standard library can follow it.
Standard library and kernel only: the evidence bundle carries this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.canonical import canonical_bytes, parse_strict
from runtime.kernel.errors import JournalError
from runtime.kernel.ids import HASH

SCHEMA: Final = "stream-index/1"
#: Parts one node may list.
WIDTH: Final = 256
#: Levels a reader follows; 256 to the power of this is more than any run emits.
MAX_LEVELS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexNode:
    """One stored node. ``parts`` are chunks at level 0, else nodes of the level below; ``items`` counts below it."""

    level: int
    items: int
    parts: tuple[str, ...]


@dataclass(slots=True)
class _Open:
    """A node that is still growing."""

    items: int = 0
    parts: list[str] = field(default_factory=list)


class StreamIndex:
    """Builds a tree as chunks arrive. ``put`` stores a body and returns its digest."""

    def __init__(self, put: Callable[[bytes], str]) -> None:
        self._put = put
        self._levels: list[_Open] = [_Open()]

    def add(self, chunk: str, items: int) -> None:
        """The next chunk, holding ``items`` items."""
        self._add(0, chunk, items)

    def root(self) -> str:
        """Store what is open and return the digest of the whole. Nothing can be added afterwards."""
        level = 0
        while level < len(self._levels) - 1:
            items = self._levels[level].items
            self._add(level + 1, self._store(level), items)
            level += 1
        return self._store(level)

    def _add(self, level: int, part: str, items: int) -> None:
        if level == len(self._levels):
            self._levels.append(_Open())
        node = self._levels[level]
        if len(node.parts) == WIDTH:
            full = node.items
            self._add(level + 1, self._store(level), full)
            node = self._levels[level]
        node.parts.append(part)
        node.items += items

    def _store(self, level: int) -> str:
        node, self._levels[level] = self._levels[level], _Open()
        return self._put(canonical_bytes({"schema": SCHEMA, "level": level, "items": node.items, "parts": node.parts}))


def read_node(body: bytes, *, below: int = MAX_LEVELS) -> IndexNode:
    """The node stored as ``body``, of a level less than ``below``. Raises `JournalError` ``J_SCHEMA``,
    `CanonicalizationError`."""
    record = parse_strict(body)
    if not isinstance(record, dict) or record.keys() != {"schema", "level", "items", "parts"}:
        raise _malformed("its members are not those of a node")
    level, items, parts = record["level"], record["items"], record["parts"]
    if record["schema"] != SCHEMA or type(level) is not int or not 0 <= level < below:
        raise _malformed(f"schema {record['schema']!r}, level {level!r} do not fit here")
    if type(items) is not int or not isinstance(parts, list) or len(parts) > WIDTH:
        raise _malformed("its parts are not a list in bounds")
    if not all(isinstance(part, str) and HASH.match(part) for part in parts):
        raise _malformed("a part is no digest")
    return IndexNode(level=level, items=items, parts=tuple(parts))


def root_of(entry: Mapping[str, Any]) -> str | None:
    """The digest of the index a ``step_finished`` entry names, if it names one."""
    stream = entry.get("stream")
    index = stream.get("index") if isinstance(stream, Mapping) else None
    return index if isinstance(index, str) and HASH.match(index) else None


def _malformed(why: str) -> JournalError:
    return JournalError("J_SCHEMA", f"a stream index is malformed: {why}")
