"""The failures recovery itself produces, in memory of the failed attempt they stand for (blocks spec §14, §15.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runtime.blocks.envelope import Response, failed
from runtime.blocks.errors import RecoveryError, engine_error

if TYPE_CHECKING:
    from runtime.blocks.visit import Visit


def setback(visit: Visit, code: str, message: str, details: Mapping[str, Any]) -> Response:
    """A failure of recovery with the metadata of the attempt that failed."""
    error = engine_error(RecoveryError, code, message, details=details)
    metadata = {key: value for key, value in visit.last.metadata.items() if key != "phase"}
    return failed(metadata, error, "recovery")


def unsafe(visit: Visit, policy: str) -> Response:
    """The failed attempt may have changed something: say so instead of running it again (blocks spec §15.3)."""
    failure = visit.last
    details = {
        "side_effect_class": visit.known_effect.value,
        "blocked_policy": policy,
        "cause": "non_idempotent_side_effect",
        "failure_reason": failure.reason,
        "failure_code": failure.code,
        "failure_error_type": None if failure.error_type is None else failure.error_type.__name__,
        "failure_details": failure.details,
    }
    text = f"{visit.node.name} may not run again: {failure.message or failure.code}"
    response = setback(visit, "recovery.unsafe_to_retry", text, details)
    return replace(response, error_type=failure.error_type)


def repair_failed(visit: Visit, function: str, why: str, failure: Response, **more: Any) -> Response:
    """A repair function or debug hook did not do its work; the failure it was given stays in the details."""
    original = {"reason": failure.reason, "code": failure.code, "details": failure.details}
    details = {"function": function, "error": why, "original": original, **more}
    return setback(visit, "recovery.repair_failed", f"the repair {function!r} failed: {why}", details)
