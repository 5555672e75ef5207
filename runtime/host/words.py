"""Words of a person or of another process on their way into a journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from runtime.events.facts import RunSummary
from runtime.kernel.redaction import Redactor

#: A reason is a sentence or a paragraph; the journal is no place for documents.
MAX_WORDS: Final = 2000


def plain_words(text: str) -> str:
    """``text`` as it can be recorded: bytes that were no characters become marks, and the length is bounded.

    A reason that cannot be recorded would cost the run its durable end, long after the person has typed it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")[:MAX_WORDS]


def without_secrets(run: RunSummary, redactor: Redactor) -> RunSummary:
    """A summary as rows and screens may have it."""
    if not redactor.known:
        return run
    texts = {name: getattr(run, name) for name in ("inputs", "outputs", "message", "reason", "trigger", "cause")}
    return replace(run, **redactor.value(texts))
