"""Undoing a run after its end: what stands, what is refused, and the offer a terminated run leaves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.events.facts import Escalation, InboxChanged
from runtime.host.api import Answer, Launch, Refused, Replay, RunStatus, RunSummary
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import parse_strict
from runtime.orchestration.undo import Undo
from tests.support.hosting import entries, hosting, live, question, run_to_end, until, write_mission, writing

COPY = """\
mission: copy
version: "1"
workspace: {from: files}
provider: {scripted: answers.yaml}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  one: {type: tool_invoke, tool: filesystem.write_file, path: one, content: changed}
  two: {type: tool_invoke, tool: filesystem.write_file, path: two, content: "2"}
links: [one -> two]
"""
ALL = ["two.0", "one.0", "folder.0"]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


async def asked(host: RuntimeHost, tmp_path: Path, tree: Path, *, on_failure: str = "compensate") -> str:
    """A run that has made a folder and a file, and waits for an answer."""
    path = writing(tmp_path / "m", on_failure=on_failure)
    begun = await host.launch(Launch(path=path, inputs={"root": str(tree)}))
    await question(host, begun.run_id)
    return begun.run_id


async def succeeded(host: RuntimeHost, tmp_path: Path, tree: Path) -> str:
    run_id = await asked(host, tmp_path, tree)
    open_question = await question(host, run_id)
    await host.answer(Answer(escalation_id=open_question.escalation_id, resolution="approved"))
    assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED
    return run_id


async def terminated(host: RuntimeHost, tmp_path: Path, tree: Path) -> Escalation:
    """The offer of a run that was terminated when two of its writes stood."""
    run_id = await asked(host, tmp_path, tree)
    assert (await host.terminate(run_id)).done
    await host.wait(run_id)
    await until(lambda: not host._tasks)
    await host._store.flush()
    (offer,) = await host.escalations()
    assert (offer.run_id, offer.choices, offer.blocking) == (run_id, ("undo", "keep"), True)
    return offer


async def undone(host: RuntimeHost, run_id: str) -> list[str]:
    return [item["operation_id"] for item in await entries(host, run_id, "compensation_finished") if item["verified"]]


async def ended(host: RuntimeHost, run: RunSummary) -> RunSummary:
    found = await host.wait(run.run_id)
    await until(lambda: not host._tasks)
    await host._store.flush()
    return found


async def test_an_undo_is_a_run_of_the_lineage_that_can_only_be_looked_at(
    host: RuntimeHost, tmp_path: Path, tree: Path
) -> None:
    old = await succeeded(host, tmp_path, tree)
    plan = await host.undo_plan(old)
    assert [step.operation_id for step in plan.steps] == ALL
    with pytest.raises(Refused, match="UNDO_CHANGED"):
        await host.undo(old, approved="sha256:" + "0" * 64)
    begun = await ended(host, await host.undo(old, "not wanted", plan.digest))
    assert (begun.status, begun.mission, begun.parent_run_id) == (RunStatus.SUCCEEDED, "writing", old)
    assert (begun.cause, begun.trigger, begun.steps_total) == (f"undo of {old[:8]}", "undo", 0)
    assert [run.run_id for run in await host.lineage(old)] == [old, begun.run_id]
    assert list(tree.iterdir()) == []
    (opened,) = await entries(host, begun.run_id, "journal_opened")
    assert (opened["undoes"]["run"], opened["undoes"]["digest"], opened["reason"]) == (old, plan.digest, "not wanted")
    again = Launch(path=str(tmp_path / "m"), parent_run_id=begun.run_id, from_step="one")
    for intent, code in (
        (host.replay(Replay(run_id=begun.run_id)), "REPLAY_UNDO"),
        (host.launch(again), "STEP_UNREACHED"),
        (host.undo(begun.run_id), "UNDO_NOTHING"),
        (host.undo(old), "UNDO_NOTHING"),
    ):
        with pytest.raises(Refused) as caught:
            await intent
        assert caught.value.code == code
    assert len(await host.runs()) == 2


async def test_only_what_stands_of_an_ended_run_is_undone(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    run_id = await asked(host, tmp_path, tree, on_failure="keep")
    with pytest.raises(Refused, match="UNDO_LIVE"):
        await host.undo(run_id)
    await host.cancel(run_id)
    await host.wait(run_id)
    assert (tree / "made" / "one").exists()
    both = await asyncio.gather(host.undo(run_id), host.undo(run_id))
    assert both[0].run_id == both[1].run_id, "two at once are one"
    assert (await ended(host, both[0])).status is RunStatus.SUCCEEDED
    assert list(tree.iterdir()) == []
    run_id = await asked(host, tmp_path, tree)
    await host.cancel(run_id)
    await host.wait(run_id)
    with pytest.raises(Refused, match="UNDO_NOTHING"):
        await host.undo(run_id)


async def test_without_its_records_nothing_is_begun(
    host: RuntimeHost, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await succeeded(host, tmp_path, tree)
    pruned = (await entries(host, old, "operation_started"))[0]["snapshot"]
    get = type(host._store.artifacts).get

    async def without(self: Any, digest: str) -> bytes | None:
        return None if digest == pruned else await get(self, digest)

    monkeypatch.setattr(type(host._store.artifacts), "get", without)
    with pytest.raises(Refused, match="UNDO_RECORD") as caught:
        await host.undo(old)
    assert "folder.0" in caught.value.message
    assert len(await host.runs()) == 1
    assert (tree / "made" / "two").exists(), "half an undo is worse than none"


async def test_a_private_copy_is_undone_where_it_is(host: RuntimeHost, tmp_path: Path) -> None:
    files = {"files/one": "1", "answers.yaml": "designer: [x]\n"}
    path = write_mission(tmp_path / "m", COPY, files)
    first, second = await run_to_end(host, path), await run_to_end(host, path)
    assert first.status is second.status is RunStatus.SUCCEEDED, first.message
    (tmp_path / "m" / "answers.yaml").write_text("designer: [y]\n")  # an undo reads no such file
    private = Path(str(first.work_tree))
    begun = await ended(host, await host.undo(first.run_id))
    assert (begun.status, begun.work_tree) == (RunStatus.SUCCEEDED, first.work_tree)
    assert {item.name: item.read_text() for item in private.iterdir()} == {"one": "1"}
    shutil.rmtree(str(second.work_tree))
    refused = await host.undo(second.run_id)
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "UNDO_TREE")


async def test_an_interrupted_undo_goes_on_where_it_was(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Undo._apply
    async with hosting(tmp_path / "store") as first:
        old = await succeeded(first, tmp_path, tree)

        async def leaving(self: Undo, case: Any) -> None:
            await apply(self, case)
            live(first, first._undoing[old]).leave()

        monkeypatch.setattr(Undo, "_apply", leaving)
        begun = await first.undo(old)
        assert (await first.wait(begun.run_id)).resumable
    monkeypatch.setattr(Undo, "_apply", apply)
    async with hosting(tmp_path / "store") as second:
        assert (await second.resume(begun.run_id)).done
        assert (await ended(second, begun)).status is RunStatus.SUCCEEDED
        assert await undone(second, begun.run_id) == ALL
        assert (await second.verify(begun.run_id)).ok
    assert list(tree.iterdir()) == []


async def test_an_offer_outlives_its_process_and_undoes_when_approved(tmp_path: Path, tree: Path) -> None:
    async with hosting(tmp_path / "store") as first:
        offer = await terminated(first, tmp_path, tree)
        assert offer.subject_digest == (await first.undo_plan(offer.run_id)).digest
    async with hosting(tmp_path / "store") as host:
        assert await host.escalations() == (offer,)
        with pytest.raises(Refused, match="APPROVAL_CHOICE"):
            await host.answer(Answer(escalation_id=offer.escalation_id, resolution="perhaps"))
        feed = host.subscribe()
        ack = await host.answer(Answer(escalation_id=offer.escalation_id, resolution="approved", notes="a mistake"))
        assert ack.done
        assert ack.run_id != offer.run_id
        inbox = [event.escalations for event in feed.drain() if isinstance(event, InboxChanged)]
        assert inbox[-1] == ()
        done = await ended(host, await host.find(ack.run_id))
        assert done.status is RunStatus.SUCCEEDED
        assert await undone(host, ack.run_id) == ["one.0", "folder.0"]
        assert list(tree.iterdir()) == []
        rows = await host._store.journals.by_kind("escalation", "store", 10)
        told = [parse_strict(row.body) for row in reversed(rows)]
        assert [(item["phase"], item.get("resolution")) for item in told] == [("asked", None), ("answered", "undo")]
        assert (await host.verify("store")).ok


async def test_an_offer_ends_when_it_is_kept_or_undone_by_hand(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    offer = await terminated(host, tmp_path, tree)
    feed = host.subscribe()
    assert (await host.answer(Answer(escalation_id=offer.escalation_id, resolution="keep"))).run_id == offer.run_id
    assert (tree / "made" / "one").exists()
    assert await host.escalations() == ()
    with pytest.raises(Refused, match="APPROVAL_UNKNOWN"):
        await host.answer(Answer(escalation_id=offer.escalation_id, resolution="undo"))
    await ended(host, await host.undo(offer.run_id))
    offer = await terminated(host, tmp_path, tree)
    events = [event.escalations for event in feed.drain() if isinstance(event, InboxChanged)]
    assert offer in events[-1]
    (tree / "STOP_AUTONOMY").touch()
    refused = await host.answer(Answer(escalation_id=offer.escalation_id, resolution="undo"))
    assert (refused.done, "KILL_SWITCH" in refused.message) == (False, True)
    assert await host.escalations() == (offer,), "a refused undo leaves the offer"
    (tree / "STOP_AUTONOMY").unlink()
    await ended(host, await host.undo(offer.run_id, "by hand"))
    assert await host.escalations() == ()
