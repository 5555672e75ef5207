"""What to do about an operation that a crash interrupted (operations spec §10.6, ruling R20).

Every interrupted attempt first gets the receipt it is missing, so that one receipt per attempt stays true; then the
world decides: unchanged means run again, as planned means it succeeded, in between means undo and run again, and
anything unexplained is left to a person. The caller has checked the journal and holds the work-tree gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.kernel.canonical import parse_strict
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    ExecutionContext,
    OperationPlan,
    OperationReceipt,
    OperationType,
    PlannedPath,
)
from runtime.kernel.ports import ArtifactStore
from runtime.orchestration.budget import Ledger
from runtime.orchestration.compensation import validate_compensation
from runtime.orchestration.operation_ports import MAX_BODY_BYTES, HandlerTable, Workspace, WorkspaceState
from runtime.orchestration.operation_records import EMPTY_STATE, ReceiptFacts, Recorder, Verdict
from runtime.orchestration.operation_table import Known, KnownOperation
from runtime.orchestration.snapshots import Snapshot, remove_leftovers, take
from runtime.orchestration.undo import CompensationOutcome, Undo


@dataclass(frozen=True, slots=True)
class RecoveryAction:
    """The decision about one operation.

    ``action``: ``run_again`` (its key may run), ``recovered`` (it had succeeded), ``ask`` (a person says done, redo
    or compensate), ``manual`` (the run must not go on), ``undone`` (a failed attempt's undo was completed).
    """

    action: str
    code: str | None = None
    receipt: OperationReceipt | None = None
    undo: CompensationOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Decides about unresolved operations of one run."""

    records: Recorder
    handlers: HandlerTable
    workspace: Workspace
    artifacts: ArtifactStore
    budget: Ledger
    undo: Undo
    context: ExecutionContext

    async def recover(self, known: KnownOperation) -> RecoveryAction:
        """One operation of `OperationTable.unresolved`. Raises `JournalError` only."""
        if known.receipt is not None:
            return await self._undo(known.receipt, "undone")
        if known.state is not Known.OPEN:
            return RecoveryAction("manual", "RECOVERY_MANUAL")
        effect = Effect(known.started["effect"])
        if effect in (Effect.NONE, Effect.READ):
            return await self._again(known)
        if effect is Effect.EXTERNAL:
            return await self._external(known)
        return await (self._execute(known) if effect is Effect.EXECUTE else self._write(known))

    async def _external(self, known: KnownOperation) -> RecoveryAction:
        if known.started["operation_type"] != OperationType.LLM_CALL.value:
            return RecoveryAction("ask", "RECOVERY_MANUAL")
        lost = self.budget.lose(known.operation_id)
        if lost is not None:
            entry = self.budget.entry("lost", lost.operation_id, lost.micros, lost.tokens)
            self.records.append("budget", **entry)
        return await self._again(known, cost=lost.micros if lost is not None else 0)

    async def _execute(self, known: KnownOperation) -> RecoveryAction:
        now = await self.workspace.state()
        if (None if now is None else now.digest) != known.started["pre_workspace"]:
            return RecoveryAction("manual", "RECOVERY_MANUAL")
        return await self._again(known)

    async def _write(self, known: KnownOperation) -> RecoveryAction:
        started = known.started
        for path in started["affected_paths"]:
            await asyncio.to_thread(remove_leftovers, self.context.repo_root, path)
        now = await self.workspace.state()
        state = await self.workspace.state_hash(started["affected_paths"])
        if state == started["pre_state_hash"] and _same_git(started, now):
            return await self._again(known)
        plan = plan_from_record(await self._fetch(started["plan_hash"]), started)
        handler = self.handlers.get(started["operation_type"])
        outcome = None if handler is None else await handler.recovered(plan)
        if outcome is not None:
            verdict = Verdict(
                status="success",
                code="RECOVERED",
                output=dict(outcome.output),
                evidence=_evidence("RECOVERED", self._keep_state(now)),
            )
            receipt = await self._receipt(known, verdict, state, now)
            return RecoveryAction("recovered", None, receipt)
        if not await self._explained(plan, started):
            return RecoveryAction("manual", "COMP_DRIFT")
        receipt = await self._interrupted(known, state, now)
        return await self._undo(receipt, "run_again")

    async def _explained(self, plan: OperationPlan, started: Mapping[str, Any]) -> bool:
        """Is every planned path as before or as planned? A plan that names no result explains any content."""
        planned: Mapping[str, Any] | None = plan.data.get("post")
        if planned is None:
            return not plan.uses_git
        before = Snapshot.from_record(await self._fetch(started["snapshot"]))
        now = await asyncio.to_thread(take, self.context.repo_root, list(planned))
        return all(
            now.entries[path] == before.entries.get(path) or now.entries[path].digest == result
            for path, result in planned.items()
        )

    async def _undo(self, receipt: OperationReceipt, action: str) -> RecoveryAction:
        undo = await self.undo.undo(receipt)
        if not undo.verified:
            return RecoveryAction("manual", undo.code, receipt, undo)
        return RecoveryAction(action, None, receipt, undo)

    async def _again(self, known: KnownOperation, cost: int = 0) -> RecoveryAction:
        started = known.started
        verdict = Verdict(
            status="failed", code="OP_INTERRUPTED", evidence=_evidence("OP_INTERRUPTED", None), cost_micros=cost
        )
        facts = self._facts(known, started["pre_state_hash"], await self._recorded_state(started))
        receipt, durable = self.records.receipt(facts, verdict)
        await self.records.settled(durable)
        return RecoveryAction("run_again", None, receipt)

    async def _interrupted(self, known: KnownOperation, state: str, now: WorkspaceState | None) -> OperationReceipt:
        verdict = Verdict(
            status="failed", code="OP_INTERRUPTED", evidence=_evidence("OP_INTERRUPTED", self._keep_state(now))
        )
        return await self._receipt(known, verdict, state, now)

    async def _receipt(
        self, known: KnownOperation, verdict: Verdict, state: str, now: WorkspaceState | None
    ) -> OperationReceipt:
        before = await self._recorded_state(known.started)
        receipt, durable = self.records.receipt(self._facts(known, state, before, now), verdict)
        await self.records.settled(durable)
        return receipt

    def _facts(
        self,
        known: KnownOperation,
        post_state: str,
        before: WorkspaceState | None,
        after: WorkspaceState | None = None,
    ) -> ReceiptFacts:
        started = known.started
        return ReceiptFacts(
            operation_id=known.operation_id,
            operation_type=started["operation_type"],
            step_id=started["step_id"],
            run_id=self.context.run_id,
            key=known.key,
            attempt=started["attempt"],
            params_hash=started.get("params_hash", EMPTY_STATE),
            effect=started["effect"],
            affected_paths=tuple(started["affected_paths"]),
            compensation=validate_compensation(started["compensation_type"], started["compensation_command"]),
            pre_state=started["pre_state_hash"],
            post_state=post_state,
            before=before,
            after=after if after is not None else before,
        )

    async def _recorded_state(self, started: Mapping[str, Any]) -> WorkspaceState | None:
        name = started.get("workspace")
        return None if name is None else WorkspaceState.from_record(await self._fetch(name))

    def _keep_state(self, state: WorkspaceState | None) -> str | None:
        return None if state is None else self.records.keep(state.record())

    async def _fetch(self, name: str) -> dict[str, Any]:
        body = await self.artifacts.get(name)
        record: dict[str, Any] = {} if body is None else parse_strict(body, limit=MAX_BODY_BYTES)
        return record


def plan_from_record(record: Mapping[str, Any], started: Mapping[str, Any]) -> OperationPlan:
    """Rebuild a stored plan; the undo comes from the entry that announced it."""
    return OperationPlan(
        effect=Effect(record["effect"]),
        paths=tuple(PlannedPath(path, Access(access)) for path, access in record["paths"]),
        tool=record["tool"],
        role=record["role"],
        reserve_micros=record["reserve_micros"],
        reserve_tokens=record["reserve_tokens"],
        writes_index=record["writes_index"],
        writes_ref=record["writes_ref"],
        undo=CompensationType(started["compensation_type"]),
        undo_command=started["compensation_command"],
        data=record["data"],
    )


def _same_git(started: Mapping[str, Any], now: WorkspaceState | None) -> bool:
    """Nothing of git's own moved either; compared as a whole, because the paths already agree."""
    return now is None or (now.head == started["pre_head"] and now.digest == started["pre_workspace"])


def _evidence(code: str, after: str | None) -> dict[str, Any]:
    return {"schema": "evidence/1", "code": code, "message": "", "details": {}, "undeclared": [], "after": after}
