"""Recurring missions: one journalled step of the entry per tick, resumed behind them, ended by stop or cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.builtin import cron
from runtime.blocks.contexts import BlockContext
from runtime.blocks.errors import BlockInputError
from runtime.host.api import Answer, Launch, Refused, Replay, RunStatus
from runtime.host.runtime_host import RuntimeHost
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    live,
    open_questions,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
)

EVERY = '  every: {type: cron, cron: "* * * * *"}\n'


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


def times(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the next ``count`` times be now, and the one after them far away."""
    left = [count]

    def following(expression: str, moment: datetime) -> datetime:
        left[0] -= 1
        return moment if left[0] >= 0 else moment + timedelta(days=400)

    monkeypatch.setattr(cron, "following", following)
    monkeypatch.setattr(
        cron, "newest", lambda expression, moment: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=left[0])
    )


def gives(monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    """Let the schedule be another stream: ``source(ctx)``."""
    monkeypatch.setattr(cron.Cron, "run", lambda self, input, ctx: source(ctx))


async def steps(host: RuntimeHost, run_id: str, kind: str = "step_finished") -> list[tuple[str, int, str]]:
    return [(item["step_id"], item.get("tick", 1), item["status"]) for item in await entries(host, run_id, kind)]


async def waiting_for(host: RuntimeHost, run_id: str, tick: int) -> None:
    """Until the entry waits for its item of ``tick``."""
    journal = live(host, run_id).prepared.journal
    await until(lambda: journal.open_step("every", tick=tick))


def saying(folder: Path) -> str:
    return plain(folder, EVERY + "  say: {type: echo}", "[every -> say]", more='outputs: {said: "${outputs.say}"}\n')


async def test_every_tick_is_a_step_of_its_own_and_stop_ends_the_run_well(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 2)
    run_id = (await host.launch(Launch(path=saying(tmp_path / "m")))).run_id
    await waiting_for(host, run_id, 3)
    assert live(host, run_id).parts.pool.running == 0, "waiting for a tick takes no worker"
    assert live(host, run_id).parts.timer.held == {"tick"}
    ack = await host.stop(run_id, "enough")
    assert ack.done
    assert not (await host.stop(run_id)).done
    done = await host.wait(run_id)
    assert (done.status, done.outputs) == (RunStatus.SUCCEEDED, {"said": "2026-01-01T00:00:00Z"})
    assert await steps(host, run_id) == [
        ("every", 1, "completed"),
        ("say", 1, "completed"),
        ("every", 2, "completed"),
        ("say", 2, "completed"),
        ("every", 3, "skipped"),
    ]
    assert [(item["action"], item["reason"]) for item in await entries(host, run_id, "operator_action")] == [
        ("stop", "enough")
    ]
    assert (await host.verify(run_id)).ok
    assert not (await host.stop(run_id)).done


async def test_a_resumed_run_takes_recorded_ticks_and_goes_on_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 2)
    async with hosting(tmp_path / "store") as first:
        run_id = (await first.launch(Launch(path=saying(tmp_path / "m")))).run_id
        await waiting_for(first, run_id, 3)
    times(monkeypatch, 1)
    async with hosting(tmp_path / "store") as second:
        assert (await second.resume(run_id)).done
        await waiting_for(second, run_id, 4)
        await second.stop(run_id)
        assert (await second.wait(run_id)).status is RunStatus.SUCCEEDED
        assert await steps(second, run_id) == [
            *((name, tick, "completed") for tick in (1, 2, 3) for name in ("every", "say")),
            ("every", 4, "skipped"),
        ]
        assert [tick for name, tick, _ in await steps(second, run_id, "step_started") if name == "every"] == [
            1,
            2,
            3,
            4,
        ]


ASKING = EVERY + "  ask: {type: approval, message: Really?}"


async def answer(host: RuntimeHost, run_id: str) -> None:
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))


async def test_a_stop_outlives_its_process_and_the_interrupted_tick_keeps_its_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 9)
    async with hosting(tmp_path / "store") as first:
        run_id = (await first.launch(Launch(path=plain(tmp_path / "m", ASKING, "[every -> ask]")))).run_id
        await answer(first, run_id)
        await until(
            lambda: any(".2.1.1" in item.escalation_id.replace("~", ".") for item in open_questions(first, run_id))
        )
        await first.stop(run_id)
    async with hosting(tmp_path / "store") as second:
        await second.resume(run_id)
        await answer(second, run_id)
        assert (await second.wait(run_id)).status is RunStatus.SUCCEEDED
        assert [tick for name, tick, _ in await steps(second, run_id) if name == "ask"] == [1, 2]
        started = [item for item in await entries(second, run_id, "step_started") if item["step_id"] == "ask"]
        assert [item["inputs"]["value"] for item in started] == ["2026-01-01T08:00:00Z", "2026-01-01T07:00:00Z"]


async def test_a_schedule_may_come_from_an_input(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = '  every: {type: cron, cron: "${inputs.when}"}'
    path = plain(tmp_path / "m", every, more="inputs: {when: {type: string}}\n")
    monkeypatch.setattr(cron, "following", lambda expression, moment: None)
    done = await run_to_end(host, path, inputs={"when": "* * * * *"})
    assert done.code == "runtime.empty_stream"
    done = await run_to_end(host, path, inputs={"when": "never"})
    assert done.code == "cron.invalid_expression"
    assert await steps(host, done.run_id) == [("every", 1, "failed")]


async def test_cancel_is_immediate(host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 0)
    run_id = (await host.launch(Launch(path=saying(tmp_path / "m")))).run_id
    await waiting_for(host, run_id, 1)
    await host.cancel(run_id)
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    assert await steps(host, run_id) == [("every", 1, "cancelled")]


async def test_stop_before_the_first_tick_cancels_and_no_further_time_fails(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 0)
    run_id = (await host.launch(Launch(path=saying(tmp_path / "m")))).run_id
    await waiting_for(host, run_id, 1)
    await host.stop(run_id)
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    monkeypatch.setattr(cron, "following", lambda expression, moment: None)
    done = await host.wait((await host.launch(Launch(path=saying(tmp_path / "m")))).run_id)
    assert (done.status, done.code) == (RunStatus.FAILED, "runtime.empty_stream")


async def test_a_paused_run_starts_no_tick_and_can_be_stopped(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()

    async def source(ctx: BlockContext) -> AsyncIterator[str]:
        await go.wait()
        yield "x"
        await asyncio.Event().wait()

    gives(monkeypatch, source)
    run_id = (await host.launch(Launch(path=saying(tmp_path / "m")))).run_id
    await waiting_for(host, run_id, 1)
    await host.pause(run_id)
    go.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert await steps(host, run_id) == []
    await host.resume(run_id)
    await waiting_for(host, run_id, 2)
    await host.pause(run_id)
    await host.stop(run_id)
    assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED


async def test_a_replay_takes_the_items_of_then_whatever_ended_the_run(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replays(run_id: str) -> None:
        await host.wait(run_id)
        monkeypatch.setattr(cron, "following", lambda expression, moment: None)
        report = await host.replay(Replay(run_id=run_id))
        assert report.comparison.equivalent, report.comparison.first

    for verb in ("stop", "cancel"):
        times(monkeypatch, 2)
        run_id = (await host.launch(Launch(path=saying(tmp_path / verb)))).run_id
        await waiting_for(host, run_id, 3)
        await getattr(host, verb)(run_id)
        await replays(run_id)
    times(monkeypatch, 2)
    blocks = (
        EVERY + '  gate: {type: gate_check, check: compare, condition: {left: "${outputs.every}", op: ne, right: HOUR}}'
    )
    blocks = blocks.replace("HOUR", '"2026-01-01T00:00:00Z"')
    done = await run_to_end(host, plain(tmp_path / "failing", blocks, "[every -> gate]"))
    assert (done.status, done.code) == (RunStatus.FAILED, "op.gate_not_passed")
    await replays(done.run_id)


@pytest.mark.parametrize("verb", ["stop", "cancel"])
async def test_a_fork_works_on_the_items_its_parent_had(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    times(monkeypatch, 2)
    parent = (await host.launch(Launch(path=(path := saying(tmp_path / "m"))))).run_id
    await waiting_for(host, parent, 3)
    await getattr(host, verb)(parent)
    await host.wait(parent)
    times(monkeypatch, 0)
    fork = (await host.launch(Launch(path=path, parent_run_id=parent, from_step="say"))).run_id
    if verb == "cancel":  # its parent was waiting, and so is the fork
        await waiting_for(host, fork, 3)
        await host.stop(fork)
    assert (await host.wait(fork)).outputs == {"said": "2026-01-01T00:00:00Z"}
    finished = await entries(host, fork, "step_finished")
    reused = [(item["step_id"], item.get("tick", 1)) for item in finished if item.get("reused_from") == parent]
    assert [name for name, _ in reused] == ["every"] * len(reused)
    assert len(reused) == (3 if verb == "stop" else 2)


async def test_only_recurring_runs_can_be_stopped(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = (await host.launch(Launch(path=asking(tmp_path / "m")))).run_id
    with pytest.raises(Refused, match="does not recur") as caught:
        await host.stop(run_id)
    assert caught.value.code == "RUN_NOT_RECURRING"
    await host.cancel(run_id)


POLLING = """\
mission: polling
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["*"], allowed_tools: [filesystem.write_file], allow_ops: [tool_invoke], allowed_roles: [runner]}
blocks:
  every: {type: cron, cron: "* * * * *", retry: {max_attempts: 2}}
  say: {type: echo}
links: [every -> say]
"""


async def test_what_the_stream_does_belongs_to_its_tick_and_a_failed_pull_is_undone_and_tried_again(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def source(ctx: BlockContext) -> AsyncIterator[Any]:
        while ctx.tick < 3:
            params = {"tool": "filesystem.write_file", "path": f"{ctx.tick}.{ctx.attempt}", "content": "x"}
            await ctx.operate("tool_invoke", params)
            if (ctx.tick, ctx.attempt) == (2, 1):
                raise BlockInputError("input.not_object", "lost")
            yield str(ctx.tick)

    gives(monkeypatch, source)
    root = tmp_path / "root"
    root.mkdir()
    begun = await host.launch(Launch(path=write_mission(tmp_path / "m", POLLING), inputs={"root": str(root)}))
    done = await host.wait(begun.run_id)
    assert done.status is RunStatus.SUCCEEDED, (done.code, done.message)
    every = [item for item in await entries(host, begun.run_id, "step_finished") if item["step_id"] == "every"]
    assert [(item.get("tick", 1), item["attempt"], item["status"], item.get("code")) for item in every] == [
        (1, 1, "completed", None),
        (2, 1, "failed", "input.not_object"),
        (2, 2, "completed", None),
        (3, 1, "skipped", "skip.stream_ended"),
    ]
    receipts = [item["receipt"] for item in await entries(host, begun.run_id, "receipt")]
    done_by = [item["operation_id"] for item in receipts if item["compensates"] is None]
    assert done_by == ["every.0", "every~2.1.1.0", "every~2.1.2.0"]
    assert sorted(item.name for item in root.iterdir()) == ["1.1", "2.2"]
    report = await host.replay(Replay(run_id=begun.run_id))
    assert report.operations_answered == 3
    assert report.comparison.equivalent, report.comparison.first
