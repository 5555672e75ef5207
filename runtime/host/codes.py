"""Which exit code an error stands for when it ends a command before, or instead of, a run."""

from __future__ import annotations

from typing import Final

from runtime.kernel.errors import JournalError, QuarterdeckError
from runtime.kernel.outcomes import Exit, FailureClass, classify

#: Another process or run holds what was asked for.
_LOCKED: Final = frozenset({"STORE_LOCKED", "STORE_UNRESPONSIVE", "STORE_SUPERSEDED", "LOCK_HELD"})
_USAGE_PREFIXES: Final = ("MISSION_", "INPUT_", "RUN_", "STEP_", "APPROVAL_UNKNOWN", "APPROVAL_AMBIGUOUS", "EXPORT_")
_UNVERIFIED: Final = frozenset({"STORE_CORRUPT"})


def exit_code_of(error: QuarterdeckError) -> Exit:
    """The documented exit code of an error; 1 when nothing more precise is documented."""
    code = error.code
    if code in _LOCKED:
        return Exit.LOCKED
    if code in _UNVERIFIED or isinstance(error, JournalError) or code.startswith("J_"):
        return Exit.UNVERIFIED
    if code.startswith(_USAGE_PREFIXES):
        return Exit.USAGE
    return {
        FailureClass.POLICY: Exit.POLICY,
        FailureClass.APPROVAL: Exit.APPROVAL,
        FailureClass.BUDGET: Exit.BUDGET,
    }.get(classify(code), Exit.FAILED)
