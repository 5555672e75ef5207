"""The arbiter: every opening fault alone and in any company, every rank, and the ends an operator sees."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.emitter import Emitter
from runtime.events.envelope import EventScope
from runtime.events.outcomes import DecisionScope, OutcomeKind
from runtime.kernel.clock import ManualClock
from runtime.kernel.codes import TURNS
from runtime.kernel.errors import ContractError
from runtime.kernel.outcomes import Exit, RunStatus
from runtime.turns import arbiter
from runtime.turns.arbiter import Capacity, Lease, OpenFacts, OpenResult, PolicyAdmission, Trigger
from runtime.turns.plan import PlanInputs

PLAN = PlanInputs(turn_id="t", mission_version="1", graph_definition_ref="g", authority_epoch=3)
GOOD = OpenFacts(session_id="s", turn_id="t", authority_epoch=3, plan=PLAN)

#: One fault per opening step, in the order in which they must win.
FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("snapshot", {"snapshot_valid": False}, "defer", "snapshot_invalid_or_missing"),
    ("capacity", {"capacity": Capacity.REJECT}, "reject", "admission_capacity_reject"),
    ("quota", {"quota": Capacity.DEFER}, "defer", "admission_quota_defer"),
    ("epoch", {"epoch_valid": False}, "stale_epoch_reject", "authority_epoch_mismatch"),
    ("authority", {"authorised": False}, "deauthorized_drain", "authority_revoked_before_open"),
    ("bundle", {"plan": None}, "defer", "turn_start_bundle_resolution_failed"),
    ("lease", {"lease": Lease(epoch=4, authorised=False)}, "deauthorized_drain", "authority_revoked_before_open"),
    (
        "policy",
        {"policy_admission": PolicyAdmission(kind=OutcomeKind.REJECT, reason="cp_admission_reject_policy")},
        "reject",
        "cp_admission_reject_policy",
    ),
    ("plan", {"plan": replace(PLAN, execution_profile="warp/v9")}, "defer", "plan_materialization_failed"),
]


def stamped(result: OpenResult) -> list[str]:
    """The result's signals and decision, through the gateway as the session would emit them."""
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock(), epoch=3)
    emitter.decide(result.decision)
    signals = emitter.stamp(result.signals)
    if not result.opened:
        assert [signal.event_scope for signal in signals] == [EventScope.SESSION]
    return [signal.signal for signal in signals]


def test_a_clean_proposal_opens_with_a_frozen_plan() -> None:
    result = arbiter.open_turn(GOOD)
    assert result.opened
    assert result.trigger == "turn_open"
    assert stamped(result) == ["admit", "turn_open"]
    assert result.plan is not None
    assert result.plan.turn_id == "t"
    assert result.decision.reason == "admission_capacity_allow"
    assert arbiter.open_turn(GOOD) == result


@pytest.mark.parametrize(("name", "fault", "trigger", "reason"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_each_fault_alone(name: str, fault: dict[str, Any], trigger: str, reason: str) -> None:
    result = arbiter.open_turn(replace(GOOD, **fault))
    assert (result.trigger, result.decision.reason, result.opened) == (trigger, reason, False)
    assert stamped(result) == [trigger]
    assert reason in TURNS


@pytest.mark.parametrize("size", [2, 3, len(FAULTS)])
def test_the_first_of_several_faults_wins(size: int) -> None:
    for several in combinations(FAULTS, size):
        facts = GOOD
        for _, fault, _, _ in reversed(several):
            facts = replace(facts, **fault)
        result = arbiter.open_turn(facts)
        assert (result.trigger, result.decision.reason) == several[0][2:]


def test_failure_policies_accept_only_reject() -> None:
    for policy, expected in [(Capacity.REJECT, "reject"), (Capacity.DEFER, "defer"), (Capacity.ALLOW, "defer")]:
        facts = replace(GOOD, plan=None, snapshot_failure_policy=policy, plan_failure_policy=policy)
        assert arbiter.open_turn(facts).trigger == expected
        assert arbiter.open_turn(replace(facts, snapshot_valid=False)).trigger == expected


def test_a_lease_moves_the_epoch_only_when_it_has_one() -> None:
    with_lease = arbiter.open_turn(replace(GOOD, lease=Lease(epoch=9)))
    without = arbiter.open_turn(replace(GOOD, lease=Lease()))
    assert with_lease.plan is not None
    assert without.plan is not None
    assert (with_lease.plan.authority_epoch, without.plan.authority_epoch) == (9, 3)


def test_policy_admission_keeps_its_scope_and_names_no_turn() -> None:
    admission = PolicyAdmission(
        kind=OutcomeKind.DEFER, reason="cp_admission_defer_capacity", scope=DecisionScope.TENANT
    )
    result = arbiter.open_turn(replace(GOOD, policy_admission=admission))
    assert (result.decision.scope, result.decision.turn_id) == (DecisionScope.TENANT, None)
    assert result.signals[0].turn_id is None


def test_a_plan_for_another_turn_does_not_open_this_one() -> None:
    result = arbiter.open_turn(replace(GOOD, plan=replace(PLAN, turn_id="other")))
    assert result.decision.reason == "plan_materialization_failed"
    assert "other" in result.diagnostic
    with pytest.raises(ContractError):
        arbiter.open_turn(replace(GOOD, turn_id=""))


#: The weakest first, so that each entry must win over all before it.
BY_RANK: list[tuple[Trigger, str | None, RunStatus, int]] = [
    (arbiter.succeeded(), None, RunStatus.SUCCEEDED, Exit.OK),
    (arbiter.no_legal_path("control_lane_overflow"), "control_lane_overflow", RunStatus.FAILED, Exit.FAILED),
    (arbiter.evidence_lost(), "recording_evidence_unavailable", RunStatus.FAILED, Exit.FAILED),
    (arbiter.channel_lost(), "transport_disconnect_or_stall", RunStatus.FAILED, Exit.FAILED),
    (arbiter.node_failed("op.test_failed"), "node_timeout_or_failure", RunStatus.FAILED, Exit.FAILED),
    (arbiter.provider_failed("PROVIDER_TIMEOUT"), "provider_failure", RunStatus.FAILED, Exit.FAILED),
    (arbiter.budget_exhausted(by_time=True), "budget_exhausted", RunStatus.TIMED_OUT, Exit.TIMED_OUT),
    (arbiter.cancelled(), "cancelled", RunStatus.CANCELLED, Exit.INTERRUPTED),
    (arbiter.authority_lost(), "authority_loss", RunStatus.FAILED, Exit.FAILED),
]


def test_nothing_pending_chooses_nothing() -> None:
    assert arbiter.choose([]) is None


@pytest.mark.parametrize("index", range(len(BY_RANK)))
def test_each_rank_alone_and_above_all_weaker_ones(index: int) -> None:
    trigger, reason, status, exit_code = BY_RANK[index]
    for company in ([trigger], [*(item[0] for item in BY_RANK[:index]), trigger]):
        terminal = arbiter.choose(company)
        assert terminal is not None
        assert terminal.trigger is trigger
        assert (terminal.ending.reason, terminal.ending.status, terminal.ending.exit_code) == (
            reason,
            status,
            exit_code,
        )
        assert len(terminal.superseded) == len(company) - 1
        assert terminal.commits is (index == 0)
    assert reason is None or reason in TURNS


@given(st.permutations(range(len(BY_RANK))), st.integers(1, len(BY_RANK)))
def test_the_order_of_arrival_never_matters_between_ranks(order: list[int], count: int) -> None:
    chosen = arbiter.choose([BY_RANK[index][0] for index in order[:count]])
    assert chosen is not None
    assert chosen.trigger is BY_RANK[max(order[:count])][0]


@pytest.mark.parametrize(
    ("code", "status", "reason", "exit_code", "journal"),
    [
        ("op.test_failed", RunStatus.FAILED, "node_timeout_or_failure", 1, "failed"),
        ("runtime.timeout", RunStatus.FAILED, "node_timeout_or_failure", 1, "failed"),
        (None, RunStatus.FAILED, "node_timeout_or_failure", 1, "failed"),
        ("op.policy_denied", RunStatus.FAILED, "policy_refused", 4, "failed"),
        ("approval.refused", RunStatus.FAILED, "approval_refused", 3, "failed"),
        ("op.budget_exceeded", RunStatus.FAILED, "budget_exhausted", 5, "failed"),
        ("op.env_deadline", RunStatus.TIMED_OUT, "budget_exhausted", 124, "timed_out"),
        ("op.external_modification", RunStatus.FAILED, "halted", 1, "failed"),
        ("op.kill_switch", RunStatus.CANCELLED, "cancelled", 130, "halted"),
        ("KILL_SWITCH", RunStatus.CANCELLED, "cancelled", 130, "halted"),
        ("op.op_cancelled", RunStatus.CANCELLED, "cancelled", 130, "cancelled"),
        ("runtime.canceled", RunStatus.CANCELLED, "cancelled", 130, "cancelled"),
    ],
)
def test_a_node_failure_ends_as_its_code_says(
    code: str | None, status: RunStatus, reason: str, exit_code: int, journal: str
) -> None:
    terminal = arbiter.choose([arbiter.node_failed(code)])
    assert terminal is not None
    assert (terminal.ending.status, terminal.ending.reason, terminal.ending.exit_code) == (status, reason, exit_code)
    assert terminal.journal_status == journal
    assert terminal.record()["code"] == code


def test_the_other_ends_of_ruling_r4() -> None:
    ends = [
        (arbiter.succeeded(skipped=True), RunStatus.SKIPPED, 0, "skipped"),
        (arbiter.succeeded(), RunStatus.SUCCEEDED, 0, "completed"),
        (arbiter.cancelled("operator_cancel", terminated=True), RunStatus.CANCELLED, 143, "cancelled"),
        (arbiter.cancelled("kill_switch"), RunStatus.CANCELLED, 130, "halted"),
        (arbiter.budget_exhausted(by_time=False), RunStatus.FAILED, 5, "failed"),
    ]
    for trigger, status, exit_code, journal in ends:
        terminal = arbiter.choose([trigger])
        assert terminal is not None
        assert (terminal.ending.status, terminal.ending.exit_code) == (status, exit_code)
        assert terminal.journal_status == journal


@pytest.mark.parametrize(
    ("trigger", "before", "last"),
    [
        (arbiter.authority_lost(), ["deauthorized_drain"], "abort"),
        (arbiter.cancelled(), [], "abort"),
        (arbiter.budget_exhausted(by_time=True), ["budget_warning", "budget_exhausted"], "abort"),
        (arbiter.node_failed("op.test_failed"), [], "abort"),
        (arbiter.channel_lost(), ["disconnected", "stall"], "abort"),
        (arbiter.evidence_lost(), [], "abort"),
        (arbiter.succeeded(), [], "commit"),
    ],
)
def test_signals_of_an_end_pass_the_gateway_in_order(trigger: Trigger, before: list[str], last: str) -> None:
    terminal = arbiter.choose([trigger])
    assert terminal is not None
    emitter = Emitter(session_id="s", mission_version="1", clock=ManualClock(), epoch=3)
    drafts = [
        *arbiter.preceding_signals(terminal, "t"),
        arbiter.terminal_signal(terminal, "t"),
        arbiter.close_signal("t"),
    ]
    signals = emitter.stamp(drafts)
    assert [signal.signal for signal in signals] == [*before, last, "close"]
    assert [signal.runtime_sequence for signal in signals] == list(range(len(signals)))
    decision = arbiter.preceding_decision(terminal, "t")
    assert (decision is not None) is (before == ["deauthorized_drain"])
    if decision is not None:
        assert emitter.decide(decision).phase.value == "active_turn"


@pytest.mark.parametrize("trigger", [arbiter.succeeded(), arbiter.cancelled(), arbiter.node_failed("op.x")])
def test_lost_evidence_replaces_any_end_and_keeps_its_reason(trigger: Trigger) -> None:
    terminal = arbiter.choose([trigger])
    assert terminal is not None
    replaced = arbiter.without_evidence(terminal)
    assert replaced.ending.reason == "recording_evidence_unavailable"
    assert not replaced.commits
    assert replaced.superseded_reason == (terminal.ending.reason or "commit")
    assert replaced.superseded[0] is trigger
    assert replaced.record()["superseded_reason"] == replaced.superseded_reason
