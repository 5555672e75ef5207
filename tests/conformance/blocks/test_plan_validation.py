"""Every problem is found before anything runs, all at once, in a stable order (blocks spec §10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime.blocks.conditions import otherwise, when
from runtime.blocks.contracts import multiple, once, recurring
from runtime.blocks.errors import WorkflowValidationFailed
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Step, respond, step, tagged


def spy() -> Step:
    return step("spy")


def looped() -> Workflow:
    a, b = step("a"), step("b")
    return Workflow("w").link(spy(), a).link(a, b).link(b, a)


def self_linked() -> Workflow:
    a = spy()
    return Workflow("w").link(a, a)


def recursive() -> Workflow:
    outer, inner = Workflow("outer"), Workflow("inner")
    return outer.link(spy(), inner.add(outer))


def joined() -> Workflow:
    end = step("end", takes=once())
    start = spy()
    return Workflow("w").link(start, step("a")).link(start, step("b")).link("a", end).link("b", end)


def nested_stream() -> Workflow:
    return Workflow("w").link(spy(), Workflow("inner").add(stream()))


def stream() -> Step:
    return step("stream", gives=recurring())


def transitions(table: Any) -> Workflow:
    return Workflow.from_transitions("w", {"spy": spy(), "b": step("b")}, "spy", table)


def imported(**changes: Any) -> Workflow:
    """A workflow from a definition of two echoing blocks."""
    nodes = [{"name": "a", "type": "echo"}, {"name": "b", "type": "echo", **changes.pop("b", {})}]
    links = [{"source": "a", "target": "b"}]
    return Workflow.from_definition({"name": "w", "nodes": nodes, "links": links, **changes}, registry())


def registry() -> BlockRegistry:
    known = builtin_registry()
    known.note_skipped("lost", "a_pack", "plugin.checksum")
    return known


GRAPHS: dict[str, tuple[Callable[[], Workflow], str, str]] = {
    "empty": (lambda: Workflow("w"), "graph.no_entry", ""),
    "two loose blocks": (lambda: Workflow("w").add(spy()).add(step("b")), "graph.no_entry", ""),
    "entry unknown": (lambda: Workflow("w").add(spy()).set_entry("gone"), "graph.unknown_entry", "gone"),
    "source unknown": (lambda: Workflow("w").add(spy()).set_entry("spy").link("gone", "spy"), "graph.unknown_source", "gone"),
    "target unknown": (lambda: Workflow("w").link(spy(), "gone"), "graph.unknown_target", "spy"),
    "handler unknown": (lambda: Workflow("w").on_error(spy(), "gone"), "graph.unknown_target", "spy"),
    "fallback unknown": (lambda: Workflow("w").add(spy()).configure("spy", fallback="gone"), "graph.unknown_target", "spy"),
    "no case": (lambda: Workflow("w").branch(spy()), "graph.missing_target", "spy"),
    "case without target": (lambda: transitions({"spy": [{"condition": "x"}]}), "graph.missing_target", "spy"),
    "bad transition": (lambda: transitions({"spy": 7}), "graph.bad_transition", "spy"),
    "type unknown": (lambda: imported(b={"type": "ecko"}), "validation.block_unavailable", "b"),
    "type of a skipped pack": (lambda: imported(b={"type": "lost"}), "validation.block_unavailable", "b"),
    "fan-out in routed": (
        lambda: Workflow("w").link(spy(), step("a")).link("spy", step("b")).branch("a", otherwise("b")),
        "graph.mixed_discipline",
        "spy",
    ),
    "link and branch": (
        lambda: Workflow("w").branch(spy(), otherwise(step("a"))).link("spy", "a"),
        "graph.mixed_discipline",
        "spy",
    ),
    "pick in routed": (
        lambda: Workflow("w").link(step("m", gives=multiple()), spy(), pick=0).branch("spy", otherwise(step("a"))),
        "graph.mixed_discipline",
        "m",
    ),
    "cycle": (looped, "graph.cycle", "a"),
    "self link": (self_linked, "graph.cycle", "spy"),
    "default first": (
        lambda: Workflow("w").branch(spy(), otherwise(step("a")), when(lambda r: True, step("b"))),
        "graph.default_not_last",
        "spy",
    ),
    "recursion": (recursive, "graph.recursive_workflow", "inner/outer"),
    "condition": (
        lambda: Workflow("w").branch(spy(), when("no such condition", step("a")), otherwise("a")),
        "graph.condition_unresolved",
        "spy",
    ),
    "unreachable source": (
        lambda: Workflow("w").add(spy()).set_entry("spy").link(step("a"), step("b")),
        "validation.source_unreachable",
        "a",
    ),
    "linked twice": (
        lambda: imported(links=[{"source": "a", "target": "b"}] * 2),
        "validation.duplicate_source",
        "b",
    ),
    "too many sources": (joined, "validation.mode_mismatch", "end"),
    "stream not entry": (lambda: Workflow("w").link(spy(), stream()), "validation.recurring_not_entry", "stream"),
    "stream nested": (nested_stream, "validation.recurring_nested", "inner/stream"),
    "stream as handler": (lambda: Workflow("w").on_error(spy(), stream()), "validation.recurring_handler", "stream"),
    "pick on some": (
        lambda: Workflow("w").link(step("m", gives=multiple()), spy(), pick=0).link("m", step("b")),
        "validation.bad_pick",
        "m",
    ),
    "pick on one value": (lambda: Workflow("w").link(spy(), step("b"), pick=0), "validation.bad_pick", "spy"),
    "known count": (
        lambda: Workflow("w").link(step("m", gives=multiple(), count=3), spy()).link("m", step("b")),
        "validation.fanout_mismatch",
        "m",
    ),
    "pick out of range": (
        lambda: Workflow("w").link(step("m", gives=multiple(), count=3), spy(), pick=3),
        "validation.fanout_mismatch",
        "m",
    ),
    "kinds": (lambda: Workflow("w").link(step("a", gives=once("int")), step("b", takes=once("string"))), "validation.kind_mismatch", "b"),
    "list of one successor": (
        lambda: Workflow("w").link(step("a", gives=multiple("string")), step("b", takes=once("string"))),
        "validation.kind_mismatch",
        "b",
    ),
    "accept makes a map": (
        lambda: Workflow("w").link(spy(), step("b", takes=once("string"))).configure("spy", accept=["op.test_failed"]),
        "validation.kind_mismatch",
        "b",
    ),
    "fallback takes the same input": (
        lambda: Workflow("w")
        .add(step("other", takes=once("string")))
        .link(step("a", gives=once("int")), spy())
        .configure("spy", fallback="other"),
        "validation.kind_mismatch",
        "other",
    ),
    "handler kind": (lambda: Workflow("w").on_error(spy(), step("h", takes=once("string"))), "validation.handler_kind_mismatch", "h"),
    "own handler": (lambda: Workflow("w").add(spy()).on_error("spy", "spy"), "graph.self_handler", "spy"),
    "unknown read": (lambda: Workflow("w").link(spy(), step("b")).configure("spy", reads=["b"]), "validation.unknown_read", "spy"),
    "max_steps": (lambda: Workflow("w", max_steps=0).add(spy()), "validation.bad_config", ""),
    "max_parallel": (lambda: Workflow("w", max_parallel=0).add(spy()), "validation.bad_config", ""),
    "block construction": (lambda: imported(b={"config": {"x": 1}}), "validation.bad_config", "b"),
    "the block's own code": (
        lambda: imported(b={"type": "template", "config": {"template": "{{"}}),
        "template.invalid",
        "b",
    ),
    "timeout in a definition": (lambda: imported(b={"timeout": -1}), "validation.bad_config", "b"),
    "own fallback": (lambda: Workflow("w").add(spy()).configure("spy", fallback="spy"), "validation.bad_config", "spy"),
    "never acceptable": (
        lambda: Workflow("w").add(spy()).configure("spy", accept=["op.selfmod_effect"]),
        "validation.bad_config",
        "spy",
    ),
    "nested": (lambda: Workflow("w").link(spy(), Workflow("inner")), "graph.no_entry", "inner/"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
async def test_each_fault_is_exactly_one_issue_and_nothing_runs(name: str) -> None:
    build, code, path = GRAPHS[name]
    workflow = build()
    errors = [issue for issue in workflow.issues() if issue.is_error]
    assert [(issue.code, issue.node_path) for issue in errors] == [(code, path)]
    response = await respond(workflow)
    assert not response.success
    assert (response.code, response.metadata["phase"]) == (code, "plan")
    own_code = name in ("own handler", "the block's own code")
    expected = "validation_failed" if code.startswith("validation.") or own_code else "invalid_graph"
    assert response.reason == ("condition_resolution_error" if name == "condition" else expected)
    assert response.metadata["side_effect_class"] == "none"
    assert response.details["issues"][0]["code"].payload == code
    for node in workflow.wiring.nodes.values():
        if isinstance(node.block, Step):
            assert node.block.calls == []
    with pytest.raises(WorkflowValidationFailed):
        workflow.validate()


#: Faults that are something else inside another workflow, which has an entry and a path of its own.
ONLY_OUTSIDE = {"recursion", "stream as entry", "stream not entry", "stream nested", "stream as handler"}


@pytest.mark.parametrize("name", sorted(GRAPHS.keys() - ONLY_OUTSIDE))
async def test_the_same_fault_in_a_nested_workflow_has_the_path_in_front_and_nothing_runs(name: str) -> None:
    build, code, path = GRAPHS[name]
    before, inner = spy(), build()
    outer = Workflow("outer").link(before, inner.named("inner"))
    assert [(issue.code, issue.node_path) for issue in outer.issues() if issue.is_error] == [(code, f"inner/{path}")]
    assert not (await respond(outer)).success
    assert before.calls == []


def test_every_code_of_the_table_has_a_graph() -> None:
    """P6's other two cannot happen: a link records edge and input together, and a reference is judged by its loader."""
    table = """
        graph.no_entry graph.unknown_entry graph.unknown_source graph.unknown_target graph.missing_target
        graph.bad_transition validation.block_unavailable graph.mixed_discipline graph.cycle graph.default_not_last
        graph.recursive_workflow graph.condition_unresolved validation.source_unreachable validation.duplicate_source
        validation.mode_mismatch validation.recurring_not_entry validation.recurring_nested
        validation.recurring_handler validation.bad_pick validation.fanout_mismatch validation.kind_mismatch
        validation.handler_kind_mismatch graph.self_handler validation.unknown_read validation.bad_config
    """
    assert {code for _, code, _ in GRAPHS.values()} == {*table.split(), "template.invalid"}


def test_an_issue_tells_programs_what_people_read() -> None:
    unavailable = GRAPHS["type of a skipped pack"][0]().issues()[0]
    assert unavailable.record()["details"] == {"pack": "a_pack", "skip_code": "plugin.checksum"}
    assert unavailable.message == "the block type 'lost' is in the pack 'a_pack', which was skipped: plugin.checksum"
    assert looped().issues()[0].record()["details"] == {"cycle": ("a", "b", "a")}


def test_independent_faults_are_all_reported_in_stage_order() -> None:
    workflow = Workflow("w").link(step("a", gives=once("int")), step("b", takes=once("string")))
    workflow.link("b", "gone").on_error("a", step("h", takes=once("bool"))).configure("b", reads=["nothing"])
    assert [issue.code for issue in workflow.issues()] == [
        "graph.unknown_target",
        "validation.kind_mismatch",
        "validation.handler_kind_mismatch",
        "validation.unknown_read",
    ]


def test_warnings_stop_nothing() -> None:
    workflow = Workflow("w").add(step("a")).set_entry("a").add(step("lonely"))
    workflow.branch("a", when(lambda response: True, step("b")))
    assert [(issue.code, issue.severity) for issue in workflow.issues()] == [
        ("graph.unreachable", "warning"),
        ("graph.no_default", "warning"),
    ]
    workflow.validate()


def test_handlers_and_fallbacks_are_not_unreachable() -> None:
    workflow = Workflow("w").on_error(step("a"), step("h")).add(step("f")).configure("a", fallback="f")
    assert workflow.issues() == ()


async def test_the_entry_value_is_gated_before_anything_runs() -> None:
    entry = step("a", takes=once("string"))
    workflow = Workflow("w").link(entry, step("b"))
    response = await respond(workflow, 5)
    assert (response.code, response.reason) == ("validation.entry_input", "validation_failed")
    with pytest.raises(WorkflowValidationFailed, match=r"validation\.entry_input"):
        workflow.start(5)
    assert (await respond(workflow, "x")).success


@pytest.mark.parametrize("key", ["$input", "limit", "early"])
def test_known_reads(key: str) -> None:
    workflow = Workflow("w", seed={"limit": 1}).link(step("a"), step("b")).configure("a", store_as="early")
    assert workflow.configure("b", reads=[key]).issues() == ()


def test_handlers_and_fallbacks_read_what_their_node_could() -> None:
    workflow = Workflow("w").link(step("a"), step("b")).on_error("b", step("h")).add(step("f"))
    workflow.configure("b", fallback="f").configure("h", reads=["a", "b"]).configure("f", reads=["a"])
    assert workflow.issues() == ()


async def test_a_plan_is_reused_until_the_wiring_changes_at_any_depth() -> None:
    inner = Workflow("inner").add(step("s"))
    workflow = Workflow("w").link(step("a"), inner)
    plan = workflow.plan()
    await respond(workflow)
    assert workflow.plan() is plan
    inner.link("s", tagged("more"))
    assert workflow.plan() is not plan
    assert (await respond(workflow)).data.payload == "more"


def test_a_large_chain_validates_quickly_and_without_recursion() -> None:
    workflow = Workflow("w")
    blocks = [step(f"n{index}") for index in range(2000)]
    workflow.link(*blocks)  # type: ignore[misc]
    assert workflow.issues() == ()
    assert len(workflow.plan().levels) == 2000
