"""Checkpoints as records of an anchor log (operations spec §7.4): one file for all journals, each record with an HMAC.

Anchors name entries, not roots. Whether a longer journal continues what was anchored is therefore checked here only
against what this process has anchored itself; beyond that verification compares the log with the journal's entries.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

from runtime.host.signing import read_private
from runtime.host.sinks.appending import Appending, appending, content
from runtime.host.sinks.hand import Hand
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import Refused
from runtime.orchestration.anchors import GENESIS, AnchorChain, ReadAnchors, read_anchors
from runtime.orchestration.checkpoints import Note

KEY_BYTES: Final = 32
_CHANGING: Final = "begin a new log with a new key"
_AGAIN: Final = (
    "restore it from a backup, or begin a new log with a new key: head -c 32 /dev/urandom > FILE; chmod 600 FILE"
)


class AnchorLogSink:
    """Gives no note back; verification reads the log itself (`evidence`)."""

    def __init__(self, log: Path, key: Path) -> None:
        self.name = f"anchors {log}"
        self._log = log
        self._key = key
        self._hand = Hand(self.name)
        self._told: dict[str, Note] = {}
        #: What was read, whole and good, as long as nobody else writes: all of it again for each record takes 25 µs a record.
        self._known: tuple[object, dict[str, list[tuple[int, str]]], int, str] | None = None

    async def offer(self, offer: Offer, continues: Continues) -> None:
        journal_id = offer.note.checkpoint.journal_id
        if await goes_on(self.name, self._told.get(journal_id), offer.note, continues):
            await self._hand.do(lambda: self._take(offer))
            self._told[journal_id] = offer.note

    async def newest(self, origin: str) -> Note | None:
        """None, after a look whether there is a log to write."""
        await self._hand.do(self._secret)
        return None

    async def evidence(self) -> tuple[bytes, bytes]:
        """The whole log, and the key it is checked with. Raises `Refused` ``SINK_TROUBLE``, ``KEY_*``."""
        return await self._hand.do(lambda: (content(self._log), self._secret()))

    async def anchored(self, journal_id: str) -> int | None:
        """How many entries of a journal the newest anchor covers; None when there is none. Raises like `evidence`."""
        data, key = await self.evidence()
        read = await self._hand.do(lambda: self._good(read_anchors(data[: data.rfind(b"\n") + 1], key)))
        return max((record["seq"] + 1 for record in read.of(journal_id)), default=None)

    def _secret(self) -> bytes:
        if not self._log.parent.is_dir():
            raise Refused("SINK_TROUBLE", f"{self._log.parent} is no folder; is it mounted?")
        key = read_private(self._key, changing=_CHANGING, again=_AGAIN)
        if len(key) != KEY_BYTES:
            message = f"an anchor key has {KEY_BYTES} bytes, this file {len(key)}"
            raise Refused("KEY_DAMAGED", message, where=str(self._key), hint=_AGAIN)
        return key

    def _good(self, read: ReadAnchors) -> ReadAnchors:
        if read.problems:
            first = read.problems[0]
            raise Refused("SINK_TROUBLE", f"{self._log} record {first.n}: {first.code} {first.detail}")
        return read

    def _take(self, offer: Offer) -> None:
        key = self._secret()
        with appending(self._log) as file:
            places, n, head = self._state(file, key)
            checkpoint = offer.note.checkpoint
            place = (checkpoint.size - 1, offer.head)
            before = places.setdefault(checkpoint.journal_id, [])
            if not _is_news(self._log, before, place, checkpoint.generation):
                return
            chain = AnchorChain(key, n, head)
            line = chain.next(
                journal_id=checkpoint.journal_id,
                run_id=offer.recipe,
                seq=place[0],
                entry_hash=offer.head,
                at=offer.at,
                final=offer.final,
            )
            self._known = None
            file.append(line)
            before.append(place)
            self._known = (file.mark, places, chain.n, chain.head)

    def _state(self, file: Appending, key: bytes) -> tuple[dict[str, list[tuple[int, str]]], int, str]:
        """Where each journal is anchored, number and head of the records; what a crash left of the last is set aside."""
        if self._known is not None and self._known[0] == file.mark:
            return self._known[1:]
        data = file.content()
        torn = data[data.rfind(b"\n") + 1 :]
        read = self._good(read_anchors(data[: len(data) - len(torn)], key))
        if torn:
            file.cut(torn)
        places: dict[str, list[tuple[int, str]]] = {}
        for record in read.records:
            places.setdefault(record["journal_id"], []).append((record["seq"], record["entry_hash"]))
        return places, len(read.records), read.head if read.records else GENESIS


def _is_news(log: Path, before: list[tuple[int, str]], place: tuple[int, str], generation: int) -> bool:
    """Does ``place`` follow what is anchored of its journal already? Only a later generation may begin again below it.

    Anchors tell no generation, but every one that began below another shows as a step back.
    """
    if not before or before[-1][0] < place[0]:
        return True
    if before[-1] == place:
        return False
    steps = sum(later[0] <= earlier[0] for earlier, later in pairwise(before))
    if generation - 1 > steps:
        return True
    raise Refused("SINK_BACKWARDS", f"{log} names entry {before[-1][0]} already, and {place[0]} does not follow it")
