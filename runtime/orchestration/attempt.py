"""The working papers of one walk through the executor, and the two ways out of it: a refusal or a shield's end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from runtime.kernel.errors import ContractError, QuarterdeckError
from runtime.kernel.model import (
    Effect,
    Envelope,
    ExecutionContext,
    Operation,
    OperationPlan,
    OperationStatus,
    ValidationResult,
)
from runtime.kernel.refusals import Tried
from runtime.orchestration.budget import Reservation
from runtime.orchestration.compensation import NO_UNDO, Compensation
from runtime.orchestration.operation_ports import (
    HaltRequired,
    Handler,
    HandlerOutcome,
    OnOutput,
    Ticket,
    Waiting,
    WorkspaceState,
    unnoticed,
)
from runtime.orchestration.operation_records import EMPTY_STATE, ReceiptFacts
from runtime.orchestration.snapshots import Snapshot

#: Own deadline of what follows a run under a shield (ruling R26: each undo is capped at 60 s).
FINISH_SECONDS: Final = 60.0
#: Codes that escalate instead of merely failing: policy, money, and doubt about what happened.
_ESCALATED: Final = (
    "ENV_",
    "BUDGET_",
    "PATH_",
    "POLICY_",
    "SELFMOD_",
    "ROOT_",
    "RULE_",
    "APPROVAL_",
    "IDEMPOTENCY_DRIFT",
    "RECOVERY_",
)
_T = TypeVar("_T")


class Refusal(Exception):
    """A check between X1 and X9 said no; with ``halt`` the run must stop as well."""

    def __init__(
        self, code: str, message: str, evidence: Mapping[str, Any] | None = None, *, halt: bool = False
    ) -> None:
        super().__init__(code, message)
        self.code, self.message, self.halt = code, message, halt
        self.evidence = dict(evidence or {})

    @classmethod
    def of(cls, verdict: ValidationResult) -> Refusal:
        return cls(verdict.code, verdict.reason.partition(": ")[2], verdict.evidence)


@dataclass(slots=True)
class Attempt:
    """One walk through X1–X16, filled in step by step; owned by one `OperationExecutor.execute` call."""

    operation: Operation
    ctx: ExecutionContext
    stack: tuple[Envelope, ...]
    key: str
    on_output: OnOutput | None = None
    waiting: Waiting = unnoticed
    params_hash: str = ""
    number: int = 1
    started: bool = False
    plan: OperationPlan = field(default_factory=lambda: OperationPlan(Effect.NONE))
    compensation: Compensation = NO_UNDO
    reservation: Reservation | None = None
    pre_state: str = EMPTY_STATE
    post_state: str = EMPTY_STATE
    before: WorkspaceState | None = None
    after: WorkspaceState | None = None
    snapshot: Snapshot = field(default_factory=Snapshot)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    chosen: Handler | None = None

    @property
    def handler(self) -> Handler:
        if self.chosen is None:
            raise ContractError("OP_UNPLANNED", "the operation has no handler before it is planned")
        return self.chosen

    def facts(self) -> ReceiptFacts:
        return ReceiptFacts(
            operation_id=self.operation.operation_id,
            operation_type=self.operation.type,
            step_id=self.ctx.step_id,
            run_id=self.ctx.run_id,
            key=self.key,
            attempt=self.number,
            params_hash=self.params_hash,
            effect=self.plan.effect.value,
            affected_paths=self.plan.affected_paths,
            compensation=self.compensation,
            pre_state=self.pre_state,
            post_state=self.post_state,
            before=self.before,
            after=self.after,
        )

    def tried(self) -> Tried:
        """What was asked for, for the words of a refusal."""
        operation, micros = self.operation, self.plan.reserve_micros
        return Tried(type=operation.type, params=operation.params, role=self.ctx.acting_role, micros=micros)

    def close_tickets(self) -> None:
        while self.tickets:
            self.tickets.popitem()[1].close()


def told(error: QuarterdeckError) -> str:
    """What an error says together with its advice: the operator sees an operation's message only."""
    return f"{error.message} ({error.hint})" if error.hint else error.message


def check_context(ctx: ExecutionContext) -> None:
    """X1: a context that does not say where it stands cannot be recorded."""
    for name in ("mission_id", "mission_type", "step_id"):
        if not getattr(ctx, name):
            raise Refusal("CTX_INCOMPLETE", f"the execution context has no {name}", {"check": "context"})


def refused_status(code: str) -> OperationStatus:
    """Policy, budget and doubt escalate; the rest merely failed."""
    return OperationStatus.ESCALATED if code.startswith(_ESCALATED) else OperationStatus.FAILED


def status_of(code: str | None, outcome: HandlerOutcome) -> OperationStatus:
    if code is None:
        return OperationStatus.ESCALATED if outcome.escalated else OperationStatus.SUCCESS
    if code == outcome.code and outcome.escalated:
        return OperationStatus.ESCALATED
    return refused_status(code)


async def shielded(work: Coroutine[Any, Any, _T], seconds: float = FINISH_SECONDS) -> _T:
    """Finish ``work`` although the caller is cancelled, then let the cancellation through.

    Raises `HaltRequired` ``RECOVERY_MANUAL`` when it takes longer than ``seconds``: what is on disk is then for
    recovery to judge.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    deadline = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        left = deadline - loop.time()
        if left <= 0:
            task.cancel()
            await asyncio.wait({task})
            raise HaltRequired("RECOVERY_MANUAL", f"recording an operation took longer than {seconds:g} s")
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
