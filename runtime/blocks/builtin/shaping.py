"""Small pure blocks that shape values between the ones that do something (blocks spec §21)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Final, Literal

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.errors import BlockError, BlockInputError, BlockRuntimeError, BlockValidationError
from runtime.blocks.results import Multiple
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import NULL, BlockValue
from runtime.kernel.clock import timestamp

#: Outputs one text may be split into. What splits texts works in a thread, because they may be long.
MAX_PARTS: Final = 100_000


class Pure(Block, abstract=True, side_effects="none", inline=True):
    """Base of blocks whose run is instant and touches nothing."""

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The kind gate says everything there is to check."""


class MapInput(Pure, local=True, input=multiple()):
    """Apply a Python function to the input; see `map_input`."""

    function: Callable[[BlockValue], object]
    takes: BlockValueContract | None = None
    gives: BlockValueContract | None = None

    @property
    def input_contract(self) -> BlockValueContract:
        return self.takes or self.spec.input

    @property
    def output_contract(self) -> BlockValueContract:
        return self.gives or self.spec.output

    def run(self, input: BlockValue, ctx: BlockContext) -> object:
        return applied(self.function, input)


def applied(function: Callable[[BlockValue], object], value: BlockValue) -> object:
    """What the function makes of the value; raises ``transform.execution_failed`` for whatever else it raises."""
    try:
        return function(value)
    except BlockError:
        raise
    except Exception as error:
        told = clean_text(f"{type(error).__name__}: {error}")
        raise BlockRuntimeError("transform.execution_failed", f"the function failed: {told}") from error


def map_input(
    function: Callable[[BlockValue], object],
    name: str | None = None,
    input: BlockValueContract | None = None,
    output: BlockValueContract | None = None,
) -> MapInput:
    """A block from a synchronous function of the input value; what it returns travels on."""
    block = MapInput(function=function, takes=input, gives=output)
    return block.named(name) if name else block


class Echo(Pure, input=multiple(), output=once("string")):
    """Pass the text form of the input on."""

    def run(self, input: BlockValue, ctx: BlockContext) -> str:
        return input.text()


class Combine(Pure, input=multiple(), output=once("map")):
    """Name the incoming values: the i-th key takes the i-th source."""

    keys: list[str] = field(metadata={"help": "One name per source, in link order."})

    def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, BlockValue]:
        sources = sources_of(input, ctx)
        return {key: sources[index] if index < len(sources) else NULL for index, key in enumerate(self.keys)}


def sources_of(input: BlockValue, ctx: BlockContext) -> Sequence[BlockValue]:
    """What each source delivered: the parts of a joined LIST, a single value, or nothing at an entry without input."""
    if ctx.joined:
        return input.expect_list()
    return () if input.is_null and not ctx.sources else (input,)


class Merge(Pure, input=multiple(), output=once("string")):
    """Join the text of everything that comes in, in link order."""

    separator: str = field(default="\n", metadata={"help": "What stands between two texts; newline when silent."})

    def run(self, input: BlockValue, ctx: BlockContext) -> str:
        return self.separator.join(source.text() for source in sources_of(input, ctx))


class SplitByKeys(Pure, input=once("map", "string", "null"), output=multiple(), inline=False):
    """Give each of several members of a map its own output; a text is read as JSON."""

    keys: list[str] = field(metadata={"help": "The members, in the order of the outputs; absent ones are null."})

    @property
    def output_count(self) -> int:
        return len(self.keys)

    def run(self, input: BlockValue, ctx: BlockContext) -> Multiple:
        members = _members(input)
        return Multiple([members.get(key, NULL) for key in self.keys])


def _members(input: BlockValue) -> BlockValue:
    if input.is_null:
        return BlockValue.of({})
    text = input.as_string
    if text is None:
        return input
    try:
        read = BlockValue.of(json.loads(text))
    except (ValueError, RecursionError, BlockInputError) as error:
        raise BlockInputError("input.bad_json", f"the text is not JSON: {clean_text(str(error))}") from None
    if not read.is_map:
        raise BlockInputError("input.not_object", f"the JSON must be an object, not a {read.kind.name.lower()}")
    return read


class SplitFirst(Pure, input=once("string"), output=once("map")):
    """Cut a text at the first delimiter: the item before it, and the rest."""

    delimiter: str = field(default="\n", metadata={"help": "Where to cut; empty means newline."})

    def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, str]:
        item, _, rest = input.expect_string().partition(self.delimiter or "\n")
        return {"item": item, "rest": rest}


class SelectFirst(Pure, input=once("list", "string", "null"), output=once("string")):
    """Pick one text of a list."""

    strategy: Literal["first", "last", "latest"] = field(
        default="first", metadata={"help": "'latest' takes the greatest by code-point order."}
    )

    def __post_init__(self) -> None:
        if self.strategy not in ("first", "last", "latest"):
            raise BlockValidationError("validation.bad_config", f"select_first: unknown strategy {self.strategy!r}")

    def run(self, input: BlockValue, ctx: BlockContext) -> str:
        items = () if input.is_null else (input,) if input.is_string else input.expect_list()
        if not items:
            raise BlockInputError("input.empty_list", "there is nothing to select from")
        texts = [item.as_string for item in items]
        plain = [text for text in texts if text is not None]
        if len(plain) < len(texts):
            raise BlockInputError("input.element_kind", "every element must be a string")
        return max(plain) if self.strategy == "latest" else plain[0 if self.strategy == "first" else -1]


class SplitLines(Pure, input=once("string", "null"), output=multiple("string"), inline=False):
    """Split a text into several outputs, one per line."""

    delimiter: str = field(default="\n", metadata={"help": "What separates the parts; empty means newline."})
    trim_each: bool = field(default=True, metadata={"help": "Remove white space around each part."})
    skip_empty: bool = field(default=True, metadata={"help": "Leave empty parts out."})

    def run(self, input: BlockValue, ctx: BlockContext) -> Multiple:
        text = input.as_string
        parts = [] if text is None else text.split(self.delimiter or "\n")
        if len(parts) > MAX_PARTS:
            raise BlockInputError("transform.invalid_input", f"{len(parts)} parts are more than {MAX_PARTS}")
        if self.trim_each:
            parts = [part.strip() for part in parts]
        return Multiple([part for part in parts if part or not self.skip_empty])


class Trigger(Pure, input=multiple(), output=once("string")):
    """Start something: whatever comes in, the current time in UTC goes out."""

    def run(self, input: BlockValue, ctx: BlockContext) -> str:
        return timestamp(ctx.services.clock.now())


class Delay(Block, input=multiple(), side_effects="none"):
    """Wait, then pass the input on."""

    seconds: float = field(metadata={"help": "How long to wait."})

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise BlockValidationError(
                "validation.bad_config", f"delay: seconds must not be negative, not {self.seconds}"
            )

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Any value may wait."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> BlockValue:
        await ctx.services.clock.sleep(self.seconds)
        return input
