"""What the executor needs from its neighbours, and what handlers and executor promise each other.

The executor is bundled with the evidence and may import only the standard library, the kernel and its siblings
(ruling R12). Journal, enforcer, protector, workspace and git therefore reach it through these narrow protocols;
the host injects the real ones, tests inject fakes. Nothing here has behaviour beyond small records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from runtime.kernel.canonical import canonical_bytes, digest_bytes
from runtime.kernel.errors import Halted
from runtime.kernel.model import Access, Envelope, ExecutionContext, Operation, OperationPlan, ValidationResult
from runtime.kernel.ports import ArtifactStore, Denial, Durable
from runtime.kernel.redaction import Redactor
from runtime.orchestration.git_parse import GitStatus
from runtime.orchestration.operation_table import OperationTable
from runtime.orchestration.state_hash import TreeFacts

#: Outputs and workspace listings may exceed the 1 MiB of one hashed record: operations spec §15, bytes per operation.
MAX_BODY_BYTES: Final = 16 * 1024 * 1024


class HaltRequired(Halted):
    """The run must stop: the world is not what the records say, or an undo failed."""


class KillSwitchActive(Halted):
    """The operator's stop file exists, or looking for it failed."""


class Appended(Protocol):
    """What a journal returns for one appended entry."""

    @property
    def entry(self) -> Mapping[str, Any]: ...

    @property
    def durable(self) -> Durable: ...


class Journal(Protocol):
    """The run's journal: synchronous appends, durability awaited separately."""

    @property
    def closed(self) -> bool: ...

    @property
    def last_receipt_hash(self) -> str: ...

    @property
    def operations(self) -> OperationTable:
        """Every operation so far, up to the newest entry."""
        ...

    def append(self, kind: str, /, **members: Any) -> Appended: ...


class Ticket(Protocol):
    """A single-use permission to touch one path, anchored on descriptors (operations spec §8.5). Blocking."""

    def read(self, max_bytes: int) -> tuple[bytes, Any]:
        """The first bytes, and a record with ``size``, ``sha256`` (of the whole file) and ``truncated``."""
        ...

    def write(self, data: bytes, mode: int | None = None, expect_sha256: Any = ...) -> Any:
        """``expect_sha256`` None demands absence. Returns a record with ``size``, ``sha256``, ``created``."""
        ...

    def delete(self, expect_sha256: Any = ...) -> None: ...

    def mkdir(self) -> None: ...

    def symlink(self, target: bytes) -> None:
        """Needs a ticket granted with ``link``, as deleting one does. The target is never looked at."""
        ...

    def list(self, *, recursive: bool = False, max_entries: int = ...) -> Any:
        """A record with ``entries`` (each ``path`` and ``kind``) and ``truncated``."""
        ...

    def close(self) -> None: ...


class Enforcer(Protocol):
    """The envelope enforcer (operations spec §8)."""

    def validate_operation(
        self,
        operation: Operation,
        ctx: ExecutionContext,
        plan: OperationPlan,
        stack: Sequence[Envelope],
        *,
        remaining_micros: int,
        deadline_passed: bool,
    ) -> ValidationResult: ...

    def validate_path_access(self, path: str, access: Access, stack: Sequence[Envelope]) -> ValidationResult: ...

    def authorize(
        self,
        path: str,
        access: Access,
        stack: Sequence[Envelope],
        *,
        create_parents: bool = False,
        directory: bool = False,
        link: bool = False,
    ) -> Ticket: ...


class Protector(Protocol):
    """The self-modification protector (operations spec §9)."""

    def validate(self, path: str, role: str, access: str) -> ValidationResult: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceState:
    """One workspace fingerprint with its parts, so that two of them can be compared path by path.

    ``worktree`` maps each path git reports as changed or untracked (without git: each path below the writable
    roots) to a digest of what is there. ``head`` and ``ref`` are None without git.
    """

    head: str | None
    ref: str | None
    index: str | None
    worktree: Mapping[str, str]
    flags: tuple[str, ...] = ()
    digest: str = ""

    def record(self) -> dict[str, Any]:
        """The stored form; read back with `from_record`."""
        return {
            "head": self.head,
            "ref": self.ref,
            "index": self.index,
            "worktree": dict(self.worktree),
            "flags": list(self.flags),
            "digest": self.digest,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> WorkspaceState:
        return cls(
            head=record["head"],
            ref=record["ref"],
            index=record["index"],
            worktree=dict(record["worktree"]),
            flags=tuple(record["flags"]),
            digest=record["digest"],
        )

    def changed(self, other: WorkspaceState) -> tuple[str, ...]:
        """Sorted paths whose listing differs between the two states."""
        paths = self.worktree.keys() | other.worktree.keys()
        return tuple(sorted(path for path in paths if self.worktree.get(path) != other.worktree.get(path)))


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One path git reports: ``index`` and ``worktree`` are the two porcelain letters, space for unchanged."""

    path: str
    index: str
    worktree: str


class GitPort(Protocol):
    """The git commands the tools and the undo need; every call is sanitised (operations spec §3.2).

    Raises `QuarterdeckError` ``GIT_FAILED`` or ``GIT_UNSAFE_CONFIG``.
    """

    async def tree_facts(self) -> TreeFacts: ...

    async def head(self) -> str | None: ...

    async def resolve(self, revision: str) -> str: ...

    async def parents(self, commit: str) -> tuple[str, ...]: ...

    async def message(self, commit: str) -> str: ...

    async def status(self) -> Sequence[StatusLine]: ...

    async def snapshot(self) -> GitStatus: ...

    async def tracked(self, paths: Sequence[str]) -> frozenset[str]: ...

    async def diff(self, paths: Sequence[str], *, staged: bool) -> bytes: ...

    async def diff_stat(self, paths: Sequence[str], *, staged: bool) -> Sequence[Mapping[str, Any]]: ...

    async def log(
        self, *, limit: int, paths: Sequence[str], since: str | None, until: str | None
    ) -> Sequence[Mapping[str, Any]]: ...

    async def add(self, paths: Sequence[str]) -> None: ...

    async def commit(self, message: str) -> str: ...

    async def checkout(self, paths: Sequence[str]) -> None: ...

    async def reset_paths(self, commit: str, paths: Sequence[str]) -> None: ...

    async def reset_soft(self, commit: str) -> None: ...

    async def reset_hard(self, commit: str) -> None: ...


class Workspace(Protocol):
    """Looks at the work tree without changing it. Hashing happens in worker threads."""

    async def state_hash(self, paths: Sequence[str]) -> str: ...

    async def state(self) -> WorkspaceState | None:
        """The fingerprint with its parts; None when the mission has no workspace."""
        ...

    @property
    def git(self) -> GitPort | None: ...


@dataclass(frozen=True, slots=True)
class EscalationNote:
    """Something a person must learn of (operations spec §10.8); never asks, only informs. ``reason`` is for reading."""

    reason: str
    severity: str
    context: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def about(cls, code: str, message: str, severity: str, **context: Any) -> EscalationNote:
        """A note on something that has a code."""
        return cls(f"{code}: {message}", severity, {"code": code, **context})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCall:
    """What a handler knows while planning. ``stack`` is for looking only; the executor enforces it."""

    operation_id: str
    params: Mapping[str, Any]
    ctx: ExecutionContext
    stack: Sequence[Envelope] = ()


#: Receives ``(stream, text)`` while an operation runs; a lossy tail for the screen.
OnOutput = Callable[[str, str], None]


#: Entered with what is asked while an operation waits for a person: time and worker are the waiter's no more.
Waiting = Callable[[str], AbstractAsyncContextManager[None]]


def unnoticed(prompt: str) -> AbstractAsyncContextManager[None]:
    """Waiting that keeps nobody from anything."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCall:
    """What a handler may use while running: its plan, opened tickets, a time limit and a live tail.

    ``before`` maps each affected path to the digest of its content at X9, None when it was missing (ruling R18). What
    goes into ``artifacts`` or to ``on_output`` must have passed ``redactor``; the outcome is passed by the executor.
    """

    operation_id: str
    params: Mapping[str, Any]
    ctx: ExecutionContext
    stack: Sequence[Envelope]
    plan: OperationPlan
    tickets: Mapping[str, Ticket]
    before: Mapping[str, str | None]
    timeout: float
    artifacts: ArtifactStore
    verdict: Callable[[str, Access], ValidationResult]
    remaining_micros: int
    on_output: OnOutput | None = None
    redactor: Redactor = field(default_factory=Redactor)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerOutcome:
    """What a handler did. ``code`` None means success. ``cost_micros`` None charges the whole reservation.

    ``denials`` are what it was refused on the way; each becomes a violation, whatever the outcome.
    """

    output: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None
    message: str = ""
    escalated: bool = False
    cost_micros: int | None = 0
    tokens: int | None = 0
    notes: tuple[EscalationNote, ...] = ()
    denials: tuple[Denial, ...] = ()

    def without_secrets(self, redactor: Redactor) -> HandlerOutcome:
        """The same outcome with every known secret taken out."""
        if not redactor.known:
            return self
        clean = redactor.text
        return replace(
            self,
            output=redactor.value(self.output),
            evidence=redactor.value(self.evidence),
            message=clean(self.message),
            notes=tuple(EscalationNote(clean(it.reason), it.severity, redactor.value(it.context)) for it in self.notes),
            denials=tuple(
                Denial(
                    code=it.code,
                    message=clean(it.message),
                    attempted=clean(it.attempted),
                    needed=clean(it.needed),
                )
                for it in self.denials
            ),
        )


@dataclass(frozen=True, slots=True)
class Traits:
    """What the executor may rely on while a plan runs.

    ``keeps_time``: it ends by itself at ``RunCall.timeout`` and reports OP_TIMEOUT with what it has so far.
    ``confined``: it cannot change anything outside its plan, so a surplus change is somebody else's (ruling R49).
    """

    keeps_time: bool = False
    confined: bool = False


class Handler(Protocol):
    """One operation type, or one tool action."""

    def traits(self, plan: OperationPlan) -> Traits: ...

    async def plan(self, call: PlanCall) -> OperationPlan:
        """Read-only. Raises `QuarterdeckError` with the refusal's code."""
        ...

    async def run(self, call: RunCall) -> HandlerOutcome:
        """Do it. Raises `QuarterdeckError` for a failure that produced nothing."""
        ...

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        """After a crash: the outcome if the world already is as planned, else None (ruling R20)."""
        ...


class HandlerTable(Protocol):
    """Handlers by operation type; a type without a real implementation is absent."""

    def get(self, operation_type: str) -> Handler | None: ...


def store(artifacts: ArtifactStore, value: Mapping[str, Any]) -> str:
    """Keep the canonical bytes of ``value`` and return their digest."""
    data = canonical_bytes(dict(value), limit=MAX_BODY_BYTES)
    kept = artifacts.put(data)
    return kept or digest_bytes(data)
