"""The schedule block: fire times of a cron expression, driven by whatever clock it is given (blocks spec §21.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from runtime.blocks.builtin.cron import LOOK_SECONDS, Cron
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockValidationError
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Step, step

START = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)


class Hours:
    """A clock whose sleeps take no time; ``advance`` is what work costs."""

    def __init__(self, start: datetime = START) -> None:
        self.time, self.slept = start, 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= LOOK_SECONDS
        self.slept += seconds
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


async def ticks(expression: str, count: int, costs: Sequence[float] = (), start: datetime = START) -> list[str]:
    """The values of the first ``count`` ticks; the work of tick n takes ``costs[n - 1]`` seconds."""
    clock = Hours(start)
    scope = Scope(services=Services(clock=clock))

    def work(value: object, ctx: object) -> None:
        number = len(seen.calls)
        if number <= len(costs):
            clock.advance(costs[number - 1])
        if number == count:
            scope.request_stop()

    seen: Step = step("seen", work)
    response: Response = await Workflow("w").link(Cron(cron=expression), seen).execute(Request(), scope=scope)
    assert response.success
    return [str(value.payload) for value in seen.calls]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]),
        ("*/20 3 * * *", ["2026-01-01T03:00:00Z", "2026-01-01T03:20:00Z"]),
        ("15 * * * * *", ["2026-01-01T00:01:15Z", "2026-01-01T00:02:15Z"]),
        ("0 0 12 * * * 2026", ["2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z"]),
        ("0 9 * * mon", ["2026-01-05T09:00:00Z", "2026-01-12T09:00:00Z"]),
    ],
)
async def test_five_six_and_seven_fields(expression: str, expected: list[str]) -> None:
    assert await ticks(expression, 2) == expected


async def test_times_missed_while_busy_collapse_into_the_newest() -> None:
    values = await ticks("* * * * *", 3, costs=[200.0])
    assert values == ["2026-01-01T00:01:00Z", "2026-01-01T00:04:00Z", "2026-01-01T00:05:00Z"]


async def test_a_time_that_is_now_belongs_to_the_past() -> None:
    assert await ticks("* * * * *", 1, start=datetime(2026, 1, 1, tzinfo=UTC)) == ["2026-01-01T00:01:00Z"]


async def test_the_stream_ends_with_the_last_time() -> None:
    assert await ticks("0 0 7,8 1 1 * 2026", 9) == ["2026-01-01T07:00:00Z", "2026-01-01T08:00:00Z"]
    response = await Workflow("w").add(Cron(cron="0 0 0 1 1 * 2020")).execute(Request())
    assert response.code == "runtime.empty_stream"


@pytest.mark.parametrize(
    "expression",
    ["", "x", "* * * *", "61 * * * *", "* * * * * * * *", "@daily", "*/0 * * * *", "R * * * *", "H * * * *"],
)
def test_what_is_no_schedule_is_refused_at_construction(expression: str) -> None:
    with pytest.raises(BlockValidationError) as caught:
        Cron(cron=expression)
    assert caught.value.code == "cron.invalid_expression"
