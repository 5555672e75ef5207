"""Where the operator's rules ask: their questions are questions of the run like any other (rulings R8, R9)."""

from __future__ import annotations

from typing import Final

from runtime.blocks.errors import BlockRuntimeError
from runtime.execution.questions import Asks
from runtime.kernel.errors import Refused
from runtime.orchestration.operator_rules import Answer, Question

_CHOICES: Final = ("approved", "rejected")


class RuleDesk:
    """Implements `runtime.orchestration.operator_rules.Desk`."""

    def __init__(self, questions: Asks) -> None:
        self._questions = questions

    async def ask(self, question: Question) -> Answer:
        """Raises `Refused` ``APPROVAL_MISSING`` when nobody can answer."""
        try:
            reply = await self._questions.ask(
                question_id=question.question_id,
                step_id=question.step_id,
                prompt=question.prompt,
                choices=_CHOICES,
                subject=question.subject,
                severity="warning",
            )
        except BlockRuntimeError as error:
            raise Refused("APPROVAL_MISSING", f"{question.rule.position}: {error.message}") from error
        return Answer(approved=reply.resolution == "approved", by=reply.by, notes=reply.notes)
