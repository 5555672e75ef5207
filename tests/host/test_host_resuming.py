"""Runs that outlive their process: left, crashed, revived, finished, or given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.events.facts import RunChanged
from runtime.execution.questions import Reply
from runtime.host.api import Answer, Launch, Refused, RunStatus, RunSummary
from runtime.host.live_run import recorded_stop
from runtime.host.runtime_host import RuntimeHost
from runtime.storage.runs import update_run
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    kinds,
    live,
    open_host,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
    writing,
)

COPY = """\
mission: copy
version: "1"
workspace: {from: files}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  ask: {type: approval, message: Go on?}
  two: {type: tool_invoke, tool: filesystem.write_file, path: two, content: "2"}
links: [ask -> two]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
async def left(tmp_path: Path, tree: Path) -> AsyncIterator[tuple[RuntimeHost, str]]:
    """A run whose first holder closed while it asked, seen by the next holder."""
    async with hosting(tmp_path / "store") as first:
        begun = await first.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
        await question(first, begun.run_id)
    async with hosting(tmp_path / "store") as second:
        yield second, begun.run_id


async def approve(host: RuntimeHost, run_id: str) -> RunSummary:
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    return await host.wait(run_id)


async def test_closing_leaves_a_run_resumable_with_its_figures(left: tuple[RuntimeHost, str], tree: Path) -> None:
    host, run_id = left
    row = await host.find(run_id)
    assert row.resumable
    assert not row.status.terminal
    assert (row.steps_done, row.steps_total) == (2, 4)
    assert (await host.verify(run_id)).ok
    assert (tree / "made" / "one").exists()
    assert [item.run_id for item in await host.escalations()] == [run_id], "its question stays in the inbox"
    asked = (await host.escalations())[0]
    with pytest.raises(Refused, match="resume the run first"):
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))


async def test_resume_goes_on_where_it_was(left: tuple[RuntimeHost, str], tree: Path) -> None:
    host, run_id = left
    ack = await host.resume(run_id, "back again")
    assert ack.done
    done = await approve(host, run_id)
    assert (done.status, done.steps_done, done.steps_total) == (RunStatus.SUCCEEDED, 4, 4)
    assert sorted(item.name for item in (tree / "made").iterdir()) == ["one", "two"]
    recovery = (await entries(host, run_id, "recovery"))[0]
    assert recovery["cause"] == "back again"
    receipts = [item["receipt"]["operation_id"] for item in await entries(host, run_id, "receipt")]
    assert len(receipts) == len(set(receipts)) == 3
    verdict = await host.verify(run_id)
    assert verdict.ok
    assert (verdict.entries, verdict.head_hash) == (done.entries, done.head_hash)
    await host._store.flush()
    assert await host.escalations() == ()


async def test_another_launch_in_the_tree_is_told_to_settle_first(
    left: tuple[RuntimeHost, str], tmp_path: Path, tree: Path
) -> None:
    host, run_id = left
    refused = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "RECOVERY_MANUAL")
    assert run_id in str(refused.message)
    assert (await host.cancel(run_id)).done
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    assert not (tree / "made").exists()
    again = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    assert again.status is RunStatus.RUNNING


async def test_terminate_of_a_left_run_keeps_what_it_did(left: tuple[RuntimeHost, str], tree: Path) -> None:
    host, run_id = left
    assert (await host.terminate(run_id)).done
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    assert (tree / "made" / "one").exists()
    await until(lambda: not host._tasks)
    await host._store.flush()
    (offer,) = await host.escalations()
    assert offer.offers_undo, "what it had asked itself is withdrawn"


async def test_two_resumes_at_once_are_one(left: tuple[RuntimeHost, str]) -> None:
    host, run_id = left
    acks = await asyncio.gather(host.resume(run_id), host.resume(run_id), host.resume(run_id))
    assert [ack.done for ack in acks] == [True, True, True]
    assert (await approve(host, run_id)).status is RunStatus.SUCCEEDED
    assert len(await entries(host, run_id, "recovery")) == 1
    assert (await host.verify(run_id)).ok


async def test_resume_without_a_human_refuses_instead_of_waiting(left: tuple[RuntimeHost, str]) -> None:
    host, run_id = left
    await host.resume(run_id, unattended=True)
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.FAILED, 3)


async def test_a_refused_resume_can_be_tried_again(left: tuple[RuntimeHost, str], tree: Path) -> None:
    host, run_id = left
    stop = tree / "STOP_AUTONOMY"
    stop.touch()
    for _ in range(2):
        with pytest.raises(Refused, match="STOP_AUTONOMY"):
            await host.resume(run_id)
    assert (await host.find(run_id)).resumable
    stop.unlink()
    assert (await host.resume(run_id)).done
    assert (await approve(host, run_id)).status is RunStatus.SUCCEEDED
    assert len(host._shared.scopes) == 1


async def test_left_again_and_again(tmp_path: Path, tree: Path) -> None:
    store = tmp_path / "store"
    async with hosting(store) as host:
        run_id = (await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))).run_id
        await question(host, run_id)
    for _ in range(3):
        async with hosting(store) as host:
            await host.resume(run_id)
            await question(host, run_id)
    async with hosting(store) as host:
        await host.resume(run_id)
        assert (await approve(host, run_id)).status is RunStatus.SUCCEEDED
        assert (await kinds(host, run_id)).count("step_started") == 4, "interrupted attempts went on under their start"
        assert (await host.verify(run_id)).ok


async def test_an_attempt_that_was_running_is_run_again(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  nap: {type: delay, seconds: 60}")
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await until(lambda: live(host, run_id).parts.loop.running)
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        await until(lambda: live(host, run_id).parts.loop.running)
        await host.cancel(run_id)
        assert (await host.wait(run_id)).status is RunStatus.CANCELLED
        assert (await host.verify(run_id)).ok


async def test_a_cancel_that_a_crash_interrupted_is_carried_through(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal says the operator gave up: reviving must not go on with the work."""
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))).run_id
        await question(host, run_id)
        run = live(host, run_id)

        async def stuck(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(run._settlement, "undo", stuck)
        monkeypatch.setattr("runtime.host.runtime_host.CLOSE_SECONDS", 0.05)
        await host.cancel(run_id, "no more")
        await until(lambda: run._settling)
    async with hosting(tmp_path / "store") as host:
        assert (await host.find(run_id)).resumable
        ack = await host.resume(run_id)
        assert ack.done
        assert "stop" in ack.message
        done = await host.wait(run_id)
        assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
        assert not (tree / "made").exists()
        assert len(await entries(host, run_id, "operator_action")) == 1
        assert (await host.verify(run_id)).ok


def test_which_stop_a_journal_tells_of() -> None:
    assert recorded_stop([]) is None
    cancel = {"kind": "signal", "signals": [{"signal": "cancel", "reason": "budget_exhausted"}]}
    stop = recorded_stop([cancel])
    assert stop is not None
    assert stop.trigger.ending.exit_code == 124
    assert stop.undo
    told = {"kind": "operator_action", "action": "terminate"}
    stop = recorded_stop([{"kind": "signal", "signals": [{"signal": "cancel", "reason": "operator_cancel"}]}, told])
    assert stop is not None
    assert stop.trigger.ending.exit_code == 130
    assert not stop.undo


async def test_an_end_on_disk_wins_over_a_row_that_lags(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, plain(tmp_path / "m", "  a: {type: template, template: hi}"))
        await until(lambda: not host._tasks)
        host._store.submit([update_run(done.run_id, status=RunStatus.RUNNING, entries=3, exit_code=None)])
    async with hosting(tmp_path / "store") as host:
        row = await host.find(done.run_id)
        assert (row.status, row.exit_code, row.entries, row.resumable) == (RunStatus.SUCCEEDED, 0, done.entries, False)
        assert not (await host.resume(done.run_id)).done


async def test_a_new_holder_tells_its_faces_what_is_resumable(left: tuple[RuntimeHost, str]) -> None:
    host, run_id = left
    feed = host.subscribe()
    told = [event.run for event in feed.drain() if isinstance(event, RunChanged)]
    assert [(run.run_id, run.resumable) for run in told] == [(run_id, True)]
    feed.close()


async def test_a_private_tree_that_is_gone_is_not_built_anew(tmp_path: Path) -> None:
    path = write_mission(tmp_path / "m", COPY, {"files/one": "1"})
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await question(host, run_id)
        tree = Path(str(live(host, run_id).summary.work_tree))
    (tree / "one").unlink()
    tree.rmdir()
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused, match="work tree is gone") as caught:
            await host.resume(run_id)
        assert caught.value.code == "RECOVERY_MANUAL"


async def test_a_mission_that_changed_is_resumed_as_it_was(tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await question(host, run_id)
    (Path(path) / "mission.yaml").write_text("nonsense")
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        assert (await approve(host, run_id)).status is RunStatus.SUCCEEDED


async def test_a_given_answer_is_not_asked_again(tmp_path: Path) -> None:
    path = asking(tmp_path / "m", after="  said: {type: delay, seconds: 60}")
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        asked = await question(host, run_id)
        run = live(host, run_id)
        # The process dies after the answer is on disk and before the step has finished.
        deaf: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        run.parts.questions._open[asked.escalation_id] = (asked, deaf)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    async with hosting(tmp_path / "store") as host:
        assert len(await entries(host, run_id, "step_finished")) == 0
        await host.resume(run_id)
        await until(lambda: live(host, run_id).summary.steps_done == 1)
        assert len(await entries(host, run_id, "escalation")) == 2
        await host.cancel(run_id)
        await host.wait(run_id)


async def test_a_store_that_stops_taking_changes_leaves_runs_resumable(tmp_path: Path, tree: Path) -> None:
    host = await open_host(tmp_path / "store")
    try:
        run_id = (await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))).run_id
        asked = await question(host, run_id)
        feed = host.subscribe()
        host._store.submit([("INSERT INTO nowhere VALUES (1)", ())])
        async with asyncio.timeout(10):
            lost = await host.wait(run_id)
        assert lost.resumable
        assert lost.exit_code is None
        told = [event.run for event in feed.drain() if isinstance(event, RunChanged) and event.run.run_id == run_id]
        assert told[-1].resumable
        with pytest.raises(Refused):
            await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    finally:
        await host.close()
    async with hosting(tmp_path / "store") as again:
        assert (await again.find(run_id)).resumable
        await again.resume(run_id)
        assert (await approve(again, run_id)).status is RunStatus.SUCCEEDED
        assert (await again.verify(run_id)).ok
