"""What an external operation may have left in the world, which decides whether its block may run again (ruling R14).

Pure. Model calls and plain reads of a server are as good twice as once; anything else outside the work tree is not,
unless the operation itself knows that nothing was done yet.
"""

from __future__ import annotations

from runtime.blocks.effects import SideEffects
from runtime.kernel.model import Effect, Operation, OperationResult
from runtime.missions.parameters import tool_action

#: Methods of ``http.request`` that only ask (RFC 9110 §9.2.1).
_ASKING = frozenset({"GET", "HEAD"})
_SENDING = frozenset({"http.request", "mail.send"})


def left_by(operation: Operation, result: OperationResult | None) -> SideEffects:
    """The class of what ``operation`` left outside the work tree; None is a cancelled one, of which nothing is known.

    What it wrote into the work tree is undone by its receipt and no part of this.
    """
    if result is None:
        return _at_worst(operation) if _is_external(operation) else SideEffects.NONE
    if result.receipt is None or result.receipt.effect != Effect.EXTERNAL.value:
        return SideEffects.NONE
    details = result.evidence.get("details")
    if not result.ok and details and details.get("effects") == "none":
        return SideEffects.NONE
    return _at_worst(operation)


def _is_external(operation: Operation) -> bool:
    return operation.type == "llm_call" or tool_action(operation.params) in _SENDING


def _at_worst(operation: Operation) -> SideEffects:
    asks = tool_action(operation.params) == "http.request" and operation.params.get("method", "GET") in _ASKING
    return SideEffects.IDEMPOTENT if asks or operation.type == "llm_call" else SideEffects.NON_IDEMPOTENT
