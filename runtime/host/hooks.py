"""Late-bound listeners of one run: pieces are wired before the run they report to exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.events.facts import Escalation


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


@dataclass(slots=True)
class Hooks:
    """``on_entry`` hears journal entries, ``on_output`` live output, ``on_question`` the inbox, ``on_gauges`` lanes.

    ``closing`` are called once when the run is over.
    """

    on_entry: Callable[[Mapping[str, Any]], None] = _ignore
    on_output: Callable[[str, str, str], None] = _ignore
    on_question: Callable[[Escalation], None] = _ignore
    on_gauges: Callable[[], None] = _ignore
    closing: list[Callable[[], None]] = field(default_factory=list)

    def entry(self, entry: Mapping[str, Any]) -> None:
        self.on_entry(entry)

    def output(self, step_id: str, stream: str, text: str) -> None:
        self.on_output(step_id, stream, text)

    def question(self, escalation: Escalation) -> None:
        self.on_question(escalation)

    def gauges(self) -> None:
        self.on_gauges()

    def close(self) -> None:
        """Undo subscriptions, each once."""
        while self.closing:
            self.closing.pop()()
