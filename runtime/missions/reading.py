"""One mission file read and checked, with the child missions it names (blocks spec §21 child_workflow, ruling R41).

A child is a file below the folder of the file that names it. It brings blocks, links, inputs, outputs and an envelope
that narrows; everything about the world around the blocks belongs to the run and is refused in it. Each file is read
once, however often it is named; circles, depth and number are bounded, so a hostile folder stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from runtime.blocks.packs.report import Trust, how_to_trust
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.missions.checks import check_all
from runtime.missions.conditions import Condition
from runtime.missions.draft import CHILD, Draft, Site
from runtime.missions.files import Attachment, attach, inside, read_bounded, recorded_bytes
from runtime.missions.graph import Graph, read_graph
from runtime.missions.model import BESIDE_THE_ENVELOPE, MAX_BLOCKS, MissionSpec
from runtime.missions.packs import MissionTypes, UsedPack
from runtime.missions.problems import MissionInvalid, MissionProblem, shown, sort_problems
from runtime.missions.rules import stays_below
from runtime.missions.structure import validate
from runtime.missions.yaml_reader import MAX_BYTES, Document, Where, read

#: Missions inside each other, the outermost not counted.
MAX_DEPTH: Final = 5
#: Child files one mission may have, all levels together.
MAX_CHILDREN: Final = 64
#: What a child may say; the other sections are the run's, and there is one run.
_OF_A_CHILD: Final = frozenset(
    {"mission", "version", "description", "inputs", "envelope", "blocks", "links", "branches", "on_error", "outputs"}
    | {"max_parallel", "max_steps"}
)
_OF_A_RUN: Final = MissionSpec.model_fields.keys() - _OF_A_CHILD


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A mission file as far as it could be read; ``path`` is the file itself, links followed. ``size`` counts its blocks with those of its children, each time they
    are named; ``height`` is how many missions stand inside each other below it."""

    document: Document
    path: Path
    source: bytes
    data: Mapping[str, Any]
    spec: MissionSpec | None
    graph: Graph
    conditions: Mapping[Where, Condition] = field(default_factory=dict)
    files: Mapping[Where, Attachment] = field(default_factory=dict)
    children: dict[str, Loaded] = field(default_factory=dict)
    uses: list[tuple[Site, str]] = field(default_factory=list)
    packs: tuple[UsedPack, ...] = ()
    size: int = 0
    height: int = 0

    @property
    def failed(self) -> bool:
        return self.spec is None or self.document.report.failed


@dataclass(slots=True)
class Family:
    """What reading a mission and its children shares: the types beside the outermost file are those of all. ``recorded`` has the files as they were, by their name below the
    outermost folder; then nothing but packs is looked at on this machine. With ``trust``, packs nobody trusts are told."""

    types: MissionTypes
    recorded: Mapping[str, bytes] | None = None
    trust: Callable[[str], Trust] | None = None
    around: Mapping[str, Any] = field(default_factory=dict)
    known: dict[Path, Loaded | None] = field(default_factory=dict)
    unread: list[MissionProblem] = field(default_factory=list)

    def problems(self, top: Loaded) -> tuple[MissionProblem, ...]:
        """Everything found, file by file."""
        found = [*top.document.report.problems(), *self.unread]
        for child in self.known.values():
            found += child.document.report.problems() if child is not None else ()
        return sort_problems(found)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file stands: ``file`` as shown, ``chain`` the real files from the outermost to this one, ``prefix`` its
    folder below the outermost, with a slash."""

    file: Path
    chain: tuple[Path, ...]
    prefix: str = ""


def read_top(source: bytes, file: Path, family: Family) -> Loaded:
    """The outermost mission with its children. Raises `MissionInvalid` when there is nothing to check at all."""
    document = read(source, file)
    family.around = document.data if isinstance(document.data, dict) else {}
    itself = file.resolve() if family.recorded is None else file.absolute()
    return _read(source, document, _Place(file, (itself,)), family)


def _read(source: bytes, document: Document, place: _Place, family: Family) -> Loaded:
    spec = validate(document)
    data = document.data if isinstance(document.data, dict) else {}
    if len(place.chain) > 1:
        _refuse_sections(document, data, place)
    draft = Draft(document, data, family.types.registry, family.around, skipped=family.types.report.skipped)
    graph = read_graph(document, data, draft.blocks)
    loaded = Loaded(document=document, path=place.chain[-1], source=source, data=data, spec=spec, graph=graph)
    loaded.size = len(draft.blocks)
    for site in draft.sites():
        if site.type == CHILD and isinstance(site.block.get("mission"), str):
            _take(loaded, draft, site, place, family)
    draft.children = {name: child.data for name, child in loaded.children.items()}
    loaded.conditions = check_all(draft, graph)
    loaded.packs = _packs(draft, family)
    loaded.files = attach(document, place.file.absolute().parent, data, _below(family.recorded, place.prefix))
    return loaded


def _kinds(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a block names a type: its own, and for a route the one it sends its packet through (ruling R44)."""
    kind = block.get("type")
    for key in ("type", "transform") if kind == "packet_route" else ("type",):
        if isinstance(named := block.get(key), str):
            yield key, named


def _packs(draft: Draft, family: Family) -> tuple[UsedPack, ...]:
    """The packs a file uses; each block of one nobody trusts gets a warning, if trust is known."""
    chosen = [(site, key, kind) for site in draft.sites() for key, kind in _kinds(site.block)]
    for site, key, kind in chosen if family.trust is not None else ():
        for pack in family.types.used((kind,)):
            if family.trust is not None and family.trust(pack.digest) is Trust.NONE:
                draft.document.problem(
                    "plugin.untrusted",
                    f"nobody trusts the pack {pack.name}, so a launch is refused",
                    (*site.where, key),
                    hint=how_to_trust(pack.path),
                    severity="warning",
                )
    return family.types.used(kind for _, _, kind in chosen)


def _refuse_sections(document: Document, data: Mapping[str, Any], place: _Place) -> None:
    outer = place.chain[0].name
    envelope = data.get("envelope")
    narrowing = envelope if isinstance(envelope, dict) else {}
    inner: list[tuple[str, ...]] = [("envelope", key) for key in narrowing if key in BESIDE_THE_ENVELOPE]
    for where in [*((key,) for key in data if key in _OF_A_RUN), *inner]:
        why = f"{'.'.join(where)!r} belongs to the run, not to a mission inside it"
        document.problem("MISSION_CHILD", why, where, key=True, hint=f"write it in {outer}")


def _take(loaded: Loaded, draft: Draft, site: Site, place: _Place, family: Family) -> None:
    """Read the child a block names, if it can be; what is wrong is told at the block, and in the child's own file."""
    name, where = str(site.block["mission"]), (*site.where, "mission")
    try:
        child = loaded.children.get(name) or _child(name, place, family)
        if child.height + len(place.chain) > MAX_DEPTH:
            raise Refused("MISSION_CHILD", f"{shown(name)}: more than {MAX_DEPTH} missions inside each other")
    except Refused as error:
        draft.document.problem(error.code, error.message, where)
        return
    loaded.children[name] = child
    loaded.uses.append((site, name))
    loaded.height = max(loaded.height, child.height + 1)
    loaded.size += child.size
    if loaded.size > MAX_BLOCKS:
        message = f"with its child missions this mission has more than {MAX_BLOCKS} blocks"
        draft.document.problem("MISSION_CHILD", message, where)
    if child.failed:
        draft.document.problem("MISSION_CHILD", f"the child mission {shown(name)} has problems of its own", where)


def _child(name: str, place: _Place, family: Family) -> Loaded:
    """Raises `Refused`."""
    if not stays_below(name):
        raise Refused("MISSION_PATH_ESCAPE", f"{shown(name)} must be a relative path below the mission's folder")
    directory = place.file.absolute().parent
    path = inside(directory, name) if family.recorded is None else directory / name
    if path in place.chain:
        raise Refused("graph.recursive_workflow", f"{shown(name)} is a mission this one is part of")
    if len(place.chain) > MAX_DEPTH:
        raise Refused("MISSION_CHILD", f"{shown(name)}: more than {MAX_DEPTH} missions inside each other")
    if path not in family.known:
        if len(family.known) >= MAX_CHILDREN:
            raise Refused("MISSION_CHILD", f"{shown(name)}: more than {MAX_CHILDREN} child files")
        family.known[path] = None
        family.known[path] = _fresh(name, path, place, family)
    child = family.known[path]
    if child is None:
        raise Refused("MISSION_CHILD", f"the child mission {shown(name)} cannot be read")
    return child


def _fresh(name: str, path: Path, place: _Place, family: Family) -> Loaded | None:
    full, recorded = place.prefix + name, family.recorded
    source = read_bounded(path, MAX_BYTES) if recorded is None else recorded_bytes(recorded, full)
    file = place.file.parent / name
    try:
        document = read(source, file)
    except MissionInvalid as invalid:
        family.unread += invalid.problems
        return None
    return _read(source, document, _Place(file, (*place.chain, path), folder_of(full)), family)


def folder_of(name: str) -> str:
    """The folder a file's name leads through, with its slash; '' for a file right here."""
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else f"{parent}/"


def _below(recorded: Mapping[str, bytes] | None, prefix: str) -> Mapping[str, bytes] | None:
    if recorded is None or not prefix:
        return recorded
    return {name.removeprefix(prefix): data for name, data in recorded.items() if name.startswith(prefix)}


def child_files(loaded: Loaded) -> Iterator[tuple[Where, Attachment]]:
    """The children's files and what these name, named from this file's folder."""
    for name, child in loaded.children.items():
        yield (
            ("children", name),
            Attachment(name, child.path, digest_bytes(child.source), child.source, dict(child.data)),
        )
        for where, item in (*child.files.items(), *child_files(child)):
            yield ("children", name, *where), replace(item, name=folder_of(name) + item.name)
