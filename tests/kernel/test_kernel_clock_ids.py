"""Time moves only when told, and identifiers have exactly their specified forms."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from runtime.kernel import ids
from runtime.kernel.clock import ManualClock, SystemClock, timestamp


def test_timestamps_have_six_digits_and_are_utc() -> None:
    assert timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 1, 1, 1, 0, 0, 5, tzinfo=east)) == "2025-12-31T23:00:00.000005Z"


def test_system_clock_is_utc_and_monotonic() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


async def test_manual_clock_wakes_whom_it_passes() -> None:
    clock = ManualClock()
    order: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        order.append(name)

    tasks = [asyncio.create_task(sleeper("late", 5)), asyncio.create_task(sleeper("soon", 1))]
    await asyncio.sleep(0)
    clock.advance(2)
    await asyncio.sleep(0)
    assert order == ["soon"]
    assert clock.monotonic() == 2
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    clock.advance(3)
    await asyncio.gather(*tasks)
    assert order == ["soon", "late"]
    assert clock.slept == [5, 1]


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock = ManualClock()
    order: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        order.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2)]
    await asyncio.sleep(0)
    clock.advance(10)
    await asyncio.gather(*tasks)
    assert order == [1, 2, 3]


async def test_manual_clock_survives_a_cancelled_sleeper() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.advance(2)
    await clock.sleep(0)


def test_sequence_ids_are_valid_version_4() -> None:
    source = ids.SequenceIds()
    assert source.uuid() == "00000000-0000-4000-8000-000000000001"
    assert source.uuid() == "00000000-0000-4000-8000-000000000002"
    system = ids.SystemIds()
    assert system.uuid() != system.uuid()


def test_operation_ids_carry_attempts_only_when_needed() -> None:  # ruling R13
    assert ids.operation_id("a/b", 0) == "a/b.0"
    assert ids.operation_id("a", 2, attempt=3) == "a~1.1.3.2"
    assert ids.operation_id("a", "key", tick=4, visit=2) == "a~4.2.1.key"
    assert ids.OPERATION_ID.match(ids.operation_id("a/b", 0, visit=2))


def test_forms_are_anchored_at_both_ends() -> None:
    assert ids.HASH.match("sha256:" + "a" * 64)
    for text in ("sha256:" + "a" * 64 + "\n", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "x" + "sha256:" + "a" * 64):
        assert not ids.HASH.match(text)
    assert ids.COMMIT.match(ids.NO_COMMIT)
    assert ids.COMMIT.match("f" * 64)
    assert not ids.COMMIT.match("f" * 41)
