"""Does the project's own list of governed files still describe what is there? (operations spec §9.5)

Checked only where the project keeps such a list (relaxation 2). Nothing here writes: the list is the operator's.
Blocking; call it in a worker thread.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.ids import KILL_SWITCH_FILE

BASELINE_PATH: Final = "config/governance_baseline.txt"
NO_BASELINE: Final = "none"
#: 64 hex digits, two spaces, a path (operations spec §12.2).
_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S(?:.*\S)?)\Z")
_MAX_BYTES: Final = 1024 * 1024
_SHOWN: Final = 5


def check_baseline(
    root: Path,
    is_protected: Callable[[str], bool],
    *,
    runtime_files: Collection[str] = (KILL_SWITCH_FILE,),
    since: str | None = None,
) -> str:
    """The digest of the list when everything agrees with it, or ``none`` when the project keeps no list.

    ``since`` is what this returned when the run started: the list must still be that one, and where there was none
    there is nothing to check. Raises `Refused`: ``BASELINE_FORMAT``, ``BASELINE_MISMATCH``, ``BASELINE_MISSING``.
    """
    file = root / BASELINE_PATH
    if since == NO_BASELINE:
        return NO_BASELINE
    if not os.path.lexists(file):
        if since is not None:
            raise Refused("BASELINE_MISSING", "the list the run started with is gone", where=BASELINE_PATH)
        return NO_BASELINE
    data = _content(file)
    if since not in (None, digest_bytes(data)):
        raise Refused("BASELINE_MISMATCH", "the list is not the one the run started with", where=BASELINE_PATH)
    listed = _parsed(data)
    wrong = [f"{path} is not as listed" for path, expected in listed.items() if _hash_of(root / path) != expected]
    ours = {BASELINE_PATH, *runtime_files}
    surplus = [f"{path} is not listed" for path in _files(root, ours) if path not in listed and is_protected(path)]
    if wrong or surplus:
        found = sorted([*wrong, *surplus])
        raise Refused(
            "BASELINE_MISMATCH",
            f"{len(found)} governed files differ from the baseline: {'; '.join(found[:_SHOWN])}",
            where=BASELINE_PATH,
            hint="restore the files, or have the operator renew the list",
        )
    return digest_bytes(data)


def _content(file: Path) -> bytes:
    try:
        data = file.read_bytes() if file.is_file() and not file.is_symlink() else None
    except OSError as error:
        raise Refused("BASELINE_FORMAT", f"cannot be read: {error.strerror}", where=BASELINE_PATH) from error
    if data is None or len(data) > _MAX_BYTES:
        raise Refused("BASELINE_FORMAT", "must be a regular file of at most 1 MiB", where=BASELINE_PATH)
    return data


def _parsed(data: bytes) -> dict[str, str]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Refused("BASELINE_FORMAT", "is not UTF-8", where=BASELINE_PATH) from None
    if lines.pop() != "" or not lines:
        raise Refused("BASELINE_FORMAT", "must hold lines, the last one ended by a line feed", where=BASELINE_PATH)
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.match(line)
        path = match.group(2) if match else ""
        outside = path.startswith("/") or ".." in path.split("/")
        if match is None or outside or path in listed:
            raise Refused(
                "BASELINE_FORMAT", "expected 64 hex digits, two spaces, one new path", where=f"{BASELINE_PATH}:{number}"
            )
        listed[path] = match.group(1)
    return listed


def _hash_of(file: Path) -> str | None:
    """The hash of a regular file; None for everything else, unreadable included, which never equals a listed one."""
    if file.is_symlink() or not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _files(root: Path, ours: Collection[str]) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(folder, name).relative_to(root).as_posix()
            if path not in ours and name != ".git":
                yield path
