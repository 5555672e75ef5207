"""What a finished library run tells, and the handle on one that is still going (blocks spec §8.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.blocks.envelope import Request, Response, completed_metadata, failed
from runtime.blocks.errors import BlockRuntimeError, BlockTimeout, WorkflowRunFailed, engine_error
from runtime.blocks.graph_run import NodeOutcome
from runtime.blocks.ledger import LedgerView
from runtime.blocks.running import AttemptHost, NodeRunner, Scope
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Issue

if TYPE_CHECKING:
    from runtime.blocks.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """``status`` is ``succeeded``, ``failed``, ``timed_out``, ``canceled`` or ``skipped``. ``issues`` are warnings."""

    status: str
    value: BlockValue
    response: Response
    run_id: str
    trace_id: str
    issues: tuple[Issue, ...] = ()
    nodes: Mapping[str, NodeOutcome] = field(default_factory=dict)
    ledger: LedgerView | None = None


def status_of(response: Response) -> str:
    """The run status of a root response. ``timed_out`` is the workflow's own deadline only."""
    if response.success:
        return "succeeded"
    if response.skipped:
        return "skipped"
    if response.code == "runtime.canceled":
        return "canceled"
    own_deadline = response.error_type is BlockTimeout and "failure_path" not in response.metadata
    return "timed_out" if own_deadline else "failed"


class RunHandle:
    """One library run in flight. Await `result`; the task is owned here."""

    def __init__(
        self, workflow: Workflow, request: Request, runner: NodeRunner | None, host: AttemptHost | None, scope: Scope
    ) -> None:
        self._workflow = workflow
        self._scope = scope
        services = scope.services
        metadata = completed_metadata(request, workflow, services.clock, services.ids)
        self._request = Request(request.payload, request.context, metadata)
        self.run_id = str(metadata["run_id"])
        execution = workflow.execute(self._request, runner=runner, host=host, scope=scope)
        self._task = asyncio.ensure_future(execution)
        self._cancelled = False

    @property
    def status(self) -> str:
        """``running`` until the end, then the terminal status, which never changes."""
        if not self._task.done():
            return "running"
        if self._task.cancelled() or self._task.exception() is not None:
            return "canceled"  # an exception here is a halt: control flow, not an outcome of the graph
        return status_of(self._task.result())

    def cancel(self) -> None:
        """Cancel at once; no recovery, no failure handlers. Asking again changes nothing."""
        self._cancelled = self._task.cancel() or self._cancelled

    async def result(self) -> RunReport:
        """Wait for the end and return the report, whatever the status."""
        try:
            response = await self._task
        except asyncio.CancelledError:
            if not self._cancelled:
                raise  # the waiter was cancelled, and the run with it
            response = self._canceled()
        return self._report(response)

    async def report(self) -> RunReport:
        """Like `result`, but raises `WorkflowRunFailed` unless the run succeeded or was skipped."""
        report = await self.result()
        if report.status not in ("succeeded", "skipped"):
            raise WorkflowRunFailed(report)
        return report

    def _canceled(self) -> Response:
        error = engine_error(BlockRuntimeError, "runtime.canceled", f"{self._workflow.block_name} was canceled")
        return failed({**self._request.metadata, "duration_ms": 0.0}, error, "run")

    def _report(self, response: Response) -> RunReport:
        graph = self._scope.root
        return RunReport(
            status=status_of(response),
            value=response.data,
            response=response,
            run_id=self.run_id,
            trace_id=str(self._request.metadata["trace_id"]),
            issues=tuple(issue for issue in self._workflow.issues() if not issue.is_error),
            nodes=dict(graph.outcomes) if graph else {},
            ledger=graph.ledger.view if graph else None,
        )
