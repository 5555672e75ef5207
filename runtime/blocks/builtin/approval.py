"""Ask a human and go on only if they agree (ruling R8). The answer is journalled and survives a restart."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockRuntimeError, BlockValidationError
from runtime.blocks.values import BlockValue

APPROVED: Final = "approved"
REJECTED: Final = "rejected"
#: Choices that mean no, whatever else is offered.
REFUSALS: Final = frozenset({REJECTED, "reject", "refuse", "refused", "deny", "denied", "no"})


class Approval(Block, input=multiple(), output=once("map"), side_effects="none"):
    """Wait for an operator to approve; a rejection ends the run."""

    message: str = field(metadata={"help": "The question."})
    choices: list[str] = field(
        default_factory=lambda: [APPROVED, REJECTED],
        metadata={"help": "The possible answers; 'rejected', 'refuse', 'deny' and 'no' refuse, all others approve."},
    )
    subject: Any = field(default=None, metadata={"help": "What is approved; the input value when silent."})

    def __post_init__(self) -> None:
        if not self.message.strip():
            raise BlockValidationError("validation.bad_config", "approval: message must say what is asked")
        if len(set(self.choices)) != len(self.choices) or all(choice in REFUSALS for choice in self.choices):
            raise BlockValidationError(
                "validation.bad_config", "approval: choices must differ and offer a way to approve"
            )

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Any value may be put before a human."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, Any]:
        subject = input if self.subject is None else BlockValue.of(self.subject)
        answer = await ctx.wait(self.message, kinds=("string", "map"), choices=tuple(self.choices), subject=subject)
        choice, notes = read_answer(answer)
        if choice in REFUSALS:
            told = {"choice": choice} | ({"notes": notes} if notes else {})
            why = f": {notes}" if notes else ""
            raise BlockRuntimeError("approval.refused", f"{self.message} was answered {choice!r}{why}", details=told)
        return {"approved": True, "choice": choice} | ({"notes": notes} if notes else {})


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
