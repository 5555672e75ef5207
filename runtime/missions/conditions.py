"""CEL conditions: compiled when the mission is loaded, pure when evaluated. Hides the library behind one class.

The names a condition may use are declared up front (``inputs.goal``, ``outputs.check``, ``value``), so an unknown
name or a type clash is a load error with its column. At run time the library reports failures as *values* of an
error type whose payload is truthy text; here anything but a boolean raises `ConditionFailed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cel_expr_python import cel

from runtime.kernel.errors import QuarterdeckError
from runtime.missions.problems import did_you_mean

#: The parser copes with more, but a longer condition belongs in a block.
MAX_LENGTH: Final = 2000

#: A declared input type as the checker sees it. Numbers stay dynamic so that ``inputs.price > 3`` is fine for both.
_TYPES: Final[Mapping[str, Any]] = {
    "string": cel.Type.STRING,
    "path": cel.Type.STRING,
    "integer": cel.Type.INT,
    "boolean": cel.Type.BOOL,
    "list": cel.Type.LIST,
    "number": cel.Type.DYN,
}
_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*?)(?=\n \||\nERROR:|\Z)", re.DOTALL)
_UNDECLARED: Final = re.compile(r"undeclared reference to '([^']*)'")
_NAME: Final = re.compile(r"\b(?:inputs|outputs)\s*\.\s*[a-z][a-z0-9_]*|\bvalue\b")
_BLANK: Final = re.compile(r"\s+")


class ConditionFailed(QuarterdeckError):
    """A condition could not be decided: it raised, or its result is not true or false."""


@dataclass(frozen=True, slots=True)
class ConditionProblem:
    """Why a condition does not compile; ``offset`` is a character index into its text."""

    offset: int
    message: str
    hint: str = ""


class Names:
    """The names conditions of one mission may use."""

    def __init__(self, inputs: Mapping[str, str], outputs: Iterable[str]) -> None:
        self.declared: dict[str, Any] = {
            f"inputs.{name}": _TYPES.get(kind, cel.Type.DYN) for name, kind in inputs.items()
        }
        self.declared |= {f"outputs.{name}": cel.Type.DYN for name in outputs}
        self.declared["value"] = cel.Type.DYN
        self._environment = cel.NewEnv(variables=self.declared)

    def compile(self, text: str) -> Condition | tuple[ConditionProblem, ...]:
        """The condition, or everything that is wrong with it."""
        if not text.strip():
            return (ConditionProblem(0, "the condition is empty"),)
        if len(text) > MAX_LENGTH:
            return (ConditionProblem(MAX_LENGTH, f"the condition is longer than {MAX_LENGTH} characters"),)
        try:
            program = self._environment.compile(text)
        except (RuntimeError, ValueError, TypeError) as error:
            return self._explain(text, str(error))
        result = program.return_type()
        if result not in (cel.Type.BOOL, cel.Type.DYN):
            return (ConditionProblem(0, f"the condition is of type {result.name().lower()}, not true or false"),)
        used = frozenset(_BLANK.sub("", found[0]) for found in _NAME.finditer(text))
        return Condition(text, program, used & self.declared.keys())

    def _explain(self, text: str, complaint: str) -> tuple[ConditionProblem, ...]:
        problems = []
        for match in _ERROR.finditer(complaint):
            line, column, message = int(match[1]), int(match[2]), match[3].removesuffix(" [INVALID_ARGUMENT]")
            unknown = _UNDECLARED.match(message)
            if unknown:
                # The library points at the last dot of the name; the reader looks for its beginning.
                column -= max(unknown[1].rfind("."), 0)
                problems.append(
                    ConditionProblem(
                        _offset(text, line, column),
                        f"unknown name {unknown[1][:70]!r} in the condition",
                        did_you_mean(unknown[1], self.declared),
                    )
                )
            else:
                short = message.splitlines()[0].partition(" expecting {")[0]
                problems.append(ConditionProblem(_offset(text, line, column), short[:200]))
        return tuple(problems) or (ConditionProblem(0, complaint.splitlines()[0][:200]),)


def _offset(text: str, line: int, column: int) -> int:
    before = text.split("\n")[: line - 1]
    return min(sum(len(item) + 1 for item in before) + max(column, 1) - 1, len(text))


class Condition:
    """A compiled condition. ``names`` are the declared names it mentions."""

    __slots__ = ("_program", "names", "text")

    def __init__(self, text: str, program: Any, names: frozenset[str]) -> None:
        self.text = text
        self.names = names
        self._program = program

    def outputs(self) -> tuple[str, ...]:
        """The blocks whose outputs it mentions, sorted."""
        return tuple(sorted(name.removeprefix("outputs.") for name in self.names if name.startswith("outputs.")))

    def evaluate(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], value: Any = None) -> bool:
        """Decide. Raises `ConditionFailed` unless the result is exactly true or false."""
        data = {name: value for name in self.names if name == "value"}
        data |= {f"inputs.{name}": item for name, item in inputs.items() if f"inputs.{name}" in self.names}
        data |= {f"outputs.{name}": item for name, item in outputs.items() if f"outputs.{name}" in self.names}
        try:
            result = self._program.eval(data=data)
            kind, decided = result.type(), result.plain_value()
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise ConditionFailed("CONDITION_FAILED", f"{self.text[:120]!r}: {error}") from None
        if kind != cel.Type.BOOL or not isinstance(decided, bool):
            raise ConditionFailed(
                "CONDITION_FAILED", f"{self.text[:120]!r} gave {str(decided)[:200]}, not true or false"
            )
        return decided
