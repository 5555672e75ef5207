"""Two traces side by side: each class alone, what counts and what does not, and the laws of comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.events.facts import Comparison, Divergence
from runtime.kernel.canonical import digest
from runtime.kernel.errors import Refused
from runtime.replay.compare import MAX_DIVERGENCES, compare
from runtime.replay.cursor import Resumed, resume
from runtime.replay.plans import PlanTrace, plan_differences
from runtime.replay.policy import CLASSES, Expected, FailPolicy
from runtime.replay.trace import AttemptTrace, DecisionTrace, OperationTrace, QuestionTrace, Trace

BLOCKS: dict[str, dict[str, Any]] = {
    "look": {"type": "run_tests", "test_paths": ["tests"]},
    "ask": {"type": "llm_call", "prompt": "what now?"},
    "write": {"type": "tool_invoke", "tool": "filesystem.write_file"},
    "tell": {"type": "template", "template": "done"},
}
#: look -> ask -> write, and look -> tell beside them.
AFTER = {"look": (), "ask": ("look",), "write": ("ask",), "tell": ("look",)}


def plan(
    blocks: dict[str, dict[str, Any]] = BLOCKS, after: dict[str, tuple[str, ...]] = AFTER, **changes: Any
) -> PlanTrace:
    """A plan document as far as comparison reads it; ``changes`` go into the contract or the definition."""
    definition: dict[str, Any] = {
        "mission": "m", "blocks": blocks, "envelope": {"allowed_tools": ["a"], "max_budget_usd": 1}
    }  # fmt: skip
    definition |= changes.pop("definition", {})
    nodes = [
        {"node_id": n, "block_type": b["type"], "lane": "DataLane", "after": after.get(n, ())}
        for n, b in blocks.items()
    ]
    contract = {
        "mission_hash": digest([definition, after, changes.get("files", {})]), "files": {}, "inputs": {"goal": "x"},
        "behaviour_version": "1", "confinement": "A", "workspace": {"kind": "git"}, "nodes": nodes, "max_steps": 9,
    }  # fmt: skip
    outer = {"contract": {**contract, **changes}, "graph_definition_ref": "x", "execution_profile": "mission/v1"}
    opened = {"baseline_commit": "c0", "governance_hash": "none", "protected_hash": "p"}
    return PlanTrace(
        document={"contract": outer, "snapshot_provenance": {}}, definition=definition, opened=opened, seq=1
    )


def operation(step: str, **changes: Any) -> OperationTrace:
    members: dict[str, Any] = {
        "operation_id": f"{step}.0", "number": 1, "type": "tool_invoke", "status": "success", "code": None,
        "params": f"params {step}", "output": f"output {step}", "effect": "read", "before": "s0", "after": "s0",
        "seq": 20,
    }  # fmt: skip
    return OperationTrace(**{**members, **changes})


def attempt(step: str, seq: int, **changes: Any) -> AttemptTrace:
    members: dict[str, Any] = {
        "key": (step, 1, 1, 1), "block_type": BLOCKS.get(step, {}).get("type", "template"), "input": f"in {step}",
        "order": tuple((name, 1) for name in AFTER.get(step, ())), "status": "completed", "output": f"out {step}",
        "duration_ms": 100, "operations": (operation(step, seq=seq + 1),), "seq": seq,
    }  # fmt: skip
    return AttemptTrace(**{**members, **changes})


MODEL = {"provider": "openai", "model": "m-1", "type": "llm_call"}


def trace(**changes: Any) -> Trace:
    """A finished run of four steps."""
    members: dict[str, Any] = {
        "run_id": "run-1",
        "plan": plan(),
        "attempts": (
            attempt("look", 10),
            attempt("ask", 20, operations=(operation("ask", seq=21, **MODEL),)),
            attempt("tell", 30, operations=()),
            attempt("write", 40, questions=(QuestionTrace(question="write.ask0", subject="s", resolution="approved"),)),
        ),
        "decisions": (
            DecisionTrace(name="admit", reason="room", by="admission", epoch=3, seq=2),
            DecisionTrace(name="commit", by="arbiter", epoch=3, seq=60),
        ),
        "code_version": "1.0",
    }
    return Trace(**{**members, **changes})


BASE = trace()


def change(step: str, **changes: Any) -> Trace:
    """The base with one attempt changed."""
    return replace(BASE, attempts=tuple(replace(a, **changes) if a.step_id == step else a for a in BASE.attempts))


def operated(step: str, **changes: Any) -> Trace:
    """The base with one operation changed."""
    found = next(item for item in BASE.attempts if item.step_id == step)
    return change(step, operations=(replace(found.operations[0], **changes),))


def kinds(found: Comparison) -> list[tuple[str, str | None, str]]:
    return [(item.kind.removesuffix("_DIVERGENCE"), item.step_id, item.field) for item in found.divergences]


def test_a_trace_equals_itself() -> None:
    found = compare(BASE, BASE)
    assert (found.equivalent, found.divergences, found.first, found.drift) == (True, (), None, None)
    assert [(pair.step_id, pair.kind) for pair in found.steps] == [
        ("look", None), ("ask", None), ("tell", None), ("write", None),
    ]  # fmt: skip


ALONE: list[tuple[Trace, tuple[str, str | None, str], tuple[str, ...]]] = [
    # the other side; class, step, field; what is behind it
    (operated("look", output="other"), ("OUTCOME", "look", "output"), ("ask", "write", "tell")),
    (operated("look", params="other"), ("OUTCOME", "look", "params"), ("ask", "write", "tell")),
    (operated("write", status="escalated", code="ENV_TOOL"), ("OUTCOME", "write", "status"), ()),
    (operated("write", code="RECOVERED"), ("OUTCOME", "write", "code"), ()),
    (operated("write", after="s1"), ("OUTCOME", "write", "after"), ()),
    (operated("write", undo="verified"), ("OUTCOME", "write", "undo"), ()),
    (operated("ask", prompt="other"), ("OUTCOME", "ask", "prompt"), ("write",)),
    (operated("ask", provider="scripted"), ("PROVIDER_CHOICE", "ask", "provider"), ("write",)),
    (change("tell", output="other"), ("OUTCOME", "tell", "output"), ()),
    (change("tell", status="failed", code="x.y", output=None), ("OUTCOME", "tell", "status"), ()),
    (change("tell", status=None, output=None), ("OUTCOME", "tell", "status"), ()),
    (change("ask", accepted=True), ("OUTCOME", "ask", "accepted"), ("write",)),
    (change("look", input="other"), ("OUTCOME", "look", "input"), ("ask", "write", "tell")),
    (change("look", operations=()), ("OUTCOME", "look", "operation"), ("ask", "write", "tell")),
    (change("tell", operations=(operation("tell"),)), ("OUTCOME", "tell", "operation"), ()),
    (change("write", questions=()), ("OUTCOME", "write", "question"), ()),
    (change("write", questions=(QuestionTrace(question="write.ask0", subject="s", resolution="rejected"),)),
     ("OUTCOME", "write", "answer"), ()),
    (change("write", order=(("ask", 2),)), ("ORDERING", "write", "order.ask"), ()),
    (replace(BASE, attempts=BASE.attempts[:3]), ("OUTCOME", "write", "attempt"), ()),
    (replace(BASE, attempts=(*BASE.attempts, attempt("tell", 50, key=("tell", 1, 1, 2)))), ("OUTCOME", "tell", "attempt"), ()),
    (replace(BASE, decisions=(BASE.decisions[0], DecisionTrace(name="abort", reason="cancelled", by="arbiter", epoch=3))),
     ("OUTCOME", None, "decision"), ()),
    (replace(BASE, decisions=BASE.decisions[:1]), ("OUTCOME", None, "decision"), ()),
    (replace(BASE, decisions=(BASE.decisions[0], replace(BASE.decisions[1], epoch=4))),
     ("AUTHORITY", None, "authority_epoch"), ()),
]  # fmt: skip


@pytest.mark.parametrize(("other", "expected", "downstream"), ALONE)
def test_each_difference_alone(
    other: Trace, expected: tuple[str, str | None, str], downstream: tuple[str, ...]
) -> None:
    found = compare(BASE, other)
    assert not found.equivalent
    assert kinds(found) == [expected]
    assert found.first == found.divergences[0]
    assert found.downstream == downstream


def test_the_first_difference_is_the_earliest_step_and_the_worst_class_of_it() -> None:
    other = replace(
        operated("ask", provider="scripted", output="other"),
        decisions=(BASE.decisions[0], replace(BASE.decisions[1], epoch=9)),
    )
    other = replace(
        other,
        attempts=tuple(replace(a, order=(("look", 2),)) if a.step_id in ("ask", "tell") else a for a in other.attempts),
    )
    found = compare(BASE, other)
    assert kinds(found) == [
        ("PROVIDER_CHOICE", "ask", "provider"),
        ("OUTCOME", "ask", "output"),
        ("ORDERING", "ask", "order.look"),
        ("ORDERING", "tell", "order.look"),
        ("AUTHORITY", None, "authority_epoch"),
    ]
    assert {pair.step_id: pair.kind for pair in found.steps}["ask"] == "PROVIDER_CHOICE_DIVERGENCE"


def test_what_follows_a_difference_is_no_difference_of_its_own() -> None:
    """An input made of another output explains itself, and so does a step that did not run behind one that failed."""
    failed = change("ask", status="failed", code="op.x", output=None)
    other = replace(failed, attempts=failed.attempts[:3])
    assert kinds(compare(BASE, other)) == [("OUTCOME", "ask", "status")]
    passed_on = operated("look", output="other")
    attempts = tuple(a if a.step_id == "look" else replace(a, input="changed") for a in passed_on.attempts)
    assert kinds(compare(BASE, replace(passed_on, attempts=attempts))) == [("OUTCOME", "look", "output")]


def test_versions_are_drift_unless_the_answer_differs_too() -> None:
    for other in (replace(BASE, code_version="2.0"), operated("ask", model="m-2")):
        found = compare(BASE, other)
        assert (found.equivalent, found.divergences, found.drift) == (True, (), "version_drift")
    found = compare(BASE, operated("ask", model="m-2", output="other"))
    assert kinds(found) == [("PROVIDER_CHOICE", "ask", "provider"), ("OUTCOME", "ask", "output")]


def test_times_count_only_for_a_tolerance_and_two_real_runs() -> None:
    slower = change("look", duration_ms=116)
    assert compare(BASE, slower).equivalent
    assert compare(BASE, slower, policy=FailPolicy(tolerance_ms=16)).equivalent
    found = compare(BASE, slower, policy=FailPolicy(tolerance_ms=15))
    assert kinds(found) == [("TIMING", "look", "duration")]
    assert found.divergences[0].diff_ms == 16
    assert not compare(BASE, change("look", duration_ms=101), policy=FailPolicy(tolerance_ms=-5)).equivalent
    assert compare(BASE, replace(slower, stored=False), policy=FailPolicy(tolerance_ms=0)).equivalent


def test_epochs_of_two_runs_count_from_their_own_beginning() -> None:
    later = replace(BASE, run_id="run-2", decisions=tuple(replace(d, epoch=9) for d in BASE.decisions))
    assert compare(BASE, later).equivalent
    assert not compare(BASE, replace(later, run_id="run-1")).equivalent


def test_reused_steps_are_compared_by_what_they_gave() -> None:
    reused = change("look", operations=(), reused_from="run-0")
    found = compare(BASE, reused)
    assert found.equivalent
    assert found.steps[0].reused_from == "run-0"


def test_lists_are_bounded_and_what_is_beyond_is_counted() -> None:
    many = tuple(attempt("look", 10 + n, key=("look", 1, 1, n), output="a") for n in range(1, MAX_DIVERGENCES + 8))
    other = tuple(replace(item, output="b") for item in many)
    found = compare(replace(BASE, attempts=many), replace(BASE, attempts=other))
    assert (len(found.divergences), found.truncated) == (MAX_DIVERGENCES, 7)


# -- plans -------------------------------------------------------------------------------------------------------


def blocks(**changes: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    merged = {**BLOCKS, **changes}
    return {name: block for name, block in merged.items() if block is not None}


PLANS: list[tuple[PlanTrace, str | None, str]] = [
    (plan(blocks(ask={"type": "llm_call", "prompt": "and now?"})), "ask", "blocks.ask.prompt"),
    (plan(blocks(tell=None)), "tell", "blocks.tell"),
    (plan(blocks(more={"type": "template"}), {**AFTER, "more": ("tell",)}), "more", "blocks.more"),
    (plan(after={**AFTER, "tell": ("ask",)}), "tell", "links.tell"),
    (plan(definition={"branches": {"ask": [{"otherwise": "write"}]}}), "ask", "branches.ask"),
    (plan(definition={"on_error": {"ask": "tell"}}), "ask", "on_error.ask"),
    (plan(definition={"envelope": {"allowed_tools": ["a", "b"], "max_budget_usd": 1}}), None, "envelope.allowed_tools"),
    (plan(definition={"envelope": {"allowed_tools": ["a"], "max_budget_usd": 2}}), None, "envelope.max_budget_usd"),
    (plan(definition={"budgets": {"calls": 3}}), None, "budgets"),
    (plan(inputs={"goal": "y"}), None, "input.goal"),
    (plan(behaviour_version="2"), None, "behaviour_version"),
    (plan(max_steps=10), None, "max_steps"),
    (plan(mission_hash="other"), None, "mission"),
    (replace(BASE.plan, opened={**BASE.plan.opened, "governance_hash": "g"}), None, "governance_hash"),
    (replace(BASE.plan, opened={**BASE.plan.opened, "baseline_commit": "c1"}), None, "baseline_commit"),
]


@pytest.mark.parametrize(("other", "step", "field"), PLANS)
def test_a_plan_that_differs_is_told_where(other: PlanTrace, step: str | None, field: str) -> None:
    (found,) = plan_differences(BASE.plan, other)
    assert (found.step_id, found.field) == (step, field)
    assert found.expected != found.actual
    comparison = compare(BASE, replace(BASE, plan=other))
    assert kinds(comparison) == [("PLAN", step or "look", field)]
    assert comparison.divergences[0].scope == (f"step:{step}" if step else "turn:run-1")


def test_machines_differ_without_making_a_difference() -> None:
    assert plan_differences(BASE.plan, plan(confinement="D")) == ()
    private = {"workspace": {"kind": "git", "from": "files"}}
    one = replace(plan(**private), opened={**BASE.plan.opened, "baseline_commit": "c1"})
    assert plan_differences(plan(**private), one) == (), "the first commit of a private copy is made anew"


# -- where it begins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "other", "place", "expected"),
    [
        ("abc", "abc", "b", Resumed(1, 1, moved=False)),
        ("abc", "xxabc", "b", Resumed(1, 3, moved=False)),
        ("abc", "axc", "b", Resumed(1, 1, moved=True)),
        ("abc", "a", "c", Resumed(2, 1, moved=True)),
        ("abc", "", "a", Resumed(0, 0, moved=True)),
    ],
)
def test_a_cursor_in_every_presence(base: str, other: str, place: str, expected: Resumed) -> None:
    assert resume(base, other, place) == expected


def test_a_cursor_the_base_does_not_have_is_an_error() -> None:
    for other in ("abc", "xyz"):
        with pytest.raises(Refused, match="replay_cursor_not_found"):
            resume("abc", other, "x")
    with pytest.raises(Refused, match="replay_cursor_not_found"):
        compare(BASE, BASE, from_step="nowhere")


def test_comparing_from_a_step_leaves_out_what_came_before() -> None:
    other = operated("look", output="other")
    assert compare(BASE, other, from_step="ask").equivalent
    assert not compare(BASE, other, from_step="look").equivalent
    swapped = replace(BASE, attempts=tuple(BASE.attempts[index] for index in (0, 2, 1, 3)))
    assert compare(BASE, swapped, from_step="tell").equivalent, "siblings have no order"
    moved = compare(BASE, replace(BASE, attempts=BASE.attempts[:3]), from_step="write")
    assert kinds(moved) == [("ORDERING", "write", "cursor")]


# -- policy ------------------------------------------------------------------------------------------------------


def difference(kind: str, scope: str = "step:a", diff_ms: int | None = None) -> Divergence:
    return Divergence(kind=f"{kind}_DIVERGENCE", scope=scope, field="f", detail="d", diff_ms=diff_ms)


POLICY: list[tuple[Divergence, FailPolicy, bool]] = [
    # the difference, the policy, does it fail
    *((difference(kind), FailPolicy(), True) for kind in ("PLAN", "OUTCOME", "PROVIDER_CHOICE", "AUTHORITY", "ORDERING")),
    *((difference(k), FailPolicy((Expected(f"{k}_DIVERGENCE", "step:a"),)), False) for k in ("PLAN", "OUTCOME", "PROVIDER_CHOICE")),
    (difference("PLAN"), FailPolicy((Expected("PLAN_DIVERGENCE"),)), False),
    (difference("PLAN"), FailPolicy((Expected("PLAN_DIVERGENCE", "step:b"),)), True),
    (difference("PLAN"), FailPolicy((Expected("OUTCOME_DIVERGENCE", "step:a"),)), True),
    (difference("AUTHORITY"), FailPolicy((Expected("AUTHORITY_DIVERGENCE", approved=True),)), True),
    (difference("ORDERING"), FailPolicy((Expected("ORDERING_DIVERGENCE"),)), True),
    (difference("ORDERING"), FailPolicy((Expected("ORDERING_DIVERGENCE", approved=True),)), False),
    (difference("TIMING", diff_ms=15), FailPolicy(tolerance_ms=15), False),
    (difference("TIMING", diff_ms=16), FailPolicy(tolerance_ms=15), True),
    (difference("TIMING", diff_ms=None), FailPolicy(tolerance_ms=15), True),
    (difference("TIMING", diff_ms=0), FailPolicy(tolerance_ms=-1), False),
    (difference("TIMING", "invocation_latency_final:x", 1), FailPolicy(tolerance_ms=15), True),
    (difference("TIMING", "invocation_latency_total:x", 1), FailPolicy(tolerance_ms=15), True),
    (difference("SURPRISE"), FailPolicy((Expected("SURPRISE_DIVERGENCE", approved=True),)), True),
]  # fmt: skip


@pytest.mark.parametrize(("found", "policy", "fails"), POLICY)
def test_which_differences_fail(found: Divergence, policy: FailPolicy, fails: bool) -> None:
    assert bool(policy.failing([found])) is fails


def test_an_expected_difference_that_does_not_appear_fails() -> None:
    policy = FailPolicy((Expected.parse("outcome@operation:look.0"),))
    assert compare(BASE, operated("look", output="other"), policy=policy).equivalent
    found = compare(BASE, BASE, policy=policy)
    assert not found.equivalent
    assert kinds(found) == [("OUTCOME", None, "expected")]


@pytest.mark.parametrize("text", ["", "step:a", "wrong@step:a"])
def test_an_expectation_must_name_a_class(text: str) -> None:
    with pytest.raises(Refused, match="REPLAY_EXPECTED"):
        Expected.parse(text)
    assert Expected.parse("OUTCOME_DIVERGENCE") == Expected.parse("outcome")


# -- laws --------------------------------------------------------------------------------------------------------

NAMES = ("look", "ask", "write", "tell")
WORDS = st.sampled_from(("a", "b"))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """A run of the same plan, with anything about it drawn from two possibilities."""
    attempts = []
    for index, name in enumerate(draw(st.lists(st.sampled_from(NAMES), unique=True))):
        count = draw(st.integers(0, 2))
        found = tuple(
            operation(name, operation_id=f"{name}.{n}", output=draw(WORDS), status=draw(st.sampled_from(("success", "failed"))),
                      provider=draw(WORDS), seq=None)
            for n in range(count)
        )  # fmt: skip
        status = draw(st.sampled_from(("completed", "failed", None)))
        item = attempt(name, 10 * index, status=status, output=draw(WORDS), input=draw(WORDS), operations=found)
        attempts.append(replace(item, order=tuple((other, draw(st.integers(0, 1))) for other in AFTER[name])))
    decisions = tuple(
        DecisionTrace(name=draw(st.sampled_from(("commit", "abort"))), epoch=draw(st.integers(1, 2)))
        for _ in range(draw(st.integers(0, 2)))
    )
    return trace(attempts=tuple(attempts), decisions=decisions)


def told(found: Sequence[Divergence], *, swapped: bool = False) -> list[tuple[Any, ...]]:
    sides = [(item.actual, item.expected) if swapped else (item.expected, item.actual) for item in found]
    rows = [(item.kind, item.scope, item.field, *pair) for item, pair in zip(found, sides, strict=True)]
    return sorted(rows, key=str)


@settings(max_examples=40, deadline=None)
@given(traces(), traces())
def test_comparing_is_reflexive_symmetric_and_ordered(one: Trace, two: Trace) -> None:
    assert compare(one, one).equivalent
    there, back = compare(one, two), compare(two, one)
    assert there.equivalent == back.equivalent == (not there.divergences)
    both = {item.key for item in one.attempts} & {item.key for item in two.attempts}
    shared = {key[0] for key in both}

    def twins(found: Comparison) -> list[Divergence]:
        return [
            item
            for item in found.divergences
            if item.field not in ("attempt", "input") and (item.step_id in shared or item.step_id is None)
        ]

    assert told(twins(there)) == told(twins(back), swapped=True), "what differs does not depend on who is the base"
    assert {pair.step_id for pair in there.steps} == {pair.step_id for pair in back.steps}
    places = {item.step_id: index for index, item in enumerate(one.attempts)}
    known = [item for item in there.divergences if item.step_id in places]
    order = [(places[str(item.step_id)], CLASSES.index(item.kind)) for item in known]
    assert order == sorted(order), "in the base's order, the worst class of a step first"
