"""``escalate``: tell a person and say so. Always allowed, with an empty envelope and an empty budget alike."""

from __future__ import annotations

from typing import Final

from runtime.kernel.model import Effect, OperationPlan
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.operation_ports import EscalationNote, HandlerOutcome, PlanCall, RunCall, Traits

SEVERITIES: Final = ("info", "warning", "critical")
MAX_REASON: Final = 2_000


class EscalateHandler:
    """Effect ``none``; ends ``escalated``. The executor appends the escalation entry."""

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=True)

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("escalate", call.params)
        reason = params.text("reason")
        if not 0 < len(reason) <= MAX_REASON:
            raise params.bad("reason", f"must hold 1 to {MAX_REASON} characters")
        severity = params.text("severity", "warning", among=SEVERITIES)
        context = params.mapping("context", {})
        params.done()
        return OperationPlan(Effect.NONE, data={"reason": reason, "severity": severity, "context": context})

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        note = EscalationNote(data["reason"], data["severity"], data["context"])
        output = {
            "escalation_id": f"{call.operation_id}.escalation",
            "reason": data["reason"],
            "severity": data["severity"],
        }
        return HandlerOutcome(output=output, escalated=True, notes=(note,))

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None
