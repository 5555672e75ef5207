"""Ids are the same for the same history, never repeat, and continue after a resume."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.events.emitter import Draft, Emitter
from runtime.events.envelope import EventError, EventScope, Role
from runtime.events.identity import MAX_COUNTERS, Identity
from runtime.events.outcomes import DecisionOutcome, DecisionScope, OutcomeKind, Phase
from runtime.kernel.clock import ManualClock


def test_two_fresh_services_agree_and_correlation_stays_while_ids_advance() -> None:
    one, two = Identity("s 1"), Identity("s 1")
    ids = [one.next_event_id("t/1"), one.next_event_id("t/1"), one.next_event_id()]
    assert ids == [two.next_event_id("t/1"), two.next_event_id("t/1"), two.next_event_id()]
    assert ids == ["evt/s_1/t_1/000001", "evt/s_1/t_1/000002", "evt/s_1/session/000001"]
    assert one.correlation_id("t/1") == two.correlation_id("t/1") == "corr/s_1/t_1"
    assert one.idempotency_key(ids[0], "t/1") != one.idempotency_key(ids[1], "t/1")
    assert one.invocation_id(ids[0], "think", "t/1") == f"pvi/s_1/t_1/{ids[0]}/think"


def test_a_missing_session_fails() -> None:
    with pytest.raises(EventError):
        Identity(" ")


def test_counters_continue_on_hand_over_and_are_dropped_with_the_turn() -> None:
    first = Identity("s")
    first.next_event_id("t")
    assert Identity("s", first.counters()).next_event_id("t") == "evt/s/t/000002"
    first.drop_turn("t")
    assert first.counters() == {}


def test_counters_are_bounded_and_the_session_keeps_its_own() -> None:
    ids = Identity("s")
    for turn in range(MAX_COUNTERS * 3):
        if turn % (MAX_COUNTERS // 2) == 0:
            ids.next_event_id()
        ids.next_event_id(f"t{turn}")
    assert len(ids.counters()) == MAX_COUNTERS
    assert ids.next_event_id() == "evt/s/session/000007"


def emitter() -> Emitter:
    return Emitter(session_id="s", mission_version="1", clock=ManualClock(), epoch=3)


def test_the_emitter_numbers_all_signals_of_a_session_in_one_order() -> None:
    source = emitter()
    drafts = [
        Draft("admit", Role.ADMISSION, "t", {"reason": "admission_capacity_allow"}),
        Draft("turn_open", Role.ARBITER, "t"),
        Draft("connected", Role.CONNECTION),
    ]
    signals = source.stamp(drafts)
    assert [item.runtime_sequence for item in signals] == [0, 1, 2]
    assert [item.event_scope for item in signals] == [EventScope.SESSION, EventScope.TURN, EventScope.SESSION]
    assert {item.authority_epoch for item in signals} == {3}
    assert len({item.event_id for item in signals}) == 3


def test_a_resumed_emitter_repeats_neither_sequences_nor_ids() -> None:
    before = [item.record() for item in emitter().stamp([Draft("stop", Role.CANCEL, "t")] * 3)]
    resumed = emitter()
    resumed.continue_after(before)
    after = resumed.signal("stop", Role.CANCEL, turn_id="t").record()
    assert after["runtime_sequence"] == 3
    assert after["event_id"] not in {item["event_id"] for item in before}


def test_the_emitter_hands_nothing_malformed_on() -> None:
    with pytest.raises(EventError):
        emitter().signal("abort", Role.ARBITER, turn_id="t")


def decision(**changes: Any) -> DecisionOutcome:
    base: dict[str, Any] = {
        "outcome_kind": OutcomeKind.REJECT,
        "phase": Phase.PRE_TURN,
        "scope": DecisionScope.TURN,
        "session_id": "s",
        "event_id": "e",
        "runtime_timestamp_ms": 0,
        "wall_clock_timestamp_ms": 0,
        "emitted_by": Role.ADMISSION,
        "reason": "because",
        "turn_id": "t",
    }
    return DecisionOutcome(**{**base, **changes})


#: Turn runtime §2.3 as (kind, emitter, phase) → scopes.
ALLOWED = {
    **{
        (kind, role, Phase.PRE_TURN): scopes
        for kind in (OutcomeKind.ADMIT, OutcomeKind.REJECT, OutcomeKind.DEFER)
        for role, scopes in (
            (Role.ADMISSION, {"tenant", "session", "turn"}),
            (Role.CP_ADMISSION, {"tenant", "session"}),
        )
    },
    (OutcomeKind.SHED, Role.ADMISSION, Phase.SCHEDULING_POINT): {"edge_enqueue", "edge_dequeue", "node_dispatch"},
    (OutcomeKind.STALE_EPOCH_REJECT, Role.GUARD, Phase.PRE_TURN): {"session", "turn"},
    (OutcomeKind.STALE_EPOCH_REJECT, Role.GUARD, Phase.SCHEDULING_POINT): {
        "edge_enqueue",
        "edge_dequeue",
        "node_dispatch",
    },
    (OutcomeKind.DEAUTHORIZED_DRAIN, Role.GUARD, Phase.PRE_TURN): {"session", "turn"},
    (OutcomeKind.DEAUTHORIZED_DRAIN, Role.GUARD, Phase.ACTIVE_TURN): {"turn"},
}


def test_exactly_the_specified_combinations_are_decisions() -> None:
    built = set()
    for kind in OutcomeKind:
        for role in Role:
            for phase in Phase:
                for scope in DecisionScope:
                    try:
                        decision(outcome_kind=kind, emitted_by=role, phase=phase, scope=scope, authority_epoch=1)
                    except EventError:
                        continue
                    built.add((kind, role, phase, scope.value))
    assert built == {(*key, scope) for key, scopes in ALLOWED.items() for scope in scopes}


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": ""},
        {"session_id": ""},
        {"event_id": ""},
        {"turn_id": None},
        {"outcome_kind": OutcomeKind.STALE_EPOCH_REJECT, "emitted_by": Role.GUARD},
        {
            "outcome_kind": OutcomeKind.SHED,
            "phase": Phase.ACTIVE_TURN,
            "scope": DecisionScope.EDGE_ENQUEUE,
        },
    ],
)
def test_incomplete_decisions_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        decision(**changes)


def test_a_decision_is_journalled_without_absent_members() -> None:
    assert "timestamp_ms" not in decision().record()
    assert decision().record()["outcome_kind"] == "reject"
