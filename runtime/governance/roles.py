"""Who may do what: the fixed table of mission roles (operations spec §9.4, relaxation 3).

A role comes from the mission definition only, never from params, packets or model output. Capabilities are one
lock of several: the envelope's role, tool and path lists must agree. ``operator`` is not a mission role.
"""

from __future__ import annotations

import re
from enum import Flag, auto
from typing import Final

from runtime.kernel.ids import WORD
from runtime.kernel.model import ValidationResult


class Capability(Flag):
    """What a role may take part in."""

    CALLEE = auto()  # be the role a model answers as
    MODEL = auto()  # cause a model call
    READ = auto()
    WRITE = auto()
    WRITE_STATE = auto()  # the declared state files only
    GIT = auto()
    TEST = auto()
    GENERAL = auto()  # gates, routing, escalation
    EXTERNAL = auto()  # tools the table does not know: processes, network, mail, tool servers


_NOTHING: Final = Capability(0)
_ADVISER: Final = Capability.CALLEE | Capability.READ | Capability.GENERAL
_ROLES: Final = {
    "designer": _ADVISER,
    "council_chair": _ADVISER,
    "builder": _ADVISER | Capability.MODEL | Capability.WRITE | Capability.TEST,
    "steward": Capability.READ | Capability.WRITE_STATE | Capability.GIT | Capability.GENERAL,
    "verifier": Capability.READ | Capability.TEST | Capability.GENERAL,
    "runner": ~_NOTHING,
}
_REVIEWER: Final = re.compile(r"reviewer_[a-z0-9_]+\Z")

_WRITES: Final = Capability.WRITE | Capability.WRITE_STATE
_TOOLS: Final = {
    "filesystem.read_file": Capability.READ,
    "filesystem.read_files": Capability.READ,
    "filesystem.list_dir": Capability.READ,
    "filesystem.write_file": _WRITES,
    "filesystem.delete_file": _WRITES,
    "filesystem.make_dir": _WRITES,
    "git.status": Capability.READ,
    "git.diff": Capability.READ,
    "git.diff_stat": Capability.READ,
    "git.log": Capability.READ,
    "git.rev_parse_head": Capability.READ,
    "git.add": Capability.GIT,
    "git.commit": Capability.GIT,
    "pytest.run": Capability.TEST,
    # Into the run's own record, not into the tree.
    "output.write_file": Capability.GENERAL,
    "mail.write_file": Capability.GENERAL,
}
_OPERATIONS: Final = {
    "llm_call": Capability.MODEL,
    "packet_route": Capability.GENERAL,
    "gate_check": Capability.GENERAL,
    "run_tests": Capability.TEST,
    "escalate": Capability.GENERAL,
}


def is_role(role: object) -> bool:
    """Is this a role a mission may act as? Exact spelling counts."""
    return isinstance(role, str) and capabilities(role) is not _NOTHING


def capabilities(role: str) -> Capability:
    """What ``role`` may do; nothing when it is unknown."""
    if _REVIEWER.match(role) and WORD.match(role):
        return _ADVISER
    return _ROLES.get(role, _NOTHING)


def may_be_called(role: str) -> bool:
    """May a model answer as ``role``? A mission's own prompt roles may: they answer and can never act."""
    if not WORD.match(role) or role == "operator":
        return False
    return not is_role(role) or Capability.CALLEE in capabilities(role)


def check_capability(role: str, operation_type: str, tool: str | None = None) -> ValidationResult:
    """May ``role`` act in this operation, with this ``tool.action``? Code ``ENV_ROLE`` otherwise."""
    if not is_role(role):
        return _deny(f"{role!r} is not a mission role" if role else "no acting role is set", operation_type)
    if operation_type == "tool_invoke":
        needed = _TOOLS.get(tool or "", Capability.EXTERNAL)
    else:
        needed = _OPERATIONS.get(operation_type, _NOTHING)
    if not needed & capabilities(role):
        text = f"role {role} may not use {tool or operation_type}"
        return _deny(text, operation_type, role=role, needed=f"acting_role: {' or '.join(able(needed))}")
    return ValidationResult.allow("envelope.role", operation_type)


def able(needed: Capability) -> tuple[str, ...]:
    """The named roles that hold any of these capabilities; writing declared state files only does not count."""
    return tuple(role for role, held in _ROLES.items() if needed & held & ~Capability.WRITE_STATE)


def _deny(text: str, operation_type: str, *, role: str = "", needed: str = "") -> ValidationResult:
    rule, remedy = f"roles: {role}" if role else "roles", needed or f"acting_role: one of {', '.join(_ROLES)}"
    return ValidationResult.deny(
        "ENV_ROLE", text, check="envelope.role", operation=operation_type, rule=rule, needed=remedy
    )
