"""The one boundary between untrusted text and the operator's terminal.

Textual and the terminal both obey what they are given: escape sequences rename windows and write clipboards, markup
becomes live links, bidirectional marks reorder a line. Model output, tool output, file names, mission text and run
ids all pass through `safe` before anything draws or prints them; everything that does is a `SafeText`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NewType

SafeText = NewType("SafeText", str)

#: Whole control sequences, 7-bit and 8-bit: CSI, then OSC/DCS/SOS/PM/APC up to their terminator, then two-byte escapes.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_SUSPECT: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_ELLIPSIS: Final = "…"


def safe(text: object, *, limit: int | None = None, lines: bool = False) -> SafeText:
    """Return ``text`` as printable characters only.

    Escape sequences are removed whole; other control, invisible and directional characters become visible pictures
    or ``⟨U+XXXX⟩``. Line feeds survive only with ``lines``; otherwise they show as ``⏎``. ``limit`` counts characters.
    """
    value = str(text)
    if not value.isprintable():
        value = _SEQUENCES.sub("", value)
        value = _SUSPECT.sub(_keep_lines if lines else _picture, value)
    if limit is not None and len(value) > limit:
        value = value[: max(0, limit - 1)] + _ELLIPSIS
    return SafeText(value)


def tail(text: str, lines: int) -> list[SafeText]:
    """The last ``lines`` lines of a block of untrusted text, each made safe."""
    return [safe(line) for line in text.splitlines()[-lines:]]


def _keep_lines(match: re.Match[str]) -> str:
    return "\n" if match.group() == "\n" else _picture(match)


def _picture(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    if char == "\n":
        return "⏎"
    if char == "\t":
        return "    "
    if char == "\r":
        return "␍"
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(char) == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    return f"⟨U+{code:04X}⟩"
