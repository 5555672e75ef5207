"""A small, closed subset of JSON Schema for gates and model answers (operations spec §3.4).

A keyword outside the subset is refused when the schema is checked, never skipped when a value is: a constraint that
silently does nothing is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.errors import Refused

MAX_PATTERN: Final = 200
MAX_DEPTH: Final = 32
MAX_ERRORS: Final = 50
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_ANNOTATIONS: Final = frozenset({"$schema", "$id", "$comment", "title", "description"})
_LENGTHS: Final = ("minLength", "maxLength", "minItems", "maxItems")
_NUMBERS: Final = ("minimum", "maximum")
_KEYWORDS: Final = _ANNOTATIONS | {
    "type", "required", "properties", "additionalProperties", "items", "enum", "const", "pattern", *_LENGTHS, *_NUMBERS
}  # fmt: skip


def check_schema(schema: object, *, where: str = "schema", depth: int = 0) -> None:
    """Raise `Refused` ``GATE_SCHEMA_UNSUPPORTED`` unless every keyword is one this module enforces."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        raise _unsupported(where, "must be an object of bounded depth")
    unknown = sorted(schema.keys() - _KEYWORDS)
    if unknown:
        raise _unsupported(where, f"uses {unknown[0]!r}")
    names = _types(schema)
    if any(name not in _TYPES for name in names):
        raise _unsupported(where, f"has the type {schema['type']!r}")
    _check_members(schema, where)
    for name, inner in dict(schema.get("properties", {})).items():
        check_schema(inner, where=f"{where}.properties.{name}", depth=depth + 1)
    if "items" in schema:
        check_schema(schema["items"], where=f"{where}.items", depth=depth + 1)
    extra = schema.get("additionalProperties", True)
    if not isinstance(extra, bool):
        check_schema(extra, where=f"{where}.additionalProperties", depth=depth + 1)


def errors(schema: Mapping[str, Any], value: object) -> list[str]:
    """What is wrong with ``value``, as ``path: reason``; empty when it is valid. ``schema`` has been checked."""
    found: list[str] = []
    for problem in _problems(schema, value, "$"):
        found.append(problem)
        if len(found) >= MAX_ERRORS:
            break
    return found


def _check_members(schema: Mapping[str, Any], where: str) -> None:
    for name in _LENGTHS:
        if name in schema and (type(schema[name]) is not int or schema[name] < 0):
            raise _unsupported(where, f"has a {name} that is not a whole number")
    for name in _NUMBERS:
        if name in schema and type(schema[name]) not in (int, float):
            raise _unsupported(where, f"has a {name} that is not a number")
    for name, kind in (("required", list | tuple), ("enum", list | tuple), ("properties", Mapping)):
        if name in schema and not isinstance(schema[name], kind):
            raise _unsupported(where, f"has a malformed {name}")
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise _unsupported(where, f"has a pattern longer than {MAX_PATTERN} characters")
    try:
        re.compile(pattern)
    except re.error as error:
        raise _unsupported(where, f"has a bad pattern: {error}") from None


def _problems(schema: Mapping[str, Any], value: object, path: str) -> Iterator[str]:
    names = _types(schema)
    if names and not any(_is(value, name) for name in names):
        yield f"{path}: must be {' or '.join(names)}"
        return
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{path}: must equal the constant"
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        yield f"{path}: must be one of the listed values"
    if isinstance(value, str):
        yield from _text_problems(schema, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_problems(schema, value, path)
    elif isinstance(value, list | tuple):
        yield from _sizes(schema, len(value), path, "Items")
        for index, item in enumerate(value):
            yield from _problems(schema.get("items", {}), item, f"{path}[{index}]")
    elif isinstance(value, Mapping):
        yield from _object_problems(schema, value, path)


def _text_problems(schema: Mapping[str, Any], value: str, path: str) -> Iterator[str]:
    yield from _sizes(schema, len(value), path, "Length")
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        yield f"{path}: does not match {schema['pattern']!r}"


def _number_problems(schema: Mapping[str, Any], value: float, path: str) -> Iterator[str]:
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{path}: must be at least {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{path}: must be at most {schema['maximum']}"


def _object_problems(schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: is required"
    extra = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _problems(properties[name], item, f"{path}.{name}")
        elif extra is False:
            yield f"{path}.{name}: is not allowed"
        elif extra is not True:
            yield from _problems(extra, item, f"{path}.{name}")


def _sizes(schema: Mapping[str, Any], size: int, path: str, what: str) -> Iterator[str]:
    if size < schema.get(f"min{what}", 0):
        yield f"{path}: is shorter than {schema[f'min{what}']}"
    if size > schema.get(f"max{what}", size):
        yield f"{path}: is longer than {schema[f'max{what}']}"


def _types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    kind = schema.get("type", ())
    return (kind,) if isinstance(kind, str) else tuple(kind)


def _is(value: object, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(one: object, other: object) -> bool:
    return canonical_bytes(one) == canonical_bytes(other)


def _unsupported(where: str, why: str) -> Refused:
    return Refused("GATE_SCHEMA_UNSUPPORTED", f"{where} {why}", where=where)
