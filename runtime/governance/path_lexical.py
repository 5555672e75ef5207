"""What a path may look like: every check that needs no file system (operations spec §8.2).

The enforcer accepts only one spelling of each path, the normal form, and never repairs a request: two spellings
of one file are how checks get bypassed. Nothing is expanded, neither ``~`` nor variables nor percent codes.
The order of the checks is part of the contract, because the first finding decides the code an operator sees.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.globs import folded

#: Limits of operations spec §15.
MAX_PATH_BYTES: Final = 1024
MAX_COMPONENTS: Final = 64
MAX_COMPONENT_BYTES: Final = 255
#: How much of a refused request is kept as evidence.
_MAX_EVIDENCE_CHARS: Final = 256

#: Checks that ``names: native`` waives for files existing under exactly that name (relaxation 5: L16, L17, L19–L21).
WAIVABLE: Final = frozenset(
    {"PATH_STREAM", "PATH_RESERVED_CHAR", "PATH_EDGE_CHAR", "PATH_RESERVED_NAME", "PATH_SHORT_NAME"}
)

#: Unicode's default-ignorable code points, line and paragraph separators and annotation marks: drawn as nothing
#: or as direction changes, so two names that look alike would differ.
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_CONTROL: Final = re.compile("[\x01-\x1f\x7f-\x9f]")
_DRIVE: Final = re.compile("[A-Za-z]:")
_PERCENT: Final = re.compile("%(?:[0-9A-Fa-f]|%|[uU][0-9A-Fa-f])")
_RESERVED_CHARS: Final = re.compile('[<>"|?*]')
_RESERVED_NAME: Final = re.compile(
    "(?:con|prn|aux|nul|clock\\$|conin\\$|conout\\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])\\Z"
)
_SHORT_NAME: Final = re.compile(r"[^.]{1,6}~[0-9]{1,4}(?:\.[^.]{0,3})?\Z")
_SEPARATORS: Final = "/\\"
_GAINED: Final = "/\\:\0"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first check a path failed: its code, a sentence, and further evidence."""

    code: str
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)


def lexical_finding(path: object, *, native: bool = False) -> Finding | None:
    """The first of L1–L24 that ``path`` fails, or None for a normal form. ``native`` skips the `WAIVABLE` checks."""
    if not isinstance(path, str):
        return Finding("PATH_TYPE", f"a path must be text, not {type(path).__name__}")
    found = _whole(path) or _anchor(path)
    if found is not None:
        return found
    parts = path.split("/")
    return (
        _traversal(path, parts)
        or _native_names(path, native)
        or _sizes(parts)
        or (None if native else _edges_and_aliases(parts))
        or _unicode(path, parts)
    )


def normalise_request(path: str) -> str:
    """Drop ``./`` and doubled or trailing ``/`` and nothing else; for front ends, before the enforcer sees it.

    Absolute paths and network shares come back unchanged, so that they are refused rather than reinterpreted.
    """
    if path.startswith(tuple(_SEPARATORS)):
        return path
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or path


def shown(path: object) -> str:
    """``path`` as evidence: canonicalisable, printable, bounded and never absolute."""
    if not isinstance(path, str):
        return f"<{type(path).__name__}>"
    if path.startswith(tuple(_SEPARATORS)) or _DRIVE.match(path):
        path = "<absolute>/" + re.split(r"[/\\]", path)[-1]
    text = "".join(_escaped(char) for char in path[: _MAX_EVIDENCE_CHARS + 1])
    return text if len(text) <= _MAX_EVIDENCE_CHARS else text[:_MAX_EVIDENCE_CHARS] + "…"


def _escaped(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or _INVISIBLE.match(char)
    return char.encode("unicode_escape").decode("ascii") if hidden else char


def _whole(path: str) -> Finding | None:
    """L2–L7: the text as a whole."""
    if not path:
        return Finding("PATH_EMPTY", "the path is empty")
    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        return Finding("PATH_ENCODING", "the path holds a lone surrogate and has no UTF-8 form")
    if size > MAX_PATH_BYTES:
        return Finding("PATH_TOO_LONG", f"the path has {size} bytes, more than {MAX_PATH_BYTES}")
    if "\0" in path:
        return Finding("PATH_NUL", "the path holds a NUL")
    if _CONTROL.search(path):
        return Finding("PATH_CONTROL", "the path holds a control character")
    if _INVISIBLE.search(path):
        return Finding("PATH_INVISIBLE", "the path holds an invisible or directional character")
    return None


def _anchor(path: str) -> Finding | None:
    """L8–L11: anything that is not relative with forward slashes."""
    if path[0] in _SEPARATORS and path[1:2] and path[1] in _SEPARATORS:
        return Finding("PATH_UNC", "the path begins like a network share")
    if _DRIVE.match(path):
        return Finding("PATH_DRIVE", "the path begins with a drive letter")
    if path.startswith("/"):
        return Finding("PATH_ABSOLUTE", "the path is absolute; give it relative to the workspace")
    if "\\" in path:
        return Finding("PATH_BACKSLASH", "the path holds a backslash; use '/'")
    return None


def _traversal(path: str, parts: Sequence[str]) -> Finding | None:
    """L12–L15: going up, encodings of going up, and spellings other than the normal form."""
    if any(part.startswith("..") for part in parts):
        return Finding("PATH_TRAVERSAL", "a component is or begins with '..'")
    if _PERCENT.search(path):
        return Finding("PATH_PERCENT", "the path holds a percent code")
    if any(part in ("", ".") for part in parts):
        normal = normalise_request(path)
        return Finding("PATH_NOT_NORMAL", "the path is not in normal form", {"normal_form": shown(normal)})
    if path.startswith("~"):
        return Finding("PATH_HOME", "the path begins with '~', which is never expanded")
    return None


def _native_names(path: str, native: bool) -> Finding | None:
    """L16–L17: characters that other systems interpret."""
    if native:
        return None
    if ":" in path:
        return Finding("PATH_STREAM", "the path holds ':'")
    if _RESERVED_CHARS.search(path):
        return Finding("PATH_RESERVED_CHAR", 'the path holds one of < > " | ? *')
    return None


def _sizes(parts: Sequence[str]) -> Finding | None:
    """L18."""
    if len(parts) > MAX_COMPONENTS:
        return Finding("PATH_TOO_DEEP", f"the path has {len(parts)} components, more than {MAX_COMPONENTS}")
    if any(len(part.encode()) > MAX_COMPONENT_BYTES for part in parts):
        return Finding("PATH_COMPONENT_TOO_LONG", f"a component has more than {MAX_COMPONENT_BYTES} bytes")
    return None


def _edges_and_aliases(parts: Sequence[str]) -> Finding | None:
    """L19–L21: names that another system would strip, redirect to a device, or expand."""
    if any(part[0].isspace() or part[-1].isspace() or part[-1] == "." for part in parts):
        return Finding("PATH_EDGE_CHAR", "a component begins with a space or ends in a dot or space")
    if any(_RESERVED_NAME.match(part.split(".", 1)[0].rstrip().casefold()) for part in parts):
        return Finding("PATH_RESERVED_NAME", "a component is a reserved device name")
    if any(_SHORT_NAME.match(part) for part in parts):
        return Finding("PATH_SHORT_NAME", "a component looks like a short-name alias")
    return None


def _unicode(path: str, parts: Sequence[str]) -> Finding | None:
    """L22–L24: names that become something else when normalised."""
    for part in parts:
        wide = unicodedata.normalize("NFKC", part)
        gained = any(wide.count(char) > part.count(char) for char in _GAINED)
        if wide == "." or wide.startswith("..") or gained:
            return Finding("PATH_CONFUSABLE", "a component turns into dots or separators when normalised")
    if unicodedata.normalize("NFC", path) != path:
        return Finding("PATH_NOT_NFC", "the path is not in Unicode normal form C")
    if any(folded(part) == ".git" for part in parts):
        return Finding("PATH_GIT_INTERNAL", "git's own directory is never touched by path")
    return None
