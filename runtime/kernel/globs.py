"""Path patterns: one glob dialect for envelopes, protection and watch rules (operations spec §8.4).

Patterns are split at ``/`` and matched segment by segment, anchored at both ends. ``**`` is a whole segment:
zero or more segments, except as the last one, where it needs at least one. A trailing ``/`` means the directory
itself and everything below it. There is no negation, brace expansion or escape (write ``[*]``).
Matching is dynamic programming, O(pattern × path), so no pattern can be made slow.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

from runtime.kernel.errors import ModelError

MAX_BYTES: Final = 512
MAX_SEGMENTS: Final = 64
MAX_GLOBSTARS: Final = 4

#: One element of a compiled segment: a literal code point, ``?``, ``*`` or a set.
_Token = tuple[str, str, bool, tuple[tuple[str, str], ...]]
_GLOBSTAR: Final = None


def check(pattern: str) -> None:
    """Raise `ModelError` ``GLOB_INVALID`` unless ``pattern`` is a valid pattern."""
    _compile(pattern)


def matches(pattern: str, path: str, *, fold: bool = False) -> bool:
    """Does the whole ``path`` match? With ``fold``, case and compatibility forms are ignored on both sides.

    Raises `ModelError` ``GLOB_INVALID`` for a bad pattern.
    """
    if fold:
        pattern, path = folded(pattern), folded(path)
    segments, directory = _compile(pattern)
    parts = path.split("/") if path else []
    if directory:
        return any(_match_path(segments, parts[:end], last_globstar_needs_one=False) for end in range(1, len(parts) + 1))
    return _match_path(segments, parts, last_globstar_needs_one=True)


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


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> tuple[tuple[tuple[_Token, ...] | None, ...], bool]:
    def invalid(why: str) -> ModelError:
        return ModelError("GLOB_INVALID", f"pattern {pattern!r} {why}")

    if not isinstance(pattern, str) or not pattern:
        raise invalid("is empty")
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError:
        raise invalid("holds a lone surrogate") from None
    if size > MAX_BYTES:
        raise invalid(f"is longer than {MAX_BYTES} bytes")
    if pattern.startswith("/"):
        raise invalid("is absolute; patterns are relative to the workspace")
    if "\\" in pattern:
        raise invalid("holds a backslash; use '/'")
    if any(unicodedata.category(char) == "Cc" for char in pattern):
        raise invalid("holds a control character")
    if unicodedata.normalize("NFC", pattern) != pattern:
        raise invalid("is not in Unicode normal form C")
    directory = pattern.endswith("/")
    names = (pattern[:-1] if directory else pattern).split("/")
    if len(names) > MAX_SEGMENTS:
        raise invalid(f"has more than {MAX_SEGMENTS} segments")
    if sum(name == "**" for name in names) > MAX_GLOBSTARS:
        raise invalid(f"has more than {MAX_GLOBSTARS} '**'")
    segments: list[tuple[_Token, ...] | None] = []
    for name in names:
        if name in ("", ".", ".."):
            raise invalid(f"has a {name!r} segment")
        if name == "**":
            segments.append(_GLOBSTAR)
        elif "**" in name:
            raise invalid("has '**' glued to other characters")
        else:
            segments.append(_tokens(name, invalid))
    return tuple(segments), directory


def _tokens(name: str, invalid: object) -> tuple[_Token, ...]:
    fail = invalid  # a closure that names the whole pattern
    tokens: list[_Token] = []
    index = 0
    while index < len(name):
        char = name[index]
        if char == "[":
            index += 1
            negated = name[index : index + 1] == "!"
            index += negated
            end = name.find("]", index + 1)
            if end < 0 or index >= len(name):
                raise fail("has an unclosed '['")  # type: ignore[operator]
            tokens.append(("set", "", negated, _ranges(name[index:end], fail)))
            index = end + 1
            continue
        tokens.append(("star" if char == "*" else "any" if char == "?" else "char", char, False, ()))
        index += 1
    return tuple(tokens)


def _ranges(body: str, fail: object) -> tuple[tuple[str, str], ...]:
    ranges = []
    index = 0
    while index < len(body):
        if index + 2 < len(body) and body[index + 1] == "-":
            low, high = body[index], body[index + 2]
            if low > high:
                raise fail(f"has the reversed range {low}-{high}")  # type: ignore[operator]
            ranges.append((low, high))
            index += 3
        else:
            ranges.append((body[index], body[index]))
            index += 1
    return tuple(ranges)


def _match_path(
    segments: tuple[tuple[_Token, ...] | None, ...], parts: list[str], *, last_globstar_needs_one: bool
) -> bool:
    """Row-by-row dynamic programming: ``reach[j]`` says the segments so far match the first ``j`` parts."""
    reach = [True] + [False] * len(parts)
    for position, segment in enumerate(segments):
        if segment is _GLOBSTAR:
            last = position == len(segments) - 1 and last_globstar_needs_one
            seen = False
            following = []
            for here in reach:
                following.append(seen if last else seen or here)
                seen = seen or here
            reach = following
        else:
            reach = [False] + [reach[j] and _match_segment(segment, parts[j]) for j in range(len(parts))]
        if not any(reach):
            return False
    return reach[-1]


def _match_segment(tokens: tuple[_Token, ...], name: str) -> bool:
    reach = [True] + [False] * len(name)
    for kind, char, negated, ranges in tokens:
        if kind == "star":
            seen = False
            for j, here in enumerate(reach):
                seen = seen or here
                reach[j] = seen
            continue
        reach = [False] + [reach[j] and _fits(kind, char, negated, ranges, name[j]) for j in range(len(name))]
        if not any(reach):
            return False
    return reach[-1]


def _fits(kind: str, char: str, negated: bool, ranges: tuple[tuple[str, str], ...], actual: str) -> bool:
    if kind == "char":
        return char == actual
    if kind == "any":
        return True
    return any(low <= actual <= high for low, high in ranges) is not negated
