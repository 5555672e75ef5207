"""Is a journal behind what somebody remembers of it? If so nothing goes on until an operator accepts the loss.

A chain whose end was cut off, or a whole store that was put back from an older copy, still holds in itself. Whoever
remembers more entries than there are, or another root for as many, shows it: the store's own checkpoints and the copies
outside it (reliability §1.5). What was accepted goes on in the next generation, so that nobody who remembers the lost
entries takes the new ones for their continuation. A remembered note counts whoever signed it: with the keys gone a
signature could not be checked, and doubt denies.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.host.sinks.port import Sink
from runtime.kernel.canonical import JOURNAL_GENESIS, CanonicalizationError, parse_strict
from runtime.kernel.errors import JournalError, QuarterdeckError, Refused, StorageError
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.checkpoints import Checkpoint, Note, read_note
from runtime.orchestration.merkle import EMPTY_ROOT, Frontier
from runtime.storage.checkpoints import StoredCheckpoint, named
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.store import Store

#: The ``action`` by which the store's journal tells that a loss was accepted.
ACCEPT_LOSS: Final = "accept_loss"
#: How long one sink is waited for, in seconds.
ASK_SECONDS: Final = 5.0
#: How long all questions to one sink may take when a store opens, in seconds.
ASK_ALL_SECONDS: Final = 30.0
#: Journals up to this length are hashed when a store opens (some 10 ms); of longer ones only length and newest covered
#: entry are looked at then, and the whole when they are continued.
HASHED_AT_START: Final = 2_000
#: As far as any journal goes.
_ALL: Final = 2**62
_OWN: Final = "the store's own checkpoint"


@dataclass(frozen=True, slots=True)
class Known:
    """What ``source`` remembers of a journal. ``head`` is the hash of the last entry covered; None: it does not say."""

    source: str
    size: int
    root: bytes | None
    generation: int = 1
    head: str | None = None
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class There:
    """What is there of a journal. ``roots`` and ``heads`` hold root and last entry's hash after as many entries as
    somebody remembers; ``unreadable`` says why nothing else is known."""

    size: int
    head: str
    root: bytes = b""
    roots: Mapping[int, bytes] = field(default_factory=dict)
    heads: Mapping[int, str] = field(default_factory=dict)
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Behind:
    """A journal is behind: what is there, and what is known of it."""

    journal_id: str
    there: There
    known: Known

    def error(self) -> Refused:
        """``J_BEHIND``, naming both ways out."""
        name = "store" if self.journal_id == STORE_JOURNAL else self.journal_id[:8]
        return Refused(
            "J_BEHIND",
            self.words,
            hint="put the newer copy of the store back,"
            f" or go on without what is missing: `quarterdeck accept-loss {name} --reason TEXT`",
        )

    @property
    def words(self) -> str:
        whose = (
            "the store's own journal" if self.journal_id == STORE_JOURNAL else f"the journal of run {self.journal_id}"
        )
        remembers = f"{self.known.source} knows {self.known.size}"
        if self.there.unreadable:
            return f"{whose} cannot be read: {self.there.unreadable}; {remembers} entries of it"
        if self.there.size < self.known.size:
            return f"{whose} has {self.there.size} entries, {remembers}"
        return f"the first {self.known.size} entries of {whose} are not those {self.known.source} knows"


def farthest(there: There, known: Iterable[Known], generation: int = 1) -> Known | None:
    """The largest of what is known that contradicts what is there; None when nothing does.

    What was known of an earlier generation has been accepted as lost; a later one is always ahead of us.
    """
    against = [item for item in known if item.generation > generation or _contradicts(there, item, generation)]
    return max(against, key=lambda item: (item.generation, item.size), default=None)


def _contradicts(there: There, known: Known, generation: int) -> bool:
    if known.generation < generation:
        return False
    if there.unreadable or there.size < known.size:
        return True
    return _differ(there.roots.get(known.size), known.root) or _differ(there.heads.get(known.size), known.head)


def _differ(found: object, known: object) -> bool:
    return found is not None and known is not None and found != known


@dataclass(slots=True)
class Tree:
    """Reads a journal into a frontier; ``sizes`` are where its roots are wanted, ``unreadable`` is what stopped it."""

    sizes: Collection[int] = ()
    frontier: Frontier = field(default_factory=Frontier)
    head: str = JOURNAL_GENESIS
    roots: dict[int, bytes] = field(default_factory=dict)
    heads: dict[int, str] = field(default_factory=dict)
    unreadable: str = ""

    def take(self, entry_hash: str, body: bytes) -> None:
        self.frontier.append(body)
        self.head = entry_hash
        if self.frontier.size in self.sizes:
            self.roots[self.frontier.size] = self.frontier.root()
            self.heads[self.frontier.size] = entry_hash

    def take_all(self, entries: Iterable[StoredEntry]) -> None:
        for entry in entries:
            self.take(entry.entry_hash, entry.body)

    async def read(self, store: Store, journal_id: str, until: int = _ALL) -> There:
        """Read the stored entries, the first ``until`` of them, on the reader's thread. Never raises for damage."""
        try:
            await store.journals.each(journal_id, self.take, until=until)
        except StorageError as error:
            self.unreadable = error.message
        return There(self.frontier.size, self.head, self.frontier.root(), self.roots, self.heads, self.unreadable)


async def generations(store: Store) -> dict[str, int]:
    """The generation each journal is in, by the entries that accepted a loss. One that is no entry tells nothing."""
    try:
        accepted = await store.journals.naming(STORE_JOURNAL, "operator_action", "action", ACCEPT_LOSS)
    except StorageError:
        return {}  # reading the journal whole will say so
    found: dict[str, int] = {}
    for body in accepted:
        try:
            entry = parse_strict(body)
            journal_id, generation = entry["journal"], entry["generation"]
        except (CanonicalizationError, KeyError, TypeError):
            continue
        if isinstance(journal_id, str) and type(generation) is int:
            found[journal_id] = max(found.get(journal_id, 1), generation)
    return found


class Memories:
    """What is remembered of the journals of one store. ``told`` hears of sinks that cannot be asked."""

    def __init__(
        self, store: Store, store_id: str, sinks: Sequence[Sink], told: Callable[[str, QuarterdeckError], None]
    ) -> None:
        self._store = store
        self._store_id = store_id
        self._sinks = sinks
        self._told = told

    def name(self, journal_id: str) -> str:
        """What a journal is called in notes."""
        return named(journal_id, self._store_id)

    async def own(self, journal_id: str) -> list[Known]:
        """The newest checkpoint beside the journal, if there is one."""
        row = await self._store.checkpoints.newest(journal_id)
        return [] if row is None else [_of_row(row)]

    async def outside(self, generation_of: Mapping[str, int]) -> dict[str, list[Known]]:
        """What the sinks remember of these journals, of their generations and of the next ones."""
        answers = await asyncio.gather(*(self._asked(sink, generation_of) for sink in self._sinks))
        return {name: [known for answer in answers for known in answer.get(name, ())] for name in generation_of}

    async def free_generation(self, journal_id: str, after: int) -> int:
        """The next generation nobody knows anything of."""
        generation = after + 1
        while (await self.outside({journal_id: generation}))[journal_id]:
            generation += 1
        return generation

    async def _asked(self, sink: Sink, generation_of: Mapping[str, int]) -> dict[str, list[Known]]:
        """One that does not answer is told once and not asked further."""
        found: dict[str, list[Known]] = {}
        try:
            async with asyncio.timeout(ASK_ALL_SECONDS):
                for journal_id, generation in generation_of.items():
                    notes = [await self._newest(sink, journal_id, generation + later) for later in (0, 1)]
                    found[journal_id] = [_of_note(note, f"sink {sink.name}") for note in notes if note is not None]
        except QuarterdeckError as error:
            self._told(sink.name, error)
        except TimeoutError:
            self._told(sink.name, Refused("SINK_TROUBLE", f"sink {sink.name} did not answer within {ASK_SECONDS:g} s"))
        return found

    async def _newest(self, sink: Sink, journal_id: str, generation: int) -> Note | None:
        origin = Checkpoint(self.name(journal_id), 0, EMPTY_ROOT, generation).origin
        async with asyncio.timeout(ASK_SECONDS):
            return await sink.newest(origin)


async def look(store: Store, journal_id: str, known: Sequence[Known], *, whole: bool) -> There:
    """What is there, as far as ``known`` (not empty) asks; not ``whole``: a long journal is not hashed."""
    sizes = frozenset(item.size for item in known)
    if whole or max(sizes) <= HASHED_AT_START:
        return await Tree(sizes).read(store, journal_id, _ALL if whole else max(sizes))
    heads: dict[int, str] = {}
    try:
        for size in sizes:
            for entry in await store.journals.read(journal_id, size - 2, 1):
                heads[size] = entry.entry_hash
        head = await store.journals.head(journal_id)
    except StorageError as error:
        return There(0, JOURNAL_GENESIS, unreadable=error.message)
    return There(0, JOURNAL_GENESIS) if head is None else There(head.seq + 1, head.entry_hash, heads=heads)


def lost_members(behind: Behind, generation: int, reason: str) -> dict[str, Any]:
    """The members of the entry that accepts a loss: what is there, what was known, and why one goes on."""
    there, known = behind.there, behind.known
    return {
        "action": ACCEPT_LOSS,
        "actor": "operator",
        "journal": behind.journal_id,
        "generation": generation,
        "size": there.size,
        "head": there.head,
        "root": base64.b64encode(there.root).decode(),
        "known_from": known.source,
        "known_generation": known.generation,
        "known_size": known.size,
        "known_root": base64.b64encode(known.root or b"").decode(),
        "known_note": known.note.decode("utf-8", "replace"),
        "reason": reason,
    }


def _of_row(row: StoredCheckpoint) -> Known:
    """A damaged note leaves length and head hash to compare."""
    try:
        root = read_note(row.note).checkpoint.root
    except JournalError:
        return Known(_OWN, row.size, None, row.generation, row.head_hash, row.note)
    return Known(_OWN, row.size, root, row.generation, row.head_hash, row.note)


def _of_note(note: Note, source: str) -> Known:
    found = note.checkpoint
    return Known(source, found.size, found.root, found.generation, note=note.data)
