"""The operator's own rules: they ask, allow and deny inside the envelope, and nothing of them is ever ignored (R9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.host.api import Answer, Launch, Replay, RunStatus, RunSummary
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.errors import Halted
from runtime.kernel.model import Access, Effect, Envelope, Operation, OperationPlan, PlannedPath
from runtime.kernel.ports import ModelReply
from runtime.orchestration.budget import Limits
from runtime.orchestration.handlers.settings import ModelSettings, Price
from runtime.orchestration.operation_ports import HandlerOutcome, PlanCall, RunCall
from runtime.orchestration.operator_rules import Answer as Said
from runtime.orchestration.operator_rules import Do, Question, Rule, decide
from tests.support.hosting import entries, hosting, kinds, live, plain, question, run_to_end, until, write_mission
from tests.support.operation_rig import FakeHandler, Rig

MISSION = """\
mission: deploy-site
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["infra/**", "docs/**"], allowed_tools: [filesystem.write_file]}
blocks:
  docs: {type: tool_invoke, tool: filesystem.write_file, path: docs/a, content: "1"}
  infra: {type: tool_invoke, tool: filesystem.write_file, path: infra/main, content: "2"}
links: [docs -> infra]
"""
ASKS = 'rules:\n  - {tool: filesystem, paths: ["infra/**"], do: ask, reason: it is live}\n'
DENIES = 'rules:\n  - {op: tool_invoke, mission: "deploy-*", paths: [INFRA/], do: deny, reason: not on Fridays}\n'


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as host:
        yield host


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("infra", "docs"):
        (root / name).mkdir(parents=True)
    return root


def rules(tmp_path: Path, text: str) -> None:
    (tmp_path / "store").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "store" / "rules.yaml").write_text(text)


def intent(tmp_path: Path, tree: Path, *, unattended: bool = False) -> Launch:
    path = write_mission(tmp_path / "m", MISSION)
    return Launch(path=path, inputs={"root": str(tree)}, unattended=unattended)


async def ended(host: RuntimeHost, launch: Launch) -> RunSummary:
    return await host.wait((await host.launch(launch)).run_id)


async def answer(host: RuntimeHost, run_id: str, resolution: str) -> RunSummary:
    asked = await question(host, run_id)
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution=resolution, notes="seen"))
    return await host.wait(run_id)


async def test_what_a_rule_asks_about_waits_for_its_answer(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    rules(tmp_path, ASKS)
    run_id = (await host.launch(intent(tmp_path, tree))).run_id
    asked = await question(host, run_id)
    for told in ("rules.yaml:2:5", "it is live", "infra/main", '"content": "2"'):
        assert told in asked.reason
    assert not (tree / "infra" / "main").exists()
    assert await until(lambda: host._shared.pool.running == 0), "a person who thinks takes no worker"
    assert (await host.find(run_id)).status is RunStatus.WAITING
    assert (await answer(host, run_id, "approved")).status is RunStatus.SUCCEEDED
    assert (tree / "infra" / "main").read_text() == "2"
    told = await kinds(host, run_id)
    first = told.index("escalation")
    assert told[first : first + 3] == ["escalation", "escalation", "operation_started"]
    opened = (await entries(host, run_id, "journal_opened"))[0]
    assert opened["rules_hash"].startswith("sha256:")
    report = await host.replay(Replay(run_id=run_id))
    assert report.comparison.equivalent, report.comparison
    assert report.operations_answered == 2


async def test_no_is_an_answer(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    rules(tmp_path, ASKS)
    run_id = (await host.launch(intent(tmp_path, tree))).run_id
    done = await answer(host, run_id, "rejected")
    assert (done.status, done.code, done.exit_code) == (RunStatus.FAILED, "op.rule_refused", 3)
    assert "operator said no: seen" in str(done.message)
    assert not (tree / "docs" / "a").exists(), "what came before is undone"
    denied = (await entries(host, run_id, "operation_denied"))[0]
    assert denied["code"] == "RULE_REFUSED"


async def test_without_a_human_nobody_is_asked(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    rules(tmp_path, ASKS)
    done = await ended(host, intent(tmp_path, tree, unattended=True))
    assert (done.code, done.exit_code) == ("op.approval_missing", 3)
    rules(tmp_path, 'rules:\n  - {paths: ["infra/main"], do: allow}\n' + ASKS.partition("\n")[2])
    assert (await ended(host, intent(tmp_path, tree, unattended=True))).status is RunStatus.SUCCEEDED


async def test_a_denied_operation_names_its_rule(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    rules(tmp_path, DENIES)
    done = await ended(host, intent(tmp_path, tree))
    assert (done.code, done.exit_code) == ("op.rule_denied", 4)
    assert done.violations == 1
    assert "rules.yaml:2:5 denies filesystem.write_file: not on Fridays" in str(done.message)
    refused = (await entries(host, done.run_id, "receipt"))[1]["receipt"]
    evidence = await host.artifact(refused["evidence_hash"])
    assert evidence is not None
    assert b'"position":"rules.yaml:2:5"' in evidence
    assert b'"rule":"deny op tool_invoke, mission deploy-*, paths INFRA/"' in evidence


async def test_telling_a_person_can_be_denied_like_anything_else(host: RuntimeHost, tmp_path: Path) -> None:
    rules(tmp_path, "rules:\n  - {op: escalate, do: deny}\n")
    done = await run_to_end(host, plain(tmp_path / "m", "  tell: {type: escalate, reason: hello}"))
    assert (done.code, done.exit_code) == ("op.rule_denied", 4)


async def test_an_answer_outlives_its_process_and_is_reused(tmp_path: Path, tree: Path) -> None:
    """The same question about the same subject is not put twice; a run resumed under other rules obeys those."""
    rules(tmp_path, ASKS)
    async with hosting(tmp_path / "store") as first:
        run_id = (await first.launch(intent(tmp_path, tree))).run_id
        asked = await question(first, run_id)
        run = live(first, run_id)
        await run.parts.questions.answer(asked.escalation_id, resolution="approved", by="ada", notes="")
        run.leave()  # the answer is on disk, and the process goes before the operation can begin
        await run.done()
        assert not (tree / "infra" / "main").exists()
    async with hosting(tmp_path / "store") as second:
        await second.resume(run_id)
        done = await second.wait(run_id)
        assert done.status is RunStatus.SUCCEEDED
        told = [item["phase"] for item in await entries(second, run_id, "escalation")]
        assert told == ["asked", "answered"]


BROKEN = (
    ("rules:\n  - {do: perhaps}\n", "2:10", "ask"),
    ("rules:\n  - {tool: git.commit}\n", "2:5", "'do' is missing"),
    ("rules:\n  - {do: ask, tools: git}\n", "2:15", "no key 'tools'"),
    ("rules:\n  - {do: allow, tool: }\n", "2:5", "tool is empty"),
    ("rules:\n  - {do: ask, paths: [/etc]}\n", "2:23", "absolute"),
    ("open: [config/models.yaml]\n", "1:8", "may be opened"),
    ("prices: {m: {in: -1, out: 1}}\n", "1:18", "greater than or equal to 0"),
    ("budget: {day_usd: 5\n", "2:1", "not valid YAML"),
    ("budget: {day_usd: 5}\nbudget: {}\n", "2:1", "twice"),
    ("- do: ask\n", "1:1", "mapping"),
    ("rules:\n  - {do: deny, paths: []}\n", "2:5", "paths is empty"),
    ("open: [*all]\n", "1:8", "aliases"),
)


async def test_a_broken_file_refuses_every_start(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    for text, place, what in BROKEN:
        rules(tmp_path, text)
        refused = await host.launch(intent(tmp_path, tree))
        assert (refused.code, refused.exit_code) == ("RULES_INVALID", 2), text
        assert f"rules.yaml:{place}" in str(refused.message), refused.message
        assert what in str(refused.message)


async def test_the_file_is_no_link_and_may_say_nothing(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    (tree / "docs" / "mine.yaml").write_text("rules: []")
    path = tmp_path / "store" / "rules.yaml"
    path.symlink_to(tree / "docs" / "mine.yaml")
    assert (await host.launch(intent(tmp_path, tree))).code == "RULES_INVALID"
    path.unlink()
    path.mkdir()
    assert (await host.launch(intent(tmp_path, tree))).code == "RULES_INVALID"
    path.rmdir()
    path.write_text("# nothing yet\n")
    assert (await ended(host, intent(tmp_path, tree))).status is RunStatus.SUCCEEDED


async def test_no_mission_works_where_the_state_folder_is(tmp_path: Path) -> None:
    """Whoever works in a tree may read it, and the state folder holds rules, journals and the key that signs them."""
    tree = tmp_path / "tree"
    tree.mkdir()
    mission = """\
mission: sly
version: "1"
inputs: {path: {type: string}}
workspace: {root: ROOT, kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: "${inputs.path}", content: "rules: []"}
"""
    (tree / "beside").mkdir()
    async with hosting(tree / "state") as host:
        for root in (tree, tree / "state", tree / "state" / "floors"):
            path = write_mission(tmp_path / "m", mission.replace("ROOT", f'"{root}"'))
            done = await run_to_end(host, path, inputs={"path": "x"})
            assert (done.status, done.code) == (RunStatus.REFUSED, "ROOT_FORBIDDEN"), root
        path = write_mission(tmp_path / "m", mission.replace("ROOT", f'"{tree}/beside"'))
        assert (await run_to_end(host, path, inputs={"path": "x"})).status is RunStatus.SUCCEEDED


async def test_an_opened_file_may_be_written_and_the_journal_says_so(
    host: RuntimeHost, tmp_path: Path, tree: Path
) -> None:
    text = MISSION.replace("docs/a", "docs/CLAUDE.md").replace("infra/main", "docs/AGENTS.md")
    path = write_mission(tmp_path / "m", text)
    rules(tmp_path, "open: [docs/CLAUDE.md]\n")
    done = await run_to_end(host, path, inputs={"root": str(tree)})
    assert done.code == "op.selfmod_protected"
    assert [item["receipt"]["status"] for item in await entries(host, done.run_id, "receipt")][:2] == [
        "success",
        "escalated",
    ]
    assert (await entries(host, done.run_id, "journal_opened"))[0]["opened_paths"] == ("docs/CLAUDE.md",)


# -- the matcher and what an answer is bound to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "paths", "fits"),
    [
        ({}, ["a"], True),
        ({"tool": "filesystem"}, ["a"], True),
        ({"tool": "git"}, ["a"], False),
        ({"op": "run_tests"}, ["a"], False),
        ({"mission": "dep*"}, ["a"], True),
        ({"mission": "dep"}, ["a"], False),
        ({"paths": ("infra/**",)}, ["docs/a", "Infra/x"], True),
        ({"paths": ("infra/x/*.yaml",)}, ["infra"], True),  # a folder that holds what is asked about
        ({"paths": ("infra/**",)}, ["infrared"], False),
        ({"paths": ("infra/**",)}, [], False),
        ({"do": Do.ALLOW, "paths": ("docs/**",)}, ["docs/a", "infra/x"], False),
        ({"do": Do.ALLOW, "paths": ("docs/**",)}, ["docs/a"], True),
        ({"do": Do.ALLOW, "paths": ("docs/**",)}, ["Docs/a"], False),
        ({"do": Do.ALLOW, "paths": ("docs/**",)}, [], False),
    ],
)
def test_what_a_rule_is_about(members: dict[str, Any], paths: list[str], fits: bool) -> None:
    rule = Rule(**{"do": Do.ASK, "position": "rules.yaml:1:1", **members})
    planned = tuple(PlannedPath(path, Access.MODIFY) for path in paths)
    plan = OperationPlan(Effect.WRITE, planned, tool="filesystem.write_file")
    later = Rule(do=Do.DENY, position="rules.yaml:2:1")
    found = decide((rule, later), Operation("s.0", "tool_invoke", {}), plan, "deploy")
    assert found is (rule if fits else later), "the first that fits decides"


class Thinker:
    """Approves; ``meddle`` is what happens while it thinks."""

    def __init__(self, *meddle: Callable[[], None]) -> None:
        self.asked: list[Question] = []
        self._meddle = list(meddle)

    async def ask(self, question: Question) -> Said:
        self.asked.append(question)
        if self._meddle:
            self._meddle.pop(0)()
        return Said(approved=True, by="ada")


ASK = Rule(do=Do.ASK, position="rules.yaml:1:1")


async def test_an_approval_of_one_operation_admits_no_other(tmp_path: Path) -> None:
    """Operations spec §11.2: the answer is bound to type, parameters, envelope and plan."""
    (tmp_path / "tree").mkdir()
    rig, thinker = Rig(tmp_path / "tree"), Thinker()
    rig.build(rules=(ASK,), desk=thinker)
    assert (await rig.tool("filesystem.write_file", path="a", content="1", id="s1.0")).ok
    assert (await rig.tool("filesystem.write_file", path="a", content="2", id="s1.1")).ok
    narrow = Envelope(allowed_paths=["a"], allowed_tools=["filesystem"], allowed_roles=["runner"])
    params = {"tool": "filesystem.write_file", "path": "a", "content": "2"}
    await rig.do("tool_invoke", params, id="s1.2", stack=(rig.envelope, narrow))
    assert len({item.subject for item in thinker.asked}) == 3


async def test_what_changed_while_a_person_thought_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    plans = [OperationPlan(Effect.READ, data={"sees": name}) for name in ("one", "two", "two")]

    class Shifting(FakeHandler):
        async def plan(self, call: PlanCall) -> OperationPlan:
            return plans.pop(0)

    async def work(call: RunCall) -> HandlerOutcome:
        return HandlerOutcome(output={"saw": call.plan.data["sees"]})

    rig, thinker = Rig(tmp_path / "tree", extra={"run_tests": Shifting(plans[0], work)}), Thinker()
    rig.build(rules=(ASK,), desk=thinker)
    result = await rig.do("run_tests", {})
    assert result.output["saw"] == "two"
    assert len({item.question_id for item in thinker.asked}) == 2, "the plan approved first is not the one that ran"


async def test_what_stops_a_run_stops_it_after_an_answer_too(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    rig = Rig(tmp_path / "tree")
    thinker = Thinker(lambda: setattr(rig, "halted", Halted("KILL_SWITCH", "stop")))
    rig.build(rules=(ASK,), desk=thinker)
    with pytest.raises(Halted):
        await rig.tool("filesystem.write_file", path="a", content="1")
    assert not (rig.root / "a").exists()
    assert "operation_started" not in rig.kinds()


class Model:
    name = "model"

    async def complete(self, request: Any, on_delta: Any = None) -> ModelReply:
        return ModelReply(text="hi", model="m", provider="model", tokens_in=1, tokens_out=1, latency_ms=1)


async def test_money_is_not_set_aside_while_a_person_thinks(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    models = ModelSettings(provider=Model(), model="m", prices={"m": Price(0, 1_000_000)}, max_tokens=100)
    left: list[int] = []
    rig = Rig(tmp_path / "tree", models=models, limits=Limits(micros=150))
    rig.build(rules=(ASK,), desk=Thinker(lambda: left.append(rig.budget.remaining_micros)))
    assert (await rig.do("llm_call", {"prompt": "hi"})).ok
    assert left == [150]
    assert rig.budget.remaining_micros == 149
