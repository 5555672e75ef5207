"""What happens after an attempt failed: retry, repair, accept, fall back, degrade, or give up (blocks spec §14, §15).

The enclosing workflow applies this, never the block. Re-execution needs proof that the failed attempt was safe to
repeat; before anything goes on past a failure the runner is asked to undo what the attempt left behind (ruling R14).
Refusals that end the run pass straight through to the node's ``accept`` list (ruling R16).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from runtime.blocks.debug import debug
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response, succeeded
from runtime.blocks.errors import RegistryError, class_for_code
from runtime.blocks.policies import BubblePolicy, DebugPolicy, PolicyStack, RepairPolicy, RetryPolicy
from runtime.blocks.results import Once
from runtime.blocks.sanitise import clean_text
from runtime.blocks.setbacks import repair_failed, setback, unsafe
from runtime.blocks.values import NULL, BlockValue
from runtime.kernel.outcomes import acceptable

if TYPE_CHECKING:
    from runtime.blocks.visit import Visit

_VETOES: Final = frozenset({"never", "manual"})


async def execute_with_recovery(visit: Visit) -> Response:
    """One visit of a node to its end: all attempts, then what the node's options make of a failure."""
    response = await visit.attempt_once()
    if response.success:
        return _wrapped(visit, response) if visit.node.options.accept else response
    if response.skipped:
        return response
    if not response.ends_run:
        stack = _policy_stack(visit, response)
        if stack:
            return await _with_stack(visit, stack, response)
    return await _conclude(visit, response)


async def _with_stack(visit: Visit, stack: PolicyStack, failure: Response) -> Response:
    visit.observe("recovery.started", {"code": failure.code})
    response = await _conclude(visit, await _recover(visit, stack, failure))
    if not response.success and not response.skipped:
        visit.observe("recovery.failed", {"code": response.code})
    return response


async def _recover(visit: Visit, stack: PolicyStack, failure: Response) -> Response:
    for position, policy in enumerate(stack):
        if isinstance(policy, BubblePolicy):
            return failure
        name = getattr(policy, "name", type(policy).__name__)
        visit.observe("recovery.policy_started", {"policy": name, "position": position})
        failure = await _apply(visit, policy, failure)
        if failure.success:
            visit.observe("recovery.succeeded", {"policy": name, "position": position})
            return failure.with_metadata(recovered_by=name)
        if failure.skipped or failure.ends_run:
            return failure
        visit.observe("recovery.policy_exhausted", {"policy": name, "position": position, "code": failure.code})
    return failure


async def _apply(visit: Visit, policy: object, failure: Response) -> Response:
    if isinstance(policy, RetryPolicy):
        return await _retry(visit, policy, failure)
    if isinstance(policy, RepairPolicy):
        return await _repair(visit, policy, failure)
    if isinstance(policy, DebugPolicy):
        return await debug(visit, policy, failure)
    return setback(
        visit,
        "recovery.unknown_policy",
        f"{type(policy).__name__} is not a recovery policy",
        {"policy": type(policy).__name__},
    )


def _policy_stack(visit: Visit, failure: Response) -> PolicyStack:
    kind = failure.error_type or class_for_code(failure.code or "runtime.internal")
    try:
        return tuple(visit.node.block.get_policy_stack(kind))
    except Exception as error:  # noqa: BLE001 - an author's look-up must not change the outcome
        fields = {"code": "recovery.policy_lookup_failed", "error": clean_text(f"{type(error).__name__}: {error}")}
        visit.observe("recovery.failed", fields)
        return ()


async def _retry(visit: Visit, policy: RetryPolicy, failure: Response) -> Response:
    retries = 0
    while visit.attempt < policy.max_attempts:
        # A veto outlives the policies in between: the block said so, whatever a breakpoint or a repair made of it.
        if _vetoed(visit.last) or not policy.covers(failure.code):
            return failure
        if await visit.effective() is SideEffects.NON_IDEMPOTENT:
            return unsafe(visit, "retry")
        retries += 1
        delay = policy.delay(retries, visit.seed)
        fields = {"backoff_ms": delay * 1000.0, "next_attempt": visit.attempt + 1, "code": failure.code}
        visit.observe("block.retry_scheduled", fields)
        if delay > 0:
            await visit.sleep(delay)
        failure = await visit.attempt_once()
        if failure.success or failure.skipped:
            return failure
    return failure


def _vetoed(failure: Response) -> bool:
    return failure.error is not None and failure.error.retry_disposition in _VETOES


async def _repair(visit: Visit, policy: RepairPolicy, failure: Response) -> Response:
    effective = await visit.effective()
    if effective is SideEffects.NON_IDEMPOTENT or (
        effective is SideEffects.IDEMPOTENT and not policy.assume_idempotent
    ):
        return unsafe(visit, "repair")
    name = policy.repair if isinstance(policy.repair, str) else getattr(policy.repair, "__name__", "repair")
    try:
        repaired: object = visit.repairs.lookup(policy.repair)(visit.request, failure)
    except RegistryError as error:
        return repair_failed(visit, name, error.message, failure)
    except Exception as error:  # noqa: BLE001 - whatever a repair function raises is its failure, not the run's
        return repair_failed(visit, name, f"{type(error).__name__}: {clean_text(str(error))}", failure)
    if not isinstance(repaired, Request):
        return repair_failed(visit, name, f"it returned {type(repaired).__name__}, not a request", failure)
    # Correlation keys are stamped again per attempt; sources and role stay what the graph says.
    visit.given = visit.given._replace(payload=repaired.payload, context=repaired.context)
    return await visit.attempt_once()


# -- what the node's options make of a failure --------------------------------------------------------------------


async def _conclude(visit: Visit, failure: Response) -> Response:
    if failure.success:
        return _wrapped(visit, failure)
    if failure.skipped:
        return failure
    options = visit.node.options
    code = visit.last.code or ""
    if code in options.accept and acceptable(code):
        await visit.effective()
        visit.observe("recovery.succeeded", {"policy": "accept", "code": code})
        return _accepted(visit, ok=False, code=code, output=visit.last.output, by="accept")
    if failure.ends_run:
        return failure
    if options.fallback is not None and visit.kind == "node" and not visit.standing_in:
        await visit.effective()
        failure = await visit.fall_back(options.fallback)
        if failure.success:
            visit.observe("recovery.succeeded", {"policy": "fallback", "fallback": options.fallback})
            return _wrapped(visit, failure.with_metadata(recovered_by="fallback"))
        if failure.skipped or failure.ends_run:
            return failure
    if options.optional:
        await visit.effective()
        visit.observe("recovery.succeeded", {"policy": "optional", "code": failure.code})
        if options.accept:
            return _accepted(visit, ok=False, code=failure.code, output=NULL, by="optional")
        return _success(visit, NULL, "optional")
    return failure


def _wrapped(visit: Visit, response: Response) -> Response:
    """A node with ``accept`` always yields ``{ok, code, output}``, so that its readers need not ask which it was."""
    if not visit.node.options.accept:
        return response
    value = {"ok": True, "code": None, "output": response.data}
    return replace(response, result=Once(value))


def _accepted(visit: Visit, *, ok: bool, code: str | None, output: BlockValue, by: str) -> Response:
    return _success(visit, BlockValue.of({"ok": ok, "code": code, "output": output}), by)


def _success(visit: Visit, value: BlockValue, by: str) -> Response:
    metadata = {key: item for key, item in visit.last.metadata.items() if key != "phase"}
    return succeeded({**metadata, "recovered_by": by}, Once(value))
