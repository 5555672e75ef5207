"""The three lane queues: Control before Data before Telemetry, each bounded, each saying when it fills and drains.

Node attempts wait here for their turn, and in a second set of queues the items blocks emit (ruling R29); results never
pass through. A lane saturates when its depth reaches the high mark and recovers when it falls to the low mark, and says
so exactly once each way. Synchronous and owned by the runtime loop; `runtime.flow.loop` and `runtime.flow.streams` are
the shells that wait (turn runtime §3.11–§3.13).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from runtime.events.emitter import DecisionDraft, Emitter
from runtime.events.envelope import ControlSignal, Lane, Role, SeqRange
from runtime.events.facts import LaneState
from runtime.events.outcomes import DecisionOutcome, DecisionScope, OutcomeKind, Phase
from runtime.kernel.errors import ContractError

#: Drops collected into one notice before it is sent anyway (turn runtime §3.12).
NOTICE_EVERY: Final = 256

REASON_HIGH: Final = "lane_queue_high_watermark"
REASON_PRESSURE: Final = "backpressure_asserted"
REASON_FULL: Final = "lane_queue_capacity_exceeded"
REASON_DROP: Final = "telemetry_best_effort_drop"


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The bound of one lane in items and its watermarks: ``low < high <= limit``.

    ``max_bytes`` bounds the size of what waits as well, with the watermarks in proportion; None: size does not count.
    """

    limit: int
    high: int
    low: int
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= self.limit:
            raise ContractError(
                "schema_validation_error",
                f"lane limits need 0 <= low < high <= limit, not {self.low}, {self.high}, {self.limit}",
            )
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ContractError("schema_validation_error", f"a lane holds at least one byte, not {self.max_bytes}")

    def fits(self, items: int, size: int) -> bool:
        """May ``items`` of ``size`` bytes together wait here?"""
        return items <= self.limit and (self.max_bytes is None or size <= self.max_bytes)

    def above(self, mark: int, items: int, size: int) -> bool:
        """Has either measure passed ``mark`` items, or that part of the bytes?"""
        return items > mark or (self.max_bytes is not None and size * self.limit > mark * self.max_bytes)

    @classmethod
    def of(cls, limit: int) -> LaneLimits:
        """The defaults for a bound: high at half of it, low at a quarter."""
        return cls(limit, max(1, limit // 2), limit // 4)


#: Turn runtime §11, "lane limits when unset".
DEFAULT_LIMITS: Final[Mapping[Lane, LaneLimits]] = {
    Lane.CONTROL: LaneLimits.of(32),
    Lane.DATA: LaneLimits.of(128),
    Lane.TELEMETRY: LaneLimits.of(128),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneItem:
    """One unit waiting for dispatch.

    With an ``action`` it is run by the loop itself when its turn comes; without one it is a node attempt whose
    owner waits for the slot. ``item_id`` defaults to the event id. ``size`` is in bytes.
    """

    event_id: str
    lane: Lane
    item_id: str = ""
    transport_sequence: int = 0
    size: int = 0
    action: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if not self.event_id:
            raise ContractError("schema_validation_error", "a lane item needs an event id")
        if not self.item_id:
            object.__setattr__(self, "item_id", self.event_id)

    @property
    def occupies(self) -> bool:
        """Does its work begin when it is dispatched, and end with `LaneQueues.finished`?"""
        return self.action is None


class EnqueueStatus(Enum):
    """What became of an offered item. ``FAULT`` is a full control lane: the turn must abort."""

    ACCEPTED = "accepted"
    SATURATED = "saturated"
    DROPPED = "dropped"
    SHED = "shed"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueResult:
    """The fate of one item, the signals it caused in order, and the shed decision if there was one."""

    status: EnqueueStatus
    signals: tuple[ControlSignal, ...] = ()
    decision: DecisionOutcome | None = None

    @property
    def queued(self) -> bool:
        return self.status in (EnqueueStatus.ACCEPTED, EnqueueStatus.SATURATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """The next item, with the signals of a lane that recovered by giving it up."""

    item: LaneItem
    waited_ms: int
    signals: tuple[ControlSignal, ...] = ()


@dataclass(slots=True)
class _Queue:
    limits: LaneLimits
    items: deque[tuple[LaneItem, int]] = field(default_factory=deque)
    size: int = 0
    saturated: bool = False
    dispatched: int = 0
    running: int = 0
    dropped: int = 0
    unannounced: int = 0
    span: SeqRange | None = None

    def take(self) -> tuple[LaneItem, int]:
        """The head, and since when it waited."""
        item, since = self.items.popleft()
        self.size -= item.size
        return item, since

    def pressed(self, mark: int) -> bool:
        return self.limits.above(mark, len(self.items), self.size)


class LaneQueues:
    """The queues of one turn. ``limits`` may leave lanes out; they keep their defaults."""

    def __init__(
        self,
        emitter: Emitter,
        *,
        turn_id: str | None = None,
        limits: Mapping[Lane, LaneLimits] | None = None,
        edge_prefix: str = "lane-dispatch",
    ) -> None:
        chosen = {**DEFAULT_LIMITS, **(limits or {})}
        self._emitter = emitter
        self._turn_id = turn_id
        self._prefix = edge_prefix
        self._queues = {lane: _Queue(chosen[lane]) for lane in sorted(Lane, key=lambda lane: lane.priority)}

    def edge_id(self, lane: Lane) -> str:
        return f"{self._prefix}/{lane.short}"

    def full(self, lane: Lane, size: int = 0) -> bool:
        """Is there no room for one more item of ``size`` bytes?"""
        queue = self._queues[lane]
        return not queue.limits.fits(len(queue.items) + 1, queue.size + size)

    def depth(self, lane: Lane) -> int:
        return len(self._queues[lane].items)

    def bytes_in(self, lane: Lane) -> int:
        """How many bytes wait."""
        return self._queues[lane].size

    def limits(self, lane: Lane) -> LaneLimits:
        return self._queues[lane].limits

    def saturated(self, lane: Lane) -> bool:
        return self._queues[lane].saturated

    def enqueue(self, item: LaneItem) -> EnqueueResult:
        """Take an item in without waiting; what a full lane does depends on the lane."""
        queue = self._queues[item.lane]
        if self.full(item.lane, item.size):
            return self._refuse(item, queue)
        queue.items.append((item, self._emitter.runtime_ms()))
        queue.size += item.size
        signals = self._saturate(item.lane, queue)
        status = EnqueueStatus.SATURATED if signals else EnqueueStatus.ACCEPTED
        return EnqueueResult(status=status, signals=signals)

    def press(self, lane: Lane) -> tuple[ControlSignal, ...]:
        """Someone has to wait for room: the lane is saturated, however deep it is."""
        queue = self._queues[lane]
        if queue.saturated:
            return ()
        queue.saturated = True
        return self._pressure(lane)

    def shed(self, lane: Lane, *, reason: str = REASON_FULL, count: int = 1) -> EnqueueResult:
        """Refuse ``count`` items that are not in the queue (any more), as a decision and a signal."""
        self._queues[lane].dropped += count
        decision = self._emitter.decide(
            DecisionDraft(
                kind=OutcomeKind.SHED,
                emitted_by=Role.ADMISSION,
                phase=Phase.SCHEDULING_POINT,
                scope=DecisionScope.EDGE_ENQUEUE,
                reason=reason,
                turn_id=self._turn_id,
            )
        )
        shed = self._signal("shed", Role.ADMISSION, lane, reason=reason, amount=count)
        return EnqueueResult(status=EnqueueStatus.SHED, signals=(shed,), decision=decision)

    def head(self, lane: Lane | None = None) -> LaneItem | None:
        """What `dequeue` would give, left in place."""
        queue = self._next_queue(lane)
        return queue.items[0][0] if queue else None

    def dequeue(self, lane: Lane | None = None) -> Dispatch | None:
        """The head of ``lane``, or of the highest non-empty one; None when there is nothing.

        What `LaneItem.occupies` counts as running until `finished`.
        """
        queue = self._next_queue(lane)
        if queue is None:
            return None
        item, since = queue.take()
        queue.dispatched += 1
        queue.running += item.occupies
        return Dispatch(
            item=item,
            waited_ms=max(0, self._emitter.runtime_ms() - since),
            signals=self._recover(item.lane, queue),
        )

    def finished(self, lane: Lane) -> None:
        """A dispatched node attempt of ``lane`` has ended."""
        queue = self._queues[lane]
        if queue.running == 0:
            raise ContractError("invalid_transition", f"no attempt of {lane.value} is running")
        queue.running -= 1

    def withdraw(self, item: LaneItem) -> tuple[ControlSignal, ...] | None:
        """Take a queued item back; None when it is not queued any more."""
        queue = self._queues[item.lane]
        for entry in queue.items:
            if entry[0] is item:
                queue.items.remove(entry)
                queue.size -= item.size
                return self._recover(item.lane, queue)
        return None

    def clear(
        self, lane: Lane, reason: str, chosen: Callable[[LaneItem], bool] = lambda item: True
    ) -> tuple[ControlSignal, ...]:
        """Take every ``chosen`` item out, unprocessed: one notice tells of all of them, after those still collected."""
        queue = self._queues[lane]
        taken = [item for item, _ in queue.items if chosen(item)]
        if not taken:
            return ()
        queue.items = deque(entry for entry in queue.items if not chosen(entry[0]))
        queue.size -= sum(item.size for item in taken)
        queue.dropped += len(taken)
        span = SeqRange(max(0, taken[0].transport_sequence), max(0, taken[-1].transport_sequence))
        collected = self._notice(lane, queue)
        cleared = self._signal("drop_notice", Role.BUFFER, lane, reason=reason, seq_range=span, amount=len(taken))
        return (*collected, cleared, *self._recover(lane, queue))

    def flush(self) -> tuple[ControlSignal, ...]:
        """Send the notices that are still being collected, at the end of a turn."""
        return tuple(signal for lane, queue in self._queues.items() for signal in self._notice(lane, queue))

    def states(self) -> tuple[LaneState, ...]:
        """The gauges, highest lane first."""
        return tuple(
            LaneState(
                lane=lane.value,
                depth=len(queue.items),
                limit=queue.limits.limit,
                high=queue.limits.high,
                low=queue.limits.low,
                saturated=queue.saturated,
                dispatched=queue.dispatched,
                running=queue.running,
                dropped=queue.dropped,
            )
            for lane, queue in self._queues.items()
        )

    def _next_queue(self, lane: Lane | None = None) -> _Queue | None:
        if lane is not None:
            return self._queues[lane] if self._queues[lane].items else None
        return next((queue for queue in self._queues.values() if queue.items), None)

    def _refuse(self, item: LaneItem, queue: _Queue) -> EnqueueResult:
        if item.lane is Lane.CONTROL:
            return EnqueueResult(status=EnqueueStatus.FAULT, signals=self._pressure(item.lane))
        if item.lane is Lane.TELEMETRY:
            queue.dropped += 1
            return EnqueueResult(status=EnqueueStatus.DROPPED, signals=self._drop(item, queue))
        pressure = self._saturate(item.lane, queue)
        refused = self.shed(item.lane)
        return EnqueueResult(status=refused.status, signals=(*pressure, *refused.signals), decision=refused.decision)

    def _saturate(self, lane: Lane, queue: _Queue) -> tuple[ControlSignal, ...]:
        return self.press(lane) if queue.pressed(queue.limits.high - 1) else ()

    def _pressure(self, lane: Lane) -> tuple[ControlSignal, ...]:
        return (
            self._signal("watermark", Role.WATERMARK, lane, reason=REASON_HIGH),
            self._signal("flow_xoff", Role.FLOW, lane, reason=REASON_PRESSURE),
        )

    def _recover(self, lane: Lane, queue: _Queue) -> tuple[ControlSignal, ...]:
        if not queue.saturated or queue.pressed(queue.limits.low):
            return ()
        queue.saturated = False
        return (*self._notice(lane, queue), self._signal("flow_xon", Role.FLOW, lane))

    def _drop(self, item: LaneItem, queue: _Queue) -> tuple[ControlSignal, ...]:
        """Collect a dropped item. A notice speaks of drops without a gap, so that it tells exactly what is missing."""
        sequence = max(0, item.transport_sequence)
        before = self._notice(item.lane, queue) if queue.span is not None and sequence > queue.span.end + 1 else ()
        span = queue.span or SeqRange(sequence, sequence)
        queue.span = SeqRange(min(span.start, sequence), max(span.end, sequence))
        queue.unannounced += 1
        return (*before, *(self._notice(item.lane, queue) if queue.unannounced >= NOTICE_EVERY else ()))

    def _notice(self, lane: Lane, queue: _Queue) -> tuple[ControlSignal, ...]:
        if queue.span is None:
            return ()
        span, queue.span = queue.span, None
        count, queue.unannounced = queue.unannounced, 0
        notice = self._signal("drop_notice", Role.BUFFER, lane, reason=REASON_DROP, seq_range=span, amount=count)
        return (notice,)

    def _signal(
        self,
        name: str,
        role: Role,
        lane: Lane,
        *,
        reason: str | None = None,
        seq_range: SeqRange | None = None,
        amount: int | None = None,
    ) -> ControlSignal:
        return self._emitter.signal(
            name,
            role,
            turn_id=self._turn_id,
            edge_id=self.edge_id(lane),
            target_lane=lane,
            reason=reason,
            seq_range=seq_range,
            amount=amount,
        )
