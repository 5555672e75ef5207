"""The values a run starts with: given by an operator, checked against what the mission declares.

The command line gives text, the console typed values; both end as the same typed mapping. Everything wrong is said
at once, and nothing is guessed: only ``true`` and ``false`` are booleans, ``1.0`` is not a whole number.
"""

from __future__ import annotations

import json
import math
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import MAX_INT, CanonicalizationError, canonical_bytes
from runtime.kernel.errors import Refused
from runtime.missions.model import InputSpec
from runtime.missions.problems import did_you_mean, shown

#: All inputs of a run together; they are copied into the journal's first entry.
MAX_INPUT_BYTES: Final = 128 * 1024
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,16}\Z")
_REAL: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProblem:
    """One thing wrong with the given inputs: ``INPUT_UNKNOWN``, ``INPUT_MISSING``, ``INPUT_TYPE``, ``INPUT_CHOICE``."""

    code: str
    name: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputsInvalid(Refused):
    """The given inputs do not fit the mission. ``problems`` lists all of them."""

    def __init__(self, problems: tuple[InputProblem, ...]) -> None:
        super().__init__("INPUT_INVALID", "; ".join(str(item) for item in problems))
        self.problems = problems


def bind(
    declared: Mapping[str, InputSpec],
    given: Mapping[str, object],
    directory: str | None = None,
    *,
    limit: int | None = MAX_INPUT_BYTES,
) -> dict[str, Any]:
    """The typed inputs of a run, defaults filled in, in declaration order. Raises `InputsInvalid`.

    A given path becomes absolute: a relative one starts in ``directory``, the operator's own, and ``~`` is their home.
    ``limit`` is the most bytes they may take together; None for values no journal's first entry will hold.
    """
    problems = [_unknown(name, declared) for name in given if name not in declared]
    bound: dict[str, Any] = {}
    for name, spec in declared.items():
        result = _bind_one(name, spec, given[name], directory) if name in given else _absent(name, spec)
        if isinstance(result, InputProblem):
            problems.append(result)
        else:
            bound[name] = result[0]
    if not problems and limit is not None:
        problems += _oversized(bound, limit)
    if problems:
        raise InputsInvalid(tuple(problems))
    return bound


def fits_type(value: object, kind: object) -> bool:
    """Is a typed ``value`` of the declared ``kind``? Unknown kinds are left to whoever declared them."""
    if isinstance(value, bool):
        return kind == "boolean" or kind not in _CHECKS
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    return check is None or check(value)


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) <= MAX_INT
    return isinstance(value, float) and math.isfinite(value)


_CHECKS: Final[Mapping[object, Any]] = {
    "string": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and abs(value) <= MAX_INT,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
}


def _unknown(name: str, declared: Mapping[str, InputSpec]) -> InputProblem:
    hint = did_you_mean(name, declared) if declared else "this mission takes no inputs"
    return InputProblem(code="INPUT_UNKNOWN", name=name, message=f"there is no input {shown(name)}", hint=hint)


def _absent(name: str, spec: InputSpec) -> tuple[Any] | InputProblem:
    if not spec.required:
        return (spec.default,)
    return InputProblem(
        code="INPUT_MISSING",
        name=name,
        message=f"the input {name!r} is required",
        hint=spec.description[:100] or f"give {name}=<{spec.type}>",
    )


def _bind_one(name: str, spec: InputSpec, given: object, directory: str | None) -> tuple[Any] | InputProblem:
    if given is None and spec.default is None and not spec.required:
        return (None,)
    value = _from_text(given, spec.type) if isinstance(given, str) else given
    value = list(value) if isinstance(value, tuple) else value
    value = _absolute(value, directory) if spec.type == "path" else value
    if not fits_type(value, spec.type) or not _canonical(value):
        return InputProblem(
            code="INPUT_TYPE", name=name, message=f"{name} must be {_WORDS[spec.type]}, not {shown(given)}"
        )
    if spec.choices and value not in spec.choices:
        listed = ", ".join(str(choice) for choice in spec.choices)
        return InputProblem(
            code="INPUT_CHOICE", name=name, message=f"{name} must be one of {listed}, not {shown(given)}"
        )
    return (value,)


def _absolute(value: object, directory: str | None) -> object:
    """An absolute path in normal form; None, which is no path, when it cannot be told where ``value`` starts."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    path = Path(os.path.expanduser(value))  # noqa: PTH111 - unlike Path's, it leaves an unknown user's home alone
    if not path.is_absolute() and directory is None:
        return None
    return os.path.normpath(Path(directory or "/") / path)


_WORDS: Final = {
    "string": "text",
    "path": "a path, absolute where no directory is known",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "list": "a list (comma-separated, or JSON)",
}


def _from_text(text: str, kind: str) -> object:
    """What text from a command line means for a declared kind; text that means nothing stays text."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind == "integer" and _WHOLE.match(text):
        return int(text)
    if kind == "number" and _REAL.match(text):
        return int(text) if _WHOLE.match(text) else float(text)
    if kind == "list":
        return _list_from_text(text)
    return text


def _list_from_text(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text.strip() else []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _canonical(value: object) -> bool:
    try:
        canonical_bytes(value)
    except CanonicalizationError:
        return False
    return True


def _oversized(bound: Mapping[str, Any], limit: int) -> list[InputProblem]:
    try:
        canonical_bytes(dict(bound), limit=limit)
    except CanonicalizationError as error:
        message = f"the inputs together are too large to be kept with a run: {error.message}"
    else:
        return []
    return [InputProblem(code="INPUT_TYPE", name="", message=message, hint="put large data in a file")]
