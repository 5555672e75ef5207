"""Missions as faces show them: from the folders they are listed from, or one by its path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.host.api import InputInfo, MissionInfo, MissionPack
from runtime.host.authoring import problem_of
from runtime.missions.catalogue import Catalogue, CatalogueEntry
from runtime.missions.loader import Mission, load
from runtime.missions.problems import MissionInvalid, MissionProblem


class MissionFacts:
    """Blocking; one instance remembers what its folders held. Whom a store trusts is not known here."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._catalogue = Catalogue(folders)

    def all(self) -> tuple[MissionInfo, ...]:
        """The missions of the folders, those that do not load included."""
        return tuple(_listed(item) for item in self._catalogue.list())

    def one(self, path: Path) -> MissionInfo:
        """The mission at ``path``, with its problems when it does not load."""
        try:
            return _info(load(path))
        except MissionInvalid as invalid:
            return _broken(path.stem, path, invalid.problems)


def _listed(entry: CatalogueEntry) -> MissionInfo:
    return _broken(entry.name, entry.path, entry.problems) if entry.mission is None else _info(entry.mission)


def _broken(name: str, path: Path, problems: Iterable[MissionProblem]) -> MissionInfo:
    return MissionInfo(name=name, path=str(path), problems=tuple(problem_of(item) for item in problems))


def _info(mission: Mission) -> MissionInfo:
    spec = mission.spec
    return MissionInfo(
        name=mission.name,
        path=str(mission.path),
        version=spec.version,
        description=spec.description,
        inputs=tuple(
            InputInfo(
                name=name,
                type=item.type,
                required=item.required,
                default=item.default,
                choices=tuple(item.choices or ()),
                description=item.description,
            )
            for name, item in spec.inputs.items()
        ),
        nodes=mission.graph.nodes(),
        envelope=mission.envelope.record(),
        workspace=_workspace_words(mission),
        watch=() if spec.watch is None else spec.watch.paths,
        packs=tuple(
            MissionPack(name=pack.name, version=pack.version, path=pack.path, digest=pack.digest)
            for pack in mission.packs
        ),
    )


def _workspace_words(mission: Mission) -> str:
    space = mission.spec.workspace
    if space is None:
        return "the repository or folder of the mission file"
    if space.kind == "none":
        return "none"
    if space.from_ is not None:
        return f"private copy of {space.from_}{' (git)' if space.init_git else ''}"
    where = space.root or "the repository or folder of the mission file"
    return f"separate git worktree of {where}" if space.isolated else where
