"""The one kind of value that crosses block boundaries: immutable, tagged, comparable, serialisable.

A `BlockValue` knows its kind, so ``1``, ``1.0`` and ``true`` never blur, and a value that was accepted here can be
encoded, hashed, journalled and restored without loss. Everything that could not is refused at the door
(blocks spec §3). Depth is kept per value so that joining accepted values stays a constant-time check.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any, Final, cast, overload

from runtime.blocks.errors import BlockInputError
from runtime.kernel.redaction import Redactor

MAX_DEPTH: Final = 64
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1


class BlockValueKind(IntEnum):
    """The eight kinds; the number is the kind's bit in a kind set and in pack manifests."""

    NULL = 1
    BOOL = 2
    INT = 4
    FLOAT = 8
    STRING = 16
    BYTES = 32
    LIST = 64
    MAP = 128


_NULL, _BOOL, _INT, _FLOAT, _STRING, _BYTES, _LIST, _MAP = BlockValueKind


class BlockValue:
    """One immutable value. Build it with `of`; read it with the accessors or by matching ``(kind, payload)``.

    LIST payloads are tuples of values, MAP payloads read-only mappings in ascending key order.
    """

    __match_args__ = ("kind", "payload")
    __slots__ = ("_depth", "_hash", "kind", "payload")

    kind: BlockValueKind
    payload: Any
    _depth: int
    _hash: int | None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a BlockValue never changes; build a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a BlockValue never changes; build a new one")

    def __copy__(self) -> BlockValue:
        return self

    def __deepcopy__(self, memo: object) -> BlockValue:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (BlockValue.of, (self.to_python(),))

    # -- construction ---------------------------------------------------------------------------------------

    @classmethod
    def of(cls, obj: object) -> BlockValue:
        """Convert a Python object, recursively. Raises `BlockInputError` with a ``value.*`` code."""
        return _convert(obj, MAX_DEPTH)

    @classmethod
    def map(cls, pairs: Iterable[tuple[str, object]]) -> BlockValue:
        """A MAP from pairs; a repeated key is ``value.duplicate_key``."""
        items: dict[str, object] = {}
        for key, value in pairs:
            if key in items:
                raise BlockInputError("value.duplicate_key", f"the key {key!r} appears twice")
            items[key] = value
        return _convert_map(items, MAX_DEPTH)

    # -- questions ------------------------------------------------------------------------------------------

    @property
    def is_null(self) -> bool:
        return self.kind is _NULL

    @property
    def is_bool(self) -> bool:
        return self.kind is _BOOL

    @property
    def is_int(self) -> bool:
        return self.kind is _INT

    @property
    def is_float(self) -> bool:
        return self.kind is _FLOAT

    @property
    def is_string(self) -> bool:
        return self.kind is _STRING

    @property
    def is_bytes(self) -> bool:
        return self.kind is _BYTES

    @property
    def is_list(self) -> bool:
        return self.kind is _LIST

    @property
    def is_map(self) -> bool:
        return self.kind is _MAP

    @property
    def as_null(self) -> None:
        return None

    @property
    def as_bool(self) -> bool | None:
        return self.payload if self.kind is _BOOL else None

    @property
    def as_int(self) -> int | None:
        return self.payload if self.kind is _INT else None

    @property
    def as_float(self) -> float | None:
        return self.payload if self.kind is _FLOAT else None

    @property
    def as_number(self) -> int | float | None:
        return self.payload if self.kind in (_INT, _FLOAT) else None

    @property
    def as_string(self) -> str | None:
        return self.payload if self.kind is _STRING else None

    @property
    def as_bytes(self) -> bytes | None:
        return self.payload if self.kind is _BYTES else None

    @property
    def as_list(self) -> tuple[BlockValue, ...] | None:
        return self.payload if self.kind is _LIST else None

    @property
    def as_map(self) -> Mapping[str, BlockValue] | None:
        return self.payload if self.kind is _MAP else None

    def expect_null(self) -> None:
        self._expect(_NULL)

    def expect_bool(self) -> bool:
        return cast(bool, self._expect(_BOOL))

    def expect_int(self) -> int:
        return cast(int, self._expect(_INT))

    def expect_float(self) -> float:
        return cast(float, self._expect(_FLOAT))

    def expect_string(self) -> str:
        return cast(str, self._expect(_STRING))

    def expect_bytes(self) -> bytes:
        return cast(bytes, self._expect(_BYTES))

    def expect_list(self) -> tuple[BlockValue, ...]:
        return cast("tuple[BlockValue, ...]", self._expect(_LIST))

    def expect_map(self) -> Mapping[str, BlockValue]:
        return cast("Mapping[str, BlockValue]", self._expect(_MAP))

    def _expect(self, kind: BlockValueKind) -> object:
        if self.kind is not kind:
            wanted = kind.name.lower()
            raise BlockInputError(f"input.expected_{wanted}", f"expected a {wanted}, got a {self.kind.name.lower()}")
        return self.payload

    # -- parts ----------------------------------------------------------------------------------------------

    @overload
    def get(self, key: str) -> BlockValue | None: ...
    @overload
    def get(self, key: str, default: BlockValue) -> BlockValue: ...
    def get(self, key: str, default: BlockValue | None = None) -> BlockValue | None:
        """The member ``key`` of a MAP, else ``default``."""
        return self.payload.get(key, default) if self.kind is _MAP else default

    def at(self, index: int) -> BlockValue | None:
        """The element ``index`` of a LIST, else None."""
        if self.kind is _LIST and -len(self.payload) <= index < len(self.payload):
            return cast(BlockValue, self.payload[index])
        return None

    def path(self, dotted: str) -> BlockValue | None:
        """Follow ``a.b.0`` through MAP keys and LIST positions; None when any part is missing."""
        value: BlockValue | None = self
        for part in dotted.split("."):
            if value is None:
                return None
            value = value.get(part) if value.kind is _MAP else value.at(int(part)) if part.isdecimal() else None
        return value

    def __getitem__(self, key: str | int) -> BlockValue:
        if self.kind in (_LIST, _MAP):
            return cast(BlockValue, self.payload[key])
        raise TypeError(f"a {self.kind.name} value has no parts")

    def __len__(self) -> int:
        if self.kind in (_LIST, _MAP, _STRING, _BYTES):
            return len(self.payload)
        raise TypeError(f"a {self.kind.name} value has no length")

    def __bool__(self) -> bool:
        # Without this, __len__ would make empty containers false and numbers true: ask about the payload instead.
        return bool(self.payload)

    def __iter__(self) -> Iterator[Any]:
        if self.kind in (_LIST, _MAP):
            return iter(self.payload)
        raise TypeError(f"a {self.kind.name} value cannot be iterated")

    def __contains__(self, item: object) -> bool:
        return self.kind in (_LIST, _MAP) and item in self.payload

    # -- identity -------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, BlockValue):
            return False
        return self.kind is other.kind and self.payload == other.payload

    def __hash__(self) -> int:
        known = self._hash
        if known is None:
            payload = tuple(self.payload.items()) if self.kind is _MAP else self.payload
            known = hash((int(self.kind), payload))
            _set_hash(self, known)
        return known

    def __repr__(self) -> str:
        return f"BlockValue({self.kind.name}, {self.to_python()!r})"

    # -- other forms ----------------------------------------------------------------------------------------

    def to_python(self) -> Any:
        """Fresh, mutable Python containers; ``BlockValue.of(v.to_python()) == v``."""
        if self.kind is _LIST:
            return [item.to_python() for item in self.payload]
        if self.kind is _MAP:
            return {key: item.to_python() for key, item in self.payload.items()}
        return self.payload

    def without_secrets(self, redactor: Redactor) -> BlockValue:
        """The same value with every secret ``redactor`` knows taken out; itself when it knows none."""
        return BlockValue.of(redactor.value(self.to_python())) if redactor.known else self

    def to_json(self) -> str:
        """Compact, key-sorted text for display and templates; BYTES become ``{"$bytes": base64}``. No transport."""
        return json.dumps(_jsonable(self), separators=(",", ":"), ensure_ascii=False)

    def text(self) -> str:
        """The text form. BYTES that are not UTF-8 raise `BlockInputError` ``input.not_text``."""
        match self.kind:
            case BlockValueKind.STRING:
                return cast(str, self.payload)
            case BlockValueKind.NULL:
                return ""
            case BlockValueKind.BOOL:
                return "true" if self.payload else "false"
            case BlockValueKind.BYTES:
                return _decoded(self.payload)
            case BlockValueKind.LIST | BlockValueKind.MAP:
                return self.to_json()
            case _:
                return repr(self.payload)


# Slot descriptors write past __setattr__, which is what keeps construction cheap and mutation impossible.
_set_kind = BlockValue.__dict__["kind"].__set__
_set_payload = BlockValue.__dict__["payload"].__set__
_set_depth = BlockValue.__dict__["_depth"].__set__
_set_hash = BlockValue.__dict__["_hash"].__set__


def _make(kind: BlockValueKind, payload: object, depth: int = 0) -> BlockValue:
    value = BlockValue.__new__(BlockValue)
    _set_kind(value, kind)
    _set_payload(value, payload)
    _set_depth(value, depth)
    _set_hash(value, None)
    return value


NULL: Final = _make(_NULL, None)
TRUE: Final = _make(_BOOL, True)
FALSE: Final = _make(_BOOL, False)
EMPTY_MAP: Final = _make(_MAP, MappingProxyType({}), 1)


def list_of(values: Iterable[BlockValue]) -> BlockValue:
    """A LIST of values that are already converted."""
    items = tuple(values)
    return _make(_LIST, items, _deeper(items))


def _deeper(items: Iterable[BlockValue]) -> int:
    depth = 1 + max((item._depth for item in items), default=0)
    if depth > MAX_DEPTH:
        raise _too_deep()
    return depth


def _too_deep() -> BlockInputError:
    return BlockInputError("value.too_deep", f"nesting exceeds {MAX_DEPTH} levels, or the value contains itself")


def _convert(obj: object, room: int) -> BlockValue:
    if room < 0:
        raise _too_deep()
    kind = type(obj)
    if kind is BlockValue:
        value = cast(BlockValue, obj)
        if value._depth > room:
            raise _too_deep()
        return value
    if obj is None:
        return NULL
    if kind is bool:
        return TRUE if obj else FALSE
    if kind is str:
        return _make(_STRING, _checked_text(cast(str, obj)))
    if kind is int:
        return _convert_int(cast(int, obj))
    if kind is dict:
        return _convert_map(cast("dict[str, object]", obj), room)
    if kind is list or kind is tuple:
        return _convert_list(cast("list[object]", obj), room)
    if kind is float:
        return _convert_float(cast(float, obj))
    return _convert_rare(obj, room)


def _convert_rare(obj: object, room: int) -> BlockValue:
    if isinstance(obj, Enum):
        if isinstance(obj, str | int):
            return _convert(obj.value, room)
    elif isinstance(obj, bytes | bytearray | memoryview):
        return _make(_BYTES, bytes(obj))
    elif isinstance(obj, str):
        return _make(_STRING, _checked_text(str.__str__(obj)))
    elif isinstance(obj, int):
        return _convert_int(int(obj))
    elif isinstance(obj, float):
        return _convert_float(float(obj))
    elif isinstance(obj, Mapping):
        return _convert_map(obj, room)
    elif isinstance(obj, list | tuple):
        return _convert_list(obj, room)
    elif (opt_in := getattr(obj, "__block_value__", None)) is not None:
        return _convert(opt_in(), room)
    raise BlockInputError(
        "value.unsupported_type",
        f"a {type(obj).__name__} cannot travel between blocks; use None, bool, int, float, str, bytes, list or dict",
    )


def _convert_int(number: int) -> BlockValue:
    if not MIN_INT <= number <= MAX_INT:
        raise BlockInputError("value.int_range", "integers are limited to signed 64 bits")
    return _make(_INT, number)


def _convert_float(number: float) -> BlockValue:
    if not math.isfinite(number):
        raise BlockInputError("value.non_finite", "NaN and infinities cannot travel between blocks")
    return _make(_FLOAT, number or 0.0)  # negative zero is stored as zero


def _convert_list(items: Iterable[object], room: int) -> BlockValue:
    values = tuple([_convert(item, room - 1) for item in items])
    return _make(_LIST, values, _deeper(values))


def _convert_map(items: Mapping[Any, object], room: int) -> BlockValue:
    values: dict[str, BlockValue] = {}
    for key in items:
        if not isinstance(key, str):
            raise BlockInputError("value.map_key", f"map keys must be text, not {type(key).__name__}")
    for key in sorted(items):
        # `str.__str__` turns str subclasses (enum members) into the plain text they stand for.
        values[_checked_text(str.__str__(key))] = _convert(items[key], room - 1)
    return _make(_MAP, MappingProxyType(values), _deeper(values.values()))


def _checked_text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BlockInputError("value.bad_utf8", "the text holds a lone surrogate") from None
    return text


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BlockInputError("input.not_text", "the bytes are not UTF-8 text") from None


def _jsonable(value: BlockValue) -> Any:
    if value.kind is _BYTES:
        return {"$bytes": base64.b64encode(value.payload).decode()}
    if value.kind is _LIST:
        return [_jsonable(item) for item in value.payload]
    if value.kind is _MAP:
        return {key: _jsonable(item) for key, item in value.payload.items()}
    return value.payload
