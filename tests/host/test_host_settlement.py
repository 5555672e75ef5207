"""How runs end when ending itself goes wrong: undo that cannot be proven, no acknowledgement, faults of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.events.facts import EntryAppended, RunChanged
from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.errors import ContractError
from tests.support.hosting import PATIENCE, entries, hosting, live, plain, question, run_to_end, until, writing


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


async def waiting(host: RuntimeHost, tmp_path: Path, tree: Path) -> str:
    """A run that has written and now asks."""
    begun = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    await question(host, begun.run_id)
    return begun.run_id


async def test_an_undo_that_cannot_be_proven_halts_and_latches(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    run_id = await waiting(host, tmp_path, tree)
    (tree / "made" / "one").write_text("somebody else was here")
    await host.cancel(run_id)
    done = await host.wait(run_id)
    assert (done.status, done.reason) == (RunStatus.FAILED, "halted")
    assert str(done.code).startswith("COMP_")
    assert (tree / "made" / "one").read_text() == "somebody else was here", "never overwritten"
    assert (await host.verify(run_id)).ok
    refused = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    assert refused.code == "HALT_LATCHED"
    assert (await host.unlatch(str(tree / "made"), "kept what was there")).done is False, "another folder"
    assert (await host.unlatch(str(tree), "kept what was there")).done


async def test_an_undo_that_never_returns_is_given_up_and_latched(
    host: RuntimeHost, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await waiting(host, tmp_path, tree)
    monkeypatch.setattr("runtime.host.settlement.CLEANUP_SECONDS", 0.02)

    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(live(host, run_id).parts.executor, "compensate_all", stuck)
    await host.cancel(run_id)
    done = await host.wait(run_id)
    assert (done.status, done.code) == (RunStatus.FAILED, "COMP_FAILED")
    assert list((tmp_path / "store" / "latches").iterdir())


async def test_without_an_acknowledgement_there_is_no_end(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown as resumable from memory; the disk has the last word, and here it did take the end."""
    monkeypatch.setattr("runtime.host.settlement.ACK_SECONDS", 0.0)
    feed = host.subscribe()
    found = await run_to_end(host, plain(tmp_path / "m", "  a: {type: template, template: hi}"))
    assert (found.resumable, found.code, found.exit_code) == (True, "STORE_UNRESPONSIVE", None)
    events = feed.drain()
    assert "journal_closed" not in {event.kind for event in events if isinstance(event, EntryAppended)}
    assert not any(event.run.status.terminal for event in events if isinstance(event, RunChanged))
    await host._store.flush()
    ack = await host.resume(found.run_id)
    assert not ack.done
    assert "succeeded" in ack.message
    assert (await host.find(found.run_id)).status is RunStatus.SUCCEEDED


async def test_the_end_is_shown_after_its_facts(host: RuntimeHost, tmp_path: Path) -> None:
    feed = host.subscribe()
    done = await run_to_end(host, plain(tmp_path / "m", "  a: {type: template, template: hi}"))
    await until(lambda: not host._tasks)
    events = feed.drain()
    seqs = [event.seq for event in events if isinstance(event, EntryAppended)]
    assert seqs == list(range(done.entries))
    last = max(index for index, event in enumerate(events) if isinstance(event, EntryAppended))
    assert [event.run.status for event in events[last:] if isinstance(event, RunChanged)] == [RunStatus.SUCCEEDED]


async def test_a_fault_of_ours_costs_the_end_and_nothing_else(
    host: RuntimeHost, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await waiting(host, tmp_path, tree)
    run = live(host, run_id)
    monkeypatch.setattr(run._settlement, "undo", lambda _: 1 / 0)
    await host.cancel(run_id)
    lost = await host.wait(run_id)
    assert lost.resumable
    assert lost.code == "runtime_internal_error"
    await until(lambda: not host._tasks)
    assert (await host.find(run_id)).resumable
    assert (await host.resume(run_id)).done
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED
    assert not (tree / "made").exists()
    assert (await host.verify(run_id)).ok


async def test_a_lane_loop_that_fails_ends_the_run(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every attempt would wait for ever."""

    async def broken(*_: object) -> None:
        raise ContractError("invalid_transition", "the loop is broken")

    monkeypatch.setattr("runtime.flow.loop.LaneLoop.run", broken)
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    begun = await host.launch(Launch(path=path))
    async with asyncio.timeout(PATIENCE):
        found = await host.wait(begun.run_id)
    assert found.resumable
    assert found.code == "invalid_transition"


async def test_what_was_answered_stands_in_the_journal_before_the_work_goes_on(
    host: RuntimeHost, tmp_path: Path, tree: Path
) -> None:
    run_id = await waiting(host, tmp_path, tree)
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved", notes="fine"))
    done = await host.wait(run_id)
    assert done.status is RunStatus.SUCCEEDED
    answered = (await entries(host, run_id, "escalation"))[1]
    started = next(item for item in await entries(host, run_id, "operation_started") if item["step_id"] == "two")
    assert answered["seq"] < started["seq"]
    assert (answered["resolution"], answered["notes"]) == ("approved", "fine")
