"""The three states of a block instance (blocks spec §8.1). Changes happen on the event loop thread only."""

from __future__ import annotations

from enum import Enum


class BlockPhase(Enum):
    """READY→BUSY→READY, BUSY→WAITING→BUSY, and WAITING→READY by cancellation only."""

    READY = "ready"
    BUSY = "busy"
    WAITING = "waiting"  # suspended on an operator's answer


class BlockState:
    """The mutable part of an instance; node-level variants of one instance share it."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase = BlockPhase.READY
