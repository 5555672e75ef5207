"""Many stream items at once: a block that shows what pressure on the lanes looks like."""

from __future__ import annotations

from dataclasses import field
from typing import Final

from runtime.blocks.block import Block
from runtime.blocks.contexts import DATA, TELEMETRY, BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockValidationError
from runtime.blocks.values import BlockValue

MAX_ITEMS: Final = 10_000_000
MAX_TEXT: Final = 4096
#: Telemetry emitted in one breath: more than an edge holds, so that a large burst is certain to overflow it.
BREATH: Final = 1280


class Burst(Block, input=multiple(), output=once("map"), side_effects="none"):
    """Emit numbered items on the data and telemetry lanes, in volleys."""

    items: int = field(default=1000, metadata={"help": "Data items: kept with the run."})
    telemetry: int = field(default=0, metadata={"help": "Telemetry items: shown, and dropped when there is no room."})
    text: str = field(default="item", metadata={"help": "What every item says before its number."})
    volleys: int = field(default=1, metadata={"help": "In how many bursts the items are emitted."})
    seconds: float = field(default=0.0, metadata={"help": "Over how many seconds the volleys are spread."})

    def __post_init__(self) -> None:
        for name, low, high in (("items", 0, MAX_ITEMS), ("telemetry", 0, MAX_ITEMS), ("volleys", 1, MAX_ITEMS)):
            if not low <= getattr(self, name) <= high:
                raise _bad(f"{name} must be between {low} and {high}, not {getattr(self, name)}")
        if not 0 <= self.seconds <= 86_400:
            raise _bad(f"seconds must be between 0 and 86400, not {self.seconds}")
        if len(self.text) > MAX_TEXT:
            raise _bad(f"text is limited to {MAX_TEXT} characters")

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Any value may start it."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, int]:
        for volley in range(self.volleys):
            if volley and self.seconds:
                await ctx.sleep(self.seconds / (self.volleys - 1))
            for number in _share(self.telemetry, volley, self.volleys):
                breath = ctx.emit(TELEMETRY, f"{self.text} {number}")
                if number % BREATH == BREATH - 1:
                    await breath
            for number in _share(self.items, volley, self.volleys):
                await ctx.emit(DATA, f"{self.text} {number}")
        return {"items": self.items, "telemetry": self.telemetry}


def _share(total: int, volley: int, volleys: int) -> range:
    """The numbers one volley emits; all of them together are every number once."""
    return range(total * volley // volleys, total * (volley + 1) // volleys)


def _bad(why: str) -> BlockValidationError:
    return BlockValidationError("validation.bad_config", f"burst: {why}")
