"""A graph of blocks, and itself a block: the wiring surface authors and the mission loader use (blocks spec §9).

Adding a ``branch`` anywhere turns the whole workflow from the parallel discipline into the single-cursor one; nothing
else has to be said. Wiring is plain data (`runtime.blocks.wiring`), judged once by `runtime.blocks.validation` before
anything runs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast

from runtime.blocks import plan as planning
from runtime.blocks.block import UNSET, Block, Unset, checked_recovery
from runtime.blocks.conditions import CONDITIONS, Case, ConditionRegistry
from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.dataflow import run_dataflow
from runtime.blocks.definition import check_timeout
from runtime.blocks.effects import SideEffects, worst
from runtime.blocks.envelope import Request, Response, failed
from runtime.blocks.errors import (
    BlockError,
    BlockValidationError,
    GraphError,
    WorkflowValidationFailed,
    WorkflowWiringError,
)
from runtime.blocks.estimates import BlockEstimate, estimate_workflow
from runtime.blocks.execute import failure_from, timed_out
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.policies import REPAIRS, RepairRegistry, RetryPolicy
from runtime.blocks.recurring import run_recurring
from runtime.blocks.report import RunHandle, RunReport
from runtime.blocks.routed import run_routed
from runtime.blocks.running import AttemptHost, NodeOptions, NodeRunner, Scope
from runtime.blocks.state import BlockPhase
from runtime.blocks.validation import CONDITIONS as CONDITION_STAGE
from runtime.blocks.validation import ENTRY, TOPOLOGY, compile_plan, entry_issue
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Edge, Issue, Node, Wiring

if TYPE_CHECKING:
    from runtime.blocks.attempts import AttemptStore
    from runtime.blocks.execute import Attempt
    from runtime.blocks.plan import Plan
    from runtime.blocks.registry import BlockRegistry

#: A block object, a workflow object, or the node name of a registered block.
Endpoint = Block | str


class Workflow(Block, _engine=True):
    """A composite of blocks. Runs once at a time; `clone` serves concurrent runs.

    ``seed`` preloads the ledger, ``propagate`` lists namespaced metadata keys handed to children. Wiring calls raise
    `WorkflowWiringError` for what can be refused on the spot; everything else is found by `issues`.
    """

    def __init__(
        self,
        name: str = "workflow",
        *,
        max_steps: int = 128,
        max_parallel: int = 16,
        seed: Mapping[str, object] | None = None,
        propagate: Iterable[str] = (),
        conditions: ConditionRegistry = CONDITIONS,
        repairs: RepairRegistry = REPAIRS,
    ) -> None:
        self.workflow_name = name
        self.max_steps = max_steps
        self.max_parallel = max_parallel
        self.seed = MappingProxyType({key: BlockValue.of(value) for key, value in (seed or {}).items()})
        self.propagate = tuple(propagate)
        self.conditions = conditions
        self.repairs = repairs
        self.wiring = Wiring()
        self._plan: Plan | None = None

    @classmethod
    def new(cls) -> Self:
        return cls()

    @classmethod
    def from_definition(
        cls,
        definition: object,
        registry: BlockRegistry,
        *,
        conditions: ConditionRegistry = CONDITIONS,
        repairs: RepairRegistry = REPAIRS,
    ) -> Self:
        """The workflow a definition describes; see `runtime.blocks.definitions.from_definition`."""
        from runtime.blocks import definitions  # both build on this class

        return definitions.from_definition(cls, definition, registry, conditions=conditions, repairs=repairs)

    @classmethod
    def from_transitions(
        cls,
        name: str,
        nodes: Mapping[str, Block],
        entry_point: str,
        transitions: Mapping[str, object],
        max_steps: int = 128,
    ) -> Self:
        """The routed form as mappings: a transition is a target name, or a list of ``{condition?, target}``."""
        from runtime.blocks import definitions

        return definitions.from_transitions(cls(name, max_steps=max_steps), nodes, entry_point, transitions)

    # -- wiring -------------------------------------------------------------------------------------------------

    def add(self, block: Block) -> Self:
        """Register a block without linking it; how a one-block workflow or a fallback is made."""
        self._changing()
        self._node(block)
        return self

    def link(
        self, source: Endpoint, target: Endpoint, *more: Endpoint, pick: int | None = None, as_: str | None = None
    ) -> Self:
        """Send the source's output to the target; further endpoints chain pairwise. Idempotent.

        A block whose links are all named by ``as_`` gets a MAP ``{name: value}`` instead of a value or a LIST.
        """
        self._changing()
        names = [self._name(endpoint) for endpoint in (source, target, *more)]
        for one, other in itertools.pairwise(names):
            self.wiring.add_edge(Edge(one, other, pick, as_))
        return self

    def branch(self, source: Endpoint, *cases: Case) -> Self:
        """Go on with the first case that holds. Makes this workflow routed."""
        self._changing()
        name = self._name(source)
        known = self.wiring.branches.setdefault(name, [])
        for case in cases:
            if not isinstance(case, Case):
                raise WorkflowWiringError(
                    "graph.bad_endpoint", "branch takes when(condition, target) and otherwise(target)"
                )
            known.append(Case(case.condition, self._name(case.target)))
        if self.wiring.first_source is None:
            self.wiring.first_source = name
        return self

    def on_error(self, source: Endpoint, handler: Endpoint) -> Self:
        """Tell ``handler`` when ``source`` failed for good. Idempotent."""
        self._changing()
        pair = (self._name(source), self._name(handler))
        if pair not in self.wiring.handlers:
            self.wiring.handlers.append(pair)
        return self

    link_on_error = on_error

    def set_entry(self, block: Endpoint) -> Self:
        self._changing()
        self.wiring.entry = self._name(block)
        return self

    def set_output(self, block: Endpoint) -> Self:
        self._changing()
        self.wiring.output = self._name(block)
        return self

    def configure(
        self,
        block: Endpoint,
        *,
        name: str | None = None,
        reads: Iterable[str] | None = None,
        store_as: str | None = None,
        side_effects: SideEffects | str | None = None,
        retry: RetryPolicy | None = None,
        recovery: Mapping[type[Exception], Sequence[object]] | None = None,
        timeout: float | Unset | None = UNSET,
        accept: Iterable[str] | None = None,
        fallback: Endpoint | None = None,
        optional: bool | None = None,
        lane: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Self:
        """Per-node settings over what the block itself declares; registers the block if new.

        ``accept``, ``fallback``, ``optional``, ``lane`` and ``extra`` are described at `NodeOptions`.
        """
        self._changing()
        node = self._node(block, name)
        if reads is not None:
            node.reads = tuple(reads)
        node.store_as = store_as or node.store_as
        if side_effects is not None:
            node.overrides["side_effects"] = SideEffects.parse(side_effects)
        if timeout is not UNSET:
            check_timeout(timeout, lambda text: BlockValidationError("validation.bad_config", text))
            node.overrides["timeout"] = timeout
        if retry is not None or recovery is not None:  # a level that says anything replaces the lower ones as a whole
            node.overrides["retry"] = retry
            node.overrides["recovery"] = None if recovery is None else checked_recovery(recovery)
        options = node.options
        node.options = NodeOptions(
            accept=options.accept if accept is None else tuple(accept),
            fallback=options.fallback if fallback is None else self._name(fallback),
            optional=options.optional if optional is None else optional,
            lane=lane or options.lane,
            extra=options.extra if extra is None else MappingProxyType(dict(extra)),
        )
        return self

    def clone(self) -> Self:
        """The same wiring and config over fresh block instances, for a concurrent run."""
        twins: dict[int, Block] = {}
        for node in self.wiring.nodes.values():
            twins[id(node.block)] = fresh(node.block)
        other = self._variant()
        other.wiring = self.wiring.copy(twins)
        other._plan = None
        return other

    def _changing(self) -> None:
        if self._state.phase is not BlockPhase.READY:
            raise WorkflowWiringError("graph.frozen", f"{self.block_name} is running; wire a clone instead")
        self.wiring.touch()

    def _name(self, endpoint: object) -> str:
        return endpoint if isinstance(endpoint, str) else self._node(endpoint).name

    def _node(self, endpoint: object, name: str | None = None) -> Node:
        if isinstance(endpoint, Block):
            return self.wiring.node_for(endpoint, name)
        if isinstance(endpoint, str) and endpoint in self.wiring.nodes:
            return self.wiring.node_for(self.wiring.nodes[endpoint].block, name)
        what = f"class {endpoint.__name__}; make an instance" if isinstance(endpoint, type) else repr(endpoint)
        raise WorkflowWiringError("graph.bad_endpoint", f"an endpoint must be a block or the name of one, not {what}")

    # -- what a workflow says about itself -----------------------------------------------------------------------

    @property
    def block_name(self) -> str:
        return self._overrides.name or self.workflow_name

    @property
    def input_contract(self) -> BlockValueContract:
        return planning.workflow_contracts(self.wiring)[0]

    @property
    def output_contract(self) -> BlockValueContract:
        return planning.workflow_contracts(self.wiring)[1]

    @property
    def config_side_effects(self) -> SideEffects:
        """The worst class among the nodes."""
        if self.wiring.asked:
            return SideEffects.NONE  # contains itself: validation reports it
        self.wiring.asked = True
        try:
            return worst(*(node.variant().side_effects for node in self.wiring.nodes.values()))
        finally:
            self.wiring.asked = False

    def describe(self) -> dict[str, Any]:
        """Plain data for pictures and consoles; its shape is told in `runtime.blocks.describe`."""
        from runtime.blocks import describe

        return describe.describe(self)

    def to_definition(self) -> dict[str, Any]:
        """The portable form. Raises `BlockDefinitionError` ``definition.not_exportable`` for what is code."""
        from runtime.blocks import exporting

        return exporting.to_definition(self)

    def nested(self) -> tuple[Workflow, ...]:
        """The workflows directly inside this one."""
        return tuple(cast(Workflow, node.block) for node in self.wiring.nodes.values() if node.block.is_workflow)

    def plan(self) -> Plan:
        """The validated plan, compiled again only after the wiring changed."""
        if self._plan is None or self._plan.version != planning.wiring_version(self):
            self._plan = compile_plan(self)
        return self._plan

    def estimate_execution(
        self, request: Request | None = None, *, attempts: AttemptStore | None = None
    ) -> BlockEstimate:
        return estimate_workflow(self, attempts)

    def issues(self) -> tuple[Issue, ...]:
        """Every problem and warning; runs nothing."""
        return self.plan().issues

    def validate(self) -> None:
        """Raise `WorkflowValidationFailed` if any error-level issue exists."""
        errors = self.plan().errors
        if errors:
            raise WorkflowValidationFailed(errors)

    check = validate

    # -- running ------------------------------------------------------------------------------------------------

    async def _attempt(self, attempt: Attempt) -> Response:
        try:
            attempt.phase = "plan"
            plan = self.plan()
            refused = _refusal(attempt, plan, self._entry_issue(plan, attempt.request.payload))
            if refused is not None:
                return refused
            attempt.phase = "graph"
            graph = GraphRun(self, plan, attempt)
            timeout = self.attempt_timeout
            return await (self._walk(graph) if timeout is None else _within(self._walk(graph), attempt, graph, timeout))
        except Exception as error:  # noqa: BLE001 - the boundary: a fault of the engine is still one response
            return failure_from(attempt, error)

    def _entry_issue(self, plan: Plan, value: BlockValue) -> Issue | None:
        """What is wrong with the input, before anything runs."""
        return entry_issue(plan, value)

    async def _walk(self, graph: GraphRun) -> Response:
        """The work itself; other composites put their own here."""
        plan = graph.plan
        walk = run_recurring if plan.recurring else run_routed if plan.routed else run_dataflow
        return await walk(graph)

    def run(self, input: object = None, *, scope: Scope | None = None) -> RunReport:
        """Run to the end on a private loop. Raises `WorkflowValidationFailed`, `WorkflowRunFailed`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run_async(input, scope=scope))
        raise RuntimeError("a loop is running already; use 'await workflow.run_async(...)'")

    async def run_async(
        self,
        input: object = None,
        *,
        runner: NodeRunner | None = None,
        host: AttemptHost | None = None,
        scope: Scope | None = None,
    ) -> RunReport:
        """Run to the end on the current loop. Raises `WorkflowValidationFailed`, `WorkflowRunFailed`."""
        # Nobody holds this handle, so nobody could answer a question: it fails instead of waiting for ever.
        return await self._launch(input, runner, host, scope, attended=False).report()

    def start(
        self,
        input: object = None,
        *,
        runner: NodeRunner | None = None,
        host: AttemptHost | None = None,
        scope: Scope | None = None,
    ) -> RunHandle:
        """Start running; the handle owns the task. Raises `WorkflowValidationFailed` before anything runs."""
        return self._launch(input, runner, host, scope, attended=True)

    def _launch(
        self, input: object, runner: NodeRunner | None, host: AttemptHost | None, scope: Scope | None, *, attended: bool
    ) -> RunHandle:
        value = BlockValue.of(input)
        self.validate()
        issue = self._entry_issue(self.plan(), value)
        if issue is not None:
            raise WorkflowValidationFailed((issue,))
        return RunHandle(self, Request(value), runner, host, scope or Scope(), attended=attended)


def fresh(block: Block) -> Block:
    """The same block as another instance, which may run beside it."""
    return cast(Workflow, block).clone() if block.is_workflow else block._variant()


def _refusal(attempt: Attempt, plan: Plan, entry: Issue | None) -> Response | None:
    """The failed response of a plan with errors; nothing has run (blocks spec §10)."""
    issues = list(zip(plan.stages, plan.issues, strict=True))
    if entry is not None and not plan.errors:
        issues.append((ENTRY, entry))
    broken = [(stage, issue) for stage, issue in issues if issue.is_error]
    if not broken:
        return None
    stage, first = broken[0]
    reason = "condition_resolution_error" if stage == CONDITION_STAGE else "validation_failed"
    if stage <= TOPOLOGY and first.code.startswith("graph."):
        reason = "invalid_graph"
    kind: type[BlockError] = GraphError if first.code.startswith("graph.") else BlockValidationError
    details = {"issues": [issue.record() for _, issue in issues]}
    error = kind(first.code, first.message, details=details, reason=reason, effects="none")
    return failed({**attempt.metadata, "side_effect_class": SideEffects.NONE.value}, error, "plan")


async def _within(walk: Any, attempt: Attempt, graph: GraphRun, timeout: float) -> Response:
    try:
        async with asyncio.timeout(timeout) as attempt.deadline:
            return cast(Response, await walk)
    except TimeoutError:
        if attempt.deadline is None or not attempt.deadline.expired():
            raise
        metadata = {**attempt.metadata, "side_effect_class": graph.effect_class().value}
        return failed(metadata, timed_out(attempt.block, timeout), "run")
