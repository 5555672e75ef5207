"""Verifying one journal of a store, page by page: rows and bodies in memory are bounded, whatever its length.

Pages are read on the reader's thread while the one before is checked on a worker thread; bodies are fetched in batches and
checked there, too. What SQLite refuses to give up becomes a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from runtime.events.facts import Finding, Manipulation, RunSummary, SinkState, Verdict, Verification
from runtime.host.fast_parse import parse_fast
from runtime.host.gathering import Gathered, gather
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import JournalError, Refused, StorageError
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_findings import ERROR, JournalFinding, JournalVerification, Judgement
from runtime.orchestration.journal_states import States
from runtime.orchestration.journal_verifier import JournalVerifier
from runtime.orchestration.manipulations import Shown, manipulations
from runtime.storage.journals import STORE_JOURNAL, DamagedJournal
from runtime.storage.store import Store

#: An entry dated later than this much after now was written by a clock that is wrong, or by a liar.
SKEW: Final = timedelta(minutes=5)
#: Bodies looked up at once, and how many bytes of them.
_BODIES: Final = 64
_BODY_BYTES: Final = 16 * 1024 * 1024

#: Hears of every page of rows that was read.
Keep = Callable[[Sequence[StoredEntry]], None]


@dataclass(slots=True)
class Check:
    """One verification: what was gathered, the verifier that is fed, and what could not be read."""

    store: Store
    clock: Clock
    journal_id: str
    gathered: Gathered
    verifier: JournalVerifier
    last_seq: int = -1
    damage: list[tuple[StorageError, int | None]] = field(default_factory=list)
    started: float = 0.0

    async def read(self, keep: Keep | None = None, *, rest: int = 0) -> None:
        """Feed everything that is there and was not fed yet. ``rest``: pause this many times as long as each page took."""
        try:
            async for page in self.store.journals.pages(self.journal_id, self.last_seq):
                if not page:
                    continue
                began = self.clock.monotonic()
                if keep is not None:
                    keep(page)
                await asyncio.to_thread(self._feed, page)
                self.last_seq = max(self.last_seq + 1, page[-1].seq)
                await self._bodies()
                if rest:
                    await self.clock.sleep((self.clock.monotonic() - began) * rest)
        except DamagedJournal as error:
            self._damaged(error, self.verifier.entries)

    def _feed(self, page: Sequence[StoredEntry]) -> None:
        for stored in page:
            self.verifier.feed(stored)

    async def _bodies(self) -> None:
        """Look up what the entries so far name, newest wishes first: what hangs below one is done before the next."""
        bodies = self.verifier.bodies
        while bodies.wanted:
            names = [name for name, _ in zip(reversed(bodies.wanted), range(_BODIES), strict=False)]
            try:
                found, faults = await self.store.artifacts.raw_batch(names, _BODY_BYTES)
            except StorageError as error:
                found, faults = {}, dict.fromkeys(names, error)
            for name, fault in faults.items():
                del bodies.wanted[name]
                self._damaged(fault, None)
            await asyncio.to_thread(_take, self.verifier, found)
        bodies.settle()

    def _damaged(self, error: StorageError, seq: int | None) -> None:
        if all(known.message != error.message for known, _ in self.damage):
            self.damage.append((error, seq))

    async def verdict(self) -> Verification:
        """What can be said now."""
        more = [_damaged(error, seq) for error, seq in self.damage]
        more += await _unknown_undos(self.store, self.verifier.states)
        verdict = await asyncio.to_thread(self.verifier.verdict, more=more)
        seconds = self.clock.monotonic() - self.started
        sinks = self.gathered.states(verdict.agreed)
        return verification(self.journal_id, verdict, sinks, timestamp(self.clock.now()), seconds)


async def begin(
    store: Store,
    clock: Clock,
    journal_id: str,
    *,
    witnesses: Sequence[str] = (),
    outside: bool = True,
    links: bool = True,
    withheld: Container[str] = (),
    live: bool = False,
) -> Check:
    """Gather the evidence; the journal itself is not read yet. Raises `Refused` ``WITNESS_FORMAT``."""
    started = clock.monotonic()
    gathered = await gather(store, journal_id, witnesses=witnesses, outside=outside, links=links)
    summary = None if gathered.row is None else gathered.row.summary
    try:
        verifier = await asyncio.to_thread(
            JournalVerifier,
            run_id=journal_id,
            evidence=gathered.evidence,
            follow_bodies=True,
            withheld=withheld,
            not_after=timestamp(clock.now() + SKEW),
            live=live or growing(summary) or journal_id == STORE_JOURNAL,
            parse=parse_fast,
        )
    except JournalError as error:
        raise Refused(error.code, error.message, hint=error.hint) from None
    damage: list[tuple[StorageError, int | None]] = [(error, None) for error in gathered.damage]
    return Check(store, clock, journal_id, gathered, verifier, damage=damage, started=started)


async def check(
    store: Store,
    clock: Clock,
    journal_id: str,
    *,
    witnesses: Sequence[str] = (),
    outside: bool = True,
    links: bool = True,
    withheld: Container[str] = (),
    keep: Keep | None = None,
) -> Verification:
    """Verify a whole journal. A journal nobody knows of is ``RUN_UNKNOWN``; one that only evidence knows of is not."""
    doing = await begin(store, clock, journal_id, witnesses=witnesses, outside=outside, links=links, withheld=withheld)
    await doing.read(keep)
    evidence = doing.gathered.evidence
    known = doing.gathered.row is not None or evidence.checkpoints or evidence.elsewhere or doing.damage
    if doing.verifier.entries == 0 and not known and journal_id != STORE_JOURNAL:
        raise Refused("RUN_UNKNOWN", f"there is no run {journal_id}", hint="`quarterdeck runs` lists them")
    return await doing.verdict()


def growing(run: RunSummary | None) -> bool:
    """Is somebody writing this journal?"""
    return run is not None and not run.status.terminal and not run.resumable


def verification(
    run_id: str, verdict: JournalVerification, sinks: tuple[SinkState, ...], at: str, seconds: float
) -> Verification:
    """A verdict as faces are told it."""
    trouble = any(sink.trouble for sink in sinks)
    anchoring = _verdict(verdict.anchoring)
    if trouble and anchoring.standing == "good":
        names = ", ".join(sink.name for sink in sinks if sink.trouble)
        anchoring = Verdict(standing="warn", words=f"{anchoring.words}; no answer from {names}")
    return Verification(
        run_id=run_id,
        ok=verdict.ok,
        entries=verdict.entries,
        trusted_prefix=verdict.trusted_prefix,
        head_seq=verdict.head_seq,
        head_hash=verdict.head_hash,
        closed=verdict.closed,
        level=verdict.level,
        findings=tuple(
            Finding(code=item.code, severity=item.severity, seq=item.seq, detail=item.detail)
            for item in verdict.findings
        ),
        checked_at=at,
        duration_ms=seconds * 1000,
        integrity=_verdict(verdict.integrity),
        completeness=_verdict(verdict.completeness),
        anchoring=anchoring,
        checkpoint_size=verdict.checkpoint_size,
        words=verdict.checkpoint_words,
        key_words=verdict.key_words,
        witnessed_size=verdict.witnessed_size,
        sinks=sinks,
        unanchored_tail=verdict.unanchored_tail,
        bad_between=verdict.bad_between,
        manipulations=tuple(
            Manipulation(what=item.what, revealed=item.revealed, because=item.because)
            for item in manipulations(Shown.by(verdict))
        ),
    )


def _verdict(judgement: Judgement) -> Verdict:
    return Verdict(standing=judgement.standing, words=judgement.words)


def _take(verifier: JournalVerifier, found: dict[str, bytes | None]) -> None:
    for name, body in found.items():
        verifier.bodies.take(name, body)


def _damaged(error: StorageError, seq: int | None) -> JournalFinding:
    """What SQLite refused to give up; only a journal's own damage has a place in it."""
    return JournalFinding(code=error.code, severity=ERROR, seq=seq, detail=error.message)


async def _unknown_undos(store: Store, states: States) -> list[JournalFinding]:
    """Undos of receipts that stand in another run's journal, where that run or receipt is not stored."""
    if not states.foreign:
        return []
    known: frozenset[str] = frozenset()
    if states.undoes is not None:
        with suppress(DamagedJournal):  # what cannot be read of that run is not known, and its own check says why
            known = await store.journals.receipts(states.undoes)
    lost = [(seq, name) for name, seq in states.foreign.items() if name not in known]
    if not lost:
        return []
    seq, name = lost[0]
    whose = f"run {states.undoes}" if states.undoes is not None else "no run that it names"
    more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    detail = f"it undoes {name}, which {whose} does not have{more}"
    return [JournalFinding(code="J_UNDO_UNKNOWN", severity=ERROR, seq=seq, detail=detail)]
