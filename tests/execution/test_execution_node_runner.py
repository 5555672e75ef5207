"""One attempt in a governed run: journalled, retried, undone, answered from the journal after a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.running import NodeCall, NodeOptions
from runtime.execution.node_runner import TurnRunner
from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.errors import StorageError
from tests.support.blocks_kit import respond, step
from tests.support.hosting import entries, hosting, live, plain, question, run_to_end, until, write_mission

WRITES = """\
mission: writes
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [out], allowed_tools: [filesystem.write_file]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: out, content: "1"}
  gate: {type: approval, message: Really?}
links: [write -> gate]
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def test_every_attempt_has_a_start_and_an_end(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = "  a: {type: template, template: hi}\n  ask: {type: approval, message: Really?}"
    begun = await host.launch(Launch(path=plain(tmp_path / "m", blocks, "[a -> ask]")))
    asked = await question(host, begun.run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    await host.wait(begun.run_id)
    started = await entries(host, begun.run_id, "step_started")
    finished = await entries(host, begun.run_id, "step_finished")
    assert [item["step_id"] for item in started] == ["a", "ask"]
    assert [item["operation_type"] for item in started] == ["template", "human"]
    assert [(item["step_id"], item["status"]) for item in finished] == [("a", "completed"), ("ask", "completed")]
    assert finished[0]["outputs"] == {"value": "hi"}


async def test_a_failed_attempt_tells_its_code(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = '  gate: {type: gate_check, check: non_empty, condition: {x: ""}}'
    done = await run_to_end(host, plain(tmp_path / "m", blocks))
    (finished,) = await entries(host, done.run_id, "step_finished")
    assert done.status is RunStatus.FAILED
    assert finished["status"] == "failed"
    assert finished["code"] == done.code
    assert "accepted" not in finished


async def test_an_expected_failure_is_marked_and_counts_as_done(host: RuntimeHost, tmp_path: Path) -> None:
    code = await gate_code(host, tmp_path)
    blocks = f'  gate: {{type: gate_check, check: non_empty, condition: {{x: ""}}, accept: [{code}]}}'
    done = await run_to_end(host, plain(tmp_path / "m", blocks))
    (finished,) = await entries(host, done.run_id, "step_finished")
    assert (done.status, done.steps_done) == (RunStatus.SUCCEEDED, 1)
    assert finished["accepted"] is True


async def gate_code(host: RuntimeHost, tmp_path: Path) -> str:
    """What a closed gate is called."""
    blocks = '  gate: {type: gate_check, check: non_empty, condition: {x: ""}}'
    return str((await run_to_end(host, plain(tmp_path / "probe", blocks))).code)


async def test_cancelled_attempts_end_as_cancelled_and_left_ones_stay_open(host: RuntimeHost, tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  nap: {type: delay, seconds: 60}")
    for stop, expected in (("cancel", ["cancelled"]), ("leave", [])):
        begun = await host.launch(Launch(path=path))
        run = live(host, begun.run_id)
        await until(lambda run=run: run.parts.loop.running)
        if stop == "cancel":
            await host.cancel(begun.run_id)
        else:
            run.leave()
        await host.wait(begun.run_id)
        await host._store.flush()
        assert [item["status"] for item in await entries(host, begun.run_id, "step_finished")] == expected


async def test_a_journal_that_refuses_halts_instead_of_failing_the_block(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it a failure of the block, it would be retried, handled or accepted."""
    attempts: list[str] = []
    start = TurnRunner._start

    def refused(self: TurnRunner, call: Any) -> None:
        attempts.append(call.node_path)
        if call.node_path == "b":
            raise StorageError("STORE_BACKLOG", "too much waits")
        start(self, call)

    monkeypatch.setattr(TurnRunner, "_start", refused)
    blocks = "  a: {type: template, template: hi}\n  b: {type: template, template: x, retry: {max_attempts: 3}}"
    done = await run_to_end(host, plain(tmp_path / "m", blocks, "[a -> b]"))
    assert attempts == ["a", "b"]
    assert (done.status, done.code) == (RunStatus.FAILED, "STORE_BACKLOG")


async def test_finished_attempts_are_answered_from_the_journal(tmp_path: Path) -> None:
    big = "x" * 6000
    blocks = f"  big: {{type: template, template: {big}}}\n  ask: {{type: approval, message: Really?}}"
    blocks += '\n  same: {type: template, template: "{{ given }}", data: {given: "${outputs.big}"}}'
    path = plain(tmp_path / "m", blocks, "[big -> ask -> same]", more='outputs: {said: "${outputs.same}"}\n')
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await question(host, run_id)
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        asked = await question(host, run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        done = await host.wait(run_id)
        assert done.outputs == {"said": big}, "an output kept as an artifact comes back whole"
        assert [item["step_id"] for item in await entries(host, run_id, "step_started")] == ["big", "ask", "same"]


async def test_a_failure_after_a_crash_still_undoes_what_came_before_it(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    path = write_mission(tmp_path / "m", WRITES)
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path, inputs={"root": str(root)}))).run_id
        await question(host, run_id)
        assert (root / "out").exists()
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        asked = await question(host, run_id)
        runner = live(host, run_id).parts.runner
        assert list(runner._undo._receipts) == [("write", 1, 1, 1)], "known from the journal"
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected"))
        done = await host.wait(run_id)
        assert (done.status, done.exit_code) == (RunStatus.FAILED, 3)
        assert not (root / "out").exists()
        assert (await host.verify(run_id)).ok


@pytest.mark.parametrize(("effects", "left"), [("none", SideEffects.NONE), ("unknown", SideEffects.NON_IDEMPOTENT)])
async def test_a_failure_that_changed_nothing_is_safe_to_repeat(effects: str, left: SideEffects) -> None:
    """A mail that was refused before it was taken may be sent again; without that word it may not (blocks spec C12)."""

    async def nothing_to_undo(receipts: Any) -> tuple[()]:
        return ()

    runner = TurnRunner(
        cast(Any, SimpleNamespace(executor=SimpleNamespace(compensate_all=nothing_to_undo), history=None))
    )

    def refuse(value: object, ctx: object) -> None:
        raise BlockRuntimeError("email.smtp.transient", "later", effects=effects)

    block = step("mail", refuse, effects="non_idempotent")
    call = NodeCall(node_name="mail", node_path="mail", block=block, request=Request(), options=NodeOptions())
    assert await runner.undo(call, await respond(block)) is left
