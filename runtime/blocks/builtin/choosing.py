"""Small pure blocks that look at a value and choose (blocks spec §21, tier 2)."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from runtime.blocks.builtin.shaping import Pure
from runtime.blocks.conditions import KeyCase, case
from runtime.blocks.contexts import BlockContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockValidationError
from runtime.blocks.values import BlockValue

THEN: Final = "then"
ELSE: Final = "else"


class Filter(Pure, input=once("list"), output=once("list")):
    """Keep the elements of a list that match, in their order."""

    contains: str | None = dataclasses.field(default=None, metadata={"help": "Keep what holds this text."})
    equals: Any = dataclasses.field(default=None, metadata={"help": "Keep what equals this value."})
    field_equals: dict[str, Any] | None = dataclasses.field(
        default=None, metadata={"help": "Keep maps whose member 'field' equals 'value'."}
    )

    def __post_init__(self) -> None:
        if sum(item is not None for item in (self.contains, self.equals, self.field_equals)) != 1:
            raise _bad("filter", "give exactly one of contains, equals, field_equals")
        asked = self.field_equals
        if asked is not None and (set(asked) != {"field", "value"} or not isinstance(asked["field"], str)):
            raise _bad("filter", "field_equals takes 'field', the member's name, and 'value', and nothing else")

    def run(self, input: BlockValue, ctx: BlockContext) -> list[BlockValue]:
        condition = self._condition()
        return [item for item in input.expect_list() if condition.matches(item)]

    def _condition(self) -> KeyCase:
        if self.field_equals is not None:
            return case(key=self.field_equals["field"], equals=self.field_equals["value"])
        return case(equals=self.equals, contains=self.contains)


class Conditional(Pure, input=multiple(), output=once("string")):
    """Say 'then' when the input matches, else 'else'. A branch with conditions says more."""

    field: str | None = dataclasses.field(
        default=None, metadata={"help": "The member looked at, dotted for inner ones; the input when silent."}
    )
    equals: Any = dataclasses.field(default=None, metadata={"help": "Match what equals this value."})
    contains: str | None = dataclasses.field(default=None, metadata={"help": "Match what holds this text."})

    def __post_init__(self) -> None:
        if (self.equals is None) == (self.contains is None):
            raise _bad("conditional", "give exactly one of equals, contains")

    def run(self, input: BlockValue, ctx: BlockContext) -> str:
        return THEN if case(key=self.field, equals=self.equals, contains=self.contains).matches(input) else ELSE


def _bad(type_id: str, why: str) -> BlockValidationError:
    return BlockValidationError("validation.bad_config", f"{type_id}: {why}")
