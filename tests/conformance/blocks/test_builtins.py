"""The built-in blocks and the registry that creates them (blocks spec §21, architecture §7).

Blocks that reach the world, that shape values and that read feeds are in the files beside this one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.builtin.operations import OperationBlock
from runtime.blocks.builtin.shaping import map_input
from runtime.blocks.contracts import once
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockError, BlockInputError, BlockRuntimeError, BlockValidationError, RegistryError
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.model import OPERATION_TYPES
from tests.support.blocks_kit import FakeHost, operation, respond, scope, step

REGISTRY = builtin_registry()


async def answer(type_id: str, value: object = None, host: Any = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value, host=host)


# -- registry -------------------------------------------------------------------------------------------------------


def test_every_operation_type_is_a_block_type() -> None:
    operations = {info.type_id for info in REGISTRY.types() if info.operation}
    assert operations == OPERATION_TYPES
    assert all(info.free_form and info.output == once("map") for info in REGISTRY.types() if info.operation)
    assert [info.type_id for info in REGISTRY.types()] == sorted(info.type_id for info in REGISTRY.types())
    assert all(info.summary and info.display_name for info in REGISTRY.types())
    assert all(field.summary for info in REGISTRY.types() for field in info.config)


@pytest.mark.parametrize(
    ("type_id", "config", "fields"),
    [
        ("template", {"templat": "x"}, ["templat"]),
        ("split_by_keys", {"key": ["a"]}, ["key", "keys"]),
        ("delay", {"seconds": "soon"}, ["seconds"]),
        ("delay", {"seconds": -1}, None),
        ("select_first", {"strategy": "best"}, ["strategy"]),
        ("burst", {"items": -1}, None),
        ("burst", {"volleys": 0}, None),
        ("burst", {"seconds": 1e9}, None),
        ("burst", {"text": "x" * 5000}, None),
        ("approval", {"message": " "}, None),
        ("approval", {"message": "ok?", "choices": ["no"]}, None),
        ("approval", {"message": "ok?", "choices": [1]}, ["choices"]),
        ("tool_invoke", {"path": 3}, ["path", "tool"]),
        ("run_tests", {"test_paths": "tests", "min_tests": "1"}, ["test_paths", "min_tests"]),
        ("gate_check", {"check": "equals", "on_fail": "explode"}, ["on_fail"]),
    ],
)
def test_bad_config_names_every_field(type_id: str, config: dict[str, Any], fields: list[str] | None) -> None:
    with pytest.raises(BlockValidationError) as caught:
        REGISTRY.create(type_id, config)
    assert caught.value.code == "validation.bad_config"
    if fields is not None:
        assert [problem["field"] for problem in caught.value.details["problems"]] == fields


def test_unknown_types_and_fields_come_with_advice() -> None:
    with pytest.raises(RegistryError, match="did you mean 'tool_invoke'"):
        REGISTRY.create("tool_invok", {})
    problems = REGISTRY.problems("template", {"templat": "x", "template": 5}, skip=frozenset({"template"}))
    assert [(problem.field, problem.hint) for problem in problems] == [("templat", "did you mean 'template'?")]


def test_a_type_registers_once_unless_overridden() -> None:
    class Echo(Block):
        """Another echo."""

        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        async def run(self, input: BlockValue, ctx: Any) -> str:
            return "mine"

    registry = builtin_registry()
    with pytest.raises(RegistryError, match=r"registry\.duplicate_type_id"):
        registry.register(Echo)
    registry.override(Echo)
    assert registry.info("echo").summary == "Another echo."
    assert "echo" in registry
    assert "echo" not in BlockRegistry()


# -- operations -----------------------------------------------------------------------------------------------------


async def test_an_operation_block_hands_its_parameters_on() -> None:
    host = FakeHost([operation(sha256="x")])
    response = await answer("tool_invoke", host=host, tool="filesystem.write_file", path="a", content="b", mode=644)
    assert response.data.to_python() == {"sha256": "x"}
    assert host.operations == [
        ("tool_invoke", {"tool": "filesystem.write_file", "path": "a", "content": "b", "mode": 644})
    ]


async def test_parameters_can_be_resolved_at_run_time() -> None:
    class Late(OperationBlock, type_id="run_tests"):
        def resolved(self, input: BlockValue, ctx: Any) -> dict[str, Any]:
            return {**self.params, "test_paths": [ctx.state["$input"].payload]}

    host = FakeHost([operation(passed=True)])
    workflow = Workflow("w").add(Late(params={"min_tests": 2})).configure("run_tests", reads=["$input"])
    response = await workflow.execute(Request(BlockValue.of("tests")), host=host)
    assert response.success
    assert host.operations == [("run_tests", {"min_tests": 2, "test_paths": ["tests"]})]


async def test_expected_failures_of_operations_can_be_accepted() -> None:
    host = FakeHost([operation("TEST_FAILED", passed=False)])
    block = REGISTRY.create("run_tests", {"test_paths": ["tests"]}).named("red")
    workflow = Workflow("w").add(block).configure("red", accept=["op.test_failed"])
    response = await workflow.execute(Request(), host=host)
    assert response.data.to_python() == {"ok": False, "code": "op.test_failed", "output": {"passed": False}}


def test_declared_safety() -> None:
    classes = {info.type_id: info.side_effects for info in REGISTRY.types()}
    assert classes["llm_call"] is SideEffects.IDEMPOTENT
    assert classes["tool_invoke"] is None
    assert classes["gate_check"] is SideEffects.NONE


async def test_a_burst_emits_every_number_once_in_volleys() -> None:
    host = FakeHost()
    response = await answer("burst", host=host, items=10, telemetry=5, text="wind", volleys=3)
    assert response.data.to_python() == {"items": 10, "telemetry": 5}
    for lane, count in (("data", 10), ("telemetry", 5)):
        said = [value.text() for where, value in host.emitted if where == lane]
        assert said == [f"wind {number}" for number in range(count)]
    lanes = [where for where, _ in host.emitted]
    assert lanes.index("data") < len(lanes) - 1 - lanes[::-1].index("telemetry"), "telemetry comes with every volley"


# -- approval -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        ("approved", {"approved": True, "choice": "approved"}),
        (True, {"approved": True, "choice": "approved"}),
        ({"choice": "approved", "by": "me", "notes": "go"}, {"approved": True, "choice": "approved", "notes": "go"}),
        ({"choice": "staging", "notes": None}, {"approved": True, "choice": "staging"}),
    ],
)
async def test_an_approval_goes_on(reply: object, data: dict[str, Any]) -> None:
    host = FakeHost(answer=reply)
    response = await answer("approval", "the note", host=host, message="Publish?")
    assert response.data.to_python() == data
    assert host.questions == [("Publish?", ("approved", "rejected"), BlockValue.of("the note"))]


@pytest.mark.parametrize("reply", ["rejected", "no", False, {"choice": "reject", "notes": "not yet"}])
async def test_a_rejection_ends_the_run(reply: object) -> None:
    response = await answer("approval", host=FakeHost(answer=reply), message="Publish?", subject={"n": 1})
    assert response.code == "approval.refused"
    assert response.ends_run


async def test_nobody_to_ask() -> None:
    host = FakeHost(answer=BlockRuntimeError("approval.missing", "headless"))
    assert (await answer("approval", host=host, message="Publish?")).code == "approval.missing"
    assert (await answer("approval", host=FakeHost(answer={}), message="Publish?")).code == "approval.missing"


# -- template -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "data", "value", "text"),
    [
        ("Hello, {{ name }}.", {"name": "deck"}, None, "Hello, deck."),
        ("Hello, {{ name }}.\n", None, {"name": "map"}, "Hello, map.\n"),
        ("[{{ value }}]", None, "text", "[text]"),
        ("{{ missing }}{{ missing.deeper.still }}|", {}, None, "|"),
        ("{% for item in value %}{{ item }};{% endfor %}", None, [1, 2], "1;2;"),
        ("{{ '<' }}", {}, None, "<"),
    ],
)
async def test_templates_render(template: str, data: Any, value: Any, text: str) -> None:
    assert (await answer("template", value, template=template, data=data)).data == BlockValue.of(text)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for a in range(999999) %}{% endfor %}",
        "{{ [1].append(2) }}",
        "{{ 1 / 0 }}",
        "{% for a in range(60000) %}{{ 'x' * 100 }}{% endfor %}",
    ],
)
async def test_templates_cannot_harm(template: str) -> None:
    assert (await answer("template", template=template)).code == "template.render_failed"


@pytest.mark.parametrize(
    "reach", ["{{ ''.__class__.__mro__ }}", "{{ value.__init__.__globals__ }}", "{{ x.__class__ }}"]
)
async def test_templates_cannot_reach_python(reach: str) -> None:
    response = await answer("template", "v", template=reach)
    assert response.code == "template.render_failed" or response.data == BlockValue.of("")


def test_a_malformed_template_is_refused_when_the_block_is_made() -> None:
    with pytest.raises(BlockError) as caught:
        REGISTRY.create("template", {"template": "a\n{% if %}"})
    assert caught.value.code == "template.invalid"
    assert caught.value.details["line"] == 2


# -- shaping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_id", "config", "value", "data"),
    [
        ("echo", {}, {"a": 1}, '{"a":1}'),
        ("combine", {"keys": ["a", "b"]}, [1, 2], {"a": [1, 2], "b": None}),
        ("combine", {"keys": ["a"]}, None, {"a": None}),
        ("select_first", {}, ["a", "b"], "a"),
        ("select_first", {"strategy": "last"}, ["a", "b"], "b"),
        ("select_first", {"strategy": "latest"}, ["a", "c", "b"], "c"),
        ("select_first", {}, "only", "only"),
        ("split_lines", {}, " a \n\n b", ["a", "b"]),
        ("split_lines", {"delimiter": ",", "trim_each": False, "skip_empty": False}, "a,, b", ["a", "", " b"]),
        ("split_lines", {"delimiter": ""}, "a\nb", ["a", "b"]),
        ("split_lines", {}, None, []),
    ],
)
async def test_shaping(type_id: str, config: dict[str, Any], value: Any, data: Any) -> None:
    assert (await answer(type_id, value, **config)).data.to_python() == data


async def test_combine_names_joined_sources() -> None:
    workflow, start = Workflow("w"), step("start")
    workflow.link(start, step("a", lambda v, c: 1)).link(start, step("b", lambda v, c: [2])).link(start, step("c"))
    combine = REGISTRY.create("combine", {"keys": ["x", "y"]})
    workflow.link("b", combine).link("a", combine).link("c", combine)
    assert (await respond(workflow)).data.to_python() == {"x": [2], "y": 1}


@pytest.mark.parametrize(
    ("value", "code"),
    [([], "input.empty_list"), (None, "input.empty_list"), ([1], "input.element_kind"), (5, "input.kind_mismatch")],
)
async def test_select_first_refuses(value: Any, code: str) -> None:
    assert (await answer("select_first", value)).code == code


async def test_delay_waits_on_the_services_clock() -> None:
    clock = ManualClock()
    task = asyncio.create_task(
        REGISTRY.create("delay", {"seconds": 60}).execute(Request(BlockValue.of(7)), scope=scope(clock))
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    clock.advance(60)
    assert (await task).data == BlockValue.of(7)


def refuse(value: BlockValue) -> None:
    raise BlockInputError("input.not_object", "no")


async def test_map_input() -> None:
    block = map_input(
        lambda value: value.expect_string().strip(), name="trim", input=once("string"), output=once("string")
    )
    assert (await respond(block, " x ")).data == BlockValue.of("x")
    assert block.block_name == "trim"
    assert (await respond(block, 5)).code == "input.kind_mismatch"
    assert (await respond(map_input(refuse))).code == "input.not_object"
    assert (await respond(map_input(lambda value: 1 / 0))).code == "transform.execution_failed"
    assert (await respond(map_input(lambda value: object()))).code == "value.unsupported_type"
