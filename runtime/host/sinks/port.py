"""A place outside the store that remembers checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import Note
from runtime.storage.layout import StateDir

#: Root of the first n entries of the journal the note speaks of, or None when it has fewer.
Continues = Callable[[int], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A checkpoint on disk. ``head`` is the hash of the last entry it covers, ``recipe`` the deterministic ``run_id`` of the
    journal's first entry (empty for the store's own), ``at`` when it was made; ``final``: the journal ends there."""

    note: Note
    head: str
    recipe: str
    at: str
    final: bool = False


class Sink(Protocol):
    """Append-only and monotonic: it never gives up what it remembers for something smaller or inconsistent."""

    name: str

    async def offer(self, offer: Offer, continues: Continues) -> None:
        """Raises `Refused` ``SINK_BACKWARDS``, ``SINK_TROUBLE``, ``SINK_FAILED``, ``SINK_TIMEOUT``."""
        ...

    async def newest(self, origin: str) -> Note | None:
        """What it remembers of that origin. Raises like `offer`."""
        ...


@runtime_checkable
class KeepsAnchors(Protocol):
    """A sink that keeps an anchor log, which gives no notes back (operations spec §7.4)."""

    name: str

    async def evidence(self) -> tuple[bytes, bytes]:
        """The whole log, and the key it is checked with. Raises `Refused` ``SINK_TROUBLE``, ``KEY_*``."""
        ...


async def goes_on(name: str, held: Note | None, offered: Note, continues: Continues) -> bool:
    """Is ``offered`` news to a sink that holds ``held``? False when it is the same.

    Raises `Refused` ``SINK_BACKWARDS`` for a smaller one, another history, or an earlier generation.
    """
    if held is None:
        return True
    known, new = held.checkpoint, offered.checkpoint
    if new.generation > known.generation:
        return True
    if new == known:
        return False
    if new.generation == known.generation and new.size > known.size and await continues(known.size) == known.root:
        return True
    raise Refused(
        "SINK_BACKWARDS",
        f"{name} remembers {known.size} entries of {known.origin} ({known.words}),"
        f" which {new.size} entries ({new.words}) do not continue",
        hint="`quarterdeck verify` says what is missing",
    )


def load_sinks(state: StateDir) -> tuple[Sink, ...]:
    """Those of ``evidence.yaml``; none without the file. Raises `Refused` ``EVIDENCE_INVALID``."""
    if not state.evidence.exists() and not state.evidence.is_symlink():
        return ()  # verbs that only read must not wait for the reader of a file that is not there
    from runtime.host.evidence_file import load_evidence
    from runtime.host.sinks.building import sink_of

    return tuple(sink_of(spec, state) for spec in load_evidence(state).sinks)
