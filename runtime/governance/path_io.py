"""The small moves a path ticket makes inside one held directory, each relative to its descriptor.

Separate from the ticket because none of them decides anything: they read, fill, name and rename. Everything blocks.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from runtime.governance.path_walk import Identity, Place

#: A larger file cannot be snapshotted for undo (§6.1), so its digest is of no use as an expectation.
MAX_DIGEST_BYTES: Final = 64 * 1024 * 1024
#: Temporary files carry this prefix, so that recovery can recognise what a crash left behind.
TEMPORARY_PREFIX: Final = ".quarterdeck-"
_TEMPORARY_TRIES: Final = 64
_CHUNK: Final = 256 * 1024
_CREATE_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_RENAME_NOREPLACE: Final = 1  # linux/fs.h


@contextmanager
def opened(place: Place, flags: int) -> Iterator[int]:
    opened = os.open(place.name, flags, dir_fd=place.parent_fd)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def temporary_file(parent: int, name: str) -> Iterator[tuple[str, int]]:
    """An exclusively created file in ``parent``; gone afterwards unless it was renamed."""
    stem = TEMPORARY_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:16]
    for number in range(_TEMPORARY_TRIES):
        temporary = f"{stem}-{number}.tmp"
        with suppress(FileExistsError):  # another ticket's, or left behind by a crash: take the next name
            file = os.open(temporary, _CREATE_FILE, 0o600, dir_fd=parent)
            break
    else:
        raise OSError(errno.EBUSY, "no free temporary name")
    created = os.fstat(file)
    try:
        yield temporary, file
    finally:
        os.close(file)
        left = identity_at(parent, temporary)
        if left is not None and left.same_object(created):
            os.unlink(temporary, dir_fd=parent)


def fill(file: int, data: bytes, mode: int, before: os.stat_result | None) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    now = os.fstat(file)
    if before is not None and (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        with suppress(PermissionError):  # only a privileged user can give files away; content comes first
            os.fchown(file, before.st_uid, before.st_gid)
    os.fchmod(file, mode)
    os.fsync(file)


def slurp(file: int, keep: int) -> tuple[bytes, str | None]:
    """The first ``keep`` bytes and the digest of all; no digest past the limit."""
    kept, total, sha256 = bytearray(), 0, hashlib.sha256()
    while chunk := os.read(file, _CHUNK):
        kept += chunk[: max(keep - len(kept), 0)]
        sha256.update(chunk)
        total += len(chunk)
        if total > MAX_DIGEST_BYTES and len(kept) >= keep:
            return bytes(kept), None
    return bytes(kept), "sha256:" + sha256.hexdigest() if total <= MAX_DIGEST_BYTES else None


def rename_within(parent: int, source: str, target: str, *, replace: bool) -> None:
    """Rename inside ``parent``. Unless ``replace``, an existing target is refused by the system itself if it can."""
    if not replace and _exclusive_rename(parent, source, target):
        return
    if not replace and identity_at(parent, target) is not None:
        raise FileExistsError(errno.EEXIST, "the target exists")
    os.rename(source, target, src_dir_fd=parent, dst_dir_fd=parent)


def _exclusive_rename(parent: int, source: str, target: str) -> bool:
    """Linux's renameat2; False where the C library or the file system lacks it."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(parent, os.fsencode(source), parent, os.fsencode(target), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):  # EPERM: a system-call filter without it
        return False
    raise OSError(number, "renameat2 failed")


def identity_at(parent: int, name: str) -> Identity | None:
    try:
        return Identity.of(os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return None


def same_thing(one: Identity, other: Identity) -> bool:
    """The same object, apart from what renaming and filling a directory change."""
    return (one.device, one.inode, stat.S_IFMT(one.mode)) == (other.device, other.inode, stat.S_IFMT(other.mode))


def kind_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symlink"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"
