"""One journal as its checkpoints see it: the tree so far, what is covered, and when the next checkpoint is due (R38)."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from runtime.kernel.ports import Durable, Settled, StoredEntry
from runtime.orchestration.checkpoints import Checkpoint
from runtime.orchestration.merkle import Frontier

#: Entries after which a checkpoint is due.
EVERY_ENTRIES: Final = 64
#: Seconds after the first entry no checkpoint covers.
EVERY_SECONDS: Final = 60.0
#: Entries that begin or end something: a run, the turn of a holder, a run as the store's journal tells it.
_BOUNDARIES: Final = frozenset({"journal_opened", "journal_closed", "epoch", "run_head"})
#: Newest roots kept to answer those who remember them.
_ISSUED: Final = 64
# Quotes inside canonical strings are escaped: these byte sequences can only be members.
_GATE: Final = b'"operation_type":"gate_check"'
_WRITE: Final = b'"effect":"write"'
_RECIPE: Final = re.compile(rb'"run_id":"(sha256:[0-9a-f]{64})"')
_ANSWER: Final = b'"phase":"answered"'


def decides(entry: StoredEntry) -> bool:
    """Is it the decision of a gate, by a check or by a person? It is shown as final when a checkpoint covers it."""
    if entry.kind == "receipt":
        return _GATE in entry.body
    return entry.kind == "escalation" and _ANSWER in entry.body


def calls(entry: StoredEntry) -> bool:
    """Does this entry, by what it is, call for a checkpoint at once?"""
    return entry.kind in _BOUNDARIES or decides(entry) or (entry.kind == "receipt" and _WRITE in entry.body)


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint to be signed, and the hash of the last entry it covers."""

    checkpoint: Checkpoint
    head: str


class Tally:
    """``name`` is the journal's name in notes. ``suspended``: no checkpoint may be made of it, and of one that is
    ``unreadable`` none can."""

    __slots__ = (
        "again",
        "asked",
        "closed",
        "covered",
        "frontier",
        "generation",
        "head",
        "issued",
        "journal_id",
        "moved",
        "name",
        "note",
        "noted_at",
        "noted_head",
        "recipe",
        "since",
        "suspended",
        "ticket",
        "unreadable",
        "worker",
    )

    def __init__(
        self, journal_id: str, name: str, *, frontier: Frontier, head: str, generation: int, covered: int
    ) -> None:
        self.journal_id = journal_id
        self.name = name
        self.frontier = frontier
        self.head = head
        self.generation = generation
        self.covered = covered
        """Entries the newest checkpoint covers that was handed to the writer; ``ticket`` is its promise."""
        self.ticket: Durable = Settled()
        self.noted_at = self.noted_head = ""
        self.recipe = ""
        """The deterministic ``run_id`` of the first entry, once that was seen."""
        self.note = b""
        """The newest note no sink was offered yet; empty when there is none."""
        self.asked = covered
        self.since: float | None = None
        """When the first entry came that nobody has asked a checkpoint for; None when there is none."""
        self.issued: OrderedDict[int, bytes] = OrderedDict()
        self.closed = self.suspended = self.unreadable = self.again = False
        self.worker: asyncio.Task[None] | None = None
        self.moved = asyncio.Event()

    def begin_again(self, generation: int) -> None:
        """A loss was accepted: what is there now is the beginning of another history."""
        self.generation, self.covered = generation, 0
        self.suspended = self.unreadable
        self.issued.clear()

    @property
    def size(self) -> int:
        return self.frontier.size

    @property
    def dirty(self) -> bool:
        return self.size > self.covered and not self.suspended

    def take(self, entry: StoredEntry, now: float) -> bool:
        """Count an entry in; is a checkpoint due now?"""
        self.frontier.append(entry.body)
        self.head = entry.entry_hash
        self.see(entry)
        self.closed = entry.kind == "journal_closed"
        if self.since is None:
            self.since = now
        return calls(entry) or self.size - self.asked >= EVERY_ENTRIES

    def see(self, entry: StoredEntry) -> None:
        """Take what sinks are told from the first entry."""
        found = _RECIPE.search(entry.body) if entry.kind == "journal_opened" else None
        if found is not None:
            self.recipe = found[1].decode()

    def ask(self) -> None:
        """A checkpoint of all there is was asked for."""
        self.asked, self.since = self.size, None

    def draft(self) -> Draft:
        """The checkpoint of all there is."""
        return Draft(Checkpoint(self.name, self.size, self.frontier.root(), self.generation), self.head)

    def submitted(self, draft: Draft, note: bytes, at: str, ticket: Durable) -> None:
        """A checkpoint is on its way to the disk."""
        checkpoint = draft.checkpoint
        self.covered, self.ticket, self.note = checkpoint.size, ticket, note
        self.noted_at, self.noted_head = at, draft.head
        self.issued[checkpoint.size] = checkpoint.root
        if len(self.issued) > _ISSUED:
            self.issued.popitem(last=False)
        self.move()

    def move(self) -> None:
        """Wake those who wait for what they appended to be covered: it is, or it will not be."""
        self.moved.set()
        self.moved = asyncio.Event()

    async def reached(self, size: int) -> bool:
        """Wait until the first ``size`` entries are under a checkpoint on disk; False when nobody works on that.

        Raises `StorageError` when the store failed.
        """
        while self.covered < size:
            if self.worker is None:
                return False
            await self.moved.wait()
        await self.ticket
        return True
