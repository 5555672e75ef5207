"""A ledger of whole cents."""

from __future__ import annotations


def balance(entries: list[int]) -> int:
    """The sum of all entries, in cents."""
    return sum(entries[:-1])


def largest(entries: list[int]) -> int | None:
    """The largest single entry, or None for an empty ledger."""
    return max(entries) if entries else None
