"""The clock as the start of a recurring run: one tick per time a cron expression names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import recurring
from runtime.blocks.errors import BlockValidationError
from runtime.blocks.values import BlockValue

#: The clock on the wall may be set, and a laptop may sleep: it is looked at again after this many seconds.
LOOK_SECONDS: Final = 60.0
#: What only makes sense to the library: times drawn by lot or from a hash.
_DRAWN: Final = re.compile(r"[rRhH](?:\(.*\))?(?:/\d+)?\Z")
_INSTANT: Final = timedelta(microseconds=1)


class Cron(Block, output=recurring("string"), side_effects="none"):
    """Give the time, as text, whenever a cron expression says so (UTC); only as a mission's first block."""

    cron: str = field(
        metadata={"help": "Minute, hour, day, month, weekday; with seconds before them, a year after them."}
    )

    def __post_init__(self) -> None:
        words = self.cron.split()
        if not 5 <= len(words) <= 7:
            raise _invalid(self.cron, f"it has {len(words)} fields")
        if any(_DRAWN.match(word) for word in words):
            raise _invalid(self.cron, "times cannot be drawn by lot")
        try:
            _schedule(self.cron, datetime(2000, 1, 1, tzinfo=UTC))
        except ValueError as error:
            raise _invalid(self.cron, str(error)) from None

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Any value may start it; it is ignored."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> AsyncIterator[str]:
        clock = ctx.services.clock
        last = clock.now()
        while (due := following(self.cron, last)) is not None:
            while (left := (due - clock.now()).total_seconds()) > 0:
                await clock.sleep(min(left, LOOK_SECONDS))
            # Times that passed while the last tick was at work collapse into the newest of them.
            last = newest(self.cron, clock.now())
            yield last.strftime("%Y-%m-%dT%H:%M:%SZ")


def following(expression: str, moment: datetime) -> datetime | None:
    """The first time after ``moment``; None when there is none in the next fifty years."""
    from croniter import CroniterBadDateError

    try:
        return cast(datetime, _schedule(expression, moment).get_next(datetime))
    except CroniterBadDateError:
        return None


def newest(expression: str, moment: datetime) -> datetime:
    """The last time that is not after ``moment``; there must be one."""
    return cast(datetime, _schedule(expression, moment + _INSTANT).get_prev(datetime))


def _schedule(expression: str, start: datetime) -> Any:
    """Raises `ValueError` for an expression that is none."""
    from croniter import croniter  # a mission without schedule does not pay for it

    words = expression.split()
    seconds = ["0"] if len(words) == 5 else []
    return croniter(" ".join([*seconds, *words]), start, second_at_beginning=True)


def _invalid(expression: str, why: str) -> BlockValidationError:
    text = f"cron: {expression[:80]!r} is no schedule: {why[:200]}; write five to seven fields, such as '*/15 * * * *'"
    return BlockValidationError("cron.invalid_expression", text)
