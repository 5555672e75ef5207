"""The ground a run works on: its files, who else works there, and whether it may start (rulings R22, R36, R47).

Looking and locking only; nothing here writes to the operator's files. What was built for a launch that is refused in
the end is taken away again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.host.assembly import Shared
from runtime.host.looking import tree_probe
from runtime.host.policy import Policies, Policy
from runtime.host.run_control import RunControl, RunLock
from runtime.kernel.errors import Refused
from runtime.missions import references
from runtime.missions.loader import Mission
from runtime.missions.parameters import LEAVING, READING, tool_actions
from runtime.orchestration.git import Git, find_git, read_operator_settings
from runtime.orchestration.git_config import OUR_SETTINGS, GitSettings
from runtime.orchestration.governance_baseline import check_baseline
from runtime.orchestration.repository import check_repository
from runtime.orchestration.run_controller import (
    HaltLatch,
    KillSwitch,
    LockMode,
    LockOwner,
    PreflightFacts,
    PreflightRefused,
    PreflightRequest,
    preflight,
)
from runtime.orchestration.workspace import Workspace, WorkspaceKind, WorkspaceRequest, prepare, source_root
from runtime.storage.store import Store

#: A launch that waits for a busy work tree looks again this often, in seconds.
_BUSY_POLL: Final = 0.5
#: Git settings are remembered for this many mission folders.
_MAX_SETTINGS: Final = 64
_OWNER_ONLY: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A work tree a run may start on: ``control`` holds it, ``policy`` is what the run is held to."""

    facts: PreflightFacts
    control: RunControl
    policy: Policy


class Ground:
    """Prepares and checks work trees for one host."""

    def __init__(self, store: Store, shared: Shared, policies: Policies) -> None:
        self._store = store
        self._shared = shared
        self._policies = policies
        self._git_settings: dict[str, GitSettings] = {}

    async def workspace(
        self, mission: Mission, inputs: Mapping[str, Any], run_id: str, *, resuming: bool = False
    ) -> Workspace:
        """The run's work tree, built when it is private. Raises `Refused`."""
        runner = self._shared.sandbox.under(mission.spec.sandbox.confinement)
        settings = await self._operator_settings(mission)
        request = workspace_request(mission, inputs)
        if resuming and request.private and not self._place(run_id).joinpath("tree").is_dir():
            raise Refused(
                "RECOVERY_MANUAL",
                "the run cannot be continued: its private work tree is gone",
                where=str(self._place(run_id)),
                hint="run the mission again",
            )
        return await prepare(
            request,
            mission_dir=mission.directory,
            work_dir=self._store.state.work,
            run_id=run_id,
            git_at=lambda root: Git(root, runner, settings=settings),
            our_git_at=lambda root: Git(root, runner, settings=OUR_SETTINGS),
            clock=self._shared.clock,
        )

    async def _operator_settings(self, mission: Mission) -> GitSettings:
        """The operator's author and line endings, read once per mission folder; ours when git has none to tell."""
        key = str(mission.directory)
        if find_git() is None:
            return OUR_SETTINGS
        if key not in self._git_settings:
            if len(self._git_settings) >= _MAX_SETTINGS:
                self._git_settings.pop(next(iter(self._git_settings)))
            try:
                self._git_settings[key] = await read_operator_settings(
                    self._shared.sandbox.under("best_effort"), mission.directory, self._shared.environ
                )
            except Refused:
                # An unreadable personal configuration must not stop work that may not even need git.
                self._git_settings[key] = OUR_SETTINGS
        return self._git_settings[key]

    async def preflight(
        self,
        mission: Mission,
        inputs: Mapping[str, Any],
        workspace: Workspace,
        owner: LockOwner,
        *,
        wait: bool = False,
        resuming: bool = False,
    ) -> Cleared:
        """Steps 1-9 of operations spec §10.1; with ``wait`` again and again while the tree is busy.

        A resumed run's tree may be dirty with its own work: recovery compares states itself.
        """
        state, clock = self._store.state, self._shared.clock
        switch = KillSwitch(workspace.root, state.root)
        latch = HaltLatch(state.latches, workspace.root, clock=clock)
        checks = _Checks(self._policies, mission, workspace, _origin(mission, inputs, workspace))
        mode = _lock_mode(mission, workspace)
        lock = RunLock(state.locks, workspace.root, clock=clock, ids=self._shared.ids) if mode else None
        request = PreflightRequest(
            owner=owner,
            kill_switch=switch,
            lock_mode=mode,
            lock=lock,
            latch=latch,
            recover=lambda stale: self._settle_stale(stale, owner.run_id_audit),
            load_policy=checks.load,
            baseline=checks.baseline,
            repository=_repository_check(mission, workspace, clean=not resuming),
            fingerprint=_fingerprint(mission, workspace, state.root),
        )
        while True:
            try:
                facts = await preflight(request)
                break
            except PreflightRefused as refusal:
                if not (wait and refusal.defer):
                    raise
                await clock.sleep(_BUSY_POLL)
        control = RunControl(kill_switch=switch, halt_latch=latch, lock=lock if facts.lock else None)
        return Cleared(facts=facts, control=control, policy=checks.policy)

    async def _settle_stale(self, stale: Mapping[str, Any], run_id: str) -> None:
        """A dead holder's record: fine when that run is this one or has ended, else it must be resumed first."""
        previous = str(stale.get("run_id_audit", ""))
        if previous == run_id:
            return
        summary = await self._store.runs.get(previous)
        if summary is None or summary.status.terminal:
            return
        raise Refused(
            "RECOVERY_MANUAL",
            f"run {previous} crashed in this work tree and has not been settled",
            hint=f"`quarterdeck resume {previous[:8]}` finishes it, `quarterdeck cancel {previous[:8]}` undoes it",
        )

    async def discard(self, run_id: str) -> None:
        """Take away what was built for a launch that never became a run."""
        await asyncio.to_thread(_remove, self._place(run_id))

    def _place(self, run_id: str) -> Path:
        return self._store.state.work / run_id


def workspace_request(mission: Mission, inputs: Mapping[str, Any]) -> WorkspaceRequest:
    """What a mission says about its files, references resolved."""
    spec = mission.spec.workspace
    root = spec.root if spec is not None else None
    return WorkspaceRequest(
        kind=WorkspaceKind(spec.kind) if spec is not None and spec.kind is not None else None,
        root=None if root is None else str(references.resolve(root, inputs, {})),
        source=spec.from_ if spec is not None else None,
        init_git=spec.init_git if spec is not None else False,
        isolated=spec.isolated if spec is not None else False,
        allows_paths=bool(mission.envelope.allowed_paths),
    )


def leave_empty(workspace: Workspace) -> None:
    """Folders of the run's own that hold nothing are needed no longer; one that holds something stays."""
    own = (workspace.root,) if workspace.kind is WorkspaceKind.NONE else ()
    for folder in (*own, workspace.output, workspace.output.parent):
        # Not empty, or gone already: there is nothing to tidy up, and no reason to disturb the end of a run.
        with suppress(OSError):
            folder.rmdir()


def output_folder(mission: Mission, workspace: Workspace) -> str | None:
    """Where the run will leave files of its own; None when no block of it does."""
    return str(workspace.output) if _actions(mission) & LEAVING else None


def _remove(place: Path) -> None:
    for folder, _, _ in os.walk(place):
        # A copied folder may lack the permission to empty it.
        Path(folder).chmod(_OWNER_ONLY)
    shutil.rmtree(place, ignore_errors=True)


def _lock_mode(mission: Mission, workspace: Workspace) -> LockMode | None:
    """None for files of the run's own, shared for missions that only look or execute (ruling R36)."""
    if workspace.kind is WorkspaceKind.NONE or workspace.private:
        return None
    return LockMode.EXCLUSIVE if _actions(mission) - READING else LockMode.SHARED


def _only_reads(mission: Mission) -> bool:
    """Does no block write to the work tree or run programs in it?"""
    return not _actions(mission) - READING and all(block.type != "run_tests" for block in mission.every_block())


def _actions(mission: Mission) -> set[str]:
    """The tool actions the mission's blocks name."""
    return {action for block in mission.every_block() for action in tool_actions(block.type, block.params)}


def _repository_check(mission: Mission, workspace: Workspace, *, clean: bool) -> Any:
    git = workspace.git
    if git is None:
        return None
    # Relaxation 1: only plans that move the index or a ref need a clean tree.
    required = clean and bool(_actions(mission) & {"git.add", "git.commit"})
    return lambda: check_repository(git, require_clean=required)


def _fingerprint(mission: Mission, workspace: Workspace, state: Path) -> Any:
    """None where nothing will be compared with it: without files, and for missions that only read (ruling R21)."""
    if workspace.kind is WorkspaceKind.NONE or _only_reads(mission):
        return None
    return tree_probe(mission, workspace, state).fingerprint


def _origin(mission: Mission, inputs: Mapping[str, Any], workspace: Workspace) -> Path | None:
    """The operator's tree whose protection must not shrink; None where there is none, or none any more."""
    if workspace.kind is WorkspaceKind.NONE:
        return None
    if not workspace.private:
        return workspace.root
    try:
        return source_root(workspace_request(mission, inputs), mission.directory)
    except Refused:
        return None  # a resumed run goes on in its copy, whatever became of what it was made from


class _Checks:
    """Steps 6 and 7: what is loaded in one is needed in the other, and by the run."""

    def __init__(self, policies: Policies, mission: Mission, workspace: Workspace, origin: Path | None) -> None:
        self._policies = policies
        self._names = mission.spec.envelope.names
        self._root = workspace.root
        self._origin = origin
        self.policy: Policy

    async def load(self) -> str:
        self.policy = await asyncio.to_thread(self._policies.load, self._root, self._origin, names=self._names)
        return self.policy.protector.protected_hash

    async def baseline(self) -> str:
        return await asyncio.to_thread(check_baseline, self._root, self.policy.protector.is_governed)
