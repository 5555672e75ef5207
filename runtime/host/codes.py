"""Which exit code an error stands for when it ends a command before, or instead of, a run."""

from __future__ import annotations

from typing import Final

from runtime.kernel.errors import JournalError, QuarterdeckError
from runtime.kernel.outcomes import Exit, FailureClass, classify

#: Another process or run holds what was asked for.
_LOCKED: Final = frozenset(
    {"STORE_LOCKED", "STORE_UNRESPONSIVE", "STORE_SUPERSEDED", "STORE_BUSY", "LOCK_HELD", "WATCH_ARMED"}
)
_USAGE_PREFIXES: Final = (
    "MISSION_",
    "INPUT_",
    "RUN_",
    "STEP_",
    "FORK_",
    "UNDO_",
    "APPROVAL_UNKNOWN",
    "APPROVAL_AMBIGUOUS",
    "BUNDLE_",
    "EXPORT_",
    "SECRET_",
    "PACK_",
    "plugin.",
    "REPLAY_",
    "replay_",
)
_UNVERIFIED: Final = frozenset(
    {
        "STORE_CORRUPT",
        "STORE_ARTIFACT_DAMAGED",
        "BUNDLE_ARTIFACT",
        "BUNDLE_MANIFEST",
        "BUNDLE_NOT_A_RUN",
        "BUNDLE_NOT_CANONICAL",
        "BUNDLE_REFUSED",
        "BUNDLE_RUN",
        "BUNDLE_STATEMENT",
        "NOTE_FORMAT",
        "PROOF_NONE",
    }
)
#: The state folder is not one we can use: a mistake of set-up, not a mission that failed.
_CONFIG: Final = frozenset(
    {
        "STORE_CANNOT_OPEN",
        "STORE_FOREIGN",
        "STORE_MISSING",
        "STORE_NOT_FOLDER",
        "STORE_NOT_OURS",
        "STORE_READ_ONLY",
        "STORE_SYMLINK",
        "STORE_TOO_NEW",
        "STORE_TOO_OLD",
        "STORE_TOO_OPEN",
        "STORE_UNWRITABLE",
        "CONTROL_PATH",
        "EVIDENCE_CHANGED",
        "EVIDENCE_INVALID",
        "INIT_NAME",
        "INIT_WORDS",
        "KEY_EXTERNAL",
        "KEY_FORMAT",
        "KEY_REASON",
        "LATCH_REASON",
        "LOSS_NONE",
        "LOSS_REASON",
        "VIOLATION_UNKNOWN",
        "RULES_INVALID",
        "SELFMOD_REASON",
        "WATCH_LIMIT",
        "WATCH_NOT_DECLARED",
        "WATCH_OPTION",
        "WATCH_ROOT",
        "WATCH_TOO_MANY",
        "WATCH_UNKNOWN",
        "WITNESS_FORMAT",
    }
)


def exit_code_of(error: QuarterdeckError) -> Exit:
    """The documented exit code of an error; 1 when nothing more precise is documented."""
    code = error.code
    if code in _LOCKED:
        return Exit.LOCKED
    if code in _UNVERIFIED or isinstance(error, JournalError) or code.startswith("J_"):
        return Exit.UNVERIFIED
    if code in _CONFIG or code.startswith(_USAGE_PREFIXES):
        return Exit.USAGE
    return {
        FailureClass.POLICY: Exit.POLICY,
        FailureClass.APPROVAL: Exit.APPROVAL,
        FailureClass.BUDGET: Exit.BUDGET,
    }.get(classify(code), Exit.FAILED)
