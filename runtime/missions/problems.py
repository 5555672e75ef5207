"""What is wrong with a mission file: every problem at once, each at its place, in words an operator can act on.

A mission is edited by hand, so the check reports all it can find in one pass. A `MissionProblem` names the file,
line and column (both from 1), shows the source line with a caret, and says what was expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.kernel.errors import QuarterdeckError

#: More problems than a person reads in one sitting; the rest are left out, so hostile files stay cheap.
MAX_PROBLEMS: Final = 200
#: A snippet line is cut around the caret to fit an 80-column terminal beside its gutter.
SNIPPET_WIDTH: Final = 72
#: Names longer than this are never compared, and only so many candidates are: difflib is quadratic.
_SUGGEST_LENGTH: Final = 64
_SUGGEST_AMONG: Final = 500
_SUGGEST_CUTOFF: Final = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionProblem:
    """One thing wrong with a mission file. ``severity`` is ``error`` or ``warning``."""

    code: str
    message: str
    path: str
    line: int = 1
    column: int = 1
    snippet: str = ""
    hint: str = ""
    severity: str = "error"

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    def __str__(self) -> str:
        advice = f" ({self.hint})" if self.hint else ""
        head = f"{self.where}: {self.severity} {self.code}: {self.message}{advice}"
        return f"{head}\n{self.snippet}" if self.snippet else head


class MissionInvalid(QuarterdeckError):
    """The mission file does not load. ``problems`` holds everything found, warnings included, by position."""

    def __init__(self, problems: Sequence[MissionProblem]) -> None:
        ordered = sort_problems(problems)
        first = next(item for item in ordered if item.severity == "error")
        more = sum(item.severity == "error" for item in ordered) - 1
        rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        super().__init__(
            "MISSION_INVALID", f"{first.code}: {first.message}{rest}", where=first.where, hint=first.hint or None
        )
        self.problems = ordered

    def __str__(self) -> str:
        return "\n".join(str(item) for item in self.problems)


def sort_problems(problems: Iterable[MissionProblem]) -> tuple[MissionProblem, ...]:
    """By position, errors before warnings, each distinct problem once."""
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda item: (item.path, item.line, item.column, item.severity, item.code)))


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest known name, else the known names if they are few, else nothing."""
    names = sorted(set(known))[:_SUGGEST_AMONG]
    if isinstance(name, str) and len(name) <= _SUGGEST_LENGTH:
        close = difflib.get_close_matches(name, names, n=1, cutoff=_SUGGEST_CUTOFF)
        if close:
            return f"did you mean {close[0]!r}?"
    listing = ", ".join(names)
    return f"known: {listing}" if names and len(listing) <= SNIPPET_WIDTH * 3 else ""


def shown(value: object, limit: int = 60) -> str:
    """A short ``repr`` for messages: the file is untrusted and may hold very long text."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def snippet(line: str, number: int, column: int, width: int = SNIPPET_WIDTH) -> str:
    """The source line, at most ``width`` of it, with its number and, below it, a caret under ``column``."""
    start = max(0, column - 1 - width * 2 // 3) if len(line) > width else 0
    cut = line[start : start + width].replace("\t", " ")
    gutter = f"{number:>5} | "
    return f"{gutter}{cut}\n{' ' * (len(gutter) - 2)}| {' ' * (column - 1 - start)}^"


class Report:
    """Collects the problems of one file, up to `MAX_PROBLEMS`."""

    def __init__(self, path: Path | str, lines: Sequence[str] = ()) -> None:
        self.path = str(path)
        self.lines = lines
        self._problems: list[MissionProblem] = []
        self._left_out = False

    def add(
        self, code: str, message: str, at: tuple[int, int] = (1, 1), *, hint: str = "", severity: str = "error"
    ) -> None:
        """Note one problem at ``(line, column)``, both from 1."""
        if len(self._problems) >= MAX_PROBLEMS:
            self._left_out = True
            return
        line, column = at
        source = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        self._problems.append(
            MissionProblem(
                code=code,
                message=message,
                path=self.path,
                line=line,
                column=column,
                snippet=snippet(source, line, column) if source else "",
                hint=hint,
                severity=severity,
            )
        )

    @property
    def full(self) -> bool:
        """True when nothing more will be listed, so that looking for more is wasted."""
        return len(self._problems) >= MAX_PROBLEMS

    @property
    def failed(self) -> bool:
        return self._left_out or any(item.severity == "error" for item in self._problems)

    def problems(self) -> tuple[MissionProblem, ...]:
        """All of them by position, with a closing note when some were left out."""
        ordered = sort_problems(self._problems)
        if not self._left_out:
            return ordered
        note = f"there are more than {MAX_PROBLEMS} problems; fix these first"
        last = MissionProblem(code="MISSION_TOO_MANY_PROBLEMS", message=note, path=self.path, line=len(self.lines) or 1)
        return (*ordered, last)

    def raise_if_failed(self) -> None:
        """Raise `MissionInvalid` with everything found so far if any of it is an error."""
        if self.failed:
            raise MissionInvalid(self.problems())
