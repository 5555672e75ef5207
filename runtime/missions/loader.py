"""Loading a mission: from a path to a checked, hashed, frozen definition, or to everything that is wrong with it.

Stages: YAML with positions → structure → how the parts fit → what the envelope certainly forbids. Each reports all
it finds and the next runs on whatever is well-formed, so five unrelated mistakes are five positions in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.blocks.packs.report import Trust
from runtime.blocks.registry import BlockRegistry
from runtime.kernel.canonical import digest
from runtime.kernel.model import Envelope
from runtime.missions.conditions import Condition
from runtime.missions.envelopes import Feasibility, block_envelopes, mission_envelope, narrowed, own_envelopes
from runtime.missions.files import Attachment, locate, read_mission
from runtime.missions.graph import Graph
from runtime.missions.model import MAX_BLOCKS, BlockSpec, MissionSpec
from runtime.missions.packs import MissionTypes, UsedPack, types_beside
from runtime.missions.problems import MissionInvalid, MissionProblem
from runtime.missions.reading import Family, Loaded, child_files, read_top
from runtime.missions.sections import PromptFile
from runtime.missions.yaml_reader import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Mission:
    """A mission that can run. ``directory`` is the folder of its file; relative paths start there.

    ``definition`` is what ``mission_hash`` is the digest of: the values as parsed, the digests of the files they name,
    of the packs they use, and the hashes of child missions. ``block_envelopes`` holds the further envelopes of blocks that have one, by
    name, and ``<name>/each`` for what is done for each item. ``conditions`` and ``files`` are keyed by their place in
    the file; files of children stand below ``("children", name)`` and are named from here. ``children`` are the child
    missions by the name the file gives them; their ``envelope`` narrows this one's. ``warnings`` did not stop the load. ``registry`` has
    the types its blocks are of; those of ``packs``, its children's included, can be built with it, and do not run.
    """

    path: Path
    directory: Path
    source: bytes
    spec: MissionSpec
    graph: Graph
    definition: Mapping[str, Any]
    mission_hash: str
    envelope: Envelope
    block_envelopes: Mapping[str, Envelope]
    conditions: Mapping[Where, Condition]
    files: Mapping[Where, Attachment]
    registry: BlockRegistry
    children: Mapping[str, Mission] = field(default_factory=dict)
    packs: tuple[UsedPack, ...] = ()
    warnings: tuple[MissionProblem, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.mission

    @property
    def prompts(self) -> dict[str, str]:
        """Role → its prompt, read from its file where it has one."""
        return {
            role: self.files["prompts", role, "file"].content if isinstance(prompt, PromptFile) else prompt
            for role, prompt in self.spec.prompts.items()
        }

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The JSON Schemas kept in files, by the name the mission gives them."""
        return {item.name: item.content for where, item in self.files.items() if where[-1] == "output_schema"}

    @property
    def answers(self) -> Attachment | None:
        """The file with scripted answers, if the mission has one."""
        return self.files.get(("provider", "scripted"))

    def output_schema(self, block: str, *, each: bool = False) -> dict[str, Any] | None:
        """The JSON Schema a model block's answer must fit, read from its file where it has one."""
        spec = self.spec.blocks[block]
        written = (spec.each if each and spec.each is not None else spec).params.get("output_schema")
        if isinstance(written, str):
            where: Where = ("blocks", block, *(("each",) if each else ()), "output_schema")
            content: dict[str, Any] = self.files[where].content
            return content
        return written

    def every_block(self) -> Iterator[BlockSpec]:
        """The blocks of the file and of its children, those for each item included; a child's once per name."""
        for block in self.spec.blocks.values():
            yield from block.with_each
        for child in self.children.values():
            yield from child.every_block()

    def block_at(self, path: str) -> BlockSpec | None:
        """The block a step belongs to: ``name``, ``name/0`` for an item, ``name/inner`` in a child; None: no such one."""
        name, *rest = path.split("/")
        mission, block = self, self.spec.blocks.get(name)
        for part in rest:
            if block is None:
                return None
            if block.each is not None:
                block = block.each
            elif (child := mission.children.get(str(block.params.get("mission")))) is not None:
                mission, block = child, child.spec.blocks.get(part)
            else:
                return None
        return block


def load(
    path: Path | str, registry: BlockRegistry | None = None, *, trust: Callable[[str], Trust] | None = None
) -> Mission:
    """Load the mission at ``path``, a file or a folder holding ``mission.yaml``.

    ``registry`` holds the block types there are (default: see `types_beside`). With ``trust`` a block whose pack nobody
    trusts is a warning. Raises `MissionInvalid` with every problem found, sorted by position.
    """
    file = locate(path)
    return load_bytes(read_mission(file), file, registry, trust=trust)


def load_bytes(
    source: bytes,
    file: Path,
    registry: BlockRegistry | None = None,
    *,
    recorded: Mapping[str, bytes] | None = None,
    trust: Callable[[str], Trust] | None = None,
) -> Mission:
    """Load a mission from bytes as if they stood in ``file``. Raises `MissionInvalid`.

    ``recorded`` has the contents of the files it names as they were; then nothing but packs is looked at beside ``file``.
    """
    types = types_beside(file.absolute().parent) if registry is None else MissionTypes(registry)
    family = Family(types, recorded, trust)
    top = read_top(source, file, family)
    if top.spec is None:
        raise MissionInvalid(family.problems(top))
    envelope = mission_envelope(top.spec, _every_block(top))
    finish = _Finish(envelope, top.spec, types.registry)
    mission = finish.mission(top, file)
    finish.check(top, mission, (envelope,))
    problems = family.problems(top)
    if top.document.report.failed or any(item.severity == "error" for item in problems):
        raise MissionInvalid(problems)
    return replace(mission, warnings=problems)


def _every_block(loaded: Loaded) -> Iterator[BlockSpec]:
    """The blocks of a file and of its children, those for each item included; each file's once."""
    files, waiting = {id(loaded): loaded}, [loaded]
    while waiting:
        for child in waiting.pop().children.values():
            if id(child) not in files:
                files[id(child)] = child
                waiting.append(child)
    for item in files.values():
        for block in item.spec.blocks.values() if item.spec is not None else ():
            yield from block.with_each


class _Finish:
    """Makes the missions of a family from what was read; a file's once, however often it is named."""

    def __init__(self, envelope: Envelope, run: MissionSpec, registry: BlockRegistry) -> None:
        self._envelope = envelope
        self._registry = registry
        self._feasibility = Feasibility(run)
        self._made: dict[int, Mission] = {}

    def mission(self, loaded: Loaded, file: Path, *, child: bool = False) -> Mission:
        known = self._made.get(id(loaded))
        if known is None:
            known = self._made[id(loaded)] = self._fresh(loaded, file, child=child)
        return known

    def _fresh(self, loaded: Loaded, file: Path, *, child: bool) -> Mission:
        spec = loaded.spec
        assert spec is not None, "a child without a model fails its parent"
        children = {
            name: self.mission(item, file.parent / name, child=True)
            for name, item in loaded.children.items()
            if item.spec is not None
        }
        files = {**loaded.files, **dict(child_files(loaded))}
        # By content: two packs may have one name.
        used = {
            pack.digest: pack for pack in (*(each for item in children.values() for each in item.packs), *loaded.packs)
        }
        packs = tuple(sorted(used.values(), key=lambda pack: (pack.name, pack.digest)))
        definition = {
            "schema": "mission-definition/1",
            "mission": loaded.data,
            "files": {item.name: item.digest for item in files.values()},
            **({"children": {name: item.mission_hash for name, item in children.items()}} if children else {}),
            **({"packs": {pack.digest: pack.name for pack in packs}} if packs else {}),
        }
        return Mission(
            path=file,
            directory=file.absolute().parent,
            source=loaded.source,
            spec=spec,
            graph=loaded.graph,
            definition=definition,
            mission_hash=digest(definition),
            envelope=narrowed(spec.envelope, self._envelope) if child else self._envelope,
            block_envelopes=block_envelopes(spec, self._envelope),
            conditions=loaded.conditions,
            files=files,
            registry=self._registry,
            children=children,
            packs=packs,
        )

    def check(self, loaded: Loaded, mission: Mission, outer: tuple[Envelope, ...]) -> None:
        """What the envelopes certainly forbid, here and in every use of a child."""
        self._feasibility.check(loaded.document, mission.spec, outer, mission.block_envelopes)
        if loaded.size > MAX_BLOCKS:
            return
        for site, name in loaded.uses:
            child = mission.children.get(name)
            if child is not None:
                own = own_envelopes("/".join(map(str, site.where[1:])), mission.block_envelopes)
                self.check(loaded.children[name], child, (*outer, *own, child.envelope))


def lint(
    path: Path | str, registry: BlockRegistry | None = None, *, trust: Callable[[str], Trust] | None = None
) -> tuple[MissionProblem, ...]:
    """Everything worth saying about the mission at ``path``: errors and warnings, by position."""
    try:
        return load(path, registry, trust=trust).warnings
    except MissionInvalid as invalid:
        return tuple(invalid.problems)
