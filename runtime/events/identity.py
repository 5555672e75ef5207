"""Ids without randomness and without a clock, so that the same history always names itself the same way.

One `Identity` per session. Its counters continue on resume and travel with a hand-over; a turn's counter is
dropped with the turn (turn runtime §3.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from runtime.events.envelope import EventError

SESSION_PART: Final = "session"
#: Turns counted at once; the least recently used is dropped beyond it (tombstones keep 1 024, turn runtime §11).
MAX_COUNTERS: Final = 2048


class Identity:
    """Mints event ids of one session and derives what hangs on them."""

    def __init__(self, session_id: str, counters: Mapping[str, int] | None = None) -> None:
        if not session_id.strip():
            raise EventError("a session id is required", field_path="session_id")
        self._session = sanitise(session_id)
        self._counters = dict(counters or {})

    def next_event_id(self, turn_id: str | None = None) -> str:
        """``evt/<session>/<turn or "session">/<ordinal>``; ordinals start at 1 per turn."""
        part = _part(turn_id)
        ordinal = self._counters.pop(part, 0) + 1
        while len(self._counters) >= MAX_COUNTERS:
            self._counters.pop(next(iter(self._counters)))
        self._counters[part] = ordinal
        return f"evt/{self._session}/{part}/{ordinal:06d}"

    def correlation_id(self, turn_id: str | None = None) -> str:
        return f"corr/{self._session}/{_part(turn_id)}"

    def idempotency_key(self, event_id: str, turn_id: str | None = None) -> str:
        """A delivery key for one event; not the idempotency key of an operation (ruling R13)."""
        return hashlib.sha256(f"{self._session}/{_part(turn_id)}/{event_id}".encode()).hexdigest()

    def invocation_id(self, event_id: str, capability: str, turn_id: str | None = None) -> str:
        return f"pvi/{self._session}/{_part(turn_id)}/{event_id}/{sanitise(capability)}"

    def counters(self) -> dict[str, int]:
        """The counters to hand over or to continue from."""
        return dict(self._counters)

    def observe(self, event_id: str) -> None:
        """Continue after an id minted earlier, as when a journal is resumed; foreign ids are ignored."""
        parts = event_id.split("/")
        if len(parts) == 4 and parts[:2] == ["evt", self._session] and parts[3].isdecimal():
            self._counters[parts[2]] = max(self._counters.get(parts[2], 0), int(parts[3]))

    def drop_turn(self, turn_id: str) -> None:
        """Forget a turn's counter once late events for it are no longer told apart."""
        self._counters.pop(_part(turn_id), None)


def sanitise(text: str) -> str:
    """One id segment: trimmed, no slashes or spaces, never empty."""
    return text.strip().replace("/", "_").replace(" ", "_") or "unknown"


def _part(turn_id: str | None) -> str:
    return sanitise(turn_id) if turn_id else SESSION_PART
