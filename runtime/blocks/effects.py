"""How safe a block is to run again (blocks spec §15). Unknown means unsafe."""

from __future__ import annotations

from enum import Enum


class SideEffects(Enum):
    """``NONE``: nothing outside the ledger. ``IDEMPOTENT``: again is the same. ``NON_IDEMPOTENT``: never again."""

    NONE = "none"
    IDEMPOTENT = "idempotent"
    NON_IDEMPOTENT = "non_idempotent"

    @classmethod
    def parse(cls, label: object) -> SideEffects:
        """Any unrecognised or missing label behaves as ``NON_IDEMPOTENT``."""
        if isinstance(label, cls):
            return label
        return _BY_LABEL.get(label, cls.NON_IDEMPOTENT) if isinstance(label, str) else cls.NON_IDEMPOTENT

    @property
    def rank(self) -> int:
        return _RANK[self]


_BY_LABEL = {member.value: member for member in SideEffects}
_RANK = {member: position for position, member in enumerate(SideEffects)}


def worst(*classes: SideEffects) -> SideEffects:
    """The least safe of ``classes``; ``NONE`` when there are none."""
    return max(classes, key=_RANK.__getitem__, default=SideEffects.NONE)
