"""What an external operation may have left in the world, which decides whether its block may run again (ruling R14).

Model calls and plain reads of a server are as good twice as once; anything else outside the work tree is not, unless
the operation itself knows that nothing was done yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.blocks.effects import SideEffects
from runtime.kernel.canonical import parse_strict
from runtime.kernel.model import Effect, Operation, OperationResult
from runtime.kernel.ports import ArtifactStore
from runtime.missions.parameters import tool_action
from runtime.orchestration.operation_table import KnownOperation

#: Methods of ``http.request`` that only ask (RFC 9110 §9.2.1).
_ASKING = frozenset({"GET", "HEAD"})
_SENDING = frozenset({"http.request", "mail.send"})


def left_by(operation: Operation, result: OperationResult | None) -> SideEffects:
    """The class of what ``operation`` left outside the work tree; None is a cancelled one, of which nothing is known.

    What it wrote into the work tree is undone by its receipt and no part of this.
    """
    if result is None:
        external = operation.type == "llm_call" or tool_action(operation.params) in _SENDING
        return _at_worst(operation.type, operation.params) if external else SideEffects.NONE
    if (
        result.receipt is None
        or result.receipt.effect != Effect.EXTERNAL.value
        or _untouched(result.ok, result.evidence)
    ):
        return SideEffects.NONE
    return _at_worst(operation.type, operation.params)


async def left_then(known: KnownOperation, artifacts: ArtifactStore | None) -> SideEffects:
    """The same for an external operation of an earlier life, from its bodies; of one that lost them the worst is assumed."""
    receipt = known.receipt
    if receipt is None:
        return _at_worst(str(known.started["operation_type"]), await _body(known.started.get("params_hash"), artifacts))
    ok = receipt.status == "success"
    if not ok and _untouched(ok, await _body(receipt.evidence_hash, artifacts)):
        return SideEffects.NONE
    return _at_worst(receipt.operation_type, await _body(receipt.params_hash, artifacts))


async def _body(digest: object, artifacts: ArtifactStore | None) -> Mapping[str, Any]:
    body = await artifacts.get(digest) if artifacts is not None and isinstance(digest, str) else None
    value = None if body is None else parse_strict(body)
    return value if isinstance(value, Mapping) else {}


def _untouched(ok: bool, evidence: Mapping[str, Any]) -> bool:
    """Does a failed operation know that it did nothing?"""
    details = evidence.get("details")
    return not ok and isinstance(details, Mapping) and details.get("effects") == "none"


def _at_worst(kind: str, params: Mapping[str, Any]) -> SideEffects:
    asks = tool_action(params) == "http.request" and params.get("method", "GET") in _ASKING
    return SideEffects.IDEMPOTENT if asks or kind == "llm_call" else SideEffects.NON_IDEMPOTENT
