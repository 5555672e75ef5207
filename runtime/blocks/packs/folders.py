"""Packs as folders: what stands in one, its digest, its manifest. Nothing here runs a pack's code (ruling R43).

A folder is read once. Digest, manifest and sources come from the same bytes, so that what is run is what was trusted,
whoever changes the folder meanwhile. Caches of Python and of an author's tools are neither digested nor read: a pack
runs from its sources only, and running its tests does not make it another one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.blocks.packs.manifest import MAX_MANIFEST, PackError, PackManifest, decode_manifest
from runtime.blocks.packs.members import written

MANIFEST_FILE: Final = "pack.bin"
CACHES: Final = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"})
#: Bounds of one pack: files and folders, bytes in all.
MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 256 * 1024 * 1024
#: A manifest and its frame's header.
MAX_MANIFEST_FILE: Final = MAX_MANIFEST + 16
_CHUNK: Final = 1024 * 1024
_SIZES: Final = struct.Struct(">IQ")


@dataclass(frozen=True, slots=True)
class PackFolder:
    """A pack's folder as it was read. ``sources`` are its Python files by relative path, with forward slashes;
    ``manifest`` is what stands in ``pack.bin``, None without one."""

    path: Path
    digest: str
    sources: Mapping[str, bytes]
    manifest: bytes | None = None

    def read_manifest(self) -> PackManifest:
        """Raises `PackError` ``plugin.manifest_missing`` and what `decode_manifest` raises."""
        if self.manifest is None:
            raise _unsealed(self.path)
        return decode_manifest(self.manifest)


def pack_digest(folder: Path) -> str:
    """``sha256:…`` over the sorted relative paths and the contents of the whole folder; see `read_folder`."""
    return read_folder(folder).digest


def read_folder(folder: Path, *, inside: Path | None = None, sealed: bool = False) -> PackFolder:
    """Read a whole pack, or a pack that is a single Python file. ``sealed``: nothing is read unless it has a manifest.

    Raises `PackError` ``plugin.path_escape`` when it, or a link in it, leads out of ``inside`` or of the folder itself, or
    when it holds something that is neither file nor folder; ``plugin.manifest_invalid`` for one that is too large, cannot be
    read, or has a name that is no text.
    """
    if written(str(folder)) != str(folder):
        raise PackError(
            "plugin.manifest_invalid", f"the name of {folder} is no text in UTF-8, and is kept with each run"
        )
    try:
        check_inside(folder, inside or folder.parent)
        if folder.is_file():
            return _digested(folder, [(folder.name, folder)])
        files = sorted(_files(folder))
        if sealed and all(name != MANIFEST_FILE for name, _ in files):
            raise _unsealed(folder)
        return _digested(folder, files)
    except OSError as error:
        raise PackError("plugin.manifest_invalid", f"{folder} cannot be read: {error.strerror}") from error


def digest_of(files: Mapping[str, bytes]) -> str:
    """The digest a folder with these files would have."""
    total = hashlib.sha256()
    for name in sorted(files):
        _add(total, name, len(files[name]))
        total.update(files[name])
    return f"sha256:{total.hexdigest()}"


def check_inside(path: Path, folder: Path) -> None:
    """Raise ``plugin.path_escape`` unless ``path`` stays in ``folder`` once links are resolved."""
    try:
        real, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise PackError("plugin.path_escape", f"{path} cannot be resolved: {error}") from error
    if not real.is_relative_to(root):
        raise PackError("plugin.path_escape", f"{path} leads to {real}, out of {root}")


def read_pack(folder: Path) -> PackManifest:
    """The manifest of a pack's folder.

    Raises `PackError` ``plugin.path_escape``, ``plugin.manifest_missing`` and what `decode_manifest` raises.
    """
    path = folder / MANIFEST_FILE
    check_inside(path, folder)
    if not path.is_file():  # a pipe would make us wait
        raise _unsealed(folder)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_FILE + 1)
    except OSError as error:
        raise PackError("plugin.manifest_missing", f"{path} cannot be read: {error.strerror}") from error
    return decode_manifest(data)


def _unsealed(folder: Path) -> PackError:
    return PackError(
        "plugin.manifest_missing",
        f"{folder} holds no {MANIFEST_FILE}; its author makes it with: quarterdeck packs build {folder}",
    )


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative path and place of every file; links to folders inside are followed nowhere, but counted as entries."""
    waiting, seen = [root], 0
    while waiting:
        with os.scandir(waiting.pop()) as found:
            entries = list(itertools.islice(found, MAX_ENTRIES + 1 - seen))
        for entry in entries:
            seen += 1
            path = Path(entry.path)
            if seen > MAX_ENTRIES:
                raise PackError("plugin.manifest_invalid", f"{root} holds more than {MAX_ENTRIES} files and folders")
            if entry.name in CACHES and entry.is_dir():
                continue
            if entry.is_symlink():
                check_inside(path, root)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file():
                yield path.relative_to(root).as_posix(), path
            else:
                raise PackError("plugin.path_escape", f"{path} is no file, and no folder of the pack itself")


def _digested(pack: Path, files: list[tuple[str, Path]]) -> PackFolder:
    total, left = hashlib.sha256(), MAX_BYTES
    kept: dict[str, bytes] = {}
    for name, path in files:
        size = path.stat().st_size
        left -= size
        if left < 0 or (name == MANIFEST_FILE and size > MAX_MANIFEST_FILE):
            bound = MAX_BYTES if left < 0 else MAX_MANIFEST_FILE
            raise PackError("plugin.manifest_invalid", f"{pack if left < 0 else path} holds more than {bound} bytes")
        _add(total, name, size)
        if name.endswith(".py") or name == MANIFEST_FILE:
            kept[name] = _whole(path, size)
            total.update(kept[name])
        else:
            _stream(total, path, size)
    manifest = kept.pop(MANIFEST_FILE, None)
    return PackFolder(pack, f"sha256:{total.hexdigest()}", kept, manifest)


def _add(total: hashlib._Hash, name: str, size: int) -> None:
    spelled = os.fsencode(name)
    total.update(_SIZES.pack(len(spelled), size) + spelled)


def _whole(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(size + 1)
    if len(data) != size:
        raise PackError("plugin.manifest_invalid", f"{path} changed while it was read")
    return data


def _stream(total: hashlib._Hash, path: Path, size: int) -> None:
    with path.open("rb") as file:
        while chunk := file.read(min(_CHUNK, size + 1)):
            size -= len(chunk)
            if size < 0:
                break
            total.update(chunk)
    if size:
        raise PackError("plugin.manifest_invalid", f"{path} changed while it was read")
