"""Where an addressing block finds its path, address, recipient, prompt or template (blocks spec §21.1, C20)."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal, get_args

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple
from runtime.blocks.errors import BlockInputError, BlockValidationError
from runtime.blocks.values import BlockValue

AddressFrom = Literal["config_first", "input", "config"]


class Addressing(Block, abstract=True):
    """Base of blocks whose address comes from config or input; blank text counts as absent.

    A block whose address is configured takes any input, from any number of sources, unless the input is also what it
    works on (``carries_content``).
    """

    #: The config field that holds the address.
    address_field: ClassVar[str]
    #: Keys of a MAP input that may hold it, the first that does wins.
    address_keys: ClassVar[tuple[str, ...]]
    #: May a STRING input be the address?
    address_text: ClassVar[bool] = True
    #: The code for: no address anywhere.
    address_missing: ClassVar[str]
    carries_content: ClassVar[bool] = False

    address_from: AddressFrom = field(
        default="config_first",
        metadata={
            "help": "Where the address is looked up: 'config_first' (the input when the block names none), 'input', 'config'."
        },
    )

    def __post_init__(self) -> None:
        if self.address_from not in get_args(AddressFrom):
            raise self.bad_config(f"address_from must be one of {', '.join(get_args(AddressFrom))}")
        if self.address_from == "config" and self.configured is None:
            raise self.bad_config(f"with address_from 'config' the block must name its {self.address_field}")

    def bad_config(self, why: str) -> BlockValidationError:
        return BlockValidationError("validation.bad_config", f"{self.spec.type_id}: {why}")

    @property
    def input_contract(self) -> BlockValueContract:
        return multiple() if self.configured is not None and not self.carries_content else self.spec.input

    @property
    def configured(self) -> str | None:
        """The configured address, when it counts."""
        text: str = getattr(self, self.address_field)
        return text if self.address_from != "input" and text.strip() else None

    def offered(self, input: BlockValue) -> str | None:
        """The address in the input, when it counts."""
        if self.configured is not None:
            return None
        found = [input] if self.address_text and input.is_string else [input.get(key) for key in self.address_keys]
        texts = (None if item is None else item.as_string for item in found)
        return next((text for text in texts if text is not None and text.strip()), None)

    def address(self, input: BlockValue) -> str:
        """The effective address. Raises `BlockInputError` with the block's own code."""
        found = self.configured or self.offered(input)
        if found is None:
            keys = " or ".join(repr(key) for key in self.address_keys)
            plain = "the input must be it, or be" if self.address_text else "the input must be"
            raise BlockInputError(
                self.address_missing,
                f"{self.block_name} has no {self.address_field}: {plain} a map with {keys}",
                effects="none",
            )
        return found

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """There must be an address."""
        self.address(input)
