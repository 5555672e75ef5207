"""Whether and how an operation can be undone: the declaration's grammar, its fit to the plan, and the proof after.

A ``compensation_command`` is a declaration matched against a fixed template and never handed to a shell (operations
spec §6.1). Everything here is a pure decision over recorded facts; `runtime.orchestration.undo` applies them.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.kernel.errors import QuarterdeckError
from runtime.kernel.ids import COMMIT, TREE_MARK
from runtime.kernel.model import Access, CompensationType, Effect, OperationPlan
from runtime.orchestration.operation_ports import StatusLine, WorkspaceState
from runtime.orchestration.snapshots import Snapshot

#: Operations spec §6.1: ``HEAD~N`` with N = 1…20.
_RELATIVE: Final = re.compile(r"HEAD~(?:[1-9]|1[0-9]|20)\Z")
#: The five texts ``custom`` may hold, and the typed equivalent of each (operations spec §6.1).
WHITELIST: Final[Mapping[str, CompensationType]] = {
    "git checkout -- .": CompensationType.GIT_CHECKOUT,
    "git reset HEAD": CompensationType.GIT_RESET_HEAD,
    "git reset --soft HEAD~1": CompensationType.GIT_RESET_SOFT,
    "git reset --hard HEAD~1": CompensationType.GIT_RESET_HARD,
    "git clean -fd": CompensationType.GIT_CLEAN,
}
GIT_TYPES: Final = frozenset(WHITELIST.values())
#: What `suitable` has to be told about the repository, by type.
ASKS_STATUS: Final = frozenset(
    {CompensationType.GIT_CHECKOUT, CompensationType.GIT_RESET_HEAD, CompensationType.GIT_RESET_HARD}
)
ASKS_TRACKED: Final = frozenset(
    {CompensationType.GIT_CHECKOUT, CompensationType.GIT_RESET_HARD, CompensationType.GIT_CLEAN}
)
#: Effects that may go without an undo.
_HARMLESS: Final = frozenset({Effect.NONE, Effect.READ, Effect.EXECUTE, Effect.EXTERNAL})
_WRITING: Final = frozenset({Access.CREATE, Access.MODIFY, Access.DELETE, Access.WRITE})


class InvalidCompensation(QuarterdeckError):
    """The declared undo is not one (``COMP_*``); nothing has run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """A parsed declaration. ``type`` is never ``custom``: that is resolved to its typed equivalent.

    ``paths`` empty with a git type means every planned path (``.`` or no path list). ``target`` is a commit or
    ``HEAD~N``. ``declared`` and ``command`` are what goes into receipts.
    """

    type: CompensationType
    declared: CompensationType
    command: str = ""
    paths: tuple[str, ...] = ()
    target: str | None = None


NO_UNDO: Final = Compensation(type=CompensationType.NONE, declared=CompensationType.NONE)


def validate_compensation(kind: object, command: object) -> Compensation:
    """Parse a declaration. Raises `InvalidCompensation` ``COMP_TYPE``, ``COMP_COMMAND``, ``COMP_PATH`` or
    ``COMP_NOT_WHITELISTED`` (operations spec §6.2); whether it fits the plan is `fit`'s question.
    """
    declared = _member(kind)
    if not isinstance(command, str):
        raise InvalidCompensation("COMP_COMMAND", f"compensation_command must be text, not {type(command).__name__}")
    if declared is CompensationType.CUSTOM_VALIDATED:
        if command not in WHITELIST:
            raise InvalidCompensation(
                "COMP_NOT_WHITELISTED", f"{command!r} is not a known undo", hint="one of: " + "; ".join(WHITELIST)
            )
        return _parse(WHITELIST[command], declared, command)
    return _parse(declared, declared, command)


def writes(plan: OperationPlan) -> tuple[str, ...]:
    """Sorted paths the plan may change, as opposed to execute or read; a folder stands for all below it."""
    paths = {item.path for item in plan.paths if item.access in _WRITING}
    return tuple(sorted(path.removesuffix("/" + TREE_MARK) for path in paths))


def covers(paths: Collection[str], path: str) -> bool:
    """Is ``path`` one of ``paths`` or below one of them?"""
    return any(path == known or path.startswith(known + "/") for known in paths)


def fit(compensation: Compensation, plan: OperationPlan) -> None:
    """Does the declaration fit the plan, before anything is looked at?

    Raises `InvalidCompensation` ``COMP_REQUIRED``, ``COMP_PATH`` or ``COMP_UNSUITABLE``.
    """
    if compensation.type is CompensationType.NONE:
        if plan.effect not in _HARMLESS:
            raise InvalidCompensation("COMP_REQUIRED", "an operation that writes must say how it is undone")
        return
    planned = writes(plan)
    for path in compensation.paths:
        if not covers(planned, path):
            raise InvalidCompensation("COMP_PATH", f"undo names {path!r}, which the operation does not write")
    left = [path for path in planned if compensation.paths and not covers(compensation.paths, path)]
    if left:
        raise InvalidCompensation("COMP_UNSUITABLE", f"undo leaves out {left[0]!r}, which the operation writes")
    _fit_refs(compensation, plan)


def _fit_refs(compensation: Compensation, plan: OperationPlan) -> None:
    kind = compensation.type
    if kind is CompensationType.GIT_RESET_SOFT and not plan.writes_ref:
        raise _unsuitable("a soft reset undoes commits, and this operation makes none")
    if kind is CompensationType.GIT_RESET_HARD and not plan.writes_ref and _relative(compensation):
        raise _unsuitable("a relative hard reset would drop a commit this operation did not make")
    if kind in (CompensationType.FILESYSTEM_DELETE, CompensationType.FILESYSTEM_RESTORE) and plan.uses_git:
        raise _unsuitable("files can be put back, but the operation also changes git's index or a branch")
    if kind is CompensationType.GIT_RESET_HEAD and plan.writes_ref:
        raise _unsuitable("resetting the index does not move the branch back")
    if kind in (CompensationType.GIT_CHECKOUT, CompensationType.GIT_CLEAN) and plan.uses_git:
        raise _unsuitable("only the work tree would be undone, not git's index or branch")


def suitable(
    compensation: Compensation,
    plan: OperationPlan,
    *,
    before: WorkspaceState | None,
    snapshot: Snapshot,
    status: Sequence[StatusLine],
    tracked: Collection[str],
) -> None:
    """The conditions of operations spec §6.1 that need the world as it is at X9.

    ``status`` is looked at for the types in `ASKS_STATUS`, ``tracked`` for those in `ASKS_TRACKED`.
    Raises `InvalidCompensation` ``COMP_UNSUITABLE``.
    """
    kind = compensation.type
    planned = writes(plan)
    if kind in GIT_TYPES and (before is None or before.head is None):
        raise _unsuitable("git undo needs a git work tree with a commit")
    lines = {line.path: line for line in status}
    if kind is CompensationType.GIT_CHECKOUT:
        _require(planned, lambda path: path in tracked and _clean_worktree(lines.get(path)), "tracked and unchanged")
        _require(planned, lambda path: not snapshot.missing(path), "present, for a checkout restores and never removes")
    elif kind is CompensationType.GIT_RESET_HEAD:
        _require(planned, lambda path: _clean_index(lines.get(path)), "not staged before")
    elif kind is CompensationType.GIT_RESET_HARD:
        if status:
            raise _unsuitable(f"a hard reset needs a clean tree, {status[0].path!r} has changes")
        _require(planned, lambda path: path in tracked, "tracked")
    elif kind is CompensationType.GIT_CLEAN:
        _require(planned, lambda path: snapshot.missing(path) and path not in tracked, "new and untracked")
    elif kind is CompensationType.FILESYSTEM_DELETE:
        _require(planned, snapshot.missing, "missing before")
    if before is not None and COMMIT.match(compensation.target or "") and compensation.target != before.head:
        raise _unsuitable("the named commit is not the present HEAD")


def verification(
    *,
    before: WorkspaceState | None,
    now: WorkspaceState | None,
    pre_state: str,
    now_state: str,
    covered: Collection[str],
    strict: bool,
    ignored: Collection[str] = (),
) -> dict[str, bool]:
    """Every check of operations spec §6.4 by name; the undo is verified when all are true.

    ``strict`` demands the whole work tree; otherwise foreign edits on paths outside ``covered`` do not count
    (rulings §9.1). ``ignored`` are undeclared effects, which are listed and never removed.
    """
    checks = {"state": pre_state == now_state}
    if before is None or now is None:
        return checks
    differing = [path for path in before.changed(now) if not covers(ignored, path)]
    if before.head is None:
        # Without git the listing holds times, which no undo brings back; contents are what "state" compares.
        differing = [path for path in differing if not covers(covered, path)]
    if strict:
        checks |= {
            "head": before.head == now.head and before.ref == now.ref,
            "index": before.index == now.index and before.flags == now.flags,
            "worktree": not differing,
        }
        if before.head is not None and not before.worktree:
            checks["clean"] = not [path for path in now.worktree if not covers(ignored, path)]
    else:
        checks["worktree"] = not [path for path in differing if covers(covered, path)]
    return checks


def _member(kind: object) -> CompensationType:
    if isinstance(kind, CompensationType):
        return kind
    try:
        return CompensationType(kind)
    except ValueError:
        raise InvalidCompensation("COMP_TYPE", f"{kind!r} is not a compensation type") from None


def _parse(kind: CompensationType, declared: CompensationType, command: str) -> Compensation:
    if kind is CompensationType.NONE:
        if command not in ("", "none"):
            raise InvalidCompensation("COMP_COMMAND", f"type none takes no command, not {command!r}")
        return NO_UNDO
    rest = _after_prefix(kind, _tokens(command), command)
    if kind in (CompensationType.GIT_RESET_SOFT, CompensationType.GIT_RESET_HARD):
        if len(rest) != 1 or not (COMMIT.match(rest[0]) or is_relative(rest[0])):
            raise _mismatch(kind, command)
        return Compensation(type=kind, declared=declared, command=command, target=rest[0])
    return Compensation(type=kind, declared=declared, command=command, paths=_paths(kind, rest, command))


def _tokens(command: str) -> list[str]:
    if command != command.strip() or any(unicodedata.category(char) == "Cc" for char in command):
        raise InvalidCompensation("COMP_COMMAND", f"command {command!r} has surrounding space or control characters")
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidCompensation("COMP_COMMAND", f"command {command!r} does not split into words: {error}") from None


_PREFIX: Final[Mapping[CompensationType, tuple[str, ...]]] = {
    CompensationType.GIT_CHECKOUT: ("git", "checkout", "--"),
    CompensationType.GIT_RESET_HEAD: ("git", "reset", "HEAD"),
    CompensationType.GIT_RESET_SOFT: ("git", "reset", "--soft"),
    CompensationType.GIT_RESET_HARD: ("git", "reset", "--hard"),
    CompensationType.GIT_CLEAN: ("git", "clean", "-fd"),
    CompensationType.FILESYSTEM_DELETE: ("fs_delete",),
    CompensationType.FILESYSTEM_RESTORE: ("fs_restore",),
}
#: Types whose path list is optional and then introduced by ``--``.
_OPTIONAL_PATHS: Final = frozenset({CompensationType.GIT_RESET_HEAD, CompensationType.GIT_CLEAN})


def _after_prefix(kind: CompensationType, tokens: list[str], command: str) -> list[str]:
    prefix = _PREFIX[kind]
    if tuple(tokens[: len(prefix)]) != prefix:
        raise _mismatch(kind, command)
    return tokens[len(prefix) :]


def _paths(kind: CompensationType, rest: list[str], command: str) -> tuple[str, ...]:
    if kind in _OPTIONAL_PATHS:
        if not rest:
            return ()
        if rest[0] != "--":
            raise _mismatch(kind, command)
        rest = rest[1:]
    if not rest:
        raise _mismatch(kind, command)
    if kind is CompensationType.GIT_CHECKOUT and rest == ["."]:
        return ()
    for path in rest:
        _check_path(path)
    return tuple(dict.fromkeys(rest))


def _check_path(path: str) -> None:
    """The shape only: membership in the plan, whose paths passed the enforcer, decides the rest."""
    if path.startswith("-"):
        raise InvalidCompensation("COMP_COMMAND", f"{path!r} looks like an option")
    parts = path.split("/")
    if path.startswith(("/", "~")) or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidCompensation("COMP_PATH", f"{path!r} is not a workspace-relative path in normal form")
    if unicodedata.normalize("NFC", path) != path or any(part.casefold() == ".git" for part in parts):
        raise InvalidCompensation("COMP_PATH", f"{path!r} may not be named in an undo")


def _mismatch(kind: CompensationType, command: str) -> InvalidCompensation:
    form = " ".join(_PREFIX[kind]) + " …"
    return InvalidCompensation("COMP_COMMAND", f"command {command!r} does not have the form {form!r} of {kind.value}")


def _unsuitable(why: str) -> InvalidCompensation:
    return InvalidCompensation("COMP_UNSUITABLE", why)


def _require(paths: Iterable[str], holds: Callable[[str], bool], what: str) -> None:
    for path in paths:
        if not holds(path):
            raise _unsuitable(f"{path!r} must be {what}")


def is_relative(target: str) -> bool:
    """``HEAD~N`` rather than a commit name."""
    return _RELATIVE.match(target) is not None


def _relative(compensation: Compensation) -> bool:
    return is_relative(compensation.target or "")


def _clean_worktree(line: StatusLine | None) -> bool:
    return line is None or line.worktree == " "


def _clean_index(line: StatusLine | None) -> bool:
    return line is None or line.index in (" ", "?")
