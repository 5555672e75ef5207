"""One outcome vocabulary: run statuses, why a run ended, and the exit codes operators script against (ruling R4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final


class RunStatus(Enum):
    """The operator's word for a run. ``resumable`` is computed, not stored: not terminal and no live holder."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL: Final = frozenset(
    {
        RunStatus.SUCCEEDED,
        RunStatus.SKIPPED,
        RunStatus.FAILED,
        RunStatus.TIMED_OUT,
        RunStatus.CANCELLED,
        RunStatus.REFUSED,
    }
)


class Exit(IntEnum):
    """Process exit codes; an interface, documented in the README."""

    OK = 0
    FAILED = 1
    USAGE = 2
    APPROVAL = 3
    POLICY = 4
    BUDGET = 5
    DIVERGED = 6
    UNVERIFIED = 7
    LOCKED = 8
    TIMED_OUT = 124
    INTERRUPTED = 130
    TERMINATED = 143


class FailureClass(Enum):
    """What kind of failure a code stands for; decides the abort reason and the exit code."""

    ORDINARY = "ordinary"
    POLICY = "policy"
    APPROVAL = "approval"
    BUDGET = "budget"
    TIME = "time"
    HALT = "halt"


_POLICY_PREFIXES: Final = ("ENV_", "PATH_", "POLICY_", "SELFMOD_", "RULE_", "ROOT_FORBIDDEN", "ROOT_CHANGED")
_BUDGET_CODES: Final = frozenset({"BUDGET_EXCEEDED", "BUDGET_PRICE_UNKNOWN"})
_TIME_CODES: Final = frozenset({"ENV_DEADLINE"})
_APPROVAL_CODES: Final = frozenset({"APPROVAL_REFUSED", "APPROVAL_MISSING", "RULE_REFUSED"})
_HALT_CODES: Final = frozenset(
    {
        "KILL_SWITCH",
        "HALT_LATCHED",
        "SELFMOD_EFFECT",
        "EXTERNAL_MODIFICATION",
        "LOCK_LOST",
        "COMP_FAILED",
        "COMP_DRIFT",
        "BASELINE_MISMATCH",
        "BASELINE_MISSING",
        "BASELINE_FORMAT",
    }
)
#: Never acceptable as an expected failure (ruling R16).
UNACCEPTABLE: Final = frozenset({"SELFMOD_EFFECT", "OP_UNDECLARED_EFFECT", "KILL_SWITCH", "HALT_LATCHED"})
_UNACCEPTABLE_PREFIXES: Final = ("COMP_", "J_")


def operation_code(code: str) -> str:
    """``op.test_failed`` → ``TEST_FAILED``; other codes are returned unchanged."""
    return code[3:].upper() if code.startswith("op.") else code


def block_code(code: str) -> str:
    """``TEST_FAILED`` → ``op.test_failed`` (ruling R5)."""
    return "op." + code.lower()


def classify(code: str | None) -> FailureClass:
    """The failure class of an operation or block code."""
    if not code:
        return FailureClass.ORDINARY
    code = operation_code(code)
    if code in _HALT_CODES:
        return FailureClass.HALT
    if code in _BUDGET_CODES:
        return FailureClass.BUDGET
    if code in _TIME_CODES:
        return FailureClass.TIME
    if code in _APPROVAL_CODES or code.startswith("approval."):
        return FailureClass.APPROVAL
    if code.startswith(_POLICY_PREFIXES) or code == "file.path_outside_root":
        return FailureClass.POLICY
    return FailureClass.ORDINARY


def acceptable(code: str) -> bool:
    """May a mission list ``code`` (``op.…`` or bare) under ``accept``?"""
    bare = operation_code(code)
    return bare not in UNACCEPTABLE and not bare.startswith(_UNACCEPTABLE_PREFIXES)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ends: the run status, the abort reason (None for commit) and the process exit code."""

    status: RunStatus
    reason: str | None
    exit_code: int


def failed_ending(code: str | None) -> Ending:
    """The ending of a run whose workflow failed with ``code``."""
    return {
        FailureClass.ORDINARY: Ending(RunStatus.FAILED, "node_timeout_or_failure", Exit.FAILED),
        FailureClass.POLICY: Ending(RunStatus.FAILED, "policy_refused", Exit.POLICY),
        FailureClass.APPROVAL: Ending(RunStatus.FAILED, "approval_refused", Exit.APPROVAL),
        FailureClass.BUDGET: Ending(RunStatus.FAILED, "budget_exhausted", Exit.BUDGET),
        FailureClass.TIME: Ending(RunStatus.TIMED_OUT, "budget_exhausted", Exit.TIMED_OUT),
        FailureClass.HALT: Ending(RunStatus.FAILED, "halted", Exit.FAILED),
    }[classify(code)]
