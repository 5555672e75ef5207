"""Which missions there are: the mission files one level below the folders an operator keeps them in.

Listing reads mission files and what they name, and runs nothing (ruling R43). One that does not load is listed with
its problems. Links that lead out of a folder are not followed: nobody chose those files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.blocks.registry import BlockRegistry
from runtime.missions.files import FILE_NAME
from runtime.missions.loader import Mission, load
from runtime.missions.problems import MissionInvalid, MissionProblem

#: More missions than a list is useful for; the rest are not read.
MAX_MISSIONS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One mission file. ``mission`` is None when it does not load, and ``problems`` says why."""

    name: str
    path: Path
    mission: Mission | None = None
    problems: tuple[MissionProblem, ...] = ()

    @property
    def description(self) -> str:
        return self.mission.spec.description if self.mission else ""


class Catalogue:
    """The missions below some folders."""

    def __init__(self, roots: Sequence[Path], registry: BlockRegistry | None = None) -> None:
        self._roots = tuple(roots)
        self._registry = registry

    def list(self) -> tuple[CatalogueEntry, ...]:
        """All of them, by root and then by folder name; at most `MAX_MISSIONS`."""
        entries: list[CatalogueEntry] = []
        for path in dict.fromkeys(file for root in self._roots for file in _mission_files(root)):
            if len(entries) >= MAX_MISSIONS:
                break
            entries.append(self._entry(path))
        return tuple(entries)

    def _entry(self, path: Path) -> CatalogueEntry:
        try:
            mission = load(path, self._registry)
        except MissionInvalid as invalid:
            return CatalogueEntry(name=path.parent.name, path=path, problems=tuple(invalid.problems))
        return CatalogueEntry(name=mission.name, path=path, mission=mission, problems=mission.warnings)


def _mission_files(root: Path) -> Iterator[Path]:
    """``mission.yaml`` in ``root`` and in its folders; a folder that cannot be read holds none."""
    try:
        real = root.resolve(strict=True)
        folders = [root, *sorted(item for item in root.iterdir() if item.is_dir())]
    except OSError:
        return
    for folder in folders:
        file = folder / FILE_NAME
        try:
            if file.resolve(strict=True).is_relative_to(real):
                yield file
        except (OSError, RuntimeError):
            continue
