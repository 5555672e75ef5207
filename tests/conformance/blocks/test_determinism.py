"""The same workflow a hundred times under randomised scheduling: the same ledger, the same response (blocks spec §24).

The workflow mixes what could depend on timing: wide levels, joins, several outputs at once, retries, repairs, an optional
node, a nested walk with a loop and a branch, a failing level with handlers. Every block gives way a random number of times
before it answers, so the order in which attempts end differs from run to run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from runtime.blocks.conditions import case, otherwise, when
from runtime.blocks.contracts import multiple, once
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.ledger import LedgerOp
from runtime.blocks.policies import RepairPolicy, RetryPolicy
from runtime.blocks.results import Multiple
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from tests.support.blocks_kit import Step, step

RUNS = 100
_MASKED = {"id", "span_id", "parent_span_id", "trace_id", "run_id", "created_at", "duration_ms"}


class Restless:
    """Makes steps whose every attempt takes a random number of turns of the loop."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.order: list[str] = []

    def step(self, name: str, action: Callable[[BlockValue, Any], Any] = lambda value, ctx: value, **more: Any) -> Step:
        async def act(value: BlockValue, ctx: Any) -> Any:
            for _ in range(self._chance.randrange(8)):
                await asyncio.sleep(0)
            self.order.append(name)
            return action(value, ctx)

        return step(name, act, **more)


def breaks(times: int) -> Callable[[BlockValue, Any], Any]:
    def action(value: BlockValue, ctx: Any) -> Any:
        if ctx.attempt <= times:
            raise BlockRuntimeError("demo.broken", f"attempt {ctx.attempt} of {ctx.node_name}")
        return f"{ctx.node_name} at {ctx.attempt}"

    return action


def sharper(request: Request, failure: Response) -> Request:
    return request.with_payload(f"{request.payload.text()} after {failure.code}")


def mixed(restless: Restless, *, ends_badly: bool) -> Workflow:
    made = restless.step
    walk = Workflow("walk", max_steps=9)
    count = made("count", lambda value, ctx: ctx.visit)
    walk.branch(count, when(case(equals=3), made("out", lambda value, ctx: "three")), otherwise(count))
    spread = made("spread", lambda value, ctx: Multiple([1, 2, 3]), gives=multiple("int"), count=3)
    join = made("join", lambda value, ctx: value.to_json(), takes=multiple(), gives=once("string"))
    flow = Workflow("mixed", max_parallel=4, seed={"seeded": "yes"})
    one, two, three = (made(f"part{index}", lambda value, ctx: [ctx.node_name, value]) for index in range(3))
    retried, repaired, dropped = made("retried", breaks(2)), made("repaired", breaks(1)), made("dropped", breaks(9))
    for part in (one, two, three):
        flow.link(spread, part)
    flow.link(one, retried, join).link(two, repaired, join).link(three, dropped, join).link(one, walk, join)
    flow.configure(retried, retry=RetryPolicy(3, initial=0.0), side_effects="idempotent")
    flow.configure(repaired, recovery={Exception: (RepairPolicy(sharper),)}, reads=["seeded", "$input"])
    flow.configure(dropped, optional=True)
    if ends_badly:
        bad, worse = made("bad", breaks(9)), made("worse", breaks(9))
        flow.link(join, bad).link(join, worse).link(join, made("fine"))
        for source in (bad, worse):
            flow.on_error(source, made(f"told_{source.block_name}", lambda value, ctx: value["code"]))
            flow.on_error(source, made(f"also_{source.block_name}", lambda value, ctx: value["block_id"]))
    return flow


def masked(response: Response) -> dict[str, Any]:
    metadata = {key: value for key, value in response.metadata.items() if key not in _MASKED}
    return {**response.record(), "data": response.data, "metadata": metadata}


def line(op: LedgerOp) -> tuple[Any, ...]:
    entry = op.entry
    provenance = {} if entry is None else {k: v for k, v in entry.metadata.items() if k not in _MASKED}
    told = None if entry is None else (entry.value, entry.source_block_id, tuple(sorted(provenance.items())))
    return (op.seq, op.op, op.key, op.checkpoint_id, op.orphaned, told)


async def one_run(seed: int, *, ends_badly: bool) -> tuple[Any, ...]:
    restless = Restless(seed)
    scope = Scope(services=Services(clock=ManualClock()))
    response = await mixed(restless, ends_badly=ends_badly).execute(Request(BlockValue.of("in")), scope=scope)
    assert scope.root is not None
    log = [line(op) for op in scope.root.ledger.view.log()]
    nodes = {name: (item.status, item.visits, item.attempts, item.code) for name, item in scope.root.outcomes.items()}
    return masked(response), log, nodes, tuple(restless.order)


@pytest.mark.parametrize("ends_badly", [False, True])
def test_a_hundred_runs_under_randomised_scheduling_are_one(ends_badly: bool) -> None:
    runs = [asyncio.run(one_run(seed, ends_badly=ends_badly)) for seed in range(RUNS)]
    assert len({order for *_, order in runs}) > RUNS // 2, "the schedules differed"
    first = runs[0][:3]
    assert all(run[:3] == first for run in runs)
    assert first[0]["success"] is not ends_badly
    if ends_badly:
        assert first[0]["metadata"]["failure_path"] == ["bad"]
        assert first[0]["metadata"]["also_failed"] == ["worse"]
