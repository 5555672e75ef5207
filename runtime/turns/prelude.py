"""Where turns begin: something wants one, and says so without any authority to open it.

A proposal creates no turn state. It is a signal and a few measured instants; the arbiter decides (turn runtime
§3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal, EventError, Role

DEFAULT_REASON: Final = "session_turn_intent"


class TriggerSource(Enum):
    """What may want a turn."""

    OPERATOR_COMMAND = "operator_command"
    OPERATOR_INTERRUPT = "operator_interrupt"
    SCHEDULE = "schedule"
    PREDICATE = "predicate"
    EXTERNAL_MESSAGE = "external_message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A wish for a turn. The two instants are runtime milliseconds, measured, never invented."""

    session_id: str
    turn_id: str
    mission_version: str
    source: TriggerSource
    reason: str
    operator_input_ingress_ts: int
    turn_open_proposed_ingress_accepted_ts: int
    signal: ControlSignal


def propose(
    emitter: Emitter,
    *,
    turn_id: str,
    source: TriggerSource = TriggerSource.OPERATOR_COMMAND,
    reason: str = DEFAULT_REASON,
    input_ingress_ms: int | None = None,
) -> Proposal:
    """Propose a turn; ``input_ingress_ms`` is when the motivating input arrived. Raises `EventError` without ids."""
    if not turn_id:
        raise EventError("a proposal needs a turn id", field_path="turn_id")
    arrived = emitter.runtime_ms() if input_ingress_ms is None else max(0, input_ingress_ms)
    signal = emitter.signal("turn_open_proposed", Role.PRELUDE, turn_id=turn_id, scope="turn", reason=reason)
    return Proposal(
        session_id=emitter.session_id,
        turn_id=turn_id,
        mission_version=emitter.mission_version,
        source=source,
        reason=reason,
        operator_input_ingress_ts=arrived,
        turn_open_proposed_ingress_accepted_ts=emitter.runtime_ms(),
        signal=signal,
    )
