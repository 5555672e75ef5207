"""Offers to undo: what a run that was terminated while its writes stood leaves in the inbox (ruling R27).

The run's own journal is closed by then, so asking and answering are entries of the store's journal, and the rows of the
inbox outlive the process like any question. An offer is bound to the digest of what it would undo.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from runtime.events.facts import Escalation, RunSummary, offer_id
from runtime.host.api import Ack, Answer
from runtime.host.store_journal import StoreJournal
from runtime.host.undoing import digest_of
from runtime.host.words import plain_words
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Refused
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import Durable
from runtime.orchestration.operation_table import OperationTable
from runtime.storage.store import Store

UNDO: Final = "undo"
KEEP: Final = "keep"
#: What `approve` and `reject` mean to an offer.
_MEANT: Final = {"approved": UNDO, "rejected": KEEP}
#: Operations named in a question; the plan of the undo lists all of them.
_NAMED: Final = 5


def offer(run: RunSummary, table: OperationTable) -> Escalation | None:
    """The question the terminated ``run`` leaves; None when nothing it wrote stands."""
    standing = table.standing()
    if not standing:
        return None
    names = [known.operation_id for known in reversed(standing)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Escalation(
        escalation_id=offer_id(run.run_id),
        run_id=run.run_id,
        step_id=str(standing[-1].started.get("step_id", "")),
        reason=f"{run.mission} was terminated and keeps what it did: {', '.join(names[:_NAMED])}{more}. Undo it?",
        severity="warning",
        blocking=True,
        choices=(UNDO, KEEP),
        subject_digest=digest_of(run.run_id, standing),
        created_at=str(run.finished_at),
    )


class Offers:
    """The open offers of one store. ``asked`` stores and shows a question, here one that is resolved."""

    def __init__(self, store: Store, journal: StoreJournal, clock: Clock, asked: Callable[[Escalation], None]) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._asked = asked
        self._open: dict[str, Escalation] = {}

    @property
    def open(self) -> tuple[Escalation, ...]:
        return tuple(self._open.values())

    async def load(self) -> None:
        """What earlier holders left."""
        for question in await self._store.escalations.list():
            self.note(question)

    def note(self, question: Escalation) -> None:
        """A question was asked or resolved; those that are no offers are others' business."""
        if not question.offers_undo:
            return
        if question.resolved_at is None:
            self._open[question.escalation_id] = question
        else:
            self._open.pop(question.escalation_id, None)

    def about(self, escalation_id: str) -> Escalation | None:
        return self._open.get(escalation_id)

    async def answer(
        self, question: Escalation, intent: Answer, undo: Callable[[str, str, str], Awaitable[RunSummary]]
    ) -> Ack:
        """Undo or keep. ``undo`` starts a run from run id, reason and approved digest; while it refuses, the offer stays.

        Raises `Refused` ``APPROVAL_CHOICE``, and what ``undo`` raises. The acknowledgement of an undo names its run.
        """
        choice = _MEANT.get(intent.resolution, intent.resolution)
        if choice not in question.choices:
            offered = ", ".join(question.choices)
            raise Refused("APPROVAL_CHOICE", f"{choice!r} is not an answer to this question; choose from {offered}")
        run_id, told = question.run_id, "recorded: what it did is kept"
        if choice == UNDO:
            begun = await undo(run_id, intent.notes, question.subject_digest)
            if begun.status is RunStatus.REFUSED:
                return Ack(done=False, run_id=run_id, message=f"not undone: {begun.message} [{begun.code}]")
            run_id, told = begun.run_id, f"undoing: run {begun.run_id}"
        await self._resolve(question, choice, plain_words(intent.by), plain_words(intent.notes))
        return Ack(done=True, run_id=run_id, message=told)

    def undone(self, run_id: str, by_run: str) -> None:
        """Somebody had it undone without waiting for the offer."""
        question = self._open.get(offer_id(run_id))
        if question is not None:
            self._resolve(question, UNDO, "runtime", f"undone by run {by_run}")

    def _resolve(self, question: Escalation, resolution: str, by: str, notes: str) -> Durable:
        appended = self._journal.append(
            "escalation",
            run_id=question.run_id,
            phase="answered",
            escalation_id=question.escalation_id,
            subject_digest=question.subject_digest,
            resolution=resolution,
            resolved_by=by,
            notes=notes,
        )
        at = timestamp(self._clock.now())
        self._asked(replace(question, resolved_at=at, resolution=resolution, resolved_by=by, notes=notes))
        return appended.durable
