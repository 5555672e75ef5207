"""G9, extraction, and the comparison behind G12: files made one by one, into folders nobody else can have touched.

No library's extract-all: every folder and file is created new, relative to an open folder, and no link is followed.
POSIX only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Final

from runtime.audit.gate.report import Fault
from runtime.kernel.errors import Refused

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
#: Something stood where only we should have been; every other error says nothing about the bundle.
_CLASHES: Final = frozenset({errno.EEXIST, errno.ELOOP, errno.ENOTDIR})
#: Differences looked for: enough to show, and bounded whatever a test leaves behind.
_MAX_DIFFERENCES: Final = 50
_BLOCK: Final = 1024 * 1024


def extract(files: Mapping[str, bytes], root: Path) -> list[Fault]:
    """Write ``files`` below ``root``, a folder that exists and is empty, and look whether they are there.

    Blocking. Raises `Refused` ``EXTRACT_IO`` when the system has no space or forbids it.
    """
    try:
        for name, body in files.items():
            _write(root, name.split("/"), body)
    except OSError as error:
        if error.errno in _CLASHES:
            return [Fault("EXTRACT_CLASH", name, "something stood there already")]
        raise Refused("EXTRACT_IO", os.strerror(error.errno or 0), where=name) from error
    return [Fault("EXTRACT_DIFFERS", where, text) for where, text in differences(root, files)]


def _write(root: Path, parts: list[str], body: bytes) -> None:
    with contextlib.ExitStack() as opened:
        folder = _open(opened, root, None, _FOLDER_FLAGS)
        for part in parts[:-1]:
            # One that is there was made by us: the root was empty, and the last look follows no link.
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, _FOLDER_MODE, dir_fd=folder)
            folder = _open(opened, part, folder, _FOLDER_FLAGS)
            os.fchmod(folder, _FOLDER_MODE)
        file = _open(opened, parts[-1], folder, _NEW_FLAGS)
        view = memoryview(body)
        while view:
            view = view[os.write(file, view) :]
        os.fchmod(file, _FILE_MODE)


def _open(opened: contextlib.ExitStack, path: str | Path, folder: int | None, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600, dir_fd=folder)
    opened.callback(os.close, descriptor)
    return descriptor


def differences(root: Path, files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Archive name and sentence of what on disk is not ``files``, read again from disk; at most `_MAX_DIFFERENCES`."""
    try:
        return _differences(root, files)
    except OSError as error:
        return [("", f"what was written cannot be read again: {os.strerror(error.errno or 0)}")]


def _differences(root: Path, files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    folders = {name[:at] for name in files for at, char in enumerate(name) if char == "/"}
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, entry in _below(root, folders):
        if len(found) >= _MAX_DIFFERENCES:
            return found
        seen.add(name)
        text = _trouble(entry, name, folders, files)
        if text:
            found.append((name, text))
    found += [(name, "is gone") for name in sorted((files.keys() | folders) - seen)]
    return found[:_MAX_DIFFERENCES]


def _trouble(entry: os.DirEntry[str], name: str, folders: Container[str], files: Mapping[str, bytes]) -> str | None:
    if name in folders:
        return None if entry.is_dir(follow_symlinks=False) else "is no folder any more"
    if name not in files:
        return "was not in the bundle"
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        return "is no ordinary file"
    if stat.S_IMODE(status.st_mode) != _FILE_MODE:
        return "has another mode"
    same = status.st_size == len(files[name]) and _digest(entry.path) == hashlib.sha256(files[name]).digest()
    return None if same else "has another content"


def _below(root: Path, folders: Container[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What lies in ``root`` and in its ``folders``; links are not followed, and what lies in other folders is no news."""
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(root / above) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = f"{above}/{entry.name}" if above else entry.name
            yield name, entry
            if name in folders and entry.is_dir(follow_symlinks=False):
                waiting.append(name)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    descriptor = os.open(path, _READ_FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
