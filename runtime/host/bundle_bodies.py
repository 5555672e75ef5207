"""The bodies a journal names, each with what it is, and which of them stay here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.host.bundle_format import MAX_TOTAL_BYTES
from runtime.host.bundle_kinds import FILES, MODEL, OUTPUT, RECORD, chunk_kind, content_of, named_by, streams_of
from runtime.kernel.canonical import CanonicalizationError, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.orchestration.stream_index import IndexNode, read_node, root_of

Fetch = Callable[[str], Awaitable[bytes | None]]
_EXECUTE: Final = "execute"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A body that stays here: its length, and the kind it is withheld as."""

    size: int
    what: str


@dataclass(slots=True)
class Bodies:
    """Bodies by digest, in the order they were first named. ``beyond`` are the bytes of those not kept for want of room:
    a run with such cannot become an archive. What is damaged or missing is in neither; the verdict names it."""

    what: dict[str, str] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    withheld: dict[str, LeftOut] = field(default_factory=dict)
    beyond: int = 0
    room: int = MAX_TOTAL_BYTES

    def size(self, digest: str) -> int:
        return len(self.kept[digest])


async def collect_bodies(
    entries: Sequence[Mapping[str, Any]], fetch: Fetch, withhold: frozenset[str], *, answers: str | None = None
) -> Bodies:
    """Everything ``entries`` name, and what those bodies name in turn: stream indexes, captured streams, long content.

    ``answers`` is the digest of the mission's scripted answers, which are a model's although the mission brings them.
    """
    kinds: dict[str, dict[str, None]] = {}

    def name(digest: str, kind: str) -> None:
        kinds.setdefault(digest, {})[kind] = None

    for entry in entries:
        for digest, kind in named_by(entry):
            name(digest, MODEL if digest == answers else kind)
        root = root_of(entry) if entry["kind"] == "step_finished" else None
        if root is not None:
            await _emitted(root, chunk_kind(entry), fetch, name)
        for digest, kind in await _behind(entry["receipt"], fetch) if entry["kind"] == "receipt" else ():
            name(digest, kind)
    found = Bodies()
    for digest, given in kinds.items():
        _take(found, digest, await fetch(digest), tuple(given), withhold)
    return found


def _take(found: Bodies, digest: str, body: bytes | None, kinds: Sequence[str], withhold: frozenset[str]) -> None:
    if body is None or digest_bytes(body) != digest:
        return
    reasons = [kind for kind in kinds if kind in withhold and RECORD not in kinds]
    found.what[digest] = kinds[0]
    if reasons:
        found.withheld[digest] = LeftOut(len(body), reasons[0])
    elif len(body) > found.room:
        found.beyond += len(body)
        found.room = 0
    else:
        found.kept[digest] = body
        found.room -= len(body)


async def _behind(receipt: Mapping[str, Any], fetch: Fetch) -> list[tuple[str, str]]:
    """What the bodies a receipt names name themselves: streams that were captured whole, content too long for params."""
    named: list[tuple[str, str]] = []
    if receipt.get("effect") == _EXECUTE:
        named += [(digest, OUTPUT) for digest in streams_of(_parsed(await fetch(str(receipt.get("output_hash")))))]
    content = content_of(_parsed(await fetch(str(receipt.get("params_hash")))))
    return named if content is None else [*named, (content, FILES)]


async def _emitted(root: str, kind: str, fetch: Fetch, name: Callable[[str, str], None]) -> None:
    """Name what hangs below a stream's index."""
    waiting, seen = [root], {root}
    while waiting:
        digest = waiting.pop()
        name(digest, RECORD)
        node = _node(await fetch(digest))
        if node is not None and node.level:
            waiting.extend(part for part in node.parts if part not in seen)
            seen.update(node.parts)
        for part in node.parts if node is not None and not node.level else ():
            name(part, kind)


def _node(body: bytes | None) -> IndexNode | None:
    try:
        return None if body is None else read_node(body)
    except (JournalError, CanonicalizationError):
        return None  # verification names what is wrong with it


def _parsed(body: bytes | None) -> object:
    try:
        return None if body is None else parse_strict(body, limit=MAX_BODY_BYTES)
    except CanonicalizationError:
        return None
