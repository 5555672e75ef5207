"""Forks: what a new run of a lineage takes over from its parent, what it does again, and what it leaves alone."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.host.api import Answer, Launch, Refused, RunStatus, RunSummary
from runtime.host.runtime_host import RuntimeHost
from tests.support.deckhand import SAMPLES, git, tree
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    live,
    open_host,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
)

NOTES = """\
mission: notes
version: "1"
inputs:
  root: {type: string}
  title: {type: string, default: One}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file, filesystem.read_file]}
ON_FAILURE
blocks:
  draft: {type: template, template: "# note"}
  write: {type: tool_invoke, tool: filesystem.write_file, path: note, content: "${outputs.draft}"}
  side: {type: template, template: side}
  check: {type: gate_check, check: equals, condition: {left: "${inputs.title}", right: One}}
  last: {type: tool_invoke, tool: filesystem.write_file, path: last, content: "${inputs.title}"}
links:
  - draft -> write -> check -> last
  - draft -> side -> last
"""


def notes(folder: Path, *, on_failure: str = "compensate") -> str:
    text = NOTES.replace("ON_FAILURE", f"on_failure: {on_failure}")
    return write_mission(
        folder, text.replace("check: equals, condition: {left", "check: compare, condition: {op: eq, left")
    )


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


async def fork(host: RuntimeHost, path: str, parent: RunSummary, step: str, **inputs: Any) -> RunSummary:
    return await run_to_end(host, path, parent_run_id=parent.run_id, from_step=step, inputs=inputs)


async def steps(host: RuntimeHost, run_id: str) -> dict[str, str | None]:
    """Finished steps, and the run each was taken over from."""
    return {item["step_id"]: item.get("reused_from") for item in await entries(host, run_id, "step_finished")}


async def note(host: RuntimeHost, run_id: str) -> Mapping[str, Any]:
    return (await entries(host, run_id, "journal_opened"))[0]["fork"]


async def done_operations(host: RuntimeHost, run_id: str) -> list[str]:
    return [item["operation_id"] for item in await entries(host, run_id, "operation_started")]


async def trace(host: RuntimeHost, run_id: str) -> tuple[Any, ...]:
    """Everything the store has of a run: its row and its journal."""
    await host._store.flush()
    stored = [entry.body async for entry in host._store.journals.stream(run_id)]
    return await host._store.runs.record(run_id), stored


async def assert_sound(host: RuntimeHost, run: RunSummary) -> None:
    verdict = await host.verify(run.run_id)
    assert verdict.ok, verdict.findings
    assert (verdict.entries, verdict.head_hash) == (run.entries, run.head_hash)


async def test_fork_of_a_repair_with_another_goal(host: RuntimeHost, tmp_path: Path) -> None:
    """The sample: reuse red and propose; commit in a tree of its own; then redo only the write."""
    path = str(shutil.copytree(SAMPLES / "fix-the-build", tmp_path / "fix"))
    parent = await run_to_end(host, path)
    assert parent.status is RunStatus.SUCCEEDED, parent
    before, place = await trace(host, parent.run_id), Path(str(parent.work_tree))
    files = tree(place, skip=())

    second = await fork(host, path, parent, "apply", goal="Make it green.")
    assert (second.status, second.steps_done) == (RunStatus.SUCCEEDED, 6)
    assert second.cause == f"fork of {parent.run_id[:8]} from apply; goal changed"
    assert (second.parent_run_id, second.lineage_id) == (parent.run_id, parent.lineage_id)
    assert [run.run_id for run in await host.lineage(second.run_id)] == [parent.run_id, second.run_id]
    taken = await steps(host, second.run_id)
    assert taken == {
        **dict.fromkeys(("red", "propose"), parent.run_id),
        **dict.fromkeys(("apply", "green", "stage", "commit")),
    }
    assert await done_operations(host, second.run_id) == ["apply.0", "green.0", "stage.0", "commit.0"]
    listed = await note(host, second.run_id)
    assert (listed["reused"], listed["reran"]) == (("red", "propose"), ())
    assert listed["inputs_changed"] == ("goal",)
    assert git(Path(str(second.work_tree)), "rev-parse", "HEAD") == second.outputs["commit"]  # type: ignore[index]
    assert second.work_tree != parent.work_tree
    await assert_sound(host, second)

    third = await fork(host, path, parent, "stage")
    assert third.status is RunStatus.SUCCEEDED, third
    assert await done_operations(host, third.run_id) == ["apply.0", "stage.0", "commit.0"], "no test run, no model call"
    assert await entries(host, third.run_id, "budget") == []
    assert (await note(host, third.run_id))["reran"] == ("apply",)
    assert (await steps(host, third.run_id))["green"] == parent.run_id
    await assert_sound(host, third)

    # Steps of a fork lead back to the run that executed them.
    fourth = await fork(host, path, second, "commit")
    assert fourth.status is RunStatus.SUCCEEDED, fourth
    taken = await steps(host, fourth.run_id)
    assert (taken["propose"], taken["green"], taken["apply"]) == (parent.run_id, second.run_id, None)

    assert await trace(host, parent.run_id) == before
    assert tree(place, skip=()) == files


async def test_a_write_that_still_stands_is_reused_as_it_is(host: RuntimeHost, tmp_path: Path, root: Path) -> None:
    path = notes(tmp_path / "m")
    parent = await run_to_end(host, path, inputs={"root": str(root)})
    second = await fork(host, path, parent, "last")
    assert await done_operations(host, second.run_id) == ["last.0"]
    assert (await steps(host, second.run_id))["write"] == parent.run_id
    # Somebody changed the file meanwhile: the step writes it again, through all checks, and answers nothing else anew.
    (root / "note").write_text("mine")
    third = await fork(host, path, parent, "last")
    assert await done_operations(host, third.run_id) == ["write.0", "last.0"]
    assert (root / "note").read_text() == "# note"
    assert (await note(host, third.run_id))["reran"] == ("write",)
    await assert_sound(host, third)
    # A standing write of an ancestor counts, too: a fork of the fork knows it from the run that made it.
    (root / "note").write_text("mine again")
    fourth = await fork(host, path, second, "last")
    assert await done_operations(host, fourth.run_id) == ["write.0", "last.0"]


async def test_a_changed_step_and_what_depends_on_it_run_again(host: RuntimeHost, tmp_path: Path, root: Path) -> None:
    path = notes(tmp_path / "m")
    parent = await run_to_end(host, path, inputs={"root": str(root)})
    file = Path(path) / "mission.yaml"
    file.write_text(file.read_text().replace("template: side", "template: other side"))
    second = await fork(host, path, parent, "last")
    taken = await steps(host, second.run_id)
    assert [name for name, origin in taken.items() if origin is None] == ["side", "last"]
    file.write_text(file.read_text().replace('"# note"', '"# new note"'))
    third = await fork(host, path, parent, "last")
    assert (await steps(host, third.run_id)) == dict.fromkeys(("draft", "write", "side", "check", "last"))
    assert (root / "note").read_text() == "# new note"
    assert (await note(host, third.run_id))["reran"] == ("draft", "write", "side", "check")


async def test_retry_from_the_step_that_failed(host: RuntimeHost, tmp_path: Path, root: Path) -> None:
    """Its writes were compensated, so they are done anew; the edited input lets it pass."""
    path = notes(tmp_path / "m")
    parent = await run_to_end(host, path, inputs={"root": str(root), "title": "Two"})
    assert (parent.status, (root / "note").exists()) == (RunStatus.FAILED, False)
    second = await fork(host, path, parent, "check", title="One")
    assert (second.status, (root / "note").read_text()) == (RunStatus.SUCCEEDED, "# note")
    assert (await steps(host, second.run_id))["draft"] == parent.run_id
    # A step beside the chosen one that did not end well tries again, too.
    third = await fork(host, path, parent, "side", title="One")
    assert third.status is RunStatus.SUCCEEDED
    assert (await steps(host, third.run_id))["check"] is None
    # What the fork wrote anew is its own to undo.
    failed = await fork(host, path, second, "check", title="Two")
    assert (failed.status, (root / "note").read_text()) == (RunStatus.FAILED, "# note")


async def test_run_again_takes_the_parents_inputs(host: RuntimeHost, tmp_path: Path) -> None:
    path = plain(
        tmp_path / "m",
        '  a: {type: template, template: "{{ n }}", data: {n: "${inputs.n}"}}',
        more="inputs: {n: {default: one}}\n",
    )
    parent = await run_to_end(host, path, inputs={"n": "two"})
    again = await run_to_end(host, path, parent_run_id=parent.run_id)
    assert (again.inputs, again.cause) == ({"n": "two"}, f"run again of {parent.run_id[:8]}")
    other = await run_to_end(host, path, parent_run_id=parent.run_id, inputs={"n": "3"}, cause="because")
    assert (other.inputs, other.cause) == ({"n": "3"}, "because")
    assert [item.get("reused_from") for item in await entries(host, other.run_id, "step_finished")] == [None]


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing(host: RuntimeHost, tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    parent = await host.launch(Launch(path=path))
    asked = await question(host, parent.run_id)
    intents = {
        "FORK_LIVE": Launch(path=path, parent_run_id=parent.run_id, from_step="ask"),
        "STEP_UNKNOWN": Launch(path=path, parent_run_id=parent.run_id, from_step="nowhere"),
        "RUN_UNKNOWN": Launch(path=path, from_step="ask"),
    }
    for code, intent in intents.items():
        with pytest.raises(Refused) as caught:
            await host.launch(intent)
        assert caught.value.code == code
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected"))
    await host.wait(parent.run_id)
    with pytest.raises(Refused, match="never reached") as caught:
        await host.launch(Launch(path=path, parent_run_id=parent.run_id, from_step="said"))
    assert (caught.value.code, caught.value.hint) == ("STEP_UNREACHED", "it reached: ask")
    assert [run.run_id for run in await host.runs()] == [parent.run_id]
    for name in ("locks", "work"):
        assert list((tmp_path / "store" / name).iterdir()) == []


async def test_a_parent_that_does_not_verify_is_refused_with_its_code(tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    async with hosting(tmp_path / "store") as host:
        parent = await host.launch(Launch(path=path))
        asked = await question(host, parent.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        await host.wait(parent.run_id)
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "quarterdeck.db", isolation_level=None)) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute(
            "UPDATE journal_entries SET body = CAST(replace(body, 'approved', 'rejected') AS BLOB)"
            " WHERE journal_id = ? AND kind = 'step_finished'",
            (parent.run_id,),
        )
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused) as caught:
            await host.launch(Launch(path=path, parent_run_id=parent.run_id, from_step="said"))
        assert caught.value.code.startswith("J_")
        assert caught.value.code == (await host.verify(parent.run_id)).findings[0].code
        assert len(await host.runs()) == 1


async def test_an_answered_approval_is_reused_without_anybody_to_ask(host: RuntimeHost, tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    parent = await host.launch(Launch(path=path))
    asked = await question(host, parent.run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved", notes="fine"))
    await host.wait(parent.run_id)
    second = await run_to_end(host, path, parent_run_id=parent.run_id, from_step="said", unattended=True)
    assert (second.status, second.steps_done) == (RunStatus.SUCCEEDED, 2)
    assert await entries(host, second.run_id, "escalation") == []


ROUTED = """\
mission: routed
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
blocks:
  begin: {type: template, template: go}
  ask: {type: approval, message: Done?, choices: [again, enough]}
  work: {type: template, template: more}
  end: {type: template, template: over}
links: [begin -> ask, work -> ask]
branches: {ask: [{when: outputs.ask.choice == "again", to: work}, {otherwise: end}]}
"""


async def test_a_loop_is_cut_where_the_step_was_first_reached(host: RuntimeHost, tmp_path: Path) -> None:
    path = write_mission(tmp_path / "m", ROUTED)

    async def answered(run_id: str, *choices: str) -> RunSummary:
        seen: set[str] = set()
        for choice in choices:
            asked = await until(
                lambda: next((q for q in live(host, run_id).parts.questions.open if q.escalation_id not in seen), None)
            )
            seen.add(asked.escalation_id)
            await host.answer(Answer(escalation_id=asked.escalation_id, resolution=choice))
        return await host.wait(run_id)

    parent = await answered((await host.launch(Launch(path=path))).run_id, "again", "again", "enough")
    assert parent.status is RunStatus.SUCCEEDED
    begun = await host.launch(Launch(path=path, parent_run_id=parent.run_id, from_step="work"))
    second = await answered(begun.run_id, "enough")
    finished = await entries(host, second.run_id, "step_finished")
    assert [(item["step_id"], item.get("visit", 1), "reused_from" in item) for item in finished] == [
        ("begin", 1, True),
        ("ask", 1, True),
        ("work", 1, False),
        ("ask", 2, False),
        ("end", 1, False),
    ]
    third = await fork(host, path, parent, "end")
    assert (third.status, len(await steps(host, third.run_id))) == (RunStatus.SUCCEEDED, 4)
    assert len(await entries(host, third.run_id, "escalation")) == 0
    await assert_sound(host, third)


async def test_a_crashed_fork_goes_on_with_what_it_took_over(tmp_path: Path) -> None:
    path = plain(
        tmp_path / "m",
        "  one: {type: template, template: first}\n  ask: {type: approval, message: Really?}\n"
        '  two: {type: template, template: "{{ x }}", data: {x: "${outputs.one}"}}',
        "[one -> ask -> two]",
        more='outputs: {said: "${outputs.two}"}\n',
    )
    async with hosting(tmp_path / "store") as host:
        first = await host.launch(Launch(path=path))
        asked = await question(host, first.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected"))
        await host.wait(first.run_id)
        begun = await host.launch(Launch(path=path, parent_run_id=first.run_id, from_step="ask"))
        await question(host, begun.run_id)
        assert begun.steps_done == 1
    crashed = await open_host(tmp_path / "store")
    try:
        assert (await crashed.find(begun.run_id)).resumable
        await crashed.resume(begun.run_id)
        asked = await question(crashed, begun.run_id)
        await crashed.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        done = await crashed.wait(begun.run_id)
        assert (done.status, done.outputs, done.steps_done) == (RunStatus.SUCCEEDED, {"said": "first"}, 3)
        assert await steps(crashed, begun.run_id) == {"one": first.run_id, "ask": None, "two": None}
        await assert_sound(crashed, done)
    finally:
        await crashed.close()
