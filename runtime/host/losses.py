"""Journals that are behind what is remembered of them: found, shown, refused and, by an operator, accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from runtime.events.facts import Escalation, RunSummary
from runtime.execution.questions import WITHDRAWN
from runtime.host.api import Ack
from runtime.host.behind import Behind, Known, Memories, There, Tree, farthest, generations, look, lost_members
from runtime.host.store_journal import StoreJournal
from runtime.host.words import plain_words
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Refused
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.store import Store

#: What the ids of notices in the inbox have after the journal's, before its generation.
_NOTICE: Final = "/behind/"
#: How the notice of a loss ends that an operator accepted.
ACCEPTED: Final = "accepted"


class Losses:
    """For one store. ``accepted`` hears of a journal and the generation it goes on in."""

    def __init__(self, store: Store, memories: Memories, clock: Clock, accepted: Callable[[str, int], None]) -> None:
        self._store = store
        self._memories = memories
        self._clock = clock
        self._generations: dict[str, int] = {}
        self._behind: dict[str, Behind] = {}
        self._notices: dict[str, Escalation] = {}
        self._accepted = accepted
        self._asked: Callable[[Escalation], None] = lambda notice: None

    def generation(self, journal_id: str) -> int:
        """Which history of a journal this is; more than one only after a loss was accepted."""
        return self._generations.get(journal_id, 1)

    def behind(self, journal_id: str) -> Behind | None:
        return self._behind.get(journal_id)

    @property
    def notices(self) -> tuple[Escalation, ...]:
        """What the inbox shows of them."""
        return tuple(self._notices.values())

    # -- finding ------------------------------------------------------------------------------------------------

    async def look_at_store(self) -> Tree:
        """Read the store's own journal and compare it with all that is known of it. Never raises for damage."""
        self._generations = await generations(self._store)
        own = await self._memories.own(STORE_JOURNAL)
        known = [*own, *await self._outside(STORE_JOURNAL, own)]
        tree = Tree(frozenset(item.size for item in known))
        there = await tree.read(self._store, STORE_JOURNAL)
        self._judge(STORE_JOURNAL, there, known)
        return tree

    async def take_stock(self, runs: Sequence[RunSummary], asked: Callable[[Escalation], None]) -> None:
        """Compare the journals of runs that have not ended, and show with ``asked`` what is behind.

        Long ones are not hashed, there may be many.
        """
        self._asked = asked
        own = {run.run_id: await self._memories.own(run.run_id) for run in runs}
        outside = await self._memories.outside({name: self._of(name, known) for name, known in own.items()})
        for name, known in own.items():
            await self._look(name, [*known, *outside[name]], whole=False)
        await self._settle_notices()
        self.show()

    async def look_again(self, journal_id: str) -> None:
        """Somebody outside says that a journal does not continue what it remembers."""
        own = await self._memories.own(journal_id)
        await self._look(journal_id, [*own, *await self._outside(journal_id, own)], whole=True)

    async def _outside(self, journal_id: str, own: Sequence[Known]) -> list[Known]:
        return (await self._memories.outside({journal_id: self._of(journal_id, own)}))[journal_id]

    def _of(self, journal_id: str, own: Iterable[Known]) -> int:
        return max((self.generation(journal_id), *(item.generation for item in own)))

    async def _look(self, journal_id: str, known: Sequence[Known], *, whole: bool) -> None:
        if known:
            self._judge(journal_id, await look(self._store, journal_id, known, whole=whole), known)

    def _judge(self, journal_id: str, there: There, known: Sequence[Known]) -> None:
        against = farthest(there, known, self.generation(journal_id))
        if against is not None:
            self._behind[journal_id] = Behind(journal_id, there, against)

    # -- refusing -----------------------------------------------------------------------------------------------

    async def admit(self, run_id: str | None = None) -> None:
        """May runs begin here, or that one go on or be undone? Raises `Refused` ``J_BEHIND``."""
        if run_id is not None and run_id not in self._behind:
            await self._look(run_id, await self._memories.own(run_id), whole=True)
            self.show()
        behind = self._behind.get(STORE_JOURNAL) or self._behind.get(run_id or "")
        if behind is not None:
            raise behind.error()

    def show(self) -> None:
        """Put what is behind into the inbox."""
        for journal_id, behind in self._behind.items():
            if journal_id not in self._notices:
                notice = self._notices[journal_id] = self._notice(behind)
                self._asked(notice)

    async def _settle_notices(self) -> None:
        """Notices of earlier processes about journals that are whole again."""
        for item in await self._store.escalations.list():
            journal_id, marked, _ = item.escalation_id.partition(_NOTICE)
            if marked and journal_id not in self._behind:
                self._asked(self._resolved(item, WITHDRAWN, "runtime", "nothing is missing any more"))

    def _notice(self, behind: Behind) -> Escalation:
        error = behind.error()
        return Escalation(
            escalation_id=f"{behind.journal_id}{_NOTICE}{self.generation(behind.journal_id)}",
            run_id=behind.journal_id,
            step_id="",
            reason=f"{error.message}; {error.hint}",
            severity="critical",
            blocking=False,
            choices=(),
            subject_digest=digest_bytes(behind.known.note),
            created_at=timestamp(self._clock.now()),
        )

    def _resolved(self, notice: Escalation, resolution: str, by: str, notes: str) -> Escalation:
        at = timestamp(self._clock.now())
        return replace(notice, resolved_at=at, resolution=resolution, resolved_by=by, notes=notes)

    # -- accepting ----------------------------------------------------------------------------------------------

    async def accept(self, journal: StoreJournal, journal_id: str, reason: str) -> Ack:
        """See `runtime.host.api.Deck.accept_loss`. What is not on the record is not accepted."""
        reason = plain_words(reason)
        if not reason.strip():
            raise Refused("LOSS_REASON", "a loss is accepted only with a reason", hint="say what happened to the rest")
        await self.look_again(journal_id)
        behind = self._behind.get(journal_id)
        if behind is None:
            raise Refused("LOSS_NONE", f"{journal_id} is not behind anything that is known of it")
        generation = await self._memories.free_generation(
            journal_id, max(self.generation(journal_id), behind.known.generation)
        )
        await journal.append("operator_action", **lost_members(behind, generation, reason)).durable
        self._generations[journal_id] = generation
        del self._behind[journal_id]
        self._accepted(journal_id, generation)
        notice = self._notices.pop(journal_id, None)
        if notice is not None:
            self._asked(self._resolved(notice, ACCEPTED, "operator", reason))
        return Ack(
            done=True,
            run_id=journal_id,
            message=f"accepted: {behind.words}; its checkpoints are of generation {generation} now",
        )
