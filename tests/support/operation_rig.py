"""One run's worth of executor on a real folder or repository, with real checks and an in-memory journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.kernel.canonical import digest_bytes, parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import NO_COMMIT, SequenceIds
from runtime.kernel.model import (
    CompensationType,
    Envelope,
    ExecutionContext,
    Operation,
    OperationPlan,
    OperationResult,
)
from runtime.kernel.ports import ProcessRunner
from runtime.kernel.redaction import Redactor
from runtime.orchestration.budget import Ledger, Limits
from runtime.orchestration.gate import WorkGate
from runtime.orchestration.git import Git
from runtime.orchestration.handlers.registry import Registry, build
from runtime.orchestration.handlers.settings import HandlerSettings, ModelSettings
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.operations import OperationExecutor
from runtime.orchestration.tree_probe import TreeProbe
from tests.support.journals import JOURNAL_ID, RECIPE, new_journal
from tests.support.plain_runner import PlainRunner

#: Everything a test may want; tests about limits bring their own.
OPEN = Envelope(
    allowed_paths=["**"],
    denied_paths=["docs/secret/**"],
    allowed_tools=["filesystem", "git", "http", "mail", "output", "process", "pytest"],
    allowed_roles=["runner"],
    max_budget_usd=1,
    timeout_seconds=30,
)


class MemoryArtifacts:
    """An `ArtifactStore` in a dictionary."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        name = digest_bytes(data)
        self.bodies[name] = data
        return name

    async def get(self, digest: str) -> bytes | None:
        return self.bodies.get(digest)

    async def flush(self) -> None:
        """What is in the dictionary is kept."""


@dataclass
class FakeHandler:
    """A handler made of a plan and a function."""

    chosen: OperationPlan
    work: Callable[[RunCall], Awaitable[HandlerOutcome]]
    confined: bool = False

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=self.confined)

    async def plan(self, call: PlanCall) -> OperationPlan:
        return self.chosen

    async def run(self, call: RunCall) -> HandlerOutcome:
        return await self.work(call)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None


@dataclass
class Rig:
    """``executor`` and everything it was built from. ``halted`` is raised by the guard when set."""

    root: Path
    runner: ProcessRunner = field(default_factory=PlainRunner)
    git: Git | None = None
    envelope: Envelope = OPEN
    limits: Limits = field(default_factory=lambda: Limits(micros=1_000_000))
    models: ModelSettings = field(default_factory=ModelSettings)
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Handler] = field(default_factory=dict)
    python: str | None = None
    hosts: tuple[str, ...] = ()
    strict: bool = False
    redactor: Redactor = field(default_factory=Redactor)
    remaining_seconds: float = float("inf")

    def __post_init__(self) -> None:
        self.halted: BaseException | None = None
        self.guarded = 0
        self.journal, self.store, self.clock = new_journal()
        self.artifacts = MemoryArtifacts()
        self.budget = Ledger(self.limits)
        self.protector = SelfModProtector(self.root)
        self.enforcer = EnvelopeEnforcer(self.root)
        self.probe = TreeProbe(self.root, self.git, writable=["."])
        self.settings = HandlerSettings(
            root=self.root,
            clock=self.clock,
            runner=self.runner,
            scratch_root=self.root.parent / "scratch",
            output=self.root.parent / "run" / "out",
            git=self.git,
            python=self.python,
            commands=self.commands,
            hosts=self.hosts,
            models=self.models,
            is_protected=self.protector.is_protected,
        )
        built = build(self.settings)
        types = ("tool_invoke", "run_tests", "gate_check", "packet_route", "llm_call", "escalate")
        handlers = {name: handler for name in types if (handler := built.get(name)) is not None}
        self.handlers = Registry({**handlers, **self.extra})
        self.ctx = ExecutionContext(
            run_id=RECIPE,
            run_id_audit=UUID(JOURNAL_ID),
            repo_root=self.root,
            baseline_commit=NO_COMMIT,
            mission_id="m1",
            mission_type="m1",
            step_id="s1",
            envelope=self.envelope,
            journal=self.journal,
            acting_role="runner",
        )
        self.executor = self.build()

    def build(self, **changes: Any) -> OperationExecutor:
        """An executor on this rig's parts, some of them replaced."""
        members: dict[str, Any] = {
            "journal": self.journal,
            "handlers": self.handlers,
            "enforcer": self.enforcer,
            "protector": self.protector,
            "workspace": self.probe,
            "artifacts": self.artifacts,
            "clock": self.clock,
            "ids": SequenceIds(),
            "budget": self.budget,
            "gate": WorkGate(),
            "guard": self._guard,
            "context": self.ctx,
            "base_stack": (self.envelope,),
            "remaining_seconds": lambda: self.remaining_seconds,
            "strict": self.strict,
            "redactor": self.redactor,
        }
        self.executor = OperationExecutor(**{**members, **changes})
        return self.executor

    def after_crash(self) -> OperationExecutor:
        """A fresh executor and ledger that know only what the journal holds."""
        entries = self.entries()
        self.journal = MissionJournal.resume(self.store, self.store.entries, ManualClock())
        self.ctx = self.with_context(journal=self.journal)
        self.budget = Ledger(self.limits)
        self.budget.replay(entries)
        return self.build()

    def with_context(self, **changes: Any) -> ExecutionContext:
        members = {name: getattr(self.ctx, name) for name in self.ctx.__dataclass_fields__}
        return ExecutionContext(**{**members, **changes})

    async def do(
        self,
        type: str,
        params: Mapping[str, Any],
        *,
        id: str = "s1.0",
        undo: tuple[CompensationType, str] | None = None,
        stack: Sequence[Envelope] | None = None,
        fill_default: bool = True,
        on_output: Callable[[str, str], None] | None = None,
    ) -> OperationResult:
        operation = Operation(id, type, params, *(undo or ()))
        return await self.executor.execute(
            operation, self.ctx, stack or (self.envelope,), fill_default=fill_default, on_output=on_output
        )

    async def tool(self, name: str, /, id: str = "s1.0", **params: Any) -> OperationResult:
        return await self.do("tool_invoke", {"tool": name, **params}, id=id)

    def entries(self) -> list[dict[str, Any]]:
        return [parse_strict(entry.body) for entry in self.store.entries]

    def kinds(self) -> list[str]:
        """Kinds of entries after the opening one."""
        return [entry["kind"] for entry in self.entries()][1:]

    def receipts(self) -> list[dict[str, Any]]:
        return [entry["receipt"] for entry in self.entries() if entry["kind"] == "receipt"]

    def _guard(self) -> None:
        self.guarded += 1
        if self.halted is not None:
            raise self.halted


async def never(call: RunCall) -> HandlerOutcome:
    """Work that ends only by cancellation or a limit."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
