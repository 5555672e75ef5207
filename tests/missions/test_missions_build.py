"""A built mission runs its blocks with the values they refer to, in its order, under its own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.builtin.operations import OperationBlock
from runtime.blocks.envelope import Request, Response
from runtime.blocks.running import AttemptHost, DirectRunner, NodeCall
from runtime.blocks.values import BlockValue
from runtime.kernel.model import Envelope, OperationResult, OperationStatus
from runtime.missions.build import build_workflow, run_outputs
from runtime.missions.loader import Mission, load_bytes


class World(AttemptHost):
    """Answers operations from a list and remembers what was asked."""

    def __init__(self, answers: Mapping[str, Any] | None = None, failing: Mapping[str, str] | None = None) -> None:
        self.answers = answers or {}
        self.failing = failing or {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def operate(
        self, operation_type: str, params: Mapping[str, Any], *, key: str | None = None,
        compensation: tuple[str, str] | None = None, **options: Any,
    ) -> OperationResult:  # fmt: skip
        self.asked.append((operation_type, dict(params)))
        what = str(params.get("tool", operation_type))
        code = self.failing.get(what)
        return OperationResult(
            operation_id="x.0",
            operation_id_audit="",
            type=operation_type,
            status=OperationStatus.FAILED if code else OperationStatus.SUCCESS,
            output=self.answers.get(what, {}),
            evidence={},
            receipt=None,
            reason_code=code,
        )

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: BlockValue | None = None
    ) -> BlockValue:
        self.asked.append(("wait", {"prompt": prompt, "subject": None if subject is None else subject.to_python()}))
        return BlockValue.of("approved")

    def emit(self, lane: str, value: BlockValue) -> None: ...

    def log(self, level: str, event: str, value: object) -> None: ...


class Runner(DirectRunner):
    """Runs in place and keeps the calls."""

    def __init__(self, host: AttemptHost) -> None:
        super().__init__(host)
        self.calls: list[NodeCall] = []

    async def attempt(self, call: NodeCall) -> Response:
        self.calls.append(call)
        return await super().attempt(call)


def mission(text: str, folder: Path = Path("nowhere")) -> Mission:
    return load_bytes(('mission: m\nversion: "1"\n' + text).encode(), folder / "mission.yaml")


async def execute(loaded: Mission, world: World, **inputs: Any) -> tuple[Response, Runner]:
    workflow = build_workflow(loaded, inputs)
    workflow.check()
    runner = Runner(world)
    return await workflow.execute(Request(), runner=runner), runner


FIX = """\
inputs: {goal: {default: win}}
envelope:
  allowed_paths: ["src/**", "tests/**"]
  allowed_tools: [filesystem.write_file, git.add, git.commit]
provider: {openai: {base_url: "http://localhost/v1", model: m}}
budgets: {unpriced: allow, tokens: 100}
blocks:
  red:     {type: run_tests, test_paths: [tests], accept: [op.test_failed]}
  propose: {type: llm_call, prompt: "${inputs.goal}\\n${outputs.red.output.stdout}", output_schema: {type: object}}
  apply:   {type: tool_invoke, tool: filesystem.write_file, path: "${outputs.propose.path}", content: "${outputs.propose.content}"}
  stage:   {type: tool_invoke, tool: git.add, paths: ["${outputs.propose.path}"]}
  commit:  {type: tool_invoke, tool: git.commit, message: "Fix: ${outputs.propose.summary}"}
links: [red -> propose -> apply -> stage -> commit]
outputs: {commit: "${outputs.commit.commit}", red: "${outputs.red.code}", all: {n: ["${inputs.goal}"]}}
"""

HOSTILE = "${inputs.goal} {{ 7*7 }} $${"


async def test_references_reach_the_operations_typed_and_unscanned() -> None:
    world = World(
        {
            "run_tests": {"stdout": "1 failed"},
            "llm_call": {"path": "src/a.py", "content": HOSTILE, "summary": "repair"},
            "git.commit": {"commit": "abc"},
        },
        failing={"run_tests": "TEST_FAILED"},
    )
    loaded = mission(FIX)
    response, runner = await execute(loaded, world, goal="go")
    assert response.success, response.error
    assert world.asked == [
        ("run_tests", {"test_paths": ["tests"]}),
        ("llm_call", {"prompt": "go\n1 failed", "output_schema": {"type": "object"}}),
        ("tool_invoke", {"tool": "filesystem.write_file", "path": "src/a.py", "content": HOSTILE}),
        ("tool_invoke", {"tool": "git.add", "paths": ["src/a.py"]}),
        ("tool_invoke", {"tool": "git.commit", "message": "Fix: repair"}),
    ]
    assert [call.node_path for call in runner.calls] == ["red", "propose", "apply", "stage", "commit"]
    types = ["run_tests", "llm_call", "tool_invoke", "tool_invoke", "tool_invoke"]
    assert [call.block.spec.type_id for call in runner.calls] == types
    assert all(call.block.is_operation for call in runner.calls)
    produced = {
        "commit": BlockValue.of({"commit": "abc"}),
        "red": BlockValue.of({"ok": False, "code": "op.test_failed"}),
    }
    assert run_outputs(loaded, {"goal": "go"}, produced) == {
        "commit": "abc",
        "red": "op.test_failed",
        "all": {"n": ["go"]},
    }


async def test_a_missing_value_fails_the_block_that_needs_it() -> None:
    world = World({"run_tests": {"stdout": "ok"}, "llm_call": {"path": "src/a.py"}})
    response, runner = await execute(mission(FIX), world, goal="go")
    assert response.code == "validation.reference_missing"
    assert "it has path" in response.message
    assert [call.node_path for call in runner.calls] == ["red", "propose", "apply"]
    assert len(world.asked) == 2


async def test_a_value_of_the_wrong_kind_is_refused_by_the_block_type() -> None:
    text = "inputs: {n: {type: string}}\nblocks: {one: {type: delay, seconds: '${inputs.n}'}}\n"
    response, _ = await execute(mission(text), World(), n="soon")
    assert response.code == "validation.bad_config"


ROUTED = """\
blocks:
  check:  {type: gate_check, check: non_empty, condition: {value: x}, accept: [op.gate_not_passed]}
  repair: {type: escalate, reason: "closed: ${outputs.check.code}"}
  done:   {type: escalate, reason: open}
links: [repair -> check]
branches: {check: [{when: outputs.check.ok && value.ok, to: done}, {otherwise: repair}]}
outputs: {repaired: "${outputs.repair.x}"}
"""


class Opening(World):
    """The gate opens at the third look."""

    async def operate(self, operation_type: str, params: Mapping[str, Any], **options: Any) -> OperationResult:
        seen = sum(kind == "gate_check" for kind, _ in self.asked)
        self.failing = {"gate_check": "GATE_NOT_PASSED"} if seen < 2 else {}
        return await super().operate(operation_type, params, **options)


async def test_conditions_choose_the_way_and_cycles_see_the_latest_values() -> None:
    world = Opening()
    loaded = mission(ROUTED)
    response, runner = await execute(loaded, world)
    assert response.success, response.error
    assert [call.node_path for call in runner.calls] == ["check", "repair", "check", "repair", "check", "done"]
    assert world.asked[1] == ("escalate", {"reason": "closed: op.gate_not_passed"})
    assert run_outputs(loaded, {}, {}) == {"repaired": None}


async def test_a_condition_that_cannot_be_decided_fails_the_run() -> None:
    text = ROUTED.replace("outputs.check.ok && value.ok", "value.output.depth > 1")
    response, _ = await execute(mission(text), World())
    assert response.reason == "condition_execution_error"
    assert "Key not found" in response.message


GATED = """\
inputs: {least: {type: integer}}
provider: {openai: {base_url: "http://x/v1", model: m}}
blocks:
  ask:  {type: llm_call, prompt: how many}
  gate: {type: gate_check, require: "outputs.ask.count >= inputs.least && value.count < 9", on_fail: escalate}
  tell: {type: escalate, reason: enough}
links: [ask -> gate -> tell]
"""


@pytest.mark.parametrize(("count", "left"), [(3, True), (1, False)])
async def test_a_gate_with_require_compares_what_its_condition_decided(count: int, left: bool) -> None:
    world = World({"llm_call": {"count": count}})
    response, _ = await execute(mission(GATED), world, least=2)
    assert response.success, response.error
    condition = {
        "left": left,
        "op": "eq",
        "right": True,
        "text": "outputs.ask.count >= inputs.least && value.count < 9",
    }
    asked = {"check": "compare", "condition": condition, "on_fail": "escalate"}
    assert world.asked[1] == ("gate_check", asked)


async def test_a_gate_that_cannot_be_decided_stays_closed() -> None:
    world = World({"llm_call": {"text": "many"}})
    response, _ = await execute(mission(GATED), world, least=2)
    assert response.code == "graph.condition_failed"
    assert "Key not found" in response.message
    assert [what for what, _ in world.asked] == ["llm_call"]


async def test_a_role_with_a_prompt_of_its_own_needs_no_further_question() -> None:
    world = World()
    text = "provider: {openai: {base_url: 'http://x/v1', model: m}}\nprompts: {planner: Plan it.}\n"
    loaded = mission(text + "blocks: {ask: {type: llm_call, role: planner, packet: {a: 1}}}\n")
    response, _ = await execute(loaded, world)
    assert response.success, response.error
    assert world.asked == [("llm_call", {"role": "planner", "packet": {"a": 1}})]


async def test_blocks_carry_what_the_mission_says_about_them() -> None:
    text = """\
envelope: {allowed_paths: ["a/**"], allowed_tools: [filesystem]}
max_parallel: 3
blocks:
  one: {type: tool_invoke, tool: filesystem, action: make_dir, path: a/b, acting_role: builder, timeout: 5, lane: control,
        envelope: {allowed_paths: ["a/b"]}, compensation_type: fs_delete, compensation_command: fs_delete a/b, optional: true,
        retry: {max_attempts: 2, retry_on: [op.tool_conflict]}, fallback: two}
  two: {type: tool_invoke, tool: filesystem.list_dir, path: a/b, accept: [op.path_missing]}
  three: {type: escalate, reason: "costs $${5}"}
on_error: {one: three}
"""
    world = World()
    loaded = mission(text)
    workflow = build_workflow(loaded, {})
    node = workflow.wiring.nodes["one"]
    assert (node.options.lane, node.options.optional, node.options.fallback) == ("ControlLane", True, "two")
    assert workflow.wiring.nodes["two"].options.accept == ("op.path_missing",)
    assert workflow.max_parallel == 3
    extra = dict(node.options.extra)
    assert [type(item) for item in extra.pop("envelopes")] == [Envelope]
    assert extra == {
        "acting_role": "builder",
        "compensation_type": "fs_delete",
        "compensation_command": "fs_delete a/b",
    }
    block = node.variant()
    assert block.attempt_timeout == 5
    capped = build_workflow(loaded, {}, node_seconds=1800).wiring.nodes
    assert [capped[name].variant().attempt_timeout for name in ("one", "two")] == [5, 1800]
    [policy] = block.get_policy_stack(RuntimeError)
    assert (policy.max_attempts, policy.retry_on) == (2, ("op.tool_conflict",))
    assert workflow.wiring.handlers == [("one", "three")]
    three = workflow.wiring.nodes["three"].block
    assert isinstance(three, OperationBlock)
    assert three.params == {"reason": "costs ${5}"}
    response = await workflow.execute(Request(), runner=Runner(world))
    assert response.success, response.error
    assert world.asked == [("tool_invoke", {"tool": "filesystem", "action": "make_dir", "path": "a/b"})]


async def test_plain_blocks_shape_values_and_questions_are_asked() -> None:
    text = """\
inputs: {name: {default: world}}
blocks:
  greet: {type: template, template: "Hello, {{ name }}!", data: {name: "${inputs.name}"}}
  ask:   {type: approval, message: "Send ${outputs.greet}?", subject: "${outputs.greet}"}
links: [greet -> ask]
outputs: {said: "${outputs.greet}", choice: "${outputs.ask.choice}"}
"""
    world = World()
    response, runner = await execute(mission(text), world, name="{{ 7*7 }}")
    assert response.success, response.error
    assert world.asked == [("wait", {"prompt": "Send Hello, {{ 7*7 }}!?", "subject": "Hello, {{ 7*7 }}!"})]
    assert response.data.to_python()["choice"] == "approved"
    produced = {"greet": BlockValue.of("hi"), "ask": response.data}
    assert run_outputs(mission(text), {"name": "x"}, produced) == {"said": "hi", "choice": "approved"}
    assert [call.block.spec.type_id for call in runner.calls] == ["template", "approval"]


def test_every_run_gets_fresh_blocks() -> None:
    loaded = mission(FIX)
    one, two = build_workflow(loaded, {"goal": "a"}), build_workflow(loaded, {"goal": "b"})
    for name in loaded.spec.blocks:
        assert one.wiring.nodes[name].block is not two.wiring.nodes[name].block


def test_nodes_are_listed_as_the_plan_shows_them() -> None:
    nodes = mission(ROUTED).graph.nodes()
    assert [(node.node_id, node.block_type, node.after) for node in nodes] == [
        ("check", "gate_check", ("repair",)),
        ("repair", "escalate", ("check",)),
        ("done", "escalate", ("check",)),
    ]


@pytest.mark.parametrize("text", [FIX, ROUTED])
def test_what_loads_is_a_valid_plan(text: str) -> None:
    workflow = build_workflow(mission(text), {"goal": "x"})
    assert [issue for issue in workflow.issues() if issue.is_error] == []
