"""Checkpoints in a git repository: a chain of commits under one ref, which can be pushed where nobody rewrites it.

Work tree and index are never touched and no hook or configuration of the repository is obeyed. Pushing is left to the
operator: it needs credentials that Quarterdeck should not have.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from runtime.host.programs import asked
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ports import ProcessRunner
from runtime.orchestration.checkpoints import Note, read_note

_SECONDS: Final = 10.0
_NOBODY: Final = (
    "-c",
    "user.name=Quarterdeck",
    "-c",
    "user.email=quarterdeck@localhost",
    "-c",
    "core.hooksPath=/dev/null",
)
_NO_COMMIT: Final = "0" * 40


class GitSink:
    """One commit per checkpoint under ``ref``; its tree holds the newest note of every journal."""

    def __init__(self, repository: Path, ref: str, runner: ProcessRunner) -> None:
        self.name = f"git {repository} {ref}"
        self._repository = repository
        self._ref = ref
        self._runner = runner

    async def offer(self, offer: Offer, continues: Continues) -> None:
        checkpoint = offer.note.checkpoint
        head = await self._head()
        held = await self._note(head, checkpoint.journal_id)
        if not await goes_on(self.name, held, offer.note, continues):
            return
        blob = await self._git("hash-object", "-w", "--stdin", text=offer.note.data)
        listed = (await self._run("ls-tree", "-z", head)).split(b"\0")[:-1] if head else []
        kept = [line for line in listed if line.partition(b"\t")[2] != checkpoint.journal_id.encode()]
        line = f"100644 blob {blob}\t{checkpoint.journal_id}".encode()
        tree = await self._git("mktree", "-z", text=b"\0".join([*kept, line, b""]))
        message = f"{checkpoint.journal_id}: {checkpoint.size} entries\n\n{checkpoint.words}\n".encode()
        parent = ("-p", head) if head else ()
        commit = await self._git("commit-tree", tree, *parent, text=message)
        # The old value makes it a comparison: whoever was faster is not overwritten.
        await self._git("update-ref", self._ref, commit, head or _NO_COMMIT)

    async def newest(self, origin: str) -> Note | None:
        note = await self._note(await self._head(), origin.split("/")[1])
        return note if note is not None and note.checkpoint.origin == origin else None

    async def _head(self) -> str:
        """The newest commit; empty when there is none yet."""
        return await self._git("for-each-ref", "--format=%(objectname)", "--count=1", self._ref)

    async def _note(self, head: str, journal_id: str) -> Note | None:
        if not head or not await self._git("ls-tree", "--name-only", head, "--", journal_id):
            return None
        try:
            return read_note(await self._run("cat-file", "blob", f"{head}:{journal_id}"))
        except JournalError as error:
            raise Refused("SINK_TROUBLE", f"{self.name} holds what is no note: {error.message}") from error

    async def _git(self, *arguments: str, text: bytes = b"") -> str:
        return (await self._run(*arguments, text=text)).decode("ascii", "replace").strip()

    async def _run(self, *arguments: str, text: bytes = b"") -> bytes:
        program = shutil.which("git")
        if program is None:
            raise Refused("SINK_TROUBLE", "git is not installed")
        command = (program, "-C", str(self._repository), *_NOBODY, *arguments)
        return await asked(self._runner, command, text, folder=self._repository, family="SINK", seconds=_SECONDS)
