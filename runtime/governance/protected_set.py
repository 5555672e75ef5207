"""Which paths are protected, decided by names alone (operations spec §9.1–9.3, relaxation 8).

One registry for the whole code base. It grows and never shrinks by configuration, and whatever cannot be judged
counts as protected. Matching ignores case and compatibility forms, and judges a path by where it leads: separators
folded, ``.`` dropped, ``..`` resolved.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from runtime.governance.path_lexical import WAIVABLE, Finding, lexical_finding, shown
from runtime.kernel import globs
from runtime.kernel.canonical import digest
from runtime.kernel.errors import ModelError, Refused
from runtime.kernel.globs import folded
from runtime.kernel.ids import KILL_SWITCH_FILE
from runtime.kernel.model import Access

#: Where a project lists what else no mission may change there: a JSON list of patterns.
CONFIG_PATH: Final = "config/protected_paths.json"
#: What no mission may change, whatever its envelope says (operations spec §9.1).
BUILT_IN: Final = (
    "config/agent_roles/",
    "config/models.yaml",
    "config/governance_baseline.*",
    "config/governance/",
    "config/envelopes/",
    "config/missions/",
    CONFIG_PATH,
    "scripts/opencode_gate_policy.py",
    "scripts/audit_gate_build_loop_phase2.py",
    "runtime/governance/",
    "runtime/orchestration/transforms/",
    "runtime/orchestration/operations.py",
    "runtime/orchestration/mission_journal.py",
    "runtime/orchestration/run_controller.py",
    "docs/00_foundations/",
    "docs/01_governance/",
    "docs/03_runtime/LifeOS_Autonomous_Build_Loop_Architecture_*.md",
    "**/CLAUDE.md",
    "**/GEMINI.md",
    "**/AGENTS.md",
    "**/.gitignore",
    "**/.gitattributes",
    "**/.gitmodules",
    KILL_SWITCH_FILE,
    "**/.git/",
)
#: Patterns whose files the operator's rules file may open by exact path (relaxation 8).
OPENABLE: Final = frozenset({"**/.gitignore", "**/.gitattributes", "**/CLAUDE.md", "**/GEMINI.md", "**/AGENTS.md"})

READS: Final = frozenset({"read", "list"})
_TWO_SIDED: Final = frozenset({"rename", "link"})
#: Operations that take a directory away or put something else in its place.
UPROOTING: Final = frozenset({"delete", "rename", "replace", "link"})
#: Handing a folder to a program: the folder stays, what is in it may change.
GRANT: Final = "grant"
_OPERATIONS: Final = frozenset(access.value for access in Access) | UPROOTING | {GRANT}


class ProtectedSet:
    """Built-in patterns, reserved runtime names and configured additions, less what the operator opened.

    ``openable`` are exact paths; they stay protected if anything but an `OPENABLE` pattern covers them.
    ``names="native"`` tolerates what relaxation 5 tolerates. Raises `Refused` ``SELFMOD_CONFIG``.
    """

    def __init__(
        self,
        additions: Sequence[str] = (),
        openable: Sequence[str] = (),
        *,
        reserved: Sequence[str] = (),
        names: str = "strict",
    ) -> None:
        self.additions = parse_additions(additions)
        self.reserved = parse_additions(reserved)
        self.patterns = tuple(dict.fromkeys((*BUILT_IN, *self.reserved, *self.additions)))
        self._native = names == "native"
        self._open = frozenset(checked_open(path) for path in openable)

    @property
    def protected_hash(self) -> str:
        """Recorded in ``journal_opened``. A set never changes once built, so a run needs no comparison later on."""
        record: dict[str, Any] = {"schema": "protected-set/1", "patterns": sorted(self.patterns)}
        if self._open:
            record["openable"] = sorted(self._open)
        return digest(record)

    @property
    def floor(self) -> tuple[str, ...]:
        """What a later run must still protect: everything but this installation's reserved names."""
        return tuple(sorted({*BUILT_IN, *self.additions}))

    def is_protected(self, path: object) -> bool:
        """Is ``path`` protected, or in a form that cannot be judged?"""
        parts = resolved(path)
        return parts is None or self.path_finding(parts) is not None

    def is_reserved(self, path: str) -> bool:
        """Is ``path``, a normal form, one of the runtime's own files?"""
        return any(globs.matches(pattern, path, fold=True) for pattern in self.reserved)

    def finding(self, path: object, operation: str, target: object = None) -> Finding | None:
        """The verdict as far as names decide it, without a role and without looking at the disk."""
        if operation in READS:
            return None
        if operation not in _OPERATIONS:
            return Finding("SELFMOD_OPERATION", f"unknown operation {operation!r}")
        for side in (path, target) if operation in _TWO_SIDED else (path,):
            parts = resolved(side)
            if parts is None:
                return Finding("SELFMOD_OUTSIDE", "the path is absolute or leads outside the workspace")
            found = self.path_finding(parts) or (self._ancestor(parts) if operation in UPROOTING else None)
            if found is not None:
                return found
        return None

    def path_finding(self, parts: Sequence[str]) -> Finding | None:
        """The verdict on one resolved path for any change."""
        path = "/".join(parts)
        matching = self.matching(path)
        if matching:
            return Finding("SELFMOD_PROTECTED", "the path is protected", {"matching_patterns": matching})
        odd = lexical_finding(path)
        if odd is not None and not (self._native and odd.code in WAIVABLE and not lexical_finding(path, native=True)):
            return Finding("SELFMOD_PROTECTED", "the path is not in a form that can be judged", {"lexical": odd.code})
        return None

    def matching(self, path: str) -> list[str]:
        """The patterns that protect ``path``, a normal form; none when the operator opened it."""
        matching = [pattern for pattern in self.patterns if globs.matches(pattern, path, fold=True)]
        return [] if path in self._open and OPENABLE.issuperset(matching) else matching

    def _ancestor(self, parts: Sequence[str]) -> Finding | None:
        here = [folded(part) for part in parts]
        for pattern in self.patterns:
            prefix = folded(globs.literal_prefix(pattern)).split("/")
            if prefix[: len(here)] == here:
                return Finding("SELFMOD_ANCESTOR", "the path holds protected paths", {"matching_patterns": [pattern]})
        return None


def parse_additions(config: object) -> tuple[str, ...]:
    """Configured additions: a list of patterns that can only add. Raises `Refused` ``SELFMOD_CONFIG``."""
    if not isinstance(config, list | tuple):
        raise _config("must be a JSON list of patterns")
    for pattern in config:
        if not isinstance(pattern, str) or pattern.startswith("!"):
            raise _config(f"holds {pattern!r}; entries can only add protection")
        try:
            globs.check(pattern)
        except ModelError as error:
            raise _config(error.message) from error
    return tuple(dict.fromkeys(config))


def load_additions(data: bytes) -> tuple[str, ...]:
    """Additions from the bytes of the configuration file. Raises `Refused` ``SELFMOD_CONFIG`` saying where."""
    try:
        return parse_additions(json.loads(data.decode("utf-8")))
    except json.JSONDecodeError as error:
        raise _config(f"is not JSON: {error.msg}", f":{error.lineno}:{error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise _config("is not JSON") from error


def check_floor(floor: Collection[str], effective: Iterable[str]) -> None:
    """Raise `Refused` ``SELFMOD_FLOOR`` unless everything protected by an earlier run still is."""
    lost = sorted({*floor} - {*effective})
    if lost:
        raise Refused(
            "SELFMOD_FLOOR",
            f"an earlier run protected {', '.join(map(repr, lost))}, this configuration does not",
            hint="restore the entries in config/protected_paths.json, or give each up with"
            f" `quarterdeck unprotect PATH --pattern PATTERN --digest {floor_digest(floor)} --reason TEXT`",
        )


def floor_digest(floor: Iterable[str]) -> str:
    """What is stored beside the floor, and what an operator types to lower it."""
    return digest({"schema": "protected-floor/1", "patterns": sorted({*floor})})


def lowered_floor(floor: Iterable[str], removed: Iterable[str], typed_digest: str) -> tuple[str, ...]:
    """The floor without ``removed`` additions. Raises `Refused` ``SELFMOD_FLOOR`` for a wrong digest or a built-in."""
    kept, gone = {*floor}, {*removed}
    if typed_digest != floor_digest(kept):
        raise Refused("SELFMOD_FLOOR", "the typed digest is not the floor's")
    if gone & {*BUILT_IN}:
        raise Refused("SELFMOD_FLOOR", "built-in patterns can never be removed")
    return tuple(sorted(kept - gone))


def _config(text: str, place: str = "") -> Refused:
    return Refused("SELFMOD_CONFIG", f"the list of protected paths {text}", where=CONFIG_PATH + place)


def checked_open(path: str) -> str:
    """``path`` itself when an operator may open it (relaxation 8). Raises `Refused` ``SELFMOD_CONFIG``."""
    covered = [pattern for pattern in BUILT_IN if globs.matches(pattern, path, fold=True)]
    if lexical_finding(path) is not None or not covered or not OPENABLE.issuperset(covered):
        raise Refused("SELFMOD_CONFIG", f"{shown(path)} is not a protected file that may be opened by exact path")
    return path


def resolved(path: object) -> tuple[str, ...] | None:
    """Where ``path`` leads by its spelling; None for outside, absolute, or nothing that is a path."""
    if not isinstance(path, str):
        return None
    plain = path.replace("\\", "/")
    if folded(plain)[:1] == "/" or (plain[:1].isalpha() and plain[1:2] == ":"):
        return None
    parts: list[str] = []
    for part in plain.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            return None
    return tuple(parts)
