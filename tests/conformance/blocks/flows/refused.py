"""Reference flow iii: a graph with a fault is refused as a whole, before its first block does anything."""

from __future__ import annotations

from runtime.blocks.builtin.choosing import Filter
from runtime.blocks.builtin.remote import SendEmail
from runtime.blocks.workflow import Workflow


def announce_then_filter(to: str) -> Workflow:
    """Nonsense: a mail gives a map, and a filter takes lists."""
    return Workflow("announce").link(SendEmail(to=to, subject="Starting"), Filter(contains="urgent"))
