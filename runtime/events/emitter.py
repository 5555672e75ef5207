"""Where signals get their id, their place in the session's order and their timestamps.

Deciders stay pure and say only *what* is to be signalled (`Draft`); the session's one emitter stamps it and passes
it through the gateway, so there is a single counter per session and nothing unvalidated is ever handed on.
Owned by the runtime loop; no method awaits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.events.envelope import ControlSignal, EventScope, Lane, PayloadClass, Role
from runtime.events.gateway import Gateway
from runtime.events.identity import Identity
from runtime.events.outcomes import DecisionOutcome, DecisionScope, OutcomeKind, Phase
from runtime.events.registry import SIGNALS
from runtime.kernel.clock import Clock


@dataclass(frozen=True, slots=True)
class Draft:
    """A signal that has been decided but not yet stamped. ``members`` are further `ControlSignal` members."""

    signal: str
    emitted_by: Role
    turn_id: str | None = None
    members: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDraft:
    """A decision that has been made but not yet stamped."""

    kind: OutcomeKind
    emitted_by: Role
    phase: Phase
    scope: DecisionScope
    reason: str
    turn_id: str | None = None


class Emitter:
    """Stamps the signals and decisions of one session. ``epoch`` may be advanced by its owner."""

    def __init__(
        self,
        *,
        session_id: str,
        mission_version: str,
        clock: Clock,
        epoch: int = 0,
        gateway: Gateway | None = None,
        identity: Identity | None = None,
        first_sequence: int = 0,
    ) -> None:
        self.session_id = session_id
        self.mission_version = mission_version
        self.epoch = epoch
        self.identity = identity or Identity(session_id)
        self._clock = clock
        self._gateway = gateway or Gateway()
        self._next_sequence = first_sequence

    def next_sequence(self) -> int:
        """The session's next runtime sequence number."""
        value = self._next_sequence
        self._next_sequence += 1
        return value

    def signal(
        self,
        name: str,
        emitted_by: Role,
        *,
        turn_id: str | None = None,
        event_scope: EventScope | None = None,
        **members: Any,
    ) -> ControlSignal:
        """One stamped, validated signal; raises `EventError` and consumes a sequence number when malformed.

        Without ``event_scope`` it is the one the registry binds the signal to, else turn scope if there is a turn.
        """
        rule = SIGNALS.get(name)
        bound = rule.event_scope if rule else None
        stamped = ControlSignal(
            event_scope=event_scope or bound or (EventScope.TURN if turn_id else EventScope.SESSION),
            session_id=self.session_id,
            mission_version=self.mission_version,
            event_id=self.identity.next_event_id(turn_id),
            lane=Lane.CONTROL,
            runtime_sequence=self.next_sequence(),
            runtime_timestamp_ms=self.runtime_ms(),
            wall_clock_timestamp_ms=self.wall_ms(),
            turn_id=turn_id,
            authority_epoch=self.epoch,
            payload_class=PayloadClass.METADATA,
            signal=name,
            emitted_by=emitted_by,
            **members,
        )
        return self._gateway.validate_signals([stamped])[0]

    def stamp(self, drafts: Iterable[Draft]) -> list[ControlSignal]:
        """Stamp drafts in order."""
        return [self.signal(draft.signal, draft.emitted_by, turn_id=draft.turn_id, **draft.members) for draft in drafts]

    def decide(self, draft: DecisionDraft) -> DecisionOutcome:
        """Stamp a decision; the record refuses what does not fit together."""
        return DecisionOutcome(
            outcome_kind=draft.kind,
            phase=draft.phase,
            scope=draft.scope,
            session_id=self.session_id,
            event_id=self.identity.next_event_id(draft.turn_id),
            runtime_timestamp_ms=self.runtime_ms(),
            wall_clock_timestamp_ms=self.wall_ms(),
            emitted_by=draft.emitted_by,
            reason=draft.reason,
            turn_id=draft.turn_id,
            authority_epoch=self.epoch,
        )

    def continue_after(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Go on counting after signals journalled earlier (a resumed turn keeps its ids unique)."""
        for record in records:
            self._next_sequence = max(self._next_sequence, int(record.get("runtime_sequence", -1)) + 1)
            self.identity.observe(str(record.get("event_id", "")))

    def runtime_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def wall_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)
