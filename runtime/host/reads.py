"""What any face may read, from the store and the mission folders; shared by the holder and by observers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runtime.events.facts import (
    BundlePlan,
    Comparison,
    EntryAppended,
    Escalation,
    Holder,
    MissionEstimate,
    NodeInfo,
    Proof,
    ReplayReport,
    RunSummary,
    UndoPlan,
    Verification,
    Violation,
)
from runtime.host.api import ExportBundle, Exported, MissionInfo, Replay, RunStatus, TrustedPack
from runtime.host.checking import check
from runtime.host.parsed import parsed
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused, StorageError
from runtime.kernel.model import frozen
from runtime.kernel.ports import StoredEntry
from runtime.storage.journals import DamagedJournal
from runtime.storage.store import Store

if TYPE_CHECKING:
    from runtime.host.bundling import Bundling
    from runtime.host.mission_facts import MissionFacts
    from runtime.host.replaying import Replaying
    from runtime.host.violations import Violations

LATEST: Final = "@latest"
_MAX_ENTRIES: Final = 2000
#: Parsing an entry strictly takes about a tenth of a millisecond.
_PARSED_AT_ONCE: Final = 16
_CANDIDATES: Final = 10


class StoreReads:
    """The reading half of `runtime.host.api.Deck`."""

    def __init__(self, store: Store, *, missions: Sequence[Path], clock: Clock) -> None:
        self._store = store
        self._folders = tuple(missions)
        self._clock = clock
        self._withheld: frozenset[str] = frozenset()
        """Bodies left out of a run that was handed on."""
        self._links = True
        """The runs before one are in this store, too."""

    @cached_property
    def _missions(self) -> MissionFacts:
        # Reading mission files takes the loader and all it needs; what reads only the store must not wait for it.
        from runtime.host.mission_facts import MissionFacts

        return MissionFacts(self._folders)

    @cached_property
    def _violations(self) -> Violations:
        # They are placed in mission files, so their reader is needed, too.
        from runtime.host.violations import Violations

        return Violations(self._store)

    @cached_property
    def _replaying(self) -> Replaying:
        # Replaying needs half the runtime; verbs that only read must not wait for it.
        from runtime.host.replaying import Replaying

        return Replaying(self._store, self._clock)

    @cached_property
    def _bundling(self) -> Bundling:
        # Packing needs the builder and all it packs; nobody else waits for that.
        from runtime.host.bundling import Bundling

        return Bundling(self._store, self._clock)

    @property
    def store_path(self) -> str:
        return str(self._store.state.root)

    async def holder(self) -> Holder | None:
        return await self._store.holder()

    async def missions(self) -> tuple[MissionInfo, ...]:
        return tuple([await self._trusting(item) for item in await asyncio.to_thread(self._missions.all)])

    async def mission(self, path: str) -> MissionInfo:
        return await self._trusting(await asyncio.to_thread(self._missions.one, Path(path)))

    async def _trusting(self, mission: MissionInfo) -> MissionInfo:
        """With the store's trust in the packs it uses, if it uses some."""
        if not mission.packs:
            return mission
        from runtime.host.pack_trust import PackTrust

        trust = PackTrust(await self.trusted_packs())
        return replace(mission, packs=tuple(replace(pack, trust=trust.of(pack.digest).value) for pack in mission.packs))

    async def estimate(self, path: str) -> MissionEstimate:
        # As with the list of missions: their loader comes with it.
        from runtime.host.estimating import estimate_mission
        from runtime.missions.loader import load

        mission = await asyncio.to_thread(load, Path(path))
        return estimate_mission(mission, await self._store.past_work.of(mission.name, mission.spec.version))

    async def graph(self, path: str) -> str:
        from runtime.host.authoring import (  # of the block room, which other reads do not need
            graph_picture,
            mission_graph,
        )

        return await asyncio.to_thread(lambda: graph_picture(mission_graph(Path(path)), "text"))

    async def trusted_packs(self) -> tuple[TrustedPack, ...]:
        from runtime.host.pack_trust import read_trust  # of the block room, which other reads do not need

        return await read_trust(self._store)

    async def runs(
        self,
        *,
        text: str = "",
        statuses: Sequence[RunStatus] = (),
        before: tuple[str, str] | None = None,
        limit: int = 100,
        sort: str = "created",
        descending: bool = True,
        offset: int = 0,
    ) -> tuple[RunSummary, ...]:
        return await self._store.runs.list(
            text=text, statuses=statuses, before=before, limit=limit, sort=sort, descending=descending, offset=offset
        )

    async def count_runs(self, *, text: str = "", statuses: Sequence[RunStatus] = ()) -> int:
        return await self._store.runs.count(text=text, statuses=statuses)

    async def lineage(self, run_id: str) -> tuple[RunSummary, ...]:
        run = await self.find(run_id)
        return await self._store.runs.lineage(run.lineage_id)

    async def replay(self, intent: Replay) -> ReplayReport:
        return await self._replaying.replay(intent, *await self._record_of(intent.run_id))

    async def compare(
        self, base: str, other: str, *, timing_ms: int | None = None, expected: Sequence[str] = ()
    ) -> Comparison:
        sides = [await self._record_of(base), await self._record_of(other)]
        return await self._replaying.compare(sides, timing_ms=timing_ms, expected=expected)

    async def undo_plan(self, run_id: str) -> UndoPlan:
        # As with replaying: the mission loader comes with it, and verbs that only read must not wait for that.
        from runtime.host.undoing import read_undo

        return (await read_undo(self._store, run_id)).plan()

    async def _record_of(self, run_id: str) -> tuple[RunSummary, list[StoredEntry], Verification]:
        """A run with its journal and the verdict on it."""
        from runtime.host.replaying import check_run

        run = await self.find(run_id)
        check_run(run)
        if not self._store.read_only and self._store.poisoned is None:
            # A run this very process left may have entries on their way to the disk.
            await self._store.flush()
        rows: list[StoredEntry] = []
        verdict = await check(
            self._store,
            self._clock,
            run.run_id,
            outside=False,
            keep=rows.extend,
            links=self._links,
            withheld=self._withheld,
        )
        return run, rows, verdict

    async def find(self, selector: str) -> RunSummary:
        if selector == LATEST:
            newest = await self._store.runs.list(limit=1)
            if not newest:
                raise Refused("RUN_UNKNOWN", "there are no runs yet", hint="start one with `quarterdeck run PATH`")
            return newest[0]
        found = await self._store.runs.find(selector, limit=_CANDIDATES) if selector else ()
        if not found:
            raise Refused(
                "RUN_UNKNOWN", f"no run has an id that begins with {selector!r}", hint="`quarterdeck runs` lists them"
            )
        if len(found) > 1:
            candidates = ", ".join(run.run_id for run in found)
            raise Refused(
                "RUN_AMBIGUOUS", f"{selector!r} begins several run ids: {candidates}", hint="give more of the id"
            )
        return found[0]

    async def nodes(self, run_id: str) -> tuple[NodeInfo, ...]:
        record = await self._store.runs.record(run_id)
        try:
            body = await self._store.artifacts.get(record.plan_digest) if record and record.plan_digest else None
        except StorageError as error:
            if error.code != "STORE_ARTIFACT_DAMAGED":
                raise
            body = None  # what else is known of the run can still be shown; `verify` names the damage
        if body is None:
            return ()
        contract = json.loads(body)["contract"]["contract"]
        return tuple(_node(item) for item in contract["nodes"])

    async def entries(
        self,
        run_id: str,
        *,
        after: int = -1,
        limit: int = 500,
        until: int | None = None,
        kinds: Sequence[str] = (),
        step: str | None = None,
        offset: int = 0,
    ) -> tuple[EntryAppended, ...]:
        """As far as the journal can be read; damage ends the page, and `verify` says what it is."""
        try:
            stored = await self._store.journals.read(
                run_id, after, min(limit, _MAX_ENTRIES), until=until, kinds=kinds, step=step, offset=offset
            )
        except DamagedJournal as damage:
            stored = list(damage.entries)
        events: list[EntryAppended] = []
        for number, item in enumerate(stored):
            event = entry_event(run_id, item)
            if event is not None:
                events.append(event)
            if number % _PARSED_AT_ONCE == _PARSED_AT_ONCE - 1:
                await asyncio.sleep(0)  # runs share this loop, and the console's thread the interpreter
        return tuple(events)

    async def count_entries(self, run_id: str, *, kinds: Sequence[str] = ()) -> int:
        return await self._store.journals.count(run_id, kinds)

    async def stored(self, run_id: str) -> AsyncIterator[StoredEntry]:
        """The rows of a journal, in order, for export."""
        async for item in self._store.journals.stream(run_id):
            yield item

    async def violations(self, run_id: str | None = None, *, limit: int = 200) -> tuple[Violation, ...]:
        """Newest first across runs; in journal order within one."""
        found = await self._violations.newest(run_id, limit)
        return found[::-1] if run_id is not None else found

    async def violation(self, run_id: str, seq: int) -> Violation:
        return await self._violations.one(run_id, seq)

    async def escalations(self, *, run_id: str | None = None, open_only: bool = True) -> tuple[Escalation, ...]:
        return await self._store.escalations.list(run_id=run_id, open_only=open_only)

    async def artifact(self, digest: str) -> bytes | None:
        return await self._store.artifacts.get(digest)

    async def verify(self, run_id: str, *, witnesses: Sequence[str] = ()) -> Verification:
        """Recompute a journal from disk. Damage SQLite itself refuses becomes a finding with the trusted prefix.

        Raises `Refused` ``RUN_UNKNOWN`` when nobody, not even a sink, knows of a journal of that id.
        """
        return await check(
            self._store, self._clock, run_id, witnesses=witnesses, links=self._links, withheld=self._withheld
        )

    async def proof(self, run_id: str, seq: int) -> Proof:
        from runtime.host.proving import prove

        return await prove(self._store, run_id, seq)

    async def bundle_plan(self, run_id: str, withhold: Sequence[str] = ()) -> BundlePlan:
        return await self._bundling.plan(await self.find(run_id), await self.verify(run_id), withhold)

    async def bundle(self, intent: ExportBundle) -> Exported:
        return await self._bundling.export(await self.find(intent.run_id), await self.verify(intent.run_id), intent)

    async def completion(self, run_id: str, *, force: bool = False) -> bytes:
        """A run's plain completion export (operations spec §7.7). Raises `Refused` ``J_EXPORT_UNVERIFIED``."""
        return await self._bundling.completion(await self.find(run_id), await self.verify(run_id), force=force)


def entry_event(run_id: str, stored: StoredEntry) -> EntryAppended | None:
    """A stored row as an event; None when its bytes are not an entry any more (verification names it)."""
    entry = parsed(stored)
    if entry is None:
        return None
    return EntryAppended(
        run_id=run_id,
        seq=stored.seq,
        kind=stored.kind,
        at=stored.at,
        entry_hash=stored.entry_hash,
        entry=frozen(entry),
    )


def _node(record: Mapping[str, Any]) -> NodeInfo:
    return NodeInfo(
        node_id=record["node_id"], block_type=record["block_type"], lane=record["lane"], after=tuple(record["after"])
    )
