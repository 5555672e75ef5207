"""Checkpoints handed to a program of the operator's: a witness service, a hardware log, another machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from runtime.host.programs import asked
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ports import ProcessRunner
from runtime.orchestration.checkpoints import Checkpoint, Note, read_note

_SECONDS: Final = 10.0


class CommandSink:
    """``command`` reads a note and ends with 0 once it is kept. ``ask`` prints the newest note of the origin it gets as its
    last argument, or nothing; without it this sink can only be told, and only the program itself can refuse."""

    def __init__(self, command: tuple[str, ...], ask: tuple[str, ...], runner: ProcessRunner, folder: Path) -> None:
        self.name = f"command {command[0]}"
        self._command = command
        self._ask = ask
        self._runner = runner
        self._folder = folder
        self._told: dict[str, Note] = {}

    async def offer(self, offer: Offer, continues: Continues) -> None:
        journal_id = offer.note.checkpoint.journal_id
        held = await self._held(offer.note.checkpoint)
        if await goes_on(self.name, held, offer.note, continues):
            await self._run(self._command, offer.note.data)
            self._told[journal_id] = offer.note

    async def _held(self, offered: Checkpoint) -> Note | None:
        """The newest it is known to keep. It is asked by origin, so once per process also for the next generation."""
        told = self._told.get(offered.journal_id)
        if not self._ask or (told is not None and told.checkpoint.generation > offered.generation):
            return told
        later = replace(offered, generation=offered.generation + 1).origin
        return (await self.newest(later) if told is None else None) or await self.newest(offered.origin)

    async def newest(self, origin: str) -> Note | None:
        if not self._ask:
            return None
        answer = await self._run((*self._ask, origin), b"")
        if not answer:
            return None
        try:
            note = read_note(answer)
        except JournalError as error:
            raise Refused("SINK_TROUBLE", f"{self._ask[0]} printed no note: {error.message}") from error
        if note.checkpoint.origin != origin:
            raise Refused("SINK_TROUBLE", f"{self._ask[0]} answered for {note.checkpoint.origin}, not {origin}")
        return note

    async def _run(self, command: tuple[str, ...], text: bytes) -> bytes:
        return await asked(self._runner, command, text, folder=self._folder, family="SINK", seconds=_SECONDS)
