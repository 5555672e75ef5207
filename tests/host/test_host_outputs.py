"""Missions that only read: what they leave, what they leave alone, and whom they do not keep waiting."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.missions.inputs import InputsInvalid
from tests.support.hosting import entries, hosting, question, run_to_end, write_mission, writing
from tests.support.repositories import repository, sh

READING = """\
mission: reading
version: "1"
inputs: {root: {type: path}}
workspace: {root: "${inputs.root}", kind: git}
envelope: {allowed_paths: [], allowed_tools: [git.log, output.write_file]}
sandbox: {confinement: best_effort}
blocks:
  log: {type: tool_invoke, tool: git.log}
  ask: {type: approval, message: Keep it?}
  keep: {type: tool_invoke, tool: output.write_file, name: log.txt, content: "${outputs.log.commits.0.subject}"}
links: [log -> ask -> keep]
outputs: {kept: "${outputs.keep.path}"}
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def test_readers_share_a_dirty_tree_and_leave_their_files_elsewhere(host: RuntimeHost, tmp_path: Path) -> None:
    root = repository(tmp_path / "repo", {"a.txt": "one\n", "b.txt": "two\n"}).root
    (root / "a.txt").write_text("changed\n")
    os.utime(root / "b.txt", (1, 1))  # a git that may would note this in its index
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*"))
    path = write_mission(tmp_path / "m", READING)
    begun = [await host.launch(Launch(path=path, inputs={"root": str(root)}, directory="/")) for _ in range(2)]
    for run in begun:
        await question(host, run.run_id)
    refused = await host.launch(Launch(path=writing(tmp_path / "w"), inputs={"root": str(root)}))
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "LOCK_HELD"), "a writer would disturb the readers"
    for run in begun:
        asked = await question(host, run.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        ended = await host.wait(run.run_id)
        assert (ended.status, ended.outputs) == (RunStatus.SUCCEEDED, {"kept": "log.txt"})
        assert ended.output_folder == str(tmp_path / "store" / "work" / run.run_id / "out")
        assert (Path(ended.output_folder) / "log.txt").read_text() == "first"
        assert (await host.find(run.run_id)).output_folder == ended.output_folder
        opened = (await entries(host, run.run_id, "journal_opened"))[0]
        assert opened["baseline_commit"] == sh(root, "rev-parse", "HEAD")
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*")) == before


async def test_a_run_that_left_nothing_names_no_folder(host: RuntimeHost, tmp_path: Path) -> None:
    root = repository(tmp_path / "repo").root
    inputs = {"root": str(root)}
    ended = await run_to_end(host, write_mission(tmp_path / "m", READING), inputs=inputs, unattended=True)
    assert (ended.status, ended.output_folder) == (RunStatus.FAILED, None)
    assert (await host.find(ended.run_id)).output_folder is None
    assert list((tmp_path / "store" / "work").iterdir()) == []


async def test_a_failed_run_keeps_what_it_left(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = "\n".join(
        (
            "  keep: {type: tool_invoke, tool: output.write_file, name: a/b, content: x}",
            "  gate: {type: gate_check, check: non_empty, condition: {x: ''}}",
        )
    )
    head = 'mission: m\nversion: "1"\nworkspace: {kind: none}\nenvelope: {allowed_paths: [], allowed_tools: [output]}\n'
    path = write_mission(tmp_path / "m", f"{head}blocks:\n{blocks}\nlinks: [keep -> gate]\n")
    ended = await run_to_end(host, path)
    assert ended.status is RunStatus.FAILED
    assert (Path(str(ended.output_folder)) / "a" / "b").read_text() == "x"
    # The folder of a mission without files is tidied away as before; the one that holds something is not.
    assert [item.name for item in (tmp_path / "store" / "work" / ended.run_id).iterdir()] == ["out"]


async def test_paths_given_at_launch_start_where_the_operator_is(host: RuntimeHost, tmp_path: Path) -> None:
    repository(tmp_path / "repo")
    path = write_mission(tmp_path / "m", READING)
    (tmp_path / "repo" / "deep").mkdir()
    begun = await host.launch(Launch(path=path, inputs={"root": "../repo/deep"}, directory=str(tmp_path / "m")))
    assert begun.inputs == {"root": str(tmp_path / "repo" / "deep")}
    assert begun.work_tree == str(tmp_path / "repo")
    with pytest.raises(InputsInvalid, match="root must be a path, absolute"):
        await host.launch(Launch(path=path, inputs={"root": "../repo"}))


ANSWERS = """\
runner: [not json, still not, {n: 3}, {n: 4}]
other: {first: [{n: 10}, {n: 11}], second: [{n: 20}]}
"""
ASKING = """\
mission: asking
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
provider: {scripted: answers.yaml}
blocks:
  odd: {type: llm_call, prompt: p, output_schema: {type: object}, fallback: plain}
  plain: {type: llm_call, prompt: p, output_schema: {type: object}}
  early: {type: llm_call, role: other, prompt: the first, output_schema: {type: object}}
  ask: {type: approval, message: Go on?}
  next: {type: llm_call, prompt: p, output_schema: {type: object}}
  late: {type: llm_call, role: other, prompt: first again, output_schema: {type: object}}
links: [odd -> early -> ask -> next -> late]
outputs: {next: "${outputs.next.n}", late: "${outputs.late.n}"}
"""


async def test_a_resumed_run_goes_on_after_every_answer_used_wrong_ones_included(tmp_path: Path) -> None:
    path = write_mission(tmp_path / "m", ASKING, {"answers.yaml": ANSWERS})
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await question(host, run_id)
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        asked = await question(host, run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        ended = await host.wait(run_id)
        assert (ended.status, ended.outputs) == (RunStatus.SUCCEEDED, {"next": 4, "late": 11})
