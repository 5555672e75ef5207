"""Words of a person or of another process on their way into a journal."""

from __future__ import annotations

from typing import Final

#: A reason is a sentence or a paragraph; the journal is no place for documents.
MAX_WORDS: Final = 2000


def plain_words(text: str) -> str:
    """``text`` as it can be recorded: bytes that were no characters become marks, and the length is bounded.

    A reason that cannot be recorded would cost the run its durable end, long after the person has typed it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")[:MAX_WORDS]
