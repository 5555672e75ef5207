"""The invariants of the block model (blocks spec §23), held against graphs nobody thought of.

A plan is drawn: up to seven nodes in a graph without cycles, or a walk with a bounded loop; what every attempt of every
node does is drawn, too, with its policies and its safety class. Everything the run did is then looked at from outside:
responses, events, ledger, calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.blocks.block import Block
from runtime.blocks.conditions import otherwise, when
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockRuntimeError, BlockSkip, BlockValidationError
from runtime.blocks.ledger import LedgerOpKind, replay
from runtime.blocks.policies import RepairPolicy, RetryPolicy
from runtime.blocks.running import DirectRunner, NodeCall
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.codes import known
from tests.support.blocks_kit import Events, failing, scope, step

#: What one attempt may do.
DEEDS = ("ok", "refuse", "fail", "harmless", "skip", "crash", "wrong_kind")


class Scripted(Block, local=True, input=multiple(), output=once("int", "null")):
    """Does what its script says, attempt by attempt, and goes on with the last deed."""

    script: tuple[str, ...]
    log: list[tuple[str, str]]
    effects: SideEffects | None
    done: list[int] = field(default_factory=list)

    @property
    def config_side_effects(self) -> SideEffects | None:
        return self.effects

    def _deed(self) -> str:
        return self.script[min(len(self.done), len(self.script) - 1)]

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        self.log.append((ctx.node_path, "validate"))
        if self._deed() == "refuse":
            self.done.append(1)
            raise BlockValidationError("demo.refused", "not this one")

    async def run(self, input: BlockValue, ctx: BlockContext) -> object:
        self.log.append((ctx.node_path, "run"))
        deed = self._deed()
        self.done.append(1)
        ctx.annotate("run_id", "forged")
        ctx.annotate("app.deed", deed)
        await asyncio.sleep(0)
        if deed == "fail":
            raise BlockRuntimeError("demo.broken", "broke")
        if deed == "harmless":
            raise BlockRuntimeError("demo.harmless", "broke before anything happened", effects="none")
        if deed == "skip":
            raise BlockSkip("nothing new")
        if deed == "crash":
            raise RuntimeError("out of paper")
        return "text" if deed == "wrong_kind" else len(self.done)


@dataclass(frozen=True)
class NodePlan:
    script: tuple[str, ...]
    effects: SideEffects | None
    policies: tuple[str, ...]
    handled: bool
    optional: bool


def node_plans() -> st.SearchStrategy[NodePlan]:
    # Mostly good deeds, or no run would get past its first node.
    deeds = st.one_of(st.just("ok"), st.just("ok"), st.sampled_from(DEEDS))
    return st.builds(
        NodePlan,
        st.lists(deeds, min_size=1, max_size=4).map(tuple),
        st.sampled_from([None, *SideEffects]),
        st.lists(st.sampled_from(["retry2", "retry3", "repair"]), max_size=3).map(tuple),
        st.booleans(),
        st.booleans(),
    )


@dataclass
class Watched:
    """One run and everything that could be seen of it."""

    workflow: Workflow
    events: Events
    log: list[tuple[str, str]]
    calls: list[NodeCall]
    responses: list[Response]
    blocks: list[Block]
    response: Response
    handlers: set[str]


class Watching(DirectRunner):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[NodeCall] = []
        self.responses: list[Response] = []
        self.images: list[tuple[Request, BlockValue, dict[str, Any]]] = []

    async def attempt(self, call: NodeCall) -> Response:
        self.calls.append(call)
        self.images.append((call.request, call.request.payload, dict(call.request.metadata)))
        response = await super().attempt(call)
        self.responses.append(response)
        return response


def same(request: Request, failure: Response) -> Request:
    return request


def _policies(names: Iterable[str]) -> tuple[object, ...]:
    return tuple(RepairPolicy(same) if name == "repair" else RetryPolicy(int(name[-1])) for name in names)


def build(plans: list[NodePlan], edges: list[tuple[int, int]], *, routed: bool, loops: int) -> tuple[Any, ...]:
    log: list[tuple[str, str]] = []
    blocks = [Scripted(script=plan.script, log=log, effects=plan.effects) for plan in plans]
    workflow = Workflow("drawn", max_steps=9, max_parallel=3)
    handlers: set[str] = set()
    for index, (block, plan) in enumerate(zip(blocks, plans, strict=True)):
        recovery = {Exception: _policies(plan.policies)}
        workflow.configure(block, name=f"n{index}", recovery=recovery, optional=plan.optional)
    for source, target in edges:
        workflow.link(f"n{source}", f"n{target}")
    if routed:
        left = [loops]

        def again(response: Response) -> bool:
            left[0] -= 1
            return left[0] >= 0

        workflow.branch(f"n{len(plans) - 1}", when(again, "n0"), otherwise(step("end")))
    for index, plan in enumerate(plans):
        if plan.handled:
            handlers.add(f"h{index}")
            workflow.on_error(f"n{index}", failing(f"h{index}") if index % 2 else step(f"h{index}"))
    return workflow.set_entry("n0"), blocks, log, handlers


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Any, ...]:
    plans = draw(st.lists(node_plans(), min_size=1, max_size=7))
    routed = draw(st.booleans())
    if routed:
        edges = [(index, index + 1) for index in range(len(plans) - 1)]
        return build(plans, edges, routed=True, loops=draw(st.integers(0, 4)))
    edges = []
    for target in range(1, len(plans)):
        sources = draw(st.sets(st.integers(0, target - 1), min_size=1, max_size=3))
        edges += [(source, target) for source in sorted(sources)]
    return build(plans, edges, routed=False, loops=0)


async def watch(drawn: tuple[Any, ...]) -> Watched:
    workflow, blocks, log, handlers = drawn
    events, runner = Events(), Watching()
    response = await workflow.execute(Request(BlockValue.of(0)), runner=runner, scope=scope(observer=events))
    for request, payload, metadata in runner.images:  # 9: a request never changes
        assert request.payload is payload
        assert dict(request.metadata) == metadata
    return Watched(workflow, events, log, runner.calls, runner.responses, blocks, response, handlers)


DRAWN = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@DRAWN
@given(graphs())
def test_invariants_of_any_run(drawn: tuple[Any, ...]) -> None:
    seen = asyncio.run(watch(drawn))
    one_response_and_ready_again(seen)
    validate_before_run(seen)
    attempts_are_numbered(seen)
    executions_are_bounded(seen)
    nothing_unsafe_runs_again(seen)
    the_ledger_is_its_log(seen)
    visits_are_bounded(seen)
    handlers_change_nothing(seen)
    every_code_is_registered(seen)
    events_are_well_formed(seen)


def one_response_and_ready_again(seen: Watched) -> None:
    """1, 2."""
    assert isinstance(seen.response, Response)
    assert all(block.block_phase is BlockPhase.READY for block in (seen.workflow, *seen.blocks))


def validate_before_run(seen: Watched) -> None:
    """4: by path, every run follows a validate of its own."""
    open_: Counter[str] = Counter()
    for path, method in seen.log:
        open_[path] += 1 if method == "validate" else -1
        assert open_[path] >= 0


def by_visit(seen: Watched) -> Mapping[tuple[str, int], list[tuple[NodeCall, Response]]]:
    found: dict[tuple[str, int], list[tuple[NodeCall, Response]]] = defaultdict(list)
    answers = {response.metadata["id"]: response for response in seen.responses}
    for call in seen.calls:
        found[call.node_path, call.visit].append((call, answers[call.request.metadata["id"]]))
    return found


def attempts_are_numbered(seen: Watched) -> None:
    """5."""
    ids = [call.request.metadata["id"] for call in seen.calls]
    spans = [call.request.metadata["span_id"] for call in seen.calls]
    assert len(set(ids)) == len(ids) == len(set(spans))
    for attempts in by_visit(seen).values():
        assert [call.attempt for call, _ in attempts] == list(range(1, len(attempts) + 1))
    for response in seen.responses:
        for key in ("trace_id", "run_id"):
            assert response.metadata[key] == seen.response.metadata[key]
        assert "." not in response.metadata["run_id"], "annotations cannot pose as ids"


def executions_are_bounded(seen: Watched) -> None:
    """6."""
    for attempts in by_visit(seen).values():
        stack = attempts[0][0].block.get_policy_stack(Exception)
        largest = max([1, *(policy.max_attempts for policy in stack if isinstance(policy, RetryPolicy))])
        assert len(attempts) <= largest + sum(isinstance(policy, RepairPolicy) for policy in stack)


def nothing_unsafe_runs_again(seen: Watched) -> None:
    """7."""
    for attempts in by_visit(seen).values():
        for _, response in attempts[:-1]:
            assert response.metadata["side_effect_class"] != SideEffects.NON_IDEMPOTENT.value


def the_ledger_is_its_log(seen: Watched) -> None:
    """8."""
    root = seen.calls[0].scope.root if seen.calls and seen.calls[0].scope else None
    if root is None:
        return
    view = root.ledger.view
    log = view.log()
    assert [op.seq for op in log] == list(range(1, len(log) + 1))
    assert {key: entry.value for key, entry in replay(log).items()} == view.snapshot()
    written = {op.entry.source_block_id for op in log if op.entry is not None}
    assert written <= {"$input", *root.outcomes}
    assert not written & {name for name in seen.handlers & set(root.outcomes) if root.outcomes[name].code}
    assert sum(op.op is LedgerOpKind.CHECKPOINT for op in log) == sum(item.visits for item in root.outcomes.values())


def visits_are_bounded(seen: Watched) -> None:
    """10."""
    visits = Counter({(call.node_path, call.visit) for call in seen.calls if call.kind == "node"})
    if seen.workflow.plan().routed:
        assert len(visits) <= seen.workflow.max_steps
    else:
        assert all(visit == 1 for _, visit in visits)


def handlers_change_nothing(seen: Watched) -> None:
    """12: what is reported is the failed node's, never a handler's."""
    for name in seen.response.metadata.get("failure_path", ()):
        assert name not in seen.handlers
    handled = {call.node_path for call in seen.calls if call.kind == "handler"}
    assert not (handled and seen.response.success)


def every_code_is_registered(seen: Watched) -> None:
    """15."""
    for response in (*seen.responses, seen.response):
        code = response.code
        if code is None:
            continue
        assert code.startswith("demo.") or known(code), code
        assert response.reason in (code, None) or "." not in str(response.reason)


def events_are_well_formed(seen: Watched) -> None:
    """16, 17: started, then one end, for every attempt; names and sizes only."""
    ends = {"block.succeeded", "block.failed", "block.skipped", "block.canceled"}
    spans: dict[str, list[str]] = defaultdict(list)
    for name, fields in seen.events.seen:
        if name.startswith("block.") and "span_id" in fields:
            spans[fields["span_id"]].append(name)
        assert not any(isinstance(value, BlockValue) for value in fields.values())
    for names in spans.values():
        told = [name for name in names if name == "block.started" or name in ends]
        assert told[0] == "block.started"
        assert len(told) == 2


@DRAWN
@given(graphs(), st.data())
def test_nothing_runs_in_a_graph_that_is_refused(drawn: tuple[Any, ...], data: st.DataObject) -> None:
    """3: a fault anywhere, at any depth, and no author's ``run`` is called."""
    workflow, _, log, _ = drawn
    broken = Workflow("broken").link(step("a", gives=once("string")), step("b", takes=once("int")))
    depth = data.draw(st.integers(1, 3))
    inner = broken
    for level in range(depth - 1):
        inner = Workflow(f"around{level}").add(inner)
    outer = Workflow("outer").link(workflow, inner)
    response = asyncio.run(outer.execute(Request(), scope=scope()))
    assert response.code == "validation.kind_mismatch"
    assert response.metadata["phase"] == "plan"
    assert log == []


@DRAWN
@given(graphs())
def test_a_cancelled_run_leaves_blocks_ready_and_tells_one_end(drawn: tuple[Any, ...]) -> None:
    """1, 2, 16 under cancellation, at a moment that depends on the draw."""
    workflow, blocks, _, _ = drawn
    events = Events()

    async def main() -> None:
        handle = workflow.start(0, scope=scope(observer=events))
        for _ in range(len(blocks)):
            await asyncio.sleep(0)
        handle.cancel()
        await handle.result()

    asyncio.run(main())
    assert all(block.block_phase is BlockPhase.READY for block in (workflow, *blocks))
    started = [fields["span_id"] for name, fields in events.seen if name == "block.started"]
    ended = [
        fields["span_id"]
        for name, fields in events.seen
        if name in ("block.succeeded", "block.failed", "block.skipped", "block.canceled")
    ]
    assert sorted(started) == sorted(ended)
