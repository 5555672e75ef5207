"""Archives on disk: read whole, judged by the static gate, and only then looked into."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.audit.builder import judge
from runtime.audit.gate.limits import MAX_ARCHIVE_BYTES
from runtime.kernel.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that passed the static gate: its members, and the SHA-256 of all of it as 64 hex digits."""

    files: Mapping[str, bytes]
    sha256: str
    size: int


def read_archive(path: Path) -> Archive:
    """The archive at ``path``. Blocking, about a second.

    Raises `Refused`: ``BUNDLE_IO`` when it cannot be read, ``BUNDLE_REFUSED`` when the gate finds something.
    """
    data = _read(path)
    return Archive(files=judge(data), sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def _read(path: Path) -> bytes:
    """Up to one byte more than an archive may have, which the gate then refuses."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refused("BUNDLE_IO", "not a regular file", where=str(path))
            return file.read(MAX_ARCHIVE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused("BUNDLE_IO", f"cannot be read: {reason}", where=str(path)) from None
