"""One writer or several executers, in order of arrival (ruling R21)."""

from __future__ import annotations

import asyncio

import pytest

from runtime.kernel.model import Effect
from runtime.orchestration.gate import WorkGate


async def hold(gate: WorkGate, effect: Effect, log: list[str], name: str, end: asyncio.Event) -> None:
    async with gate.hold(effect):
        log.append(name)
        await end.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_reads_and_model_calls_pass_by() -> None:
    gate = WorkGate()
    async with gate.hold(Effect.WRITE), gate.hold(Effect.READ), gate.hold(Effect.EXTERNAL), gate.hold(Effect.NONE):
        assert gate.statistics() == {"shared": 0, "exclusive": 1, "waiting": 0}


async def test_a_waiting_write_is_not_overtaken() -> None:
    gate, log, end = WorkGate(), [], asyncio.Event()
    order = [("e1", Effect.EXECUTE), ("e2", Effect.EXECUTE), ("w", Effect.WRITE), ("e3", Effect.EXECUTE)]
    tasks = []
    for name, effect in order:
        tasks.append(asyncio.ensure_future(hold(gate, effect, log, name, end)))
        await settle()
    assert log == ["e1", "e2"]
    assert gate.statistics() == {"shared": 2, "exclusive": 0, "waiting": 2}
    end.set()
    await asyncio.gather(*tasks)
    assert log == ["e1", "e2", "w", "e3"]
    assert gate.statistics() == {"shared": 0, "exclusive": 0, "waiting": 0}


@pytest.mark.parametrize("when", ["waiting", "admitted"])
async def test_a_cancelled_waiter_passes_the_gate_on(when: str) -> None:
    gate, log = WorkGate(), []
    first_end, end = asyncio.Event(), asyncio.Event()
    first = asyncio.ensure_future(hold(gate, Effect.WRITE, log, "first", first_end))
    await settle()
    doomed = asyncio.ensure_future(hold(gate, Effect.WRITE, log, "doomed", end))
    last = asyncio.ensure_future(hold(gate, Effect.EXECUTE, log, "last", end))
    await settle()
    if when == "admitted":
        first_end.set()
        await asyncio.sleep(0)  # the first has left and admitted the doomed one, which has not run yet
    doomed.cancel()
    first_end.set()
    end.set()
    await asyncio.gather(first, last)
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert "last" in log
    assert gate.statistics() == {"shared": 0, "exclusive": 0, "waiting": 0}
