"""One attempt in a governed run: journalled, retried, undone, answered from the journal after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.blocks.builtin.shaping import Echo
from runtime.blocks.debug import DebugSession
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.policies import DebugAction, DebugPolicy
from runtime.blocks.running import NodeCall, NodeOptions
from runtime.execution.node_runner import TurnRunner
from runtime.host.api import Answer, Launch, Replay, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.errors import StorageError
from tests.support.blocks_kit import respond, step
from tests.support.hosting import (
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
from tests.support.web_server import PostOffice, Site, serving

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


RETRIED = """\
mission: retried
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [made, "made/**"], allowed_tools: [filesystem.write_file]}
blocks:
  part: {type: child_workflow, mission: part.yaml, retry: {max_attempts: 2}}
"""
PART = """\
mission: part
version: "1"
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: made/x, content: x, create_parents: true}
  maybe: {type: echo}
  ask: {type: approval, message: Really?}
links: [write -> maybe -> ask]
"""


async def test_a_failed_attempt_of_a_composite_told_again_takes_back_nothing_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second attempt wrote before the crash is answered from the journal, so it has to stand."""
    real, faults = Echo.run, [BlockRuntimeError("demo.broken", "broke")]

    def run(self: Any, input: Any, ctx: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(self, input, ctx)

    monkeypatch.setattr(Echo, "run", run)
    root = tmp_path / "tree"
    root.mkdir()
    path = write_mission(tmp_path / "m", RETRIED, {"part.yaml": PART})
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path, inputs={"root": str(root)}))).run_id
        await question(host, run_id)
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        asked = await question(host, run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED
        assert (root / "made" / "x").exists()
        undone = [item["receipt"] for item in await entries(host, run_id, "receipt") if item["receipt"]["compensates"]]
        assert [item["operation_id"] for item in undone] == ["part/write.0"]


POSTS = """\
mission: posts
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: [http.request]}
sandbox: {hosts: ["127.0.0.1:PORT"]}
blocks:
  post:
    {type: tool_invoke, tool: http.request, method: METHOD, url: "http://127.0.0.1:PORT/", retry: {max_attempts: 2, initial: 0}}
"""


@pytest.mark.parametrize(("method", "requests"), [("POST", 1), ("GET", 2)])
async def test_what_an_attempt_left_outside_before_a_crash_still_forbids_another(
    method: str, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Site({"/": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"})
    undo, asked = TurnRunner.undo, asyncio.Event()

    async def never(*_: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with serving(busy.talk) as port:
        text = POSTS.replace("PORT", str(port)).replace("METHOD", method)
        monkeypatch.setattr(TurnRunner, "undo", never)
        async with hosting(tmp_path / "store") as host:
            run_id = (await host.launch(Launch(path=write_mission(tmp_path / "m", text)))).run_id
            await asyncio.wait_for(asked.wait(), 20)
        monkeypatch.setattr(TurnRunner, "undo", undo)
        async with hosting(tmp_path / "store") as host:
            await host.resume(run_id)
            done = await host.wait(run_id)
            assert (done.status, len(busy.seen)) == (RunStatus.FAILED, requests), done


async def test_a_debug_hook_asks_like_any_block_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its question has a name of its own, also beside one the block asked; told again, it is answered as it was."""
    real = Echo.run

    def broken_unless_mended(self: Any, input: Any, ctx: Any) -> Any:
        if input.to_python() != "mended":
            raise BlockRuntimeError("demo.broken", "broke")
        return real(self, input, ctx)

    def hook(session: DebugSession) -> DebugAction:
        if session.answer is None:
            return DebugAction.WAIT
        session.replace_payload("mended")
        return DebugAction.RESUME

    monkeypatch.setattr(Echo, "run", broken_unless_mended)
    monkeypatch.setattr(Echo, "get_policy_stack", lambda self, kind: (DebugPolicy(hook=hook),))
    blocks = "  say: {type: echo}\n  end: {type: approval, message: Enough?}"
    path = plain(tmp_path / "m", blocks, "[say -> end]", more='outputs: {said: "${outputs.say}"}\n')
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        asked = await question(host, run_id)
        assert (asked.step_id, asked.escalation_id) == ("say", f"{run_id}/say.debug0")
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        await until(lambda: [item.step_id for item in open_questions(host, run_id)] == ["end"])
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        asked = await question(host, run_id)
        assert asked.step_id == "end"
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        done = await host.wait(run_id)
        assert (done.status, done.outputs) == (RunStatus.SUCCEEDED, {"said": "mended"})
        assert (await host.verify(run_id)).ok
        assert (await host.replay(Replay(run_id=run_id))).comparison.equivalent


TWICE = """\
mission: twice
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: [mail.send]}
blocks:
  mail: {type: send_email, to: me@x.example, subject: Hi, retry: {max_attempts: 2, initial: 0}}
  may: {type: echo, retry: {max_attempts: 2, initial: 0}, optional: true}
  end: {type: approval, message: Enough?}
links: [mail -> may -> end]
"""


class Busy(PostOffice):
    """Takes no mail the first time."""

    visits = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        self.says = {"MAIL": "450 later"} if self.visits == 1 else {}
        await super().talk(reader, writer)


async def test_recovery_decides_the_same_about_failures_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail that was not taken was safe to send again, and a veto forbade another attempt: so they are after a crash."""
    calls: list[Any] = []

    def refuse(self: Any, input: Any, ctx: Any) -> Any:
        calls.append(input)
        raise BlockRuntimeError("demo.broken", "it makes no sense", retry_disposition="never")

    monkeypatch.setattr(Echo, "run", refuse)
    post = Busy()
    async with serving(post.talk) as port:
        for name, value in {"SMTP_PORT": str(port), "SMTP_SECURE": "false", "EMAIL_FROM": "deck@x.example"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        async with hosting(tmp_path / "store") as host:
            run_id = (await host.launch(Launch(path=write_mission(tmp_path / "m", TWICE)))).run_id
            await question(host, run_id)
        async with hosting(tmp_path / "store") as host:
            await host.resume(run_id)
            asked = await question(host, run_id)
            await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
            assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED
            ended = [(item["step_id"], item["attempt"]) for item in await entries(host, run_id, "step_finished")]
            assert ended == [("mail", 1), ("mail", 2), ("may", 1), ("end", 1)]
            assert (await host.verify(run_id)).ok
    assert (post.visits, len(calls)) == (2, 1)
