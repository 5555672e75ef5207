"""Dying by SIGKILL at a named point of one operation, with everything a restart needs on disk.

Run as ``python -m tests.support.crash_points FOLDER``: one child per point is forked from a small process, works below
``FOLDER/<point>`` and kills itself where its point says. The points are those of operations spec §10.6.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from runtime.governance import path_ticket
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SystemIds
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.git import Git
from runtime.orchestration.journal_format import stored_lines
from runtime.orchestration.journal_store import JsonlJournalStore
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.operations import OperationExecutor
from runtime.orchestration.preparation import Preparation
from runtime.orchestration.run_controller import LockMode, LockOwner, TreeLock
from runtime.orchestration.undo import Undo
from tests.support.journals import JOURNAL_ID, RECIPE, opened
from tests.support.operation_rig import Rig
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import repository, sh

POINTS: Final = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9")
OWNER: Final = LockOwner(run_id=RECIPE, run_id_audit=JOURNAL_ID, mission_type="m")


class DiskArtifacts:
    """One file per body."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def put(self, data: bytes) -> str:
        name = digest_bytes(data)
        (self._folder / name).write_bytes(data)
        return name

    async def get(self, digest: str) -> bytes | None:
        path = self._folder / digest
        return path.read_bytes() if path.exists() else None

    async def flush(self) -> None:
        """A kill loses nothing the system was given."""


class DurableRig(Rig):
    """A rig whose journal, bodies and lock outlive it; ``place`` holds them beside the work tree."""

    def __init__(self, place: Path) -> None:
        self.place = place
        tree = place / "tree"
        git = Git(tree, PlainRunner()) if tree.exists() else repository(tree)
        super().__init__(tree, git=git)
        self.disk = JsonlJournalStore(place / "journal.jsonl")
        self.disk.set_torn_tail_aside()
        past = tuple(stored_lines(self.disk.read()))
        if past:
            self.journal = MissionJournal.resume(self.disk, past, ManualClock())
        else:
            self.journal = MissionJournal(self.disk, journal_id=JOURNAL_ID, clock=ManualClock())
            opened(self.journal)
        self.artifacts = DiskArtifacts(place / "artifacts")
        self.ctx = self.with_context(journal=self.journal)
        (place / "locks").mkdir(exist_ok=True)
        self.lock = TreeLock(place / "locks", tree, clock=ManualClock(), ids=SystemIds())
        self.build()

    @property
    def stored(self) -> tuple[StoredEntry, ...]:
        return tuple(stored_lines(self.disk.read()))


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


async def _die(*_: Any, **__: Any) -> Any:
    die()


def _after(real: Callable[..., Any]) -> Callable[..., Any]:
    def done(*args: Any, **options: Any) -> Any:
        real(*args, **options)
        die()

    return done


def _half_a_receipt(store: JsonlJournalStore, entry: StoredEntry) -> Any:
    if entry.kind == "receipt":
        os.write(store._descriptor, entry.body[: len(entry.body) // 2])
        die()
    return _APPEND(store, entry)


_APPEND: Final = JsonlJournalStore.append


def arm(point: str) -> None:
    """Make this process die when it comes to ``point``."""
    match point:
        case "C0":
            Preparation.announce = die  # type: ignore[method-assign]
        case "C1":
            OperationExecutor._run = _die  # type: ignore[method-assign]
        case "C2":
            path_ticket.rename_within = die
        case "C3":
            path_ticket.rename_within = _after(path_ticket.rename_within)
        case "C4":
            OperationExecutor._write_receipt = _die  # type: ignore[method-assign]
        case "C5":
            JsonlJournalStore.append = _half_a_receipt  # type: ignore[method-assign]
        case "C6":
            OperationExecutor._undo_failure = _die  # type: ignore[method-assign]
        case "C7":
            Undo._try = _die  # type: ignore[method-assign]
        case "C8":
            OperationExecutor._finish = _die  # type: ignore[method-assign]
        case "C9":
            TreeLock.release = die  # type: ignore[method-assign]


async def work(rig: DurableRig, point: str) -> None:
    """The operation of a point, and what follows it."""
    result = await rig.do("tool_invoke", params_of(point))
    assert result.ok, result
    if point == "C7" and not result.replayed:
        (receipt,) = rig.journal.operations.successful_writes()
        await rig.executor.compensate(receipt)


def params_of(point: str) -> dict[str, Any]:
    """What is done at a point: a commit at C8, else a write."""
    if point == "C8":
        return {"tool": "git.commit", "message": "ours"}
    return {"tool": "filesystem.write_file", "path": "a.txt", "content": "two\n"}


def _live(place: Path, point: str) -> None:
    place.mkdir(parents=True)
    rig = DurableRig(place)
    if point == "C8":
        (rig.root / "a.txt").write_text("two\n")
        sh(rig.root, "add", "a.txt")
    rig.lock.acquire(LockMode.EXCLUSIVE, OWNER)
    arm(point)
    asyncio.run(work(rig, point))
    if point == "C9":
        rig.journal.close("completed", result_commit=None)
    rig.lock.release()


def main(folder: Path) -> int:
    """Returns how many children did not die by SIGKILL."""
    survivors = 0
    for point in POINTS:
        child = os.fork()
        if child == 0:
            try:
                _live(folder / point, point)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        survivors += os.WTERMSIG(status) != signal.SIGKILL if os.WIFSIGNALED(status) else 1
    return survivors


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
