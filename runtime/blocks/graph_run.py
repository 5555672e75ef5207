"""One execution of one workflow: its ledger, its counters, its way of running a node. Schedulers sit on top.

Only this object writes the ledger. It lives until the report is built and knows nothing of other executions.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from runtime.blocks.effects import SideEffects, worst
from runtime.blocks.envelope import EMPTY, Response, failed, succeeded
from runtime.blocks.errors import BlockError, BlockSkip
from runtime.blocks.ledger import INPUT, RECOVERY, Ledger
from runtime.blocks.plan import Plan, PlanNode
from runtime.blocks.recovery import execute_with_recovery
from runtime.blocks.results import Once
from runtime.blocks.running import DirectRunner
from runtime.blocks.values import BlockValue
from runtime.blocks.visit import Given, Through, Visit, attempt_effect

if TYPE_CHECKING:
    from runtime.blocks.execute import Attempt
    from runtime.blocks.workflow import Workflow


_NONE: Final = SideEffects.NONE.value


@dataclass(slots=True)
class NodeOutcome:
    """What became of one node in one execution, over all its visits."""

    status: str = "not_run"
    visits: int = 0
    before: int = 0  # visits in earlier ticks
    attempts: int = 0
    duration_ms: float = 0.0
    code: str | None = None
    recovered_by: str | None = None


class GraphRun:
    """See the module docstring. Single-loop state: no locks."""

    def __init__(self, workflow: Workflow, plan: Plan, attempt: Attempt) -> None:
        self.workflow = workflow
        self.plan = plan
        self.attempt = attempt
        self.scope = attempt.scope
        self.request = attempt.request
        self.runner = attempt.runner or DirectRunner(attempt.host)
        self.ledger = Ledger(attempt.scope.services.clock.now, workflow.seed)
        self.ledger.set(INPUT, attempt.request.payload, INPUT)
        self.outcomes: dict[str, NodeOutcome] = {}
        self.worst_effect = SideEffects.NONE
        self.level_floor = 0  # length of the ledger's log when the current level began; routed runs have no levels
        own = attempt.metadata
        self._prefix = f"{own['node_path']}/" if own.get("node_path") else ""
        extras = {key: own[key] for key in workflow.propagate if "." in key and key in own}
        self.child_metadata: dict[str, Any] = {
            "trace_id": own["trace_id"],
            "run_id": own["run_id"],
            "parent_span_id": own["span_id"],
            **extras,
        }
        self.tick: int | None = own.get("tick")  # of a recurring run, here or around this workflow
        if self.tick is not None:
            self.child_metadata["tick"] = self.tick
        if self.scope.root is None:
            self.scope.root = self
            self.scope.workflow_id = self.scope.workflow_id or workflow.block_name

    def path_of(self, name: str) -> str:
        return self._prefix + name

    # -- running nodes ------------------------------------------------------------------------------------------

    def execute_node(
        self,
        name: str,
        value: BlockValue,
        sources: tuple[str, ...] = (),
        *,
        kind: str = "node",
        through: Through | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """One visit of a node: checkpoint, all attempts, what its options make of a failure.

        ``through`` executes the attempts instead of the runner.
        """
        node = self.plan.nodes[name]
        return self._visit(node, Given(value, self._context(node), sources, kind == "handler"), kind, through=through)

    async def execute_copy(self, node: PlanNode, value: BlockValue, context: Mapping[str, BlockValue]) -> Response:
        """One visit of a node a composite made at run time, with the state it says."""
        return await self._visit(node, Given(value, context), "node")

    async def stand_in(self, name: str, primary: Visit) -> Response:
        """Run a fallback node with the input its primary had (ruling R30). Its own fallback is not followed."""
        node = self.plan.nodes[name]
        original = primary.given
        given = Given(original.payload, self._context(node), original.sources)
        return await self._visit(node, given, "node", standing_in=True)

    async def _visit(
        self,
        node: PlanNode,
        given: Given,
        kind: str,
        *,
        standing_in: bool = False,
        through: Through | None = None,
    ) -> Response:
        outcome = self.outcomes.get(node.name)
        if outcome is None:
            outcome = self.outcomes[node.name] = NodeOutcome()
        outcome.visits += 1
        number = outcome.visits - outcome.before
        if self._prefix:
            number = self.scope.visit_of(self.path_of(node.name), self.tick or 1)
        checkpoint = self.ledger.create_checkpoint(self.checkpoint_before(node.name, number))
        if self.scope.observer is not None:
            self.observe("ledger.checkpoint_created", {"checkpoint_id": checkpoint})
        visit = Visit(self, node, given, number, kind, standing_in=standing_in, through=through)
        response = await execute_with_recovery(visit)
        outcome.status = "succeeded" if response.success else "skipped" if response.skipped else "failed"
        outcome.code = response.code
        outcome.recovered_by = response.metadata.get("recovered_by")
        return response

    def begin_tick(self, tick: int) -> None:
        """From here on everything belongs to ``tick``: visits count anew, the ledger's state stays."""
        self.tick = tick
        self.level_floor = self.ledger.length
        self.scope.begin_tick(tick)
        self.child_metadata = {**self.child_metadata, "tick": tick}
        for outcome in self.outcomes.values():
            outcome.before = outcome.visits

    def forget_ticks(self) -> None:
        """The tick has its item: what the ledger's log tells of ticks that are over shrinks to the state they left."""
        self.level_floor = self.ledger.forget(self.level_floor)

    def checkpoint_before(self, name: str, visit: int) -> str:
        """The id of the checkpoint taken before that visit of a node; later ticks say which they are."""
        return f"pre:{name}:{visit}" if self.tick in (None, 1) else f"pre:{name}:{visit}:{self.tick}"

    def roll_back(self, checkpoint: str) -> None:
        """Restore the ledger. In dataflow an older level's checkpoint would erase what finished nodes delivered."""
        self.ledger.rollback(checkpoint, self.level_floor)

    def patch(self, key: str, value: BlockValue, metadata: Mapping[str, Any]) -> None:
        """Store what recovery put in place of a node's value."""
        self.ledger.set(key, value, RECOVERY, metadata)

    def renewed(self, node: PlanNode, given: Given) -> Given:
        """``given`` with what the ledger holds now."""
        return given._replace(context=self._context(node))

    def _context(self, node: PlanNode) -> Mapping[str, BlockValue]:
        if not node.reads:
            return EMPTY
        view = self.ledger.view
        return MappingProxyType({key: view[key] for key in node.reads if key in view})

    def attempted(self, visit: Visit, response: Response) -> None:
        """Account for one attempt."""
        outcome = self.outcomes[visit.node.name]
        outcome.attempts += 1
        outcome.duration_ms += response.metadata.get("duration_ms", 0.0)
        harmless = response.metadata.get("side_effect_class") == _NONE
        if not harmless and self.worst_effect is not SideEffects.NON_IDEMPOTENT:
            self.worst_effect = worst(self.worst_effect, attempt_effect(response, visit.node.block))

    def commit(self, name: str, response: Response) -> None:
        """Store a node's data under its key, with where it came from."""
        self.ledger.set(self.plan.nodes[name].store_key, response.data, self.path_of(name), response.metadata)

    # -- ending -------------------------------------------------------------------------------------------------

    def success(self, name: str, data: BlockValue, last: Response) -> Response:
        """The composite's success, rebuilt from its own request (blocks spec C18)."""
        self.ledger.compact(0)
        effect = self.workflow.stated_side_effects or self.plan.side_effects
        metadata = {**self.attempt.metadata, **self._composite(name, last), "side_effect_class": effect.value}
        return succeeded(metadata, Once(data))

    def failure(self, name: str, last: Response, also: tuple[str, ...] = ()) -> Response:
        """The failed node's response bubbled: reason, code, error type and details untouched."""
        path = [self.path_of(name), *last.metadata.get("failure_path", ())]
        metadata = {**self.attempt.metadata, **self._composite(name, last), "phase": "graph", "failure_path": path}
        if also:
            metadata["also_failed"] = [self.path_of(other) for other in also]
        return Response(
            False,
            MappingProxyType({**metadata, "side_effect_class": self.effect_class().value}),
            reason=last.reason,
            error=last.error,
            error_type=last.error_type,
            details=last.details,
        )

    def graph_failure(self, name: str, error: BlockError, last: Response | None = None) -> Response:
        """A fault of the graph itself at ``name``."""
        metadata = {**self.attempt.metadata, "failure_path": [self.path_of(name)]}
        if last is not None:
            metadata |= self._composite(name, last)
        return failed({**metadata, "side_effect_class": self.effect_class().value}, error, "graph")

    def effect_class(self) -> SideEffects:
        """A failed workflow attempt counts as none only if every attempt inside it did (blocks spec §15.2)."""
        return SideEffects.NONE if self.worst_effect is SideEffects.NONE else self.workflow.side_effects

    def _composite(self, name: str, last: Response) -> dict[str, Any]:
        block = self.plan.nodes[name].block
        extras = {key: value for key, value in last.metadata.items() if "." in key}
        return {**extras, "source": block.block_name, "composite": self.workflow.block_name, "last_node": name}

    def skipped(self, name: str, last: Response) -> Response:
        """The composite of a skipped node is skipped."""
        response = failed(
            {**self.attempt.metadata, **self._composite(name, last)}, cast(BlockSkip, last.error), "graph"
        )
        return response.with_metadata(side_effect_class=self.effect_class().value)

    def observe(self, event: str, fields: Mapping[str, Any]) -> None:
        self.attempt.observe(event, fields)
