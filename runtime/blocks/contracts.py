"""What a block says about the values it takes and gives, checked before a graph runs and again per value.

Plan time asks whether two kind sets intersect (may it fit?), run time whether one contains a kind (does it fit?).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, Flag
from typing import Final

from runtime.blocks.errors import BlockDefinitionError
from runtime.blocks.values import BlockValue, BlockValueKind


class BlockValueKindSet(Flag):
    """A set of kinds. Iterating or printing follows bit order."""

    EMPTY = 0
    NULL = BlockValueKind.NULL
    BOOL = BlockValueKind.BOOL
    INT = BlockValueKind.INT
    FLOAT = BlockValueKind.FLOAT
    STRING = BlockValueKind.STRING
    BYTES = BlockValueKind.BYTES
    LIST = BlockValueKind.LIST
    MAP = BlockValueKind.MAP
    NUMBER = INT | FLOAT
    ANY = NULL | BOOL | INT | FLOAT | STRING | BYTES | LIST | MAP

    @classmethod
    def of(cls, kind: BlockValueKind) -> BlockValueKindSet:
        return cls(int(kind))

    @classmethod
    def from_names(cls, *names: str) -> BlockValueKindSet:
        """Parse lower-case names, plus ``any`` and ``number``; raises ``definition.bad_contract``."""
        result = cls.EMPTY
        for name in names:
            if name not in _NAMES:
                raise BlockDefinitionError("definition.bad_contract", f"unknown kind {name!r}; use {', '.join(_NAMES)}")
            result |= _NAMES[name]
        return result

    def contains(self, kind: BlockValueKind) -> bool:
        return self._value_ & kind != 0  # `value` is a slow property, and every attempt asks

    def intersects(self, other: BlockValueKindSet) -> bool:
        return self._value_ & other._value_ != 0

    @property
    def is_empty(self) -> bool:
        return self.value == 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(kind.name.lower() for kind in BlockValueKind if self.value & kind)

    def __str__(self) -> str:
        return "|".join(self.names)


_NAMES: Final = {
    **{kind.name.lower(): BlockValueKindSet.of(kind) for kind in BlockValueKind},
    "number": BlockValueKindSet.NUMBER,
    "any": BlockValueKindSet.ANY,
}


class BlockMode(Enum):
    """How many values one run takes or gives."""

    ONCE = "once"
    MULTIPLE = "multiple"
    RECURRING = "recurring"


@dataclass(frozen=True, slots=True)
class BlockValueContract:
    """Mode and kinds of one side of a block.

    Input: ONCE takes at most one predecessor, MULTIPLE any number; kinds describe the value of one source.
    Output: the mode names the run-result variant; kinds describe each produced value.
    """

    mode: BlockMode = BlockMode.ONCE
    kinds: BlockValueKindSet = BlockValueKindSet.ANY

    def admits(self, value: BlockValue) -> bool:
        return self.kinds.contains(value.kind)

    def __str__(self) -> str:
        return f"{self.mode.value} {self.kinds}"


ANY_ONCE: Final = BlockValueContract()


def once(*names: str) -> BlockValueContract:
    """``once("string", "map")``; no names means any kind."""
    return _contract(BlockMode.ONCE, names)


def multiple(*names: str) -> BlockValueContract:
    """A MULTIPLE contract; no names means any kind."""
    return _contract(BlockMode.MULTIPLE, names)


def recurring(*names: str) -> BlockValueContract:
    """A RECURRING contract, legal for outputs only; no names means any kind."""
    return _contract(BlockMode.RECURRING, names)


def _contract(mode: BlockMode, names: Iterable[str]) -> BlockValueContract:
    chosen = tuple(names)
    return BlockValueContract(mode, BlockValueKindSet.from_names(*chosen) if chosen else BlockValueKindSet.ANY)
