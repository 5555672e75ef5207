"""Path patterns: one glob dialect for envelopes, protection and watch rules (operations spec §8.4).

Patterns are split at ``/`` and matched segment by segment, anchored at both ends. ``**`` is a whole segment:
zero or more segments, except as the last one, where it needs at least one. A trailing ``/`` means the directory
itself and everything below it. There is no negation, brace expansion or escape (write ``[*]``).
Matching is dynamic programming over bit sets, O(pattern × path), so no pattern can be made slow.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from runtime.kernel.errors import ModelError

MAX_BYTES: Final = 512
MAX_SEGMENTS: Final = 64
MAX_GLOBSTARS: Final = 4

_Ranges = tuple[tuple[str, str], ...]
_GLOBSTAR: Final = None


@dataclass(frozen=True, slots=True)
class _Token:
    """One element of a compiled segment. ``kind`` is ``char``, ``any``, ``star`` or ``set``.

    A folded set tests every case variant of the actual character, so that folding can only match more.
    """

    kind: str
    char: str = ""
    negated: bool = False
    ranges: _Ranges = ()
    fold: bool = False

    def fits(self, actual: str) -> bool:
        """For ``any`` and ``set``: may this character stand here?"""
        if self.kind == "any":
            return True
        variants = {actual, actual.lower(), actual.upper(), actual.title()} if self.fold else {actual}
        return any(
            any(low <= variant <= high for low, high in self.ranges) is not self.negated
            for variant in variants
            if len(variant) == 1
        )


_Segment = tuple[_Token, ...] | None


def check(pattern: str) -> None:
    """Raise `ModelError` ``GLOB_INVALID`` unless ``pattern`` is a valid pattern."""
    _compiled(pattern, fold=False)


def matches(pattern: str, path: str, *, fold: bool = False) -> bool:
    """Does the whole ``path`` match? With ``fold``, spellings that differ in case or compatibility form match too.

    Folding only ever adds matches. Raises `ModelError` ``GLOB_INVALID`` for a bad pattern.
    """
    if _match(_compiled(pattern, fold=False), path):
        return True
    return fold and _match(_compiled(pattern, fold=True), folded(path))


def folded(text: str) -> str:
    """Case- and NFKC-folded form; folding twice catches characters whose fold decomposes further."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def literal_prefix(pattern: str) -> str:
    """The leading segments of ``pattern`` that hold no wildcard, joined with ``/``."""
    taken = []
    for segment in pattern.rstrip("/").split("/"):
        if any(mark in segment for mark in "*?["):
            break
        taken.append(segment)
    return "/".join(taken)


def _compiled(pattern: str, *, fold: bool) -> tuple[tuple[_Segment, ...], bool]:
    if not isinstance(pattern, str):
        raise ModelError("GLOB_INVALID", f"a pattern must be text, not {type(pattern).__name__}")
    return _compile(pattern, fold)


@lru_cache(maxsize=1024)
def _compile(pattern: str, fold: bool) -> tuple[tuple[_Segment, ...], bool]:
    _check_shape(pattern)
    directory = pattern.endswith("/")
    names = (pattern[:-1] if directory else pattern).split("/")
    if len(names) > MAX_SEGMENTS:
        raise _invalid(pattern, f"has more than {MAX_SEGMENTS} segments")
    if sum(name == "**" for name in names) > MAX_GLOBSTARS:
        raise _invalid(pattern, f"has more than {MAX_GLOBSTARS} '**'")
    return tuple(_segment(name, pattern, fold) for name in names), directory


def _invalid(pattern: str, why: str) -> ModelError:
    return ModelError("GLOB_INVALID", f"pattern {pattern!r} {why}")


def _check_shape(pattern: str) -> None:
    if not pattern:
        raise _invalid(pattern, "is empty")
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError:
        raise _invalid(pattern, "holds a lone surrogate") from None
    if size > MAX_BYTES:
        raise _invalid(pattern, f"is longer than {MAX_BYTES} bytes")
    if pattern.startswith("/"):
        raise _invalid(pattern, "is absolute; patterns are relative to the workspace")
    if "\\" in pattern:
        raise _invalid(pattern, "holds a backslash; use '/'")
    if any(unicodedata.category(char) == "Cc" for char in pattern):
        raise _invalid(pattern, "holds a control character")
    if unicodedata.normalize("NFC", pattern) != pattern:
        raise _invalid(pattern, "is not in Unicode normal form C")


def _segment(name: str, pattern: str, fold: bool) -> _Segment:
    if name in ("", ".", ".."):
        raise _invalid(pattern, f"has a {name!r} segment")
    if name == "**":
        return _GLOBSTAR
    if "**" in name:
        raise _invalid(pattern, "has '**' glued to other characters")
    return tuple(_tokens(name, pattern, fold))


def _tokens(name: str, pattern: str, fold: bool) -> Iterator[_Token]:
    index = 0
    while index < len(name):
        if name[index] == "[":
            start = index + 1 + (name[index + 1 : index + 2] == "!")
            end = name.find("]", start + 1)  # a ']' right at the start is literal
            if end < 0:
                raise _invalid(pattern, "has an unclosed '['")
            ranges = _ranges(name[start:end], pattern)
            negated = start == index + 2
            yield _Token("set", "", negated, _folded_ranges(ranges) if fold and not negated else ranges, fold)
            index = end + 1
        elif name[index] in "*?":
            yield _Token("star" if name[index] == "*" else "any")
            index += 1
        else:
            end = next((at for at in range(index, len(name)) if name[at] in "[*?"), len(name))
            run = name[index:end]
            yield from (_Token("char", char) for char in (folded(run) if fold else run))
            index = end


def _ranges(body: str, pattern: str) -> _Ranges:
    ranges = []
    index = 0
    while index < len(body):
        low, high = body[index], body[index]
        if index + 2 < len(body) and body[index + 1] == "-":
            high = body[index + 2]
            index += 2
        if low > high:
            raise _invalid(pattern, f"has the reversed range {low}-{high}")
        ranges.append((low, high))
        index += 1
    return tuple(ranges)


def _folded_ranges(ranges: _Ranges) -> _Ranges:
    """The ranges plus their folded forms where those are still ranges."""
    pairs = ((folded(low), folded(high)) for low, high in ranges)
    return ranges + tuple((low, high) for low, high in pairs if len(low) == len(high) == 1 and low <= high)


def _match(compiled: tuple[tuple[_Segment, ...], bool], path: str) -> bool:
    """Bit ``j`` of ``reach`` says that the segments so far match the first ``j`` parts of the path."""
    segments, directory = compiled
    parts = path.split("/") if path else []
    everything = (1 << (len(parts) + 1)) - 1
    reach = 1
    for position, segment in enumerate(segments):
        if segment is _GLOBSTAR:
            lowest = reach & -reach
            last = position == len(segments) - 1  # the last '**' needs at least one segment
            reach = everything & ~((lowest << 1 if last else lowest) - 1)
        else:
            reach = sum(
                1 << (at + 1) for at, part in enumerate(parts) if reach >> at & 1 and _match_segment(segment, part)
            )
        if not reach:
            return False
    return bool(reach & ~1) if directory else bool(reach >> len(parts) & 1)


def _match_segment(tokens: tuple[_Token, ...], name: str) -> bool:
    """The same over the characters of one name."""
    everything = (1 << (len(name) + 1)) - 1
    places: dict[str, int] = {}
    for at, char in enumerate(name):
        places[char] = places.get(char, 0) | 1 << at
    reach = 1
    for token in tokens:
        if token.kind == "star":
            reach = everything & ~((reach & -reach) - 1)
            continue
        if token.kind == "char":
            here = places.get(token.char, 0)
        else:
            here = sum(where for char, where in places.items() if token.fits(char))
        reach = (reach & here) << 1
        if not reach:
            return False
    return bool(reach >> len(name) & 1)
