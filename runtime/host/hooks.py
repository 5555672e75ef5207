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

    ``on_shown`` hears the same entries for the faces; `hold` keeps those back that must not be seen before they are
    durable. ``closing`` are called once when the run is over.
    """

    on_entry: Callable[[Mapping[str, Any]], None] = _ignore
    on_shown: Callable[[Mapping[str, Any]], None] = _ignore
    on_output: Callable[[str, str, str], None] = _ignore
    on_question: Callable[[Escalation], None] = _ignore
    on_gauges: Callable[[], None] = _ignore
    closing: list[Callable[[], None]] = field(default_factory=list)
    _held: list[Mapping[str, Any]] | None = None

    def entry(self, entry: Mapping[str, Any]) -> None:
        if self._held is None:
            self.on_shown(entry)
        else:
            self._held.append(entry)
        self.on_entry(entry)

    def hold(self) -> None:
        """From now on entries wait for `show`: an end is shown only when it is on disk (ruling R25)."""
        self._held = self._held or []

    def show(self) -> None:
        """Show what was held."""
        held, self._held = self._held or [], None
        for entry in held:
            self.on_shown(entry)

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
