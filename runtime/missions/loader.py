"""Loading a mission: from a path to a checked, hashed, frozen definition, or to everything that is wrong with it.

Stages: YAML with positions → structure → how the parts fit → what the envelope certainly forbids. Each reports all
it finds and the next runs on whatever is well-formed, so five unrelated mistakes are five positions in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.blocks.packs.report import Trust
from runtime.blocks.registry import BlockRegistry
from runtime.kernel.canonical import digest
from runtime.kernel.model import Envelope
from runtime.missions.checks import check_all
from runtime.missions.conditions import Condition
from runtime.missions.draft import Draft
from runtime.missions.envelopes import block_envelopes, check_feasible, mission_envelope
from runtime.missions.files import Attachment, attach, locate, read_mission
from runtime.missions.graph import Graph, read_graph
from runtime.missions.model import MissionSpec
from runtime.missions.packs import MissionTypes, UsedPack, types_beside
from runtime.missions.problems import MissionInvalid, MissionProblem
from runtime.missions.sections import PromptFile
from runtime.missions.structure import validate
from runtime.missions.yaml_reader import Where, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Mission:
    """A mission that can run. ``directory`` is the folder of its file; relative paths start there.

    ``definition`` is what ``mission_hash`` is the digest of: the values as parsed plus the digests of the files they
    name and of the packs they use. ``block_envelopes`` holds the further envelopes of blocks that have one. ``conditions``
    and ``files`` are keyed by their place in the file. ``warnings`` did not stop the load. ``registry`` has the types its
    blocks are of; those of ``packs`` can be built with it, and do not run.
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

    def output_schema(self, block: str) -> dict[str, Any] | None:
        """The JSON Schema a model block's answer must fit, read from its file where it has one."""
        written = self.spec.blocks[block].params.get("output_schema")
        if isinstance(written, str):
            content: dict[str, Any] = self.files["blocks", block, "output_schema"].content
            return content
        return written


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
    directory = file.absolute().parent
    types = types_beside(directory) if registry is None else MissionTypes(registry)
    document = read(source, file)
    spec = validate(document)
    data = document.data if isinstance(document.data, dict) else {}
    draft = Draft(document, data, types.registry, types.report.skipped)
    graph = read_graph(document, data, draft.blocks)
    conditions = check_all(draft, graph)
    packs = _packs(draft, types, trust)
    files = attach(document, directory, data, recorded)
    if spec is None:
        raise MissionInvalid(document.report.problems())
    envelope = mission_envelope(spec)
    inner = block_envelopes(spec, envelope)
    check_feasible(document, spec, envelope, inner)
    document.report.raise_if_failed()
    definition = {
        "schema": "mission-definition/1",
        "mission": data,
        "files": {item.name: item.digest for item in files.values()},
        **({"packs": {pack.name: pack.digest for pack in packs}} if packs else {}),
    }
    return Mission(
        path=file,
        directory=directory,
        source=source,
        spec=spec,
        graph=graph,
        definition=definition,
        mission_hash=digest(definition),
        envelope=envelope,
        block_envelopes=inner,
        conditions=conditions,
        files=files,
        registry=types.registry,
        packs=packs,
        warnings=document.report.problems(),
    )


def _kinds(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a block names a type: its own, and for a route the one it sends its packet through (ruling R44)."""
    kind = block.get("type")
    for key in ("type", "transform") if kind == "packet_route" else ("type",):
        if isinstance(named := block.get(key), str):
            yield key, named


def _packs(draft: Draft, types: MissionTypes, trust: Callable[[str], Trust] | None) -> tuple[UsedPack, ...]:
    """The packs the mission uses; each block of one nobody trusts gets a warning, if trust is known."""
    chosen = {(name, key): kind for name, block in draft.blocks.items() for key, kind in _kinds(block)}
    for (name, key), kind in chosen.items():
        for pack in types.used((kind,)) if trust is not None else ():
            if trust is not None and trust(pack.digest) is Trust.NONE:
                draft.document.problem(
                    "plugin.untrusted",
                    f"nobody trusts the pack {pack.name}, so a launch is refused",
                    ("blocks", name, key),
                    hint=f"look at it, then: quarterdeck packs trust {pack.path}",
                    severity="warning",
                )
    return types.used(chosen.values())


def lint(
    path: Path | str, registry: BlockRegistry | None = None, *, trust: Callable[[str], Trust] | None = None
) -> tuple[MissionProblem, ...]:
    """Everything worth saying about the mission at ``path``: errors and warnings, by position."""
    try:
        return load(path, registry, trust=trust).warnings
    except MissionInvalid as invalid:
        return tuple(invalid.problems)
