"""A small run on a folder: the bundled executor with real checks, a journal in memory and one handler for files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.kernel.canonical import digest, digest_bytes, parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import KILL_SWITCH_FILE, NO_COMMIT, SequenceIds
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    ExecutionContext,
    Operation,
    OperationPlan,
    OperationReceipt,
    OperationResult,
    PlannedPath,
)
from runtime.orchestration.budget import Ledger, Limits
from runtime.orchestration.gate import WorkGate
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from runtime.orchestration.operation_ports import (
    Handler,
    HandlerOutcome,
    KillSwitchActive,
    PlanCall,
    RunCall,
    Traits,
    WorkspaceState,
)
from runtime.orchestration.operations import OperationExecutor
from runtime.orchestration.state_hash import compute_state_hash, workspace_fingerprint

JOURNAL_ID = "00000000-0000-4000-8000-000000000001"
RECIPE = "sha256:" + "0" * 64
EMPTY_STATE = digest({"schema": "state/1", "entries": []})
NOTHING = digest({})

DOCS = Envelope(allowed_paths=["docs/**"], allowed_tools=["filesystem"], allowed_roles=["runner", "verifier"])


def new_journal(journal_id: str = JOURNAL_ID) -> tuple[MissionJournal, MemoryJournalStore, ManualClock]:
    """A journal in memory with the entry 0 of the worked example."""
    store, clock = MemoryJournalStore(), ManualClock()
    journal = MissionJournal(store, journal_id=journal_id, clock=clock)
    opened(journal)
    return journal, store, clock


def opened(journal: MissionJournal) -> None:
    """Append the entry 0 of the worked example."""
    journal.append(
        "journal_opened",
        mission_id="m1",
        run_id=RECIPE,
        mission_type="echo",
        baseline_commit=NO_COMMIT,
        envelope_hash=NOTHING,
        prev_journal_head=None,
    )


def receipt(key: str, **changes: Any) -> OperationReceipt:
    """A receipt of a successful read, changed at will."""
    plain = OperationReceipt(
        operation_id="s1.0",
        timestamp="2026-01-01T00:00:00.000000Z",
        pre_state_hash=EMPTY_STATE,
        post_state_hash=EMPTY_STATE,
        compensation_type="none",
        compensation_command="",
        idempotency_key=key,
        run_id=RECIPE,
        step_id="s1",
        operation_type="tool_invoke",
        attempt=1,
        status="success",
        effect="read",
        params_hash=NOTHING,
        output_hash=NOTHING,
        evidence_hash=NOTHING,
    )
    return replace(plain, **changes)


def context(root: Path, **members: Any) -> ExecutionContext:
    """The context of step ``s1``, changed at will."""
    plain = ExecutionContext(
        run_id=RECIPE,
        run_id_audit=UUID(JOURNAL_ID),
        repo_root=root,
        baseline_commit=NO_COMMIT,
        mission_id="m1",
        mission_type="echo",
        step_id="s1",
        acting_role="runner",
    )
    return replace(plain, **members)


class Artifacts:
    """Bodies by digest, in a dictionary."""

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


class Folder:
    """The executor's eyes on a folder without git."""

    git = None

    def __init__(self, root: Path) -> None:
        self.root = root

    async def state_hash(self, paths: Sequence[str]) -> str:
        return compute_state_hash(paths, self.root)

    async def state(self) -> WorkspaceState:
        found = await workspace_fingerprint(self.root, None, writable=["."])
        listing = {path: digest(dict(entry)) for path, entry in found.worktree.items()}
        return WorkspaceState(head=None, ref=None, index=None, worktree=listing, digest=found.digest)


class Files:
    """``filesystem.read_file`` and ``filesystem.write_file``, through tickets only.

    ``during`` is called in the middle of the work, with the call: to break something.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.during: Callable[[RunCall], None] = lambda call: None

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits()

    async def plan(self, call: PlanCall) -> OperationPlan:
        tool, path = call.params["tool"], call.params["path"]
        if tool == "filesystem.read_file":
            return OperationPlan(Effect.READ, (PlannedPath(path, Access.READ),), tool=tool)
        exists = (self.root / path).exists()
        undo = CompensationType.FILESYSTEM_RESTORE if exists else CompensationType.FILESYSTEM_DELETE
        planned = (PlannedPath(path, Access.MODIFY if exists else Access.CREATE),)
        return OperationPlan(Effect.WRITE, planned, tool=tool, undo=undo, undo_command=f"{undo.value} {path}")

    async def run(self, call: RunCall) -> HandlerOutcome:
        path = call.params["path"]
        ticket = call.tickets[path]
        if call.params["tool"] == "filesystem.read_file":
            return HandlerOutcome(output={"content": ticket.read(1024)[0].decode()})
        written = ticket.write(call.params["content"].encode(), None, call.before[path])
        self.during(call)
        return HandlerOutcome(output={"sha256": written.sha256})

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None


class Table:
    """Handlers by operation type."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = dict(handlers)

    def get(self, operation_type: str) -> Handler | None:
        return self.handlers.get(operation_type)


class Rig:
    """``do`` and ``tool`` execute one operation from beginning to end, on a loop of its own."""

    def __init__(self, root: Path, envelope: Envelope = DOCS, role: str = "runner") -> None:
        self.root = root
        self.envelope = envelope
        self.journal, self.store, self.clock = new_journal()
        self.artifacts = Artifacts()
        self.files = Files(root)
        self.enforcer: Any = EnvelopeEnforcer(root)
        self.protector: Any = SelfModProtector(root)
        self.context = context(root, envelope=envelope, journal=self.journal, acting_role=role)

    def _guard(self) -> None:
        if (self.root / KILL_SWITCH_FILE).is_symlink() or (self.root / KILL_SWITCH_FILE).exists():
            raise KillSwitchActive("KILL_SWITCH")

    def executor(self) -> OperationExecutor:
        return OperationExecutor(
            journal=self.journal,
            handlers=Table({"tool_invoke": self.files}),
            enforcer=self.enforcer,
            protector=self.protector,
            workspace=Folder(self.root),
            artifacts=self.artifacts,
            clock=self.clock,
            ids=SequenceIds(),
            budget=Ledger(Limits()),
            gate=WorkGate(),
            guard=self._guard,
            context=self.context,
            base_stack=(self.envelope,),
        )

    def do(
        self, operation: Operation, *, stack: Sequence[Envelope] | None = None, fill_default: bool = True
    ) -> OperationResult:
        work = self.executor().execute(operation, self.context, stack or (self.envelope,), fill_default=fill_default)
        return asyncio.run(work)

    def tool(self, name: str, /, id: str = "s1.0", **params: Any) -> OperationResult:
        return self.do(Operation(id, "tool_invoke", {"tool": f"filesystem.{name}", **params}))

    def entries(self) -> list[Any]:
        return [parse_strict(entry.body) for entry in self.store.entries]

    def kinds(self) -> list[str]:
        """Kinds of entries after the opening one."""
        return [entry["kind"] for entry in self.entries()][1:]
