"""Sessions and turns: every pair of both tables, overlap policies, late events, tombstones, pausing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.emitter import Emitter
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError
from runtime.turns.prelude import TriggerSource, propose
from runtime.turns.session import (
    DRAIN_DEADLINE,
    LATE_WINDOW,
    MAX_TOMBSTONES,
    SESSION_TABLE,
    TURN_TABLE,
    Admission,
    LatePolicy,
    LateVerdict,
    OverlapPolicy,
    Session,
    SessionManager,
    SessionState,
    TurnState,
)

SESSION_TRIGGERS = sorted({trigger for _, trigger in SESSION_TABLE})
TURN_TRIGGERS = sorted({trigger for _, trigger in TURN_TABLE})


def session(clock: ManualClock | None = None, overlap: OverlapPolicy = OverlapPolicy.QUEUE) -> Session:
    made = Session("s", clock=clock or ManualClock(), overlap=overlap)
    made.move("link_connected")
    return made


def close(made: Session, turn_id: str, *, outcome: str = "commit") -> None:
    if made.turn_state(turn_id) is TurnState.OPENING:
        made.advance(turn_id, "turn_open")
    made.advance(turn_id, outcome, reason=None if outcome == "commit" else "cancelled")
    made.advance(turn_id, "close")


REACH_SESSION = {
    SessionState.CONNECTING: [],
    SessionState.ACTIVE: ["link_connected"],
    SessionState.DRAINING: ["link_connected", "drain_requested"],
    SessionState.ENDED: ["session_end"],
}
REACH_TURN = {
    TurnState.IDLE: [],
    TurnState.OPENING: ["turn_open_proposed"],
    TurnState.ACTIVE: ["turn_open_proposed", "turn_open"],
    TurnState.TERMINAL: ["turn_open_proposed", "turn_open", "commit"],
    TurnState.CLOSED: ["turn_open_proposed", "turn_open", "commit", "close"],
}


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("trigger", [*SESSION_TRIGGERS, "nonsense"])
def test_every_session_pair(state: SessionState, trigger: str) -> None:
    made = Session("s", clock=ManualClock())
    for step in REACH_SESSION[state]:
        made.move(step)
    before = made.status()
    if (state, trigger) in SESSION_TABLE:
        transition = made.move(trigger)
        assert made.state is SESSION_TABLE[state, trigger]
        assert (transition.before, transition.after, transition.deterministic) == (state.value, made.state.value, True)
        return
    messages = set()
    for _ in range(2):
        with pytest.raises(ContractError) as caught:
            made.move(trigger)
        assert caught.value.code == "invalid_transition"
        messages.add(caught.value.message)
    assert len(messages) == 1, "the diagnostic is deterministic"
    assert (made.state, made.status()) == (state, before)


def step(made: Session, trigger: str) -> None:
    if trigger == "turn_open_proposed":
        made.open_turn("t")
    else:
        made.advance("t", trigger)


@pytest.mark.parametrize("state", TurnState)
@pytest.mark.parametrize("trigger", [*TURN_TRIGGERS, "nonsense"])
def test_every_turn_pair(state: TurnState, trigger: str) -> None:
    made = session()
    for earlier in REACH_TURN[state]:
        step(made, earlier)
    assert made.turn_state("t") is state
    if (state, trigger) in TURN_TABLE:
        step(made, trigger)
        assert made.turn_state("t") is TURN_TABLE[state, trigger]
        return
    with pytest.raises(ContractError) as caught:
        step(made, trigger)
    assert caught.value.code == "invalid_transition"
    assert made.turn_state("t") is state


def test_a_refused_id_may_be_proposed_again_and_a_closed_one_may_not() -> None:
    made = session()
    for kind in ("reject", "defer", "stale_epoch_reject", "deauthorized_drain"):
        made.open_turn("t")
        made.advance("t", kind)
        assert made.current is None
    made.open_turn("t")
    close(made, "t")
    with pytest.raises(ContractError):
        made.open_turn("t")


def test_an_opening_that_fails_leaves_the_session_usable() -> None:
    made = session()
    made.open_turn("t")
    made.fail_open("t")
    assert made.turn_state("t") is TurnState.IDLE
    assert made.status().last_reason == "open_path_internal_error"
    assert made.propose("u").admission is Admission.OPENING


def test_opening_is_a_single_slot() -> None:
    made = session()
    made.open_turn("a")
    with pytest.raises(ContractError):
        made.open_turn("b")
    assert made.turn_state("b") is TurnState.IDLE


def test_overlap_reject() -> None:
    made = session(overlap=OverlapPolicy.REJECT)
    made.propose("a")
    answer = made.propose("b")
    assert answer.admission is Admission.REJECTED
    assert answer.decision is not None
    assert (answer.decision.reason, answer.decision.emitted_by.value) == ("turn_overlap_rejected", "admission")
    assert [draft.signal for draft in answer.signals] == ["reject"]
    assert made.current == "a"


def test_overlap_queue_is_bounded_and_hands_out_after_close() -> None:
    made = session()
    made.propose("a")
    assert [made.propose(f"q{n}").admission for n in range(8)] == [Admission.QUEUED] * 8
    overflow = made.propose("q8")
    assert overflow.admission is Admission.DEFERRED
    assert overflow.decision is not None
    assert overflow.decision.reason == "turn_overlap_deferred"
    assert made.next_queued() is None
    close(made, "a")
    assert made.next_queued() == "q0"
    made.open_turn("q0")
    assert made.next_queued() is None
    with pytest.raises(ContractError):
        made.propose("q1")


def test_a_newcomer_does_not_overtake_the_queue() -> None:
    made = session()
    made.propose("a")
    made.propose("b")
    close(made, "a")
    assert made.propose("c").admission is Admission.QUEUED
    assert [made.next_queued(), made.next_queued()] == ["b", "c"]


def test_overlap_preempt_interrupts_and_gates_only_after_close() -> None:
    made = session()
    made.propose("a")
    made.propose("waiting")
    answer = made.propose("urgent", overlap=OverlapPolicy.PREEMPT)
    assert (answer.admission, answer.preempted) == (Admission.PREEMPTING, "a")
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock())
    stamped = emitter.stamp(answer.signals)
    assert [(item.signal, item.reason, item.turn_id) for item in stamped] == [
        ("barge_in", "preempted", "a"),
        ("cancel", "preempted", "a"),
    ]
    assert stamped[1].scope == "turn"
    assert made.turn_state("a") is TurnState.OPENING
    close(made, "a", outcome="abort")
    assert made.next_queued() == "urgent"


@pytest.mark.parametrize("policy", OverlapPolicy)
def test_identical_proposals_have_identical_traces(policy: OverlapPolicy) -> None:
    def trace() -> list[object]:
        made = session(overlap=policy)
        return [made.propose(name) for name in ("a", "b", "c")]

    assert trace() == trace()


def test_refusal_signals_pass_the_gateway() -> None:
    made = session(overlap=OverlapPolicy.REJECT)
    made.propose("a")
    answer = made.propose("b")
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock())
    assert answer.decision is not None
    assert emitter.decide(answer.decision).turn_id == "b"
    assert emitter.stamp(answer.signals)[0].event_scope.value == "session"


def test_draining_takes_no_new_turns_and_ends_when_empty() -> None:
    clock = ManualClock()
    made = session(clock)
    made.propose("a")
    made.propose("b")
    made.move("runtime_shutdown")
    answer = made.propose("c")
    assert answer.admission is Admission.REJECTED
    assert answer.decision is not None
    assert answer.decision.reason == "drain_requested"
    assert made.queued == ()
    with pytest.raises(ContractError, match="turns left"):
        made.move("drained")
    close(made, "a")
    made.move("drained")
    assert made.status().status == "ended"


def test_the_drain_deadline() -> None:
    clock = ManualClock()
    made = session(clock)
    assert not made.drain_overdue()
    made.move("drain_requested")
    clock.advance(DRAIN_DEADLINE - 0.001)
    assert not made.drain_overdue()
    clock.advance(0.001)
    assert made.drain_overdue()
    made.move("drain_deadline")


def test_a_hard_stop_lets_the_active_turn_end_in_order() -> None:
    made = session()
    made.open_turn("t")
    made.advance("t", "turn_open")
    made.move("session_end")
    close(made, "t", outcome="abort")
    assert made.turn_state("t") is TurnState.CLOSED
    with pytest.raises(ContractError):
        made.propose("u")


def test_pause_is_a_sub_state_of_active() -> None:
    made = session()
    made.open_turn("t")
    with pytest.raises(ContractError):
        made.pause("t")
    made.advance("t", "turn_open")
    assert made.pause("t")
    assert not made.pause("t"), "pausing twice changes nothing"
    assert (made.paused("t"), made.turn_state("t")) == (True, TurnState.ACTIVE)
    assert made.resume("t")
    assert not made.resume("t")
    made.pause("t")
    made.advance("t", "abort", reason="cancelled")
    assert not made.paused("t")
    with pytest.raises(ContractError):
        made.resume("t")


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        (LatePolicy.DROP, LateVerdict.DROPPED),
        (LatePolicy.REMAP_NEXT_TURN, LateVerdict.PROPOSE_NEW_TURN),
        (LatePolicy.DIAGNOSTICS_ONLY, LateVerdict.DIAGNOSTICS),
        (None, LateVerdict.DIAGNOSTICS),
    ],
)
def test_late_events_check_the_epoch_before_the_policy(policy: LatePolicy | None, verdict: LateVerdict) -> None:
    made = session()
    assert made.late_event(epoch=2, current_epoch=2, policy=policy) is verdict
    assert made.late_event(epoch=1, current_epoch=2, policy=policy) is LateVerdict.STALE_EPOCH


def test_tombstones_keep_the_end_for_a_while_and_are_bounded() -> None:
    clock = ManualClock()
    made = session(clock)
    made.open_turn("t", epoch=4)
    close(made, "t", outcome="abort")
    stone = made.tombstone("t")
    assert stone is not None
    assert (stone.outcome, stone.reason, stone.epoch) == ("abort", "cancelled", 4)
    clock.advance(LATE_WINDOW)
    assert made.tombstone("t") is None
    for n in range(MAX_TOMBSTONES + 5):
        made.open_turn(f"t{n}")
        close(made, f"t{n}")
    assert made.tombstone("t4") is None
    assert made.tombstone("t5") is not None


def test_the_operators_view() -> None:
    clock = ManualClock()
    manager = SessionManager(clock)
    made = manager.open("s")
    assert manager.status("s").status == "connected"
    made.move("link_connected")
    made.open_turn("t")
    assert manager.status("s").status == "running"
    made.degraded.add("recording_level_downgraded")
    assert manager.status("s").status == "degraded"
    assert (manager.status("x").status, manager.status("x").last_reason) == ("ended", "session_not_found")


def test_the_manager_refuses_duplicates_and_unknown_sessions() -> None:
    manager = SessionManager(ManualClock())
    manager.open("s")
    with pytest.raises(ContractError):
        manager.open("s")
    with pytest.raises(ContractError, match="session_not_found"):
        manager.get("t")
    assert manager.get("s").session_id == "s"


def test_the_manager_forgets_ended_sessions_but_no_living_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.turns.session.MAX_SESSIONS", 2)
    manager = SessionManager(ManualClock())
    manager.open("a")
    manager.open("b")
    with pytest.raises(ContractError, match="admission_capacity_reject"):
        manager.open("c")
    manager.get("a").move("session_end")
    manager.open("c")
    assert manager.status("a").last_reason == "session_not_found"


@pytest.mark.parametrize("make", [lambda: session().open_turn(""), lambda: Session("", clock=ManualClock())])
def test_empty_ids_are_hard_errors(make: Callable[[], object]) -> None:
    with pytest.raises(ContractError):
        make()


@given(st.lists(st.tuples(st.sampled_from([*TURN_TRIGGERS, "propose"]), st.sampled_from("abc")), max_size=60))
def test_any_history_keeps_one_turn_and_one_terminal_each(history: list[tuple[str, str]]) -> None:
    made = session()
    terminals: dict[str, int] = {}
    for trigger, turn in history:
        before = (made.current, made.queued, [made.turn_state(name) for name in "abc"])
        try:
            if trigger == "propose":
                made.propose(turn)
            elif trigger == "turn_open_proposed":
                made.open_turn(turn)
            else:
                made.advance(turn, trigger)
        except ContractError:
            assert before == (made.current, made.queued, [made.turn_state(name) for name in "abc"])
            continue
        if trigger in ("commit", "abort"):
            terminals[turn] = terminals.get(turn, 0) + 1
        states = [made.turn_state(name) for name in "abc"]
        assert sum(state not in (TurnState.IDLE, TurnState.CLOSED) for state in states) <= 1
    assert all(count == 1 for count in terminals.values())


def test_a_proposal_has_no_authority_and_repeats_itself() -> None:
    def run() -> object:
        clock = ManualClock()
        emitter = Emitter(session_id="s", mission_version="2", clock=clock)
        clock.advance(1.5)
        return propose(emitter, turn_id="t", source=TriggerSource.SCHEDULE, input_ingress_ms=-5)

    first = run()
    assert first == run()
    made = session()
    proposal = propose(Emitter(session_id="s", mission_version="2", clock=ManualClock()), turn_id="t")
    assert (proposal.signal.signal, proposal.signal.event_scope.value, proposal.signal.scope) == (
        "turn_open_proposed",
        "session",
        "turn",
    )
    assert proposal.reason == "session_turn_intent"
    assert made.current is None
    with pytest.raises(ContractError):
        propose(Emitter(session_id="s", mission_version="2", clock=ManualClock()), turn_id="")
