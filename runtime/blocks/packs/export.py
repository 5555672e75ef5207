"""The built-in pack as a folder that loads and runs from there (blocks spec §20.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from runtime.blocks.builtin import catalogue
from runtime.blocks.packs.folders import MANIFEST_FILE, digest_of

_PACKAGE: Final = "runtime.blocks.builtin"
#: How the built-ins' own modules name each other; a pack's modules do so relatively.
_IMPORT: Final = re.compile(rf"^(\s*)from {re.escape(_PACKAGE)}(\.\w+)? import ", re.MULTILINE)


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
