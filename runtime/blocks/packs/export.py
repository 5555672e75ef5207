"""Writing packs as folders: an author's ``pack.bin``, and the built-in pack as one that runs from there (blocks spec §20.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from runtime.blocks.builtin import catalogue
from runtime.blocks.packs.folders import MANIFEST_FILE, PackFolder, digest_of, read_folder
from runtime.blocks.packs.imports import import_symbol, live
from runtime.blocks.packs.manifest import PackError, PackManifest, decode_manifest

_PACKAGE: Final = "runtime.blocks.builtin"
#: How the built-ins' own modules name each other; a pack's modules do so relatively.
_IMPORT: Final = re.compile(rf"^(\s*)from {re.escape(_PACKAGE)}(\.\w+)? import ", re.MULTILINE)


def write_manifest(folder: Path, module: str, symbol: str = "PACK") -> PackManifest:
    """Write ``pack.bin`` beside a pack's code, from what the code tells. Runs the code: for the pack's author.

    Raises `PackError` with the code of the loading step that would fail, ``plugin.manifest_mismatch`` when the pack
    object was told another ``module`` or ``symbol``.
    """
    read = read_folder(folder)
    _must_hold(read, module)
    data: bytes = import_symbol(read, module, symbol, live).manifest()
    manifest = decode_manifest(data)
    if (manifest.module, manifest.symbol) != (module, symbol):
        raise PackError(
            "plugin.manifest_mismatch",
            f"the pack says it is {manifest.module}:{manifest.symbol}; give Pack(…) module={module!r}, symbol={symbol!r}",
        )
    _write_whole(folder / MANIFEST_FILE, data)
    return manifest


def _must_hold(folder: PackFolder, module: str) -> None:
    """Said before the import, which would name the private root it imports below."""
    place = module.replace(".", "/")
    names = (f"{place}.py", f"{place}/__init__.py")
    if not any(name in folder.sources for name in names):
        raise PackError("plugin.missing_symbol", f"{folder.path} holds neither {names[0]} nor {names[1]}")


def _write_whole(path: Path, data: bytes) -> None:
    """A reader sees the old manifest or the new one, whatever happens."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def export_builtin(folder: Path) -> Path:
    """Write the built-in pack into ``folder``, as ``folder/builtin``; returns that folder.

    Raises `FileExistsError` when there is one already: what stands there is nobody's to overwrite.
    """
    place = folder / catalogue.BUILTIN.about.name
    place.mkdir(parents=True)
    for name, data in builtin_files().items():
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return place


def builtin_files() -> dict[str, bytes]:
    """Relative path → content of the exported pack."""
    home = Path(catalogue.__file__).parent
    sources = {f"{home.name}/{path.name}": _relative(path.read_text("utf-8")) for path in sorted(home.glob("*.py"))}
    return {MANIFEST_FILE: catalogue.BUILTIN.manifest(), **sources}


@lru_cache(maxsize=1)
def builtin_digest() -> str:
    """The digest an exported copy of the built-ins has."""
    return digest_of(builtin_files())


def _relative(source: str) -> bytes:
    return _IMPORT.sub(lambda found: f"{found[1]}from {found[2] or '.'} import ", source).encode()
