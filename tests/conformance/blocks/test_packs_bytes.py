"""A block behaves the same whether it is called as it is or spoken to in bytes (blocks spec §20.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.blocks_kit import Events, FakeHost, operation
from support.pack_paths import BUILTINS_BYTES, BUILTINS_FAST, BYTES, FAST, both, services, told

from runtime.blocks.builtin.catalogue import BUILTIN
from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.envelope import Request
from runtime.blocks.errors import (
    BlockInternalError,
    OperationFailed,
)
from runtime.blocks.registry import BlockRegistry
from runtime.blocks.running import Scope
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow

STATE = {"total": BlockValue.of([1, {"a": 2}])}
CASES: list[tuple[str, dict[str, Any], Request]] = [
    ("where", {"label": "x", "mood": "loud", "token": "t"}, Request(BlockValue.of({"a": 1}), STATE)),
    ("where", {}, Request(BlockValue.of([1, 2]), sources=("a", "b"))),
    ("where", {}, Request(BlockValue.of({"code": "x.y"}), handling=True)),
    ("threaded", {}, Request(BlockValue.of("text"))),
    ("asks", {}, Request(BlockValue.of({"a": b"\x00"}))),
    ("rows", {}, Request(BlockValue.of(3))),
    ("rows", {}, Request(BlockValue.of(0))),
    ("ticks", {}, Request(BlockValue.of(2))),
    ("ticks", {}, Request(BlockValue.of(9))),
    ("opened", {}, Request(BlockValue.of(1))),
    ("opened", {}, Request()),
    ("sized", {}, Request(BlockValue.of("a"))),
    ("sized", {"as_bytes": True}, Request(BlockValue.of(b"a"))),
    ("sized", {"as_bytes": True}, Request(BlockValue.of("a"))),
    *(
        ("picky", {"how": how}, Request())
        for how in ("raise", "return", "crash", "set", "stream", "mode", "config", "type")
    ),
    *(
        ("fails", {"how": how}, Request())
        for how in ("input", "validation", "runtime", "timeout", "skip", "other", "silent")
    ),
    ("fails", {}, Request()),
    ("fails", {"how": 1}, Request()),
]


@pytest.mark.parametrize(("type_id", "config", "request_"), CASES)
async def test_the_byte_path_equals_the_fast_path(type_id: str, config: dict[str, Any], request_: Request) -> None:
    await both(type_id, config, request_)
    await both(type_id, config, request_, hosted=False)


async def test_the_samples_cover_what_they_are_meant_to() -> None:
    seen = {
        (type_id, *config.values()): await both(type_id, config, request) for type_id, config, request in CASES[::-1]
    }
    assert seen["where", "x", "loud", "t"]["metadata"]["demo.label"] == "x"
    assert seen["asks",]["data"].to_python()[0] == "yes"
    assert seen["ticks",]["stream"] == [BlockValue.of(0), BlockValue.of(1), "end"]
    assert seen["threaded",]["emitted"] == [
        ("data", BlockValue.of({"kept": "text"})),
        ("telemetry", BlockValue.of("shown")),
    ]
    assert seen["fails", "other"]["type"] is BlockInternalError
    assert seen["picky", "set"]["metadata"]["phase"] == "result"
    assert seen["picky", "raise"]["metadata"]["phase"] == "validate"


async def test_waiting_for_the_operator_leaves_the_deadline_alone() -> None:
    for registry in (FAST, BYTES):
        block = registry.create("asks", {}).with_timeout(30)
        response = await block.execute(Request(), host=FakeHost([operation(value=1)], "yes"))
        assert response.success


def test_a_constructor_that_crashes_is_the_blocks_own_fault() -> None:
    with pytest.raises(KeyError):
        FAST.create("picky", {"how": "odd"})
    with pytest.raises(BlockInternalError, match="KeyError") as caught:
        BYTES.create("picky", {"how": "odd"})
    assert caught.value.code == "runtime.internal"


async def test_a_failed_operation_keeps_its_output_and_its_class() -> None:
    host = FakeHost([operation("OP_TIMEOUT", part=2)], "yes")
    response = await BYTES.create("asks", {}).execute(Request(), host=host)
    assert response.error_type is OperationFailed
    assert response.output == BlockValue.of({"part": 2})


# -- the built-ins ---------------------------------------------------------------------------------------------

_SAMPLES: tuple[tuple[Kinds, Any], ...] = (
    (Kinds.STRING, "a.txt"),
    (Kinds.LIST, ["a", "b"]),
    (Kinds.MAP, {"path": "a.txt"}),
    (Kinds.INT, 1),
    (Kinds.FLOAT, 0.0),
    (Kinds.BOOL, True),
    (Kinds.BYTES, b"a"),
    (Kinds.NULL, None),
)
_INPUTS = (
    None,
    "a.txt",
    ["b", "a"],
    [{"id": 1}, {"id": 1}],
    {"path": "a.txt", "url": "https://example.org/"},
    3,
    b"raw",
)


def sample(item: ConfigField) -> Any:
    """Something a field takes."""
    if item.choices:
        return item.choices[0]
    return next(value for kind, value in _SAMPLES if item.kinds.intersects(kind))


def configs(fields: tuple[ConfigField, ...]) -> list[dict[str, Any]]:
    """The required fields alone, all fields, and none at all."""
    needed = {item.name: sample(item) for item in fields if item.required}
    return [needed, {item.name: sample(item) for item in fields}, *([{}] if needed else [])]


@pytest.mark.parametrize("type_id", BUILTIN.about.type_ids)
async def test_every_built_in_is_the_same_on_both_paths(type_id: str) -> None:
    info = BUILTINS_FAST.info(type_id)
    assert replace(BUILTINS_BYTES.info(type_id)) == info
    for config in configs(info.config):
        for value in _INPUTS:
            await both(type_id, config, Request(BlockValue.of(value)), (BUILTINS_FAST, BUILTINS_BYTES))


SOME: list[tuple[str, dict[str, Any], Any, bool]] = [
    ("template", {"template": "{{ a }}!"}, {"a": "hi"}, True),
    ("template", {"template": "{{ a.b.c() }}"}, {"a": "hi"}, False),
    ("split_lines", {"delimiter": ","}, "a, b,", True),
    ("select_first", {"strategy": "latest"}, ["a", "c", "b"], True),
    ("deduplicate", {"key": "id"}, [{"id": 1}, {"id": 1}], True),
    ("approval", {"message": "go?", "choices": ["yes", "no"]}, None, True),
    ("tool_invoke", {"tool": "x.y", "free": [1]}, None, True),
    ("delay", {"seconds": 2.5}, 1, True),
    ("burst", {"items": 3, "telemetry": 2}, None, True),
]


@pytest.mark.parametrize(("type_id", "config", "value", "good"), SOME)
async def test_built_ins_at_work(type_id: str, config: dict[str, Any], value: Any, good: bool) -> None:
    seen = await both(type_id, config, Request(BlockValue.of(value)), (BUILTINS_FAST, BUILTINS_BYTES))
    assert seen["success"] is good


# -- whole workflows -------------------------------------------------------------------------------------------


def mixed(registry: BlockRegistry, samples: BlockRegistry) -> Workflow:
    """Fan-out, join, a block that reads the ledger, a failure and its handler."""
    flow = Workflow("mixed")
    split = registry.create("split_lines", {}).named("split")
    left, right = (registry.create("echo", {}).named(name) for name in ("left", "right"))
    joined = registry.create("combine", {"keys": ["l", "r"]}).named("joined")
    where = samples.create("where", {}).named("where")
    broken = samples.create("fails", {"how": "runtime"}).named("broken")
    for source, target in ((split, left), (split, right), (left, joined), (right, joined), (joined, where)):
        flow.link(source, target)
    flow.configure(joined, store_as="total")
    flow.link(where, broken)
    flow.on_error(broken, samples.create("where", {"label": "handler"}).named("handler"))
    return flow


async def test_a_workflow_runs_the_same_on_both_paths() -> None:
    runs = []
    for registry, samples in ((BUILTINS_FAST, FAST), (BUILTINS_BYTES, BYTES)):
        events = Events()
        scope = Scope(services=services(), observer=events, workflow_id="wf")
        report = await mixed(registry, samples).start("a\nb", scope=scope).result()
        assert report.ledger is not None
        runs.append((told(report.response), report.nodes, report.ledger.log(), events.seen))
    assert runs[0] == runs[1]
    assert runs[0][0]["code"] == "demo.work"
    assert any(fields.get("handler") == "handler" for _, fields in runs[0][3])
