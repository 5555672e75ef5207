"""The frozen plan of one turn: everything that decides how it will run, hashed before anything runs.

Two hashes (ruling R6). The *contract* hash covers what an operator can approve beforehand and what a replay must
match: everything but the turn's id, the epoch and where snapshots came from. The *plan* hash covers all of it, is
evidence, and seeds determinism. Nothing in a plan can change, and nothing is resolved again while a turn runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from runtime.events.envelope import Lane, members_of
from runtime.flow.lanes import LaneLimits
from runtime.kernel.canonical import canonical_bytes, digest
from runtime.kernel.model import frozen, thawed
from runtime.turns.determinism import DeterminismContext, issue
from runtime.turns.profiles import (
    ADAPTIVE_ACTIONS,
    Budgets,
    EdgePolicy,
    FlowControl,
    NodePolicy,
    PlanError,
    RecordingPolicy,
    Surfaces,
    Watermarks,
    profile,
    require,
    surfaces,
    unique_known,
)

SCHEMA: Final = "turn-plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Which snapshots a plan was made from; defaults are the built-in ones (turn runtime §3.6)."""

    routing_view: str = "routing-view/v1"
    admission_policy: str = "admission-policy/v1"
    abi_compatibility: str = "abi-compat/v1"
    version_resolution: str = "version-resolution/v1"
    policy_resolution: str = "policy-resolution/v1"
    provider_health: str = "provider-health/v1"

    def __post_init__(self) -> None:
        for item in fields(self):
            require(bool(getattr(self, item.name)), f"the provenance of {item.name} is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """What a plan is made from.

    ``contract`` is what the mission itself fixes (its hash, envelopes, inputs, nodes, commands), any canonicalisable
    mapping. ``policies`` None takes every surface from the profile. ``allowed_adaptive_actions`` None takes the
    profile's. ``candidates`` are provider candidates in health order; like provenance they stay out of the contract.
    """

    turn_id: str
    mission_version: str
    graph_definition_ref: str
    authority_epoch: int
    execution_profile: str = "mission/v1"
    contract: Mapping[str, Any] = field(default_factory=dict)
    policies: Surfaces | None = None
    allowed_adaptive_actions: tuple[str, ...] | None = None
    provenance: Provenance = Provenance()
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTurnPlan:
    """A frozen plan. Build it with `build_plan` or `load_plan`; its hashes are those of its content."""

    turn_id: str
    mission_version: str
    graph_definition_ref: str
    execution_profile: str
    authority_epoch: int
    contract: Mapping[str, Any]
    policies: Surfaces
    allowed_adaptive_actions: tuple[str, ...]
    provenance: Provenance
    candidates: Mapping[str, tuple[str, ...]]
    contract_hash: str
    plan_hash: str
    determinism: DeterminismContext

    def verify(self, *, turn_id: str = "", mission_version: str = "", authority_epoch: int | None = None) -> None:
        """Raise `PlanError` ``plan_identity_mismatch`` unless every given value is the plan's own."""
        given = {"turn_id": turn_id, "mission_version": mission_version, "authority_epoch": authority_epoch}
        for name, value in given.items():
            mine = getattr(self, name)
            if value not in ("", None) and value != mine:
                raise PlanError(f"{name} is {value!r}, the plan says {mine!r}", code="plan_identity_mismatch")

    def lane_limits(self, bounds: Mapping[Lane, int] | None = None) -> dict[Lane, LaneLimits]:
        """The lane bounds the plan implies (turn runtime §3.11, "from a plan"); ``bounds`` are the mission's own."""
        edge = self._default_edge
        marks = {lane: self.policies.flow_control.watermarks[lane.value] for lane in Lane}
        implied = {
            lane: LaneLimits(max(edge.max_queue_items, mark.high), mark.high, mark.low) for lane, mark in marks.items()
        }
        return implied | {lane: LaneLimits.of(limit) for lane, limit in (bounds or {}).items()}

    @property
    def stream_limits(self) -> LaneLimits:
        """The bound of each of the turn's stream edges (ruling R32)."""
        edge = self._default_edge
        return LaneLimits(edge.max_queue_items, edge.watermarks.high, edge.watermarks.low, edge.max_queue_bytes)

    @property
    def stream_wait_seconds(self) -> float:
        """How long a producer of Data may wait for room; 0 under a plan whose edges do not block."""
        return (self._default_edge.max_block_time_ms or 0) / 1000

    @property
    def _default_edge(self) -> EdgePolicy:
        edges = self.policies.edge_buffer_policies
        return edges.get("default") or edges[min(edges)]

    @property
    def edge_prefix(self) -> str:
        """What the ids of this turn's lane edges begin with."""
        return f"plan/{self.plan_hash.removeprefix('sha256:')[:12]}"

    def record(self) -> dict[str, Any]:
        """The plan document; `load_plan` reads it back. Canonicalisable."""
        return {
            "schema": SCHEMA,
            "contract": _contract_record(self),
            "contract_hash": self.contract_hash,
            "turn_id": self.turn_id,
            "authority_epoch": self.authority_epoch,
            "snapshot_provenance": members_of(self.provenance),
            "candidates": {name: list(items) for name, items in self.candidates.items()},
            "plan_hash": self.plan_hash,
            "determinism": self.determinism.record(),
        }

    def document(self) -> bytes:
        """The canonical bytes of `record`, stored as the plan's artifact."""
        return canonical_bytes(self.record())


def build_plan(inputs: PlanInputs) -> ResolvedTurnPlan:
    """Freeze, validate and hash; raises `PlanError`. Later changes to ``inputs`` cannot leak in."""
    for name in ("turn_id", "mission_version", "graph_definition_ref", "execution_profile"):
        require(bool(getattr(inputs, name)), f"a plan needs {name}")
    require(inputs.authority_epoch >= 0, f"the epoch must not be negative, not {inputs.authority_epoch}")
    chosen = profile(inputs.execution_profile)
    actions = inputs.allowed_adaptive_actions
    actions = chosen.adaptive_actions if actions is None else actions
    unique_known("adaptive action", actions, ADAPTIVE_ACTIONS)
    given = inputs.policies
    return _frozen_plan(
        turn_id=inputs.turn_id,
        mission_version=inputs.mission_version,
        graph_definition_ref=inputs.graph_definition_ref,
        execution_profile=chosen.name,
        authority_epoch=inputs.authority_epoch,
        contract=frozen(inputs.contract),
        policies=_frozen_surfaces(surfaces(chosen.name) if given is None else given),
        allowed_adaptive_actions=tuple(action for action in ADAPTIVE_ACTIONS if action in actions),
        provenance=inputs.provenance,
        candidates=frozen(inputs.candidates),
    )


def load_plan(record: Mapping[str, Any]) -> ResolvedTurnPlan:
    """Read a stored plan back, never resolving anything again; raises `PlanError` when its hashes do not hold."""
    try:
        contract = record["contract"]
        plan = _frozen_plan(
            turn_id=record["turn_id"],
            mission_version=contract["mission_version"],
            graph_definition_ref=contract["graph_definition_ref"],
            execution_profile=contract["execution_profile"],
            authority_epoch=record["authority_epoch"],
            contract=frozen(contract["contract"]),
            policies=_frozen_surfaces(_surfaces_from(contract["policies"])),
            allowed_adaptive_actions=tuple(contract["allowed_adaptive_actions"]),
            provenance=Provenance(**record["snapshot_provenance"]),
            candidates=frozen(record["candidates"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"the stored plan is malformed: {error!r}") from None
    if (plan.contract_hash, plan.plan_hash) != (record["contract_hash"], record["plan_hash"]):
        raise PlanError("the stored plan does not have the hashes it names")
    return plan


def _frozen_plan(**members: Any) -> ResolvedTurnPlan:
    draft = ResolvedTurnPlan(**members, contract_hash="", plan_hash="", determinism=issue("draft", 0))
    contract_hash = digest(_contract_record(draft))
    plan_hash = digest(
        {
            "schema": SCHEMA,
            "contract_hash": contract_hash,
            "turn_id": draft.turn_id,
            "authority_epoch": draft.authority_epoch,
            "snapshot_provenance": members_of(draft.provenance),
            "candidates": thawed(draft.candidates),
        }
    )
    return ResolvedTurnPlan(
        **members,
        contract_hash=contract_hash,
        plan_hash=plan_hash,
        determinism=issue(plan_hash, draft.authority_epoch),
    )


def _contract_record(plan: ResolvedTurnPlan) -> dict[str, Any]:
    return {
        "mission_version": plan.mission_version,
        "graph_definition_ref": plan.graph_definition_ref,
        "execution_profile": plan.execution_profile,
        "contract": thawed(plan.contract),
        "policies": _surfaces_record(plan.policies),
        "allowed_adaptive_actions": list(plan.allowed_adaptive_actions),
    }


def _surfaces_record(given: Surfaces) -> dict[str, Any]:
    flow = given.flow_control
    return {
        "budgets": members_of(given.budgets),
        "provider_bindings": dict(given.provider_bindings),
        "edge_buffer_policies": {name: _edge_record(edge) for name, edge in given.edge_buffer_policies.items()},
        "node_execution_policies": {name: members_of(node) for name, node in given.node_execution_policies.items()},
        "flow_control": {
            "mode_by_lane": dict(flow.mode_by_lane),
            "watermarks": {lane: members_of(marks) for lane, marks in flow.watermarks.items()},
            "shedding_by_lane": dict(flow.shedding_by_lane),
        },
        "recording_policy": members_of(given.recording_policy),
        "sources": dict(given.sources),
    }


def _edge_record(edge: EdgePolicy) -> dict[str, Any]:
    members = {item.name: getattr(edge, item.name) for item in fields(edge)}
    return {**members, "watermarks": members_of(edge.watermarks), "lane_handling": dict(edge.lane_handling)}


def _surfaces_from(record: Mapping[str, Any]) -> Surfaces:
    flow, recording = record["flow_control"], record["recording_policy"]
    return Surfaces(
        budgets=Budgets(**record["budgets"]),
        provider_bindings=dict(record["provider_bindings"]),
        edge_buffer_policies={
            name: EdgePolicy(**{**edge, "watermarks": Watermarks(**edge["watermarks"])})
            for name, edge in record["edge_buffer_policies"].items()
        },
        node_execution_policies={name: NodePolicy(**node) for name, node in record["node_execution_policies"].items()},
        flow_control=FlowControl(
            mode_by_lane=flow["mode_by_lane"],
            watermarks={lane: Watermarks(**marks) for lane, marks in flow["watermarks"].items()},
            shedding_by_lane=flow["shedding_by_lane"],
        ),
        recording_policy=RecordingPolicy(
            level=recording["level"], allowed_replay_modes=tuple(recording["allowed_replay_modes"])
        ),
        sources=dict(record["sources"]),
    )


def _frozen_surfaces(given: Surfaces) -> Surfaces:
    edges = {name: _frozen_edge(edge) for name, edge in given.edge_buffer_policies.items()}
    flow = given.flow_control
    names = [item.name for item in fields(Surfaces) if item.name != "sources"]
    return Surfaces(
        budgets=given.budgets,
        provider_bindings=frozen(given.provider_bindings),
        edge_buffer_policies=frozen(edges),
        node_execution_policies=frozen(given.node_execution_policies),
        flow_control=FlowControl(
            mode_by_lane=frozen(flow.mode_by_lane),
            watermarks=frozen(flow.watermarks),
            shedding_by_lane=frozen(flow.shedding_by_lane),
        ),
        recording_policy=given.recording_policy,
        sources=frozen(given.sources or dict.fromkeys(names, "explicit")),
    )


def _frozen_edge(edge: EdgePolicy) -> EdgePolicy:
    members = {item.name: getattr(edge, item.name) for item in fields(edge)}
    return EdgePolicy(**{**members, "lane_handling": frozen(edge.lane_handling)})
