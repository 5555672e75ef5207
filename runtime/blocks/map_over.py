"""One block over many items: as many copies of it as run at once, one visit per item (blocks spec §18, ruling R41).

A composite like a workflow whose graph is known only when the list is: item *i* is the node ``<path>/<i>``, with its own
attempts, recovery and step entries, and all items are one level (blocks spec §11.5). The block is validated once, as
the node ``each``; nothing is compiled per item.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.bounded import run_bounded
from runtime.blocks.contracts import BlockValueContract, once
from runtime.blocks.envelope import Response, succeeded
from runtime.blocks.errors import BlockInputError, BlockValidationError, WorkflowWiringError
from runtime.blocks.execute import Attempt
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.plan import Plan, PlanNode
from runtime.blocks.results import Once
from runtime.blocks.values import BlockValue, list_of
from runtime.blocks.wiring import Issue
from runtime.blocks.workflow import Workflow, fresh

#: Items one run of the block takes, unless it says fewer (ruling R41).
MAX_ITEMS: Final = 1000
#: Items at work at once, unless it says otherwise.
DEFAULT_PARALLEL: Final = 8
#: The node that stands for every item while the plan is checked.
EACH: Final = "each"
_LIST: Final = once("list")


class MapOver(Workflow, _engine=True, type_id="map_over", display_name="Map over", local=True):
    """Takes a LIST, gives the LIST of what ``each`` made of its items, in item order.

    An item that fails ends the whole like a node of a level: items at work end, further ones do not start, the first
    by index is reported and the others stand in ``also_failed``. A skipped item skips the whole, unless one failed.
    An empty list is an empty LIST. What the block needs of the ledger around it is said where this node is configured
    (``reads``); every item gets it.
    """

    def __init__(
        self,
        each: Block,
        *,
        name: str = "map_over",
        max_parallel: int = DEFAULT_PARALLEL,
        limit: int = MAX_ITEMS,
        **settings: Any,
    ) -> None:
        if limit < 1:
            raise BlockValidationError("validation.bad_config", f"{name}: limit must be at least 1, not {limit}")
        super().__init__(name, max_parallel=max_parallel)
        self.limit = limit
        self._fixed = False
        self.configure(each, **{"name": EACH, "reads": (), **settings})
        self._fixed = True

    def _changing(self) -> None:
        if self._fixed:
            raise WorkflowWiringError("graph.frozen", f"{self.block_name} maps one block, given when it was made")
        super()._changing()

    @property
    def input_contract(self) -> BlockValueContract:
        return _LIST

    @property
    def output_contract(self) -> BlockValueContract:
        return _LIST

    def _entry_issue(self, plan: Plan, value: BlockValue) -> Issue | None:
        if value.is_list:
            return None
        kind = value.kind.name.lower()
        return Issue(
            "validation.entry_input", "error", "", f"{self.block_name} takes a list, but the input is a {kind}"
        )

    def _items(self, attempt: Attempt) -> BlockValue:
        """What is mapped; may raise `BlockError`."""
        return attempt.request.payload

    async def _walk(self, graph: GraphRun) -> Response:
        graph.attempt.phase = "input"
        items = self._items(graph.attempt).expect_list()
        if len(items) > self.limit:
            raise BlockInputError(
                "input.too_many_items",
                f"{self.block_name} takes at most {self.limit} items, not {len(items)}",
                details={"items": len(items), "limit": self.limit},
            )
        graph.attempt.phase = "graph"
        return _settled(graph, await self._mapped(graph, items))

    async def _mapped(self, graph: GraphRun, items: tuple[BlockValue, ...]) -> dict[str, Response]:
        """Run the items, a few at a time; responses by item, of those that started."""
        model, nodes = graph.plan.nodes[EACH], dict[str, PlanNode]()
        graph.plan = replace(graph.plan, nodes=nodes)
        idle: list[Block] = []

        async def one(name: str) -> Response:
            copy = idle.pop() if idle else fresh(model.block)
            node = nodes[name] = replace(model, name=name, index=int(name), store_key=name, block=copy)
            try:
                return await graph.execute_copy(node, items[node.index], graph.request.context)
            finally:
                idle.append(copy)

        names = [str(index) for index in range(len(items))]
        responses = await run_bounded(names, one, self.max_parallel, stop=lambda response: not response.success)
        return {name: responses[name] for name in names if name in responses}


def map_over(
    each: Block,
    *,
    name: str = "map_over",
    max_parallel: int = DEFAULT_PARALLEL,
    limit: int = MAX_ITEMS,
    **settings: Any,
) -> MapOver:
    """Apply a block or a workflow to every item of a list.

    ``settings`` are those of `Workflow.configure` for the block of each item, such as ``retry``, ``accept`` or
    ``optional`` (an item that fails then yields NULL). Raises `BlockValidationError` ``validation.bad_config``; a run
    fails with ``input.too_many_items`` before its first item.
    """
    return MapOver(each, name=name, max_parallel=max_parallel, limit=limit, **settings)


def _settled(graph: GraphRun, responses: dict[str, Response]) -> Response:
    """Commit in item order; the results, or the first failure by index, or the first skip."""
    ended = {name: response for name, response in responses.items() if not response.success}
    for name, response in responses.items():
        if response.success:
            graph.commit(name, response)
    broken = [name for name, response in ended.items() if not response.skipped]
    if broken:
        return graph.failure(broken[0], ended[broken[0]], tuple(broken[1:]))
    if ended:
        first = next(iter(ended))
        return graph.skipped(first, ended[first])
    data = list_of(response.data for response in responses.values())
    if not responses:
        return succeeded({**graph.attempt.metadata, "composite": graph.workflow.block_name}, Once(data))
    last = next(reversed(responses))
    return graph.success(last, data, responses[last])
