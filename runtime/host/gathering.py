"""All evidence at hand about one journal: the store's own checkpoints and keys, what is kept outside, and its own row.

A sink that does not answer is told and never fatal: its silence proves nothing, and no verification waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from runtime.events.facts import SinkState
from runtime.host.parsed import parsed
from runtime.host.signing import check_signature, trusted_keys
from runtime.host.sinks.port import KeepsAnchors, Sink, load_sinks
from runtime.kernel.errors import QuarterdeckError, StorageError
from runtime.kernel.outcomes import RunStatus
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey
from runtime.orchestration.journal_evidence import Evidence, Held
from runtime.storage.checkpoints import StoredCheckpoint, named
from runtime.storage.runs import RunRecord
from runtime.storage.store import Store

#: How long one sink is waited for, in seconds.
SINK_SECONDS: Final = 5.0


@dataclass(slots=True)
class Gathered:
    """What was found. ``trouble`` by sink says why it told nothing; ``damage`` is what of the store could not be read."""

    evidence: Evidence
    sinks: tuple[str, ...] = ()
    trouble: dict[str, str] | None = None
    damage: tuple[StorageError, ...] = ()
    row: RunRecord | None = None

    def states(self, agreed: Sequence[tuple[str, int]]) -> tuple[SinkState, ...]:
        """Each sink, with what it confirms: 0 when it remembers something and nothing of it agrees."""
        speaking = {held.where: 0 for held in self.evidence.elsewhere}
        sizes, trouble = {**speaking, **dict(agreed)}, self.trouble or {}
        return tuple(SinkState(name=name, size=sizes.get(name), trouble=trouble.get(name, "")) for name in self.sinks)


async def gather(
    store: Store, journal_id: str, *, witnesses: Sequence[str] = (), outside: bool = True, links: bool = True
) -> Gathered:
    """Look everywhere. Not at the sinks unless ``outside``; ``links``: earlier journals are in this store, too.

    What is remembered is read before the entries, so that entries appended meanwhile cannot look missing.
    """
    damage: list[StorageError] = []
    row = await _row(store, journal_id, damage)
    notes = await _notes(store, journal_id, damage)
    origin = await origin_of(store, journal_id)
    sinks, trouble = await _sinks(store) if outside else ((), {})
    generations = {item.generation for item in notes} or {1}
    told = await asyncio.gather(*(_told(sink, origin, max(generations), trouble) for sink in sinks))
    anchors, key = await _anchors(sinks, trouble)
    evidence = Evidence(
        anchors=anchors,
        key=key,
        checkpoints=held(notes),
        elsewhere=tuple(item for found in told for item in found),
        witnesses=witnesses,
        trusted=await _keys(store),
        check=check_signature,
        origin=origin,
        linked=await _linked(store, journal_id) if links else None,
        told_entries=0 if row is None else max(row.summary.entries, row.last_seq + 1),
        told_head=_told_head(row),
    )
    names = tuple(sink.name for sink in sinks)
    return Gathered(evidence, (*names, *(name for name in trouble if name not in names)), trouble, tuple(damage), row)


def held(notes: Sequence[StoredCheckpoint]) -> tuple[Held, ...]:
    return tuple(Held(item.note, at=item.at) for item in notes)


async def origin_of(store: Store, journal_id: str) -> str:
    """A journal's name in checkpoints; the store's own has that of the store."""
    return named(journal_id, await store.checkpoints.store_id())


async def _row(store: Store, journal_id: str, damage: list[StorageError]) -> RunRecord | None:
    try:
        return await store.runs.record(journal_id)
    except StorageError as error:
        damage.append(error)
        return None


async def _notes(store: Store, journal_id: str, damage: list[StorageError]) -> list[StoredCheckpoint]:
    try:
        return await store.checkpoints.of(journal_id)
    except StorageError as error:
        damage.append(error)
        return []


async def _keys(store: Store) -> tuple[VerifierKey, ...]:
    return await asyncio.to_thread(trusted_keys, store.state)


def told_by(row: RunRecord, checkpoints: Sequence[Held] = ()) -> Evidence:
    """What a run's own row tells of its journal: it is written after the entries, so they cannot be fewer."""
    told = max(row.summary.entries, row.last_seq + 1)
    return Evidence(checkpoints=checkpoints, told_entries=told, told_head=_told_head(row))


def _told_head(row: RunRecord | None) -> str | None:
    ended = row is not None and row.summary.status.terminal and row.summary.status is not RunStatus.REFUSED
    return row.summary.head_hash if ended and row is not None else None


async def _linked(store: Store, journal_id: str) -> frozenset[str]:
    """Does the store know what the journal's first entry names as newest evidence of its time?"""
    named = await _named(store, journal_id)
    if named is None or not (await store.checkpoints.known(named) or await store.runs.ended_with(named)):
        return frozenset()
    return frozenset({named})


async def _named(store: Store, journal_id: str) -> str | None:
    try:
        first = await store.journals.read(journal_id, limit=1)
    except StorageError:
        return None  # reading the whole names the damage
    entry = parsed(first[0]) if first else None
    named = None if entry is None else entry.get("prev_journal_head")
    return named if isinstance(named, str) else None


async def _sinks(store: Store) -> tuple[tuple[Sink, ...], dict[str, str]]:
    try:
        return await asyncio.to_thread(load_sinks, store.state), {}
    except QuarterdeckError as error:
        return (), {"sinks": error.message}


async def _anchors(sinks: Sequence[Sink], trouble: dict[str, str]) -> tuple[bytes | None, bytes | None]:
    """The anchor log the operator keeps, and its key; the first, should there be several."""
    for sink in sinks:
        if isinstance(sink, KeepsAnchors):
            try:
                async with asyncio.timeout(SINK_SECONDS):
                    return await sink.evidence()
            except TimeoutError:
                trouble[sink.name] = f"it did not answer within {SINK_SECONDS:g} s"
            except QuarterdeckError as error:
                trouble[sink.name] = error.message
    return None, None


async def _told(sink: Sink, origin: str, generation: int, trouble: dict[str, str]) -> list[Held]:
    """The newest notes a sink has of a journal: of the generation at hand, and of those beside it, should the store have
    been put back to before a loss was accepted."""
    numbers = range(max(generation - 1, 1), generation + 2)
    names = [Checkpoint(origin, 0, b"", number).origin for number in numbers]
    try:
        async with asyncio.timeout(SINK_SECONDS):
            found = [await sink.newest(name) for name in names]
    except TimeoutError:
        trouble[sink.name] = f"it did not answer within {SINK_SECONDS:g} s"
        return []
    except QuarterdeckError as error:
        trouble[sink.name] = error.message
        return []
    return [Held(note.data, sink.name) for note in found if note is not None]
