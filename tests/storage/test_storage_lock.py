"""One holder: between processes, within one process, and against damaged lock files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import SequenceIds, SystemIds
from runtime.storage.layout import StateDir
from runtime.storage.lock import StoreLock, is_held, read_holder, this_process

ROOT = Path(__file__).resolve().parents[2]

HOLD = """
import sys
from pathlib import Path
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SystemIds
from runtime.storage.layout import StateDir
from runtime.storage.lock import StoreLock, this_process
state = StateDir(Path(sys.argv[1]))
lock = StoreLock(state.lock, this_process(state, ManualClock(), SystemIds()))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def make(state: StateDir) -> StoreLock:
    return StoreLock(state.lock, this_process(state, ManualClock(), SystemIds()))


@contextmanager
def other_process(state: StateDir) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


@pytest.fixture(autouse=True)
def created(state: StateDir) -> None:
    state.create()


def test_a_second_process_is_refused_by_name_until_the_first_dies(state: StateDir) -> None:
    with other_process(state) as child:
        mine = make(state)
        with pytest.raises(StorageError) as caught:
            mine.acquire()
        assert caught.value.code == "STORE_LOCKED"
        assert f"process {child.pid} on " in caught.value.message
        assert "since 2026-01-01T00:00:00.000000Z" in caught.value.message
        assert not mine.held
        assert is_held(state.lock)
    assert not is_held(state.lock)  # killed: the kernel let go
    mine.acquire()
    mine.release()


def test_a_second_lock_in_the_same_process_is_refused(state: StateDir) -> None:
    first, second = make(state), make(state)
    first.acquire()
    with pytest.raises(StorageError, match="STORE_LOCKED"):
        second.acquire()
    with pytest.raises(StorageError, match="already holds"):
        first.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()


def test_the_content_names_this_process_and_goes_on_release(state: StateDir) -> None:
    lock = StoreLock(state.lock, this_process(state, ManualClock(), SequenceIds()))
    lock.acquire()
    holder = lock.read_holder()
    assert holder is not None
    assert (holder.pid, holder.socket) == (os.getpid(), str(state.socket))
    assert holder.nonce.endswith("0001")
    assert holder.boot_id
    assert float(holder.process_start) > 0
    lock.release()
    assert lock.read_holder() is None


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\x00" * 10, b"[" * 20_000, b"null"])
def test_garbage_left_behind_neither_locks_nor_crashes(state: StateDir, garbage: bytes) -> None:
    state.lock.write_bytes(garbage)
    assert read_holder(state.lock) is None
    assert not is_held(state.lock)
    lock = make(state)
    lock.acquire()
    assert read_holder(state.lock) is not None
    lock.release()


def test_a_linked_lock_file_is_refused(state: StateDir, tmp_path: Path) -> None:
    state.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError) as caught:
        make(state).acquire()
    assert caught.value.code == "STORE_SYMLINK"
    assert not (tmp_path / "elsewhere").exists()


def test_racing_probers_never_keep_the_owner_out(state: StateDir) -> None:
    """A liveness probe takes a shared lock; an owner-to-be must not take it for a holder."""
    state.lock.touch()
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            is_held(state.lock)

    threads = [threading.Thread(target=probe) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            lock = make(state)
            lock.acquire()
            lock.release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
