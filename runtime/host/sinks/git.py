"""Checkpoints in a git repository: a chain of commits under one ref, which can be pushed where nobody rewrites it.

Work tree and index are never touched and no hook or configuration of the repository is obeyed. Pushing is left to the
operator: it needs credentials that Quarterdeck should not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from runtime.host.programs import asked
from runtime.host.sinks.port import Continues, Offer, goes_on
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ports import ProcessRunner
from runtime.orchestration import git_config
from runtime.orchestration.checkpoints import Note, read_note
from runtime.orchestration.git import find_git, git_folders

_SECONDS: Final = 10.0


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
        # The old value, empty for none, makes it a comparison: whoever was faster is not overwritten.
        await self._git("update-ref", "--no-deref", self._ref, commit, head)

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
        program = find_git()
        if program is None:
            raise Refused("SINK_TROUBLE", "git is not installed")
        folder = _git_dir(self._repository)
        # Named outright, or git would take a repository that happens to lie above.
        command = (program, f"--git-dir={folder}", *git_config.options(git_config.OUR_SETTINGS, ()), *arguments)
        env = {**git_config.environment(self._repository), "GIT_NO_REPLACE_OBJECTS": "1"}
        return await asked(self._runner, command, text, folder=folder, family="SINK", seconds=_SECONDS, env=env)


def _git_dir(repository: Path) -> Path:
    """Where a repository keeps its data; itself when it is bare."""
    folders = git_folders(repository)
    if folders is not None:
        return folders.own
    if (repository / "HEAD").is_file() and (repository / "objects").is_dir():
        return repository
    raise Refused("SINK_TROUBLE", f"{repository} is no git repository", hint="name its top folder; is it mounted?")
