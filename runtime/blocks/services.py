"""Capabilities a block may be given. Small protocols, all replaceable in tests (blocks spec §6.4).

Inside a run the outside world is reached through ``ctx.operate``; services that wrap operations join this container
beside the clock and the ids (ruling R42). Building a container performs no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.ids import IdSource, SystemIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What ``ctx.services`` offers."""

    clock: Clock = field(default_factory=SystemClock)
    ids: IdSource = field(default_factory=SystemIds)
