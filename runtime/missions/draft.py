"""A mission file on its way through the checks: its well-formed sections only, whatever else is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.blocks.contracts import BlockMode
from runtime.blocks.packs.report import SkippedPack
from runtime.blocks.registry import BlockRegistry
from runtime.kernel.outcomes import block_code
from runtime.missions.model import BlockSpec
from runtime.missions.parameters import Shape
from runtime.missions.types import shapes
from runtime.missions.yaml_reader import Document, Where

MAP_OVER: Final = "map_over"
CHILD: Final = "child_workflow"
COMPOSITES: Final = frozenset({MAP_OVER, CHILD})
EACH: Final = "each"
#: Keys every block may have; its others are the parameters of its type.
COMMON_KEYS: Final = frozenset(BlockSpec.model_fields) - {EACH}


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a block is written: under its name, or as what the `map_over` of that name does for each item."""

    name: str
    where: Where
    block: dict[str, Any]

    @property
    def inner(self) -> bool:
        return len(self.where) > 2

    @property
    def type(self) -> str:
        """The type as far as it is text; '' else."""
        written = self.block.get("type")
        return written if isinstance(written, str) else ""

    @property
    def params(self) -> dict[str, Any]:
        """The keys beyond the common ones and ``each``."""
        return {key: value for key, value in self.block.items() if key not in COMMON_KEYS and key != EACH}

    def accepts(self, *codes: str) -> bool:
        """Does the block expect this very failure?"""
        listed = self.block.get("accept")
        return isinstance(listed, list) and any(block_code(code) in listed for code in codes)


@dataclass(slots=True)
class Draft:
    """What the checks of the parts look at, and where they report.

    ``around`` is the data of the mission whose run this is: the file's own, or for a child that of the outermost one.
    ``children`` are the child missions that could be read, by the name the file gives them.
    """

    document: Document
    data: Mapping[str, Any]
    registry: BlockRegistry
    around: Mapping[str, Any]
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: tuple[SkippedPack, ...] = ()
    types: dict[str, Shape] = field(init=False)
    #: Types whose blocks give one item after the other.
    recurring: frozenset[str] = field(init=False)
    blocks: dict[str, dict[str, Any]] = field(init=False)
    inputs: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        known = shapes(self.registry)
        self.types = known | {alias: known[type_id] for alias, type_id in self.registry.aliases().items()}
        self.recurring = frozenset(
            info.type_id for info in self.registry.types() if info.output.mode is BlockMode.RECURRING
        )
        self.blocks = self._mappings("blocks")
        self.inputs = self._mappings("inputs")

    def _mappings(self, section: str) -> dict[str, dict[str, Any]]:
        found = self.data.get(section)
        items = found.items() if isinstance(found, dict) else ()
        return {name: item for name, item in items if isinstance(item, dict)}

    def sites(self, name: str | None = None) -> Iterator[Site]:
        """Every place where a block is written, in file order; those of one block with ``name``."""
        for key, block in self.blocks.items() if name is None else ((name, self.blocks[name]),):
            yield Site(key, ("blocks", key), block)
            each = block.get(EACH)
            if block.get("type") == MAP_OVER and isinstance(each, dict):
                yield Site(key, ("blocks", key, EACH), each)

    def child_of(self, site: Site) -> Mapping[str, Any] | None:
        """The data of the child mission that is run there, if it could be read."""
        wanted = site.block.get("mission")
        return self.children.get(wanted) if site.type == CHILD and isinstance(wanted, str) else None
