"""May this path, tool, role or spend happen? (operations spec §8)

Every check is stated against a stack of envelopes, of which each must agree; an empty list or an empty stack allows
nothing. The first failure decides, in a fixed order, so a refusal always carries the same code. Nothing is cached
between operations: a verdict is about now, and a `PathTicket` carries it safely to the moment of use. Path checks
touch the disk and block; callers use worker threads. The enforcer itself changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from runtime.governance.path_lexical import WAIVABLE, Finding, lexical_finding, normalise_request
from runtime.governance.path_ticket import MAX_WRITE_BYTES, PathTicket, denial
from runtime.governance.path_walk import PathDenied, Place, Root, examine, resolve_links, walk
from runtime.governance.roles import Capability, able, capabilities, check_capability, may_be_called
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.kernel import globs
from runtime.kernel.errors import ContractError
from runtime.kernel.ids import KILL_SWITCH_FILE
from runtime.kernel.model import (
    Access,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    Operation,
    OperationPlan,
    ValidationResult,
)
from runtime.kernel.refusals import STEP

__all__ = ["EnvelopeEnforcer", "EnvelopeViolation", "PathTicket", "normalise_request"]

#: Limits of operations spec §15.
MAX_PATHS: Final = 256
MAX_OPERATION_BYTES: Final = 16 * 1024 * 1024


class EnvelopeEnforcer:
    """The checks of one workspace.

    ``protector`` defaults to the built-in protected set; its reserved names are refused as such.
    ``names="native"`` (to be given to the protector, too) waives L16, L17 and L19–L21 for files that exist under
    exactly that name (relaxation 5).
    ``write_paths`` further narrows everything but reading (relaxation 3); ``state_files`` are the exact paths a
    steward may write; ``strict_links`` refuses even reading files that have further names.
    Raises `Refused` ``ROOT_FORBIDDEN`` or ``ENFORCER_UNSUPPORTED_PLATFORM``.
    """

    def __init__(
        self,
        repo_root: str | os.PathLike[str],
        *,
        protector: SelfModProtector | None = None,
        names: str = "strict",
        write_paths: Sequence[str] | None = None,
        state_files: Sequence[str] = (),
        strict_links: bool = False,
    ) -> None:
        if names not in ("strict", "native"):
            raise ContractError("ENFORCER_OPTION", f"names must be 'strict' or 'native', not {names!r}")
        for pattern in write_paths or ():
            globs.check(pattern)
        self._root = Root(repo_root)
        self._protected = (protector or SelfModProtector(self._root.path, names=names)).protected
        # Stopping a mission is the operator's act, never a mission's.
        self._reserved = (KILL_SWITCH_FILE, *self._protected.reserved)
        self._native = names == "native"
        self._write_paths = write_paths
        self._state_files = frozenset(state_files)
        self._strict_links = strict_links

    @staticmethod
    def matches(pattern: str, path: str) -> bool:
        """Does ``path`` match ``pattern`` exactly (§8.4)?"""
        return globs.matches(pattern, path)

    def close(self) -> None:
        """Give up the root's descriptor. Tickets cannot be used afterwards."""
        self._root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Operations

    def validate_operation(
        self,
        operation: Operation,
        ctx: ExecutionContext,
        plan: OperationPlan,
        stack: Envelope | Sequence[Envelope],
        *,
        remaining_micros: int | None = None,
        deadline_passed: bool = False,
        write_sizes: Sequence[int] = (),
    ) -> ValidationResult:
        """X6: operation type, role, tool, deadline, budget, counts and sizes, then each path.

        ``escalate`` is always allowed. Missing parent directories are tolerated when the plan's data has a true
        ``create_parents``.
        """
        if operation.type == "escalate":
            return ValidationResult.allow("envelope.op", operation.type)
        envelopes = _stacked(stack)
        refusal = _first_denial(
            lambda: _check_type(operation, envelopes),
            lambda: _check_roles(operation, ctx.acting_role, plan, envelopes),
            lambda: self._check_steward(operation, ctx.acting_role, plan),
            lambda: _check_tool(operation, plan, envelopes),
            lambda: _check_deadline(operation, plan, envelopes, deadline_passed),
            lambda: _check_budget(operation, plan, envelopes, remaining_micros),
            lambda: _check_limits(operation, plan, write_sizes),
            lambda: self._check_paths(plan, envelopes),
        )
        # Not ``refusal or allow``: a denied result is falsy.
        return ValidationResult.allow("envelope", operation.type) if refusal is None else refusal

    def _check_steward(self, operation: Operation, role: str, plan: OperationPlan) -> ValidationResult | None:
        """A role that may write state files only."""
        held = capabilities(role)
        if plan.uses_git or Capability.WRITE in held or Capability.WRITE_STATE not in held:
            return None
        if self._state_files.issuperset(plan.affected_paths):
            return None
        text = f"role {role} may write declared state files only"
        needed = f"acting_role: {' or '.join(able(Capability.WRITE))}, or one of the declared state files"
        return _deny("ENV_ROLE", text, "envelope.role", operation, role=role, rule=f"roles: {role}", needed=needed)

    def _check_paths(self, plan: OperationPlan, envelopes: Sequence[Envelope]) -> ValidationResult | None:
        parents = bool(plan.data.get("create_parents"))
        for item in plan.paths:
            verdict = self.validate_path_access(item.path, item.access, envelopes, create_parents=parents)
            if not verdict:
                return verdict
        return None

    # Paths

    def validate_path_access(
        self,
        requested_path: object,
        operation: Access | str,
        envelope_or_stack: Envelope | Sequence[Envelope],
        *,
        create_parents: bool = False,
        directory: bool = False,
    ) -> ValidationResult:
        """Lexical, policy and file-system checks, in this order. ``directory``: a delete means an empty directory."""
        try:
            ticket = self.authorize(
                requested_path, operation, envelope_or_stack, create_parents=create_parents, directory=directory
            )
        except EnvelopeViolation as violation:
            return violation.result
        with ticket:
            evidence: dict[str, Any] = {"requested_path": requested_path}
            if ticket.path != requested_path:
                evidence["resolved_path"] = ticket.path
            if ticket.identity is not None:
                evidence["nlink"] = ticket.identity.nlink
            return ValidationResult.allow("path", _name(operation), **evidence)

    def authorize(
        self,
        path: object,
        access: Access | str,
        stack: Envelope | Sequence[Envelope],
        *,
        create_parents: bool = False,
        directory: bool = False,
        link: bool = False,
    ) -> PathTicket:
        """The same checks, ending in a single-use permission. Raises `EnvelopeViolation`.

        ``link``: deleting or creating means a symbolic link itself, whatever it names. Only an undo says so; nothing
        a mission asks for does.

        Deleting a ``directory`` with ``create_parents`` takes back a folder made on the way to an allowed path: like
        its making, that needs no allowed pattern of its own, only that nothing forbids it.
        """
        envelopes, check = _stacked(stack), "path.lexical"
        try:
            wanted = _access(access)
            native = self._lexical(path)
            assert isinstance(path, str)  # the lexical checks refuse everything else
            check = "path.policy"
            if not (create_parents and directory and wanted is Access.DELETE):
                self._policy(path, wanted, envelopes)
            elif (found := self._forbidden(path, wanted, envelopes)) is not None:
                raise PathDenied(found.code, found.text, **found.evidence)
            check = "path.filesystem"
            parts = tuple(path.split("/")) if link else self._resolved(path, wanted, envelopes)
            place = self._visit(parts, wanted, create_parents=create_parents, directory=directory, link=link)
            try:
                self._check_missing(parts, place, native, envelopes)
            except PathDenied:
                place.close()
                raise
        except PathDenied as denied:
            raise EnvelopeViolation(denial(denied.finding, check, _name(access), path)) from None
        return PathTicket(
            self._root,
            parts,
            wanted,
            place,
            create_parents=create_parents,
            link=link,
            descend=lambda below: self._policy_finding(below, Access.LIST, envelopes) is None,
        )

    def check_symlink_safety(self, path: str) -> bool:
        """True if ``path`` is in normal form and no component that exists is a link or otherwise unsafe to follow."""
        if lexical_finding(path, native=self._native) is not None:
            return False
        try:
            walk(self._root, path.split("/"), parents=True).close()
        except PathDenied:
            return False
        return True

    def _lexical(self, path: object) -> Finding | None:
        """Raise the finding; return it instead when ``native`` waives it for an existing file."""
        found = lexical_finding(path)
        if found is None:
            return None
        if self._native and found.code in WAIVABLE:
            unwaived = lexical_finding(path, native=True)
            if unwaived is None:
                return found
            found = unwaived
        raise PathDenied(found.code, found.text, **found.evidence)

    def _policy(self, path: str, access: Access, envelopes: Sequence[Envelope]) -> None:
        found = self._policy_finding(path, access, envelopes)
        if found is not None:
            raise PathDenied(found.code, found.text, **found.evidence)

    def _policy_finding(self, path: str, access: Access, envelopes: Sequence[Envelope]) -> Finding | None:
        """§8.3: reserved, denied, protected, allowed."""
        found = self._forbidden(path, access, envelopes)
        if found is not None:
            return found
        index = _refusing([_any(envelope.allowed_paths, path) for envelope in envelopes])
        if index is not None:
            rule = _rule(index, "allowed_paths")
        elif self._write_paths is not None and not access.reads_only and not _any(self._write_paths, path):
            rule = _rule(0, "write_paths")
        else:
            return None
        return Finding("POLICY_NOT_ALLOWED", "no allowed pattern covers the path", {"rule": rule})

    def _forbidden(self, path: str, access: Access, envelopes: Sequence[Envelope]) -> Finding | None:
        """What no allow list can outweigh."""
        reserved = None if access.reads_only else _matching(self._reserved, path, fold=True)
        if reserved is not None:
            return Finding("PATH_RUNTIME_RESERVED", "the name is reserved for the runtime", {"pattern": reserved})
        for index, envelope in enumerate(envelopes):
            denied = _matching(envelope.denied_paths, path, fold=True)
            if denied is not None:
                rule = _rule(index, "denied_paths", denied)
                return Finding("POLICY_DENIED", "a denied pattern covers the path", {"rule": rule})
        return self._protected.finding(path, access.value)

    def _resolved(self, path: str, access: Access, envelopes: Sequence[Envelope]) -> tuple[str, ...]:
        """The components to walk: those asked for, or, with links honoured, where they lead."""
        parts = tuple(path.split("/"))
        if not envelopes or any(envelope.reject_symlinks for envelope in envelopes):
            return parts
        led = resolve_links(self._root, parts)
        if led == parts:
            return parts
        if not access.reads_only:
            raise PathDenied("PATH_SYMLINK_WRITE", "links are honoured for reading only")
        real = "/".join(led)
        self._lexical(real)
        self._policy(real, access, envelopes)
        return led

    def _visit(
        self, parts: Sequence[str], access: Access, *, create_parents: bool, directory: bool, link: bool
    ) -> Place:
        creating = access in (Access.CREATE, Access.WRITE)
        place = walk(self._root, parts, creating=creating, parents=create_parents and creating, link=link)
        found = examine(self._root, place, access, strict_links=self._strict_links, directory=directory, link=link)
        if found is not None:
            place.close()
            raise PathDenied(found.code, found.text, **found.evidence)
        return place

    def _check_missing(
        self, parts: Sequence[str], place: Place, native: Finding | None, envelopes: Sequence[Envelope]
    ) -> None:
        """What would be created must have a strict name, and no created parent may be forbidden ground."""
        if place.found is None and native is not None:
            raise PathDenied(native.code, native.text, **native.evidence)
        first = len(parts) - 1 - len(place.missing)
        for end in range(first + 1, len(parts)):
            found = self._forbidden("/".join(parts[:end]), Access.CREATE, envelopes)
            if found is not None:
                raise PathDenied(found.code, found.text, **found.evidence)


def _stacked(envelope_or_stack: Envelope | Sequence[Envelope]) -> tuple[Envelope, ...]:
    return (envelope_or_stack,) if isinstance(envelope_or_stack, Envelope) else tuple(envelope_or_stack)


def _access(access: Access | str) -> Access:
    try:
        return Access(access)
    except ValueError:
        raise PathDenied("PATH_OPERATION", f"{access!r} is not a way to touch a path") from None


def _name(access: Access | str) -> str:
    return access.value if isinstance(access, Access) else str(access)


def _any(patterns: Sequence[str], path: str) -> bool:
    return _matching(patterns, path) is not None


def _matching(patterns: Sequence[str], path: str, *, fold: bool = False) -> str | None:
    return next((pattern for pattern in patterns if globs.matches(pattern, path, fold=fold)), None)


def _rule(index: int, member: str, pattern: str | None = None) -> str:
    """How evidence names what decided: the member of the mission's envelope, or of the block's own on top of it."""
    return f"{STEP if index else ''}envelope.{member}{'' if pattern is None else f': {pattern}'}"


def _refusing(allowing: Sequence[bool]) -> int | None:
    """The first envelope of a stack that does not allow; an empty stack allows nothing."""
    return next((index for index, allows in enumerate(allowing) if not allows), None if allowing else 0)


def _deny(code: str, text: str, check: str, operation: Operation, **evidence: Any) -> ValidationResult:
    return ValidationResult.deny(code, text, check=check, operation=operation.type, **evidence)


def _first_denial(*checks: Callable[[], ValidationResult | None]) -> ValidationResult | None:
    for check in checks:
        verdict = check()
        if verdict is not None and not verdict:
            return verdict
    return None


def _check_type(operation: Operation, envelopes: Sequence[Envelope]) -> ValidationResult | None:
    allowing = [envelope.allow_ops is None or operation.type in envelope.allow_ops for envelope in envelopes]
    index = _refusing(allowing)
    if index is None:
        return None
    text = f"operation type {operation.type} is not allowed"
    return _deny("ENV_OP", text, "envelope.op", operation, rule=_rule(index, "allow_ops"))


def _check_roles(
    operation: Operation, role: str, plan: OperationPlan, envelopes: Sequence[Envelope]
) -> ValidationResult | None:
    """The acting role, and for a model call also the role that is to answer."""
    verdict = check_capability(role, operation.type, plan.tool)
    if not verdict:
        return verdict
    roles = [role]
    if operation.type == "llm_call":
        if not plan.role or not may_be_called(plan.role):
            text, needed = f"no model may answer as {plan.role!r}", "a role of `prompts` that cannot act itself"
            return _deny("ENV_ROLE", text, "envelope.role", operation, rule="roles", needed=needed)
        roles.append(plan.role)
    for name in roles:
        index = _refusing([name in envelope.allowed_roles for envelope in envelopes])
        if index is not None:
            text, rule = f"role {name} is not in allowed_roles", _rule(index, "allowed_roles")
            return _deny("ENV_ROLE", text, "envelope.role", operation, role=name, rule=rule)
    return None


def _check_tool(operation: Operation, plan: OperationPlan, envelopes: Sequence[Envelope]) -> ValidationResult | None:
    if plan.tool is None and operation.type != "tool_invoke":
        return None
    tool = plan.tool or ""
    spellings = {tool, tool.partition(".")[0]}
    index = _refusing([bool(tool and spellings.intersection(envelope.allowed_tools)) for envelope in envelopes])
    if index is None:
        return None
    text, rule = f"tool {tool!r} is not in allowed_tools", _rule(index, "allowed_tools")
    return _deny("ENV_TOOL", text, "envelope.tool", operation, tool=tool, rule=rule)


def _check_deadline(
    operation: Operation, plan: OperationPlan, envelopes: Sequence[Envelope], passed: bool
) -> ValidationResult | None:
    limits = [envelope.timeout_seconds for envelope in envelopes]
    if plan.timeout_seconds is not None:
        passed = passed or not plan.timeout_seconds > 0  # also refuses NaN
    if passed or min(limits) <= 0:
        return _deny("ENV_DEADLINE", "no time is left for this operation", "envelope.deadline", operation)
    return None


def _check_budget(
    operation: Operation, plan: OperationPlan, envelopes: Sequence[Envelope], remaining: int | None
) -> ValidationResult | None:
    if plan.reserve_micros < 0:  # how a plan says that nobody knows its price
        return _deny("BUDGET_PRICE_UNKNOWN", "the price of this operation is unknown", "envelope.budget", operation)
    limits = [envelope.max_budget_micros for envelope in envelopes]
    left = min(limits if remaining is None else [remaining, *limits])
    if plan.reserve_micros == 0 or plan.reserve_micros <= left:
        return None
    text = f"the operation may cost {plan.reserve_micros} micro-USD, {left} are left"
    # The run's rest shrinks with what is spent; a block's own limit is the same for each of its operations.
    own = {"rule": _rule(1, "max_budget_usd")} if left in limits[1:] and left < limits[0] else {}
    amounts = {"reserve_micros": plan.reserve_micros, "left_micros": left}
    return _deny("BUDGET_EXCEEDED", text, "envelope.budget", operation, **amounts, **own)


def _check_limits(operation: Operation, plan: OperationPlan, sizes: Sequence[int]) -> ValidationResult | None:
    why = None
    if len(plan.paths) > MAX_PATHS:
        why = f"{len(plan.paths)} paths exceed {MAX_PATHS} per operation"
    elif any(size > MAX_WRITE_BYTES for size in sizes):
        why = f"a file exceeds {MAX_WRITE_BYTES} bytes"
    elif sum(sizes) > MAX_OPERATION_BYTES:
        why = f"{sum(sizes)} bytes exceed {MAX_OPERATION_BYTES} per operation"
    return None if why is None else _deny("ENV_LIMIT", why, "envelope.limit", operation)
