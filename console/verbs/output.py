"""How verbs print: JSON for programs on stdout, aligned text for people, complaints on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from console.model.safe import safe
from runtime.host.api import Exit, QuarterdeckError

T = TypeVar("T")


def plain(value: Any) -> Any:
    """The JSON form of a summary record: dataclasses become objects, enums their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def print_json(value: Any) -> None:
    """One JSON document on one line, flushed, so that a reader of a stream sees it at once."""
    print(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")), flush=True)


def say(*parts: object) -> None:
    """A remark for a person, on stderr."""
    print(*(safe(part, lines=True) for part in parts), file=sys.stderr, flush=True)


def print_error(error: QuarterdeckError, exit_code: int, *, as_json: bool) -> None:
    """An error with its code, place and advice; one line per problem when it carries several."""
    problems = getattr(error, "problems", ())
    if as_json:
        print_json(
            {
                "event": "error",
                "code": error.code,
                "message": error.message,
                "where": error.where,
                "hint": error.hint,
                "exit_code": exit_code,
                "problems": list(problems),
            }
        )
        return
    if problems:
        for problem in problems:
            say(problem_text(problem))
        count = len(problems)
        say(f"quarterdeck: {count} problem{'s' if count != 1 else ''} found")
        return
    say(f"quarterdeck: {f'{error.where}: ' if error.where else ''}{error.message} [{error.code}]")
    if error.hint:
        say(f"  {error.hint}")


def problem_text(problem: Any) -> str:
    """``file:line:column: severity: message [CODE]``, then the source line with a caret, then the advice.

    Problems that come from no file, such as inputs given on the command line, say themselves.
    """
    if not hasattr(problem, "line"):
        return f"error: {problem}"
    lines = [f"{problem.path}:{problem.line}:{problem.column}: {problem.severity}: {problem.message} [{problem.code}]"]
    if problem.snippet:
        lines.extend(f"    {line}" for line in problem.snippet.splitlines())
    if problem.hint:
        lines.append(f"    {problem.hint}")
    return "\n".join(lines)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Left-aligned columns; every cell is made safe."""
    table = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[index]) for row in table), 0) for index, name in enumerate(header)]
    for row in [list(header), *table]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_listing(
    rows: Sequence[T],
    header: Sequence[str],
    cells: Callable[[T], Sequence[object]],
    *,
    empty: str,
    as_json: bool,
) -> int:
    """A list for programs (one object per line) or for people (a table, or ``empty`` on stderr). Always exit code 0."""
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(header, (cells(row) for row in rows))
    else:
        say(empty)
    return Exit.OK


def print_outputs(outputs: Mapping[str, Any] | None) -> None:
    """The mission's outputs, one per line: text as it is, anything else as JSON."""
    for name, value in (outputs or {}).items():
        text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
        print(f"{safe(name)}: {safe(text.rstrip(), lines=True)}")


def duration(milliseconds: int) -> str:
    """``0.4s``, ``12s``, ``3m05``, ``2h07``."""
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}"
