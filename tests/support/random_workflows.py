"""Small workflows of any shape, for properties that hold whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.conditions import otherwise
from runtime.blocks.debug import DebugSession
from runtime.blocks.errors import BlockSkip
from runtime.blocks.policies import DebugPolicy, RepairPolicy, RetryPolicy
from runtime.blocks.report import RunHandle, RunReport
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import failing, raising, scope, step, stuck

#: In every value, error and detail of these workflows; nothing that leaves a run in diagnostics may hold it.
SECRET = "what flows through the run"


def waits_once(value: Any, ctx: Any) -> Any:
    return ctx.wait("go on?", kinds=("string",))


def behaving(name: str, how: str) -> Block:
    if how == "fails once":
        return failing(name, 1, details={"message": SECRET})
    if how == "fails":
        return failing(name, effects="non_idempotent")
    actions: dict[str, Any] = {
        "skips": raising(BlockSkip(SECRET)),
        "waits": waits_once,
        "sticks": stuck,
        "faults": raising(KeyError(SECRET)),
    }
    return step(name, actions[how]) if how in actions else step(name)


def mend(session: DebugSession) -> str:
    """Everything a hook may do to the ledger; refusals and all."""
    session.patch("mended", SECRET)
    session.rollback(logical_only=True)
    session.patch("mended", session.failure.code)
    return "resume"


HOW = st.sampled_from(["passes", "passes", "fails once", "fails", "skips", "waits", "sticks", "faults"])
RECOVERY = st.sampled_from(
    [
        {},
        {"retry": RetryPolicy(2)},
        {"optional": True},
        {"recovery": {Exception: (RepairPolicy(lambda request, failure: request), DebugPolicy())}},
        {"recovery": {Exception: (DebugPolicy(mend), RetryPolicy(3))}},
    ]
)


@st.composite
def workflows(draw: st.DrawFn, name: str = "w", depth: int = 1) -> Workflow:
    workflow = Workflow(name)
    start, routed = step(f"{name}0"), draw(st.booleans())
    workflow.add(start)
    names = [f"{name}0"]
    for number in range(1, draw(st.integers(1, 4)) + 1):
        own = f"{name}{number}"
        nested = depth > 0 and draw(st.integers(0, 4)) == 0
        block = draw(workflows(own, depth - 1)) if nested else behaving(own, draw(HOW))
        if routed:
            workflow.branch(names[-1], otherwise(block))
        else:
            workflow.link(draw(st.sampled_from(names)), block)
        workflow.configure(block, side_effects=draw(st.sampled_from(["none", "non_idempotent"])), **draw(RECOVERY))
        names.append(own)
        if draw(st.booleans()):
            workflow.on_error(block, behaving(f"{own}h", draw(st.sampled_from(["passes", "fails", "waits"]))))
    return workflow


#: After how many turns of the loop a run that still goes on is cancelled.
turns_to_live = st.sampled_from([0, 1, 2, 3, 5, 8, 12, 20, 40] + [120] * 6)


def told(handle: RunHandle) -> asyncio.Task[list[Mapping[str, Any]]]:
    """Every event of a run from now to its end."""
    stream = handle.events()

    async def read() -> list[Mapping[str, Any]]:
        return [event async for event in stream]

    return asyncio.create_task(read())


async def driven(workflow: Workflow, life: int) -> tuple[RunReport, list[Mapping[str, Any]]]:
    """Run, answering what is asked; cancel what still runs after ``life`` turns. The report and all events."""
    handle = workflow.start(SECRET, scope=scope())
    reading = told(handle)
    for _ in range(life):
        await asyncio.sleep(0)
        for ticket in handle.waits:
            handle.answer(ticket.wait_id, SECRET)
    handle.cancel()
    report = await handle.result()
    async with asyncio.timeout(5):
        return report, await reading
