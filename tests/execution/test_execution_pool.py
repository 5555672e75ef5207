"""The execution pool: FIFO, bounds, per-key limits, slots always returned, and draining."""

from __future__ import annotations

import asyncio

import pytest

from runtime.execution.pool import ExecutionPool, Task
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError, Refused


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Jobs:
    """Tasks of a pool that start and end visibly."""

    def __init__(self, pool: ExecutionPool) -> None:
        self.pool = pool
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[str]] = {}

    def submit(self, name: str, *, key: str = "", limit: int = 0, wait: bool = False) -> None:
        self.ends[name] = asyncio.Event()

        async def run() -> str:
            self.started.append(name)
            await self.ends[name].wait()
            return name

        task = Task(id=name, run=run, fairness_key=key, max_outstanding=limit, wait=wait)
        self.tasks[name] = asyncio.create_task(self.pool.submit(task))

    async def end(self, name: str) -> str:
        self.ends[name].set()
        result = await self.tasks[name]
        await settle()
        return result

    async def code(self, name: str) -> str:
        with pytest.raises(Refused) as caught:
            await self.tasks[name]
        return caught.value.code


def jobs(workers: int = 1, queue: int = 64) -> Jobs:
    return Jobs(ExecutionPool(clock=ManualClock(), workers=workers, queue=queue))


async def test_one_worker_starts_in_order_of_submission() -> None:
    all_jobs = jobs()
    for n in range(5):
        all_jobs.submit(f"j{n}")
    await settle()
    assert all_jobs.started == ["j0"]
    for n in range(5):
        assert await all_jobs.end(f"j{n}") == f"j{n}"
    assert all_jobs.started == [f"j{n}" for n in range(5)]


async def test_a_full_queue_refuses_unless_the_task_waits() -> None:
    all_jobs = jobs(queue=1)
    for name in ("running", "queued", "refused"):
        all_jobs.submit(name)
    all_jobs.submit("patient", wait=True)
    await settle()
    assert await all_jobs.code("refused") == "execution_pool_saturated"
    assert not all_jobs.tasks["patient"].done()
    for name in ("running", "queued", "patient"):
        await all_jobs.end(name)
    stats = all_jobs.pool.stats()
    assert (stats.submitted, stats.completed, stats.rejected, stats.rejected_by_concurrency) == (4, 3, 1, 0)
    assert (stats.in_flight, stats.queue_depth) == (0, 0)


async def test_a_key_has_its_own_limit_and_leaves_others_alone() -> None:
    all_jobs = jobs(workers=8)
    all_jobs.submit("a1", key="a", limit=1)
    all_jobs.submit("a2", key="a", limit=1)
    all_jobs.submit("b1", key="b", limit=1)
    all_jobs.submit("a3", key="a", limit=1, wait=True)
    await settle()
    assert await all_jobs.code("a2") == "node_concurrency_limited"
    assert all_jobs.started == ["a1", "b1"]
    await all_jobs.end("a1")
    assert all_jobs.started == ["a1", "b1", "a3"]
    await all_jobs.end("a3")
    await all_jobs.end("b1")
    stats = all_jobs.pool.stats()
    assert (stats.rejected, stats.rejected_by_concurrency) == (1, 1)


async def test_the_key_defaults_to_the_task_id_and_comes_before_capacity() -> None:
    all_jobs = jobs(queue=0)
    all_jobs.submit("same", limit=1)
    await settle()
    first = all_jobs.tasks["same"]
    all_jobs.submit("same", limit=1)
    all_jobs.submit("other", limit=1)
    await settle()
    assert await all_jobs.code("same") == "node_concurrency_limited"
    assert await all_jobs.code("other") == "execution_pool_saturated"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_exceptions_go_to_the_submitter_and_return_the_slot() -> None:
    pool = ExecutionPool(clock=ManualClock(), workers=1)

    async def broken() -> None:
        raise ValueError("block")

    with pytest.raises(ValueError, match="block"):
        await pool.submit(Task(id="x", run=broken, max_outstanding=1))
    assert await pool.submit(Task(id="x", run=lambda: asyncio.sleep(0, "fine"), max_outstanding=1)) == "fine"
    assert pool.stats().completed == 2


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("victim", ["running", "queued"])
async def test_cancelling_at_any_step_frees_the_place_at_once(victim: str, steps: int) -> None:
    all_jobs = jobs(queue=1)
    all_jobs.submit("running", limit=1)
    all_jobs.submit("queued", limit=1)
    for _ in range(steps):
        await asyncio.sleep(0)
    if victim == "queued" and steps > 3:
        all_jobs.ends["running"].set()
        for _ in range(steps - 3):
            await asyncio.sleep(0)
    all_jobs.tasks[victim].cancel()
    await settle()
    other = "queued" if victim == "running" else "running"
    assert await all_jobs.end(other) == other
    all_jobs.submit(victim, limit=1)
    assert await all_jobs.end(victim) == victim
    assert all_jobs.pool.has_free_worker
    assert all_jobs.pool.stats().in_flight == 0


async def test_a_drain_refuses_new_work_and_waits_for_the_rest() -> None:
    all_jobs = jobs(queue=4)
    all_jobs.submit("running")
    all_jobs.submit("queued")
    await settle()
    drain = asyncio.create_task(all_jobs.pool.drain(10.0))
    await settle()
    all_jobs.submit("late", wait=True)
    await settle()
    assert await all_jobs.code("late") == "execution_pool_closed"
    assert not drain.done()
    await all_jobs.end("running")
    await all_jobs.end("queued")
    assert await drain == ()


async def test_a_drain_past_its_deadline_reports_and_cancels_what_is_left() -> None:
    clock = ManualClock()
    all_jobs = Jobs(ExecutionPool(clock=clock, workers=1))
    all_jobs.submit("stuck")
    all_jobs.submit("behind")
    await settle()
    drain = asyncio.create_task(all_jobs.pool.drain(10.0))
    await settle()
    clock.advance(10.0)
    assert await drain == ("stuck", "behind")
    await settle()
    assert all_jobs.tasks["stuck"].cancelled()
    assert all_jobs.tasks["behind"].cancelled()
    assert await all_jobs.pool.drain(0.0) == ()


async def test_contract_errors_are_not_counted() -> None:
    pool = ExecutionPool(clock=ManualClock())
    run = lambda: asyncio.sleep(0)  # noqa: E731
    for bad in (Task(id="", run=run), Task(id="x", run=run, max_outstanding=-1)):
        with pytest.raises(ContractError):
            await pool.submit(bad)
    assert pool.stats().submitted == 0
    with pytest.raises(ContractError):
        ExecutionPool(clock=ManualClock(), workers=0)


async def test_listeners_hear_of_a_free_worker() -> None:
    heard: list[bool] = []
    all_jobs = jobs()
    stop = all_jobs.pool.on_release(lambda: heard.append(all_jobs.pool.has_free_worker))
    all_jobs.submit("a")
    all_jobs.submit("b")
    await settle()
    await all_jobs.end("a")
    assert heard == [], "the worker went to the next in the queue"
    await all_jobs.end("b")
    assert heard == [True]
    stop()


async def test_times_are_measured_on_the_injected_clock() -> None:
    clock = ManualClock()
    all_jobs = Jobs(ExecutionPool(clock=clock, workers=1))
    all_jobs.submit("a")
    all_jobs.submit("b")
    await settle()
    clock.advance(5.0)
    await all_jobs.end("a")
    await all_jobs.end("b")
    stats = all_jobs.pool.stats()
    assert (stats.queue_time.longest, stats.run_time.longest) == (5.0, 5.0)
    assert sum(stats.run_time.counts) == 2


async def test_a_noisy_key_takes_no_more_than_its_share() -> None:
    all_jobs = jobs(workers=4)
    for n in range(20):
        all_jobs.submit(f"noisy{n}", key="noisy", limit=2, wait=True)
    all_jobs.submit("quiet", key="quiet", limit=1)
    await settle()
    assert all_jobs.started == ["noisy0", "noisy1", "quiet"]
    for n in range(20):
        await all_jobs.end(f"noisy{n}")
    await all_jobs.end("quiet")
