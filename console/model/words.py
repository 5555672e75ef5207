"""Glyphs and words for states. Glyphs are the contract, colours only help, and each glyph has a word."""

from __future__ import annotations

from typing import Final

from runtime.host.api import RunStatus

STATUS_WORDS: Final = {
    RunStatus.QUEUED: "queued",
    RunStatus.RUNNING: "running",
    RunStatus.WAITING: "waiting for you",
    RunStatus.PAUSED: "paused",
    RunStatus.STOPPING: "stopping",
    RunStatus.SUCCEEDED: "succeeded",
    RunStatus.SKIPPED: "skipped",
    RunStatus.FAILED: "failed",
    RunStatus.TIMED_OUT: "timed out",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.REFUSED: "refused",
}

_RUN_GLYPHS: Final = {
    RunStatus.QUEUED: "○",
    RunStatus.RUNNING: "●",
    RunStatus.WAITING: "◐",
    RunStatus.PAUSED: "‖",
    RunStatus.STOPPING: "◍",
    RunStatus.SUCCEEDED: "✓",
    RunStatus.SKIPPED: "·",
    RunStatus.FAILED: "✗",
    RunStatus.TIMED_OUT: "✗",
    RunStatus.CANCELLED: "⊘",
    RunStatus.REFUSED: "✗",
}

_STEP_GLYPHS: Final = {
    "pending": "○",
    "running": "●",
    "waiting": "◐",
    "completed": "✓",
    "failed": "✗",
    "compensated": "↶",
    "escalated": "✗",
    "cancelled": "⊘",
    "skipped": "·",
}

REUSED_GLYPH: Final = "↺"
REUSED_WORD: Final = "reused"
RESUMABLE_GLYPH: Final = "◌"
RESUMABLE_WORD: Final = "resumable"
WARNING_GLYPH: Final = "▲"


def status_glyph(status: RunStatus, *, resumable: bool = False) -> str:
    """The glyph of a run; a run nobody holds any more is shown as resumable."""
    return RESUMABLE_GLYPH if resumable else _RUN_GLYPHS[status]


def status_word(status: RunStatus, *, resumable: bool = False) -> str:
    """The word of a run."""
    return RESUMABLE_WORD if resumable else STATUS_WORDS[status]


def glyph(step_status: str, *, accepted: bool = False, reused: bool = False) -> str:
    """The glyph of a step; an accepted failure is amber, not red (ruling R16), one taken over from another run its own."""
    if reused:
        return REUSED_GLYPH
    return WARNING_GLYPH if accepted else _STEP_GLYPHS.get(step_status, "○")
