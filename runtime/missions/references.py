"""``${inputs.x}`` and ``${outputs.block.key.0}``: pure look-ups, never evaluation (ruling R41).

Inside ``each`` of a `map_over`, ``${item}``, ``${item.key}`` and ``${index}`` tell of the item at hand. A string that is exactly one reference becomes the typed value; inside longer text a reference is replaced by its
text. Replaced text is not scanned again, so a value that itself holds ``${…}`` stays what it is. ``$${`` writes a
literal ``${``. Everything that can be known when the mission is loaded is checked there; at run time only a missing
key of a dynamic output is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.errors import QuarterdeckError

_OPENING: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\})?")
_REFERENCE: Final = re.compile(
    r"(?:(inputs|outputs)\.([a-z][a-z0-9_]{0,63})|(item))((?:\.[A-Za-z0-9_-]+)*)\Z|(index)\Z"
)
_INDEX: Final = re.compile(r"0\Z|[1-9][0-9]{0,8}\Z")


#: What tells of the item at hand.
ITEM_ROOTS: Final = frozenset({"item", "index"})


class ReferenceMissing(QuarterdeckError):
    """A reference points at nothing at run time."""


@dataclass(frozen=True, slots=True)
class Item:
    """The item a `map_over` is at, and its place in the list, from 0."""

    value: Any
    index: int


@dataclass(frozen=True, slots=True)
class Reference:
    """One look-up: ``root`` is ``inputs``, ``outputs``, ``item`` or ``index``, ``name`` the input or block (empty for
    the last two), ``keys`` the way inside."""

    root: str
    name: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return "${" + self.way(len(self.keys)) + "}"

    @property
    def of_item(self) -> bool:
        """Does it tell of the item at hand?"""
        return self.root in ITEM_ROOTS

    def way(self, depth: int) -> str:
        """The look-up up to its ``depth``-th key, as written."""
        return ".".join((self.root, *((self.name,) if self.name else ()), *self.keys[:depth]))

    def look_up(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], item: Item | None = None) -> Any:
        """The value, typed. Raises `ReferenceMissing` saying how far the way leads."""
        value = self._start(inputs, outputs, item)
        for depth, key in enumerate(self.keys):
            value = _step(value, key, self, depth)
        return value

    def _start(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], item: Item | None) -> Any:
        if self.of_item:
            if item is None:
                raise ReferenceMissing("REFERENCE_MISSING", f"{self}: no item is mapped here")
            return item.value if self.root == "item" else item.index
        scope = inputs if self.root == "inputs" else outputs
        if self.name not in scope:
            raise ReferenceMissing("REFERENCE_MISSING", f"{self}: {self.root} has no {self.name!r} yet")
        return scope[self.name]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A ``${`` that is not a reference."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """A reference, or something that looks like one, and its offset in the text."""

    offset: int
    end: int
    item: Reference | Malformed


def scan(text: str) -> list[Found | str]:
    """Split ``text`` into literal pieces and references, in order; ``$${`` comes back as a literal ``${``."""
    parts: list[Found | str] = []
    last = 0
    for match in _OPENING.finditer(text):
        if match.start() > last:
            parts.append(text[last : match.start()])
        last = match.end()
        parts.append("${" if match[0] == "$${" else Found(match.start(), match.end(), _parse(match)))
    if last < len(text):
        parts.append(text[last:])
    return parts


def _parse(match: re.Match[str]) -> Reference | Malformed:
    if match[2] is None:
        return Malformed(match[0], "has no closing '}'")
    form = _REFERENCE.match(match[1])
    if form is None:
        return Malformed(match[0], "is not ${inputs.name} or ${outputs.block.key}")
    keys = tuple(form[4].split(".")[1:]) if form[4] else ()
    return Reference(form[1] or form[3] or form[5], form[2] or "", keys)


def walk(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in ``value`` with its way from the root. Keys are never references."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, (*where, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, (*where, index))


def find(value: Any) -> Iterator[tuple[tuple[str | int, ...], Found]]:
    """Every reference in ``value``, well-formed or not, with the way to its text."""
    for where, text in walk(value):
        for part in scan(text):
            if isinstance(part, Found):
                yield where, part


def is_reference(value: object) -> bool:
    """Is ``value`` a text that is exactly one reference (and so may become any type)?"""
    if not isinstance(value, str):
        return False
    parts = scan(value)
    return len(parts) == 1 and isinstance(parts[0], Found)


def has_reference(value: object) -> bool:
    """Does any text in ``value`` hold a reference?"""
    return any(True for _ in find(value))


def names(value: Any, root: str) -> tuple[str, ...]:
    """The inputs or blocks that ``value`` refers to, each once, in order."""
    items = (found.item for _, found in find(value))
    return tuple(dict.fromkeys(item.name for item in items if isinstance(item, Reference) and item.root == root))


def resolve(value: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any], item: Item | None = None) -> Any:
    """A copy of ``value`` with every reference replaced. Raises `ReferenceMissing`."""
    if isinstance(value, str):
        return _resolve_text(value, inputs, outputs, item)
    if isinstance(value, Mapping):
        return {key: resolve(part, inputs, outputs, item) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(part, inputs, outputs, item) for part in value]
    return value


def _resolve_text(text: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], at: Item | None) -> Any:
    parts = scan(text)
    values = [part if isinstance(part, str) else _value(part.item, inputs, outputs, at) for part in parts]
    if len(parts) == 1 and isinstance(parts[0], Found):
        return values[0]
    return "".join(value if isinstance(value, str) else _as_text(value) for value in values)


def _value(item: Reference | Malformed, inputs: Mapping[str, Any], outputs: Mapping[str, Any], at: Item | None) -> Any:
    if isinstance(item, Malformed):
        raise ReferenceMissing("REFERENCE_MISSING", f"{item.text[:70]!r} {item.reason}")
    return item.look_up(inputs, outputs, at)


def _as_text(value: Any) -> str:
    """How a value that is not text reads inside text: its JSON form."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _step(value: Any, key: str, reference: Reference, depth: int) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, list | tuple) and _INDEX.match(key) and int(key) < len(value):
        return value[int(key)]
    way = reference.way(depth)
    if isinstance(value, Mapping):
        offered = ", ".join(sorted(str(name) for name in value)[:8]) or "nothing"
        reason = f"{way} has no {key!r}; it has {offered}"
    elif isinstance(value, list | tuple):
        reason = f"{way} is a list of {len(value)} and has no item {key!r}"
    else:
        reason = f"{way} is {'null' if value is None else type(value).__name__} and has no {key!r}"
    raise ReferenceMissing("REFERENCE_MISSING", f"{reference}: {reason}")
