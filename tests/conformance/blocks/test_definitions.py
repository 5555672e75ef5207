"""Workflows travel as data: out, in, and what is wrong with what came in (blocks spec §9.1, §10 P2, P6, P11)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.builtin.child_workflow import ChildWorkflow
from runtime.blocks.conditions import ConditionRegistry, case, otherwise, when
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockInputError,
    BlockRuntimeError,
    BlockValidationError,
    WorkflowWiringError,
)
from runtime.blocks.policies import BubblePolicy, Policy, RepairPolicy, RetryPolicy
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.results import Multiple
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import decode_value, encode_value
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import respond, step


class Tone(str, Enum):  # noqa: UP042 - the older spelling must travel too
    SOFT = "soft"
    LOUD = "loud"


class Say(Block, input=multiple(), side_effects="none"):
    """Says its words."""

    words: str = "hi"
    tone: Tone = Tone.SOFT
    raw: bytes = b""
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.words == "refused":
            raise BlockValidationError("demo.words", "these words are refused")

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    async def run(self, input: BlockValue, ctx: Any) -> str:
        assert isinstance(self.tone, Tone)
        return self.words.upper() if self.tone is Tone.LOUD else self.words


class Deal(Block, input=multiple(), output=multiple(), side_effects="idempotent"):
    """Two values."""

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    async def run(self, input: BlockValue, ctx: Any) -> Multiple:
        return Multiple([1, 2])


REGISTRY = BlockRegistry()
REGISTRY.register(Say)
REGISTRY.register(Deal)
NAMED = ConditionRegistry()
NAMED.register("fine", lambda response: True)


def read(definition: object, registry: BlockRegistry = REGISTRY) -> Workflow:
    return Workflow.from_definition(definition, registry, conditions=NAMED)


# -- the round trip -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=5).filter(lambda text: text != "refused")
policies = st.builds(
    RetryPolicy, max_attempts=st.integers(1, 3), jitter=st.sampled_from([0.0, 0.5]), retry_on=st.just(("http.*",))
) | st.just(RepairPolicy("add_validation_feedback"))


@st.composite
def workflows(draw: st.DrawFn, depth: int = 1) -> Workflow:
    """Any workflow of the small registry, sound or not."""
    workflow = Workflow(
        draw(texts),
        max_steps=draw(st.integers(0, 9)),
        seed=draw(st.dictionaries(texts, st.integers(0, 5), max_size=1)),
        propagate=draw(st.lists(st.just("app.x"), max_size=1)),
        conditions=NAMED,
    )
    names = [f"n{index}" for index in range(draw(st.integers(1, 4)))]
    for name in names:
        workflow.configure(draw(blocks(depth)), name=name, **draw(options(names)))
    anywhere = st.sampled_from(names)
    for _ in range(draw(st.integers(0, 4))):
        workflow.link(
            draw(anywhere),
            draw(anywhere),
            pick=draw(st.none() | st.integers(0, 1)),
            as_=draw(st.none() | st.sampled_from("xy")),
        )
    conditions = st.sampled_from(["fine", "unknown", case(key="a.b", equals=1), case(contains="x"), case(equals=None)])
    if draw(st.booleans()):
        workflow.branch(draw(anywhere), when(draw(conditions), draw(anywhere)), otherwise(draw(anywhere)))
    for _ in range(draw(st.integers(0, 2))):
        workflow.on_error(draw(anywhere), draw(anywhere))
    if draw(st.booleans()):
        workflow.set_output(draw(anywhere))
    return workflow.with_timeout(draw(st.sampled_from([1.5, None]))) if draw(st.booleans()) else workflow


@st.composite
def blocks(draw: st.DrawFn, depth: int) -> Block:
    config = {"words": texts, "tone": st.sampled_from(Tone), "raw": st.binary(max_size=3)}
    kinds: list[st.SearchStrategy[Block]] = [
        st.builds(Say, **config, parts=st.tuples(st.integers(0, 9))),  # type: ignore[arg-type]
        st.builds(Deal),
    ]
    block = draw(st.one_of(*kinds, *([workflows(depth - 1)] if depth else [])))
    if draw(st.booleans()):
        block = block.named("own").with_side_effects("idempotent").with_retry(draw(policies.filter(is_retry)))
    return block


def is_retry(policy: object) -> bool:
    return isinstance(policy, RetryPolicy)


def options(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "reads": st.lists(st.sampled_from([*names, "$input"]), max_size=2),
            "store_as": st.just("kept"),
            "side_effects": st.sampled_from(["none", "non_idempotent"]),
            "timeout": st.none() | st.just(3.5),
            "recovery": st.fixed_dictionaries({BlockRuntimeError: st.tuples(policies, st.just(BubblePolicy()))}),
            "accept": st.just(["op.test_failed"]),
            "fallback": st.sampled_from(names),
            "optional": st.booleans(),
            "lane": st.just("ControlLane"),
            "extra": st.just({"note": [1]}),
        },
    )


@settings(max_examples=60, deadline=None)
@given(workflows())
def test_a_workflow_read_from_its_definition_is_the_same_and_says_the_same(workflow: Workflow) -> None:
    told = workflow.to_definition()
    travelled = decode_value(encode_value(BlockValue.of(told)))
    again = read(travelled)
    assert again.to_definition() == told
    assert again.describe() == workflow.describe()
    assert essence(again) == essence(workflow)


def essence(workflow: Workflow) -> Any:
    """What a run depends on, beyond what `describe` shows."""
    limits = workflow.max_steps, workflow.max_parallel, workflow.attempt_timeout
    nodes = [
        (
            *(node.name, node.options, node.read_keys, node.store_key, node.variant().config()),
            *(node.variant().block_name, node.variant().get_policy_stack(BlockRuntimeError)),
            essence(inner) if isinstance(inner := node.variant(), Workflow) else None,
        )
        for node in workflow.wiring.nodes.values()
    ]
    return workflow.block_name, limits, workflow.seed, workflow.propagate, workflow.wiring.output, nodes


async def test_what_was_read_runs_like_what_was_written() -> None:
    inner = Workflow("inner").link(Deal(), Say(words="deep", tone=Tone.LOUD), Say(words="x"), pick=None)
    inner.set_output("say")
    workflow = Workflow("w").link(Say(words="a"), inner)
    again = read(workflow.to_definition())
    first, second = await respond(workflow), await respond(again)
    assert (first.data, dict(first.metadata)) == (second.data, dict(second.metadata))
    assert second.data.payload == "DEEP"
    nested = again.nested()[0]
    assert isinstance(nested, ChildWorkflow)


def test_operation_blocks_travel_with_their_parameters() -> None:
    registry = builtin_registry()
    block = registry.create("tool_invoke", {"tool": "git.add", "paths": ["a"], "odd": 1})
    told = Workflow("w").add(block).to_definition()
    assert told["nodes"][0]["config"] == {"tool": "git.add", "paths": ["a"], "odd": 1}
    assert read(told, registry).to_definition() == told


# -- what cannot travel ---------------------------------------------------------------------------------------------


class Mine(BlockInputError):
    """An author's own class."""


class Odd(Policy):
    """Not the engine's."""


def holding_itself() -> Workflow:
    outer, inner = Workflow("outer"), Workflow("inner")
    return outer.link(Say(), inner.add(outer))


CODE: dict[str, tuple[Callable[[], Workflow], str]] = {
    "local block": (lambda: Workflow("w").add(step("a")), "'a'.*Step holds functions"),
    "condition": (
        lambda: Workflow("w").branch(Say(), when(lambda r: True, Say())),
        "'say'.*register it by name, or use case",
    ),
    "repair": (
        lambda: Workflow("w").add(Say().with_recovery({BlockInputError: [RepairPolicy(lambda r, f: r)]})),
        "'say'.*the repair of its recovery",
    ),
    "policy": (lambda: Workflow("w").add(Say().with_recovery({BlockInputError: [Odd()]})), "holds a Odd"),
    "error class": (lambda: Workflow("w").add(Say().with_recovery({Mine: []})), "names the class Mine"),
    "extra": (lambda: Workflow("w").configure(Say(), extra={"x": object()}), "extra: a object cannot travel"),
    "itself": (holding_itself, "contains itself"),
    "nested": (lambda: Workflow("w").add(Workflow("inner").add(step("deep"))), "'deep'"),
    "broken": (lambda: read({"nodes": [{"name": "a", "type": "gone"}]}), "no block type 'gone'"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_not_exportable_and_the_message_names_the_node(name: str) -> None:
    build, told = CODE[name]
    with pytest.raises(BlockDefinitionError, match=told) as caught:
        build().to_definition()
    assert caught.value.code == "definition.not_exportable"


# -- what is wrong with a definition ----------------------------------------------------------------------------------


def definition(**changes: Any) -> dict[str, Any]:
    nodes = [{"name": "a", "type": "say"}, {"name": "b", "type": "say"}]
    return {"name": "w", "nodes": nodes, "links": [{"source": "a", "target": "b"}], **changes}


def with_node(**changes: Any) -> dict[str, Any]:
    return definition(nodes=[{"name": "a", "type": "say"}, {"name": "b", "type": "say", **changes}])


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown type": (with_node(type="sya"), "validation.block_unavailable", "b"),
    "another version": (with_node(version="9"), "validation.block_unavailable", "b"),
    "ill-typed config": (with_node(config={"words": 5}), "validation.bad_config", "b"),
    "unknown config": (with_node(config={"wrods": "x"}), "validation.bad_config", "b"),
    "the block's own code": (with_node(config={"words": "refused"}), "demo.words", "b"),
    "timeout": (with_node(timeout=0), "validation.bad_config", "b"),
    "retry": (with_node(retry={"max_attempts": 0}), "validation.bad_config", "b"),
    "policy": (with_node(recovery=[{"error": "BlockError", "policies": [{"policy": "pray"}]}]), "validation.bad_config", "b"),
    "error class": (with_node(recovery=[{"error": "OSError", "policies": []}]), "validation.bad_config", "b"),
    "child": (with_node(type="child_workflow", config={"definition": 5}), "validation.bad_config", "b"),
    "linked twice": (definition(links=[{"source": "a", "target": "b"}] * 2), "validation.duplicate_source", "b"),
    "unknown target": (definition(links=[{"source": "a", "target": "c"}], entry="a"), "graph.unknown_target", "a"),
    "case without target": (definition(links=[], branches=[{"source": "a", "cases": [{}]}], entry="a"), "graph.missing_target", "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_inside_a_definition_is_exactly_one_issue_and_nothing_runs(name: str) -> None:
    told, code, path = FAULTS[name]
    workflow = read(told)
    assert [(issue.code, issue.node_path) for issue in workflow.issues() if issue.is_error] == [(code, path)]
    response = await respond(workflow)
    assert (response.code, response.metadata["phase"]) == (code, "plan")


@pytest.mark.parametrize("name", ["unknown type", "ill-typed config", "linked twice"])
def test_a_fault_in_a_nested_definition_has_the_path_in_front(name: str) -> None:
    told, code, path = FAULTS[name]
    outer = {"nodes": [{"name": "in", "type": "child_workflow", "config": {"definition": told}}]}
    assert [(issue.code, issue.node_path) for issue in read(outer).issues() if issue.is_error] == [(code, f"in/{path}")]


def test_a_type_of_a_skipped_pack_is_reported_with_pack_and_code() -> None:
    registry = BlockRegistry()
    registry.note_skipped("say", "chatter", "plugin.checksum")
    issue = read(definition(links=[], entry="a"), registry).issues()[0]
    assert issue.code == "validation.block_unavailable"
    assert issue.record()["details"] == {"pack": "chatter", "skip_code": "plugin.checksum"}
    assert "'chatter'" in issue.message
    registry.register(Say)
    assert registry.skipped("say") is None
    assert read(definition(), registry).issues() == ()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (5, "it must be a map"),
        ({"nodes": {1, 2}}, "cannot travel"),
        ({"nodes": "a"}, "nodes must be a list, not str"),
        ({"nodes": ["a"]}, "nodes must be a list of maps"),
        ({"nodes": [{"type": "say"}]}, "name must be a str, not NoneType"),
        ({"max_steps": True}, "max_steps must be a int, not bool"),
        (with_node(accept=[1]), "accept must be a list of texts"),
        (definition(branches=[{"source": "a", "cases": [{"target": "b", "condition": {"is": 1}}]}]), "key, equals and"),
    ],
)
def test_what_is_no_definition_is_refused_at_once(told: Any, why: str) -> None:
    with pytest.raises(BlockValidationError, match=why) as caught:
        read(told)
    assert caught.value.code == "validation.bad_config"


def test_a_name_given_twice_is_refused_like_any_wiring() -> None:
    with pytest.raises(WorkflowWiringError, match=r"graph\.duplicate_name"):
        read({"nodes": [{"name": "a", "type": "say"}] * 2})


# -- child_workflow -------------------------------------------------------------------------------------------------


def child(**config: Any) -> Block:
    registry = copy.copy(REGISTRY)
    registry.override(ChildWorkflow)
    return registry.create("child_workflow", {"definition": definition(), **config})


async def test_a_child_workflow_has_the_contracts_side_effects_and_limits_of_what_is_inside() -> None:
    block = child(timeout_ms=1500, retry={"max_attempts": 2})
    assert (str(block.input_contract), block.side_effects.value) == (str(multiple()), "none")
    assert block.output_contract == once()
    assert (block.attempt_timeout, block.get_policy_stack(BlockRuntimeError)) == (1.5, (RetryPolicy(max_attempts=2),))
    workflow = Workflow("w").link(Say(words="start"), block)
    assert [node["name"] for node in workflow.describe()["nodes"]] == ["say", "w"]
    assert (await respond(workflow)).data.payload == "hi"


@pytest.mark.parametrize("config", [{"timeout_ms": "x"}, {"timeout_ms": 0}, {"retry": {"tries": 1}}, {"limit": 1}])
def test_a_child_workflow_judges_its_config(config: dict[str, Any]) -> None:
    with pytest.raises(BlockValidationError, match=r"validation\.bad_config"):
        child(**config)
