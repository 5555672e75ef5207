"""Conditions of routed branches: strict, synchronous, pure (blocks spec §9.5).

A condition is a callable ``(response) -> bool``, an object with ``evaluate(response, state) -> bool`` where ``state`` is
the ledger view, or the registered name of either. Raising, or returning anything but a bool, is a failure of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from runtime.blocks.errors import GraphError, RegistryError, engine_error
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import BlockValue

if TYPE_CHECKING:
    from runtime.blocks.envelope import Response

#: The reserved name that is always true.
DEFAULT: Final = "default"

Predicate = Callable[["Response"], bool]


@runtime_checkable
class StatefulCondition(Protocol):
    """A condition that also sees what earlier nodes produced."""

    def evaluate(self, response: Response, state: Mapping[str, BlockValue]) -> bool: ...


Condition = Predicate | StatefulCondition | str


@dataclass(frozen=True, slots=True)
class Case:
    """One arm of a branch. ``condition`` None means otherwise; ``target`` is a block or a node name until wired."""

    condition: Condition | None
    target: Any

    @property
    def is_default(self) -> bool:
        return self.condition is None or self.condition == DEFAULT

    @property
    def label(self) -> str:
        if self.is_default:
            return DEFAULT
        if isinstance(self.condition, str):
            return self.condition
        return str(getattr(self.condition, "label", None) or getattr(self.condition, "__name__", self.condition))


def when(condition: Condition, target: Any) -> Case:
    """Go to ``target`` if ``condition`` holds."""
    return Case(condition, target)


def otherwise(target: Any) -> Case:
    """Go to ``target`` if nothing before it held."""
    return Case(None, target)


@dataclass(frozen=True, slots=True)
class KeyCase:
    """True when the node's data (or its member at ``key``) equals ``equals``, or its text holds ``contains``."""

    key: str | None = None
    equals: BlockValue | None = None
    contains: str | None = None

    @property
    def label(self) -> str:
        wanted = f"contains {self.contains!r}" if self.equals is None else f"= {self.equals.to_json()}"
        return f"{self.key or 'value'} {wanted}"

    def evaluate(self, response: Response, state: Mapping[str, BlockValue]) -> bool:
        return self.matches(response.data)

    def matches(self, data: BlockValue) -> bool:
        """The question itself, asked of a value."""
        value = data if self.key is None else data.path(self.key)
        if value is None:
            return False
        return value == self.equals if self.equals is not None else (self.contains or "") in value.text()


def case(*, key: str | None = None, equals: object = None, contains: str | None = None) -> KeyCase:
    """A ready-made condition: ``case(key="status", equals="ok")``."""
    return KeyCase(key, None if equals is None and contains is not None else BlockValue.of(equals), contains)


class ConditionRegistry:
    """Named conditions; injectable per workflow. `CONDITIONS` is the process-wide default."""

    def __init__(self) -> None:
        self._conditions: dict[str, Predicate | StatefulCondition] = {}

    def register(self, name: str, condition: Predicate | StatefulCondition) -> None:
        """Raises ``registry.reserved_name`` for ``default`` and for names already taken."""
        if name == DEFAULT or name in self._conditions:
            raise RegistryError("registry.reserved_name", f"the condition name {name!r} is taken")
        self._conditions[name] = condition

    def resolve(self, condition: Condition) -> Predicate | StatefulCondition | None:
        """The condition itself; None when the name is unknown."""
        return self._conditions.get(condition) if isinstance(condition, str) else condition

    def clear(self) -> None:
        self._conditions.clear()


CONDITIONS: Final = ConditionRegistry()


def holds(
    condition: Predicate | StatefulCondition, label: str, response: Response, state: Mapping[str, BlockValue]
) -> bool:
    """Evaluate strictly; raises `GraphError` ``graph.condition_failed``."""
    try:
        if isinstance(condition, StatefulCondition):
            verdict: object = condition.evaluate(response, state)
        else:
            verdict = condition(response)
    except Exception as error:
        raise _condition_failed(label, f"{type(error).__name__}: {clean_text(str(error))}") from error
    if not isinstance(verdict, bool):
        raise _condition_failed(label, f"it returned {type(verdict).__name__} instead of true or false")
    return verdict


def _condition_failed(label: str, why: str) -> GraphError:
    return engine_error(
        GraphError, "graph.condition_failed", f"condition {label!r} failed: {why}", details={"condition": label}
    )
