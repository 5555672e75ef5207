"""From a loaded mission to a workflow that can run.

A block whose parameters hold no references is built now. One that holds some becomes a stand-in of the same type
(`runtime.missions.late`): when an attempt runs, the references are looked up in the inputs and in what earlier blocks
left in the ledger, the real block is built from the values, and it runs inside that same attempt. The graph, the
journal and the rules of recovery see one block of the declared type. A child mission is built into its parent's graph,
under the envelopes of every mission on the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.conditions import Case, otherwise, when
from runtime.blocks.envelope import Response
from runtime.blocks.map_over import DEFAULT_PARALLEL
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.registry import BlockRegistry
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.model import Envelope
from runtime.missions.composite_blocks import ChildMission, MapItems
from runtime.missions.composite_blocks import run_outputs as run_outputs
from runtime.missions.conditions import Condition
from runtime.missions.draft import CHILD, MAP_OVER
from runtime.missions.envelopes import own_envelopes
from runtime.missions.graph import LANES
from runtime.missions.late import Maker, Values, outputs_in
from runtime.missions.loader import Mission
from runtime.missions.model import BlockSpec, RetrySpec
from runtime.missions.reading import folder_of

_EXTRA: Final = ("acting_role", "compensation_type", "compensation_command")
_SCHEMA_GATE: Final = "schema:"


def build_workflow(
    mission: Mission,
    inputs: Mapping[str, Any],
    registry: BlockRegistry | None = None,
    *,
    node_seconds: float | None = None,
) -> Workflow:
    """The workflow of one run with bound ``inputs``. Build a new one for every run.

    ``registry`` makes the blocks; without it those of packs do not run. ``node_seconds`` caps each attempt of a block
    without a limit of its own, but for composites, whose blocks it caps; None leaves it open.

    Each node is named like its block. What a block says beyond its type is in the node's options: ``accept``,
    ``fallback``, ``optional``, ``lane`` and, for whoever executes attempts, ``extra`` with ``envelopes`` (those that
    narrow the run's own, outermost first), ``acting_role``, ``compensation_type`` and ``compensation_command`` where the
    mission says so.
    """
    spec = mission.spec
    workflow = Workflow(mission.name, max_steps=spec.max_steps, max_parallel=spec.max_parallel)
    maker = Maker(registry or mission.registry)
    return _Builder(mission, dict(inputs), maker, node_seconds).into(workflow)


@dataclasses.dataclass(frozen=True, slots=True)
class _Builder:
    """Builds the blocks of one mission file. ``inputs`` None: a child's, known when it begins. ``envelopes`` hold around
    it; ``folder`` is that of its file, below the outermost one."""

    mission: Mission
    inputs: Mapping[str, Any] | None
    maker: Maker
    node_seconds: float | None
    envelopes: tuple[Envelope, ...] = ()
    folder: str = ""

    def into(self, workflow: Workflow) -> Workflow:
        """Wire everything up in ``workflow``."""
        mission, spec = self.mission, self.mission.spec
        for name, block in spec.blocks.items():
            made, reads = self._make((name,), block, Values(self.inputs))
            settings = self._settings((name,), block, made)
            workflow.configure(made, name=name, reads=reads, **settings)
        for name, block in spec.blocks.items():
            if block.fallback is not None:
                workflow.configure(name, fallback=block.fallback)
        for edge in mission.graph.links:
            workflow.link(edge.source, edge.target, as_=edge.as_)
        for source in spec.branches:
            workflow.branch(source, *self._cases(source))
        for source, handler in spec.on_error.items():
            workflow.on_error(source, handler)
        return workflow.set_entry(mission.graph.entry)

    def _make(self, place: tuple[str, ...], spec: BlockSpec, values: Values) -> tuple[Block, tuple[str, ...]]:
        """The block written at a place, and the ledger keys it reads."""
        if spec.type == MAP_OVER and spec.each is not None:
            return self._map(place, spec, spec.each, values)
        if spec.type == CHILD:
            return self._child(place, spec, values)
        condition = self.mission.conditions.get(("blocks", *place, "require"))
        return self.maker.make(spec.type, self._params(place, spec), values, condition)

    def _map(
        self, place: tuple[str, ...], spec: BlockSpec, each: BlockSpec, values: Values
    ) -> tuple[Block, tuple[str, ...]]:
        inner = (*place, "each")
        made, needed = self._make(inner, each, dataclasses.replace(values, mapped=True))
        keys = values.reads(spec.params["items"])
        block = MapItems(
            made,
            items=spec.params["items"],
            values=values,
            keys=keys,
            name=place[0],
            max_parallel=spec.params.get("max_parallel", DEFAULT_PARALLEL),
            **self._settings(inner, each, made),
        )
        return block, tuple(dict.fromkeys((*keys, *needed)))

    def _child(self, place: tuple[str, ...], spec: BlockSpec, values: Values) -> tuple[Block, tuple[str, ...]]:
        name, given = spec.params["mission"], spec.params.get("inputs", {})
        child = self.mission.children[name]
        keys = values.reads(given)
        builder = _Builder(
            child,
            None,
            self.maker,
            self.node_seconds,
            (*self.envelopes, *self._own(place), child.envelope),
            folder_of(self.folder + name),
        )
        return builder.into(ChildMission(child, given=given, values=values, keys=keys)), keys

    def _params(self, place: tuple[str, ...], spec: BlockSpec) -> dict[str, Any]:
        """A block's parameters with its answer's schema read from its file, and a gate's schema under the run's name."""
        params = spec.params
        if spec.type == "llm_call":
            schema = self.mission.output_schema(place[0], each=len(place) > 1)
            return {**params, **({} if schema is None else {"output_schema": schema})}
        if spec.type == "gate_check" and self.folder:
            gates = {key: value for key in ("check", "schema") if isinstance(value := params.get(key), str)}
            return params | {
                key: f"{_SCHEMA_GATE}{self.folder}{value.removeprefix(_SCHEMA_GATE)}"
                for key, value in gates.items()
                if value.startswith(_SCHEMA_GATE)
            }
        return params

    def _settings(self, place: tuple[str, ...], spec: BlockSpec, block: Block) -> dict[str, Any]:
        """What the node says over its block; a block's own limit wins, then its type's, then the node budget (R32)."""
        extra: dict[str, object] = {key: value for key in _EXTRA if (value := getattr(spec, key)) is not None}
        envelopes = (*self.envelopes, *self._own(place))
        if envelopes:
            extra["envelopes"] = envelopes
        settings: dict[str, Any] = {
            "retry": None if spec.retry is None else _retry(spec.retry),
            "accept": spec.accept,
            "optional": spec.optional,
            "lane": LANES[spec.lane],
            "extra": extra,
        }
        if spec.timeout is not None:
            settings["timeout"] = spec.timeout
        elif self.node_seconds is not None and not block.is_workflow and block.attempt_timeout is None:
            settings["timeout"] = self.node_seconds
        return settings

    def _own(self, place: tuple[str, ...]) -> tuple[Envelope, ...]:
        return own_envelopes("/".join(place), self.mission.block_envelopes)

    def _cases(self, source: str) -> list[Case]:
        conditions, values = self.mission.conditions, Values(self.inputs)
        return [
            otherwise(case.target)
            if case.when is None
            else when(_Branch(conditions["branches", source, index, "when"], values), case.target)
            for index, case in enumerate(self.mission.spec.branches[source])
        ]


def _retry(spec: RetrySpec) -> RetryPolicy:
    return RetryPolicy(**spec.model_dump())


@dataclasses.dataclass(frozen=True, slots=True)
class _Branch:
    """A compiled condition as the scheduler asks it."""

    condition: Condition
    values: Values

    @property
    def label(self) -> str:
        return self.condition.text

    def evaluate(self, response: Response, state: Mapping[str, BlockValue]) -> bool:
        """Raises `ConditionFailed`, which fails the run at this branch."""
        outputs = outputs_in(self.condition.outputs(), state)
        value = response.data.to_python() if "value" in self.condition.names else None
        return self.condition.evaluate(self.values.given(state), outputs, value)
