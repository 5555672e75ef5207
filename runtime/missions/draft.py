"""A mission file on its way through the checks: its well-formed sections only, whatever else is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.blocks.packs.report import SkippedPack
from runtime.blocks.registry import BlockRegistry
from runtime.kernel.outcomes import block_code
from runtime.missions.model import BlockSpec
from runtime.missions.parameters import Shape
from runtime.missions.types import shapes
from runtime.missions.yaml_reader import Document

#: Keys every block may have; its others are the parameters of its type.
COMMON_KEYS: Final = frozenset(BlockSpec.model_fields)


@dataclass(slots=True)
class Draft:
    """What the checks of the parts look at, and where they report."""

    document: Document
    data: Mapping[str, Any]
    registry: BlockRegistry
    skipped: tuple[SkippedPack, ...] = ()
    types: dict[str, Shape] = field(init=False)
    blocks: dict[str, dict[str, Any]] = field(init=False)
    inputs: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.types = shapes(self.registry)
        self.blocks = self._mappings("blocks")
        self.inputs = self._mappings("inputs")

    def _mappings(self, section: str) -> dict[str, dict[str, Any]]:
        found = self.data.get(section)
        items = found.items() if isinstance(found, dict) else ()
        return {name: item for name, item in items if isinstance(item, dict)}

    def params(self, name: str) -> dict[str, Any]:
        """The parameters of a block: its keys beyond the common ones."""
        return {key: value for key, value in self.blocks[name].items() if key not in COMMON_KEYS}

    def accepts(self, name: str, *codes: str) -> bool:
        """Does the block expect this very failure?"""
        listed = self.blocks[name].get("accept")
        return isinstance(listed, list) and any(block_code(code) in listed for code in codes)
