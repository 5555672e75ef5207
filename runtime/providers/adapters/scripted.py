"""Answers recorded in a mission's own file: the provider of tests, demonstrations and offline work.

Answers are given in order, one list per role; where they depend on what is asked, one list per text that the
question holds. The position is plain state that a resumed run sets with `restore`, so replaying a journal and going
on live never asks for the same answer twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelReply, ModelRequest

#: An answer object with this member is an envelope: the answer itself, with ``tokens: [in, out]`` beside it.
WRAPPED: Final = "$answer"
_MODEL: Final = "scripted"
#: Every question holds it.
ALWAYS: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One recorded answer. Tokens are known to be 0 unless recorded otherwise: nothing was spent."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class ScriptedProvider:
    """Deterministic answers: ``data`` maps each role to its answers, texts or values (given as JSON text).

    Instead of a list a role may have a mapping from a text to a list: the first text found in the prompt or packet
    decides which list goes on.
    """

    name = "scripted"

    def __init__(self, data: Mapping[str, object]) -> None:
        """Raises `Refused` ``PROVIDER_CONFIG`` for data of another shape."""
        self._answers = {role: _lists(role, entries) for role, entries in data.items()}
        self._used: dict[tuple[str, str], int] = {}

    def restore(self, role: str, used: int, asked: str = ALWAYS) -> None:
        """Continue after the first ``used`` answers of ``role``, of its list for ``asked`` when it has several."""
        self._used[role, asked] = used

    def answer(self, role: str, ordinal: int, asked: str = ALWAYS) -> str | None:
        """The text of one recorded answer, counted from 0, without using it up; None when there is none."""
        answers = self._answers.get(role, {}).get(asked, ())
        return answers[ordinal].text if ordinal < len(answers) else None

    async def complete(self, request: ModelRequest, on_delta: Callable[[str], None] | None = None) -> ModelReply:
        """The next answer of the role. Raises `Refused` ``PROVIDER_NO_ANSWER`` or ``PROVIDER_EXHAUSTED``."""
        answer, details = self._next(request)
        if on_delta is not None:
            on_delta(answer.text)
        return ModelReply(
            text=answer.text,
            model=_MODEL,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            provider=self.name,
            details=details,
        )

    def _next(self, request: ModelRequest) -> tuple[Answer, dict[str, object]]:
        role, lists = request.role, self._answers.get(request.role)
        if lists is None:
            known = ", ".join(sorted(self._answers)) or "none"
            raise Refused("PROVIDER_NO_ANSWER", f"no recorded answers for role {role!r}", hint=f"roles: {known}")
        question = request.prompt + json.dumps(request.packet, ensure_ascii=False, default=dict)
        asked = next((text for text in lists if text in question), None)
        if asked is None:
            known = ", ".join(repr(text) for text in lists)
            raise Refused(
                "PROVIDER_NO_ANSWER",
                f"no recorded answer of role {role!r} is for this question",
                hint=f"the question must hold one of {known}"[:400],
            )
        answers, ordinal = lists[asked], self._used.get((role, asked), 0)
        if ordinal >= len(answers):
            raise Refused(
                "PROVIDER_EXHAUSTED",
                f"all {len(answers)} recorded answers of role {role!r} have been used",
                hint="record one more answer for this role",
            )
        self._used[role, asked] = ordinal + 1
        return answers[ordinal], {"role": role, "ordinal": ordinal, "asked": asked}


def _lists(role: str, entries: object) -> dict[str, tuple[Answer, ...]]:
    """Text → the answers to questions that hold it."""
    if isinstance(entries, Mapping):
        return {str(text): _answers(f"{role}.{text}", listed) for text, listed in entries.items()}
    return {ALWAYS: _answers(role, entries)}


def _answers(role: str, entries: object) -> tuple[Answer, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
        raise Refused("PROVIDER_CONFIG", "expected a list of answers", where=f"scripted.{role}")
    return tuple(_answer(f"scripted.{role}[{index}]", entry) for index, entry in enumerate(entries))


def _answer(where: str, entry: object) -> Answer:
    if not isinstance(entry, Mapping) or WRAPPED not in entry:
        return Answer(text=_text(entry))
    unknown = sorted(set(map(str, entry)) - {WRAPPED, "tokens"})
    if unknown:
        raise Refused("PROVIDER_CONFIG", f"unknown key {unknown[0]!r}; expected {WRAPPED!r} and 'tokens'", where=where)
    spent = entry.get("tokens", (0, 0))
    if not _is_token_pair(spent):
        raise Refused("PROVIDER_CONFIG", "'tokens' must be [in, out], two whole numbers from 0", where=where)
    return Answer(text=_text(entry[WRAPPED]), tokens_in=spent[0], tokens_out=spent[1])


def _is_token_pair(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return False
    return all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in value)


def _text(entry: object) -> str:
    return entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False, sort_keys=True, default=dict)
