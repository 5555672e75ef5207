"""Checkpoints in a folder on another mount or of another account: one file of notes per journal, only appended to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.host.sinks.appending import appending, content
from runtime.host.sinks.hand import Hand
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import JournalError, Refused
from runtime.orchestration.checkpoints import Note, read_note

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
        path = self._path(origin.split("/")[1])
        return await self._hand.do(lambda: next((n for n in self._notes(path) if n.checkpoint.origin == origin), None))

    def _path(self, journal_id: str) -> Path:
        return self._folder / f"{journal_id}.checkpoints"

    def _newest(self, path: Path) -> Note | None:
        return next(self._notes(path), None)

    def _notes(self, path: Path) -> Iterator[Note]:
        """Every whole note, newest first; what a crash left of the last one is not there."""
        if not self._folder.is_dir():
            raise Refused("SINK_TROUBLE", f"{self._folder} is no folder; is it mounted?")
        for part in reversed(_parts(content(path))[0]):
            yield self._note(part, path)

    def _note(self, part: bytes, path: Path) -> Note:
        try:
            return read_note(part)
        except JournalError as error:
            raise Refused("SINK_TROUBLE", f"{path} holds what is no note: {error.message}") from error

    def _append(self, path: Path, held: Note | None, note: Note) -> None:
        with appending(path) as file:
            parts, torn = _parts(file.content())
            if (self._note(parts[-1], path) if parts else None) != held:
                raise Refused("SINK_TROUBLE", f"{path} was written by another process meanwhile")
            if torn:
                file.cut(torn)
            file.append(note.data + _BLANK)


def _parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The notes of a file, and what follows the last whole one."""
    pieces = data.split(b"\n\n")
    whole = (len(pieces) - 1) // 2 * 2
    parts = [pieces[at] + b"\n\n" + pieces[at + 1] + b"\n" for at in range(0, whole, 2)]
    return parts, data[sum(len(part) + 1 for part in parts) :]
