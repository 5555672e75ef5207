"""Everything one run starts, or goes on, from: frozen facts gathered before its turn opens (ruling R22)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.events.emitter import Emitter
from runtime.events.facts import RunSummary
from runtime.governance.secrets import Secrets
from runtime.host.policy import Policy
from runtime.host.run_control import RunControl
from runtime.host.undoing import Rollback
from runtime.kernel.model import Envelope, ExecutionContext
from runtime.missions.loader import Mission
from runtime.orchestration.git import Git
from runtime.orchestration.journal_history import FinishedStep, History
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.operation_ports import WorkspaceState
from runtime.orchestration.reuse import Carried
from runtime.orchestration.workspace import Workspace
from runtime.turns.plan import ResolvedTurnPlan
from runtime.turns.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One opened turn, ready to run. ``history`` answers attempts, ``carried`` operations; ``past`` (all its entries) is
    set when a crash is continued, ``reused`` (what it took over) when a fork begins, ``rollback`` when it undoes a run.
    ``governance_hash`` names the governance baseline the run started under, or is ``none``."""

    mission: Mission
    inputs: Mapping[str, Any]
    summary: RunSummary
    unattended: bool
    workspace: Workspace
    git: Git | None
    baseline: WorkspaceState | None
    control: RunControl
    policy: Policy
    governance_hash: str
    context: ExecutionContext
    stack: tuple[Envelope, ...]
    plan: ResolvedTurnPlan
    journal: MissionJournal
    session: Session
    emitter: Emitter
    secrets: Secrets
    history: History | None = None
    past: tuple[Mapping[str, Any], ...] = ()
    reused: tuple[FinishedStep, ...] = ()
    carried: Carried = field(default_factory=Carried)
    spent_seconds: float = 0.0
    rollback: Rollback | None = None

    @property
    def run_id(self) -> str:
        return self.summary.run_id
