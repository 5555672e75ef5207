"""How a run is repaired after a crash, undone after a failure, and ended (rulings R14, R19, R20, R25).

The end is one batch: evidence, terminal, close and the journal's last entry, with the run's row and its head in the
store's journal beside them. It is shown when the writer has acknowledged it; without that there is no end, and the
next start tells from the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from runtime.events.envelope import ControlSignal
from runtime.events.facts import Escalation, RunSummary
from runtime.execution.questions import asked_members
from runtime.host.hooks import Hooks
from runtime.host.offers import offer
from runtime.host.prepared import Prepared
from runtime.host.store_journal import StoreJournal
from runtime.host.undoing import Rollback
from runtime.host.words import without_secrets
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Halted, QuarterdeckError, Refused, StorageError
from runtime.kernel.ids import KILL_SWITCH_FILE
from runtime.kernel.outcomes import Exit, operation_code
from runtime.orchestration.governance_baseline import check_baseline
from runtime.orchestration.operation_ports import EscalationNote
from runtime.orchestration.operations import OperationExecutor
from runtime.orchestration.undo import CompensationOutcome
from runtime.turns import arbiter
from runtime.turns.arbiter import Terminal, Trigger

#: Ruling R25: without an acknowledgement by then the end is shown as not proven.
ACK_SECONDS: Final = 5.0
#: All undoing of one run together; each undo has its own 60 s (ruling R26).
CLEANUP_SECONDS: Final = 600.0
_UNANCHORED: Final = "its end is on record, but under no signed checkpoint yet"
_NOT_UNDONE: Final = "an effect could not be undone; see the evidence"
#: What a run ends with that leaves its work tree latched, whatever could be undone.
_LATCHING: Final = frozenset({"SELFMOD_EFFECT", "COMP_FAILED", "COMP_DRIFT"})
_LOG: Final = logging.getLogger(__name__)


class Settlement:
    """Repairs, undoes and ends one run. ``record`` stores its last summary, ``asked`` a question it leaves behind, and
    ``store_journal`` learns of latches, of that question and of the run's head. ``anchored`` waits, within limits, for
    the checkpoint that covers the end."""

    def __init__(
        self,
        prepared: Prepared,
        executor: OperationExecutor,
        hooks: Hooks,
        *,
        clock: Clock,
        record: Callable[[RunSummary], None],
        asked: Callable[[Escalation], None],
        store_journal: StoreJournal,
        anchored: Callable[[], Awaitable[bool]],
    ) -> None:
        self._prepared = prepared
        self._executor = executor
        self._hooks = hooks
        self._clock = clock
        self._record = record
        self._asked = asked
        self._store_journal = store_journal
        self._anchored = anchored
        self._refused: QuarterdeckError | None = None

    def refused(self, error: QuarterdeckError) -> None:
        """The store refused an entry of a fence; the run can have no durable end."""
        self._refused = self._refused or error

    @property
    def refusal(self) -> QuarterdeckError | None:
        """What the store refused first, if it did."""
        return self._refused

    async def repair(self) -> None:
        """Decide about everything a crash left open, newest first. Raises `Halted` when a person must decide."""
        for known in self._executor.unresolved():
            action = await self._executor.recover(known)
            if action.undo is not None and not action.undo.verified:
                self._latch(action.undo.code or "COMP_FAILED")
                raise Halted(action.undo.code or "COMP_FAILED", f"{known.operation_id} could not be undone")
            if action.action in ("ask", "manual"):
                raise Halted(
                    action.code or "RECOVERY_MANUAL",
                    f"{known.operation_id} was interrupted and its effect cannot be told; look at it, then run again",
                )

    async def governed(self) -> list[Trigger]:
        """Is the project still what its governance baseline says (operations spec §9.5)? If not, the run fails."""
        policy, since = self._prepared.policy, self._prepared.governance_hash
        root = self._prepared.workspace.root
        try:
            await asyncio.to_thread(check_baseline, root, policy.protector.is_governed, since=since)
        except Refused as found:
            note = EscalationNote.about(found.code, found.message, "critical", expected=since)
            self._executor.tell(note, "governance")
            return [arbiter.because(arbiter.node_failed(found.code), found.message)]
        return []

    def stopped_by_switch(self, *, done: Collection[str]) -> None:
        """Tell what the stop file left done and undone (operations spec §10.2)."""
        steps = self._prepared.mission.spec.blocks
        left = [step for step in steps if step not in done]
        self._executor.tell(
            EscalationNote.about(
                "KILL_SWITCH",
                f"{KILL_SWITCH_FILE} stopped the run; {len(left)} of {len(steps)} steps were not done",
                "info",
                done=sorted(done),
                remaining=left,
                detected_at=timestamp(self._clock.now()),
            ),
            "kill_switch",
        )

    async def undo(self, terminal: Terminal) -> Terminal:
        """Compensate every write that stands, last to first; an undo that cannot be proven halts and latches."""
        receipts = self._prepared.journal.operations.successful_writes()
        if not receipts:
            return terminal
        try:
            code = await self._compensated(self._executor.compensate_all(receipts))
        except Halted as halted:
            code = halted.code
        if code is None:
            return terminal
        self._latch(code)
        trigger = replace(arbiter.node_failed(code), reason=_NOT_UNDONE)
        return Terminal(trigger=trigger, superseded=(terminal.trigger, *terminal.superseded))

    async def roll_back(self, rollback: Rollback) -> Trigger:
        """Undo what stands of an earlier run; an undo that cannot be proven latches. Raises what the executor raises."""
        code = await self._compensated(self._executor.compensate_earlier(rollback.operations))
        if code is None:
            return arbiter.succeeded()
        self._latch(code)
        return replace(arbiter.node_failed(code), reason=_NOT_UNDONE)

    async def _compensated(self, undoing: Coroutine[Any, Any, Sequence[CompensationOutcome]]) -> str | None:
        """The code of the first undo that could not be proven; None when all were."""
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                outcomes = await undoing
        except TimeoutError:
            return "COMP_FAILED"
        failed = next((item for item in outcomes if not item.verified), None)
        return None if failed is None else failed.code or "COMP_FAILED"

    def halted(self, terminal: Terminal) -> None:
        """Latch the tree when its controls were touched, or an attempt's undo failed (operations spec §10.3)."""
        code = operation_code(terminal.trigger.code or "")
        if code in _LATCHING:
            self._latch(code, terminal.trigger.reason or "the run halted")

    def _latch(self, code: str, message: str = "an undo could not be verified") -> None:
        """Nothing starts in this tree until a person has looked (operations spec §6.5)."""
        run_id = self._prepared.run_id
        self._store_journal.append("latch", action="set", code=code, run_id=run_id, message=message)
        trouble = self._prepared.control.latch(code, run_id=run_id, message=message)
        if trouble is not None:
            _LOG.error("the work tree of run %s could not be latched: %s", self._prepared.run_id, trouble)

    async def close(
        self, terminal: Terminal, summary: RunSummary, pending: Sequence[ControlSignal], *, offering: bool = False
    ) -> RunSummary:
        """Append and await the end; returns the summary to show. Raises what the store raises.

        ``offering``: what stands was left on purpose, so undoing it is offered in the inbox (ruling R27).
        """
        if self._refused is not None:
            raise self._refused
        prepared = self._prepared
        result_commit = await self._head()
        journal, session, run_id = prepared.journal, prepared.session, prepared.run_id
        stamp = prepared.emitter.stamp
        before = [*pending, *stamp(arbiter.preceding_signals(terminal, run_id))]
        self._hooks.hold()
        journal.append("evidence", evidence=self._evidence(terminal, summary))
        session.advance(run_id, "commit" if terminal.commits else "abort", reason=terminal.ending.reason)
        end = [*before, *stamp([arbiter.terminal_signal(terminal, run_id)])]
        journal.append("signal", signals=[item.record() for item in end])
        session.advance(run_id, "close")
        journal.append("signal", signals=[item.record() for item in stamp([arbiter.close_signal(run_id)])])
        extra: dict[str, Any] = {"exit_code": int(terminal.ending.exit_code)}
        if terminal.ending.reason is not None:
            extra["reason"] = terminal.ending.reason
        appended = journal.close(terminal.journal_status, result_commit=result_commit, **extra)
        if not prepared.workspace.output.is_dir():
            summary = replace(summary, output_folder=None)
        final = _final(terminal, summary, journal.entries, journal.get_chain_root(), timestamp(self._clock.now()))
        final = without_secrets(final, prepared.secrets.redactor)
        self._record(final)
        self._store_journal.run_ended(final)
        if offering:
            self._offer(final)
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await appended.durable
        except TimeoutError:
            raise StorageError(
                "STORE_UNRESPONSIVE",
                f"the end of the run was not acknowledged within {ACK_SECONDS:g} s",
                hint="the next start tells from the disk how it ended",
            ) from None
        if not await self._anchored():
            final = replace(final, message=final.message or _UNANCHORED)
        self._hooks.show()
        return final

    def _offer(self, run: RunSummary) -> None:
        """In the batch of the end: no run is terminated without its offer. Its own journal is closed by now."""
        question = offer(run, self._prepared.journal.operations)
        if question is not None:
            self._store_journal.append("escalation", run_id=run.run_id, **asked_members(question))
            self._asked(question)

    async def _head(self) -> str | None:
        git = self._prepared.git
        if git is None:
            return None
        try:
            return await git.head()
        except QuarterdeckError:
            # The tree is no longer a readable repository; the end is recorded all the same, without a commit.
            return None

    def _evidence(self, terminal: Terminal, summary: RunSummary) -> dict[str, Any]:
        """The baseline every accepted turn leaves: what was frozen, and why it ended as it did."""
        plan = self._prepared.plan
        return {
            "schema": "turn-evidence/1",
            "turn_id": self._prepared.run_id,
            "plan_hash": plan.plan_hash,
            "contract_hash": plan.contract_hash,
            "authority_epoch": self._prepared.emitter.epoch,
            "determinism": plan.determinism.record(),
            "terminal": terminal.record(),
            "active_ms": summary.duration_ms,
            "violations": summary.violations,
            "confinement": summary.confinement,
        }


def _final(terminal: Terminal, summary: RunSummary, entries: int, head: str, at: str) -> RunSummary:
    trigger = terminal.trigger
    shown = None if terminal.commits else trigger.reason or None
    return replace(
        summary,
        status=terminal.ending.status,
        reason=terminal.ending.reason,
        code=trigger.code,
        message=shown if shown != terminal.ending.reason else None,
        exit_code=int(Exit(terminal.ending.exit_code)),
        finished_at=at,
        entries=entries,
        head_hash=head,
        outputs=summary.outputs if terminal.commits else None,
    )
