"""The gateway: every registry row, normalisation, order inside a batch, and what a refusal names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events.envelope import (
    ControlSignal,
    EventError,
    EventRecord,
    EventScope,
    Lane,
    MediaTime,
    PayloadClass,
    Role,
    SeqRange,
)
from runtime.events.gateway import CLOCK_SKEW_MS, Gateway, Retirement, UnknownAction, classify
from runtime.events.registry import SIGNALS
from runtime.kernel.canonical import canonical_bytes

COMMON: dict[str, Any] = {
    "session_id": "s1",
    "mission_version": "1",
    "event_id": "evt/s1/t1/000001",
    "runtime_sequence": 1,
    "runtime_timestamp_ms": 10,
    "wall_clock_timestamp_ms": 1_000_000,
}
#: A value for each member some signal requires.
MEMBERS: dict[str, Any] = {
    "reason": "because",
    "scope": "turn",
    "edge_id": "lane-dispatch/data",
    "target_lane": Lane.DATA,
    "amount": 1,
    "seq_range": SeqRange(0, 3),
    "sync_domain": "d",
    "discontinuity_id": "x",
}


def signal(name: str, **changes: Any) -> ControlSignal:
    rule = SIGNALS[name]
    members = {member: MEMBERS[member] for member in rule.required}
    base: dict[str, Any] = {
        **COMMON,
        "event_scope": rule.event_scope or EventScope.TURN,
        "lane": Lane.CONTROL,
        "turn_id": "t1",
        "authority_epoch": 0,
        "payload_class": PayloadClass.METADATA,
        "signal": name,
        "emitted_by": sorted(rule.emitters, key=lambda role: role.value)[0],
        **members,
    }
    return ControlSignal(**{**base, **changes})


def record(**changes: Any) -> EventRecord:
    base: dict[str, Any] = {
        **COMMON,
        "event_scope": EventScope.TURN,
        "lane": Lane.DATA,
        "turn_id": "t1",
        "authority_epoch": 1,
        "payload_class": PayloadClass.TEXT_RAW,
    }
    return EventRecord(**{**base, **changes})


def refused(*signals: ControlSignal) -> EventError:
    with pytest.raises(EventError) as caught:
        Gateway().validate_signals(list(signals))
    return caught.value


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_each_signal_passes_from_its_emitters_and_from_nobody_else(name: str) -> None:
    rule = SIGNALS[name]
    for role in Role:
        candidate = signal(name, emitted_by=role)
        if role in rule.emitters:
            assert Gateway().validate_signals([candidate])[0].signal == name
        else:
            assert refused(candidate).field_path == "emitted_by"


@pytest.mark.parametrize(
    ("name", "member"), [(name, member) for name, rule in sorted(SIGNALS.items()) for member in rule.required]
)
def test_each_required_member_is_required(name: str, member: str) -> None:
    missing = "" if member == "scope" else None
    error = refused(signal(name, **{member: missing}))
    # discontinuity_id without its domain is refused under the domain's name
    assert error.field_path == member
    assert error.code == "schema_validation_error"


def test_the_event_scope_of_bound_signals_is_enforced() -> None:
    assert refused(signal("turn_open", event_scope=EventScope.SESSION)).field_path == "event_scope"
    assert refused(signal("admit", event_scope=EventScope.TURN)).field_path == "event_scope"
    assert refused(signal("commit", turn_id=None)).field_path == "turn_id"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"signal": "commit_twice"}, "signal"),
        ({"lane": Lane.DATA}, "lane"),
        ({"payload_class": PayloadClass.PII}, "payload_class"),
        ({"payload_class": None}, "payload_class"),
        ({"authority_epoch": None}, "authority_epoch"),
        ({"scope": "planet"}, "scope"),
        ({"amount": 0}, "amount"),
        ({"seq_range": SeqRange(3, 2)}, "seq_range"),
        ({"seq_range": SeqRange(-1, 2)}, "seq_range"),
        ({"session_id": ""}, "session_id"),
        ({"mission_version": ""}, "mission_version"),
        ({"event_id": ""}, "event_id"),
        ({"node_id": ""}, "node_id"),
        ({"timestamp_ms": -1}, "timestamp_ms"),
        ({"schema_version": "1.0"}, "schema_version"),
    ],
)
def test_malformed_signals_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    assert refused(signal("shed", **changes)).field_path == field


def test_normalisation_fills_defaults_and_clamps() -> None:
    raw = signal(
        "cancel",
        authority_epoch=-3,
        runtime_sequence=-1,
        runtime_timestamp_ms=-1,
        wall_clock_timestamp_ms=-1,
        transport_sequence=None,
    )
    passed = Gateway().validate_signals([raw])[0]
    assert (passed.schema_version, passed.transport_sequence, passed.authority_epoch) == ("v1.0", 0, 0)
    assert (passed.runtime_sequence, passed.runtime_timestamp_ms, passed.wall_clock_timestamp_ms) == (0, 0, 0)
    assert raw.authority_epoch == -3, "the input is never changed"


def test_an_empty_signal_scope_follows_the_event_scope() -> None:
    turn, session = signal("stop"), signal("stop", event_scope=EventScope.SESSION, turn_id=None)
    assert [item.scope for item in Gateway().validate_signals([turn, session])] == ["turn", "session"]


def test_sequences_may_repeat_but_not_fall() -> None:
    first = signal("shed", runtime_sequence=5, transport_sequence=2)
    assert len(Gateway().validate_signals([first, first])) == 2
    error = refused(first, replace(first, runtime_sequence=4))
    assert "regression from 5 to 4" in error.message
    assert error.index == 1
    assert "regression" in refused(first, replace(first, transport_sequence=1)).message
    assert len(Gateway().validate_signals([first, replace(first, transport_sequence=None)])) == 2


def test_a_batch_passes_whole_or_not_at_all_and_names_the_first_bad_one() -> None:
    good = signal("shed")
    error = refused(good, replace(good, reason=None), replace(good, signal="nope"))
    assert error.where == "[1].reason"
    assert (error.session_id, error.turn_id, error.event_id) == ("s1", "t1", good.event_id)
    assert error.default_action == "reject"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lane": Lane.CONTROL}, "lane"),
        ({"authority_epoch": None}, "authority_epoch"),
        ({"payload_class": None}, "payload_class"),
        ({"payload_class": PayloadClass.STREAM_RAW}, "media_time"),
        ({"media_time": MediaTime()}, "media_time"),
        ({"media_time": MediaTime(pts_ms=-1)}, "media_time"),
        ({"discontinuity_id": "d"}, "sync_domain"),
        ({"merged_from_event_ids": ("a",)}, "merge_group_id"),
        ({"merged_from_event_ids": ("a", "a"), "merge_group_id": "g"}, "merged_from_event_ids"),
        ({"merged_from_event_ids": (), "merge_group_id": "g"}, "merged_from_event_ids"),
        ({"merged_from_event_ids": tuple(map(str, range(65))), "merge_group_id": "g"}, "merged_from_event_ids"),
        ({"late_after_cancel": True, "event_scope": EventScope.SESSION}, "late_after_cancel"),
        ({"turn_id": None}, "turn_id"),
    ],
)
def test_malformed_records_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(EventError) as caught:
        Gateway().validate_records([record(**changes)])
    assert caught.value.field_path == field


def test_without_strict_authority_a_missing_epoch_is_zero() -> None:
    passed = Gateway(strict_authority=False).validate_records([record(authority_epoch=None)])
    assert passed[0].authority_epoch == 0


@pytest.mark.parametrize("action", UnknownAction)
def test_each_answer_to_an_unknown_extension(action: UnknownAction) -> None:
    gateway = Gateway(namespaces={"known"}, unknown_event_action=action)
    given = record(ext={"known": 1, "odd": 2})
    if action is UnknownAction.REJECT:
        with pytest.raises(EventError, match="odd"):
            gateway.check_records([given])
        return
    checked = gateway.check_records([given])
    assert checked.markers == (f"unknown_event:{action.value}",)
    assert ("odd" in checked.items[0].ext) is (action is UnknownAction.PASS_THROUGH)


def test_an_extension_never_shadows_a_core_member() -> None:
    with pytest.raises(EventError, match="shadows"):
        Gateway(namespaces={"session_id"})
    loose = Gateway(unknown_event_action=UnknownAction.PASS_THROUGH)
    with pytest.raises(EventError, match="session_id"):
        loose.validate_records([record(ext={"session_id": "other"})])


@pytest.mark.parametrize(("at", "answer"), [(99, "accept"), (100, "warn"), (200, "retired"), (300, "unknown")])
def test_a_retiring_schema_version_at_its_four_instants(at: int, answer: str) -> None:
    plan = Retirement(warn_at_ms=100, enforce_at_ms=200, remove_at_ms=300)
    gateway = Gateway(retirements={"v0.9": plan})
    given = record(schema_version="v0.9", wall_clock_timestamp_ms=at + CLOCK_SKEW_MS)
    if answer in ("accept", "warn"):
        markers = gateway.check_records([given]).markers
        assert markers == (("schema_retiring:v0.9",) if answer == "warn" else ())
    else:
        with pytest.raises(EventError, match=answer):
            gateway.check_records([given])


def test_classification_at_ingress() -> None:
    plain = record(payload_class=None)
    assert classify(plain).payload_class is PayloadClass.TEXT_RAW
    assert classify(plain, default_class="PII").payload_class is PayloadClass.PII
    assert classify(replace(plain, lane=Lane.TELEMETRY), default_class="PII").payload_class is PayloadClass.METADATA
    assert classify(record(payload_class=PayloadClass.PHI), default_class="PII").payload_class is PayloadClass.PHI
    stream = classify(plain, default_class="stream_raw")
    assert stream.media_time == MediaTime(pts_ms=10)
    with pytest.raises(EventError, match="unknown payload class"):
        classify(plain, default_class="secret")
    with pytest.raises(EventError, match="ControlLane"):
        classify(replace(plain, lane=Lane.CONTROL))


@given(
    st.lists(st.sampled_from(sorted(SIGNALS)), max_size=8),
    st.integers(-5, 5),
    st.one_of(st.none(), st.integers(-5, 5)),
)
def test_validation_is_idempotent_and_records_have_canonical_bytes(
    names: list[str], epoch: int, transport: int | None
) -> None:
    batch = [signal(name, authority_epoch=epoch, transport_sequence=transport) for name in names]
    once = Gateway().validate_signals(batch)
    assert Gateway().validate_signals(once) == once
    for item in once:
        assert canonical_bytes(item.record())
        assert None not in item.record().values()
