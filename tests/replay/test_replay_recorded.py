"""A recorded run, replayed in memory: equivalent however it ended, and telling exactly what an edit changed."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.events.facts import ReplayReport, RunSummary
from runtime.host.api import Answer, Launch, Refused, Replay, RunStatus
from runtime.host.observer import Observer
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import QuarterdeckError, StorageError
from runtime.missions.loader import load
from runtime.replay import recorded
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from tests.support.deckhand import SAMPLES, sample
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    live,
    open_host,
    open_questions,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
    writing,
)
from tests.support.web_server import PostOffice, Site, answer, serving

OUTSIDE = frozenset(
    {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "socket.connect"}
)
_seen: list[str] | None = None
_hooked = False


def _listen(event: str, _args: object) -> None:
    if _seen is not None and event in OUTSIDE:
        _seen.append(event)


@contextmanager
def outside() -> Iterator[list[str]]:
    """What reached beyond this process meanwhile. An audit hook stays for good, so there is one, and it can sleep."""
    global _seen, _hooked
    if not _hooked:
        sys.addaudithook(_listen)
        _hooked = True
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


def runnable() -> list[str]:
    """Samples that need no inputs of their own."""
    folders = sorted(path.parent for path in SAMPLES.glob("*/mission.yaml"))
    missions = [load(folder) for folder in folders]
    return [item.directory.name for item in missions if not any(i.required for i in item.spec.inputs.values())]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def approved(host: RuntimeHost, path: str, *, resolution: str = "approved") -> RunSummary:
    """Run to the end, answering whatever it asks."""
    begun = await host.launch(Launch(path=path))
    done = asyncio.ensure_future(host.wait(begun.run_id))
    while not done.done():
        for item in open_questions(host, begun.run_id):
            await host.answer(Answer(escalation_id=item.escalation_id, resolution=resolution, notes="seen"))
        await asyncio.wait({done}, timeout=0.01)
    return done.result()


async def replayed(host: RuntimeHost, run_id: str, **members: str) -> ReplayReport:
    return await host.replay(Replay(run_id=run_id, **members))


def told(report: ReplayReport) -> str:
    """The first difference, for assertion messages."""
    return f"{report.comparison.first}"


ASKING_SERVERS = """\
mission: servers
version: "1"
workspace: {{kind: none}}
envelope: {{allowed_paths: [], allowed_tools: [http.request, mail.send]}}
sandbox: {{hosts: ["127.0.0.1:{port}"], secrets: [QD_TEST_TOKEN]}}
blocks:
  get: {{type: tool_invoke, tool: http.request, url: "http://127.0.0.1:{port}/",
        headers: {{authorization: "Bearer env://QD_TEST_TOKEN"}}}}
  lost: {{type: tool_invoke, tool: http.request, url: "http://127.0.0.1:{port}/lost", accept: [op.http_status]}}
  send: {{type: tool_invoke, tool: mail.send, to: ada@example.org, body: "${{outputs.get.text}}"}}
links: [get -> lost -> send]
outputs: {{sent: "${{outputs.send.to}}"}}
"""


async def test_the_replay_of_requests_and_mail_reaches_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, office = Site({"/": answer("news"), "/lost": answer("", "404 Not Found")}), PostOffice()
    async with serving(site.talk) as port, serving(office.talk) as post:
        told = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(post), "SMTP_SECURE": "no", "EMAIL_FROM": "deck@example.org"}
        for name, value in {**told, "QD_TEST_TOKEN": "tok-123456789"}.items():
            monkeypatch.setenv(name, value)
        async with hosting(tmp_path / "store") as host:
            run = await run_to_end(host, write_mission(tmp_path / "servers", ASKING_SERVERS.format(port=port)))
            assert (run.status, run.outputs) == (RunStatus.SUCCEEDED, {"sent": "ada@example.org"}), run.message
            assert "Bearer tok-123456789" in site.seen[0][0]
            with outside() as seen:
                report = await replayed(host, run.run_id)
    assert report.comparison.equivalent
    assert report.operations_answered == report.operations_total == 3
    assert "socket.connect" not in seen
    assert (len(site.seen), len(office.messages)) == (2, 1)


# -- every sample ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", runnable())
async def test_the_replay_of_a_sample_is_equivalent_and_touches_nothing(host: RuntimeHost, name: str) -> None:
    with outside() as really:
        run = await approved(host, str(SAMPLES / name))
    before = await host.entries(run.run_id, limit=2000)
    with outside() as seen:
        report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    assert (report.comparison.divergences, report.comparison.first) == ((), None)
    assert report.comparison.drift is None
    assert (report.fidelity, report.mission_source) == ("recorded", "current")
    receipts = [item.entry["receipt"] for item in before if item.kind == "receipt"]
    done = sum(receipt["compensates"] is None for receipt in receipts)  # undos are no operations of the mission
    assert report.operations_answered == report.operations_total == done
    ran = {str(item.entry["step_id"]) for item in before if item.kind == "step_started"}
    assert {pair.step_id for pair in report.comparison.steps} == ran
    assert all(pair.base_output == pair.other_output for pair in report.comparison.steps)
    assert seen == [], "a replay starts no process and opens no connection"
    if name == "fix-the-build":
        assert "subprocess.Popen" in really, "the hook sees what the run itself does"
    assert await host.entries(run.run_id, limit=2000) == before, "nothing is added to the run"


async def test_a_fork_with_another_input_replays_from_its_own_journal(host: RuntimeHost, tmp_path: Path) -> None:
    """A step it took over was given what its parent was given, which is not what the fork's inputs say."""
    path = write_mission(
        tmp_path / "two",
        """\
mission: two
version: "1"
inputs: {word: {type: string, default: old}}
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
blocks:
  first: {type: template, template: "first {{ word }}", data: {word: "${inputs.word}"}}
  many: {type: burst, items: 3}
  second: {type: template, template: "{{ a }} {{ word }}", data: {a: "${outputs.first}", word: "${inputs.word}"}}
links: [first -> many -> second]
outputs: {said: "${outputs.second}"}
""",
    )
    parent = await run_to_end(host, path)
    fork = await run_to_end(host, path, parent_run_id=parent.run_id, from_step="second", inputs={"word": "new"})
    assert fork.outputs == {"said": "first old new"}
    report = await replayed(host, fork.run_id)
    assert report.comparison.equivalent, told(report)
    assert [pair.reused_from for pair in report.comparison.steps] == [parent.run_id, parent.run_id, None]
    emitted = [
        [item.entry["stream"] for item in await host.entries(run_id) if item.entry.get("stream")]
        for run_id in (parent.run_id, fork.run_id)
    ]
    assert emitted[0] == emitted[1] != [], "what a step emitted is taken over with it"
    assert (await host.verify(fork.run_id)).ok


async def test_two_replays_tell_the_same(host: RuntimeHost) -> None:
    run = await run_to_end(host, str(SAMPLES / "guarded"))
    one, two = [replace(await replayed(host, run.run_id), duration_ms=0.0, generated_at="") for _ in range(2)]
    assert one == two


async def test_an_observer_replays_without_writing(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, str(SAMPLES / "hello"))
    observer = Observer(await Store.observe(StateDir(tmp_path / "store")), missions=(), clock=SystemClock())
    try:
        assert (await observer.replay(Replay(run_id=run.run_id))).comparison.equivalent
        assert (await observer.compare(run.run_id, run.run_id)).equivalent
    finally:
        await observer.close()


# -- however it ended --------------------------------------------------------------------------------------------

FLAKY = """\
mission: flaky
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [out, "out/**"], allowed_tools: [filesystem.make_dir, filesystem.write_file]}
blocks:
  folder: {type: tool_invoke, tool: filesystem.make_dir, path: out}
  write: {type: tool_invoke, tool: filesystem.write_file, path: out/a, content: "1"}
  left: {type: template, template: left}
  read: {type: gate_check, check: non_empty, condition: {x: ""}, retry: {max_attempts: 3}}
  right: {type: template, template: right}
  told: {type: template, template: "{{ code }} at {{ ts }}"}
  after: {type: template, template: never}
links:
  - folder -> write -> left -> after
  - write -> read -> after
  - write -> right -> after
on_error: {read: told}
"""


async def test_a_failed_run_with_retries_a_handler_and_undone_writes(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    run = await run_to_end(host, write_mission(tmp_path / "m", FLAKY), inputs={"root": str(root)})
    assert (run.status, run.code) == (RunStatus.FAILED, "op.gate_not_passed"), run
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    attempts = [(pair.step_id, pair.attempt) for pair in report.comparison.steps if pair.step_id == "read"]
    assert attempts == [("read", 1), ("read", 2), ("read", 3)]
    assert "told" in {pair.step_id for pair in report.comparison.steps}
    assert list(root.iterdir()) == [], "the run was undone, and the replay did nothing"


async def test_a_rejected_question_and_one_nobody_could_answer(host: RuntimeHost, tmp_path: Path) -> None:
    path = asking(tmp_path / "m")
    rejected = await approved(host, path, resolution="rejected")
    unattended = await run_to_end(host, path, unattended=True)
    assert (rejected.code, unattended.code) == ("approval.refused", "approval.missing")
    for run, answered in ((rejected, 1), (unattended, 0)):
        report = await replayed(host, run.run_id)
        assert report.comparison.equivalent, told(report)
        assert report.questions_answered == answered


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_stopped_run_replays_up_to_where_it_was_fenced(host: RuntimeHost, tmp_path: Path, verb: str) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    begun = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(root)}))
    await question(host, begun.run_id)
    await getattr(host, verb)(begun.run_id)
    assert (await host.wait(begun.run_id)).status is RunStatus.CANCELLED
    report = await replayed(host, begun.run_id)
    assert report.comparison.equivalent, told(report)
    assert [(pair.step_id, pair.other_status) for pair in report.comparison.steps] == [
        ("folder", "completed"),
        ("one", "completed"),
        ("ask", "cancelled"),
    ]


async def test_a_run_whose_time_was_up_and_one_the_stop_file_ended(host: RuntimeHost, tmp_path: Path) -> None:
    blocks = "  nap: {type: delay, seconds: 60}\n  b: {type: template, template: x}"
    late = await run_to_end(host, plain(tmp_path / "late", blocks, "[nap -> b]", more="budgets: {time: 0.05}\n"))
    begun = await host.launch(Launch(path=plain(tmp_path / "halted", blocks, "[nap -> b]")))
    await until(lambda: live(host, begun.run_id).parts.loop.running)
    stop = tmp_path / "store" / "STOP_AUTONOMY"
    stop.touch()
    halted = await host.wait(begun.run_id)
    stop.unlink()
    assert (late.status, halted.status) == (RunStatus.TIMED_OUT, RunStatus.CANCELLED)
    assert (await entries(host, halted.run_id, "journal_closed"))[0]["status"] == "halted"
    for run in (late, halted):
        report = await replayed(host, run.run_id)
        assert report.comparison.equivalent, told(report)


PARALLEL = """\
  nap: {type: delay, seconds: 60}
  quick: {type: template, template: quick}
  gate: {type: gate_check, check: non_empty, condition: {x: "there"}}
  next: {type: template, template: next}"""


async def test_work_beside_a_cancelled_step_is_replayed_to_its_end(host: RuntimeHost, tmp_path: Path) -> None:
    more = "  start: {type: template, template: go}\n"
    path = plain(
        tmp_path / "m", more + PARALLEL, "[start -> nap -> next, start -> quick -> next, start -> gate -> next]"
    )
    begun = await host.launch(Launch(path=path))
    await until(lambda: len(live(host, begun.run_id)._done) == 3)
    await host.cancel(begun.run_id)
    await host.wait(begun.run_id)
    report = await replayed(host, begun.run_id)
    assert report.comparison.equivalent, told(report)
    statuses = {pair.step_id: pair.other_status for pair in report.comparison.steps}
    assert statuses == {"start": "completed", "nap": "cancelled", "quick": "completed", "gate": "completed"}


async def test_a_step_whose_time_was_up_is_late_again(host: RuntimeHost, tmp_path: Path) -> None:
    path = plain(
        tmp_path / "m",
        "  nap: {type: delay, seconds: 60, timeout: 0.05}\n  b: {type: template, template: x}",
        "[nap -> b]",
    )
    run = await run_to_end(host, path)
    assert run.code == "runtime.timeout"
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    assert report.comparison.steps[0].other_code == "runtime.timeout"


async def test_a_run_that_was_left_and_one_that_was_resumed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    first = await open_host(tmp_path / "store")
    begun = await first.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(root)}))
    await question(first, begun.run_id)
    await first.close()
    async with hosting(tmp_path / "store") as second:
        report = await replayed(second, begun.run_id)
        assert report.comparison.equivalent, told(report)
        assert [pair.other_status for pair in report.comparison.steps] == ["completed", "completed", "cancelled"]
        await second.resume(begun.run_id)
        asked = await question(second, begun.run_id)
        await second.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        assert (await second.wait(begun.run_id)).status is RunStatus.SUCCEEDED
        report = await replayed(second, begun.run_id)
        assert report.comparison.equivalent, told(report)
        assert report.operations_answered == report.operations_total == 3


RACING = """\
  start: {type: template, template: go}
  bad: {type: gate_check, check: non_empty, condition: {x: ""}}
  slow: {type: delay, seconds: 0.05}
  never: {type: template, template: never}"""


async def test_siblings_that_never_began_do_not_begin_in_the_replay(host: RuntimeHost, tmp_path: Path) -> None:
    """`never` had no room before `bad` failed; in a replay, where `slow` takes no time, it would have had."""
    path = plain(tmp_path / "m", RACING, "[start -> bad, start -> slow, start -> never]", more="max_parallel: 2\n")
    run = await run_to_end(host, path)
    assert run.status is RunStatus.FAILED
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    assert "never" not in {pair.step_id for pair in report.comparison.steps}


async def test_a_run_that_was_halted_by_an_undo_gone_wrong(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    begun = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(root)}))
    asked = await question(host, begun.run_id)
    (root / "made" / "one").write_text("somebody else's")
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="rejected"))
    run = await host.wait(begun.run_id)
    assert (run.status, run.reason, run.code) == (RunStatus.FAILED, "halted", "COMP_DRIFT")
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)


async def test_an_undo_that_is_none_is_refused_again(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    mission = FLAKY[: FLAKY.index("blocks:")] + (
        "blocks:\n  write: {type: tool_invoke, tool: filesystem.write_file, path: out, content: x,"
        " compensation_type: fs_restore, compensation_command: fs_restore other}\nlinks: []\n"
    )
    run = await run_to_end(host, write_mission(tmp_path / "m", mission), inputs={"root": str(root)})
    assert str(run.code).startswith("op.comp_"), run
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    assert report.operations_answered == 1


ROUTED = """\
mission: routed
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: [], max_budget_usd: 1}
provider: {scripted: answers.yaml}
blocks:
  ask: {type: llm_call, prompt: well?}
  weak: {type: gate_check, check: non_empty, condition: {x: ""}, fallback: strong}
  strong: {type: template, template: stood in}
  done: {type: template, template: "{{ value }}"}
links: [weak -> ask]
branches:
  ask: [{when: "outputs.ask.text == 'more'", to: weak}, {otherwise: done}]
"""


async def test_a_loop_with_a_fallback_takes_the_same_way_again(host: RuntimeHost, tmp_path: Path) -> None:
    answers = "runner: [more, more, enough]\n"
    run = await run_to_end(host, write_mission(tmp_path / "m", ROUTED, {"answers.yaml": answers}))
    assert run.status is RunStatus.SUCCEEDED, run
    report = await replayed(host, run.run_id)
    assert report.comparison.equivalent, told(report)
    way = [(pair.step_id, pair.visit) for pair in report.comparison.steps]
    assert way == [
        ("ask", 1), ("weak", 1), ("strong", 1), ("ask", 2), ("weak", 2), ("strong", 2), ("ask", 3), ("done", 1),
    ]  # fmt: skip
    assert report.mode == "playback_recorded_provider_outputs"
    edit(tmp_path / "m" / "answers.yaml", "more, more", "more, less")
    first = (await replayed(host, run.run_id)).comparison.first
    assert first is not None
    assert (first.kind, first.scope) == ("OUTCOME_DIVERGENCE", "operation:ask~1.2.1.0")


# -- what an edit changes ----------------------------------------------------------------------------------------


PATCH = """\
mission: patch
version: "1"
workspace: {from: files}
envelope:
  allowed_paths: ["**"]
  allowed_tools: [filesystem.write_file]
  max_budget_usd: 0.50
provider: {scripted: answers.yaml}
prompts: {runner: {file: prompt.md}}
blocks:
  look: {type: gate_check, check: non_empty, condition: {x: there}}
  propose: {type: llm_call, output_schema: patch.schema.json}
  apply: {type: tool_invoke, tool: filesystem.write_file, path: "${outputs.propose.path}", content: "${outputs.propose.content}"}
  check: {type: gate_check, check: non_empty, condition: {x: "${outputs.apply.sha256}"}}
  note: {type: tool_invoke, tool: filesystem.write_file, path: note, content: "Fix: ${outputs.propose.summary}"}
links: [look -> propose -> apply -> check -> note]
"""
SCHEMA = """\
{"type": "object", "required": ["path", "content", "summary"], "additionalProperties": false,
 "properties": {"path": {"type": "string"}, "content": {"type": "string"}, "summary": {"type": "string"}}}
"""
ANSWERS = "runner:\n  - {path: a.txt, summary: say it, content: said}\n"


@pytest.fixture
async def patched(host: RuntimeHost, tmp_path: Path) -> tuple[Path, str]:
    """A mission with a model, a prompt, a schema and scripted answers, and a finished run of it."""
    files = {"answers.yaml": ANSWERS, "patch.schema.json": SCHEMA, "prompt.md": "Patch it.\n", "files/here": "x"}
    path = write_mission(tmp_path / "patch", PATCH, files)
    run = await run_to_end(host, path)
    assert run.status is RunStatus.SUCCEEDED, run
    return Path(path), run.run_id


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


async def test_every_edit_is_told_by_its_class_and_its_first_step(host: RuntimeHost, patched: tuple[Path, str]) -> None:
    """One run, many edits, each alone and then undone: block, link, envelope, budget, answer, schema, prompt."""
    folder, run_id = patched
    plan, outcome = "PLAN_DIVERGENCE", "OUTCOME_DIVERGENCE"
    edits = [
        ("mission.yaml", '"Fix: $', '"Repair: $', plan, "note", "blocks.note.content"),
        ("mission.yaml", "apply -> check -> note", "apply -> note -> check", plan, "check", "links.check"),
        ("mission.yaml", "usd: 0.50", "usd: 0.25", plan, "look", "envelope.max_budget_usd"),
        ("mission.yaml", '["**"]', '["**", other]', plan, "look", "envelope.allowed_paths"),
        ("mission.yaml", "{x: there}", "{x: here}", plan, "look", "blocks.look.condition.x"),
        ("answers.yaml", "content: said", "content: unsaid", outcome, "propose", "answer"),
        ("answers.yaml", "runner", "writer", outcome, "propose", "answer"),
        ("patch.schema.json", '"path": {', '"path": {"maxLength": 9, ', plan, "propose", "files.patch.schema.json"),
        ("prompt.md", "Patch", "Mend", plan, "propose", "files.prompt.md"),
    ]
    steps = ["look", "propose", "apply", "check", "note"]
    for file, old, new, kind, step, field in edits:
        kept = (folder / file).read_text()
        edit(folder / file, old, new)
        report = await replayed(host, run_id)
        first = report.comparison.first
        assert report.mission_source == "current"
        assert not report.comparison.equivalent, new
        assert first is not None
        assert (first.kind, first.step_id, first.field) == (kind, step, field), first
        assert report.comparison.downstream == tuple(steps[steps.index(step) + 1 :])
        (folder / file).write_text(kept)
    edit(folder / "mission.yaml", '"Fix: $', '"Repair: $')
    assert (await replayed(host, run_id, mission="recorded")).comparison.equivalent
    shutil.rmtree(folder)
    assert (await replayed(host, run_id, mission="recorded")).comparison.equivalent, "its files were recorded, too"


async def test_a_changed_block_asks_for_what_was_not_recorded(host: RuntimeHost, patched: tuple[Path, str]) -> None:
    folder, run_id = patched
    edit(folder / "mission.yaml", '"${outputs.propose.content}"}', '"${outputs.propose.summary}"}')
    report = await replayed(host, run_id)
    found = [(item.kind, item.step_id, item.field) for item in report.comparison.divergences]
    assert found == [
        ("PLAN_DIVERGENCE", "apply", "blocks.apply.content"),
        ("OUTCOME_DIVERGENCE", "apply", "params"),
        ("OUTCOME_DIVERGENCE", None, "decision"),
    ], "what could not run because of it is downstream, not a difference of its own"
    assert report.comparison.downstream == ("check", "note")
    assert (report.operations_answered, report.operations_total) == (2, 5)
    later = await replayed(host, run_id, from_step="apply")
    assert [item.field for item in later.comparison.divergences] == ["blocks.apply.content", "params", "decision"]
    assert [pair.step_id for pair in later.comparison.steps] == ["apply", "check", "note"]
    after = await replayed(host, run_id, from_step="check")
    assert [item.field for item in after.comparison.divergences] == ["cursor", "decision"]


async def test_unused_answers_and_comments_make_no_difference(host: RuntimeHost, patched: tuple[Path, str]) -> None:
    folder, run_id = patched
    with (folder / "answers.yaml").open("a") as file:
        file.write("  - {path: b, summary: c, content: d}\n# and a remark\n")
    assert (await replayed(host, run_id)).comparison.equivalent


async def test_a_mission_that_is_gone_is_replayed_as_it_was(host: RuntimeHost, tmp_path: Path) -> None:
    folder = sample(tmp_path, "hello")
    run = await run_to_end(host, str(folder))
    (folder / "mission.yaml").unlink()
    report = await replayed(host, run.run_id)
    assert (report.mission_source, report.comparison.equivalent) == ("recorded", True)


async def test_an_edit_among_siblings_is_found_although_they_wait_for_each_other(
    host: RuntimeHost, tmp_path: Path
) -> None:
    """The recorded order cannot be kept when one of them never ends: it is given up, and the replay ends."""
    path = plain(
        tmp_path / "m", RACING.replace('{x: ""}', "{x: there}"), "[start -> bad, start -> slow, start -> never]"
    )
    run = await run_to_end(host, path)
    assert run.status is RunStatus.SUCCEEDED
    edit(Path(path) / "mission.yaml", "  bad: {type: gate_check, check: non_empty, condition: {x: there}}\n", "")
    edit(Path(path) / "mission.yaml", "start -> bad, ", "")
    comparison = (await replayed(host, run.run_id)).comparison
    assert [(item.kind, item.step_id, item.field) for item in comparison.divergences] == [
        ("PLAN_DIVERGENCE", "bad", "blocks.bad"),
    ]


# -- refusals ----------------------------------------------------------------------------------------------------


async def refusal(host: RuntimeHost, run_id: str, **members: str) -> str:
    with pytest.raises(QuarterdeckError) as caught:
        await replayed(host, run_id, **members)
    return caught.value.code


async def test_what_cannot_be_replayed_is_refused_with_a_code(host: RuntimeHost, tmp_path: Path) -> None:
    begun = await host.launch(Launch(path=asking(tmp_path / "m")))
    await question(host, begun.run_id)
    assert await refusal(host, begun.run_id) == "REPLAY_LIVE"
    run = await run_to_end(host, str(SAMPLES / "hello"))
    assert await refusal(host, run.run_id, from_step="nowhere") == "STEP_UNKNOWN"
    refused = await run_to_end(host, writing(tmp_path / "w"), inputs={"root": str(tmp_path / "none")})
    assert await refusal(host, refused.run_id) == "REPLAY_NO_RECORD"
    assert await refusal(host, "00000000") == "RUN_UNKNOWN"
    failed = await run_to_end(
        host,
        plain(
            tmp_path / "f",
            '  a: {type: gate_check, check: non_empty, condition: {x: ""}}\n  b: {type: template, template: x}',
            "[a -> b]",
        ),
    )
    assert await refusal(host, failed.run_id, from_step="b") == "replay_cursor_not_found"


async def test_a_plan_that_allows_no_such_replay_and_one_that_takes_too_long(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path / "m", "  a: {type: template, template: x}", more="profile: simple/v1\n")
    assert await refusal(host, (await run_to_end(host, path)).run_id) == "REPLAY_MODE"
    run = await run_to_end(host, str(SAMPLES / "hello"))
    monkeypatch.setattr(recorded, "REPLAY_SECONDS", 0.0)
    assert await refusal(host, run.run_id) == "REPLAY_TIMEOUT"


@pytest.mark.parametrize("code", ["REPLAY_PRUNED", "STORE_ARTIFACT_DAMAGED"])
async def test_a_body_that_goes_while_it_is_replayed(
    host: RuntimeHost, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    run = await run_to_end(host, str(SAMPLES / "hello"))
    (receipt,) = await entries(host, run.run_id, "receipt")
    get = host._store.artifacts.get

    async def without(digest: str) -> bytes | None:
        if digest != receipt["receipt"]["output_hash"]:
            return await get(digest)
        if code.startswith("STORE_"):
            raise StorageError(code, "damaged")
        return None

    monkeypatch.setattr(host._store.artifacts, "get", without)
    assert await refusal(host, run.run_id) == code


async def test_bodies_that_are_gone_and_entries_that_were_altered(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, str(SAMPLES / "hello"))
        (receipt,) = await entries(host, run.run_id, "receipt")
    tamper(tmp_path / "store", "DELETE FROM artifacts WHERE digest = ?", receipt["receipt"]["output_hash"])
    async with hosting(tmp_path / "store") as host:
        assert await refusal(host, run.run_id) == "REPLAY_PRUNED"
        with pytest.raises(Refused, match="no longer stored"):
            await host.compare(run.run_id, run.run_id)
    tamper(
        tmp_path / "store",
        "UPDATE journal_entries SET body = CAST(replace(body, 'greet', 'great') AS BLOB) WHERE journal_id = ?",
        run.run_id,
    )
    async with hosting(tmp_path / "store") as host:
        assert (await refusal(host, run.run_id)).startswith("J_")


def tamper(store: Path, sql: str, *values: str) -> None:
    """Change what no statement of ours may change."""
    with closing(sqlite3.connect(StateDir(store).db)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(sql, values)
