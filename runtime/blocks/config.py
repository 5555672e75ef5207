"""Which Python annotations a block's config may use, and what they mean as value kinds (blocks spec §6.1).

Config travels between processes and packs, so every field must be expressible as a `BlockValue`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin, get_type_hints

from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.errors import BlockDefinitionError, BlockInputError
from runtime.blocks.values import BlockValue

_SCALARS: Final[dict[object, Kinds]] = {
    type(None): Kinds.NULL,
    bool: Kinds.BOOL,
    int: Kinds.INT,
    float: Kinds.NUMBER,
    str: Kinds.STRING,
    bytes: Kinds.BYTES,
    list: Kinds.LIST,
    tuple: Kinds.LIST,
    dict: Kinds.MAP,
    Any: Kinds.ANY,
    object: Kinds.ANY,
    BlockValue: Kinds.ANY,
}


_USABLE: Final = (
    "None, bool, int, float, str, bytes, list, dict[str, …], an Enum of str or a union of these,"
    " or declare the class with local=True and give up exporting it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """One config field as catalogues, schemas and `BlockRegistry.create` see it."""

    name: str
    kinds: Kinds
    required: bool = False
    default: object = None
    choices: tuple[str, ...] = ()
    summary: str = ""
    secret: bool = False
    #: Kinds of the elements of a LIST or the values of a MAP.
    items: Kinds = Kinds.ANY

    def problem(self, value: object) -> str | None:
        """Why ``value`` does not fit this field, or None when it does."""
        try:
            converted = BlockValue.of(value)
        except BlockInputError as error:
            return error.message
        if not self.kinds.contains(converted.kind):
            return f"must be {self.kinds}, not {converted.kind.name.lower()}"
        if self.choices and converted.is_string and converted.payload not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {converted.payload!r}"
        if converted.is_list or converted.is_map:
            parts = converted.payload if converted.is_list else converted.payload.values()
            odd = next((part for part in parts if not self.items.contains(part.kind)), None)
            if odd is not None:
                return f"must hold only {self.items}, not {odd.kind.name.lower()}"
        return None


def config_fields(cls: type, *, local: bool) -> tuple[ConfigField, ...]:
    """The config fields of a dataclass, in order; raises ``definition.bad_config``. ``local`` waives the type rule."""
    if local:
        return ()
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise _bad(cls, f"a config annotation cannot be resolved: {error}; import it at module level") from None
    return tuple(_field(cls, item, hints[item.name]) for item in dataclasses.fields(cls))


def _field(cls: type, item: dataclasses.Field[Any], hint: object) -> ConfigField:
    kinds, choices, items = _meaning(hint)
    if kinds.is_empty:
        raise _bad(cls, f"field {item.name!r} has type {hint!r}, which cannot travel as a block value; use {_USABLE}")
    required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    default = None
    if not required:
        factory = item.default_factory
        default = factory() if factory is not dataclasses.MISSING else item.default
    return ConfigField(
        name=item.name,
        kinds=kinds,
        required=required,
        default=default,
        choices=choices,
        summary=str(item.metadata.get("help", "")),
        secret=bool(item.metadata.get("secret", False)),
        items=items,
    )


def _meaning(hint: object) -> tuple[Kinds, tuple[str, ...], Kinds]:
    """Kinds, choices and element kinds of an annotation; an empty kind set means: not transportable."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    if origin is Literal:
        words = get_args(hint)
        return (Kinds.STRING, words, Kinds.ANY) if all(isinstance(word, str) for word in words) else _NONE
    if origin in (list, Sequence, tuple):
        return _container(Kinds.LIST, [arg for arg in get_args(hint) if arg is not Ellipsis])
    if origin in (dict, Mapping):
        key, value = get_args(hint)
        return _container(Kinds.MAP, [value]) if key is str else _NONE
    if isinstance(hint, type) and issubclass(hint, Enum):
        words = tuple(str(member.value) for member in hint)
        return (Kinds.STRING, words, Kinds.ANY) if issubclass(hint, str) else _NONE
    return _SCALARS.get(hint, Kinds.EMPTY), (), Kinds.ANY


_NONE: Final[tuple[Kinds, tuple[str, ...], Kinds]] = (Kinds.EMPTY, (), Kinds.ANY)


def _union(members: tuple[object, ...]) -> tuple[Kinds, tuple[str, ...], Kinds]:
    kinds, items = Kinds.EMPTY, Kinds.EMPTY
    words: tuple[str, ...] = ()
    for member in members:
        part, part_words, part_items = _meaning(member)
        if part.is_empty:
            return _NONE
        kinds, words = kinds | part, words + part_words
        items |= part_items if part.intersects(Kinds.LIST | Kinds.MAP) else Kinds.EMPTY
    return kinds, words, items or Kinds.ANY


def _container(kind: Kinds, parts: Sequence[object]) -> tuple[Kinds, tuple[str, ...], Kinds]:
    items = Kinds.EMPTY
    for part in parts:
        meaning = _meaning(part)[0]
        if meaning.is_empty:
            return _NONE
        items |= meaning
    return kind, (), items or Kinds.ANY


@functools.cache
def _hints(cls: type) -> Mapping[str, object]:
    return get_type_hints(cls)


def revived(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config as its class declares it, from the plain form it travels in: texts become members of an Enum again."""
    hints = _hints(cls)
    return {name: _revived(hints.get(name), value) for name, value in config.items()}


def _revived(hint: object, value: Any) -> Any:
    if isinstance(value, str):
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, Enum) and value in {member.value for member in kind}:
                return kind(value)
    if isinstance(value, list) and get_origin(hint) is tuple:
        return tuple(value)
    return value


def is_class_variable(hint: object) -> bool:
    """True for annotations that are not config fields."""
    if isinstance(hint, str):
        return hint.replace("typing.", "").startswith("ClassVar")
    return hint is ClassVar or typing.get_origin(hint) is ClassVar


def _bad(cls: type, why: str) -> BlockDefinitionError:
    return BlockDefinitionError("definition.bad_config", f"block class {cls.__name__}: {why}")
