"""Execution profiles: the only place where a turn's numbers come from when a mission does not give its own.

A plan says for each of its surfaces whether it was given or taken from a profile, so no default is hidden
(turn runtime §3.7, §11; ruling R32). Milliseconds unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final

from runtime.kernel.errors import ContractError

PLAN_CODE: Final = "plan_materialization_failed"
ADAPTIVE_ACTIONS: Final = ("retry", "provider_switch", "degrade", "fallback")
LEVELS: Final = frozenset({"L0", "L1", "L2"})
REPLAY_MODES: Final = ("view", "recorded", "live")

_LANES: Final = ("ControlLane", "DataLane", "TelemetryLane")
_STRATEGIES: Final = frozenset({"drop", "drop_oldest", "latest_only", "merge", "sample", "block"})
_HANDLING: Final = {
    "ControlLane": frozenset({"non_blocking_priority"}),
    "DataLane": frozenset({"block", "drop", "merge", "sample", "latest_only"}),
    "TelemetryLane": frozenset({"drop", "sample", "best_effort_drop"}),
}
_SHEDDING: Final = {
    "ControlLane": frozenset({"none"}),
    "DataLane": frozenset({"drop", "merge", "latest_only", "degrade", "fallback"}),
    "TelemetryLane": frozenset({"drop", "sample"}),
}
_FLOW_MODES: Final = frozenset({"signal", "credit", "hybrid"})


class PlanError(ContractError):
    """A plan or one of its surfaces is not valid; nothing was frozen."""

    def __init__(self, message: str, *, code: str = PLAN_CODE) -> None:
        super().__init__(code, message)


def require(truth: bool, message: str) -> None:
    """Raise `PlanError` unless ``truth``."""
    if not truth:
        raise PlanError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Time limits by scope. None: no limit of that kind (only where the ruling says so)."""

    turn_ms: int
    node_ms: int
    path_ms: int
    edge_ms: int
    operation_ms: int
    provider_attempt_ms: int
    hook_ms: int
    cancel_grace_ms: int
    approval_ms: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            low = 0 if item.name == "cancel_grace_ms" else 1
            require(value is None or value >= low, f"budget {item.name} must be at least {low}, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermarks:
    """When a queue counts as full, and when as recovered."""

    high: int
    low: int

    def __post_init__(self) -> None:
        require(self.high >= 1 and 0 <= self.low < self.high, f"watermarks {self.high}/{self.low} are not valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePolicy:
    """The bounds of one edge and what happens at them. ``max_queue_ms`` None: items do not age."""

    strategy: str
    max_queue_items: int
    max_queue_bytes: int
    max_queue_ms: int | None
    max_latency_contribution_ms: int | None
    watermarks: Watermarks
    max_block_time_ms: int | None = None
    lane_handling: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType(
            {"ControlLane": "non_blocking_priority", "DataLane": "drop", "TelemetryLane": "best_effort_drop"}
        )
    )

    def __post_init__(self) -> None:
        require(self.strategy in _STRATEGIES, f"unknown edge strategy {self.strategy!r}")
        for name in ("max_queue_items", "max_queue_bytes", "max_queue_ms", "max_latency_contribution_ms"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, not {value}")
        blocks = self.strategy == "block" or "block" in self.lane_handling.values()
        require(not blocks or (self.max_block_time_ms or 0) >= 1, "an edge that blocks needs max_block_time_ms")
        _by_lane("lane_handling", self.lane_handling, _HANDLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """How many attempts of a node may exist at once (0: no limit), and what they share that limit with."""

    concurrency_limit: int = 0
    fairness_key: str = ""

    def __post_init__(self) -> None:
        require(self.concurrency_limit >= 0, "concurrency_limit must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControl:
    """How lanes push back. Keys are lane names."""

    mode_by_lane: Mapping[str, str]
    watermarks: Mapping[str, Watermarks]
    shedding_by_lane: Mapping[str, str]

    def __post_init__(self) -> None:
        _by_lane("mode_by_lane", self.mode_by_lane, dict.fromkeys(_LANES, _FLOW_MODES))
        _by_lane("shedding_by_lane", self.shedding_by_lane, _SHEDDING)
        require(set(self.watermarks) == set(_LANES), "flow control needs watermarks for the three lanes")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPolicy:
    """How much of a turn is kept, and which kinds of replay that allows (ruling R7)."""

    level: str
    allowed_replay_modes: tuple[str, ...]

    def __post_init__(self) -> None:
        require(self.level in LEVELS, f"unknown recording level {self.level!r}")
        unique_known("replay mode", self.allowed_replay_modes, REPLAY_MODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surfaces:
    """The six policy surfaces of a plan, all of them, each with where it came from."""

    budgets: Budgets
    provider_bindings: Mapping[str, str]
    edge_buffer_policies: Mapping[str, EdgePolicy]
    node_execution_policies: Mapping[str, NodePolicy]
    flow_control: FlowControl
    recording_policy: RecordingPolicy
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _named("provider binding", self.provider_bindings)
        _named("edge policy", self.edge_buffer_policies)
        require(all(self.provider_bindings.values()), "a provider binding is empty")
        require(all(self.node_execution_policies), "a node policy has no name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named, versioned set of numbers."""

    name: str
    surfaces: Surfaces
    adaptive_actions: tuple[str, ...]


def unique_known(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `PlanError` for a word that is unknown or given twice."""
    words, known = list(given), list(allowed)
    for word in words:
        require(word in known, f"unknown {what} {word!r}; known are {', '.join(known)}")
    require(len(set(words)) == len(words), f"a {what} is given twice: {', '.join(words)}")


def _by_lane(name: str, given: Mapping[str, str], allowed: Mapping[str, frozenset[str]]) -> None:
    require(set(given) == set(_LANES), f"{name} must name the three lanes, not {sorted(given)}")
    for lane, word in given.items():
        require(word in allowed[lane], f"{name} of {lane} may be {sorted(allowed[lane])}, not {word!r}")


def _named(what: str, given: Mapping[str, object]) -> None:
    require(bool(given) and all(given), f"a plan needs at least one {what}, all of them named")


_EDGE: Final = EdgePolicy(
    strategy="drop",
    max_queue_items=64,
    max_queue_bytes=262_144,
    max_queue_ms=300,
    max_latency_contribution_ms=120,
    watermarks=Watermarks(high=48, low=24),
)
_FLOW: Final = FlowControl(
    mode_by_lane=MappingProxyType(dict.fromkeys(_LANES, "signal")),
    watermarks=MappingProxyType(
        {
            "ControlLane": Watermarks(high=20, low=10),
            "DataLane": Watermarks(high=100, low=50),
            "TelemetryLane": Watermarks(high=200, low=100),
        }
    ),
    shedding_by_lane=MappingProxyType({"ControlLane": "none", "DataLane": "drop", "TelemetryLane": "sample"}),
)

#: Turn runtime §11: interactive budgets.
_SIMPLE: Final = Profile(
    name="simple/v1",
    surfaces=Surfaces(
        budgets=Budgets(
            turn_ms=2_000,
            node_ms=800,
            path_ms=1_800,
            edge_ms=250,
            operation_ms=800,
            provider_attempt_ms=1_000,
            hook_ms=250,
            cancel_grace_ms=75,
        ),
        provider_bindings=MappingProxyType({"think": "default"}),
        edge_buffer_policies=MappingProxyType({"default": _EDGE}),
        node_execution_policies=MappingProxyType({}),
        flow_control=_FLOW,
        recording_policy=RecordingPolicy(level="L0", allowed_replay_modes=("view",)),
    ),
    adaptive_actions=("retry", "provider_switch", "fallback"),
)

#: Ruling R32: long-running missions. The path and edge limits are the turn's, so they never bite first.
_MISSION: Final = Profile(
    name="mission/v1",
    surfaces=Surfaces(
        budgets=Budgets(
            turn_ms=3_600_000,
            node_ms=1_800_000,
            path_ms=3_600_000,
            edge_ms=3_600_000,
            operation_ms=600_000,
            provider_attempt_ms=120_000,
            hook_ms=10_000,
            cancel_grace_ms=0,
        ),
        provider_bindings=MappingProxyType({"think": "default"}),
        edge_buffer_policies=MappingProxyType(
            {
                "default": replace(
                    _EDGE,
                    strategy="block",
                    max_block_time_ms=30_000,
                    lane_handling=MappingProxyType(
                        {
                            "ControlLane": "non_blocking_priority",
                            "DataLane": "block",
                            "TelemetryLane": "best_effort_drop",
                        }
                    ),
                    max_queue_items=1_024,
                    max_queue_bytes=1_048_576,
                    max_queue_ms=None,
                    max_latency_contribution_ms=None,
                    watermarks=Watermarks(high=768, low=384),
                )
            }
        ),
        node_execution_policies=MappingProxyType({}),
        flow_control=_FLOW,
        recording_policy=RecordingPolicy(level="L2", allowed_replay_modes=REPLAY_MODES),
    ),
    adaptive_actions=ADAPTIVE_ACTIONS,
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({item.name: item for item in (_SIMPLE, _MISSION)})


def profile(name: str) -> Profile:
    """The profile of that name; a name without version means ``v1``. Raises `PlanError` for an unknown one."""
    wanted = name.strip()
    found = PROFILES.get(wanted if "/" in wanted else f"{wanted}/v1")
    if found is None:
        raise PlanError(f"execution profile {name!r} is not supported; supported are {', '.join(PROFILES)}")
    return found


def surfaces(name: str, **given: Any) -> Surfaces:
    """The surfaces of a profile with ``given`` ones in place; each is stamped with its source."""
    base = profile(name)
    names = [item.name for item in fields(Surfaces) if item.name != "sources"]
    unique_known("policy surface", given, names)
    stamps = {item: "explicit" if item in given else f"execution_profile/{base.name}" for item in names}
    return replace(base.surfaces, **given, sources=MappingProxyType(stamps))
