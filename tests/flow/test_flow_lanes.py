"""Lane queues: strict order, bounds, one xoff per saturation, and what a full lane does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal, Lane, SeqRange
from runtime.flow.lanes import DEFAULT_LIMITS, NOTICE_EVERY, EnqueueStatus, LaneItem, LaneLimits, LaneQueues
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError


def queues(**limits: LaneLimits) -> LaneQueues:
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock())
    chosen = {Lane[name.upper()]: limit for name, limit in limits.items()}
    return LaneQueues(emitter, turn_id="t", limits=chosen)


def item(name: str, lane: Lane = Lane.DATA, sequence: int = 0) -> LaneItem:
    return LaneItem(event_id=name, lane=lane, transport_sequence=sequence)


def names(signals: Sequence[ControlSignal]) -> list[str]:
    return [signal.signal for signal in signals]


def test_defaults_are_the_specified_ones() -> None:
    assert DEFAULT_LIMITS[Lane.CONTROL] == LaneLimits(32, 16, 8)
    assert DEFAULT_LIMITS[Lane.DATA] == DEFAULT_LIMITS[Lane.TELEMETRY] == LaneLimits(128, 64, 32)


@pytest.mark.parametrize("bad", [(4, 5, 1), (4, 2, 2), (4, 0, 0), (4, 2, -1)])
def test_invalid_watermarks_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ContractError):
        LaneLimits(*bad)


def test_mixed_lanes_leave_in_priority_order_and_fifo_inside() -> None:
    lanes = queues()
    for name, lane in [("t1", Lane.TELEMETRY), ("d1", Lane.DATA), ("c1", Lane.CONTROL), ("d2", Lane.DATA)]:
        assert lanes.enqueue(item(name, lane)).queued
    order = []
    while (dispatch := lanes.dequeue()) is not None:
        order.append(dispatch.item.event_id)
    assert order == ["c1", "d1", "d2", "t1"]


def test_one_xoff_per_saturation_and_one_xon_per_recovery() -> None:
    lanes = queues(data=LaneLimits(4, 2, 1))
    results = [lanes.enqueue(item(f"d{n}")) for n in range(8)]
    assert [result.status for result in results] == [
        EnqueueStatus.ACCEPTED,
        EnqueueStatus.SATURATED,
        EnqueueStatus.ACCEPTED,
        EnqueueStatus.ACCEPTED,
        *[EnqueueStatus.SHED] * 4,
    ]
    assert names(results[1].signals) == ["watermark", "flow_xoff"]
    assert [signal.reason for signal in results[1].signals] == ["lane_queue_high_watermark", "backpressure_asserted"]
    assert all(names(result.signals) == ["shed"] for result in results[4:])
    recovered = [names(dispatch.signals) for _ in range(4) if (dispatch := lanes.dequeue())]
    assert recovered == [[], [], ["flow_xon"], []]


def test_a_shed_is_a_decision_at_the_enqueue_point() -> None:
    lanes = queues(data=LaneLimits(1, 1, 0))
    lanes.enqueue(item("d1"))
    decision = lanes.enqueue(item("d2")).decision
    assert decision is not None
    assert decision.scope.value == "edge_enqueue"
    assert decision.reason == "lane_queue_capacity_exceeded"


def test_control_is_never_dropped_but_faults() -> None:
    lanes = queues(control=LaneLimits(1, 1, 0))
    assert lanes.enqueue(item("c1", Lane.CONTROL)).status is EnqueueStatus.SATURATED
    fault = lanes.enqueue(item("c2", Lane.CONTROL))
    assert fault.status is EnqueueStatus.FAULT
    assert names(fault.signals) == ["watermark", "flow_xoff"]
    assert lanes.states()[0].dropped == 0


def test_telemetry_drops_are_gathered_into_one_notice_with_a_growing_range() -> None:
    lanes = queues(telemetry=LaneLimits(2, 2, 1))
    for n in range(5):
        lanes.enqueue(item(f"t{n}", Lane.TELEMETRY, sequence=n))
    dispatch = lanes.dequeue()
    assert dispatch is not None
    assert names(dispatch.signals) == ["drop_notice", "flow_xon"]
    assert dispatch.signals[0].seq_range == SeqRange(2, 4)
    assert dispatch.signals[0].reason == "telemetry_best_effort_drop"
    assert lanes.flush() == ()


def test_a_notice_is_sent_every_256_drops_and_at_the_end_without_gap_or_overlap() -> None:
    lanes = queues(telemetry=LaneLimits(1, 1, 0))
    lanes.enqueue(item("t", Lane.TELEMETRY))
    sent = [
        signal.seq_range
        for n in range(NOTICE_EVERY * 2 + 3)
        for signal in lanes.enqueue(item(f"x{n}", Lane.TELEMETRY, sequence=n)).signals
    ]
    sent += [signal.seq_range for signal in lanes.flush()]
    assert sent == [SeqRange(0, 255), SeqRange(256, 511), SeqRange(512, 514)]


def test_full_telemetry_never_delays_control() -> None:
    lanes = queues()
    for n in range(1000):
        lanes.enqueue(item(f"t{n}", Lane.TELEMETRY))
    lanes.enqueue(item("stop", Lane.CONTROL))
    dispatch = lanes.dequeue()
    assert dispatch is not None
    assert dispatch.item.event_id == "stop"


def test_signals_carry_edge_and_lane() -> None:
    lanes = queues(data=LaneLimits(2, 1, 0))
    signal = lanes.enqueue(item("d")).signals[0]
    assert (signal.edge_id, signal.target_lane, signal.turn_id) == ("lane-dispatch/data", Lane.DATA, "t")


def test_an_item_needs_an_event_id_and_names_itself_after_it() -> None:
    assert item("e").item_id == "e"
    with pytest.raises(ContractError):
        item("")


def test_running_counts_node_attempts_only() -> None:
    lanes = queues()
    lanes.enqueue(item("d"))
    lanes.enqueue(LaneItem(event_id="t", lane=Lane.TELEMETRY, action=lambda: None))
    lanes.dequeue()
    lanes.dequeue()
    assert [state.running for state in lanes.states()] == [0, 1, 0]
    lanes.finished(Lane.DATA)
    with pytest.raises(ContractError):
        lanes.finished(Lane.DATA)


LANES = st.sampled_from(list(Lane))


@given(st.lists(st.one_of(LANES, st.none()), max_size=200))
def test_any_traffic_stays_in_bounds_in_order_and_alternates_xoff_and_xon(traffic: list[Lane | None]) -> None:
    limits = {"control": LaneLimits(4, 3, 1), "data": LaneLimits(5, 2, 0), "telemetry": LaneLimits(3, 3, 2)}
    lanes = queues(**limits)
    last: dict[Lane, str] = {}
    waiting: dict[Lane, list[str]] = {lane: [] for lane in Lane}
    for n, lane in enumerate(traffic):
        signals: Sequence[ControlSignal] = ()
        if lane is None:
            dispatch = lanes.dequeue()
            if dispatch is None:
                assert not any(waiting.values())
                continue
            highest = next(lane for lane in (Lane.CONTROL, Lane.DATA, Lane.TELEMETRY) if waiting[lane])
            assert dispatch.item.event_id == waiting[highest].pop(0)
            signals = dispatch.signals
        else:
            result = lanes.enqueue(item(f"e{n}", lane, sequence=n))
            if result.queued:
                waiting[lane].append(f"e{n}")
            signals = result.signals if result.status is not EnqueueStatus.FAULT else ()
        for signal in signals:
            if signal.signal in ("flow_xoff", "flow_xon") and signal.target_lane is not None:
                assert last.get(signal.target_lane, "flow_xon") != signal.signal
                last[signal.target_lane] = signal.signal
        for state in lanes.states():
            assert state.depth <= state.limit
