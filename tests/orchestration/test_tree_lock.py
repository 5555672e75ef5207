"""One work tree, one writer (operations spec §10.4, rulings R33, R36)."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Refused
from runtime.kernel.ids import SystemIds
from runtime.orchestration import tree_lock
from runtime.orchestration.tree_lock import LockHeld, LockMode, LockOwner, TreeLock, tree_key

RECIPE = "sha256:" + "0" * 64


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "locks").mkdir()
    (tmp_path / "tree").mkdir()
    return tmp_path / "locks", tmp_path / "tree"


def lock_of(places: tuple[Path, Path]) -> TreeLock:
    return TreeLock(*places, clock=ManualClock(), ids=SystemIds())


def owner(name: str = "run-a") -> LockOwner:
    return LockOwner(run_id=RECIPE, run_id_audit=name, mission_type="m")


def abandoned(places: tuple[Path, Path], mode: LockMode = LockMode.EXCLUSIVE) -> bytes:
    """Leave the file a dead holder leaves: content, but no kernel lock."""
    dead = lock_of(places)
    dead.acquire(mode, owner("dead"))
    data = dead.path.read_bytes()
    dead.release()
    dead.path.write_bytes(data)
    return data


def test_the_file_tells_who_holds_and_goes_with_the_release(places: tuple[Path, Path]) -> None:
    lock = lock_of(places)
    assert lock.acquire(LockMode.EXCLUSIVE, owner()) is None
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    record = parse_strict(lock.path.read_bytes())
    assert (record["run_id_audit"], record["pid"], record["mode"]) == ("run-a", os.getpid(), "exclusive")
    assert record["started_at"] == "2026-01-01T00:00:00.000000Z"
    lock.check()
    lock.release()
    lock.release()
    assert list(places[0].iterdir()) == []
    assert not lock.held


def test_a_second_start_is_told_who_is_in_the_way(places: tuple[Path, Path]) -> None:
    first, second = lock_of(places), lock_of(places)
    first.acquire(LockMode.EXCLUSIVE, owner())
    before = first.path.read_bytes()
    for mode in LockMode:
        with pytest.raises(LockHeld) as caught:
            second.acquire(mode, owner("run-b"))
        assert caught.value.code == "LOCK_HELD"
        assert "run-a" in caught.value.message
        assert caught.value.holder["pid"] == os.getpid()
    second.release()
    assert first.path.read_bytes() == before
    with pytest.raises(LockHeld):
        first.acquire(LockMode.EXCLUSIVE, owner())
    first.check()


def test_the_key_is_the_tree_and_not_the_path(places: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(places[1])
    assert tree_key(tmp_path / "alias") == tree_key(places[1])
    with pytest.raises(Refused, match="ROOT_MISSING"):
        tree_key(tmp_path / "nowhere")


def test_readers_share_and_keep_writers_out(places: tuple[Path, Path]) -> None:
    first, second, writer = lock_of(places), lock_of(places), lock_of(places)
    first.acquire(LockMode.SHARED, owner())
    second.acquire(LockMode.SHARED, owner("run-b"))
    with pytest.raises(LockHeld):
        writer.acquire(LockMode.EXCLUSIVE, owner("run-c"))
    first.release()
    second.check()
    with pytest.raises(LockHeld):
        writer.acquire(LockMode.EXCLUSIVE, owner("run-c"))
    second.release()
    assert list(places[0].iterdir()) == []
    assert writer.acquire(LockMode.EXCLUSIVE, owner("run-c")) is None


def test_what_a_dead_writer_left_is_reported_and_replaced_only_when_claimed(places: tuple[Path, Path]) -> None:
    data = abandoned(places)
    lock = lock_of(places)
    stale = lock.acquire(LockMode.EXCLUSIVE, owner())
    assert stale is not None
    assert stale["run_id_audit"] == "dead"
    assert lock.path.read_bytes() == data
    lock.release()
    assert lock.path.read_bytes() == data  # recovery did not happen, so the record stays
    lock.acquire(LockMode.EXCLUSIVE, owner())
    lock.claim(owner())
    lock.check()
    assert parse_strict(lock.path.read_bytes())["run_id_audit"] == "run-a"
    with pytest.raises(LockHeld):
        lock_of(places).acquire(LockMode.SHARED, owner("run-b"))
    lock.release()
    assert list(places[0].iterdir()) == []


def test_a_reader_sees_a_dead_writer_too_but_leaves_its_record(places: tuple[Path, Path]) -> None:
    data = abandoned(places)
    lock = lock_of(places)
    assert lock.acquire(LockMode.SHARED, owner()) is not None
    lock.claim(owner())
    lock.release()
    assert lock.path.read_bytes() == data


def test_a_dead_reader_needs_no_repair(places: tuple[Path, Path]) -> None:
    abandoned(places, LockMode.SHARED)
    lock = lock_of(places)
    assert lock.acquire(LockMode.EXCLUSIVE, owner()) is None
    lock.check()
    assert parse_strict(lock.path.read_bytes())["run_id_audit"] == "run-a"


def test_a_file_released_between_looking_and_locking_is_not_mistaken_for_ours(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, lock = lock_of(places), lock_of(places)
    holder.acquire(LockMode.EXCLUSIVE, owner("run-b"))
    real = tree_lock._flock

    def late(descriptor: int, mode: LockMode) -> bool:
        monkeypatch.setattr(tree_lock, "_flock", real)
        holder.release()
        return real(descriptor, mode)

    monkeypatch.setattr(tree_lock, "_flock", late)
    assert lock.acquire(LockMode.EXCLUSIVE, owner()) is None
    lock.check()
    assert parse_strict(lock.path.read_bytes())["run_id_audit"] == "run-a"


def test_a_link_or_folder_in_place_of_the_file_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    lock = lock_of(places)
    lock.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="LOCK_IO"):
        lock.acquire(LockMode.EXCLUSIVE, owner())
    assert not (tmp_path / "elsewhere").exists()
    lock.path.unlink()
    lock.path.mkdir()
    with pytest.raises(Refused, match="LOCK_IO"):
        lock.acquire(LockMode.EXCLUSIVE, owner())


def _rounds(folder: str, root: str, wins: Any) -> None:
    """Take and give back, counting only rounds in which nobody else was inside."""
    marker = Path(root) / "inside"
    for _ in range(200):
        lock = lock_of((Path(folder), Path(root)))
        try:
            lock.acquire(LockMode.EXCLUSIVE, owner())
        except LockHeld:
            continue
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL)
        os.close(descriptor)
        lock.check()
        marker.unlink()
        lock.release()
        wins.value += 1


def test_processes_never_meet_inside(places: tuple[Path, Path]) -> None:
    context = multiprocessing.get_context("spawn")
    wins = [context.Value("i", 0) for _ in range(2)]
    racers = [context.Process(target=_rounds, args=(str(places[0]), str(places[1]), count)) for count in wins]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert all(count.value > 0 for count in wins)
    assert list(places[0].iterdir()) == []


_DIE = """
import os, sys
from pathlib import Path
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SystemIds
from runtime.orchestration.tree_lock import LockMode, LockOwner, TreeLock
lock = TreeLock(Path(sys.argv[1]), Path(sys.argv[2]), clock=ManualClock(), ids=SystemIds())
lock.acquire(LockMode.EXCLUSIVE, LockOwner(run_id="r", run_id_audit="killed", mission_type="m"))
os._exit(9)
"""


def test_a_killed_process_leaves_a_stale_record(places: tuple[Path, Path]) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", _DIE, str(places[0]), str(places[1])], cwd=root, check=False)
    assert done.returncode == 9
    stale = lock_of(places).acquire(LockMode.EXCLUSIVE, owner())
    assert stale is not None
    assert stale["run_id_audit"] == "killed"
