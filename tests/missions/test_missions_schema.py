"""The schema editors get must accept what the loader accepts, explain every field, and refuse obvious mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.missions.loader import load
from runtime.missions.schema import mission_schema
from runtime.missions.types import default_registry

SCHEMA = mission_schema()

MISSION = """\
mission: fix-the-build
version: "1"
inputs: {goal: {type: string, default: x}}
workspace: {from: project, init_git: true}
envelope: {allowed_paths: ["src/**"], allowed_tools: [git.add], max_budget_usd: 0.5, timeout_seconds: 120}
sandbox: {confinement: best_effort}
provider: {scripted: answers.yaml}
prompts: {runner: text, other: {file: x.md}}
commands: {python: /usr/bin/python3, count: {argv: [wc, "${f}"], args: {f: path}}}
budgets: {tokens: 10, usd: 1, time: 60}
blocks:
  red: {type: run_tests, test_paths: [tests], accept: [op.test_failed]}
  propose: {type: llm_call, prompt: "${inputs.goal}", output_schema: patch.schema.json, retry: {max_attempts: 2}}
  apply: {type: tool_invoke, tool: filesystem.write_file, path: a, content: "${outputs.propose.content}", mode: "644"}
  split: {type: tool_invoke, tool: git, action: add, paths: "${outputs.propose.paths}"}
  gate: {type: gate_check, schema: "schema:patch", data: {a: 1}}
  demand: {type: gate_check, require: "outputs.gate.ok", on_fail: escalate}
  count: {type: tool_invoke, tool: process.run, template: count, f: x}
  many: {type: map_over, items: "${outputs.split.paths}", each: {type: template, template: "{{ x }}", optional: true}}
  child: {type: child_workflow, mission: child.yaml, inputs: {goal: "${inputs.goal}"}}
links: [red -> propose -> apply -> split -> gate, many -> child as many]
branches: {gate: [{when: value.ok, to: red}, {otherwise: split}]}
outputs: {commit: "${outputs.gate.ok}"}
watch: {paths: ["src/**"]}
"""


def mission(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(MISSION), **changes}


def with_block(**block: Any) -> dict[str, Any]:
    return mission(blocks={"one": block})


def refusals(value: Any, schema: Any, where: str = "$") -> Iterator[str]:
    """A validator for the keywords the schema uses; an unknown keyword is an error, never ignored."""
    for keyword, rule in schema.items():
        yield from (f"{where}: {keyword}" for _ in _violations(keyword, rule, value, schema, where))


def _types(rule: Any) -> tuple[type, ...]:
    known = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    names = rule if isinstance(rule, list) else [rule]
    flat: list[type] = []
    for name in names:
        found = known.get(name, type(None))
        flat += found if isinstance(found, tuple) else [found]
    return tuple(flat)


def _violations(keyword: str, rule: Any, value: Any, schema: Any, where: str) -> Iterator[object]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    sizes = {str: ("minLength", "maxLength"), list: ("minItems", "maxItems"), dict: ("minProperties", "maxProperties")}
    if keyword in ("description", "default", "title", "$defs", "$schema"):
        return
    if keyword == "$ref":
        yield from refusals(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], where)
    elif keyword == "type":
        if not isinstance(value, _types(rule)) or (isinstance(value, bool) and bool not in _types(rule)):
            yield keyword
    elif keyword == "properties":
        for name in value.keys() & rule.keys() if isinstance(value, dict) else ():
            yield from refusals(value[name], rule[name], f"{where}.{name}")
    elif keyword == "additionalProperties":
        for name in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
            if rule is False:
                yield name
            elif rule is not True:
                yield from refusals(value[name], rule, f"{where}.{name}")
    elif keyword == "propertyNames":
        for name in value if isinstance(value, dict) else ():
            yield from refusals(name, rule, f"{where}.{name}")
    elif keyword == "required":
        yield from (name for name in rule if isinstance(value, dict) and name not in value)
    elif keyword == "items":
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from refusals(item, rule, f"{where}[{index}]")
    elif keyword in ("anyOf", "oneOf"):
        fitting = sum(not list(refusals(value, option, where)) for option in rule)
        if fitting == 0 or (keyword == "oneOf" and fitting > 1):
            yield keyword
    elif keyword == "allOf":
        for option in rule:
            yield from refusals(value, option, where)
    elif keyword == "enum":
        yield from () if value in rule else (keyword,)
    elif keyword == "const":
        yield from () if value == rule else (keyword,)
    elif keyword == "pattern":
        yield from () if not isinstance(value, str) or re.search(rule, value) else (keyword,)
    elif keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if number:
            low = {"minimum": value >= rule, "exclusiveMinimum": value > rule}
            yield from (
                () if {**low, "maximum": value <= rule, "exclusiveMaximum": value < rule}[keyword] else (keyword,)
            )
    elif keyword in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"):
        if keyword in sizes.get(type(value), ()):
            yield from () if (len(value) >= rule if keyword.startswith("min") else len(value) <= rule) else (keyword,)
    else:
        raise AssertionError(f"the schema uses {keyword!r}, which this test does not know")


def test_a_full_mission_is_valid() -> None:
    assert list(refusals(mission(), SCHEMA)) == []


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        mission(version=1),
        mission(vesrion="1"),
        mission(blocks={}),
        mission(envelope={"allowed_path": []}),
        mission(links="a -> b"),
        mission(on_failure="undo"),
        mission(workspace={"kind": "zip"}),
        mission(inputs={"goal": {"type": "str"}}),
        with_block(),
        with_block(type="run_test", test_paths=["x"]),
        with_block(type="run_tests"),
        with_block(type="run_tests", test_paths=["x"], timeuot=3),
        with_block(type="run_tests", test_paths="tests"),
        with_block(type="tool_invoke", tool="git.add"),
        with_block(type="tool_invoke", tool="git.push", paths=["x"]),
        with_block(type="tool_invoke", tool="filesystem.write_file", path="x", content="y", mode="777"),
        with_block(type="llm_call", promt="x"),
        with_block(type="gate_check", check="equals", schema="equals"),
        with_block(type="escalate", reason="x", severity="huge"),
        with_block(type="map_over", items=[1]),
        with_block(type="map_over", items=[1], each={"type": "templat"}),
        with_block(type="map_over", items=[1], each={"type": "map_over", "items": [], "each": {"type": "echo"}}),
        with_block(type="child_workflow", inputs={}),
    ],
)
def test_mistakes_are_refused(value: Any) -> None:
    assert list(refusals(value, SCHEMA))


def test_every_field_has_a_description() -> None:
    silent = [
        f"{name}.{key}"
        for name, definition in [("mission", SCHEMA), *SCHEMA["$defs"].items()]
        for key, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert silent == []


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def test_draft_7_readers_understand_it() -> None:
    for node in _nodes(SCHEMA):
        assert "$ref" not in node or len(node) == 1, node
        assert not {"prefixItems", "unevaluatedProperties", "$dynamicRef", "dependentSchemas"} & node.keys()
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]


def test_every_block_type_is_offered() -> None:
    offered = {
        item["properties"]["type"].get("const")
        for item in SCHEMA["$defs"].values()
        if "type" in item.get("properties", {})
    }
    assert {info.type_id for info in default_registry().types()} <= offered


_SAMPLES = Path(__file__).parents[2] / "sample_missions"


@pytest.mark.parametrize("path", sorted(_SAMPLES.glob("*/mission.yaml")), ids=lambda path: path.parent.name)
def test_samples_load_and_are_valid(path: Path) -> None:
    definition = load(path).definition["mission"]
    assert list(refusals(definition, SCHEMA)) == []


def test_editors_see_the_defaults_of_a_blocks_parameters() -> None:
    blocks = SCHEMA["$defs"]
    assert blocks["block_approval"]["properties"]["choices"]["default"] == ["approved", "rejected"]
    assert "default" not in blocks["block_approval"]["properties"]["message"]
