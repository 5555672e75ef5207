"""The decision record: who let something in or kept it out, at which point, and why.

The record of a refused turn may be about the turn, while the signal that announces it is session-scoped, because
a refused turn never existed (turn runtime §2.3). A record that breaks a rule cannot be built.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from runtime.events.envelope import EventError, Role, members_of


class OutcomeKind(Enum):
    """What was decided."""

    ADMIT = "admit"
    REJECT = "reject"
    DEFER = "defer"
    SHED = "shed"
    STALE_EPOCH_REJECT = "stale_epoch_reject"
    DEAUTHORIZED_DRAIN = "deauthorized_drain"


class Phase(Enum):
    """When it was decided."""

    PRE_TURN = "pre_turn"
    SCHEDULING_POINT = "scheduling_point"
    ACTIVE_TURN = "active_turn"


class DecisionScope(Enum):
    """What it was decided about."""

    TENANT = "tenant"
    SESSION = "session"
    TURN = "turn"
    EDGE_ENQUEUE = "edge_enqueue"
    EDGE_DEQUEUE = "edge_dequeue"
    NODE_DISPATCH = "node_dispatch"


_POINTS: Final = frozenset({DecisionScope.EDGE_ENQUEUE, DecisionScope.EDGE_DEQUEUE, DecisionScope.NODE_DISPATCH})
_PRE: Final = frozenset({DecisionScope.SESSION, DecisionScope.TURN})
_TENANT: Final = frozenset({DecisionScope.TENANT, DecisionScope.SESSION})

#: (kind, emitter) → phase → allowed scopes.
_RULES: Final = {
    **{
        (kind, emitter): {Phase.PRE_TURN: scopes}
        for kind in (OutcomeKind.ADMIT, OutcomeKind.REJECT, OutcomeKind.DEFER)
        for emitter, scopes in ((Role.ADMISSION, _TENANT | _PRE), (Role.CP_ADMISSION, _TENANT))
    },
    (OutcomeKind.SHED, Role.ADMISSION): {Phase.SCHEDULING_POINT: _POINTS},
    (OutcomeKind.STALE_EPOCH_REJECT, Role.GUARD): {Phase.PRE_TURN: _PRE, Phase.SCHEDULING_POINT: _POINTS},
    (OutcomeKind.DEAUTHORIZED_DRAIN, Role.GUARD): {
        Phase.PRE_TURN: _PRE,
        Phase.ACTIVE_TURN: frozenset({DecisionScope.TURN}),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionOutcome:
    """One decision. Raises `EventError` when kind, emitter, phase, scope and ids do not fit together."""

    outcome_kind: OutcomeKind
    phase: Phase
    scope: DecisionScope
    session_id: str
    event_id: str
    runtime_timestamp_ms: int
    wall_clock_timestamp_ms: int
    emitted_by: Role
    reason: str
    turn_id: str | None = None
    timestamp_ms: int | None = None
    authority_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("session_id", "event_id", "reason"):
            if not getattr(self, name):
                raise EventError(f"a decision needs {name}", field_path=name)
        phases = _RULES.get((self.outcome_kind, self.emitted_by))
        if phases is None:
            raise EventError(
                f"{self.emitted_by.value} may not decide {self.outcome_kind.value}", field_path="emitted_by"
            )
        if self.phase not in phases:
            raise EventError(f"{self.outcome_kind.value} is not decided {self.phase.value}", field_path="phase")
        if self.scope not in phases[self.phase]:
            raise EventError(f"{self.scope.value} does not fit {self.outcome_kind.value}", field_path="scope")
        if not self.turn_id and (self.scope is DecisionScope.TURN or self.phase is Phase.ACTIVE_TURN):
            raise EventError("a decision about a turn needs turn_id", field_path="turn_id")
        if self.emitted_by is Role.GUARD and self.authority_epoch is None:
            raise EventError("a decision of the guard needs authority_epoch", field_path="authority_epoch")

    def record(self) -> dict[str, Any]:
        """The journalled object; has canonical bytes."""
        return members_of(self)
