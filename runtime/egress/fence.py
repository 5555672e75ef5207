"""The last gate before anything is shown: after a cancel is accepted, nothing of its scope passes.

Every output is offered here and gets one verdict. Accepted outputs are followed until they have been rendered or
suppressed, so that each ends exactly once. The epoch outranks the fence: a stale writer learns nothing about our
cancels (turn runtime §3.20). Owned by the runtime loop; nothing awaits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from runtime.egress.scopes import Scope
from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal, Role
from runtime.kernel.errors import ContractError

#: Accepted outputs that may wait for their delivery to end.
MAX_PENDING: Final = 4096

REASON_ACCEPTED: Final = "output_accepted"
REASON_FENCED: Final = "cancel_fence_applied"
REASON_STALE: Final = "authority_epoch_mismatch"
REASON_UNCHECKED: Final = "authority_validation_failed"
REASON_INACTIVE: Final = "turn_not_active"
REASON_FULL: Final = "lane_queue_capacity_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One attempt to show something. ``epoch`` is the writer's; None means it does not know."""

    output_id: str
    turn_id: str
    scope: Scope
    epoch: int | None
    payload_bytes: int = 0
    node_id: str | None = None
    turn_active: bool = True
    cancel_accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressDecision:
    """The verdict on one output, and what it signals."""

    accepted: bool
    reason: str
    signals: tuple[ControlSignal, ...] = ()


class _Stage(Enum):
    ACCEPTED = "accepted"
    STARTED = "started"


@dataclass(slots=True)
class _Pending:
    output: Output
    stage: _Stage = _Stage.ACCEPTED


class EgressFence:
    """Decides on outputs of one session and follows the accepted ones. ``epoch`` gives the current epoch."""

    def __init__(self, emitter: Emitter, *, epoch: Callable[[], int]) -> None:
        self._emitter = emitter
        self._epoch = epoch
        self._pending: dict[str, _Pending] = {}
        self.late_output_dropped_count = 0

    def __len__(self) -> int:
        return len(self._pending)

    def decide(self, output: Output) -> EgressDecision:
        """The first check that fails decides: epoch, this attempt's own cancel, fence, turn state, room."""
        _check(output)
        if output.output_id in self._pending:
            raise ContractError("schema_validation_error", f"output {output.output_id} was offered before")
        stale = self._stale(output)
        if stale:
            return stale
        if output.cancel_accepted:
            output.scope.fence("operator_cancel")
        if output.scope.fenced:
            return self._late(output)
        if not output.turn_active or output.scope.closed:
            return EgressDecision(accepted=False, reason=REASON_INACTIVE)
        if len(self._pending) >= MAX_PENDING:
            return EgressDecision(accepted=False, reason=REASON_FULL)
        self._pending[output.output_id] = _Pending(output)
        signal = self._signal("output_accepted", output, REASON_ACCEPTED)
        return EgressDecision(accepted=True, reason=REASON_ACCEPTED, signals=(signal,))

    def started(self, output_id: str) -> tuple[ControlSignal, ...]:
        """The output is being rendered for the first time. Nothing for one that has ended or was never accepted."""
        pending = self._pending.get(output_id)
        if pending is None or pending.stage is _Stage.STARTED:
            return ()
        if pending.output.scope.fenced:
            return self._suppress(pending)
        pending.stage = _Stage.STARTED
        return (self._signal("playback_started", pending.output),)

    def completed(self, output_id: str) -> tuple[ControlSignal, ...]:
        """The output has been rendered entirely; delivery is over. An unstarted output is started first."""
        begun = self.started(output_id)
        pending = self._pending.get(output_id)
        if pending is None:
            return begun
        if pending.output.scope.fenced:
            return (*begun, *self._suppress(pending))
        del self._pending[output_id]
        return (*begun, self._signal("playback_completed", pending.output))

    def suppress_fenced(self) -> tuple[ControlSignal, ...]:
        """End every unrendered output whose scope is fenced, oldest first, each with one ``playback_cancelled``."""
        fenced = [item for item in self._pending.values() if item.output.scope.fenced]
        return tuple(signal for item in fenced for signal in self._suppress(item))

    def _stale(self, output: Output) -> EgressDecision | None:
        if output.epoch == self._epoch():
            return None
        reason = REASON_UNCHECKED if output.epoch is None or output.epoch < 0 else REASON_STALE
        signal = self._emitter.signal(
            "stale_epoch_reject", Role.GUARD, turn_id=output.turn_id, node_id=output.node_id, reason=reason
        )
        return EgressDecision(accepted=False, reason=reason, signals=(signal,))

    def _late(self, output: Output) -> EgressDecision:
        self.late_output_dropped_count += 1
        signal = self._signal("playback_cancelled", output, REASON_FENCED, late=True)
        return EgressDecision(accepted=False, reason=REASON_FENCED, signals=(signal,))

    def _suppress(self, pending: _Pending) -> tuple[ControlSignal, ...]:
        del self._pending[pending.output.output_id]
        return (self._signal("playback_cancelled", pending.output, REASON_FENCED),)

    def _signal(self, name: str, output: Output, reason: str | None = None, *, late: bool = False) -> ControlSignal:
        return self._emitter.signal(
            name,
            Role.EGRESS,
            turn_id=output.turn_id,
            node_id=output.node_id,
            causal_parent_id=output.output_id,
            reason=reason,
            late_after_cancel=True if late else None,
        )


def _check(output: Output) -> None:
    if not output.output_id or not output.turn_id:
        raise ContractError("schema_validation_error", "an output needs an output id and a turn id")
    if output.payload_bytes < 0:
        raise ContractError("schema_validation_error", f"payload_bytes of {output.output_id} must not be negative")
