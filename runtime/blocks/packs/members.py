"""Reading the maps of packs strictly: every member must be there, of its kind, and asked for."""

from __future__ import annotations

import re
from typing import Any

from runtime.blocks.errors import BlockValidationError
from runtime.blocks.values import BlockValue


class PackError(BlockValidationError):
    """A pack cannot be used; ``code`` is one of the ``plugin.*`` codes (blocks spec §20.6)."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(code, written(message), **fields)


def written(text: str) -> str:
    """The text with what is no character of a file's name replaced: no store, pipe or terminal could take it."""
    return text.encode(errors="replace").decode()


class Members:
    """A MAP read member by member; every member must be asked for. Raises `PackError` ``plugin.manifest_invalid``."""

    __slots__ = ("_left", "where")

    def __init__(self, value: BlockValue, where: str) -> None:
        if not value.is_map:
            raise invalid(where, "must be a map")
        self._left = dict(value.expect_map())
        self.where = where

    def raw(self, name: str) -> BlockValue:
        if name not in self._left:
            raise invalid(f"{self.where}.{name}", "is missing")
        return self._left.pop(name)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.raw(name).as_int
        if value is None or not low <= value <= high:
            raise invalid(f"{self.where}.{name}", f"must be an integer from {low} to {high}")
        return value

    def number(self, name: str) -> float:
        value = self.raw(name).as_float
        if value is None:
            raise invalid(f"{self.where}.{name}", "must be a float")
        return value

    def flag(self, name: str) -> bool:
        value = self.raw(name).as_bool
        if value is None:
            raise invalid(f"{self.where}.{name}", "must be true or false")
        return value

    def text(self, name: str, pattern: re.Pattern[str] | None = None, *, limit: int = 2000) -> str:
        value = self.raw(name).as_string
        if value is None or len(value) > limit or (pattern is not None and not pattern.match(value)):
            like = f" like {pattern.pattern}" if pattern is not None else ""
            raise invalid(f"{self.where}.{name}", f"must be text of at most {limit} characters{like}")
        return value

    def texts(self, name: str, *, limit: int = 1000) -> tuple[str, ...]:
        items = [item.as_string for item in self.items(name, limit=limit)]
        texts = tuple(item for item in items if item is not None)
        if len(texts) < len(items):
            raise invalid(f"{self.where}.{name}", "must hold only text")
        return texts

    def items(self, name: str, *, limit: int) -> tuple[BlockValue, ...]:
        value = self.raw(name).as_list
        if value is None or len(value) > limit:
            raise invalid(f"{self.where}.{name}", f"must be a list of at most {limit} elements")
        return value

    def optional(self, name: str) -> bool:
        """Is the member there and not null? A null one is taken."""
        if name in self._left and self._left[name].is_null:
            del self._left[name]
            return False
        return True

    def done(self) -> None:
        if self._left:
            raise invalid(f"{self.where}.{min(self._left)}", "is no member of this interface")


def invalid(where: str, why: str) -> PackError:
    """``plugin.manifest_invalid`` at a place such as ``blocks[2].config[0].name``."""
    return PackError("plugin.manifest_invalid", f"{where} {why}")
