"""`map_over`, `child_workflow` and named links in mission files: what loads, what does not and where, and what runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import recurring
from runtime.blocks.envelope import Request, Response
from runtime.blocks.registry import builtin_registry
from runtime.blocks.running import DirectRunner, NodeCall
from runtime.blocks.values import BlockValue
from runtime.kernel.model import Envelope
from runtime.missions.build import build_workflow
from runtime.missions.loader import Mission, lint, load
from runtime.missions.problems import MissionInvalid, MissionProblem
from tests.support.blocks_kit import FakeHost, operation
from tests.support.hosting import write_mission

HEAD = 'mission: outer\nversion: "1"\n'
CHILD = """\
mission: inner
version: "1"
inputs: {who: {type: string}, times: {type: integer, default: 1}}
blocks:
  greet: {type: template, template: "Hello {{ who }}", data: {who: "${inputs.who}"}}
  shout: {type: template, template: "{{ text | upper }} {{ times }}", data: {text: "${outputs.greet}", times: "${inputs.times}"}}
links: [greet -> shout]
outputs: {said: "${outputs.shout}", who: "${inputs.who}"}
"""


def write(folder: Path, text: str, **files: str) -> Path:
    named = {name.replace("__", "/") + ".yaml": content for name, content in files.items()}
    return Path(write_mission(folder, HEAD + text, named))


class Runner(DirectRunner):
    def __init__(self, host: Any = None) -> None:
        super().__init__(host)
        self.calls: list[NodeCall] = []

    async def attempt(self, call: NodeCall) -> Response:
        self.calls.append(call)
        return await super().attempt(call)


async def execute(mission: Mission, host: Any = None, **inputs: Any) -> tuple[Response, Runner]:
    workflow = build_workflow(mission, inputs, node_seconds=60)
    workflow.check()
    runner = Runner(host)
    return await workflow.execute(Request(inputs), runner=runner), runner


def outputs_of(response: Response) -> Any:
    assert response.success, response.error
    return response.data.to_python()


def problems(folder: Path) -> list[tuple[str, str, int]]:
    """Code, file and line of everything wrong, warnings included."""
    return [(item.code, Path(item.path).name, item.line) for item in lint(folder)]


# -- map_over --------------------------------------------------------------------------------------------------


async def test_each_item_is_looked_up_where_it_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
inputs: {tone: {default: dear}, crew: {type: list, default: []}}
blocks:
  start: {type: template, template: harbour}
  letters:
    type: map_over
    items: "${inputs.crew}"
    each:
      type: template
      template: "{{ i }} {{ tone }} {{ name }} from {{ place }}"
      data: {i: "${index}", tone: "${inputs.tone}", name: "${item.name}", place: "${outputs.start}"}
links: [start -> letters]
""")  # fmt: skip
    response, runner = await execute(load(folder), tone="dear", crew=[{"name": "Ada"}, {"name": "Bo"}])
    assert outputs_of(response) == ["0 dear Ada from harbour", "1 dear Bo from harbour"]
    assert [call.node_path for call in runner.calls] == ["start", "letters", "letters/0", "letters/1"]
    assert [call.block.spec.type_id for call in runner.calls[2:]] == ["template", "template"]


async def test_an_item_without_references_is_the_input_of_its_block(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks:
  letters: {type: map_over, items: [{name: Ada}, {name: Bo}], each: {type: template, template: "{{ name }}"}}
""")  # fmt: skip
    response, _ = await execute(load(folder))
    assert outputs_of(response) == ["Ada", "Bo"]


async def test_what_a_block_may_say_each_may_say_too(tmp_path: Path) -> None:
    """accept, optional, retry and envelope of ``each`` hold for every item, under those of the map and the mission."""
    folder = write(tmp_path, """\
envelope: {allowed_paths: ["src/**"], allowed_tools: [filesystem.read_file, git.add]}
blocks:
  files:
    type: map_over
    items: [src/a, src/b]
    envelope: {allowed_tools: [filesystem.read_file]}
    each:
      type: tool_invoke
      tool: filesystem.read_file
      path: "${item}"
      accept: [op.path_missing]
      timeout: 5
      envelope: {allowed_paths: ["src/*"]}
""")  # fmt: skip
    mission = load(folder)
    host = FakeHost([operation(content="A"), operation("PATH_MISSING")])
    response, runner = await execute(mission, host)
    assert outputs_of(response) == [
        {"ok": True, "code": None, "output": {"content": "A"}},
        {"ok": False, "code": "op.path_missing", "output": {}},
    ]
    assert host.operations == [
        ("tool_invoke", {"tool": "filesystem.read_file", "path": "src/a"}),
        ("tool_invoke", {"tool": "filesystem.read_file", "path": "src/b"}),
    ]
    stack = runner.calls[1].options.extra["envelopes"]
    assert isinstance(stack, tuple)
    assert [(item.allowed_tools, item.allowed_paths) for item in stack if isinstance(item, Envelope)] == [
        (("filesystem.read_file",), ("src/**",)),
        (("filesystem.read_file", "git.add"), ("src/*",)),
    ]
    assert [call.block.attempt_timeout for call in runner.calls] == [None, 5, 5]  # a composite has no limit of its own
    assert mission.envelope.allow_ops == ("tool_invoke",)  # derived from what is done for each item


async def test_items_that_are_no_list_or_too_many_fail_before_the_first(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
inputs: {crew: {type: list}}
blocks:
  one: {type: map_over, items: "${inputs.crew.0}", each: {type: echo}}
""")  # fmt: skip
    response, _ = await execute(load(folder), crew=["text"])
    assert response.code == "input.expected_list"
    response, runner = await execute(load(folder), crew=[list(range(1001))])
    assert response.code == "input.too_many_items"
    assert len(runner.calls) == 1


async def test_a_missing_part_of_an_item_fails_that_item(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks:
  one:
    type: map_over
    items: [{a: 1}, {b: 1}]
    max_parallel: 1
    each: {type: template, template: "{{ a }}", data: {a: "${item.a}"}}
""")  # fmt: skip
    response, _ = await execute(load(folder))
    assert response.code == "validation.reference_missing"
    assert response.message == "${item.a}: item has no 'a'; it has b"
    assert response.metadata["failure_path"] == ["one", "one/1"]


async def test_a_condition_of_each_sees_the_item_as_value(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
inputs: {limit: {type: integer, default: 2}}
blocks:
  gates: {type: map_over, items: [1, 3], max_parallel: 1, each: {type: gate_check, require: "value < inputs.limit"}}
""")  # fmt: skip
    host = FakeHost([operation(passed=True), operation("GATE_NOT_PASSED")])
    response, _ = await execute(load(folder), host, limit=2)
    assert response.code == "op.gate_not_passed"
    assert [params["condition"]["left"] for _, params in host.operations] == [True, False]


# -- child_workflow --------------------------------------------------------------------------------------------


async def test_a_child_runs_as_one_block_with_inputs_and_outputs(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
inputs: {name: {default: Ada}}
blocks:
  talk: {type: child_workflow, mission: parts/inner.yaml, inputs: {who: "${inputs.name}", times: 3}}
  after: {type: template, template: "{{ said }}!", data: {said: "${outputs.talk.said}"}}
links: [talk -> after]
""", parts__inner=CHILD)  # fmt: skip
    response, runner = await execute(load(folder), name="Ada")
    assert outputs_of(response) == "HELLO ADA 3!"
    assert [call.node_path for call in runner.calls] == ["talk", "talk/greet", "talk/shout", "after"]


async def test_a_child_is_mapped_with_inputs_of_each_item(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks:
  all:
    type: map_over
    items: [Ada, Bo]
    max_parallel: 1
    each: {type: child_workflow, mission: inner.yaml, inputs: {who: "${item}", times: "${index}"}}
""", inner=CHILD)  # fmt: skip
    response, runner = await execute(load(folder))
    assert outputs_of(response) == [{"said": "HELLO ADA 0", "who": "Ada"}, {"said": "HELLO BO 1", "who": "Bo"}]
    assert [call.node_path for call in runner.calls][1:4] == ["all/0", "all/0/greet", "all/0/shout"]


async def test_values_a_child_does_not_take_fail_its_block_before_anything_ran(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
inputs: {n: {type: list}}
blocks:
  talk: {type: child_workflow, mission: inner.yaml, inputs: {who: "${inputs.n}"}}
""", inner=CHILD)  # fmt: skip
    response, runner = await execute(load(folder), n=[1])
    assert response.code == "validation.child_inputs"
    assert response.metadata["side_effect_class"] == "none"
    assert len(runner.calls) == 1


async def test_a_routed_child_branches_on_its_own_inputs(tmp_path: Path) -> None:
    routed = """\
mission: inner
version: "1"
inputs: {kind: {}}
blocks: {look: {type: template, template: "x"}, yes: {type: template, template: "y"}, no: {type: template, template: "n"}}
branches: {look: [{when: inputs.kind == "a", to: "yes"}, {otherwise: "no"}]}
outputs: {yes: "${outputs.yes}", no: "${outputs.no}"}
"""
    folder = write(tmp_path, """\
blocks:
  all: {type: map_over, items: [a, b], each: {type: child_workflow, mission: inner.yaml, inputs: {kind: "${item}"}}}
""", inner=routed.replace("yes:", '"yes":').replace("no:", '"no":'))  # fmt: skip
    response, _ = await execute(load(folder))
    assert outputs_of(response) == [{"yes": "y", "no": None}, {"yes": None, "no": "n"}]


def test_the_files_of_children_are_part_of_the_hash_and_named_from_the_outermost_folder(tmp_path: Path) -> None:
    asking = """\
mission: inner
version: "1"
blocks: {ask: {type: llm_call, prompt: hm, output_schema: verdict.json}, sure: {type: gate_check, schema: "schema:verdict.json", data: {}}}
links: [ask -> sure]
"""
    outer = """\
provider: {openai: {base_url: "http://localhost/v1", model: m}}
budgets: {unpriced: allow}
blocks: {talk: {type: child_workflow, mission: parts/inner.yaml}}
"""
    folder = write(tmp_path, outer, parts__inner=asking)
    (folder / "parts" / "verdict.json").write_text('{"type": "object"}')
    mission = load(folder)
    assert set(mission.definition["files"]) == {"parts/inner.yaml", "parts/verdict.json"}
    assert set(mission.schemas) == {"parts/verdict.json"}
    assert {item.path for item in mission.files.values()} == {
        (folder / "parts" / name).resolve() for name in ("inner.yaml", "verdict.json")
    }
    assert mission.envelope.allow_ops == ("gate_check", "llm_call")
    assert [block.type for block in mission.every_block()] == ["child_workflow", "llm_call", "gate_check"]
    gate = build_workflow(mission, {}).nested()[0].wiring.nodes["sure"].block
    assert gate.config()["params"]["schema"] == "schema:parts/verdict.json"

    recorded = {item.name: item.data for item in mission.files.values()}
    from runtime.missions.loader import load_bytes

    again = load_bytes(mission.source, tmp_path / "gone" / "mission.yaml", recorded=recorded)
    assert again.mission_hash == mission.mission_hash
    for name in ("parts/inner.yaml", "parts/verdict.json"):
        path = folder / name
        kept = path.read_text()
        path.write_text(kept + " ")
        assert (load(folder).mission_hash != mission.mission_hash) is True, name
        path.write_text(kept)


def test_a_childs_envelope_narrows_and_may_leave_things_out(tmp_path: Path) -> None:
    child = """\
mission: inner
version: "1"
envelope: {allowed_paths: ["src/a/**"]}
blocks: {read: {type: tool_invoke, tool: filesystem.read_file, path: src/a/x, envelope: {timeout_seconds: 5}}}
"""
    outer = """\
envelope: {allowed_paths: ["src/**"], allowed_tools: [filesystem.read_file]}
blocks: {read: {type: child_workflow, mission: inner.yaml, envelope: {timeout_seconds: 50}}}
"""
    mission = load(write(tmp_path, outer, inner=child))
    node = build_workflow(mission, {}).nested()[0].wiring.nodes["read"]
    stack = node.options.extra["envelopes"]
    assert isinstance(stack, tuple)
    assert [(item.allowed_paths, item.allowed_tools, item.timeout_seconds) for item in stack] == [
        (("src/**",), ("filesystem.read_file",), 50),
        (("src/a/**",), ("filesystem.read_file",), 600),
        (("src/**",), ("filesystem.read_file",), 5),
    ]


def test_what_a_child_could_never_do_is_a_warning_in_its_file(tmp_path: Path) -> None:
    child = (
        'mission: inner\nversion: "1"\nblocks:\n  read: {type: tool_invoke, tool: filesystem.read_file, path: src/x}\n'
    )
    outer = """\
envelope: {allowed_paths: ["src/**"], allowed_tools: [filesystem.read_file]}
blocks:
  fine: {type: child_workflow, mission: inner.yaml}
  map: {type: map_over, items: [1], each: {type: child_workflow, mission: inner.yaml, envelope: {allowed_tools: []}}}
links: [fine -> map]
"""
    assert problems(write(tmp_path, outer, inner=child)) == [("MISSION_ENVELOPE_FORBIDS", "inner.yaml", 4)]


# -- what does not load ----------------------------------------------------------------------------------------

#: YAML of ``blocks``; a mark before what is wrong; the code.
WRONG = {
    "unknown inner type": ('m: {type: map_over, items: [1], each: {type: ^templat}}', "validation.block_unavailable"),
    "unknown inner parameter": ('m: {type: map_over, items: [1], each: {type: template, template: x, ^date: 1}}', "MISSION_UNKNOWN_PARAMETER"),
    "inner parameter missing": ('m: {type: map_over, items: [1], ^each: {type: approval}}', "MISSION_MISSING_PARAMETER"),
    "inner common key": ('m: {type: map_over, items: [1], each: {type: echo, retry: {max_attempts: ^0}}}', "MISSION_VALUE"),
    "inner tool": ('m: {type: map_over, items: [1], each: {type: tool_invoke, tool: ^git.push}}', "TOOL_UNKNOWN"),
    "inner template": ('m: {type: map_over, items: [1], ^each: {type: template, template: "{{"}}', "template.invalid"),
    "inner reference": ('m: {type: map_over, items: [1], each: {type: template, template: x, data: {a: "see ^${outputs.gone}"}}}', "validation.source_missing"),
    "inner input": ('m: {type: map_over, items: [1], each: {type: template, template: x, data: {a: "^${inputs.gone}"}}}', "MISSION_UNKNOWN_INPUT"),
    "own output": ('m: {type: map_over, items: [1], each: {type: template, template: x, data: {a: "^${outputs.m}"}}}', "validation.source_not_upstream"),
    "item outside": ('m: {type: template, template: x, data: {a: "^${item.x}"}}', "MISSION_REFERENCE"),
    "index in items": ('m: {type: map_over, items: ["^${index}"], each: {type: echo}}', "MISSION_REFERENCE"),
    "reference in a common key": ('m: {type: map_over, items: [1], each: {type: echo, acting_role: "^${item}"}}', "MISSION_REFERENCE_FORBIDDEN"),
    "each is no block": ('m: {type: map_over, items: [1], each: ^text}', "MISSION_VALUE"),
    "each is missing": ('^m: {type: map_over, items: [1]}', "MISSION_MISSING_PARAMETER"),
    "each elsewhere": ('m: {type: echo, ^each: {type: echo}}', "MISSION_UNKNOWN_PARAMETER"),
    "items is no list": ('m: {type: map_over, items: ^text, each: {type: echo}}', "MISSION_PARAMETER_TYPE"),
    "map in a map": ('m: {type: map_over, items: [1], each: {type: ^map_over, items: [], each: {type: echo}}}', "MISSION_COMPOSITE"),
    "fallback inside": ('m: {type: map_over, items: [1], each: {type: echo, ^fallback: m}}', "MISSION_COMPOSITE"),
    "role of a composite": ('m: {type: map_over, items: [1], ^acting_role: runner, each: {type: echo}}', "MISSION_COMPOSITE"),
    "lane of a composite": ('m: {type: child_workflow, mission: inner.yaml, inputs: {who: x}, ^lane: control}', "MISSION_COMPOSITE"),
    "too parallel": ('m: {type: map_over, items: [1], max_parallel: ^65, each: {type: echo}}', "MISSION_VALUE"),
    "child is missing": ('m: {type: child_workflow, mission: ^gone.yaml}', "MISSION_FILE"),
    "child is outside": ('m: {type: child_workflow, mission: ^../inner.yaml}', "MISSION_PATH_ESCAPE"),
    "child by reference": ('m: {type: child_workflow, mission: ^"${inputs.x}"}', "MISSION_REFERENCE_FORBIDDEN"),
    "child input unknown": ('m: {type: child_workflow, mission: inner.yaml, inputs: {who: x, ^tims: 1}}', "MISSION_UNKNOWN_INPUT"),
    "child input missing": ('m: {type: child_workflow, mission: inner.yaml, ^inputs: {times: 1}}', "MISSION_MISSING_PARAMETER"),
    "child input of another type": ('m: {type: child_workflow, mission: inner.yaml, inputs: {who: x, times: ^many}}', "MISSION_INPUT"),
    "child output unknown": ('m: {type: child_workflow, mission: inner.yaml, inputs: {who: x}}\n  n: {type: template, template: x, data: {a: "^${outputs.m.sad}"}}', "MISSION_REFERENCE"),
    "output of an item unknown": ('m: {type: map_over, items: [1], each: {type: child_workflow, mission: inner.yaml, inputs: {who: x}}}\n  n: {type: template, template: x, data: {a: "^${outputs.m.0.sad}"}}', "MISSION_REFERENCE"),
    "itself": ('m: {type: child_workflow, mission: ^mission.yaml}', "graph.recursive_workflow"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_inside_composites_have_their_place(case: str, tmp_path: Path) -> None:
    written, code = WRONG[case]
    text = f"blocks:\n  {written}\n" + ("links: [m -> n]\n" if "\n  n:" in written else "")
    folder = write(tmp_path, text.replace("^", ""), inner=CHILD)
    before = (HEAD + text).partition("^")[0]
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    with pytest.raises(MissionInvalid) as caught:
        load(folder)
    found = [(item.code, item.line, item.column) for item in caught.value.problems if item.severity == "error"]
    assert (code, line, column) in found
    assert Path(caught.value.problems[0].path).name == "mission.yaml"


def test_problems_of_a_child_stand_in_its_file_and_name_the_line_that_uses_it(tmp_path: Path) -> None:
    child = CHILD.replace("type: integer", "type: int").replace("${outputs.greet}", "${outputs.gret}")
    folder = write(
        tmp_path, "blocks:\n  m: {type: child_workflow, mission: inner.yaml, inputs: {who: x}}\n", inner=child
    )
    found = problems(folder)
    assert ("MISSION_CHILD", "mission.yaml", 4) in found
    assert ("MISSION_VALUE", "inner.yaml", 3) in found
    assert ("validation.source_missing", "inner.yaml", 6) in found


def test_a_child_that_is_no_yaml_is_told_where_it_breaks(tmp_path: Path) -> None:
    folder = write(tmp_path, "blocks:\n  m: {type: child_workflow, mission: inner.yaml}\n", inner="mission: [\n")
    found = problems(folder)
    assert ("MISSION_CHILD", "mission.yaml", 4) in found
    assert any(code == "MISSION_YAML_SYNTAX" and file == "inner.yaml" for code, file, _ in found)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("workspace: {kind: none}", 9),
        ("sandbox: {confinement: best_effort}", 9),
        ("provider: {scripted: a.yaml}", 9),
        ("prompts: {runner: hm}", 9),
        ("commands: {python: /usr/bin/python3}", 9),
        ("budgets: {calls: 1}", 9),
        ("on_failure: keep", 9),
        ("watch: {paths: [a]}", 9),
        ("lanes: {data: {limit: 3}}", 9),
        ("profile: simple/v1", 9),
        ("envelope: {write_paths: [a]}", 9),
    ],
)
def test_sections_of_the_run_are_refused_in_a_child(section: str, line: int, tmp_path: Path) -> None:
    outer = "blocks:\n  m: {type: child_workflow, mission: inner.yaml, inputs: {who: x}}\n"
    found = lint(write(tmp_path, outer, inner=CHILD + section + "\n"))
    mine = [item for item in found if item.code == "MISSION_CHILD" and Path(item.path).name == "inner.yaml"]
    assert [(item.line, item.hint) for item in mine] == [(line, "write it in mission.yaml")]


def nested(depth: int, *, last: str = "{type: template, template: x}") -> Mapping[str, str]:
    """A chain of children: ``c1`` names ``c2`` and so on."""
    link = 'mission: c\nversion: "1"\nblocks: {{m: {inner}}}\n'
    inner = {n: f"{{type: child_workflow, mission: c{n + 1}.yaml}}" for n in range(1, depth)}
    return {f"c{n}": link.format(inner=inner.get(n, last)) for n in range(1, depth + 1)}


def codes(found: tuple[MissionProblem, ...]) -> set[str]:
    return {item.code for item in found if item.severity == "error"}


def test_circles_depth_number_and_size_are_bounded(tmp_path: Path) -> None:
    first = "blocks: {m: {type: child_workflow, mission: c1.yaml}}\n"
    assert codes(lint(write(tmp_path / "five", first, **nested(5)))) == set()
    assert codes(lint(write(tmp_path / "six", first, **nested(6)))) == {"MISSION_CHILD"}
    circle = nested(3, last="{type: child_workflow, mission: c1.yaml}")
    assert "graph.recursive_workflow" in codes(lint(write(tmp_path / "circle", first, **circle)))

    many = "".join(f"  b{n}: {{type: child_workflow, mission: c{n}.yaml}}\n" for n in range(65))
    leaf = 'mission: c\nversion: "1"\nblocks: {m: {type: template, template: x}}\n'
    crowd = write(tmp_path / "many", f"blocks:\n{many}", **{f"c{n}": leaf for n in range(65)})
    assert [item.message for item in lint(crowd) if item.code == "MISSION_CHILD"] == [
        "'c64.yaml': more than 64 child files"
    ]

    wide = 'mission: c\nversion: "1"\nblocks:\n' + "".join(
        f"  b{n}: {{type: child_workflow, mission: LEAF}}\n" for n in range(60)
    )
    files = {"c1": wide.replace("LEAF", "c2.yaml"), "c2": wide.replace("LEAF", "c3.yaml"), "c3": leaf}
    assert "MISSION_CHILD" in codes(lint(write(tmp_path / "wide", first, **files)))
    said = [item.message for item in lint(tmp_path / "wide") if "more than 2000 blocks" in item.message]
    assert said


def test_one_child_may_be_used_twice(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks:
  a: {type: child_workflow, mission: inner.yaml, inputs: {who: a}}
  b: {type: child_workflow, mission: inner.yaml, inputs: {who: b}}
links: [a -> b]
""", inner=CHILD)  # fmt: skip
    assert codes(lint(folder)) == set()


def test_a_stream_can_start_neither_a_child_nor_an_item(tmp_path: Path) -> None:
    class Clock(Block, type_id="clock", output=recurring("string"), side_effects="none"):
        """Gives the time, again and again."""

        def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None: ...

        async def run(self, input: BlockValue, ctx: BlockContext) -> AsyncIterator[str]:
            yield "now"

    registry = builtin_registry()
    registry.register(Clock)
    outer = """\
blocks:
  m: {type: map_over, items: [1], each: {type: clock}}
  c: {type: child_workflow, mission: inner.yaml}
links: [m -> c]
"""
    folder = write(tmp_path, outer, inner='mission: i\nversion: "1"\nblocks: {c: {type: clock}}\n')
    found = [(item.code, Path(item.path).name, item.line) for item in lint(folder, registry)]
    assert ("validation.recurring_nested", "mission.yaml", 4) in found
    assert ("validation.recurring_nested", "inner.yaml", 3) in found


# -- named links -----------------------------------------------------------------------------------------------


async def test_named_links_join_into_a_map(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks:
  start: {type: template, template: s}
  one: {type: template, template: "1"}
  two: {type: template, template: "2"}
  end: {type: template, template: "{{ body }} {{ head }}"}
links:
  - start -> one -> end as head
  - "start -> two -> end  as  body"
""")  # fmt: skip
    response, runner = await execute(load(folder))
    assert outputs_of(response) == "2 1"
    assert runner.calls[-1].request.sources == ("one", "two")


LINKS = {
    "one without a name": ("[a -> c as x, b -> ^c]", "validation.bad_join"),
    "one name twice": ("[a -> c as x, b -> ^c as x]", "validation.bad_join"),
    "a name at the start": ("[a as ^x -> c]", "MISSION_LINK"),
    "a malformed name": ("[a -> c as ^X!]", "MISSION_LINK"),
    "no name": ("[a -> ^c as]", "MISSION_LINK"),
    "an unknown block": ("[a -> ^d as x]", "graph.unknown_target"),
    "a block that takes no map": ("[a -> ^s as x]", "validation.kind_mismatch"),
}


@pytest.mark.parametrize("case", LINKS)
def test_mistakes_in_named_links_have_their_place(case: str, tmp_path: Path) -> None:
    links, code = LINKS[case]
    text = (
        "blocks: {a: {type: template, template: a}, b: {type: template, template: b}, c: {type: template, template: c}"
    )
    text += ", s: {type: split_lines}}\n" if "s as" in links else "}\n"
    folder = write(tmp_path, text + f"links: {links}\n".replace("^", ""))
    found = [(item.code, item.line, item.column) for item in lint(folder)]
    assert (code, 4, len(f"links: {links}".partition("^")[0]) + 1) in found


def test_a_mission_with_branches_has_no_joins_to_name(tmp_path: Path) -> None:
    folder = write(tmp_path, """\
blocks: {a: {type: template, template: a}, b: {type: template, template: b}, c: {type: template, template: c}}
links: [a -> b as x]
branches: {b: [{otherwise: c}]}
""")  # fmt: skip
    assert ("graph.mixed_discipline", "mission.yaml", 4) in problems(folder)


def test_a_mission_block_may_be_called_as(tmp_path: Path) -> None:
    folder = write(
        tmp_path, "blocks: {a: {type: template, template: a}, as: {type: template, template: b}}\nlinks: [a -> as]\n"
    )
    assert not re.search("error", str(lint(folder)))
