"""The egress fence: the order of its checks, and that every accepted output ends exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.egress.fence import EgressDecision, EgressFence, Output
from runtime.egress.scopes import CancelTree, Scope, ScopeKind
from runtime.events.emitter import Emitter
from runtime.events.envelope import ControlSignal
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError

EPOCH = 7


class Bench:
    """A fence with one turn and two nodes in front of it."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.fence = EgressFence(
            Emitter(session_id="s", mission_version="1", clock=clock, epoch=EPOCH), epoch=lambda: EPOCH
        )
        self.tree = CancelTree(clock)
        self.session = self.tree.open(ScopeKind.SESSION, "s")
        self.turn = self.tree.open(ScopeKind.TURN, "t", self.session)
        self.nodes = [self.tree.open(ScopeKind.NODE, f"n{n}", self.turn) for n in range(2)]

    def offer(self, output_id: str = "o", scope: Scope | None = None, **changes: Any) -> EgressDecision:
        base: dict[str, Any] = {"output_id": output_id, "turn_id": "t", "scope": scope or self.nodes[0], "epoch": EPOCH}
        return self.fence.decide(Output(**{**base, **changes}))


def names(signals: tuple[ControlSignal, ...]) -> list[str]:
    return [signal.signal for signal in signals]


def test_an_output_is_accepted_started_and_completed_once() -> None:
    bench = Bench()
    decision = bench.offer()
    assert decision.accepted
    assert names(decision.signals) == ["output_accepted"]
    assert names(bench.fence.started("o")) == ["playback_started"]
    assert bench.fence.started("o") == ()
    assert names(bench.fence.completed("o")) == ["playback_completed"]
    assert bench.fence.completed("o") == ()
    assert len(bench.fence) == 0


def test_completing_an_unstarted_output_starts_it_first() -> None:
    bench = Bench()
    bench.offer()
    assert names(bench.fence.completed("o")) == ["playback_started", "playback_completed"]


@pytest.mark.parametrize("level", range(3))
def test_after_a_fence_on_any_enclosing_scope_nothing_is_accepted(level: int) -> None:
    bench = Bench()
    [bench.session, bench.turn, bench.nodes[0]][level].fence("operator_cancel")
    decision = bench.offer()
    assert (decision.accepted, decision.reason) == (False, "cancel_fence_applied")
    assert names(decision.signals) == ["playback_cancelled"]
    assert decision.signals[0].late_after_cancel is True
    assert bench.fence.late_output_dropped_count == 1
    assert bench.offer("p", bench.nodes[1]).accepted is (level == 2)


def test_an_attempt_that_carries_the_cancel_is_itself_refused() -> None:
    bench = Bench()
    assert bench.offer(cancel_accepted=True).reason == "cancel_fence_applied"
    assert bench.nodes[0].fenced


@pytest.mark.parametrize(
    ("epoch", "reason"),
    [
        (EPOCH - 1, "authority_epoch_mismatch"),
        (None, "authority_validation_failed"),
        (-1, "authority_validation_failed"),
    ],
)
def test_the_epoch_outranks_the_fence(epoch: int | None, reason: str) -> None:
    bench = Bench()
    bench.turn.fence("operator_cancel")
    decision = bench.offer(epoch=epoch, cancel_accepted=True)
    assert (decision.accepted, decision.reason) == (False, reason)
    assert names(decision.signals) == ["stale_epoch_reject"]
    assert bench.fence.late_output_dropped_count == 0
    assert bench.tree.generation == 1, "a stale writer cannot cancel anything"
    assert bench.nodes[0].fence_in_force is bench.turn.fence_in_force


def test_a_turn_that_is_not_active_or_is_over_shows_nothing_new() -> None:
    bench = Bench()
    assert bench.offer(turn_active=False) == EgressDecision(accepted=False, reason="turn_not_active")
    bench.turn.close()
    assert bench.offer().reason == "turn_not_active"


def test_queued_outputs_end_with_exactly_one_cancel_each() -> None:
    bench = Bench()
    for n in range(3):
        bench.offer(f"o{n}")
    bench.offer("other", bench.nodes[1])
    bench.fence.started("o0")
    bench.nodes[0].fence("operator_cancel")
    assert bench.fence.suppress_fenced()[0].causal_parent_id == "o0"
    assert bench.fence.suppress_fenced() == ()
    assert bench.fence.started("o1") == ()
    assert names(bench.fence.completed("other")) == ["playback_started", "playback_completed"]
    assert len(bench.fence) == 0


def test_a_fence_between_acceptance_and_rendering_stops_the_rendering() -> None:
    bench = Bench()
    bench.offer("o")
    bench.offer("p")
    bench.fence.started("p")
    bench.turn.fence("operator_cancel")
    assert names(bench.fence.started("o")) == ["playback_cancelled"]
    assert names(bench.fence.completed("p")) == ["playback_cancelled"]


def test_delivery_goes_on_after_the_turn_has_ended() -> None:
    bench = Bench()
    bench.offer()
    assert not bench.offer("late", turn_active=False).accepted
    assert names(bench.fence.started("o")) == ["playback_started"]


def test_hard_errors() -> None:
    bench = Bench()
    for bad in ({"output_id": ""}, {"turn_id": ""}, {"payload_bytes": -1}):
        with pytest.raises(ContractError):
            bench.offer(**bad)
    bench.offer()
    with pytest.raises(ContractError, match="offered before"):
        bench.offer()


def test_ten_thousand_turns_leave_nothing_pending() -> None:
    bench = Bench()
    for n in range(10_000):
        bench.offer(f"o{n}")
        bench.fence.completed(f"o{n}")
    assert len(bench.fence) == 0


STEPS = st.tuples(st.sampled_from(["offer", "start", "complete", "fence", "suppress"]), st.integers(0, 5))


@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_nothing_is_accepted_or_started_after_the_fence(steps: list[tuple[str, int]]) -> None:
    bench = Bench()
    ended: dict[str, int] = {}
    for step, n in steps:
        fenced = bench.nodes[0].fenced
        signals: tuple[ControlSignal, ...] = ()
        if step == "offer":
            if f"o{n}" in ended:
                continue
            signals = bench.offer(f"o{n}").signals if f"o{n}" not in bench.fence._pending else ()
        elif step == "start":
            signals = bench.fence.started(f"o{n}")
        elif step == "complete":
            signals = bench.fence.completed(f"o{n}")
        elif step == "suppress":
            signals = bench.fence.suppress_fenced()
        else:
            bench.nodes[0].fence("operator_cancel")
        if fenced:
            assert not {"output_accepted", "playback_started"} & set(names(signals))
        for signal in signals:
            if signal.signal in ("playback_completed", "playback_cancelled"):
                assert signal.causal_parent_id is not None
                ended[signal.causal_parent_id] = ended.get(signal.causal_parent_id, 0) + 1
    assert all(count == 1 for count in ended.values())
