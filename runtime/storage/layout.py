"""Where the store lives on disk, and whether that place is safe to use.

One folder outside every work tree holds the database, the lock, the control socket and private work copies
(architecture §4.15). It is ours alone: mode 0700, owned by the current user, not reached through a symbolic link.
A folder that is not safe is refused with the command that repairs it; only an empty folder of our own is
tightened silently. Nothing here changes the process's umask: every file is created with its final mode.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import platformdirs

from runtime.kernel.errors import StorageError
from runtime.storage.faults import os_faults

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600
#: Any of these bits lets another account in.
_OTHERS: Final = 0o077
#: ``sun_path`` holds 108 bytes on Linux and 104 on macOS; stay clear of both.
MAX_SOCKET_PATH: Final = 100
#: Given back to a full disk so that the operator can still act (reliability §3.4).
RESERVE_BYTES: Final = 1024 * 1024
#: Opening a write-ahead log on a full disk may end the process with SIGBUS; refuse well before.
MIN_FREE_BYTES: Final = 8 * 1024 * 1024


def default_root(env: Mapping[str, str]) -> Path:
    """``QUARTERDECK_HOME`` if set, else the platform's per-user state folder."""
    home = env.get("QUARTERDECK_HOME", "")
    if home:
        return Path(home).expanduser().absolute()
    return platformdirs.user_state_path("quarterdeck", appauthor=False)


def _default_socket_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"quarterdeck-{os.geteuid()}"


@dataclass(frozen=True, slots=True)
class StateDir:
    """Names of everything in the state folder. Building one touches nothing."""

    root: Path
    socket_dir: Path = field(default_factory=_default_socket_dir)
    """Where the socket goes when the path inside ``root`` would be too long for the kernel."""

    @property
    def db(self) -> Path:
        return self.root / "quarterdeck.db"

    @property
    def wal(self) -> Path:
        return self.root / "quarterdeck.db-wal"

    @property
    def shm(self) -> Path:
        return self.root / "quarterdeck.db-shm"

    @property
    def lock(self) -> Path:
        return self.root / "store.lock"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def latches(self) -> Path:
        return self.root / "latches"

    @property
    def floors(self) -> Path:
        return self.root / "floors"

    @property
    def keys(self) -> Path:
        """Made with the first key."""
        return self.root / "keys"

    @property
    def evidence(self) -> Path:
        """The operator's file about signing and sinks; usually not there."""
        return self.root / "evidence.yaml"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def socket(self) -> Path:
        """The control socket: inside the folder, or a hashed name in ``socket_dir`` when that is too long."""
        inside = self.root / "control.sock"
        if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
            return inside
        name = hashlib.sha256(os.fsencode(self.root.absolute())).hexdigest()[:24]
        return self.socket_dir / f"{name}.sock"

    def create(self) -> None:
        """Make the folder and its parts, or raise `StorageError` saying why it cannot be used."""
        make_private(self.root)
        for part in (self.work, self.latches, self.floors, self.locks):
            make_private(part)
        if self.socket.parent != self.root:
            make_private(self.socket.parent)

    def check(self) -> None:
        """Raise `StorageError` unless the folder exists and is safe. Changes nothing."""
        check_private(self.root)

    def require_free_space(self, need: int = MIN_FREE_BYTES) -> None:
        """Raise ``STORE_FULL`` when less than ``need`` bytes are free."""
        free = self.free_bytes()
        if free < need:
            raise StorageError(
                "STORE_FULL",
                f"only {free // 1024} KiB are free on this disk; at least {need // 1024} KiB are needed",
                where=str(self.root),
                hint="free some disk space, or choose another folder with --store; nothing was changed",
            )

    def free_bytes(self) -> int:
        with os_faults(self.root, "measure free disk space"):
            figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize


def make_private(folder: Path) -> None:
    """Create ``folder`` for this account only; an existing one must be safe already (or empty and ours)."""
    with os_faults(folder, "create the state folder"):
        folder.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    found = _inspect(folder)
    if stat.S_IMODE(found.st_mode) & _OTHERS and _is_empty(folder):
        with os_faults(folder, "make the state folder private"):
            folder.chmod(DIR_MODE)
        return
    _require_closed(folder, found)


def check_private(folder: Path) -> None:
    """Raise `StorageError` unless ``folder`` is a real folder that belongs to this account alone."""
    _require_closed(folder, _inspect(folder))


def _inspect(folder: Path) -> os.stat_result:
    with os_faults(folder, "look at the state folder"):
        found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise StorageError(
            "STORE_SYMLINK",
            "the state folder is a symbolic link",
            where=str(folder),
            hint=f"name the real path: --store {folder.resolve()}",
        )
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(
            "STORE_NOT_FOLDER",
            "a folder is expected here",
            where=str(folder),
            hint="choose a folder with --store or QUARTERDECK_HOME",
        )
    if found.st_uid != os.geteuid():
        raise StorageError(
            "STORE_FOREIGN",
            f"the state folder belongs to user id {found.st_uid}, this process runs as {os.geteuid()}",
            where=str(folder),
            hint="run as its owner, or choose another folder with --store",
        )
    return found


def _require_closed(folder: Path, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        raise StorageError(
            "STORE_TOO_OPEN",
            f"other users can reach the state folder (mode {mode:04o}, expected {DIR_MODE:04o})",
            where=str(folder),
            hint=f"chmod 700 {folder}",
        )


def _is_empty(folder: Path) -> bool:
    with os_faults(folder, "list the state folder"), os.scandir(folder) as entries:
        return next(entries, None) is None


def create_reserve(path: Path) -> None:
    """Set ``RESERVE_BYTES`` of disk aside; does nothing when they already are."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os_faults(path, "set reserve space aside"):
        if path.exists() and path.lstat().st_size == RESERVE_BYTES:
            return
        descriptor = os.open(path, flags, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(RESERVE_BYTES))


def release_reserve(path: Path) -> bool:
    """Give the reserve back to the disk; False when there was none."""
    with os_faults(path, "release reserve space"):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True
