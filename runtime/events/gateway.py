"""The only door through which events and signals enter, are stored, or leave: normalise first, then judge.

Pure: nothing is mutated, the same input gives the same output, and a batch passes whole or not at all. What is
refused is refused with the path of the offending member (turn runtime §3.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from runtime.events.envelope import (
    MAX_MERGED_IDS,
    SCHEMA_VERSION,
    ControlSignal,
    Envelope,
    EventError,
    EventRecord,
    EventScope,
    Lane,
    MediaTime,
    PayloadClass,
)
from runtime.events.registry import SIGNAL_SCOPES, SIGNALS

_VERSION: Final = re.compile(r"v\d+\.\d+(?:\.\d+)?\Z")
_OPTIONAL_TEXT: Final = (
    "turn_id",
    "node_id",
    "edge_id",
    "causal_parent_id",
    "idempotency_key",
    "provider_invocation_id",
    "lease_token",
    "sync_id",
    "sync_domain",
    "discontinuity_id",
    "merge_group_id",
)
#: Extension namespaces must not look like members of the envelope itself.
_CORE_FIELDS: Final = frozenset(item.name for kind in (EventRecord, ControlSignal) for item in fields(kind))
#: How far the wall clocks of two processes may differ (turn runtime §3.1 rule 10).
CLOCK_SKEW_MS: Final = 1000

EnvelopeT = TypeVar("EnvelopeT", bound=Envelope)


class UnknownAction(Enum):
    """What happens to an extension namespace nobody registered."""

    DROP = "drop"
    PASS_THROUGH = "pass_through"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """When a schema version is warned about, refused, and forgotten; wall-clock milliseconds."""

    warn_at_ms: int
    enforce_at_ms: int
    remove_at_ms: int


@dataclass(frozen=True, slots=True)
class Checked(Generic[EnvelopeT]):
    """A validated batch and the audit markers its validation left."""

    items: list[EnvelopeT]
    markers: tuple[str, ...]


class Gateway:
    """Validates batches of records and signals. Every refusal is an `EventError` naming index and member."""

    def __init__(
        self,
        *,
        strict_authority: bool = True,
        namespaces: Collection[str] = (),
        unknown_event_action: UnknownAction = UnknownAction.REJECT,
        retirements: Mapping[str, Retirement] | None = None,
    ) -> None:
        shadowing = sorted(set(namespaces) & _CORE_FIELDS)
        if shadowing:
            raise EventError(f"extension namespace {shadowing[0]!r} shadows a core member", field_path="ext")
        self._strict_authority = strict_authority
        self._namespaces = frozenset(namespaces)
        self._unknown = unknown_event_action
        self._retirements = dict(retirements or {})

    def validate_records(self, records: Sequence[EventRecord]) -> list[EventRecord]:
        """The normalised records, in order; raises `EventError` on the first bad one."""
        return self.check_records(records).items

    def validate_signals(self, signals: Sequence[ControlSignal]) -> list[ControlSignal]:
        """The normalised signals, in order; raises `EventError` on the first bad one."""
        return self.check_signals(signals).items

    def check_records(self, records: Sequence[EventRecord]) -> Checked[EventRecord]:
        """Like `validate_records`, with the audit markers."""
        return self._check(records, self._record)

    def check_signals(self, signals: Sequence[ControlSignal]) -> Checked[ControlSignal]:
        """Like `validate_signals`, with the audit markers."""
        return self._check(signals, self._signal)

    def _check(
        self, batch: Sequence[EnvelopeT], judge: Callable[[EnvelopeT, list[str]], EnvelopeT]
    ) -> Checked[EnvelopeT]:
        markers: list[str] = []
        items: list[EnvelopeT] = []
        for index, raw in enumerate(batch):
            try:
                items.append(judge(raw, markers))
                if index:
                    _check_order(batch[index - 1], raw)
            except EventError as error:
                raise _placed(error, index, raw) from None
        return Checked(items, tuple(markers))

    def _record(self, raw: EventRecord, markers: list[str]) -> EventRecord:
        if raw.lane is Lane.CONTROL:
            raise EventError("a data record may not use ControlLane", field_path="lane")
        if self._strict_authority and raw.event_scope is EventScope.TURN and raw.authority_epoch is None:
            raise EventError("a turn-scoped record needs the authority epoch", field_path="authority_epoch")
        record = self._without_unknown(_normalised(raw), markers)
        self._check_common(record, markers)
        return record

    def _signal(self, raw: ControlSignal, markers: list[str]) -> ControlSignal:
        if raw.authority_epoch is None:
            raise EventError("a signal needs the authority epoch", field_path="authority_epoch")
        signal = replace(_normalised(raw), scope=raw.scope or raw.event_scope.value)
        _check_signal(signal, declared_scope=raw.scope)
        self._check_common(signal, markers)
        return signal

    def _check_common(self, item: Envelope, markers: list[str]) -> None:
        _check_identity(item)
        self._check_version(item, markers)
        _check_payload(item)
        _check_links(item)

    def _check_version(self, item: Envelope, markers: list[str]) -> None:
        if not _VERSION.match(item.schema_version):
            raise EventError(
                f"schema version {item.schema_version!r} is not of the form v1.0", field_path="schema_version"
            )
        plan = self._retirements.get(item.schema_version)
        now = item.wall_clock_timestamp_ms - CLOCK_SKEW_MS
        if plan is None or now < plan.warn_at_ms:
            return
        if now >= plan.enforce_at_ms:
            word = "unknown" if now >= plan.remove_at_ms else "retired"
            raise EventError(f"schema version {item.schema_version} is {word}", field_path="schema_version")
        markers.append(f"schema_retiring:{item.schema_version}")

    def _without_unknown(self, record: EventRecord, markers: list[str]) -> EventRecord:
        unknown = sorted(set(record.ext) - self._namespaces)
        if not unknown:
            return record
        if self._unknown is UnknownAction.REJECT or set(unknown) & _CORE_FIELDS:
            raise EventError(f"unknown extension namespace {unknown[0]!r}", field_path=f"ext.{unknown[0]}")
        markers.append(f"unknown_event:{self._unknown.value}")
        if self._unknown is UnknownAction.PASS_THROUGH:
            return record
        return replace(record, ext={name: item for name, item in record.ext.items() if name in self._namespaces})


def classify(record: EventRecord, *, default_class: str = "") -> EventRecord:
    """Give an ingress record its payload class, before the gateway (turn runtime §3.1 rules 6, 7).

    ``default_class`` is the channel's configured class for data. Raises `EventError` for a control record or an
    unknown configured class.
    """
    if record.lane is Lane.CONTROL:
        raise EventError("ControlLane records are not accepted from outside", field_path="lane")
    chosen = record.payload_class or _default_class(record.lane, default_class)
    media_time = record.media_time
    if chosen is PayloadClass.STREAM_RAW and media_time is None:
        media_time = MediaTime(pts_ms=max(0, record.runtime_timestamp_ms))
    return replace(record, payload_class=chosen, media_time=media_time)


def _default_class(lane: Lane, configured: str) -> PayloadClass:
    if lane is Lane.TELEMETRY:
        return PayloadClass.METADATA
    try:
        return PayloadClass(configured) if configured else PayloadClass.TEXT_RAW
    except ValueError:
        raise EventError(f"unknown payload class {configured!r}", field_path="payload_class") from None


def _normalised(item: EnvelopeT) -> EnvelopeT:
    if item.event_scope is EventScope.TURN and not item.turn_id:
        raise EventError("a turn-scoped event needs a turn id", field_path="turn_id")
    return replace(
        item,
        schema_version=item.schema_version or SCHEMA_VERSION,
        transport_sequence=max(0, item.transport_sequence or 0),
        authority_epoch=max(0, item.authority_epoch or 0),
        runtime_sequence=max(0, item.runtime_sequence),
        runtime_timestamp_ms=max(0, item.runtime_timestamp_ms),
        wall_clock_timestamp_ms=max(0, item.wall_clock_timestamp_ms),
    )


def _check_identity(item: Envelope) -> None:
    for name in ("session_id", "mission_version", "event_id"):
        if not getattr(item, name):
            raise EventError(f"{name} must not be empty", field_path=name)
    for name in _OPTIONAL_TEXT:
        if getattr(item, name) == "":
            raise EventError(f"{name} must not be empty when given", field_path=name)
    if item.timestamp_ms is not None and item.timestamp_ms < 0:
        raise EventError("timestamp_ms must not be negative", field_path="timestamp_ms")


def _check_payload(item: Envelope) -> None:
    if item.payload_class is None:
        raise EventError("the payload class is missing; classify the event first", field_path="payload_class")
    media = item.media_time
    if media is None:
        if item.payload_class is PayloadClass.STREAM_RAW:
            raise EventError("stream_raw needs media_time", field_path="media_time")
        return
    given = [value for value in (media.sample_index, media.pts_ms) if value is not None]
    if not given or min(given) < 0:
        raise EventError("media_time needs a member, none of them negative", field_path="media_time")


def _check_links(item: Envelope) -> None:
    if item.discontinuity_id and not item.sync_domain:
        raise EventError("discontinuity_id needs sync_domain", field_path="sync_domain")
    if item.late_after_cancel and item.event_scope is not EventScope.TURN:
        raise EventError("late_after_cancel needs turn scope", field_path="late_after_cancel")
    merged = item.merged_from_event_ids
    if merged is None:
        return
    if not item.merge_group_id:
        raise EventError("merged_from_event_ids needs merge_group_id", field_path="merge_group_id")
    if not 1 <= len(merged) <= MAX_MERGED_IDS or len(set(merged)) != len(merged):
        raise EventError(f"needs 1 to {MAX_MERGED_IDS} unique ids", field_path="merged_from_event_ids")


def _check_signal(signal: ControlSignal, *, declared_scope: str) -> None:
    rule = SIGNALS.get(signal.signal)
    if rule is None:
        raise EventError(f"unknown signal {signal.signal!r}", field_path="signal")
    if signal.emitted_by not in rule.emitters:
        expected = ", ".join(sorted(role.value for role in rule.emitters))
        raise EventError(
            f"{signal.signal} may be emitted by {expected}, not {signal.emitted_by.value}", field_path="emitted_by"
        )
    if signal.lane is not Lane.CONTROL:
        raise EventError("signals move on ControlLane", field_path="lane")
    if signal.payload_class is not PayloadClass.METADATA:
        raise EventError("signals are metadata", field_path="payload_class")
    if rule.event_scope is not None and signal.event_scope is not rule.event_scope:
        raise EventError(f"{signal.signal} has {rule.event_scope.value} scope", field_path="event_scope")
    _check_signal_members(signal, rule.required, declared_scope)


def _check_signal_members(signal: ControlSignal, required: tuple[str, ...], declared_scope: str) -> None:
    present: dict[str, Any] = {name: getattr(signal, name) for name in required}
    if "scope" in present:
        present["scope"] = declared_scope
    for name, value in present.items():
        if value is None or value == "":
            raise EventError(f"{signal.signal} needs {name}", field_path=name)
    if signal.scope not in SIGNAL_SCOPES:
        raise EventError(f"unknown scope {signal.scope!r}", field_path="scope")
    if signal.amount is not None and signal.amount < 1:
        raise EventError("amount must be at least 1", field_path="amount")
    span = signal.seq_range
    if span is not None and not 0 <= span.start <= span.end:
        raise EventError("seq_range must run from 0 or more upwards", field_path="seq_range")


def _check_order(previous: Envelope, item: Envelope) -> None:
    for name in ("runtime_sequence", "transport_sequence"):
        before, after = getattr(previous, name), getattr(item, name)
        if before is not None and after is not None and after < before:
            raise EventError(f"{name} regression from {before} to {after}", field_path=name)


def _placed(error: EventError, index: int, item: Envelope) -> EventError:
    return EventError(
        error.message,
        field_path=error.field_path,
        index=index,
        session_id=item.session_id,
        turn_id=item.turn_id,
        event_id=item.event_id,
    )
