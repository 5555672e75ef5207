"""Plans: stable, sensitive, immutable; their two hashes; profiles; determinism; active time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.envelope import Lane
from runtime.flow.lanes import LaneLimits
from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError
from runtime.turns.determinism import MAX_LEDGER, DeterminismContext, Ledger, Source, issue, merged, seed_of
from runtime.turns.plan import PlanInputs, Provenance, ResolvedTurnPlan, build_plan, load_plan
from runtime.turns.profiles import (
    PROFILES,
    Budgets,
    EdgePolicy,
    FlowControl,
    NodePolicy,
    PlanError,
    RecordingPolicy,
    Watermarks,
    profile,
    surfaces,
)
from runtime.turns.timer import ActiveTimer, clipped

CONTRACT = {"mission_hash": "sha256:" + "a" * 64, "inputs": {"goal": "x", "n": 2}, "nodes": ["a", "b"]}
INPUTS = PlanInputs(
    turn_id="t", mission_version="1", graph_definition_ref="graph/1", authority_epoch=3, contract=CONTRACT
)


def hashes(plan: ResolvedTurnPlan) -> tuple[str, str]:
    return plan.contract_hash, plan.plan_hash


def test_identical_inputs_in_any_order_give_an_identical_plan() -> None:
    plan = build_plan(INPUTS)
    assert build_plan(INPUTS) == plan
    reordered = {key: CONTRACT[key] for key in reversed(CONTRACT)}
    assert hashes(build_plan(replace(INPUTS, contract=reordered))) == hashes(plan)
    edges = profile("mission").surfaces.edge_buffer_policies
    two = {"b": edges["default"], "a": edges["default"]}
    pair = [surfaces("mission", edge_buffer_policies=order) for order in (two, dict(reversed(two.items())))]
    assert hashes(build_plan(replace(INPUTS, policies=pair[0]))) == hashes(
        build_plan(replace(INPUTS, policies=pair[1]))
    )


BUDGETS = profile("mission/v1").surfaces.budgets
OTHER_CONTRACT: list[dict[str, Any]] = [
    {"mission_version": "2"},
    {"graph_definition_ref": "graph/2"},
    {"execution_profile": "simple/v1"},
    {"contract": {**CONTRACT, "inputs": {"goal": "y", "n": 2}}},
    {"allowed_adaptive_actions": ("retry",)},
    {"policies": surfaces("mission", budgets=replace(BUDGETS, turn_ms=1))},
    {"policies": surfaces("mission", provider_bindings={"think": "scripted"})},
    {"policies": surfaces("mission", node_execution_policies={"a": NodePolicy(concurrency_limit=1)})},
    {"policies": surfaces("mission", recording_policy=RecordingPolicy(level="L1", allowed_replay_modes=("view",)))},
]
OTHER_LAUNCH: list[dict[str, Any]] = [
    {"turn_id": "u"},
    {"authority_epoch": 4},
    {"provenance": Provenance(provider_health="provider-health/v2")},
    {"candidates": {"think": ("b", "a")}},
]


@pytest.mark.parametrize("change", OTHER_CONTRACT)
def test_each_member_of_the_contract_changes_both_hashes(change: dict[str, Any]) -> None:
    before, after = build_plan(INPUTS), build_plan(replace(INPUTS, **change))
    assert before.contract_hash != after.contract_hash
    assert before.plan_hash != after.plan_hash


@pytest.mark.parametrize("change", OTHER_LAUNCH)
def test_what_belongs_to_one_launch_changes_the_plan_hash_only(change: dict[str, Any]) -> None:
    before, after = build_plan(INPUTS), build_plan(replace(INPUTS, **change))
    assert before.contract_hash == after.contract_hash
    assert before.plan_hash != after.plan_hash
    assert before.determinism.seed != after.determinism.seed


def test_a_plan_cannot_change_and_later_changes_of_its_inputs_do_not_leak_in() -> None:
    contract: dict[str, Any] = {"inputs": {"items": [1, 2]}}
    plan = build_plan(replace(INPUTS, contract=contract))
    contract["inputs"]["items"].append(3)
    contract["more"] = True
    assert json.loads(plan.document())["contract"]["contract"] == {"inputs": {"items": [1, 2]}}
    with pytest.raises(FrozenInstanceError):
        plan.turn_id = "u"  # type: ignore[misc]
    for mapping in (plan.contract, plan.contract["inputs"], plan.policies.edge_buffer_policies, plan.candidates):
        with pytest.raises(TypeError):
            mapping["x"] = 1
    handling = plan.policies.edge_buffer_policies["default"].lane_handling
    with pytest.raises(TypeError):
        handling["DataLane"] = "merge"  # type: ignore[index]


@pytest.mark.parametrize("change", [{}, *OTHER_CONTRACT, *OTHER_LAUNCH])
def test_a_stored_plan_reads_back_as_itself(change: dict[str, Any]) -> None:
    plan = build_plan(replace(INPUTS, **change))
    loaded = load_plan(parse_strict(plan.document()))
    assert loaded == plan
    assert loaded.document() == plan.document()


def test_a_stored_plan_that_was_touched_is_refused() -> None:
    record = json.loads(build_plan(INPUTS).document())
    for path, value in [
        (("turn_id",), "u"),
        (("contract", "policies", "budgets", "turn_ms"), 1),
        (("plan_hash",), "x"),
    ]:
        touched = json.loads(json.dumps(record))
        inner = touched
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(PlanError, match="hashes"):
            load_plan(touched)
    with pytest.raises(PlanError, match="malformed"):
        load_plan({"contract": {}})


@pytest.mark.parametrize("name", ["turn_id", "mission_version", "graph_definition_ref", "execution_profile"])
def test_identity_members_are_required(name: str) -> None:
    with pytest.raises(PlanError) as caught:
        build_plan(replace(INPUTS, **{name: ""}))
    assert caught.value.code == "plan_materialization_failed"


@pytest.mark.parametrize(
    "given",
    [{"turn_id": "u"}, {"mission_version": "9"}, {"authority_epoch": 4}, {"turn_id": "t", "authority_epoch": 0}],
)
def test_a_plan_refuses_to_be_used_as_another(given: dict[str, Any]) -> None:
    plan = build_plan(INPUTS)
    plan.verify(turn_id="t", mission_version="1", authority_epoch=3)
    plan.verify()
    with pytest.raises(PlanError) as caught:
        plan.verify(**given)
    assert caught.value.code == "plan_identity_mismatch"


def test_every_surface_says_where_it_came_from() -> None:
    defaults = build_plan(INPUTS).policies.sources
    assert set(defaults.values()) == {"execution_profile/mission/v1"}
    mixed = surfaces("simple", budgets=BUDGETS).sources
    assert mixed["budgets"] == "explicit"
    assert mixed["flow_control"] == "execution_profile/simple/v1"
    base = profile("simple").surfaces
    assert set(build_plan(replace(INPUTS, policies=base)).policies.sources.values()) == {"explicit"}
    with pytest.raises(PlanError, match="policy surface"):
        surfaces("simple", budget=BUDGETS)


def test_profiles_carry_the_published_numbers() -> None:
    simple, mission = PROFILES["simple/v1"].surfaces, PROFILES["mission/v1"].surfaces
    budgets = simple.budgets
    assert (budgets.turn_ms, budgets.node_ms, budgets.path_ms, budgets.edge_ms) == (2_000, 800, 1_800, 250)
    assert (budgets.provider_attempt_ms, budgets.cancel_grace_ms, budgets.hook_ms) == (1_000, 75, 250)
    budgets = mission.budgets
    assert (budgets.operation_ms, budgets.node_ms, budgets.turn_ms) == (600_000, 1_800_000, 3_600_000)
    assert (budgets.provider_attempt_ms, budgets.hook_ms, budgets.approval_ms) == (120_000, 10_000, None)
    edge = mission.edge_buffer_policies["default"]
    assert (edge.max_queue_items, edge.max_queue_bytes, edge.max_queue_ms) == (1_024, 1_048_576, None)
    assert mission.recording_policy.level == "L2"
    assert set(mission.recording_policy.allowed_replay_modes) == {"view", "recorded", "live"}


def test_profile_names() -> None:
    assert profile("simple") is profile(" simple/v1 ") is PROFILES["simple/v1"]
    for unknown in ("", "mission/v2", "fast"):
        with pytest.raises(PlanError, match="not supported"):
            profile(unknown)


def edge(**changes: Any) -> EdgePolicy:
    return replace(profile("simple").surfaces.edge_buffer_policies["default"], **changes)


def flow(**changes: Any) -> FlowControl:
    return replace(profile("simple").surfaces.flow_control, **changes)


def test_a_missions_stream_edges_are_bounded_and_block_for_a_declared_time() -> None:
    """Ruling R32: 1,024 items and 1 MiB; a plan whose edges do not block makes nobody wait."""
    plan = build_plan(INPUTS)
    assert plan.stream_limits == LaneLimits(1024, 768, 384, 1024 * 1024)
    assert plan.stream_wait_seconds == 30
    edge_record = plan.record()["contract"]["policies"]["edge_buffer_policies"]["default"]
    assert edge_record["lane_handling"] == {
        "ControlLane": "non_blocking_priority",
        "DataLane": "block",
        "TelemetryLane": "best_effort_drop",
    }
    assert build_plan(replace(INPUTS, execution_profile="simple/v1")).stream_wait_seconds == 0


LANES = ("ControlLane", "DataLane", "TelemetryLane")


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(BUDGETS, turn_ms=0),
        lambda: replace(BUDGETS, cancel_grace_ms=-1),
        lambda: Watermarks(high=0, low=0),
        lambda: Watermarks(high=2, low=2),
        lambda: edge(strategy="vanish"),
        lambda: edge(max_queue_items=0),
        lambda: edge(strategy="block"),
        lambda: edge(lane_handling={"DataLane": "drop"}),
        lambda: edge(lane_handling=dict.fromkeys(LANES, "drop")),
        lambda: flow(mode_by_lane=dict.fromkeys(LANES, "shout")),
        lambda: flow(shedding_by_lane=dict.fromkeys(LANES, "none")),
        lambda: flow(watermarks={}),
        lambda: NodePolicy(concurrency_limit=-1),
        lambda: RecordingPolicy(level="L3", allowed_replay_modes=("view",)),
        lambda: RecordingPolicy(level="L0", allowed_replay_modes=("view", "view")),
        lambda: RecordingPolicy(level="L0", allowed_replay_modes=("dream",)),
        lambda: surfaces("simple", provider_bindings={}),
        lambda: surfaces("simple", provider_bindings={"think": ""}),
        lambda: surfaces("simple", edge_buffer_policies={"": edge()}),
        lambda: surfaces("simple", node_execution_policies={"": NodePolicy()}),
        lambda: Provenance(routing_view=""),
        lambda: build_plan(replace(INPUTS, allowed_adaptive_actions=("retry", "retry"))),
        lambda: build_plan(replace(INPUTS, allowed_adaptive_actions=("hope",))),
        lambda: build_plan(replace(INPUTS, authority_epoch=-1)),
    ],
)
def test_invalid_surfaces_are_refused(make: Any) -> None:
    with pytest.raises(PlanError):
        make()


def test_all_budgets_are_required_together() -> None:
    with pytest.raises(TypeError):
        Budgets(turn_ms=1)  # type: ignore[call-arg]


def test_an_empty_action_list_is_an_answer_and_actions_have_one_order() -> None:
    assert build_plan(replace(INPUTS, allowed_adaptive_actions=())).allowed_adaptive_actions == ()
    given = build_plan(replace(INPUTS, allowed_adaptive_actions=("fallback", "retry")))
    assert given.allowed_adaptive_actions == ("retry", "fallback")


def test_lane_bounds_follow_from_the_plan() -> None:
    plan = build_plan(replace(INPUTS, execution_profile="simple"))
    assert plan.lane_limits() == {
        Lane.CONTROL: LaneLimits(64, 20, 10),
        Lane.DATA: LaneLimits(100, 100, 50),
        Lane.TELEMETRY: LaneLimits(200, 200, 100),
    }
    assert plan.lane_limits({Lane.DATA: 8}) == {**plan.lane_limits(), Lane.DATA: LaneLimits(8, 4, 2)}
    assert plan.edge_prefix == "plan/" + plan.plan_hash[7:19]
    edges = {"b": edge(max_queue_items=500), "a": edge(max_queue_items=300)}
    named = build_plan(replace(INPUTS, policies=surfaces("simple", edge_buffer_policies=edges)))
    assert named.lane_limits()[Lane.DATA].limit == 300


# -- determinism ------------------------------------------------------------------------------------------------


def test_the_seed_follows_from_plan_hash_and_epoch_and_has_63_bits() -> None:
    assert seed_of("p", 1) == seed_of("p", 1)
    assert seed_of("p", 1) != seed_of("p", 2)
    assert seed_of("p", 1) != seed_of("q", 1)
    assert all(0 <= seed_of("p", epoch) < 2**63 for epoch in range(200))
    for bad in (("", 1), ("p", -1)):
        with pytest.raises(ContractError):
            seed_of(*bad)


def test_random_streams_repeat_and_differ_by_name() -> None:
    context = issue("p", 1)
    assert context.stream("a").random() == context.stream("a").random() != context.stream("b").random()


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"ordering_markers": ()},
        {"ordering_markers": ("a", "a")},
        {"ordering_markers": ("",)},
        {"merge_rule_id": ""},
        {"merge_rule_version": "one"},
    ],
)
def test_malformed_contexts_cannot_be_built(bad: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        DeterminismContext(**{"seed": 1, "nondeterministic_inputs": (), **bad})


def test_the_ledger_starts_with_the_plan_grows_and_is_bounded() -> None:
    ledger = Ledger(issue("p", 1))
    ledger.note("llm/propose", Source.EXTERNAL_CALL, "sha256:x")
    ledger.note("approval", Source.OPERATOR_OVERRIDE, "seq:12")
    assert [entry.input_key for entry in ledger.entries] == ["plan_hash", "llm/propose", "approval"]
    for n in range(MAX_LEDGER):
        ledger.note(f"k{n}", Source.RANDOM, "seq:1")
    assert (len(ledger.entries), ledger.left_out) == (MAX_LEDGER, 3)
    with pytest.raises(ContractError):
        ledger.note("", Source.OTHER, "x")


class Event:
    def __init__(self, runtime_sequence: int, event_id: str) -> None:
        self.runtime_sequence = runtime_sequence
        self.event_id = event_id


@given(st.permutations([(1, "b"), (1, "a"), (0, "z"), (2, "c")]))
def test_merging_ignores_arrival(order: list[tuple[int, str]]) -> None:
    events = merged(Event(*pair) for pair in order)
    assert [event.event_id for event in events] == ["z", "a", "b", "c"]


# -- active time ------------------------------------------------------------------------------------------------


def test_only_active_time_counts() -> None:
    clock = ManualClock()
    timer = ActiveTimer(clock, limit_seconds=10, spent=1)
    clock.advance(2)
    timer.hold("paused")
    clock.advance(100)
    timer.hold("waiting")
    timer.release("paused")
    clock.advance(100)
    assert (timer.elapsed, timer.remaining, timer.held) == (3.0, 7.0, frozenset({"waiting"}))
    timer.release("waiting")
    timer.release("waiting")
    clock.advance(6.5)
    assert not timer.exhausted
    clock.advance(1)
    assert timer.exhausted
    assert timer.remaining == 0.0


@given(st.lists(st.tuples(st.sampled_from(["hold", "release", "wait"]), st.sampled_from("ab")), max_size=40))
def test_elapsed_is_the_time_without_holds(steps: list[tuple[str, str]]) -> None:
    clock = ManualClock()
    timer = ActiveTimer(clock)
    holds: set[str] = set()
    expected = 0
    for step, why in steps:
        if step == "hold":
            timer.hold(why)
            holds.add(why)
        elif step == "release":
            timer.release(why)
            holds.discard(why)
        else:
            clock.advance(1)
            expected += not holds
        assert timer.elapsed == expected
        assert timer.remaining is None


async def test_waiting_for_the_limit_sees_through_a_hold() -> None:
    clock = ManualClock()
    timer = ActiveTimer(clock, limit_seconds=10)
    task = asyncio.create_task(timer.wait_exhausted())

    async def forward(seconds: float) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(seconds)
        for _ in range(5):
            await asyncio.sleep(0)
        return task.done()

    assert not await forward(4)
    timer.hold("paused")
    assert not await forward(50)
    timer.release("paused")
    assert not await forward(5)
    assert await forward(1)


def test_every_tick_has_the_whole_limit_and_waiting_for_it_costs_nothing() -> None:
    clock = ManualClock()
    timer = ActiveTimer(clock, limit_seconds=10, spent=25)
    assert timer.exhausted
    timer.begin_anew()
    clock.advance(9)
    with timer.between_ticks():
        clock.advance(1000)
        assert timer.remaining == 10.0
    assert (timer.elapsed, timer.remaining) == (34.0, 10.0)
    clock.advance(10)
    assert timer.exhausted


def test_children_get_the_smaller_of_their_own_and_what_is_left() -> None:
    assert clipped(5, 3) == 3
    assert clipped(None, 3) == 3
    assert clipped(5, None) == 5
    assert clipped(None, None) is None
    for bad in ({"limit_seconds": 0}, {"spent": -1.0}):
        with pytest.raises(ContractError):
            ActiveTimer(ManualClock(), **bad)
