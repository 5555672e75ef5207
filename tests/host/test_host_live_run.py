"""One run while it lives: verbs, questions, fences, and how each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.host.api import Answer, Launch, Refused, RunStatus
from runtime.host.runtime_host import RuntimeHost
from tests.support.hosting import asking, entries, hosting, kinds, live, plain, question, run_to_end, until, writing

SLEEPY = "  nap: {type: delay, seconds: 60}"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def begin(host: RuntimeHost, path: str, **inputs: str) -> str:
    return (await host.launch(Launch(path=path, inputs=inputs))).run_id


async def test_a_run_ends_durably_and_its_summary_agrees_with_the_journal(host: RuntimeHost, tmp_path: Path) -> None:
    path = plain(
        tmp_path / "m",
        '  a: {type: template, template: "hi"}\n  b: {type: template, template: "there"}',
        "[a -> b]",
        more='outputs: {said: "${outputs.b}"}\n',
    )
    done = await run_to_end(host, path)
    assert (done.status, done.exit_code, done.steps_done, done.steps_total) == (RunStatus.SUCCEEDED, 0, 2, 2)
    assert done.outputs == {"said": "there"}
    verdict = await host.verify(done.run_id)
    assert verdict.ok
    assert verdict.closed
    assert (verdict.entries, verdict.head_hash) == (done.entries, done.head_hash)
    row = (await host.runs())[0]
    assert (row.status, row.entries, row.head_hash) == (done.status, done.entries, done.head_hash)
    order = await kinds(host, done.run_id)
    assert order[:3] == ["journal_opened", "plan", "signal"]
    assert order[-4:] == ["evidence", "signal", "signal", "journal_closed"]


async def test_an_answer_lets_the_run_go_on_and_time_count_again(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m", after=SLEEPY.replace("nap", "said")))
    asked = await question(host, run_id)
    run = live(host, run_id)
    assert run.summary.status is RunStatus.WAITING
    await until(lambda: "human" in run.parts.timer.held)
    await host._store.flush()
    assert [item.escalation_id for item in await host.escalations()] == [asked.escalation_id]
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    await until(lambda: run.summary.status is RunStatus.RUNNING)
    assert not run.parts.timer.held
    await host._store.flush()
    assert await host.escalations() == ()
    await host.cancel(run_id)
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED


async def test_of_two_answers_the_first_counts(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m"))
    asked = await question(host, run_id)
    answers = [Answer(escalation_id=asked.escalation_id, resolution=word) for word in ("approved", "rejected")]
    first, second = await asyncio.gather(*map(host.answer, answers), return_exceptions=True)
    assert not isinstance(first, BaseException)
    assert isinstance(second, Refused)
    assert second.code == "APPROVAL_UNKNOWN"
    assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED
    answered = [item for item in await entries(host, run_id, "escalation") if item["phase"] == "answered"]
    assert [item["resolution"] for item in answered] == ["approved"]


async def test_cancel_while_waiting_for_a_person_withdraws_the_question(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m"))
    asked = await question(host, run_id)
    ack = await host.cancel(run_id, "enough")
    assert ack.done
    with pytest.raises(Refused, match="not open"):
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    await host._store.flush()
    assert await host.escalations() == ()
    assert [item["reason"] for item in await entries(host, run_id, "operator_action")] == ["enough"]
    assert not (await host.cancel(run_id)).done


async def test_cancel_undoes_and_terminate_keeps(host: RuntimeHost, tmp_path: Path) -> None:
    path = writing(tmp_path / "m")
    for verb, left in ((host.cancel, []), (host.terminate, ["one"])):
        root = tmp_path / verb.__name__
        root.mkdir()
        run_id = await begin(host, path, root=str(root))
        await question(host, run_id)
        assert (root / "made" / "one").exists()
        await verb(run_id)
        assert (await host.wait(run_id)).status is RunStatus.CANCELLED
        assert sorted(item.name for item in root.rglob("*") if item.is_file()) == left
        assert not list((tmp_path / "store" / "locks").iterdir()), "the tree is free again"
        assert (await host.verify(run_id)).ok


async def test_on_failure_keep_keeps(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    run_id = await begin(host, writing(tmp_path / "m", on_failure="keep"), root=str(root))
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected", notes="no"))
    done = await host.wait(run_id)
    assert (done.status, done.code, done.exit_code) == (RunStatus.FAILED, "approval.refused", 3)
    assert (root / "made" / "one").exists()


async def test_pause_holds_starts_and_resume_lets_them_go(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m"))
    asked = await question(host, run_id)
    assert (await host.pause(run_id, "a moment")).done
    assert not (await host.pause(run_id)).done
    run = live(host, run_id)
    assert run.summary.status is RunStatus.PAUSED
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    await until(lambda: run.summary.steps_done == 1)
    await asyncio.sleep(0.05)
    assert run.summary.status is RunStatus.PAUSED
    assert run.summary.steps_done == 1, "nothing new starts"
    assert (await host.resume(run_id)).done
    done = await host.wait(run_id)
    assert done.status is RunStatus.SUCCEEDED
    assert [item["action"] for item in await entries(host, run_id, "operator_action")] == ["pause", "resume"]


async def test_a_paused_run_can_be_cancelled_and_not_resumed_after(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m"))
    await question(host, run_id)
    await host.pause(run_id)
    assert (await host.cancel(run_id)).done
    assert not (await host.resume(run_id)).done
    assert not (await host.pause(run_id)).done
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    ack = await host.resume(run_id)
    assert not ack.done
    assert "cancelled" in ack.message


async def test_verbs_after_the_work_has_ended_change_nothing(host: RuntimeHost, tmp_path: Path) -> None:
    """Between the workflow's return and the durable end every verb comes too late, and says so."""
    run_id = await begin(host, plain(tmp_path / "m", "  a: {type: template, template: hi}"))
    run = live(host, run_id)
    await until(lambda: run.stopping)
    assert not (await host.cancel(run_id)).done
    assert not (await host.pause(run_id)).done
    done = await host.wait(run_id)
    assert done.status is RunStatus.SUCCEEDED
    assert (await host.verify(run_id)).ok


async def test_a_reason_that_is_no_text_or_endless_does_not_cost_the_end(host: RuntimeHost, tmp_path: Path) -> None:
    run_id = await begin(host, asking(tmp_path / "m"))
    await question(host, run_id)
    assert (await host.cancel(run_id, "\udcff" + "x" * 600_000)).done
    done = await host.wait(run_id)
    assert done.status is RunStatus.CANCELLED
    assert len((await entries(host, run_id, "operator_action"))[0]["reason"]) == 2000
    assert (await host.verify(run_id)).ok


async def test_the_stop_file_halts_and_undoes(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    run_id = await begin(host, writing(tmp_path / "m"), root=str(root))
    await question(host, run_id)
    (root / "STOP_AUTONOMY").touch()
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    assert not (root / "made").exists()
    closed = (await entries(host, run_id, "journal_closed"))[0]
    assert closed["status"] == "halted"


async def test_the_stop_file_met_by_an_operation_first_is_the_same_stop(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    run_id = await begin(host, writing(tmp_path / "m"), root=str(root))
    asked = await question(host, run_id)
    (root / "STOP_AUTONOMY").touch()
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    assert (await entries(host, run_id, "journal_closed"))[0]["status"] == "halted"
    cancels = [
        signal
        for item in await entries(host, run_id, "signal")
        for signal in item["signals"]
        if signal["signal"] == "cancel"
    ]
    assert [signal["reason"] for signal in cancels] == ["kill_switch"]
    assert not (root / "made").exists()


async def test_a_turn_out_of_time_is_timed_out(host: RuntimeHost, tmp_path: Path) -> None:
    path = plain(tmp_path / "m", SLEEPY, more="budgets: {time: 1}\n")
    done = await run_to_end(host, path)
    assert (done.status, done.exit_code, done.reason) == (RunStatus.TIMED_OUT, 124, "budget_exhausted")


async def test_open_questions_take_no_worker_from_other_runs(host: RuntimeHost, tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    waiting = [await begin(host, path) for _ in range(9)]
    for run_id in waiting:
        await question(host, run_id)
    done = await run_to_end(host, plain(tmp_path / "other", "  a: {type: template, template: hi}"))
    assert done.status is RunStatus.SUCCEEDED
    await asyncio.gather(*map(host.cancel, waiting))
    for run_id in waiting:
        assert (await host.wait(run_id)).status is RunStatus.CANCELLED


async def test_cancel_of_a_run_that_waits_for_its_lane(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = "\n".join(
        ["  start: {type: template, template: go}", *(f"  nap{n}: {{type: delay, seconds: 60}}" for n in range(12))]
    )
    links = "[" + ", ".join(f"start -> nap{n} -> end" for n in range(12)) + "]"
    path = plain(tmp_path / "m", blocks + "\n  end: {type: echo}", links, more="max_parallel: 2\n")
    run_id = await begin(host, path)
    run = live(host, run_id)
    await until(lambda: run.parts.loop.running == 2)
    await host.cancel(run_id)
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    assert (await host.verify(run_id)).ok


async def test_nothing_is_left_behind_by_many_runs(host: RuntimeHost, tmp_path: Path) -> None:
    quick = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    ask = asking(tmp_path / "ask")
    fds = Path("/proc/self/fd")
    shared = host._shared
    before: tuple[int, int, int] | None = None
    for _ in range(6):
        await run_to_end(host, quick)
        refused = await run_to_end(host, ask, unattended=True)
        assert refused.exit_code == 3
        await until(lambda: not host._tasks)
        found = (len(list(fds.iterdir())) if fds.is_dir() else 0, len(shared.scopes), len(shared.pool._listeners))
        before = before or found
    assert found == before
    assert found[1:] == (1, 0), "only the session's own scope"
    assert not list((tmp_path / "store" / "work").iterdir())
    assert all(session.state.value == "ENDED" for session in host._launcher._sessions._sessions.values())
