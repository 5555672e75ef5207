"""The frozen records of operations, envelopes and receipts, shared by every floor (ruling R10).

Two founding plans spelled these types differently; both spellings keep working (operations spec §2).
Records validate themselves when built and never change afterwards. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_FLOOR, Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self
from uuid import UUID

from runtime.kernel import globs
from runtime.kernel.canonical import RECEIPT_GENESIS, CanonicalizationError, canonical_bytes, digest, digest_bytes
from runtime.kernel.errors import ModelError
from runtime.kernel.ids import COMMIT, HASH, OPERATION_ID

MAX_PARAMS_BYTES: Final = 256 * 1024
#: What a file will hold: the one parameter that may be longer. 4 MiB (operations spec §15), written as base64.
CONTENT: Final = "content"
MAX_CONTENT_BYTES: Final = 6 * 1024 * 1024
_ARTIFACT: Final = "$artifact"
MICROS: Final = 1_000_000
MAX_BUDGET_USD: Final = 1_000_000
MAX_TIMEOUT_SECONDS: Final = 86_400
DEFAULT_TIMEOUT_SECONDS: Final = 60


class OperationType(Enum):
    """The six ways to touch the world."""

    LLM_CALL = "llm_call"
    TOOL_INVOKE = "tool_invoke"
    PACKET_ROUTE = "packet_route"
    GATE_CHECK = "gate_check"
    RUN_TESTS = "run_tests"
    ESCALATE = "escalate"


OPERATION_TYPES: Final = frozenset(member.value for member in OperationType)


class CompensationType(Enum):
    """How an operation can be undone (operations spec §6.1)."""

    NONE = "none"
    GIT_CHECKOUT = "git_checkout"
    GIT_RESET_HEAD = "git_reset_head"
    GIT_RESET_SOFT = "git_reset_soft"
    GIT_RESET_HARD = "git_reset_hard"
    GIT_CLEAN = "git_clean"
    FILESYSTEM_DELETE = "fs_delete"
    FILESYSTEM_RESTORE = "fs_restore"
    CUSTOM_VALIDATED = "custom"


class Effect(Enum):
    """What an operation may do to the world, from its plan."""

    NONE = "none"
    READ = "read"
    EXECUTE = "execute"
    WRITE = "write"
    EXTERNAL = "external"


class Access(Enum):
    """How a planned operation touches one path. ``WRITE`` means create or modify."""

    READ = "read"
    LIST = "list"
    CREATE = "create"
    MODIFY = "modify"
    DELETE = "delete"
    EXECUTE = "execute"
    WRITE = "write"

    @property
    def reads_only(self) -> bool:
        return self in (Access.READ, Access.LIST)


class OperationStatus(Enum):
    """How an operation ended."""

    SUCCESS = "success"
    FAILED = "failed"
    ESCALATED = "escalated"


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The verdict of one check; falsy when denied. ``reason`` is ``CODE: text``."""

    allowed: bool
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The part of ``reason`` before the colon."""
        return self.reason.partition(":")[0]

    def __bool__(self) -> bool:
        return self.allowed

    @classmethod
    def allow(cls, check: str, operation: str, **evidence: Any) -> Self:
        """An allowing verdict of ``check``."""
        return cls(True, "OK: allowed", {"code": "OK", "check": check, "operation": operation, **evidence})

    @classmethod
    def deny(cls, code: str, text: str, *, check: str, operation: str, **evidence: Any) -> Self:
        """A denying verdict; ``evidence`` must hold no time and no absolute path."""
        return cls(False, f"{code}: {text}", {"code": code, "check": check, "operation": operation, **evidence})


class EnvelopeViolation(ModelError):
    """An envelope check said no. Carries its `ValidationResult` as ``result``."""

    def __init__(self, result: ValidationResult) -> None:
        super().__init__(result.code, result.reason.partition(": ")[2])
        self.result = result


def micros(usd: object, *, where: str = "max_budget_usd") -> int:
    """Convert dollars to integer micro-USD, rounding down on the shortest decimal text.

    Raises `ModelError` ``ENV_BUDGET`` unless ``usd`` is a finite int or float (not bool) in 0…1 000 000
    with at most six decimals.
    """
    if isinstance(usd, bool) or not isinstance(usd, int | float):
        raise ModelError("ENV_BUDGET", f"{where} must be a number, not {usd!r}")
    if not 0 <= usd <= MAX_BUDGET_USD:  # NaN, too; and an int may have a million digits
        raise ModelError("ENV_BUDGET", f"{where} must be 0 to {MAX_BUDGET_USD}")
    amount = Decimal(repr(usd))
    exponent = amount.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -6:
        raise ModelError("ENV_BUDGET", f"{where} must be 0 to {MAX_BUDGET_USD} with at most six decimals, not {usd!r}")
    return int((amount * MICROS).to_integral_value(rounding=ROUND_FLOOR))


@dataclass(frozen=True, init=False, slots=True)
class Envelope:
    """What operations may touch. Every list is exhaustive: an empty one allows nothing (operations spec §2.2).

    ``allow_ops`` ``None`` leaves operation types to the other lists; ``escalate`` is always allowed.
    Money is micro-USD. Raises `ModelError`: ``ENV_*`` or ``GLOB_INVALID``.
    """

    allowed_paths: tuple[str, ...]
    denied_paths: tuple[str, ...]
    allowed_tools: tuple[str, ...]
    allowed_roles: tuple[str, ...]
    reject_symlinks: bool
    max_budget_micros: int
    timeout_seconds: int
    allow_ops: tuple[str, ...] | None

    def __init__(
        self,
        *,
        allowed_paths: Sequence[str] | None = None,
        denied_paths: Sequence[str] | None = None,
        allowed_tools: Sequence[str] = (),
        allowed_roles: Sequence[str] = (),
        reject_symlinks: bool = True,
        max_budget_usd: float = 0,
        timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS,
        allow_ops: Sequence[str] | None = None,
        allow_paths: Sequence[str] | None = None,
        deny_paths: Sequence[str] | None = None,
        **unknown: object,
    ) -> None:
        if unknown:
            raise ModelError("ENV_UNKNOWN_FIELD", f"unknown envelope member {sorted(unknown)[0]!r}")
        if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, int):
            raise ModelError("ENV_TIMEOUT", f"timeout_seconds must be a whole number, not {timeout_seconds!r}")
        if not 1 <= timeout_seconds <= MAX_TIMEOUT_SECONDS:
            raise ModelError(
                "ENV_TIMEOUT", f"timeout_seconds must be 1 to {MAX_TIMEOUT_SECONDS}, not {timeout_seconds}"
            )
        if not isinstance(reject_symlinks, bool):
            raise ModelError("ENV_TYPE", "reject_symlinks must be true or false")
        values: dict[str, object] = {
            "allowed_paths": _patterns("allowed_paths", allowed_paths, allow_paths),
            "denied_paths": _patterns("denied_paths", denied_paths, deny_paths),
            "allowed_tools": _texts("allowed_tools", allowed_tools),
            "allowed_roles": _texts("allowed_roles", allowed_roles),
            "reject_symlinks": reject_symlinks,
            "max_budget_micros": micros(max_budget_usd),
            "timeout_seconds": timeout_seconds,
            "allow_ops": None if allow_ops is None else _texts("allow_ops", allow_ops),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def allow_paths(self) -> tuple[str, ...]:
        """Plan B's name for ``allowed_paths``."""
        return self.allowed_paths

    @property
    def deny_paths(self) -> tuple[str, ...]:
        """Plan B's name for ``denied_paths``."""
        return self.denied_paths

    def record(self) -> dict[str, Any]:
        """The hashed object, schema ``envelope/1``."""
        return {
            "schema": "envelope/1",
            "allow_ops": None if self.allow_ops is None else sorted(set(self.allow_ops)),
            "allowed_paths": sorted(set(self.allowed_paths)),
            "denied_paths": sorted(set(self.denied_paths)),
            "allowed_tools": sorted(set(self.allowed_tools)),
            "allowed_roles": sorted(set(self.allowed_roles)),
            "reject_symlinks": self.reject_symlinks,
            "max_budget_micros": self.max_budget_micros,
            "timeout_seconds": self.timeout_seconds,
        }

    @property
    def envelope_hash(self) -> str:
        return digest(self.record())


def _texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ModelError("ENV_TYPE", f"{name} must be a list of text")
    items = tuple(value)
    if not all(type(item) is str and item for item in items):
        raise ModelError("ENV_TYPE", f"{name} must hold non-empty text only")
    return items


def _patterns(name: str, value: Sequence[str] | None, alias: Sequence[str] | None) -> tuple[str, ...]:
    if value is not None and alias is not None and tuple(value) != tuple(alias):
        raise ModelError("ENV_ALIAS_CONFLICT", f"{name} is given twice with different values")
    chosen = _texts(name, value if value is not None else alias if alias is not None else ())
    for pattern in chosen:
        globs.check(pattern)
    return chosen


DENY_ALL: Final = Envelope()


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to touch the world (operations spec §2.3).

    ``hashed`` are the params as keys and records hash them: where they would be too long, ``content`` is named by the
    digest and size of its UTF-8 bytes, in the shape of ruling R40. Raises `ModelError`: ``OP_ID``, ``OP_UNKNOWN_TYPE``,
    ``OP_PARAMS`` (not canonicalisable, or over 256 KiB).
    """

    operation_id: str
    type: str
    params: Mapping[str, Any]
    compensation_type: CompensationType = CompensationType.NONE
    compensation_command: str = ""
    hashed: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _spelled(OPERATION_ID, self.operation_id):
            raise ModelError("OP_ID", f"operation id {self.operation_id!r} is not of the form <step_id>.<index>")
        if self.type not in OPERATION_TYPES:
            raise ModelError("OP_UNKNOWN_TYPE", f"unknown operation type {self.type!r}")
        try:
            object.__setattr__(self, "hashed", _hashed(self.params))
        except (CanonicalizationError, TypeError, ValueError) as error:
            raise ModelError("OP_PARAMS", f"params of {self.operation_id} are not canonical: {error}") from None


def _hashed(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """``params`` within the limit of hashed ones; long content by its digest. Raises `CanonicalizationError`."""
    plain = dict(params)
    content = plain.get(CONTENT)
    if isinstance(content, Mapping) and _ARTIFACT in content:
        raise CanonicalizationError("CANON_TYPE", f"{CONTENT} must be what is written, not the name of an artifact")
    try:
        canonical_bytes(plain, limit=MAX_PARAMS_BYTES)
    except CanonicalizationError as error:
        if error.code != "CANON_SIZE" or type(content) is not str:
            raise
    else:
        return plain
    data = content.encode()
    if len(data) > MAX_CONTENT_BYTES:
        raise CanonicalizationError("CANON_SIZE", f"{CONTENT} has {len(data)} bytes, more than {MAX_CONTENT_BYTES}")
    named = {**plain, CONTENT: {_ARTIFACT: digest_bytes(data), "bytes": len(data)}}
    canonical_bytes(named, limit=MAX_PARAMS_BYTES)
    return named


@dataclass(frozen=True, slots=True)
class PlannedPath:
    """One path an operation will touch, workspace-relative in normal form."""

    path: str
    access: Access


@dataclass(frozen=True, slots=True)
class OperationPlan:
    """What an operation will do, known before anything is done (operations spec §3).

    ``reserve_micros`` is the worst-case price. ``uses_git`` says the plan writes the index or a ref, so the
    tree must be clean (ruling §9.1). ``undo`` is the default compensation filled in when the author is silent.
    ``data`` is the handler's own, canonicalisable, and part of the plan hash.
    """

    effect: Effect
    paths: tuple[PlannedPath, ...] = ()
    tool: str | None = None
    role: str | None = None
    reserve_micros: int = 0
    reserve_tokens: int = 0
    writes_index: bool = False
    writes_ref: bool = False
    timeout_seconds: float | None = None
    undo: CompensationType = CompensationType.NONE
    undo_command: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uses_git(self) -> bool:
        return self.writes_index or self.writes_ref

    @property
    def affected_paths(self) -> tuple[str, ...]:
        """Sorted, unique paths with non-read access."""
        return tuple(sorted({item.path for item in self.paths if not item.access.reads_only}))

    def record(self) -> dict[str, Any]:
        """The hashed object: a stored plan is found under its ``plan_hash``."""
        return {
            "schema": "operation-plan/1",
            "effect": self.effect.value,
            "paths": sorted([item.path, item.access.value] for item in self.paths),
            "tool": self.tool,
            "role": self.role,
            "reserve_micros": self.reserve_micros,
            "reserve_tokens": self.reserve_tokens,
            "writes_index": self.writes_index,
            "writes_ref": self.writes_ref,
            "data": thawed(self.data),
        }

    @property
    def plan_hash(self) -> str:
        return digest(self.record())


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationReceipt:
    """The proof of one attempt at one operation (operations spec §2.4). Exactly one per attempt."""

    operation_id: str
    timestamp: str
    pre_state_hash: str
    post_state_hash: str
    compensation_type: str
    compensation_command: str
    idempotency_key: str
    compensation_verified: bool = False
    run_id: str
    step_id: str
    operation_type: str
    attempt: int
    status: str
    reason_code: str | None = None
    effect: str
    affected_paths: tuple[str, ...] = ()
    params_hash: str
    output_hash: str
    evidence_hash: str
    pre_head: str | None = None
    post_head: str | None = None
    pre_workspace: str | None = None
    post_workspace: str | None = None
    cost_micros: int = 0
    compensates: str | None = None
    prev_receipt_hash: str = RECEIPT_GENESIS
    schema: str = "receipt/1"

    def body(self) -> dict[str, Any]:
        """The hashed members: everything but ``receipt_hash``."""
        members = {item.name: getattr(self, item.name) for item in fields(self)}
        members["affected_paths"] = sorted(self.affected_paths)
        return members

    @property
    def receipt_hash(self) -> str:
        return digest(self.body())

    def record(self) -> dict[str, Any]:
        """The stored object: ``body()`` plus ``receipt_hash``."""
        body = self.body()
        return {**body, "receipt_hash": digest(body)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a receipt from a journal entry; raises `ModelError` ``J_SCHEMA`` on missing or extra members."""
        known = {item.name for item in fields(cls)}
        members = {key: value for key, value in record.items() if key != "receipt_hash"}
        if set(members) != known:
            odd = sorted(set(members) ^ known)
            raise ModelError("J_SCHEMA", f"receipt members differ: {', '.join(odd)}")
        members["affected_paths"] = tuple(members["affected_paths"])
        return cls(**members)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationResult:
    """What `OperationExecutor.execute` returns (operations spec §2.5)."""

    operation_id: str
    operation_id_audit: str
    type: str
    status: OperationStatus
    output: Mapping[str, Any]
    evidence: Mapping[str, Any]
    receipt: OperationReceipt | None
    reason_code: str | None = None
    replayed: bool = False
    compensation_status: str = "not_needed"

    @property
    def ok(self) -> bool:
        return self.status is OperationStatus.SUCCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionContext:
    """Where an operation runs (operations spec §2.1). ``run_id`` here is the deterministic recipe hash (ruling R2).

    Raises `ModelError`: ``CTX_RUN_ID``, ``CTX_COMMIT``, ``CTX_AUDIT_ID``.
    """

    run_id: str
    run_id_audit: UUID
    repo_root: Path
    baseline_commit: str
    started_at: str = ""
    mission_id: str = ""
    mission_type: str = ""
    step_id: str = ""
    envelope: Envelope = DENY_ALL
    journal: object | None = None
    acting_role: str = ""

    def __post_init__(self) -> None:
        if not _spelled(HASH, self.run_id):
            raise ModelError("CTX_RUN_ID", f"run_id must be sha256:<64 hex>, not {self.run_id!r}")
        if not _spelled(COMMIT, self.baseline_commit):
            raise ModelError("CTX_COMMIT", f"baseline_commit must be a full commit name, not {self.baseline_commit!r}")
        object.__setattr__(self, "run_id_audit", _uuid(self.run_id_audit))
        object.__setattr__(self, "repo_root", Path(self.repo_root).resolve())  # absolute and real, once

    def for_step(self, step_id: str) -> Self:
        """A copy of this context for one step."""
        return replace(self, step_id=step_id)


def _spelled(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.match(value) is not None


def _uuid(value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise ModelError("CTX_AUDIT_ID", f"run_id_audit is not a UUID: {value!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One journalled state of one block attempt (operations spec §2.7, ruling R3)."""

    step_id: str
    operation_type: str
    status: str
    started_at: str
    completed_at: str | None = None
    name: str = ""
    attempt: int = 1
    visit: int = 1
    tick: int = 1
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    pre_state_hash: str | None = None
    post_state_hash: str | None = None
    error_message: str | None = None
    compensation_status: str = "not_needed"
    seq: int = -1
    entry_hash: str = ""
    prev_entry_hash: str = ""
    journal_id: str = ""
    at: str = ""
    kind: str = "step_started"
    schema: str = "journal-entry/1"

    @property
    def prev_hash(self) -> str | None:
        """Plan B's link: ``None`` for the first entry of a journal."""
        return None if self.seq == 0 else self.prev_entry_hash


_SCALARS: Final = frozenset({str, int, bool, float})


def frozen(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A deep, read-only copy of a JSON-like mapping, so that returned records cannot alter history."""
    return MappingProxyType({key: _freeze(item) for key, item in value.items()})


def _freeze(value: Any) -> Any:
    if value is None or type(value) in _SCALARS:  # most values; telling mappings from others is slow
        return value
    if isinstance(value, Mapping):
        return frozen(value)
    if isinstance(value, list | tuple):
        return tuple(_freeze(item) for item in value)
    return value


def thawed(value: Any) -> Any:
    """The plain, mutable form of a `frozen` value: dicts and lists, ready for `canonical_bytes`."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(item) for item in value]
    return value
