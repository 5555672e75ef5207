"""The state folder is ours alone, or it is refused with advice."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.kernel.errors import StorageError
from runtime.storage.faults import from_os
from runtime.storage.layout import (
    MAX_SOCKET_PATH,
    RESERVE_BYTES,
    StateDir,
    create_reserve,
    default_root,
    release_reserve,
)


def refused(code: str, action: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as caught:
        action()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_creates_private_folders_under_any_umask(state: StateDir) -> None:
    before = os.umask(0)
    try:
        state.create()
    finally:
        os.umask(before)
    assert [mode(path) for path in (state.root, state.work, state.latches, state.locks)] == [0o700] * 4
    state.create()
    state.check()


def test_an_empty_open_folder_is_tightened_a_used_one_refused(state: StateDir) -> None:
    state.root.mkdir(mode=0o755)
    state.create()
    assert mode(state.root) == 0o700
    state.root.chmod(0o750)
    error = refused("STORE_TOO_OPEN", state.create)
    assert error.hint == f"chmod 700 {state.root}"
    refused("STORE_TOO_OPEN", state.check)
    assert mode(state.root) == 0o750


def test_refuses_a_symbolic_link(state: StateDir, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    state.root.symlink_to(tmp_path / "real")
    refused("STORE_SYMLINK", state.create)


def test_refuses_a_folder_of_another_user(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    state.create()
    owner = state.root.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    error = refused("STORE_FOREIGN", state.check)
    assert str(owner) in error.message


def test_refuses_a_file_in_place_of_the_folder(state: StateDir) -> None:
    state.root.write_text("x")
    refused("STORE_NOT_FOLDER", state.create)
    refused("STORE_NOT_FOLDER", StateDir(state.root / "below").create)


def test_a_missing_folder_is_not_created_by_looking(state: StateDir) -> None:
    refused("STORE_MISSING", state.check)
    assert not state.root.exists()


def test_an_unwritable_place_is_named(tmp_path: Path, make_read_only: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    make_read_only(home)
    with pytest.raises(StorageError) as caught:
        StateDir(home / "state").create()
    assert caught.value.code in ("STORE_UNWRITABLE", "STORE_READ_ONLY")
    assert "QUARTERDECK_HOME" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EROFS, "STORE_READ_ONLY"),
        (errno.EACCES, "STORE_UNWRITABLE"),
        (errno.ENOSPC, "STORE_FULL"),
        (errno.EDQUOT, "STORE_FULL"),
        (errno.EIO, "STORE_IO"),
    ],
)
def test_system_errors_have_their_own_code_and_advice(number: int, code: str) -> None:
    error = from_os(OSError(number, os.strerror(number)), Path("/s"), "open the store lock")
    assert (error.code, error.where) == (code, "/s")
    assert error.message.startswith("cannot open the store lock: ")
    assert error.hint


def test_a_long_path_moves_the_socket_to_a_short_private_folder(tmp_path: Path) -> None:
    short = Path("/tmp/q-sockets")
    deep = StateDir(tmp_path / ("d" * 100), short)
    assert deep.socket.parent == short
    assert len(os.fsencode(deep.socket)) <= MAX_SOCKET_PATH
    assert deep.socket == StateDir(deep.root, short).socket
    assert deep.socket != StateDir(tmp_path / ("e" * 100), short).socket
    assert StateDir(Path("/s")).socket == Path("/s/control.sock")


def test_the_folder_of_a_long_socket_path_is_created_private(tmp_path: Path) -> None:
    deep = StateDir(tmp_path / ("d" * 100), tmp_path / "sockets")
    deep.create()
    assert mode(tmp_path / "sockets") == 0o700


def test_default_root_prefers_the_variable(tmp_path: Path) -> None:
    assert default_root({"QUARTERDECK_HOME": str(tmp_path)}) == tmp_path
    assert default_root({"QUARTERDECK_HOME": ""}).name == "quarterdeck"
    assert default_root({"QUARTERDECK_HOME": "relative"}).is_absolute()


def test_reserve_is_real_space_and_can_be_given_back(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    create_reserve(path)
    assert path.stat().st_size == RESERVE_BYTES
    assert mode(path) == 0o600
    create_reserve(path)
    assert release_reserve(path) is True
    assert release_reserve(path) is False


def test_too_little_space_is_refused_before_anything_is_opened(state: StateDir) -> None:
    state.create()
    error = refused("STORE_FULL", lambda: state.require_free_space(2**62))
    assert "KiB are free" in error.message
