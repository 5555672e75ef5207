"""Making and judging archives: the door to the builder and to the audit gate, which know nothing of stores."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.audit.canonical_zip import encode
from runtime.host.bundle_format import MAX_TOTAL_BYTES
from runtime.kernel.errors import Refused

_MANIFEST: Final = "manifest.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that passed the static gate: its members, and the SHA-256 of all of it as 64 hex digits."""

    files: Mapping[str, bytes]
    sha256: str
    size: int


def program_files() -> Mapping[str, bytes]:
    """What every bundle carries beside the run. Blocking."""
    return {}


def pack(files: Mapping[str, bytes], run: Mapping[str, bytes]) -> bytes:
    """The archive of both. Raises `Refused` ``BUNDLE_*``."""
    everything = {**files, **run}
    lines = [f"{hashlib.sha256(everything[name]).hexdigest()}  {name}\n" for name in sorted(everything)]
    return encode({**everything, _MANIFEST: "".join(lines).encode()})


def write(target: Path, data: bytes) -> str:
    """Judge ``data`` and write it where nothing is yet; returns its SHA-256. Blocking. Raises `Refused` ``BUNDLE_*``."""
    judge(data)
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise Refused("BUNDLE_EXISTS", "a bundle never replaces a file", where=str(target)) from None
    except OSError as error:
        raise Refused("BUNDLE_IO", f"cannot write: {error.strerror}", where=str(target)) from None
    return hashlib.sha256(data).hexdigest()


def read_archive(path: Path) -> Archive:
    """The archive at ``path``. Blocking. Raises `Refused`: ``BUNDLE_IO`` when it cannot be read, ``BUNDLE_REFUSED`` when the
    gate finds something."""
    data = _read(path)
    return Archive(files=judge(data), sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def judge(data: bytes) -> Mapping[str, bytes]:
    """The members of an archive that passes the static gate, manifest included. Raises `Refused` ``BUNDLE_REFUSED``."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_TOTAL_BYTES:
                raise _refused("it unpacks to more than the limit")
            files = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refused(f"not an archive: {error}") from None
    if encode(files) != data:
        raise _refused("BUNDLE_NOT_CANONICAL")
    manifest = files.pop(_MANIFEST, b"")
    if pack({}, files) != data:
        raise _refused("MANIFEST_HASH")
    return {**files, _MANIFEST: manifest}


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refused("BUNDLE_IO", "not a regular file", where=str(path))
            data = file.read(MAX_TOTAL_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused("BUNDLE_IO", f"cannot be read: {reason}", where=str(path)) from None
    if len(data) > MAX_TOTAL_BYTES:
        raise _refused(f"it is larger than {MAX_TOTAL_BYTES // 1024 // 1024} MiB")
    return data


def _refused(why: str) -> Refused:
    return Refused("BUNDLE_REFUSED", f"the audit gate refuses the bundle: {why}", hint="trust nothing that is in it")
