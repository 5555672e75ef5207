"""A block from one function: the short form for blocks that need no class (blocks spec §6.1).

::

    @block(input=once("string"), output=once("string"), side_effects="none")
    def shout(value, ctx, *, mark: str = "!"):
        return value.text().upper() + mark

    @shout.validator
    def _(value):
        if not value.text():
            raise BlockInputError("input.empty", "there is nothing to shout")

    Workflow("w").link(reader, shout(mark="?"))

``shout`` is now a `Block` class like any other: made with config, registered, packed, exported. The function takes the
value and, if it wants, the context; what follows ``*`` is config. It may be plain, ``async`` or an async generator.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, overload

from runtime.blocks.block import Block
from runtime.blocks.errors import BlockDefinitionError

F = TypeVar("F", bound=Callable[..., Any])

_EXPECTED: Final = "expected '(value)' or '(value, ctx)', and config after '*'"
_TAKEN: Final = frozenset({"validator", "function"})


class FunctionBlock(Block, abstract=True):
    """Base of the classes `block` makes. ``function`` is the author's own."""

    function: ClassVar[Callable[..., Any]]

    if TYPE_CHECKING:

        def __init__(self, **config: Any) -> None: ...

    def validate(self, input: Any, ctx: Any) -> None:
        """Nothing to refuse, until `validator` says otherwise."""

    @classmethod
    def validator(cls, function: F) -> F:
        """Decorator: ``function(value)`` or ``(value, ctx)``, naming after ``*`` the config it looks at, refuses values.

        Raises `BlockDefinitionError` ``definition.async_validate``, ``definition.bad_signature``.
        """
        takes_ctx, names = _shape(function, cls.__name__)
        if _is_async(function) or inspect.isgeneratorfunction(function):
            raise _error(cls.__name__, "async_validate", f"validator {_name(function)} must be plain, without yield")
        unknown = sorted(set(names) - cls.__annotations__.keys())
        if unknown:
            raise _error(
                cls.__name__,
                "bad_signature",
                f"validator {_name(function)} asks for {unknown[0]!r}, which {cls.__name__} does not take as config",
            )

        def validate(self: Any, input: Any, ctx: Any) -> Any:
            return function(*_given(takes_ctx, input, ctx), **{name: getattr(self, name) for name in names})

        cls.validate = validate  # type: ignore[method-assign]
        return function


@overload
def block(function: Callable[..., Any], /) -> type[FunctionBlock]: ...
@overload
def block(**keywords: Any) -> Callable[[Callable[..., Any]], type[FunctionBlock]]: ...
def block(function: Callable[..., Any] | None = None, /, **keywords: Any) -> Any:
    """Make a block class from a function. ``keywords`` are the class keywords of `Block`.

    ``type_id`` is the function's name unless given. Raises `BlockDefinitionError` as a class statement would.
    """
    if function is None:
        return lambda later: _made(later, keywords)
    return _made(function, keywords)


def _made(function: Callable[..., Any], keywords: Mapping[str, Any]) -> type[FunctionBlock]:
    if isinstance(function, type) or not callable(function):
        raise _error(str(function), "bad_signature", "@block decorates a function; a class subclasses Block instead")
    name = _name(function)
    takes_ctx, names = _shape(function, name)
    parameters = inspect.signature(function).parameters
    body: dict[str, Any] = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__annotations__": {item: _annotation(name, parameters[item]) for item in names},
        "function": staticmethod(function),
        "run": _runner(function, takes_ctx, names),
    }
    body |= {
        item: parameters[item].default for item in names if parameters[item].default is not inspect.Parameter.empty
    }
    given = {"type_id": name.strip("_"), "display_name": name.strip("_").replace("_", " ").capitalize(), **keywords}
    return types.new_class(name, (FunctionBlock,), given, lambda namespace: namespace.update(body))


def _shape(function: Callable[..., Any], owner: str) -> tuple[bool, tuple[str, ...]]:
    """Does it take the context, and which config? Raises ``definition.bad_signature``."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    starred = [item for item in parameters if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    if starred or len(positional) not in (1, 2):
        found = ", ".join(str(item) for item in parameters)
        raise _error(owner, "bad_signature", f"{_name(function)}({found}): {_EXPECTED}")
    names = tuple(item.name for item in parameters if item.kind is item.KEYWORD_ONLY)
    clash = sorted(_TAKEN & set(names))
    if clash:
        raise _error(owner, "bad_config", f"the config parameter {clash[0]!r} is a name of function blocks itself")
    return len(positional) == 2, names


def _annotation(owner: str, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        raise _error(
            owner, "bad_config", f"the config parameter {parameter.name!r} needs a type: '{parameter.name}: str'"
        )
    return parameter.annotation


def _runner(function: Callable[..., Any], takes_ctx: bool, names: tuple[str, ...]) -> Callable[..., Any]:
    """A ``run`` method of the same kind as ``function``: the kind decides how it is executed."""

    def call(self: Any, input: Any, ctx: Any) -> Any:
        return function(*_given(takes_ctx, input, ctx), **{name: getattr(self, name) for name in names})

    def run(self: Any, input: Any, ctx: Any) -> Any:
        return call(self, input, ctx)

    async def run_async(self: Any, input: Any, ctx: Any) -> Any:
        return await call(self, input, ctx)

    async def run_stream(self: Any, input: Any, ctx: Any) -> Any:
        stream = call(self, input, ctx)
        try:
            async for item in stream:
                yield item
        finally:
            await stream.aclose()

    if inspect.isgeneratorfunction(function):
        name = _name(function)
        raise _error(name, "bad_signature", f"{name} must not be a plain generator; use 'async def' with yield")
    if inspect.isasyncgenfunction(function):
        return run_stream
    return run_async if inspect.iscoroutinefunction(function) else run


def _given(takes_ctx: bool, input: Any, ctx: Any) -> tuple[Any, ...]:
    return (input, ctx) if takes_ctx else (input,)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _error(owner: str, code: str, why: str) -> BlockDefinitionError:
    return BlockDefinitionError(f"definition.{code}", f"block function {owner}: {why}")


__all__ = ["FunctionBlock", "block"]
