"""Checkpoints in a folder on another mount or of another account: one file of notes per journal, only appended to."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final

from runtime.host.sinks.hand import Hand
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import JournalError, Refused
from runtime.orchestration.checkpoints import Note, read_note

#: Anybody may read a witness; it tells nothing but sizes and hashes.
_MODE: Final = 0o644
_MAX_BYTES: Final = 64 * 1024 * 1024
#: Between notes, and after the last.
_BLANK: Final = b"\n"


class FileSink:
    """``folder`` must exist: one that is missing is a mount that is not there."""

    def __init__(self, folder: Path) -> None:
        self.name = f"file {folder}"
        self._folder = folder
        self._hand = Hand(self.name)

    async def offer(self, offer: Offer, continues: Continues) -> None:
        path = self._path(offer.note.checkpoint.journal_id)
        held = await self._hand.do(lambda: self._newest(path))
        if await goes_on(self.name, held, offer.note, continues):
            await self._hand.do(lambda: self._append(path, held, offer.note))

    async def newest(self, origin: str) -> Note | None:
        journal_id = origin.split("/")[1]
        notes = await self._hand.do(lambda: self._read(self._path(journal_id)))
        return next((note for note in reversed(notes) if note.checkpoint.origin == origin), None)

    def _path(self, journal_id: str) -> Path:
        return self._folder / f"{journal_id}.checkpoints"

    def _newest(self, path: Path) -> Note | None:
        notes = self._read(path)
        return notes[-1] if notes else None

    def _read(self, path: Path) -> list[Note]:
        if not self._folder.is_dir():
            raise Refused("SINK_TROUBLE", f"{self._folder} is no folder; is it mounted?")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        with os.fdopen(descriptor, "rb") as file:
            return self._notes(file.read(_MAX_BYTES), path)

    def _notes(self, data: bytes, path: Path) -> list[Note]:
        """Every whole note; what a crash left of the last one is not there."""
        return [self._note(part, path) for part in _parts(data)[0]]

    def _note(self, part: bytes, path: Path) -> Note:
        try:
            return read_note(part)
        except JournalError as error:
            raise Refused("SINK_TROUBLE", f"{path} holds what is no note: {error.message}") from error

    def _append(self, path: Path, held: Note | None, note: Note) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, _MODE)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refused("SINK_TROUBLE", f"{path} is being written by another process") from None
            data = file.read()
            parts, torn = _parts(data)
            if (self._note(parts[-1], path) if parts else None) != held:
                raise Refused("SINK_TROUBLE", f"{path} was written by another process meanwhile")
            if torn:
                self._set_aside(path, torn)
                os.ftruncate(descriptor, len(data) - len(torn))
            line = note.data + _BLANK
            if os.write(descriptor, line) != len(line):
                raise Refused("SINK_TROUBLE", f"{path} took only a part; is the disk full?")
            os.fsync(descriptor)

    def _set_aside(self, path: Path, torn: bytes) -> None:
        side = path.with_name(f"{path.name}.torn-{hashlib.sha256(torn).hexdigest()[:16]}")
        side.write_bytes(torn)


def _parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The notes of a file, and what follows the last whole one."""
    pieces = data.split(b"\n\n")
    whole = (len(pieces) - 1) // 2 * 2
    parts = [pieces[at] + b"\n\n" + pieces[at + 1] + b"\n" for at in range(0, whole, 2)]
    return parts, data[sum(len(part) + 1 for part in parts) :]
