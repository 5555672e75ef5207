"""The pause gate: holds starts, never teardown."""

from __future__ import annotations

import asyncio

import pytest

from runtime.egress.scopes import CancelTree, Fenced, Scope, ScopeKind
from runtime.execution.pause import PauseGate
from runtime.kernel.clock import ManualClock


@pytest.fixture
def scope() -> Scope:
    tree = CancelTree(ManualClock())
    return tree.open(ScopeKind.TURN, "turn", tree.open(ScopeKind.SESSION, "session"))


async def test_an_open_gate_lets_pass_at_once(scope: Scope) -> None:
    gate = PauseGate(scope)
    await gate.passed()
    assert not gate.resume()


async def test_a_closed_gate_holds_until_resumed(scope: Scope) -> None:
    gate = PauseGate(scope)
    assert gate.pause()
    assert not gate.pause()
    waiting = [asyncio.ensure_future(gate.passed()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert gate.resume()
    await asyncio.gather(*waiting)


async def test_a_gate_closed_again_before_the_waiter_ran_still_holds(scope: Scope) -> None:
    gate = PauseGate(scope)
    gate.pause()
    waiting = asyncio.ensure_future(gate.passed())
    await asyncio.sleep(0)
    gate.resume()
    gate.pause()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.resume()
    await waiting


async def test_a_fence_opens_the_gate_for_those_who_must_see_it(scope: Scope) -> None:
    gate = PauseGate(scope)
    gate.pause()
    waiting = asyncio.ensure_future(gate.passed())
    await asyncio.sleep(0)
    scope.fence("operator_cancel")
    with pytest.raises(Fenced):
        await waiting
    assert not gate.pause(), "nothing can start anyway"
    with pytest.raises(Fenced):
        await gate.passed()
