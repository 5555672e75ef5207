"""``map_over`` and ``child_workflow`` as blocks of a run: composites whose list or inputs are known when they begin.

To the scheduler they are workflows: steps of type ``mission`` (ruling R3), whose nodes stand below their path and have
lanes, journal and undo of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runtime.blocks.block import Block
from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.envelope import EMPTY, Response, failed
from runtime.blocks.errors import BlockError, BlockValidationError
from runtime.blocks.execute import Attempt
from runtime.blocks.graph_run import GraphRun
from runtime.blocks.map_over import MapOver
from runtime.blocks.plan import Plan
from runtime.blocks.results import Once
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Issue
from runtime.blocks.workflow import Workflow
from runtime.missions import references
from runtime.missions.inputs import InputsInvalid, bind
from runtime.missions.late import Values
from runtime.missions.loader import Mission
from runtime.missions.references import ReferenceMissing

_ANYTHING = multiple()
_OUTPUTS = once("map")


class MapItems(MapOver, _engine=True, type_id="map_over", local=True):
    """Maps the list its ``items`` name; what links deliver only comes before it."""

    def __init__(self, each: Block, *, items: Any, values: Values, keys: tuple[str, ...], **settings: Any) -> None:
        super().__init__(each, **settings)
        self._source, self._values, self._keys = items, values, keys

    @property
    def input_contract(self) -> BlockValueContract:
        return _ANYTHING

    def _entry_issue(self, plan: Plan, value: BlockValue) -> Issue | None:
        return None

    def _items(self, attempt: Attempt) -> BlockValue:
        return BlockValue.of(_resolved(attempt, self._source, self._values, self._keys))


class ChildMission(Workflow, _engine=True, type_id="child_workflow", display_name="Child workflow", local=True):
    """Another mission's blocks; the run inputs of its entry are the child's inputs, its result are the child's outputs."""

    def __init__(self, mission: Mission, *, given: Mapping[str, Any], values: Values, keys: tuple[str, ...]) -> None:
        super().__init__(mission.name, max_steps=mission.spec.max_steps, max_parallel=mission.spec.max_parallel)
        self._mission, self._given, self._values, self._keys = mission, given, values, keys

    @property
    def input_contract(self) -> BlockValueContract:
        return _ANYTHING

    @property
    def output_contract(self) -> BlockValueContract:
        return _OUTPUTS

    async def _attempt(self, attempt: Attempt) -> Response:
        attempt.phase = "input"
        try:
            inputs = self._bound(_resolved(attempt, self._given, self._values, self._keys))
        except BlockError as error:
            return failed(attempt.metadata, error, attempt.phase)
        # From here on it is a run of its own: nothing of the mission around it is seen.
        attempt.request = replace(attempt.request, payload=BlockValue.of(inputs), context=EMPTY, sources=())
        return await super()._attempt(attempt)

    def _bound(self, given: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return bind(self._mission.spec.inputs, given, limit=None)
        except InputsInvalid as invalid:
            text = f"{self.block_name}: {invalid.message}"
            raise BlockValidationError("validation.child_inputs", text, effects="none") from None

    async def _walk(self, graph: GraphRun) -> Response:
        response = await super()._walk(graph)
        if not response.success:
            return response
        view = graph.ledger.view
        produced = {name: view[name] for name in view if not name.startswith("$")}
        return replace(response, result=Once(run_outputs(self._mission, graph.request.payload.to_python(), produced)))


def run_outputs(mission: Mission, inputs: Mapping[str, Any], produced: Mapping[str, BlockValue]) -> dict[str, Any]:
    """What a run reports, from what its blocks ``produced``; null where the way there was not taken."""
    plain = {name: value.to_python() for name, value in produced.items()}
    result: dict[str, Any] = {}
    for name, value in mission.spec.outputs.items():
        try:
            result[name] = references.resolve(value, inputs, plain)
        except ReferenceMissing:
            result[name] = None
    return result


def _resolved(attempt: Attempt, written: Any, values: Values, keys: tuple[str, ...]) -> Any:
    request, node = attempt.request, str(attempt.metadata.get("node_name", ""))
    return values.resolve(written, keys, request.context, request.payload, node)
