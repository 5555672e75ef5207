"""What a finished library run tells, and the handle on one that is still going (blocks spec §8.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime.blocks.envelope import Request, Response, completed_metadata, failed
from runtime.blocks.errors import BlockRuntimeError, BlockTimeout, WaitRefused, WorkflowRunFailed, engine_error
from runtime.blocks.graph_run import NodeOutcome
from runtime.blocks.ledger import LedgerView
from runtime.blocks.running import AttemptHost, NodeRunner, Scope
from runtime.blocks.telemetry import STREAM_LIMIT, EventStream, Feed, emit
from runtime.blocks.values import BlockValue
from runtime.blocks.waits import WaitDesk, WaitTicket
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


def _last_word(task: asyncio.Task[Response]) -> tuple[str | None, str | None]:
    """Reason and code a run ended with. Control flow has no response; a halt has a code."""
    halt = None if task.cancelled() else task.exception()
    if task.cancelled() or halt is not None:
        return "canceled", getattr(halt, "code", "runtime.canceled")
    return task.result().reason, task.result().code


class RunHandle:
    """One library run in flight. Await `result`; the task is owned here.

    Belongs to the loop it was started on. ``attended`` says that whoever holds the handle can answer questions;
    without it a block that asks fails with ``runtime.no_operator``.
    """

    def __init__(
        self,
        workflow: Workflow,
        request: Request,
        runner: NodeRunner | None,
        host: AttemptHost | None,
        scope: Scope,
        *,
        attended: bool = True,
    ) -> None:
        self._workflow = workflow
        self._scope = scope
        services = scope.services
        scope.workflow_id = scope.workflow_id or workflow.block_name
        scope.begin_run()
        if attended and scope.desk is None:
            scope.desk = WaitDesk(services.clock)
        metadata = completed_metadata(request, workflow, services.clock, services.ids)
        self._request = Request(request.payload, request.context, metadata)
        self.run_id = str(metadata["run_id"])
        self._began: float | None = None
        self._feed: Feed | None = None
        self._cancelled = False
        self._task = asyncio.ensure_future(self._drive(runner, host))
        self._task.add_done_callback(self._ended)

    @property
    def status(self) -> str:
        """``created``, ``running`` or ``waiting`` until the end, then the terminal status, which never changes."""
        if self._task.done():
            if self._task.cancelled() or self._task.exception() is not None:
                return "canceled"  # an exception here is a halt: control flow, not an outcome of the graph
            return status_of(self._task.result())
        if self._began is None:
            return "created"
        return "waiting" if self._scope.desk is not None and self._scope.desk.suspended else "running"

    # -- watching and answering ------------------------------------------------------------------------------------

    def events(self, limit: int = STREAM_LIMIT) -> EventStream:
        """The events from now on (blocks spec §19.1), each a mapping with ``event`` and ``ts``.

        A reader that falls more than ``limit`` events behind loses the oldest ones; see `EventStream`.
        """
        if self._feed is None:
            self._feed = Feed(self._scope.observer)
            self._scope.observer = self._feed
        stream = self._feed.open(limit)
        if self._task.done():
            stream.close()
        return stream

    @property
    def waits(self) -> tuple[WaitTicket, ...]:
        """The questions that wait for an answer, oldest first; at most one per node."""
        return () if self._scope.desk is None else self._scope.desk.tickets

    def answer(self, wait_id: str, value: object) -> None:
        """Answer a question. Raises `WaitRefused`, and leaves it open, when the answer does not fit.

        Codes: ``wait.unknown``, ``wait.kind_mismatch``, ``wait.bad_choice``.
        """
        if self._scope.desk is None:
            raise WaitRefused("wait.unknown", f"no question {wait_id!r} is open; nobody attends this run")
        self._scope.desk.answer(wait_id, value)

    # -- ending ----------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel at once; no recovery, no failure handlers. Asking again changes nothing."""
        self._cancelled = self._task.cancel() or self._cancelled

    def stop(self) -> None:
        """Let a recurring run end after its current tick. A run without ticks just goes on to its end."""
        self._scope.request_stop()

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

    # -- the run ---------------------------------------------------------------------------------------------------

    async def _drive(self, runner: NodeRunner | None, host: AttemptHost | None) -> Response:
        self._began = self._scope.services.clock.monotonic()
        if self._scope.observer is not None:
            warnings = sum(not issue.is_error for issue in self._workflow.issues())
            self._tell("run.created", status="created")
            self._tell("run.plan_validated", errors=0, warnings=warnings)
            self._tell("run.started", status="running")
        return await self._workflow.execute(self._request, runner=runner, host=host, scope=self._scope)

    def _ended(self, task: asyncio.Task[Response]) -> None:
        """Called once, before whoever awaits the task goes on: the one terminal event of the run."""
        if self._scope.observer is not None:
            if self._began is None:
                self._tell("run.created", status="created")
            status = self.status
            reason, code = _last_word(task)
            self._tell(f"run.{status}", status=status, reason=reason, code=code, duration_ms=self._duration())
        if self._feed is not None:
            self._feed.close()
            if self._scope.observer is self._feed:
                self._scope.observer = self._feed.before

    def _tell(self, event: str, **fields: Any) -> None:
        emit(self._scope, event, self._request.metadata, fields, block_type=self._workflow.spec.type_id)

    def _duration(self) -> float:
        return 0.0 if self._began is None else (self._scope.services.clock.monotonic() - self._began) * 1000.0

    def _canceled(self) -> Response:
        error = engine_error(BlockRuntimeError, "runtime.canceled", f"{self._workflow.block_name} was canceled")
        return failed({**self._request.metadata, "duration_ms": self._duration()}, error, "run")

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
