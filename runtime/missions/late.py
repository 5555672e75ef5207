"""Blocks that are built when an attempt knows the values they refer to.

Values come from three places: the inputs (of the run, or of a child mission: then its ledger holds them under
``$input``), what earlier blocks left in the ledger, and the item a `map_over` is at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError, BlockValidationError
from runtime.blocks.execute import run_inner
from runtime.blocks.ledger import INPUT
from runtime.blocks.registry import BlockRegistry, BlockTypeInfo
from runtime.blocks.results import BlockRunResult
from runtime.blocks.values import BlockValue
from runtime.missions import references
from runtime.missions.conditions import Condition, ConditionFailed
from runtime.missions.references import Item, ReferenceMissing


@dataclass(frozen=True, slots=True)
class Values:
    """Where the references of one place of a mission look. ``inputs`` None: those of a child mission, in its ledger.

    ``mapped`` says that the place is inside ``each``: the node's input is the item, its name the index.
    """

    inputs: Mapping[str, Any] | None
    mapped: bool = False

    def reads(self, written: object, conditions: Iterable[Condition] = ()) -> tuple[str, ...]:
        """The ledger keys an attempt needs, each once."""
        conditions = tuple(conditions)
        asked = [name for condition in conditions for name in condition.outputs()]
        needed = (*references.names(written, "outputs"), *asked)
        own = self.inputs is None and (
            references.names(written, "inputs")
            or any(name.startswith("inputs.") for condition in conditions for name in condition.names)
        )
        return tuple(dict.fromkeys((*needed, INPUT) if own else needed))

    def given(self, state: Mapping[str, BlockValue]) -> Mapping[str, Any]:
        """The inputs, as plain values."""
        if self.inputs is not None:
            return self.inputs
        held: Mapping[str, Any] = state[INPUT].to_python() if INPUT in state else {}
        return held

    def resolve(
        self, written: Any, reads: Iterable[str], state: Mapping[str, BlockValue], input: BlockValue, node: str
    ) -> Any:
        """``written`` with its references replaced. Raises `BlockValidationError` ``validation.reference_missing``."""
        item = Item(input.to_python(), int(node)) if self.mapped else None
        try:
            return references.resolve(written, self.given(state), outputs_in(reads, state), item)
        except ReferenceMissing as missing:
            raise BlockValidationError("validation.reference_missing", missing.message, effects="none") from None


def outputs_in(reads: Iterable[str], state: Mapping[str, BlockValue]) -> dict[str, Any]:
    """What earlier blocks left, as plain values."""
    return {name: state[name].to_python() for name in reads if name in state and name != INPUT}


class _Late(Block, abstract=True, local=True, input=multiple()):
    """Stands in for a block of the same type until an attempt knows the values its parameters refer to."""

    make: Callable[[Mapping[str, Any]], Block]
    params: Mapping[str, Any]
    values: Values
    keys: tuple[str, ...]
    condition: Condition | None = None
    #: The block as far as its parameters are known; None when too little is.
    sketch: Block | None = None

    @property
    def input_contract(self) -> BlockValueContract:
        """What the block takes may depend on parameters; when they are not known, the block itself judges."""
        if self.sketch is not None:
            return self.sketch.input_contract
        return self.spec.input if self.is_operation else multiple()

    @property
    def output_contract(self) -> BlockValueContract:
        return self.spec.output if self.sketch is None else self.sketch.output_contract

    @property
    def output_count(self) -> int | None:
        return None if self.sketch is None else self.sketch.output_count

    @property
    def config_side_effects(self) -> SideEffects | None:
        return self.spec.side_effects if self.sketch is None else self.sketch.config_side_effects

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The real block judges the input, once it exists."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> BlockRunResult:
        values = self.values.resolve(self.params, self.keys, ctx.state, input, ctx.node_name)
        if self.condition is not None:
            given, outputs = self.values.given(ctx.state), outputs_in(self.keys, ctx.state)
            try:
                values = _decided(values, self.condition, given, outputs, input)
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


class Maker:
    """Makes the blocks of one run; one stand-in class per type."""

    def __init__(self, registry: BlockRegistry) -> None:
        self._registry = registry
        self._classes: dict[str, Callable[..., Block]] = {}

    def make(
        self, type_id: str, params: Mapping[str, Any], values: Values, condition: Condition | None
    ) -> tuple[Block, tuple[str, ...]]:
        """The block itself, or its stand-in when it has to wait for values or for a gate's condition; and what it reads."""
        if condition is None and not references.has_reference(params):
            # Even without a reference a plain ``${`` is spelt ``$${``.
            return self._registry.create(type_id, references.resolve(params, {}, {})), ()
        if type_id not in self._classes:
            self._classes[type_id] = _late_class(self._registry.info(type_id))
        keys = values.reads(params, () if condition is None else (condition,))

        def create(config: Mapping[str, Any]) -> Block:
            return self._registry.create(type_id, config)

        sketch = None if condition is not None else self._sketch(type_id, params)
        late = self._classes[type_id](
            make=create, params=params, values=values, keys=keys, condition=condition, sketch=sketch
        )
        return late, keys

    def _sketch(self, type_id: str, params: Mapping[str, Any]) -> Block | None:
        """The block with its references left standing as the texts they are, where the block takes texts there."""
        try:
            return self._registry.create(type_id, params)
        except BlockError:
            return None


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
        timeout=info.timeout,
        retry=info.retry,
    ):
        is_operation: ClassVar[bool] = info.operation

    return Late
