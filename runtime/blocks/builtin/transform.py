"""Functions by name: what a mission file may apply to a value without code of its own (blocks spec §21)."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import field
from typing import ClassVar, Final

from runtime.blocks.block import Block
from runtime.blocks.builtin.shaping import applied
from runtime.blocks.contexts import BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockValidationError, RegistryError
from runtime.blocks.values import BlockValue

Transform = Callable[[BlockValue], object]


class TransformRegistry:
    """Named functions of a value; what they return travels on. The shipped ones survive `clear`."""

    def __init__(self) -> None:
        self._functions: dict[str, Transform] = {}
        self.clear()

    def register(self, name: str, function: Transform) -> None:
        """Raises `RegistryError` ``registry.reserved_name`` for a name already taken."""
        if name in self._functions:
            raise RegistryError("registry.reserved_name", f"a transform named {name!r} exists already")
        self._functions[name] = function

    def lookup(self, name: str) -> Transform | None:
        return self._functions.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._functions))

    def clear(self) -> None:
        self._functions = {"identity": lambda value: value}


#: The process-wide default.
TRANSFORMS: Final = TransformRegistry()


class CustomTransform(Block, display_name="Transform", input=multiple(), output=once(), side_effects="none"):
    """Apply a registered function to the input."""

    transforms: ClassVar[TransformRegistry] = TRANSFORMS

    transform: str = field(default="identity", metadata={"help": "The function's name; 'identity' changes nothing."})

    def __post_init__(self) -> None:
        if self.transforms.lookup(self.transform) is None:
            raise BlockValidationError(
                "validation.bad_config",
                f"{self.spec.type_id}: there is no transform {self.transform!r}; known: {', '.join(self.transforms.names)}",
            )

    @classmethod
    def using(cls, transforms: TransformRegistry) -> type[CustomTransform]:
        """The same block type with functions of its own, for `BlockRegistry.override`."""

        keywords = {"type_id": cls.spec.type_id, "display_name": cls.spec.display_name}
        members = {"transforms": transforms, "__doc__": cls.__doc__, "__module__": cls.__module__}
        return types.new_class(cls.__name__, (cls,), keywords, lambda body: body.update(members))

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The function judges the value."""

    def run(self, input: BlockValue, ctx: BlockingContext) -> object:
        function = self.transforms.lookup(self.transform)
        if function is None:
            raise BlockValidationError("validation.bad_config", f"the transform {self.transform!r} was removed")
        return applied(function, input)
