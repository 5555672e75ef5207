"""Checkpoints as records of an anchor log (operations spec §7.4): one file for all journals, each record with an HMAC."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runtime.host.signing import read_private
from runtime.host.sinks.hand import Hand
from runtime.host.sinks.port import Continues, Offer
from runtime.kernel.errors import Refused
from runtime.orchestration.anchors import AnchorChain, ReadAnchors, read_anchors
from runtime.orchestration.checkpoints import Note

KEY_BYTES: Final = 32
_MODE: Final = 0o644


class AnchorLogSink:
    """Anchors name entries, not roots, so it gives no note back; verification reads the log itself (`evidence`)."""

    def __init__(self, log: Path, key: Path) -> None:
        self.name = f"anchors {log}"
        self._log = log
        self._key = key
        self._hand = Hand(self.name)

    async def offer(self, offer: Offer, continues: Continues) -> None:
        await self._hand.do(lambda: self._append(offer))

    async def newest(self, origin: str) -> Note | None:
        return None

    async def evidence(self) -> tuple[bytes, bytes]:
        """The whole log, and the key it is checked with. Raises `Refused` ``SINK_TROUBLE``, ``KEY_*``."""
        return await self._hand.do(lambda: (self._log.read_bytes() if self._log.exists() else b"", self._secret()))

    def _secret(self) -> bytes:
        key = read_private(self._key)
        if len(key) != KEY_BYTES:
            raise Refused(
                "KEY_DAMAGED", f"an anchor key has {KEY_BYTES} bytes, this file {len(key)}", where=str(self._key)
            )
        return key

    def _append(self, offer: Offer) -> None:
        key = self._secret()
        descriptor = os.open(self._log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refused("SINK_TROUBLE", f"{self._log} is being written by another process") from None
            read = read_anchors(file.read(), key)
            if read.problems:
                first = read.problems[0]
                raise Refused("SINK_TROUBLE", f"{self._log} record {first.n}: {first.code} {first.detail}")
            if not self._is_news(read, offer):
                return
            chain = AnchorChain(key, len(read.records), read.head)
            checkpoint = offer.note.checkpoint
            line = chain.next(
                journal_id=checkpoint.journal_id,
                run_id=offer.recipe,
                seq=checkpoint.size - 1,
                entry_hash=offer.head,
                at=offer.at,
                final=offer.final,
            )
            if os.write(descriptor, line) != len(line):
                raise Refused("SINK_TROUBLE", f"{self._log} took only a part; is the disk full?")
            os.fsync(descriptor)

    def _is_news(self, read: ReadAnchors, offer: Offer) -> bool:
        known: Sequence[Mapping[str, Any]] = tuple(read.of(offer.note.checkpoint.journal_id))
        last = known[-1] if known else None
        seq = offer.note.checkpoint.size - 1
        if last is None or last["seq"] < seq or offer.note.checkpoint.generation > 1:
            return True
        if (last["seq"], last["entry_hash"]) == (seq, offer.head):
            return False
        raise Refused("SINK_BACKWARDS", f"{self._log} names entry {last['seq']} already, and {seq} does not follow it")
