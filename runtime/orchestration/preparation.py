"""X8–X10 of operations spec §4.1: a last look at the work tree, what an undo will need, and the announced intention."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.errors import JournalError, QuarterdeckError, Refused
from runtime.kernel.model import CompensationType, Effect
from runtime.kernel.ports import ArtifactStore, Durable
from runtime.kernel.redaction import Redactor
from runtime.orchestration.attempt import Attempt, Refusal, told
from runtime.orchestration.budget import Ledger
from runtime.orchestration.compensation import ASKS_STATUS, ASKS_TRACKED, InvalidCompensation, suitable, writes
from runtime.orchestration.effects import touching, undeclared
from runtime.orchestration.operation_ports import Workspace, WorkspaceState
from runtime.orchestration.operation_records import Recorder
from runtime.orchestration.snapshots import take

#: Effects for which the work tree is looked at before and after (ruling R21).
LOOKED_AT: Final = frozenset({Effect.WRITE, Effect.EXECUTE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Works on an admitted attempt while the work-tree gate is held; refusals are raised as `Refusal`."""

    records: Recorder
    workspace: Workspace
    artifacts: ArtifactStore
    budget: Ledger
    strict: bool
    redactor: Redactor

    async def prepare(self, attempt: Attempt, last: WorkspaceState | None) -> None:
        """X8 and X9; ``last`` is the newest fingerprint this run recorded."""
        plan = attempt.plan
        if plan.effect not in LOOKED_AT:
            return
        try:
            attempt.before = attempt.after = await self.workspace.state()
            self._check_foreign(attempt, last)
            attempt.pre_state = attempt.post_state = await self.workspace.state_hash(plan.affected_paths)
            if plan.effect is Effect.WRITE:
                await self._snapshot(attempt)
        except (JournalError, InvalidCompensation):
            raise
        except QuarterdeckError as error:
            raise Refusal(error.code, told(error), {"check": "state"}) from None

    def _check_foreign(self, attempt: Attempt, last: WorkspaceState | None) -> None:
        """X8: nobody else may have changed what this run relies on (rulings §9.1)."""
        now = attempt.before
        if last is None or now is None:
            return
        strict = self.strict or attempt.plan.uses_git
        surplus = undeclared(last, now, (), refs=strict, index=strict)
        if not strict:
            surplus = touching(surplus, self.records.table.touched)
        if surplus:
            evidence = {"check": "workspace", "paths": list(surplus)}
            raise Refusal("EXTERNAL_MODIFICATION", f"{surplus[0]} changed outside this run", evidence, halt=True)

    async def _snapshot(self, attempt: Attempt) -> None:
        """X9: keep what the undo will need, and make sure it can work."""
        paths, compensation = writes(attempt.plan), attempt.compensation
        restores = compensation.type is CompensationType.FILESYSTEM_RESTORE
        keep = self._keep if restores else None
        attempt.snapshot = await asyncio.to_thread(take, attempt.ctx.repo_root, paths, keep)
        git, kind = self.workspace.git, compensation.type
        suitable(
            compensation,
            attempt.plan,
            before=attempt.before,
            snapshot=attempt.snapshot,
            status=await git.status() if git is not None and kind in ASKS_STATUS else (),
            tracked=await git.tracked(paths) if git is not None and kind in ASKS_TRACKED else frozenset(),
        )

    def _keep(self, data: bytes) -> None:
        """An undo puts back exact bytes, so they are stored exactly, or not at all."""
        mark = self.redactor.found(data)
        if mark is not None:
            raise Refused(
                "SECRET_STORED",
                f"a file that would be kept for the undo holds the value of {mark}",
                hint="keep secrets out of what the operation may change, or name its paths more narrowly",
            )
        self.artifacts.put(data)

    def announce(self, attempt: Attempt) -> Durable:
        """X10: the intention. ``snapshot`` and ``workspace`` are for a later undo."""
        plan, operation, before = attempt.plan, attempt.operation, attempt.before
        extra: dict[str, Any] = {}
        if plan.effect is Effect.WRITE:
            extra["snapshot"] = self.records.keep(attempt.snapshot.record())
        if before is not None:
            extra["workspace"] = self.records.keep(before.record())
        if attempt.reservation is not None:
            self.records.append(
                "budget",
                **self.budget.entry("reserved", operation.operation_id, plan.reserve_micros, plan.reserve_tokens),
            )
        durable = self.records.append(
            "operation_started",
            step_id=attempt.ctx.step_id,
            operation_id=operation.operation_id,
            operation_type=operation.type,
            attempt=attempt.number,
            idempotency_key=attempt.key,
            pre_state_hash=attempt.pre_state,
            pre_workspace=None if before is None else before.digest,
            pre_head=None if before is None else before.head,
            effect=plan.effect.value,
            affected_paths=list(plan.affected_paths),
            compensation_type=attempt.compensation.declared.value,
            compensation_command=attempt.compensation.command,
            plan_hash=plan.plan_hash,
            params_hash=attempt.params_hash,
            **extra,
        )
        attempt.started = True
        return durable
