"""Journal rows as entries, as far as their bytes still are some; what is not, verification tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.kernel.canonical import CanonicalizationError, parse_strict
from runtime.kernel.ports import StoredEntry


def parsed(stored: StoredEntry) -> dict[str, Any] | None:
    """A row's entry; None when its bytes are not one any more."""
    try:
        entry = parse_strict(stored.body)
    except CanonicalizationError:
        return None
    return entry if isinstance(entry, dict) and entry.get("kind") == stored.kind else None


def parsed_rows(rows: Sequence[StoredEntry]) -> list[dict[str, Any]]:
    """The entries of the rows that still hold one."""
    return [entry for entry in map(parsed, rows) if entry is not None]
