"""Governed runs of `map_over` and `child_workflow`: crash and resume in the middle, undo, replay, forks, questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.host.api import Answer, Launch, Refused, Replay, RunStatus
from tests.support.hosting import entries, hosting, live, open_questions, question, run_to_end, until, write_mission

CHILD = """\
mission: page
version: "1"
inputs: {name: {}}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: "made/${inputs.name}", content: "${inputs.name}", create_parents: true}
  ask: {type: approval, message: "Keep ${inputs.name}?"}
  say: {type: template, template: "kept {{ name }}", data: {name: "${inputs.name}"}}
links: [write -> ask -> say]
outputs: {said: "${outputs.say}"}
"""
OUTER = """\
mission: pages
version: "1"
inputs: {root: {type: string}, names: {type: list, default: [a, b, c]}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [made, "made/**"], allowed_tools: [filesystem.write_file]}
blocks:
  start: {type: template, template: "pages"}
  pages:
    type: map_over
    items: "${inputs.names}"
    max_parallel: 1
    each: {type: child_workflow, mission: page.yaml, inputs: {name: "${item}"}}
  report: {type: template, template: "{{ pages | map(attribute='said') | join(', ') }}", data: {pages: "${outputs.pages}"}}
links: [start -> pages -> report]
outputs: {report: "${outputs.report}", second: "${outputs.pages.1.said}"}
"""


def pages(folder: Path, text: str = OUTER) -> str:
    return write_mission(folder, text, {"page.yaml": CHILD})


async def say(host: Any, run_id: str, resolution: str = "approved") -> str:
    """Answer the open question; returns the step that asked."""
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution=resolution))
    await until(lambda: all(item.escalation_id != asked.escalation_id for item in open_questions(host, run_id)))
    return asked.step_id


async def steps(host: Any, run_id: str) -> dict[str, tuple[str, str]]:
    """Step → type and latest status."""
    return {
        item["step_id"]: (item["operation_type"], item["status"])
        for item in await entries(host, run_id, "step_finished")
    }


async def test_a_crash_in_the_middle_of_a_map_goes_on_with_the_item_it_was_at(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    async with hosting(tmp_path / "store") as first:
        begun = await first.launch(Launch(path=pages(tmp_path / "m"), inputs={"root": str(root)}))
        assert await say(first, begun.run_id) == "pages/0/ask"
        assert (await question(first, begun.run_id)).step_id == "pages/1/ask"
    async with hosting(tmp_path / "store") as host:
        await host.resume(begun.run_id, "back")
        assert [await say(host, begun.run_id) for _ in range(2)] == ["pages/1/ask", "pages/2/ask"]
        done = await host.wait(begun.run_id)
        assert (done.status, done.steps_done, done.steps_total) == (RunStatus.SUCCEEDED, 3, 3)
        assert done.outputs == {"report": "kept a, kept b, kept c", "second": "kept b"}
        ended = [item["step_id"] for item in await entries(host, begun.run_id, "step_finished")]
        assert sorted(ended) == sorted(set(ended)), "nothing that had ended was done again"
        assert (await steps(host, begun.run_id))["pages/0"] == ("mission", "completed")
        receipts = [item["receipt"]["operation_id"] for item in await entries(host, begun.run_id, "receipt")]
        assert [item for item in receipts if "write" in item] == [f"pages/{n}/write.0" for n in range(3)]
        assert (await host.verify(begun.run_id)).ok
        report = await host.replay(Replay(run_id=begun.run_id))
        assert report.comparison.equivalent
        assert len(report.comparison.steps) == len(ended)
        await host._store.flush()


async def test_a_refused_item_undoes_what_all_items_wrote(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    async with hosting(tmp_path / "store") as host:
        begun = await host.launch(Launch(path=pages(tmp_path / "m"), inputs={"root": str(root)}))
        await say(host, begun.run_id)
        await until(lambda: (root / "made" / "b").exists())
        await say(host, begun.run_id, "rejected")
        done = await host.wait(begun.run_id)
        assert (done.status, done.code) == (RunStatus.FAILED, "approval.refused")
        assert not (root / "made").exists()
        ended = await steps(host, begun.run_id)
        assert ended["pages/1"] == ("mission", "failed")
        assert "pages/2" not in ended
        report = await host.replay(Replay(run_id=begun.run_id))
        assert report.comparison.equivalent


async def test_a_retried_composite_undoes_its_own_attempt_and_uses_new_places(tmp_path: Path) -> None:
    """The second attempt writes again under keys of its own; what the first visit of a loop wrote stays (R13, R14)."""
    root = tmp_path / "tree"
    root.mkdir()
    child = """\
mission: part
version: "1"
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: made/x, content: x, create_parents: true}
  fail: {type: rss_parse, text: "no feed"}
links: [write -> fail]
"""
    outer = """\
mission: retried
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [made, "made/**"], allowed_tools: [filesystem.write_file]}
blocks:
  part: {type: child_workflow, mission: part.yaml, retry: {max_attempts: 2}, optional: true}
  end: {type: template, template: done}
links: [part -> end]
"""
    path = write_mission(tmp_path / "m", outer, {"part.yaml": child})
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, path, inputs={"root": str(root)})
        assert done.status is RunStatus.SUCCEEDED
        assert not (root / "made").exists()
        receipts = [item["receipt"] for item in await entries(host, done.run_id, "receipt")]
        writes = [
            item["operation_id"] for item in receipts if item["effect"] == "write" and item["compensates"] is None
        ]
        assert writes == ["part/write.0", "part/write~1.2.1.0"]
        assert sum(item["compensates"] is not None for item in receipts) == 2
        assert (await host.verify(done.run_id)).ok
        assert (await host.replay(Replay(run_id=done.run_id))).comparison.equivalent


async def test_several_items_ask_at_once_and_each_is_answered_by_its_path(tmp_path: Path) -> None:
    blocks = """\
mission: asking
version: "1"
workspace: {kind: none}
blocks:
  all: {type: map_over, items: [x, y, z], each: {type: approval, message: "Take ${item}?"}}
outputs: {all: "${outputs.all}"}
"""
    async with hosting(tmp_path / "store") as host:
        begun = await host.launch(Launch(path=write_mission(tmp_path / "m", blocks)))
        await until(lambda: len(open_questions(host, begun.run_id)) == 3)
        asked = {item.step_id: item for item in open_questions(host, begun.run_id)}
        assert [asked[f"all/{n}"].reason for n in range(3)] == ["Take x?", "Take y?", "Take z?"]
        for item in reversed(asked.values()):
            await host.answer(Answer(escalation_id=item.escalation_id, resolution="approved"))
        done = await host.wait(begun.run_id)
        assert done.status is RunStatus.SUCCEEDED
        assert len(done.outputs["all"]) == 3
        assert (await steps(host, begun.run_id))["all/2"][0] == "human"


async def test_a_fork_after_a_map_takes_its_items_over(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    text = OUTER.replace(
        "names: {type: list, default: [a, b, c]}", "names: {type: list, default: [a]}, end: {default: x}"
    )
    text = text.replace("data: {pages", 'data: {end: "${inputs.end}", pages')
    path = pages(tmp_path / "m", text)
    async with hosting(tmp_path / "store") as host:
        begun = await host.launch(Launch(path=path, inputs={"root": str(root)}))
        await say(host, begun.run_id)
        done = await host.wait(begun.run_id)
        assert done.status is RunStatus.SUCCEEDED
        forked = await run_to_end(
            host, path, parent_run_id=begun.run_id, from_step="report", inputs={"root": str(root), "end": "y"}
        )
        assert forked.status is RunStatus.SUCCEEDED, forked
        again = {
            item["step_id"]: item.get("reused_from") for item in await entries(host, forked.run_id, "step_finished")
        }
        assert again["pages/0/ask"] == again["pages/0/write"] == begun.run_id
        assert again["report"] is None
        assert not await entries(host, forked.run_id, "operation_started")

        (tmp_path / "m" / "page.yaml").write_text(CHILD.replace("kept {{", "held {{"))
        changed = await host.launch(
            Launch(path=path, parent_run_id=begun.run_id, from_step="report", inputs={"root": str(root)})
        )
        assert await say(host, changed.run_id) == "pages/0/ask", "the child is another one now"
        assert (await host.wait(changed.run_id)).outputs["second"] is None


async def test_a_run_refuses_to_go_on_when_a_childs_file_changed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    async with hosting(tmp_path / "store") as first:
        begun = await first.launch(Launch(path=pages(tmp_path / "m"), inputs={"root": str(root)}))
        await question(first, begun.run_id)
        assert live(first, begun.run_id).prepared.mission.children
    (tmp_path / "m" / "page.yaml").write_text(CHILD + "\n# changed\n" + "max_steps: 7\n")
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused, match="has changed since"):
            await host.resume(begun.run_id, "back")


async def test_a_composite_that_fails_in_a_loop_undoes_that_visit_only(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    child = """\
mission: part
version: "1"
inputs: {n: {}}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: "made/${inputs.n}", content: x, create_parents: true}
  try: {type: template, template: "{% if n == 'two' %}{{ 1 / 0 }}{% endif %}", data: {n: "${inputs.n}"}}
links: [write -> try]
outputs: {said: "${inputs.n}"}
"""
    outer = """\
mission: looping
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [made, "made/**"], allowed_tools: [filesystem.write_file]}
blocks:
  turn: {type: template, template: "{% if said %}two{% else %}one{% endif %}"}
  part: {type: child_workflow, mission: part.yaml, inputs: {n: "${outputs.turn}"}, optional: true}
  end: {type: template, template: done}
links: [turn -> part]
branches: {part: [{when: value == null, to: end}, {otherwise: turn}]}
"""
    path = write_mission(tmp_path / "m", outer, {"part.yaml": child})
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, path, inputs={"root": str(root)})
        assert done.status is RunStatus.SUCCEEDED, done
        assert [item.name for item in (root / "made").iterdir()] == ["one"]
        ended = [(item["step_id"], item.get("visit", 1)) for item in await entries(host, done.run_id, "step_finished")]
        assert ("part/try", 2) in ended
        assert len(ended) == len(set(ended))
        assert (await host.replay(Replay(run_id=done.run_id))).comparison.equivalent


async def test_what_a_limit_cut_short_before_a_crash_is_not_visited_twice(tmp_path: Path) -> None:
    """The items of a composite that timed out have no end of their own; a later visit of it gets new places."""
    looping = """\
mission: late
version: "1"
workspace: {kind: none}
blocks:
  all: {type: map_over, items: [x, y], timeout: 0.2, optional: true, each: {type: approval, message: "Take ${item}?"}}
  ask: {type: approval, message: Again?, choices: [again, stop]}
  end: {type: template, template: done}
links: [all -> ask]
branches: {ask: [{when: value.choice == "again", to: all}, {otherwise: end}]}
"""

    async def asked(host: Any, visit: int) -> Any:
        def look() -> Any:
            found = [item for item in open_questions(host, begun.run_id) if item.step_id == "ask"]
            return found and found[0]

        found = await until(look, f"question {visit}")
        assert ("~" in found.escalation_id) == (visit > 1)
        return found

    async with hosting(tmp_path / "store") as first:
        begun = await first.launch(Launch(path=write_mission(tmp_path / "m", looping)))
        await asked(first, 1)
    async with hosting(tmp_path / "store") as host:
        await host.resume(begun.run_id, "back")
        for visit, choice in ((1, "again"), (2, "stop")):
            question_ = await asked(host, visit)
            await host.answer(Answer(escalation_id=question_.escalation_id, resolution=choice))
        assert (await host.wait(begun.run_id)).status is RunStatus.SUCCEEDED
        places = [(item["step_id"], item.get("visit", 1)) for item in await entries(host, begun.run_id, "step_started")]
        assert places.count(("all/0", 1)) == places.count(("all/0", 2)) == 1
        assert (await host.verify(begun.run_id)).ok


async def test_a_refused_item_is_placed_where_the_file_says_what_is_done_for_each(tmp_path: Path) -> None:
    refused = """\
mission: refused
version: "1"
workspace: {from: files}
envelope: {allowed_paths: ["in/**"], allowed_tools: [filesystem.write_file]}
blocks:
  all:
    type: map_over
    items: [a, b]
    each:
      {type: tool_invoke, tool: filesystem.write_file, path: "out/${item}", content: x, accept: [op.policy_not_allowed]}
"""
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, write_mission(tmp_path / "m", refused, {"files/in/keep": ""}))
        assert done.status is RunStatus.SUCCEEDED, done
        found = {item.step_id: item for item in await host.violations(done.run_id)}
        assert set(found) == {"all/0", "all/1"}
        places = [(item.position.line, item.outcome) for item in found.values() if item.position is not None]
        assert places == [(9, "accepted"), (9, "accepted")]
