"""Asking a human: blocking escalations of one run, journalled when asked and when answered (ruling R8).

A question is bound to its place in the run and to the digest of its subject. After a crash an answer to the same
question about the same subject is reused; a different subject, or another visit of a loop, is asked again. A run
without a human ends here with ``approval.missing`` instead of waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from runtime.blocks.errors import BlockRuntimeError
from runtime.events.facts import Escalation
from runtime.kernel.canonical import digest
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Refused

#: What became of a question whose asker has gone.
WITHDRAWN: Final = "withdrawn"
MAX_OPEN: Final = 256  # questions of one run waiting at once; a run that asks more is refused


class Journal(Protocol):
    """The part of the mission journal questions write to."""

    def append(self, kind: str, /, **members: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the human said."""

    resolution: str
    by: str
    notes: str


class Asks(Protocol):
    """Who puts a question to a human: `Questions` in a run, the record in a recorded replay."""

    async def ask(
        self,
        *,
        question_id: str,
        step_id: str,
        prompt: str,
        choices: Sequence[str],
        subject: Any,
        severity: str = "info",
    ) -> Reply:
        """Raises `BlockRuntimeError` ``approval.missing`` when nobody can answer."""
        ...


def subject_of(step_id: str, prompt: str, subject: Any) -> str:
    """The digest an answer is bound to."""
    return digest({"schema": "question/1", "step": step_id, "prompt": prompt, "subject": subject})


def asked_members(item: Escalation) -> dict[str, Any]:
    """The members of the entry that says a blocking question was asked."""
    return {
        "phase": "asked",
        "escalation_id": item.escalation_id,
        "step_id": item.step_id,
        "reason": item.reason,
        "severity": item.severity,
        "blocking": True,
        "choices": list(item.choices),
        "subject_digest": item.subject_digest,
    }


def recorded_replies(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Reply]:
    """The answers a journal holds, by escalation id and subject digest (ruling R8)."""
    return {
        (str(entry["escalation_id"]), str(entry["subject_digest"])): Reply(
            resolution=str(entry["resolution"]), by=str(entry["resolved_by"]), notes=str(entry.get("notes") or "")
        )
        for entry in entries
        if entry["kind"] == "escalation" and entry["phase"] == "answered" and "subject_digest" in entry
    }


class Questions:
    """The open questions of one run. ``changed`` is told of every question asked and answered.

    ``answered`` are the answers of before a crash, by escalation id and subject digest. ``leaving`` says that the
    process goes and the run stays: its questions then stay open for whoever resumes it.
    """

    def __init__(
        self,
        *,
        run_id: str,
        journal: Journal,
        clock: Clock,
        unattended: bool,
        answered: Mapping[tuple[str, str], Reply],
        changed: Callable[[Escalation], None],
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run_id = run_id
        self._journal = journal
        self._clock = clock
        self._unattended = unattended
        self._answered = dict(answered)
        self._changed = changed
        self._leaving = leaving
        self._open: dict[str, tuple[Escalation, asyncio.Future[Reply]]] = {}

    @property
    def open(self) -> tuple[Escalation, ...]:
        """What still needs an answer, oldest first."""
        return tuple(item for item, _ in self._open.values())

    async def ask(
        self,
        *,
        question_id: str,
        step_id: str,
        prompt: str,
        choices: Sequence[str],
        subject: Any,
        severity: str = "info",
    ) -> Reply:
        """Ask and wait without limit; cancelled with the attempt that asks.

        Raises `BlockRuntimeError` ``approval.missing`` when nobody can answer.
        """
        subject_digest = subject_of(step_id, prompt, subject)
        escalation_id = f"{self._run_id}/{question_id}"
        known = self._answered.get((escalation_id, subject_digest))
        if known is not None:
            return known
        if self._unattended:
            raise BlockRuntimeError(
                "approval.missing",
                f"{step_id} asks a human: {prompt!r}, and this run has none; answer it from a terminal or the console",
                retry_disposition="never",
            )
        if len(self._open) >= MAX_OPEN:
            raise BlockRuntimeError(
                "approval.missing", f"more than {MAX_OPEN} questions are open", retry_disposition="never"
            )
        escalation = Escalation(
            escalation_id=escalation_id,
            run_id=self._run_id,
            step_id=step_id,
            reason=prompt,
            severity=severity,
            blocking=True,
            choices=tuple(choices),
            subject_digest=subject_digest,
            created_at=timestamp(self._clock.now()),
        )
        return await self._wait(escalation)

    async def _wait(self, escalation: Escalation) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[escalation.escalation_id] = (escalation, future)
        self._journal.append("escalation", **asked_members(escalation))
        self._changed(escalation)
        try:
            return await future
        finally:
            # An answer takes the question off the list itself; if it is still there, the attempt that asked is gone.
            if self._open.pop(escalation.escalation_id, None) is not None and not self._leaving():
                self._changed(_resolved(escalation, WITHDRAWN, "runtime", "", self._clock))

    async def answer(self, escalation_id: str, *, resolution: str, by: str, notes: str) -> None:
        """Record an answer durably, then let the asker continue. The first answer counts.

        Raises `Refused`: ``APPROVAL_UNKNOWN`` when it is not open, ``APPROVAL_CHOICE`` for an answer not offered.
        """
        found = self._open.get(escalation_id)
        if found is None or found[1].done():
            raise Refused("APPROVAL_UNKNOWN", f"question {escalation_id} is not open", hint="it may have been answered")
        escalation, future = found
        if resolution not in escalation.choices:
            offered = ", ".join(escalation.choices)
            raise Refused("APPROVAL_CHOICE", f"{resolution!r} is not an answer to this question; choose from {offered}")
        appended = self._journal.append(
            "escalation",
            phase="answered",
            escalation_id=escalation_id,
            subject_digest=escalation.subject_digest,
            resolution=resolution,
            resolved_by=by,
            notes=notes,
        )
        del self._open[escalation_id]
        reply = Reply(resolution=resolution, by=by, notes=notes)
        self._changed(_resolved(escalation, resolution, by, notes, self._clock))
        await appended.durable
        if not future.done():
            future.set_result(reply)


def _resolved(item: Escalation, resolution: str, by: str, notes: str, clock: Clock) -> Escalation:
    return replace(item, resolved_at=timestamp(clock.now()), resolution=resolution, resolved_by=by, notes=notes)
