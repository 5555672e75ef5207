"""Ask a human and go on only if they agree (ruling R8). The answer is journalled and survives a restart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockRuntimeError, BlockValidationError
from runtime.blocks.values import NULL, BlockValue

APPROVED: Final = "approved"
REJECTED: Final = "rejected"
#: Choices that mean no, whatever else is offered.
REFUSALS: Final = frozenset({REJECTED, "reject", "refuse", "refused", "deny", "denied", "no"})

#: How often a form is asked for before its missing fields count as no answer.
MAX_QUESTIONS: Final = 3
_PARTS: Final = re.compile(r"[;\n]")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,63}")


class Approval(Block, input=multiple(), output=once("map"), side_effects="none"):
    """Wait for an operator to approve; a rejection ends the run."""

    message: str = field(metadata={"help": "The question."})
    choices: list[str] = field(
        default_factory=lambda: [APPROVED, REJECTED],
        metadata={"help": "The possible answers; 'rejected', 'refuse', 'deny' and 'no' refuse, all others approve."},
    )
    subject: Any = field(default=None, metadata={"help": "What is approved; the input value when silent."})
    fields: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "What else must be told, by name, each with its question; answered in the notes as 'name: text; name: text'."
        },
    )

    def __post_init__(self) -> None:
        if not self.message.strip():
            raise BlockValidationError("validation.bad_config", "approval: message must say what is asked")
        if len(set(self.choices)) != len(self.choices) or all(choice in REFUSALS for choice in self.choices):
            raise BlockValidationError(
                "validation.bad_config", "approval: choices must differ and offer a way to approve"
            )
        odd = next((name for name in self.fields if not _NAME.fullmatch(name)), None)
        if odd is not None:
            raise BlockValidationError("validation.bad_config", f"approval: {odd!r} is no name for a field")

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Any value may be put before a human."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, Any]:
        subject = input if self.subject is None else BlockValue.of(self.subject)
        told: dict[str, str] = {}
        question = self._question(told)
        for _ in range(MAX_QUESTIONS):
            answer = await ctx.wait(question, kinds=("string", "map"), choices=tuple(self.choices), subject=subject)
            choice, notes = read_answer(answer)
            if choice in REFUSALS:
                raise self._refused(choice, notes)
            told |= self._told(answer, notes)
            if len(told) == len(self.fields):
                form = {"fields": {name: told[name] for name in self.fields}} if self.fields else {}
                return {"approved": True, "choice": choice} | ({"notes": notes} if notes else {}) | form
            question = self._question(told, again=True)
        missing = ", ".join(name for name in self.fields if name not in told)
        raise BlockRuntimeError("approval.missing", f"{self.message} was approved without saying: {missing}")

    def _question(self, told: Mapping[str, str], *, again: bool = False) -> str:
        """The message, and what the notes must still say."""
        missing = "; ".join(f"{name}: {asked}" for name, asked in self.fields.items() if name not in told)
        ask = "The answer did not tell; say in the notes:" if again else "Say in the notes:"
        return f"{self.message} {ask} {missing}" if missing else self.message

    def _refused(self, choice: str, notes: str | None) -> BlockRuntimeError:
        details = {"choice": choice} | ({"notes": notes} if notes else {})
        why = f": {notes}" if notes else ""
        return BlockRuntimeError("approval.refused", f"{self.message} was answered {choice!r}{why}", details=details)

    def _told(self, answer: BlockValue, notes: str | None) -> dict[str, str]:
        """The fields an answer holds: members of its ``fields``, or parts of its notes."""
        form = answer.get("fields", NULL)
        given = {name: item.text() for name, item in form.expect_map().items()} if form.is_map else {}
        parts = (part.partition(":") for part in _PARTS.split(notes or ""))
        given |= {name.strip(): text.strip() for name, _, text in parts}
        return {name: text for name, text in given.items() if name in self.fields and text}


def read_answer(answer: BlockValue) -> tuple[str, str | None]:
    """Choice and notes of an answer: a STRING is the choice, a BOOL approves or not, a MAP names both."""
    if answer.is_bool:
        return (APPROVED if answer.payload else REJECTED), None
    if answer.is_map:
        chosen, notes = answer.get("choice"), answer.get("notes")
        if chosen is None:
            raise BlockRuntimeError("approval.missing", "the answer names no choice")
        return chosen.text(), notes.text() if notes is not None and not notes.is_null else None
    return answer.text(), None
