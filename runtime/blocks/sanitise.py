"""What may leave a block in diagnostics (blocks spec §19.3, ruling R46).

Two strengths. `scrub` removes key-like secrets at once, so that recovery still reads the text it repairs from;
`redact` also hides content and bounds size, for logs, events and serialised responses. Neither ever raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.values import BlockValue

REDACTED: Final = "<redacted>"
MAX_TEXT: Final = 256
MAX_ITEMS: Final = 25
MAX_DEPTH: Final = 3

_SECRET_KEYS: Final = re.compile(r"api_?key|authorization|token|secret|password", re.IGNORECASE)
_CONTENT_KEYS: Final = re.compile(r"prompt|message|content|input|output|completion|payload|schema", re.IGNORECASE)
_SECRET_TEXT: Final = re.compile(
    r"(?i:\bbearer\s+[a-z0-9._~+/=-]{8,})|\b(?:sk|pk|ghp|gho|ghs|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{16,}"
)
#: Written by the engine itself, so their names say nothing about their content.
_ENGINE_KEYS: Final = frozenset({"issues", "max_steps", "_truncated"})


def clean_text(text: str, limit: int | None = None) -> str:
    """``text`` without key-like strings and bearer tokens, cut at ``limit`` characters."""
    text = _SECRET_TEXT.sub(REDACTED, text) if len(text) >= 8 else text
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… [{len(text) - limit} more]"


def scrub(details: Mapping[str, Any]) -> BlockValue:
    """Details as a MAP value without secrets. What cannot be a value is replaced by its type name."""
    return BlockValue.of(_scrubbed(details, MAX_DEPTH * 4))


def redact(value: object) -> Any:
    """A bounded, plain copy fit for logs and readers without the right to see content."""
    plain = value.to_python() if isinstance(value, BlockValue) else value
    return _redacted(plain, MAX_DEPTH)


def _scrubbed(value: object, room: int) -> Any:
    if isinstance(value, BlockValue):
        value = value.to_python()
    if isinstance(value, str):
        return clean_text(_text(value))
    if isinstance(value, Mapping):
        if room <= 0:
            return REDACTED
        return {
            name: REDACTED if _SECRET_KEYS.search(name) else _scrubbed(item, room - 1)
            for name, item in ((_name(key), item) for key, item in value.items())
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(item, room - 1) for item in value] if room > 0 else REDACTED
    return _plain(value)


def _redacted(value: object, room: int) -> Any:
    if isinstance(value, str):
        return clean_text(_text(value), MAX_TEXT)
    if isinstance(value, Mapping):
        return _redacted_map(value, room)
    if isinstance(value, list | tuple):
        if room <= 0:
            return REDACTED
        kept = [_redacted(item, room - 1) for item in value[:MAX_ITEMS]]
        return kept if len(value) <= MAX_ITEMS else [*kept, {"_truncated": len(value) - MAX_ITEMS}]
    return _plain(value)


def _redacted_map(value: Mapping[Any, Any], room: int) -> Any:
    if room <= 0:
        return REDACTED
    result: dict[str, Any] = {}
    for key, item in list(value.items())[:MAX_ITEMS]:
        name = _name(key)
        hidden = name not in _ENGINE_KEYS and (_SECRET_KEYS.search(name) or _CONTENT_KEYS.search(name))
        result[name] = REDACTED if hidden else _redacted(item, room - 1)
    if len(value) > MAX_ITEMS:
        result["_truncated"] = len(value) - MAX_ITEMS
    return result


def _name(key: object) -> str:
    try:
        return _text(str(key))
    except Exception:  # noqa: BLE001 - an author's own key class; sanitising never fails
        return f"<{type(key).__name__}>"


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _plain(value: object) -> Any:
    try:
        return BlockValue.of(value).to_python()
    except Exception:  # noqa: BLE001 - `BlockValue.of` asks objects for their own form
        return f"<{type(value).__name__}>"
