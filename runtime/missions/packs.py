"""Which block types a mission may name: those built in, those of installed packs, and those of the packs in the folder
``blocks`` beside its file. Only manifests are read here, no pack's code is imported (ruling R43).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime.blocks.builtin.catalogue import BUILTIN
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.packs.links import PackHost, PackLink
from runtime.blocks.packs.loading import installed_packs, load_packs
from runtime.blocks.packs.report import FoundPack, PluginReport, Trust
from runtime.blocks.registry import BlockRegistry
from runtime.missions.parameters import COMPOSITES
from runtime.missions.types import default_registry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The folder of packs beside a mission file.
BLOCKS: Final = "blocks"
_BUILT_IN: Final = "builtin"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedPack:
    """A pack a mission has blocks of. ``digest`` covers its whole folder, which is ``path``."""

    name: str
    version: str
    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class MissionTypes:
    """The types there are, and what came of the packs that were looked at."""

    registry: BlockRegistry
    report: PluginReport = field(default_factory=PluginReport)

    def used(self, type_ids: Iterable[str]) -> tuple[UsedPack, ...]:
        """The packs these types come from, by name; the built-ins are none."""
        wanted = set(type_ids)
        return tuple(
            UsedPack(
                name=pack.manifest.name,
                version=pack.manifest.version,
                digest=pack.digest,
                path=str(pack.path.absolute()),
            )
            for pack in sorted(self.report.loaded, key=lambda pack: pack.manifest.name)
            if pack.source != _BUILT_IN and not wanted.isdisjoint(pack.manifest.type_ids)
        )


def types_beside(
    directory: Path,
    *,
    trust: Callable[[str], Trust] | None = None,
    link_for: Callable[[FoundPack], PackLink] | None = None,
) -> MissionTypes:
    """The types a mission in ``directory`` may name. Blocking; never raises for a broken pack, whose types are absent.

    Without ``trust`` every pack is listed and none can run. With it, ``link_for`` links the packs that may run confined.
    """
    return types_in((directory / BLOCKS,), trust=trust, link_for=link_for)


def has_packs(path: Path) -> bool:
    """May the mission at ``path``, a file or its folder, name other types than the built-in ones?"""
    return bool(_installed()) or ((path if path.is_dir() else path.parent) / BLOCKS).is_dir()


def types_in(
    folders: tuple[Path, ...],
    *,
    trust: Callable[[str], Trust] | None = None,
    link_for: Callable[[FoundPack], PackLink] | None = None,
) -> MissionTypes:
    """See `types_beside`; ``folders`` hold one folder per pack."""
    installed = _installed()
    there = tuple(folder for folder in folders if folder.is_dir())
    if not installed and not there:
        return MissionTypes(default_registry())
    registry = BlockRegistry()
    report = load_packs(
        registry,
        builtin=BUILTIN,
        entry_points=installed,
        folders=there,
        trust=trust or _listed,
        link_for=link_for or _nowhere,
        reserved=tuple(COMPOSITES),
    )
    return MissionTypes(registry, report)


@lru_cache(maxsize=1)
def _installed() -> tuple[EntryPoint, ...]:
    """Looked up once per process: that takes longer than reading a mission."""
    return installed_packs()


def _listed(digest: str) -> Trust:
    """Known, and as good as any other pack as long as nothing runs."""
    return Trust.CONFINED


def _nowhere(found: FoundPack) -> PackLink:
    return Nowhere(found.manifest.name)


class Nowhere:
    """The link of packs that are only listed: their blocks can be built, and none of them runs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_now(self, request: bytes) -> tuple[int, bytes] | None:
        return None

    async def create(self, request: bytes) -> tuple[int, bytes]:
        raise BlockRuntimeError(
            "plugin.untrusted", f"the code of the pack {self._name} does not run here", effects="none"
        )

    async def validate(self, handle: int, value: bytes, context: bytes) -> bytes:
        raise AssertionError("there is no block without create")

    def run(self, handle: int, value: bytes, context: bytes, host: PackHost) -> AsyncIterator[bytes]:
        raise AssertionError("there is no block without create")

    def drop(self, handle: int) -> None:
        """There is nothing to forget."""
