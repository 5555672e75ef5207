"""Writing packs as folders: an author's ``pack.bin``, and the built-in pack as one that runs from there (blocks spec §20.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from runtime.blocks.builtin import catalogue
from runtime.blocks.packs.folders import MANIFEST_FILE, digest_of, read_folder
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
    data: bytes = import_symbol(read_folder(folder), module, symbol, live).manifest()
    manifest = decode_manifest(data)
    if (manifest.module, manifest.symbol) != (module, symbol):
        raise PackError(
            "plugin.manifest_mismatch",
            f"the pack says it is {manifest.module}:{manifest.symbol}; give Pack(…) module={module!r}, symbol={symbol!r}",
        )
    (folder / MANIFEST_FILE).write_bytes(data)
    return manifest


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
