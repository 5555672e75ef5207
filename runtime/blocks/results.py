"""What one run of a block produced: one value, several, or a stream of them (blocks spec §4)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from inspect import isasyncgen
from typing import Any

from runtime.blocks.contracts import BlockMode, BlockValueContract, BlockValueKindSet
from runtime.blocks.errors import BlockRuntimeError, engine_error
from runtime.blocks.values import NULL, BlockValue, list_of
from runtime.kernel.redaction import Redactor


class BlockRunResult:
    """Base of the three variants; reading one as another raises `TypeError`."""

    __slots__ = ()
    mode: BlockMode

    @property
    def data(self) -> BlockValue:
        """The result as one value: the value, the LIST of values, or NULL for a stream."""
        return NULL

    def without_secrets(self, redactor: Redactor) -> BlockRunResult:
        """The same result with every secret taken out; a stream is nobody's value yet."""
        return self

    def as_once(self) -> BlockValue:
        raise TypeError(f"a {self.mode.value} result holds no single value")

    def as_multiple(self) -> tuple[BlockValue, ...]:
        raise TypeError(f"a {self.mode.value} result holds no value list")

    def as_stream(self) -> AsyncIterator[Any]:
        raise TypeError(f"a {self.mode.value} result holds no stream")


class Once(BlockRunResult):
    """Exactly one value."""

    __slots__ = ("value",)
    mode = BlockMode.ONCE

    def __init__(self, value: object = None) -> None:
        self.value = value if type(value) is BlockValue else BlockValue.of(value)

    def without_secrets(self, redactor: Redactor) -> Once:
        return Once(self.value.without_secrets(redactor))

    @property
    def data(self) -> BlockValue:
        return self.value

    def as_once(self) -> BlockValue:
        return self.value


class Multiple(BlockRunResult):
    """An ordered, possibly empty, group of values."""

    __slots__ = ("_data", "values")
    mode = BlockMode.MULTIPLE

    def __init__(self, values: Iterable[object]) -> None:
        self.values = tuple(BlockValue.of(value) for value in values)
        self._data = list_of(self.values)

    def without_secrets(self, redactor: Redactor) -> Multiple:
        return Multiple(value.without_secrets(redactor) for value in self.values)

    @property
    def data(self) -> BlockValue:
        return self._data

    def as_multiple(self) -> tuple[BlockValue, ...]:
        return self.values


class Recurring(BlockRunResult):
    """A stream of values; whoever takes it closes it. ``attempt`` is the engine's record of who opened it."""

    __slots__ = ("_stream", "attempt")
    mode = BlockMode.RECURRING

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream: AsyncIterator[Any] | None = stream
        self.attempt: object = None

    def as_stream(self) -> AsyncIterator[Any]:
        if self._stream is None:
            raise TypeError("the stream has been taken already; it can be consumed once")
        stream, self._stream = self._stream, None
        return stream

    async def aclose(self) -> None:
        """Close a stream nobody took; does nothing when it was taken."""
        stream, self._stream = self._stream, None
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def normalise(returned: object, contract: BlockValueContract) -> BlockRunResult:
    """Wrap what ``run`` returned and check it against the output contract; raises ``runtime.bad_result``."""
    result = returned if isinstance(returned, BlockRunResult) else _wrapped(returned)
    if result.mode is not contract.mode:
        raise bad_result(contract, f"a {result.mode.value} result")
    if contract.kinds is BlockValueKindSet.ANY:
        return result
    values = (result.value,) if isinstance(result, Once) else result.values if isinstance(result, Multiple) else ()
    for value in values:
        if not contract.kinds.contains(value.kind):
            raise bad_result(contract, f"a {value.kind.name.lower()} value")
    return result


def _wrapped(returned: object) -> BlockRunResult:
    if type(returned) is BlockValue:
        return Once(returned)
    if isasyncgen(returned):
        return Recurring(returned)
    return Once(returned)


def bad_result(contract: BlockValueContract, actual: str) -> BlockRuntimeError:
    """What ``run`` produced does not fit its contract."""
    return engine_error(
        BlockRuntimeError,
        "runtime.bad_result",
        f"run must produce {contract}, but produced {actual}",
        details={"expected": str(contract), "actual": actual},
    )
