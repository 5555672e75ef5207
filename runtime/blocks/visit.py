"""One visit of one node: its attempts, numbered without gaps, each under fresh envelope ids (blocks spec §7.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, failed, span_of
from runtime.blocks.errors import BlockInternalError, engine_error
from runtime.blocks.execute import declared_class
from runtime.blocks.plan import PlanNode
from runtime.blocks.policies import RepairRegistry
from runtime.blocks.running import NodeCall
from runtime.blocks.sanitise import clean_text
from runtime.blocks.telemetry import emit
from runtime.blocks.values import BlockValue
from runtime.blocks.waits import suspended
from runtime.kernel.clock import timestamp

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.graph_run import GraphRun
    from runtime.blocks.ledger import LedgerView

#: Executes one attempt.
Through = Callable[[NodeCall], Awaitable[Response]]


class Given(NamedTuple):
    """What a node is given, without the ids of an attempt: what `Request` holds beside its metadata."""

    payload: BlockValue
    context: Mapping[str, BlockValue]
    sources: tuple[str, ...] = ()
    handling: bool = False


class Visit:
    """State of one visit. ``given`` is what the next attempt gets; repairs replace it."""

    __slots__ = (
        "_base",
        "_call",
        "_effective",
        "_graph",
        "_through",
        "asked",
        "attempt",
        "given",
        "kind",
        "last",
        "node",
        "number",
        "path",
        "standing_in",
    )

    last: Response  # of the latest attempt
    _call: NodeCall

    def __init__(
        self,
        graph: GraphRun,
        node: PlanNode,
        given: Given,
        number: int,
        kind: str,
        *,
        standing_in: bool = False,
        through: Through | None = None,
    ) -> None:
        self._graph = graph
        self._through = through or graph.runner.attempt
        self.node = node
        self.given = given
        self.number = number
        self.kind = kind
        self.standing_in = standing_in
        self.attempt = 0
        self.asked = 0
        self.path = graph.path_of(node.name)
        self._effective: SideEffects | None = None
        self._base = {
            **graph.child_metadata,
            "block_name": node.block.block_name,
            "node_name": node.name,
            "node_path": self.path,
            "visit": number,
        }

    async def attempt_once(self) -> Response:
        """Run the next attempt and remember its response."""
        self.attempt += 1
        self._effective = None
        graph, node = self._graph, self.node
        self._call = call = NodeCall(
            node_name=node.name,
            node_path=self.path,
            block=node.block,
            request=self._request(),
            options=node.options,
            attempt=self.attempt,
            visit=self.number,
            tick=graph.tick or 1,
            kind=self.kind,
            scope=graph.scope,
        )
        turn = graph.scope.take_turn(node.block)
        if turn is not None:
            await turn
        try:
            response = await self._through(call)
        except Exception as error:  # noqa: BLE001 - a fault of the runner is a fault of this attempt
            response = self._runner_fault(call, error)
        finally:
            graph.scope.end_turn(node.block)
        graph.attempted(self, response)
        self.last = response
        return response

    async def effective(self) -> SideEffects:
        """The class of the latest failed attempt, after the runner undid what it could; asked once per attempt."""
        if self._effective is None:
            told = await self._graph.runner.undo(self._call, self.last)
            self._effective = self._declared() if told is None else told
        return self._effective

    @property
    def known_effect(self) -> SideEffects:
        return self._effective or SideEffects.NON_IDEMPOTENT

    async def fall_back(self, name: str) -> Response:
        """Run the fallback node with this node's original input."""
        return await self._graph.stand_in(name, self)

    async def sleep(self, seconds: float) -> None:
        await self._graph.scope.services.clock.sleep(seconds)

    @property
    def repairs(self) -> RepairRegistry:
        return self._graph.workflow.repairs

    @property
    def seed(self) -> str:
        """What the randomness of a backoff depends on."""
        return f"{self._base['run_id']}|{self.path}|{self.number}|{self.attempt}"

    def observe(self, event: str, fields: Mapping[str, Any]) -> None:
        scope = self._graph.scope
        if scope.observer is not None:
            emit(scope, event, self.request.metadata, fields, block_type=self.node.block.spec.type_id)

    # -- for a debug session --------------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """What the latest attempt was given."""
        return self._call.request

    @property
    def ledger(self) -> LedgerView:
        return self._graph.ledger.view

    @property
    def checkpoint(self) -> str:
        """The checkpoint taken before this visit."""
        return self._graph.checkpoint_before(self.node.name, self.number)

    def roll_back(self, checkpoint: str, *, external_effects: bool) -> None:
        """Restore the ledger; raises `BlockRuntimeError` ``ledger.unknown_checkpoint``."""
        self._graph.roll_back(checkpoint)
        told = {"external_effects": "remain"} if external_effects else {}
        self.observe("ledger.rolled_back", {"checkpoint_id": checkpoint, **told})

    def patch(self, key: str, value: BlockValue) -> None:
        """Store a value as recovery's own."""
        self._graph.patch(key, value, self.request.metadata)

    def renew(self, payload: BlockValue | None, *, fresh: bool) -> None:
        """Give the next attempt ``payload`` unless that is None, and with ``fresh`` the ledger as it is now."""
        if payload is not None:
            self.given = self.given._replace(payload=payload)
        if fresh:
            self.given = self._graph.renewed(self.node, self.given)

    async def ask(self, prompt: str, kinds: Sequence[str], choices: Sequence[str]) -> BlockValue:
        """Ask the operator about this node. Raises `BlockRuntimeError` ``runtime.no_operator``."""
        index = f"debug{self.asked}"
        self.asked += 1
        with suspended(self._graph.scope):
            return await self._graph.runner.ask(self._call, index, prompt, kinds, choices)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _request(self) -> Request:
        services = self._graph.scope.services
        own = services.ids.uuid()
        metadata = {
            **self._base,
            "id": own,
            "span_id": span_of(own),
            "attempt": self.attempt,
            "created_at": timestamp(services.clock.now()),
        }
        given = self.given
        return Request(given.payload, given.context, MappingProxyType(metadata), given.sources, given.handling)

    def _declared(self) -> SideEffects:
        stamped = self.last.metadata.get("side_effect_class")
        if stamped is not None:
            return SideEffects.parse(stamped)
        return declared_class(self.node.block, self.last)

    def _runner_fault(self, call: NodeCall, error: Exception) -> Response:
        text = f"{self.node.name}: the runner failed: {type(error).__name__}: {clean_text(str(error))}"
        internal = engine_error(
            BlockInternalError, "runtime.internal", text, details={"error_class": type(error).__name__}
        )
        internal.__cause__ = error
        return failed({**call.request.metadata, "duration_ms": 0.0}, internal, "run")


def attempt_effect(response: Response, block: Block) -> SideEffects:
    """What one attempt did at worst, for judging the workflow around it."""
    stamped = response.metadata.get("side_effect_class")
    return block.side_effects if stamped is None else SideEffects.parse(stamped)
