"""The event ABI: what every event and signal inside a session carries, so that any of them can be placed and proven.

Two shapes share one envelope: `EventRecord` moves data or telemetry, `ControlSignal` says that something was
decided. Both are plain frozen values; `runtime.events.gateway` is the only judge of whether one is well-formed.
Order comes from sequences; timestamps describe (turn runtime §2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final

from runtime.kernel.errors import ContractError

SCHEMA_VERSION: Final = "v1.0"
SCHEMA_ERROR: Final = "schema_validation_error"
MAX_MERGED_IDS: Final = 64


class EventError(ContractError):
    """A malformed event, signal or decision (turn runtime §2.4). ``field_path`` names the wrong member."""

    def __init__(
        self,
        message: str,
        *,
        field_path: str,
        code: str = SCHEMA_ERROR,
        index: int | None = None,
        session_id: str | None = None,
        turn_id: str | None = None,
        event_id: str | None = None,
    ) -> None:
        place = field_path if index is None else f"[{index}].{field_path}"
        super().__init__(code, message, where=place)
        self.field_path = field_path
        self.index = index
        self.session_id = session_id
        self.turn_id = turn_id
        self.event_id = event_id
        self.default_action = "reject"


class Lane(Enum):
    """Where something moves. A smaller `priority` goes first."""

    CONTROL = "ControlLane"
    DATA = "DataLane"
    TELEMETRY = "TelemetryLane"

    @property
    def priority(self) -> int:
        return _PRIORITY[self]

    @property
    def short(self) -> str:
        """``control``, ``data`` or ``telemetry``, as edge ids spell it."""
        return self.value.removesuffix("Lane").lower()


_PRIORITY: Final = {Lane.CONTROL: 0, Lane.DATA: 1, Lane.TELEMETRY: 2}


class EventScope(Enum):
    """Does an event belong to one turn or to the whole session?"""

    SESSION = "session"
    TURN = "turn"


class PayloadClass(Enum):
    """How sensitive a payload is."""

    PII = "PII"
    PHI = "PHI"
    STREAM_RAW = "stream_raw"
    TEXT_RAW = "text_raw"
    DERIVED_SUMMARY = "derived_summary"
    METADATA = "metadata"


class Role(Enum):
    """Which module says it (turn runtime §0.3)."""

    PRELUDE = "prelude"
    ARBITER = "arbiter"
    LANES = "lanes"
    INVOCATION = "invocation"
    BUFFER = "buffer"
    WATERMARK = "watermark"
    FLOW = "flow"
    SYNC = "sync"
    CANCEL = "cancel"
    BUDGET = "budget"
    EGRESS = "egress"
    CONNECTION = "connection"
    GUARD = "guard"
    ADMISSION = "admission"
    RECORDER = "recorder"
    CP_ADMISSION = "cp_admission"
    CP_LEASE = "cp_lease"
    CP_ROUTING = "cp_routing"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaTime:
    """Device time of a sampled stream; at least one member is given."""

    sample_index: int | None = None
    pts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SeqRange:
    """An inclusive range of sequence numbers."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The members common to events and signals. None means absent; the gateway fills defaults."""

    event_scope: EventScope
    session_id: str
    mission_version: str
    event_id: str
    lane: Lane
    runtime_sequence: int
    runtime_timestamp_ms: int
    wall_clock_timestamp_ms: int
    schema_version: str = ""
    turn_id: str | None = None
    transport_sequence: int | None = None
    authority_epoch: int | None = None
    timestamp_ms: int | None = None
    payload_class: PayloadClass | None = None
    media_time: MediaTime | None = None
    node_id: str | None = None
    edge_id: str | None = None
    causal_parent_id: str | None = None
    idempotency_key: str | None = None
    provider_invocation_id: str | None = None
    lease_token: str | None = None
    sync_id: str | None = None
    sync_domain: str | None = None
    discontinuity_id: str | None = None
    merge_group_id: str | None = None
    merged_from_event_ids: tuple[str, ...] | None = None
    late_after_cancel: bool | None = None

    def record(self) -> dict[str, Any]:
        """The journalled object: members that are present, enums by value; has canonical bytes."""
        return members_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord(Envelope):
    """A data or telemetry event. ``ext`` holds extension members by namespace."""

    ext: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSignal(Envelope):
    """A decision made known on the control lane. ``signal`` is a name of the closed registry."""

    signal: str
    emitted_by: Role
    reason: str | None = None
    scope: str = ""
    target_lane: Lane | None = None
    seq_range: SeqRange | None = None
    amount: int | None = None


def members_of(value: Any) -> dict[str, Any]:
    """The present members of a frozen record as plain values; empty mappings count as absent."""
    present = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return {name: item for name, item in present.items() if item is not None and item != {}}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, MediaTime | SeqRange):
        return members_of(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
