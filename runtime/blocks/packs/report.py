"""What came of loading packs (blocks spec §20.6)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from runtime.blocks.packs.manifest import PackManifest


class Trust(Enum):
    """What may be done with a pack whose folder has a given digest."""

    NONE = "none"
    CONFINED = "confined"  # its code runs in a confined process
    IN_PROCESS = "in_process"


def how_to_trust(path: Path | str) -> str:
    """What to do about a pack nobody trusts. Its folder may be called anything: the command can be pasted all the same."""
    return f"look at it, then: quarterdeck packs trust {shlex.quote(str(path))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPack:
    """A pack that was found and may be loaded. ``source``: ``builtin``, ``entry_point`` or ``folder``."""

    source: str
    path: Path
    manifest: PackManifest
    digest: str
    trust: Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedPack:
    """A pack that was not loaded, and why. ``name`` and ``type_ids`` are empty when its manifest could not be read."""

    path: str
    code: str
    message: str
    name: str = ""
    digest: str | None = None
    type_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackNote:
    """Something worth knowing that is no failure, such as ``plugin.already_loaded``."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PluginReport:
    """Everything that was found, in the order it was looked at: the built-ins, entry points by name, folders by name."""

    loaded: tuple[FoundPack, ...] = ()
    skipped: tuple[SkippedPack, ...] = ()
    notes: tuple[PackNote, ...] = field(default=())

    def why_absent(self, type_id: str) -> SkippedPack | None:
        """The first skipped pack that offers ``type_id``."""
        return next((pack for pack in self.skipped if type_id in pack.type_ids), None)

    def record(self) -> dict[str, Any]:
        """Plain data, for faces."""
        return {
            "loaded": [
                {
                    "pack": found.manifest.name,
                    "version": found.manifest.version,
                    "source": found.source,
                    "path": str(found.path),
                    "digest": found.digest,
                    "trust": found.trust.value,
                    "types": list(found.manifest.type_ids),
                }
                for found in self.loaded
            ],
            "skipped": [
                {
                    "pack": pack.name,
                    "path": pack.path,
                    "code": pack.code,
                    "message": pack.message,
                    "digest": pack.digest,
                    "types": list(pack.type_ids),
                }
                for pack in self.skipped
            ],
            "notes": [{"path": note.path, "code": note.code, "message": note.message} for note in self.notes],
        }
