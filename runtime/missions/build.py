"""From a loaded mission to a workflow that can run.

A block whose parameters hold no references is built now. One that holds some becomes a `_Late` block of the same type:
when an attempt runs, the references are looked up in the inputs and in what earlier blocks left in the ledger, the
real block is built from the values, and it runs inside that same attempt. The graph, the journal and the rules of
recovery see one block of the declared type.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from runtime.blocks.block import Block
from runtime.blocks.conditions import Case, otherwise, when
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple
from runtime.blocks.envelope import Response
from runtime.blocks.errors import BlockValidationError
from runtime.blocks.execute import run_inner
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.registry import BlockRegistry, BlockTypeInfo
from runtime.blocks.results import BlockRunResult
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.missions import references
from runtime.missions.conditions import Condition, ConditionFailed
from runtime.missions.graph import LANES
from runtime.missions.loader import Mission
from runtime.missions.model import BlockSpec, RetrySpec
from runtime.missions.references import ReferenceMissing

_EXTRA: Final = ("acting_role", "compensation_type", "compensation_command")


def build_workflow(
    mission: Mission,
    inputs: Mapping[str, Any],
    registry: BlockRegistry | None = None,
    *,
    node_seconds: float | None = None,
) -> Workflow:
    """The workflow of one run with bound ``inputs``. Build a new one for every run.

    ``registry`` makes the blocks; without it those of packs do not run. ``node_seconds`` caps each attempt of a block without a limit of its own; None leaves it open.

    Each node is named like its block. What a block says beyond its type is in the node's options: ``accept``,
    ``fallback``, ``optional``, ``lane`` and, for whoever executes attempts, ``extra`` with ``envelope``,
    ``acting_role``, ``compensation_type`` and ``compensation_command`` where the mission says so.
    """
    spec, maker = mission.spec, _Maker(registry or mission.registry, dict(inputs))
    workflow = Workflow(mission.name, max_steps=spec.max_steps, max_parallel=spec.max_parallel)
    for name in spec.blocks:
        _register(workflow, mission, name, maker)
        _limit(workflow, name, spec.blocks[name].timeout, node_seconds)
    for name, block in spec.blocks.items():
        if block.fallback is not None:
            workflow.configure(name, fallback=block.fallback)
    for edge in mission.graph.links:
        workflow.link(edge.source, edge.target)
    for source in spec.branches:
        workflow.branch(source, *_cases(mission, source, dict(inputs)))
    for source, handler in spec.on_error.items():
        workflow.on_error(source, handler)
    return workflow.set_entry(mission.graph.entry)


def run_outputs(mission: Mission, inputs: Mapping[str, Any], produced: Mapping[str, BlockValue]) -> dict[str, Any]:
    """What the run reports, from what its blocks ``produced``; null where the way there was not taken."""
    plain = {name: value.to_python() for name, value in produced.items()}
    result: dict[str, Any] = {}
    for name, value in mission.spec.outputs.items():
        try:
            result[name] = references.resolve(value, inputs, plain)
        except ReferenceMissing:
            result[name] = None
    return result


def _register(workflow: Workflow, mission: Mission, name: str, maker: _Maker) -> None:
    spec = mission.spec.blocks[name]
    params = block_params(mission, name)
    condition = mission.conditions.get(("blocks", name, "require"))
    workflow.configure(
        maker.make(spec.type, params, condition),
        name=name,
        reads=_reads(params, condition),
        retry=_retry(spec.retry),
        accept=spec.accept,
        optional=spec.optional,
        lane=LANES[spec.lane],
        extra=_extra(mission, name, spec),
    )


def _limit(workflow: Workflow, name: str, own: float | None, node_seconds: float | None) -> None:
    """A block's own limit wins, then what its type declares, then the node budget (ruling R32)."""
    if own is not None:
        workflow.configure(name, timeout=own)
    elif node_seconds is not None and workflow.wiring.nodes[name].block.attempt_timeout is None:
        workflow.configure(name, timeout=node_seconds)


def block_params(mission: Mission, name: str) -> dict[str, Any]:
    """A block's parameters with its answer's schema read from its file."""
    params = mission.spec.blocks[name].params
    if mission.spec.blocks[name].type != "llm_call":
        return params
    schema = mission.output_schema(name)
    return {**params, **({} if schema is None else {"output_schema": schema})}


def _reads(params: Mapping[str, Any], condition: Condition | None) -> tuple[str, ...]:
    """The blocks whose outputs an attempt needs, each once."""
    asked = () if condition is None else condition.outputs()
    return tuple(dict.fromkeys((*references.names(params, "outputs"), *asked)))


def _extra(mission: Mission, name: str, spec: BlockSpec) -> dict[str, object]:
    extra: dict[str, object] = {key: value for key in _EXTRA if (value := getattr(spec, key)) is not None}
    if name in mission.block_envelopes:
        extra["envelope"] = mission.block_envelopes[name]
    return extra


def _retry(spec: RetrySpec | None) -> RetryPolicy | None:
    return None if spec is None else RetryPolicy(**spec.model_dump())


# -- blocks built when their values are known ------------------------------------------------------------------


class _Late(Block, abstract=True, local=True, input=multiple()):
    """Stands in for a block of the same type until an attempt knows the values its parameters refer to."""

    make: Callable[[Mapping[str, Any]], Block]
    params: Mapping[str, Any]
    inputs: Mapping[str, Any]
    condition: Condition | None = None

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The real block judges the input, once it exists."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> BlockRunResult:
        sources = _reads(self.params, self.condition)
        outputs = {name: ctx.state[name].to_python() for name in sources if name in ctx.state}
        try:
            values = references.resolve(self.params, self.inputs, outputs)
            if self.condition is not None:
                values = _decided(values, self.condition, self.inputs, outputs, input)
        except ReferenceMissing as missing:
            raise BlockValidationError("validation.reference_missing", missing.message, effects="none") from None
        except ConditionFailed as undecided:
            raise BlockValidationError("graph.condition_failed", undecided.message, effects="none") from None
        return await run_inner(self.make(values), input, ctx)


def _decided(
    values: Mapping[str, Any],
    condition: Condition,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    given: BlockValue,
) -> dict[str, Any]:
    """A gate's ``require`` as the check it stands for. Raises `ConditionFailed`."""
    value = given.to_python() if "value" in condition.names else None
    left = condition.evaluate(inputs, outputs, value)
    rest = {name: item for name, item in values.items() if name != "require"}
    compared = {"left": left, "op": "eq", "right": True, "text": condition.text}
    return {**rest, "check": "compare", "condition": compared}


class _Maker:
    """Makes the blocks of one workflow; one stand-in class per type."""

    def __init__(self, registry: BlockRegistry, inputs: Mapping[str, Any]) -> None:
        self._registry = registry
        self._inputs = inputs
        self._classes: dict[str, Callable[..., Block]] = {}

    def make(self, type_id: str, params: Mapping[str, Any], condition: Condition | None) -> Block:
        """The block itself, or its stand-in when it has to wait for values or for a gate's condition."""
        if condition is None and not references.has_reference(params):
            # Even without a reference a plain ``${`` is spelt ``$${``.
            return self._registry.create(type_id, references.resolve(params, {}, {}))
        if type_id not in self._classes:
            self._classes[type_id] = _late_class(self._registry.info(type_id))
        create = functools.partial(self._registry.create, type_id)
        return self._classes[type_id](make=create, params=params, inputs=self._inputs, condition=condition)


def _late_class(info: BlockTypeInfo) -> Callable[..., Block]:
    """A stand-in class with the type id and the contracts of a block type."""

    class Late(
        _Late,
        type_id=info.type_id,
        display_name=info.display_name,
        version=info.version,
        input=info.input,
        output=info.output,
        side_effects=info.side_effects,
    ):
        is_operation: ClassVar[bool] = info.operation

    return Late


# -- branches --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Branch:
    """A compiled condition as the scheduler asks it."""

    condition: Condition
    inputs: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.condition.text

    def evaluate(self, response: Response, state: Mapping[str, BlockValue]) -> bool:
        """Raises `ConditionFailed`, which fails the run at this branch."""
        outputs = {name: state[name].to_python() for name in self.condition.outputs() if name in state}
        value = response.data.to_python() if "value" in self.condition.names else None
        return self.condition.evaluate(self.inputs, outputs, value)


def _cases(mission: Mission, source: str, inputs: Mapping[str, Any]) -> list[Case]:
    return [
        otherwise(case.target)
        if case.when is None
        else when(_Branch(mission.conditions["branches", source, index, "when"], inputs), case.target)
        for index, case in enumerate(mission.spec.branches[source])
    ]
