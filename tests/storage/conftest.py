"""A fresh state folder, a store in it, and the few builders every storage test needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from runtime.events.facts import RunSummary
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SequenceIds
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import StoredEntry
from runtime.storage.layout import StateDir
from runtime.storage.runs import RunRecord
from runtime.storage.store import Store


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state", tmp_path / "sockets")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(state: StateDir, clock: ManualClock) -> AsyncIterator[Store]:
    opened = await Store.open(state, clock, SequenceIds())
    yield opened
    await opened.close()


@pytest.fixture
def entry() -> Callable[..., StoredEntry]:
    def build(seq: int, kind: str = "step_started", body: bytes = b"{}") -> StoredEntry:
        return StoredEntry(seq, kind, f"2026-01-01T00:00:{seq % 60:02d}.000000Z", f"p{seq}", f"h{seq}", body)

    return build


@pytest.fixture
def run() -> Callable[..., RunRecord]:
    def build(number: int, *, epoch: int = 1, status: RunStatus = RunStatus.RUNNING, **more: object) -> RunRecord:
        values: dict[str, object] = {
            "run_id": f"{number:08x}-0000-4000-8000-000000000000",
            "session_id": "s",
            "lineage_id": "l",
            "mission": "hello",
            "mission_version": "1",
            "mission_path": "/m/mission.yaml",
            "status": status,
            "created_at": f"2026-01-01T00:00:00.{number:06d}Z",
        }
        return RunRecord(summary=RunSummary(**(values | more)), epoch=epoch)  # type: ignore[arg-type]

    return build


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A 12 MiB file system of its own; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or _mount("-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs", str(folder)) != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def make_read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only, for root by a bind mount."""
    made: list[Path] = []

    def apply(folder: Path) -> None:
        if os.geteuid() != 0:
            folder.chmod(0o500)
        elif _mount("--bind", str(folder), str(folder)) != 0:
            pytest.skip("root needs mount to make a folder read-only")
        else:
            assert _mount("-o", "remount,bind,ro", str(folder)) == 0
        made.append(folder)

    yield apply
    for folder in made:
        if os.geteuid() != 0:
            folder.chmod(0o700)
        else:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode
