"""Forks: what a new run of a lineage takes over from its parent, what it does again, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.host.api import Answer, Launch, Refused, RunStatus, RunSummary
from runtime.host.forking import not_standing
from runtime.host.opening import open_deck
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import digest
from tests.support.deckhand import SAMPLES, Deckhand, git, tree
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    live,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
)
from tests.support.journals import EMPTY_STATE, receipt

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
    assert (await steps(host, fourth.run_id))["side"] == parent.run_id, "steps lead back to the run that executed them"


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


WALK = """\
mission: walk
version: "1"
inputs: {root: {type: string}, way: {default: out}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: note, content: text}
  look: {type: template, template: look}
  end: {type: template, template: over}
  other: {type: template, template: other}
  last: {type: template, template: last}
links: [write -> look, end -> last, other -> last]
branches: {look: [{when: inputs.way == "out", to: end}, {otherwise: other}]}
"""


async def test_what_a_fork_did_again_keeps_its_place_in_the_walk(host: RuntimeHost, tmp_path: Path, root: Path) -> None:
    path = write_mission(tmp_path / "m", WALK)
    parent = await run_to_end(host, path, inputs={"root": str(root)})
    assert parent.status is RunStatus.SUCCEEDED, parent
    (root / "note").write_text("mine")
    second = await fork(host, path, parent, "end")
    taken = {"look": parent.run_id, "write": None, "end": None, "last": None}
    assert await steps(host, second.run_id) == taken, "journalled later"
    third = await fork(host, path, second, "look")
    assert (await steps(host, third.run_id))["write"] == second.run_id
    fourth = await fork(host, path, second, "write")
    assert await steps(host, fourth.run_id) == dict.fromkeys(("write", "look", "end", "last"))
    # A branch that asks for an edited input may lead elsewhere: nothing after it is taken for granted.
    fifth = await fork(host, path, second, "last", way="in")
    assert await steps(host, fifth.run_id) == {
        "write": second.run_id,
        "look": parent.run_id,
        "other": None,
        "last": None,
    }


LEAVES = """\
mission: leaves
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: [output.write_file]}
blocks:
  leave: {type: tool_invoke, tool: output.write_file, name: note.md, content: here}
  end: {type: template, template: over}
links: [leave -> end]
"""


async def test_a_forks_output_folder_is_filled_anew(host: RuntimeHost, tmp_path: Path) -> None:
    path = write_mission(tmp_path / "m", LEAVES)
    parent = await run_to_end(host, path)
    second = await fork(host, path, parent, "end")
    assert second.output_folder not in (None, parent.output_folder)
    assert (Path(str(second.output_folder)) / "note.md").read_text() == "here"
    assert await done_operations(host, second.run_id) == ["leave.0"]
    assert all("reused_from" not in item for item in await entries(host, second.run_id, "operation_started"))


CALLS = """\
mission: calls
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
provider: {scripted: answers.yaml}
blocks:
  one: {type: llm_call, prompt: first}
  ask: {type: approval, message: Really?}
  two: {type: llm_call, prompt: second}
links: [one -> ask -> two]
outputs: {said: "${outputs.two.text}"}
"""


async def test_a_crashed_fork_goes_on_with_what_it_took_over(tmp_path: Path) -> None:
    """Its journal alone answers the reused step, and the model goes on after the answer that step had used."""
    path = write_mission(tmp_path / "m", CALLS, {"answers.yaml": "runner: [A, B]"})
    async with hosting(tmp_path / "store") as host:
        first = await host.launch(Launch(path=path))
        asked = await question(host, first.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected"))
        await host.wait(first.run_id)
        begun = await host.launch(Launch(path=path, parent_run_id=first.run_id, from_step="ask"))
        await question(host, begun.run_id)
        assert begun.steps_done == 1
    async with hosting(tmp_path / "store") as host:
        assert (await host.find(begun.run_id)).resumable
        await host.resume(begun.run_id)
        asked = await question(host, begun.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        done = await host.wait(begun.run_id)
        assert (done.status, done.outputs, done.steps_done) == (RunStatus.SUCCEEDED, {"said": "B"}, 3)
        assert await steps(host, begun.run_id) == {"one": first.run_id, "ask": None, "two": None}
        assert await done_operations(host, begun.run_id) == ["two.0"]
        await assert_sound(host, done)
        third = await fork(host, path, done, "two")
        assert third.outputs == {"said": "B"}, "the answer of the step it starts from is free again"


async def test_forking_and_showing_from_another_process(host: RuntimeHost, tmp_path: Path) -> None:
    """The control socket carries it, and a required input may come from the parent."""
    path = plain(
        tmp_path / "m",
        '  a: {type: template, template: "{{ n }}", data: {n: "${inputs.n}"}}\n  b: {type: template, template: end}',
        "[a -> b]",
        more="inputs: {n: {type: string}}\n",
    )
    parent = await run_to_end(host, path, inputs={"n": "one"})
    remote = await open_deck(str(tmp_path / "store"), writing=True)
    try:
        begun = await remote.launch(Launch(path=path, parent_run_id=parent.run_id, from_step="b"))
        second = await remote.wait(begun.run_id)
    finally:
        await remote.close()
    assert (second.status, second.inputs) == (RunStatus.SUCCEEDED, {"n": "one"})
    hand = Deckhand(tmp_path / "hand", store=tmp_path / "store")
    shown = await asyncio.to_thread(hand.inline, "show", second.run_id)
    assert f"cause fork of {parent.run_id[:8]} from b" in shown.out
    assert f"parent {parent.run_id}" in shown.out
    assert f"lineage {parent.run_id[:8]}  ✓ succeeded" in shown.out
    assert f"↺ a  template  reused from {parent.run_id[:8]}" in shown.out
    record = (await asyncio.to_thread(hand.inline, "show", second.run_id, "--json")).lines[0]
    assert [run["run_id"] for run in record["lineage"]] == [parent.run_id, second.run_id]
    assert [step["reused_from"] for step in record["steps"]] == [parent.run_id, None]


# -- the rules alone ---------------------------------------------------------------------------------------------

_PATHS = st.frozensets(st.sampled_from("abc"), min_size=1)
_WRITES = st.lists(st.tuples(_PATHS, st.integers(0, 2)), max_size=6)


@given(_WRITES, st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)), st.booleans())
def test_redoing_what_does_not_stand_gives_the_tree_of_all_writes(
    writes: list[tuple[frozenset[str], int]], edits: dict[str, int], fresh: bool
) -> None:
    def apply(world: dict[str, int], chosen: list[tuple[frozenset[str], int]]) -> dict[str, int]:
        for paths, content in chosen:
            world |= dict.fromkeys(paths, content)
        return world

    def state(world: Mapping[str, int], paths: Any) -> str:
        return digest({path: world.get(path) for path in paths})

    told, world = [], dict[str, int]()
    for index, (paths, content) in enumerate(writes):
        before = state(world, paths)
        apply(world, [(paths, content)])
        told.append(
            (
                (f"s{index}", 1, 1, 1),
                receipt(
                    f"k{index}",
                    effect="write",
                    affected_paths=tuple(sorted(paths)),
                    pre_state_hash=before,
                    post_state_hash=state(world, paths),
                ),
            )
        )
    now = {**({} if fresh else world), **edits}

    async def look(paths: Any) -> str:
        return state(now, paths)

    redone = asyncio.run(not_standing(told, look, None))
    again = [write for write, (key, _) in zip(writes, told, strict=True) if key in redone]
    touched = {path for paths, _ in writes for path in paths}
    result = apply(dict(now), again)
    assert {path: result.get(path) for path in touched} == {path: world[path] for path in touched}
    assert all((f"s{index}", 1, 1, 1) in redone for index in range(len(writes)) if index >= len(writes) - len(again))


async def test_what_only_git_knows_stands_while_the_whole_tree_is_as_it_was_left() -> None:
    same = {"effect": "write", "affected_paths": ("f",), "pre_workspace": "sha256:1"}
    told = [
        (("stage", 1, 1, 1), receipt("k1", **same, post_workspace="sha256:2")),
        (("commit", 1, 1, 1), receipt("k2", **same, post_workspace="sha256:3")),
    ]

    async def look(paths: Any) -> str:
        return EMPTY_STATE

    assert await not_standing(told, look, "sha256:3") == set()
    assert await not_standing(told, look, "sha256:2") == {("commit", 1, 1, 1)}
    assert await not_standing(told, look, "sha256:4") == {key for key, _ in told}
