"""What a work tree's protection may never fall below again: one file per tree in the state folder (operations spec §9.2).

Only trees whose project adds patterns have one; the built-in set is in the program and needs no floor. A floor that
cannot be read refuses the start, because nobody can say what it held. Blocking; call it in a worker thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runtime.governance.protected_set import floor_digest
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict
from runtime.kernel.errors import Refused
from runtime.orchestration.tree_lock import tree_key

_SCHEMA: Final = "protected-floor/1"
_FILE_MODE: Final = 0o600


class Floors:
    """``folder`` is the state folder's ``floors/``. A tree is known by what it is, not by its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, root: Path) -> tuple[str, ...]:
        """The patterns kept for ``root``; empty when there are none. Raises `Refused` ``SELFMOD_FLOOR``."""
        path = self._path(root)
        try:
            data = _content(path)
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from error
        if data is None:
            return ()
        try:
            record = parse_strict(data)
            patterns = tuple(record["patterns"])
            whole = record["schema"] == _SCHEMA and record["digest"] == floor_digest(patterns)
        except (CanonicalizationError, KeyError, TypeError) as error:
            raise _unreadable(path, "its content is damaged") from error
        if not whole:
            raise _unreadable(path, "its content is damaged")
        return patterns

    def write(self, root: Path, patterns: Sequence[str]) -> None:
        """Keep ``patterns``, or nothing if that fails. Raises `Refused` ``SELFMOD_FLOOR``."""
        path = self._path(root)
        record = {"schema": _SCHEMA, "patterns": sorted(patterns), "digest": floor_digest(patterns)}
        try:
            _replace(path, canonical_bytes(record))
        except OSError as error:
            raise Refused(
                "SELFMOD_FLOOR", f"the protected set could not be remembered: {error.strerror}", where=str(path)
            ) from error

    def _path(self, root: Path) -> Path:
        return self._folder / f"FLOOR-{tree_key(root)}.json"


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _replace(path: Path, data: bytes) -> None:
    """Under its name there is the old content or the new, whatever happens meanwhile."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unreadable(path: Path, why: str) -> Refused:
    return Refused(
        "SELFMOD_FLOOR",
        f"what earlier runs protected here cannot be read: {why}",
        where=str(path),
        hint="compare config/protected_paths.json with its history, then remove this file",
    )
