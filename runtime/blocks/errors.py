"""What block authors raise, and what the engine raises at developers.

::

    Exception
    ├── BlockError                  code, message, details, … (one response per error, blocks spec §5)
    │   ├── BlockInputError         the value is wrong
    │   ├── BlockValidationError    configuration, wiring or declared rules are violated
    │   │   └── GraphError          the graph itself is wrong
    │   └── BlockRuntimeError       the work failed
    │       ├── BlockTimeout        the attempt's deadline passed
    │       ├── BlockInternalError  something other than a BlockError escaped a block
    │       ├── RecoveryError       a recovery policy failed
    │       └── OperationFailed     a governed operation failed; carries its output
    ├── BlockSkip                   not an error: nothing to do this time
    ├── BlockDefinitionError (TypeError), RegistryError, WorkflowWiringError (ValueError), LedgerOwnershipError
    └── WorkflowValidationFailed, WorkflowRunFailed

Author code raises; `execute` turns what it raised into a response; callers never catch (blocks spec C2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from runtime.kernel.outcomes import FailureClass, classify

_CODE: Final = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)+\Z")
_DISPOSITIONS: Final = frozenset({"never", "immediate", "backoff", "manual", None})
_SEVERITIES: Final = frozenset({"info", "warn", "error", "critical"})
_EFFECTS: Final = frozenset({"none", "unknown"})
_NO_DETAILS: Final[Mapping[str, Any]] = MappingProxyType({})

#: Code → stable reason label of engine faults (blocks spec §22.1). Author-raised errors use their code as reason.
ENGINE_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "graph.condition_unresolved": "condition_resolution_error",
        "graph.unknown_node": "unknown_node",
        "graph.no_transition": "no_transition",
        "graph.max_steps_exceeded": "max_steps_exceeded",
        "graph.condition_failed": "condition_execution_error",
        "graph.ended_unexpectedly": "graph_execution_ended_unexpectedly",
        "runtime.fanout_mismatch": "fanout_mismatch",
        "runtime.empty_stream": "empty_stream",
        "runtime.block_busy": "block_busy",
        "runtime.bad_result": "bad_result",
        "runtime.internal": "internal_error",
        "runtime.timeout": "timeout",
        "runtime.canceled": "canceled",
        "recovery.unsafe_to_retry": "unsafe_to_retry",
        "recovery.repair_failed": "repair_execution_failed",
        "recovery.debug_breakpoint": "debug_breakpoint_hit",
        "recovery.rollback_unsafe": "rollback_not_supported_for_side_effects",
        "recovery.unknown_policy": "unknown_policy_type",
    }
)

#: Codes of governed operations and of questions to a human; refusals among them end the run.
_GOVERNED: Final = ("op.", "approval.", "file.path_outside_root")
_ENDS_RUN: Final = frozenset(
    {FailureClass.POLICY, FailureClass.HALT, FailureClass.APPROVAL, FailureClass.BUDGET, FailureClass.TIME}
)


def checked_code(code: str) -> str:
    """Return ``code``; raise `ValueError` unless it is dotted lower snake segments."""
    if not _CODE.match(code):
        raise ValueError(f"error code {code!r} must be dotted lower snake segments such as 'http.timeout'")
    return code


class BlockError(Exception):
    """Base of everything a block may raise about its work. Raise one of the three subclasses.

    ``details`` is any mapping `BlockValue.of` accepts; it becomes a MAP in the response. ``effects="none"`` is the
    author's word that nothing outside the ledger changed. ``reason`` is the engine's label and equals ``code`` for
    errors raised by blocks. Raises `ValueError` for a malformed code or an unknown enumeration word.
    """

    #: True when no recovery may change the outcome, only a node's ``accept`` list (ruling R16).
    ends_run: bool = False

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        domain: str | None = None,
        provider_status: str | None = None,
        retry_disposition: str | None = None,
        severity: str = "error",
        effects: str = "unknown",
        reason: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = checked_code(code)
        self.message = message
        self.details = _NO_DETAILS if not details else MappingProxyType(dict(details))
        self.domain = domain or code.partition(".")[0]
        self.provider_status = provider_status
        self.ends_run = self.code.startswith(_GOVERNED) and classify(code) in _ENDS_RUN
        self.retry_disposition = (
            "never" if self.ends_run else _one_of("retry_disposition", retry_disposition, _DISPOSITIONS)
        )
        self.severity = _one_of("severity", severity, _SEVERITIES)
        self.effects = _one_of("effects", effects, _EFFECTS)
        self.reason = reason or code

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def _one_of(name: str, value: Any, allowed: frozenset[Any]) -> Any:
    if value not in allowed:
        words = ", ".join(sorted(str(word) for word in allowed if word))
        raise ValueError(f"{name} must be one of {words}, not {value!r}")
    return value


class BlockInputError(BlockError):
    """The value is wrong."""


class BlockValidationError(BlockError):
    """Configuration, wiring or declared rules are violated."""


class BlockRuntimeError(BlockError):
    """The work failed."""


class GraphError(BlockValidationError):
    """The graph itself is wrong, or could not be followed."""


class BlockTimeout(BlockRuntimeError):
    """The attempt's deadline passed."""


class BlockInternalError(BlockRuntimeError):
    """Something that is not a `BlockError` escaped a block."""


class RecoveryError(BlockRuntimeError):
    """A recovery policy could not do its work."""


class OperationFailed(BlockRuntimeError):
    """A governed operation failed. ``output`` is what it produced all the same, as a plain mapping or value.

    Policy, approval, budget, time and halt failures end the run: ``ends_run`` is set and the retry disposition
    is ``never``, so that only a node's ``accept`` list can turn them into a result (ruling R16).
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        output: Any = None,
        retry_disposition: str | None = None,
        details: Mapping[str, Any] | None = None,
        provider_status: str | None = None,
        effects: str = "unknown",
    ) -> None:
        super().__init__(
            code,
            message,
            details=details,
            provider_status=provider_status,
            retry_disposition=retry_disposition,
            effects=effects,
        )
        self.output = output


E = TypeVar("E", bound=BlockError)


def engine_error(kind: type[E], code: str, message: str, **fields: Any) -> E:
    """Build an error of the engine itself, carrying the reason label its code is registered with."""
    return kind(code, message, reason=ENGINE_REASONS.get(code, code), **fields)


def error_for(
    code: str, message: str, *, reason: str | None = None, output: Any = None, recovery: Mapping[str, Any] | None = None
) -> BlockError:
    """Rebuild an error from its recorded text, choosing the class by code prefix (blocks spec §14.2).

    ``recovery`` has what `recovery_marks` said of it.
    """
    kind, marks = class_for_code(code), recovery or {}
    if kind is OperationFailed:
        return OperationFailed(code, message, output=output, **marks)
    return kind(code, message, reason=reason, **marks)


def recovery_marks(error: BlockError, *, harmless: bool) -> dict[str, str]:
    """What recovery asks of a failure beside its code, to be recorded with it; ``harmless``: its attempt left nothing."""
    marks = {} if error.retry_disposition is None else {"retry_disposition": str(error.retry_disposition)}
    return {**marks, "effects": "none"} if harmless or error.effects == "none" else marks


def class_for_code(code: str) -> type[BlockError]:
    """The error family a code belongs to when the class itself did not survive."""
    family = code.partition(".")[0]
    if family == "op":
        return OperationFailed
    if code == "runtime.timeout":
        return BlockTimeout
    if family in ("input", "value"):
        return BlockInputError
    if family in ("validation", "graph"):
        return BlockValidationError
    return BlockRuntimeError


class BlockSkip(Exception):
    """Nothing to do this time. Downstream nodes do not run and no recovery is attempted (blocks spec §5.4)."""

    reason: Final = "skipped"
    severity: Final = "info"
    effects: Final = "unknown"
    retry_disposition: Final = None
    provider_status: Final = None
    ends_run: Final = False

    def __init__(
        self,
        message: str = "nothing to do",
        *,
        code: str = "skip.no_new_items",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = checked_code(code)
        self.message = message
        self.details = _NO_DETAILS if not details else MappingProxyType(dict(details))
        self.domain = "skip"


class _Coded(Exception):
    """A developer-facing exception with a stable code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class BlockDefinitionError(_Coded, TypeError):
    """A block class is malformed; raised by its class statement."""


class RegistryError(_Coded, ValueError):
    """A registration was refused."""


class WorkflowWiringError(_Coded, ValueError):
    """A wiring call can be refused on the spot."""


class LedgerOwnershipError(_Coded):
    """Somebody other than the owning workflow tried to change its ledger."""


class WaitRefused(_Coded, ValueError):
    """An answer does not fit the question it was given to; the question stays open."""


class WorkflowValidationFailed(_Coded):
    """The plan has error-level issues; nothing ran. ``issues`` holds all of them."""

    def __init__(self, issues: tuple[Any, ...]) -> None:
        first = issues[0]
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        super().__init__(first.code, f"{first.message}{more}")
        self.issues = issues


class WorkflowRunFailed(_Coded):
    """The run did not succeed. ``report`` tells everything; ``response`` is its last word."""

    def __init__(self, report: Any) -> None:
        error = report.response.error
        super().__init__(getattr(error, "code", "runtime.canceled"), getattr(error, "message", report.status))
        self.report = report
        self.response = report.response
