"""Reading an operation's params: typed, bounded, and nothing left over (``OP_PARAM_UNKNOWN``, operations spec §2.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from runtime.kernel.errors import Refused
from runtime.kernel.model import thawed

_REQUIRED: Final = object()


class Params:
    """Takes values out one by one; `done` refuses what nobody asked for. Raises `Refused` ``OP_PARAMS``."""

    def __init__(self, where: str, params: Mapping[str, Any]) -> None:
        self._where = where
        self._left: dict[str, Any] = {name: thawed(value) for name, value in params.items()}

    def given(self, name: str) -> bool:
        return name in self._left

    def text(self, name: str, default: Any = _REQUIRED, *, among: Collection[str] = ()) -> str:
        value = self._take(name, default, str)
        if among and value not in among:
            raise self.bad(name, f"must be one of {', '.join(sorted(among))}")
        return str(value)

    def integer(self, name: str, default: Any = _REQUIRED, *, low: int = 0, high: int) -> int:
        value = self._take(name, default, int)
        if isinstance(value, bool) or not low <= value <= high:
            raise self.bad(name, f"must be a whole number from {low} to {high}")
        return int(value)

    def number(self, name: str, default: Any = _REQUIRED, *, low: float, high: float) -> float:
        value = self._take(name, default, (int, float))
        if isinstance(value, bool) or not low <= value <= high:
            raise self.bad(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        return bool(self._take(name, default, bool))

    def texts(self, name: str, default: Any = _REQUIRED, *, limit: int) -> list[str]:
        value = self._take(name, default, list)
        if not all(isinstance(item, str) for item in value) or len(value) > limit:
            raise self.bad(name, f"must be a list of at most {limit} texts")
        return list(value)

    def mapping(self, name: str, default: Any = _REQUIRED) -> dict[str, Any]:
        return dict(self._take(name, default, dict))

    def any(self, name: str, default: Any = _REQUIRED) -> Any:
        return self._take(name, default, object)

    def done(self) -> None:
        """Nothing may be left."""
        if self._left:
            name = sorted(self._left)[0]
            raise Refused("OP_PARAM_UNKNOWN", f"{self._where} has no parameter {name!r}", where=self._where)

    def bad(self, name: str, why: str) -> Refused:
        return Refused("OP_PARAMS", f"{self._where}: {name} {why}", where=self._where)

    def _take(self, name: str, default: Any, kind: Any) -> Any:
        if name not in self._left:
            if default is _REQUIRED:
                raise Refused("OP_PARAMS", f"{self._where}: {name} is missing", where=self._where)
            return default
        value = self._left.pop(name)
        if not isinstance(value, kind):
            raise self.bad(name, f"has the wrong type ({type(value).__name__})")
        return value
