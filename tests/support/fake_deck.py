"""A deck without a runtime: records intents, answers with what the test prepared, and feeds events by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.events.facts import (
    BundlePlan,
    Comparison,
    EntryAppended,
    Escalation,
    Holder,
    LaneState,
    MissionEstimate,
    NodeInfo,
    Proof,
    ReplayReport,
    RunSummary,
    StreamEvent,
    UndoPlan,
    Verdict,
    Verification,
    Violation,
    WatchState,
    violation,
)
from runtime.host.api import (
    Ack,
    Answer,
    ExportBundle,
    Exported,
    InputInfo,
    Launch,
    MissionInfo,
    Problem,
    QuarterdeckError,
    Refused,
    Replay,
    RunStatus,
    TrustedPack,
    Watch,
)

AT = "2026-01-02T00:00:00.000000Z"
RUN = "8b3f0000-0000-4000-8000-000000000001"


class FakeFeed:
    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.closed = False

    def drain(self, limit: int = 2000) -> Sequence[StreamEvent]:
        taken, self.events = self.events[:limit], self.events[limit:]
        return taken

    async def wait(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDeck:
    """What the console may ask, answered from plain lists."""

    read_only: bool = False
    store_path: str = "store"
    missions_list: list[MissionInfo] = field(default_factory=list)
    runs_list: list[RunSummary] = field(default_factory=list)
    entries_list: list[EntryAppended] = field(default_factory=list)
    nodes_list: list[NodeInfo] = field(default_factory=list)
    inbox: list[Escalation] = field(default_factory=list)
    verdict: Verification | None = None
    holder_info: Holder | None = None
    intents: list[tuple[str, Any]] = field(default_factory=list)
    feeds: list[FakeFeed] = field(default_factory=list)
    violations_list: list[Violation] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    refuse_launch: Refused | None = None
    refuse_reads: QuarterdeckError | None = None
    replay_report: ReplayReport | None = None
    comparison: Comparison | None = None
    standing: UndoPlan | None = None
    watch_list: list[WatchState] = field(default_factory=list)
    proof_given: Proof | None = None
    plan: BundlePlan | None = None
    exported: Exported | None = None
    acks: dict[str, Ack] = field(default_factory=dict)
    refusals: dict[str, QuarterdeckError] = field(default_factory=dict)
    """By the name of the method that raises it."""
    expected: MissionEstimate | None = None
    picture: str = "hello: dataflow\n  * greet [template] once string -> once string\n"
    closed: bool = False
    reads: list[tuple[int, int]] = field(default_factory=list)

    def publish(self, *events: StreamEvent) -> None:
        for feed in self.feeds:
            feed.events.extend(events)

    async def holder(self) -> Holder | None:
        return self.holder_info

    async def missions(self) -> tuple[MissionInfo, ...]:
        if self.refuse_reads is not None:
            raise self.refuse_reads
        return tuple(self.missions_list)

    async def mission(self, path: str) -> MissionInfo:
        gone = Problem(code="MISSION_NOT_FOUND", message="there is no such file", path=path, line=1, column=1)
        listed = next((item for item in self.missions_list if item.path == path), None)
        return listed or MissionInfo(name=path, path=path, problems=(gone,))

    async def estimate(self, path: str) -> MissionEstimate:
        self._refuse("estimate")
        return self.expected or MissionEstimate(mission=path, version="1")

    async def graph(self, path: str) -> str:
        self._refuse("graph")
        return self.picture

    async def launch(self, intent: Launch) -> RunSummary:
        self.intents.append(("launch", intent))
        if self.refuse_launch is not None:
            raise self.refuse_launch
        return self.runs_list[0]

    async def _ack(self, verb: str, run_id: str, reason: str) -> Ack:
        self.intents.append((verb, run_id, reason))
        self._refuse(verb)
        return self.acks.get(verb) or Ack(done=True, run_id=run_id, message=f"{verb} accepted")

    def _refuse(self, verb: str) -> None:
        if verb in self.refusals:
            raise self.refusals[verb]

    async def cancel(self, run_id: str, reason: str = "") -> Ack:
        return await self._ack("cancel", run_id, reason)

    async def terminate(self, run_id: str, reason: str = "") -> Ack:
        return await self._ack("terminate", run_id, reason)

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        return await self._ack("stop", run_id, reason)

    async def pause(self, run_id: str, reason: str = "") -> Ack:
        return await self._ack("pause", run_id, reason)

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        return await self._ack("resume", run_id, reason)

    async def undo_plan(self, run_id: str) -> UndoPlan:
        if self.standing is None:
            raise Refused("UNDO_NOTHING", f"nothing that run {run_id} wrote stands")
        return self.standing

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        self.intents.append(("undo", run_id, reason, approved))
        begun = run_summary(
            run_id=f"5{run_id[1:]}", parent_run_id=run_id, trigger="undo", cause=f"undo of {run_id[:8]}"
        )
        self.runs_list.append(begun)
        return begun

    async def unlatch(self, path: str, reason: str) -> Ack:
        return await self._ack("unlatch", path, reason)

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        return await self._ack("unprotect", path, reason)

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        return await self._ack("trust_pack", path, digest)

    async def untrust_pack(self, digest: str) -> Ack:
        return await self._ack("untrust_pack", digest, "")

    async def trusted_packs(self) -> tuple[TrustedPack, ...]:
        return ()

    async def answer(self, intent: Answer) -> Ack:
        self.intents.append(("answer", intent))
        return Ack(done=True, run_id=RUN, message=f"{intent.resolution}")

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
        found = self._matching(text, statuses)
        if before is not None:
            found = [run for run in found if (run.created_at, run.run_id) < before]
        if sort != "created" or not descending:
            attribute = {"created": "created_at", "duration": "duration_ms"}.get(sort, sort)
            found.sort(
                key=lambda run: (_plain(getattr(run, attribute)), run.created_at, run.run_id), reverse=descending
            )
        return tuple(found[offset : offset + limit])

    def _matching(self, text: str, statuses: Sequence[RunStatus]) -> list[RunSummary]:
        return [
            run
            for run in self.runs_list
            if text.strip().casefold() in f"{run.mission} {run.run_id} {run.status.value}"
            and (not statuses or run.status in statuses)
        ]

    async def count_runs(self, *, text: str = "", statuses: Sequence[RunStatus] = ()) -> int:
        return len(self._matching(text, statuses))

    async def lineage(self, run_id: str) -> tuple[RunSummary, ...]:
        mine = await self.find(run_id)
        return tuple(run for run in self.runs_list if run.lineage_id == mine.lineage_id)

    async def replay(self, intent: Replay) -> ReplayReport:
        self.intents.append(("replay", intent))
        if self.replay_report is None:
            raise Refused("RUN_UNKNOWN", "the test prepared no replay")
        return self.replay_report

    async def compare(
        self, base: str, other: str, *, timing_ms: int | None = None, expected: Sequence[str] = ()
    ) -> Comparison:
        self.intents.append(("compare", (base, other)))
        if self.comparison is None:
            raise Refused("RUN_UNKNOWN", "the test prepared no comparison")
        return self.comparison

    async def watch(self, intent: Watch) -> WatchState:
        self.intents.append(("watch", intent))
        return self.watch_list[0]

    async def unwatch(self, watch_id: str) -> Ack:
        return await self._ack("unwatch", watch_id, "")

    async def rearm(self, watch_id: str) -> Ack:
        return await self._ack("rearm", watch_id, "")

    async def watches(self) -> tuple[WatchState, ...]:
        return tuple(self.watch_list)

    async def find(self, selector: str) -> RunSummary:
        for run in self.runs_list:
            if run.run_id.startswith(selector):
                return run
        raise Refused("RUN_UNKNOWN", f"no run {selector!r}")

    async def nodes(self, run_id: str) -> tuple[NodeInfo, ...]:
        return tuple(self.nodes_list)

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
        self.reads.append((after, limit))
        found = [
            item
            for item in self.entries_list
            if item.run_id == run_id
            and after < item.seq <= (sys.maxsize if until is None else until)
            and (not kinds or item.kind in kinds)
            and (step is None or step in (item.entry.get("step_id"), item.entry.get("receipt", {}).get("step_id")))
        ]
        return tuple(found[offset : offset + limit])

    async def count_entries(self, run_id: str, *, kinds: Sequence[str] = ()) -> int:
        return len([item for item in self.entries_list if item.run_id == run_id and (not kinds or item.kind in kinds)])

    async def violations(self, run_id: str | None = None, *, limit: int = 200) -> tuple[Violation, ...]:
        return tuple(self.violations_list[:limit])

    async def violation(self, run_id: str, seq: int) -> Violation:
        """With its places when the test gives them, else as the journal has it."""
        for listed in self.violations_list:
            if (listed.run_id, listed.seq) == (run_id, seq):
                return listed
        (found,) = (item for item in self.entries_list if (item.run_id, item.seq) == (run_id, seq))
        return violation(run_id, seq, found.at, found.entry, mission=self.runs_list[0].mission)

    async def escalations(self, *, run_id: str | None = None, open_only: bool = True) -> tuple[Escalation, ...]:
        return tuple(self.inbox)

    async def verify(self, run_id: str, *, witnesses: Sequence[str] = ()) -> Verification:
        self._refuse("verify")
        return self.verdict or good_verdict(run_id, len(self.entries_list))

    async def proof(self, run_id: str, seq: int) -> Proof:
        self.intents.append(("proof", run_id, seq))
        self._refuse("proof")
        if self.proof_given is None:
            raise Refused("PROOF_NONE", f"no checkpoint covers entry {seq}")
        return replace(self.proof_given, run_id=run_id, seq=seq)

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        return await self._ack("accept_loss", journal_id, reason)

    async def rotate_key(self, reason: str) -> Ack:
        return await self._ack("rotate_key", "", reason)

    async def bundle_plan(self, run_id: str, withhold: Sequence[str] = ()) -> BundlePlan:
        """The plan the test gives, with what is withheld taken out of its sum."""
        self.intents.append(("bundle_plan", run_id, tuple(withhold)))
        self._refuse("bundle_plan")
        plan = self.plan or BundlePlan(run_id=run_id, members=(), total_bytes=0, kinds=())
        kept = tuple(replace(item, withheld="the operator") if item.what in withhold else item for item in plan.members)
        return replace(plan, members=kept, total_bytes=sum(item.bytes for item in kept if not item.withheld))

    async def bundle(self, intent: ExportBundle) -> Exported:
        self.intents.append(("bundle", intent))
        self._refuse("bundle")
        plan = await self.bundle_plan(intent.run_id, intent.withhold)
        withheld = sum(bool(item.withheld) for item in plan.members)
        made = Exported(path=intent.target, sha256="5e" * 32, bytes=plan.total_bytes, members=0, withheld=withheld)
        return self.exported or replace(made, members=len(plan.members) - withheld)

    async def artifact(self, digest: str) -> bytes | None:
        return self.artifacts.get(digest)

    async def wait(self, run_id: str) -> RunSummary:
        return await self.find(run_id)

    async def drained(self) -> None:
        return

    def subscribe(self) -> FakeFeed:
        feed = FakeFeed()
        self.feeds.append(feed)
        return feed

    async def close(self) -> None:
        self.closed = True


def _plain(value: object) -> Any:
    return value.value if isinstance(value, RunStatus) else value


def good_verdict(run_id: str, entries: int) -> Verification:
    """Every entry is good, and inside a checkpoint that something outside the store confirms."""
    return Verification(
        run_id=run_id,
        ok=True,
        entries=entries,
        trusted_prefix=entries,
        head_seq=entries - 1,
        head_hash="sha256:" + "0" * 64,
        closed=False,
        level="witnessed",
        integrity=Verdict(standing="good", words="all hashes and links hold"),
        completeness=Verdict(standing="good", words="everything is there, and all that began has ended"),
        anchoring=Verdict(standing="good", words="the newest checkpoint covers every entry"),
        checkpoint_size=entries,
        witnessed_size=entries,
        words="lusab babad gutih tugad hadov mivus",
        key_words="bizat zukop furav dopil hajug nirot",
    )


def run_summary(**changes: Any) -> RunSummary:
    """A running run; override what the test cares about."""
    members: dict[str, Any] = {
        "run_id": RUN,
        "session_id": "s1",
        "lineage_id": RUN,
        "mission": "fix-the-build",
        "mission_version": "1",
        "mission_path": "fix-the-build",
        "status": RunStatus.RUNNING,
        "created_at": AT,
        "duration_ms": 4200,
        "steps_done": 2,
        "steps_total": 6,
        "entries": 0,
    }
    return RunSummary(**{**members, **changes})


NODES = [
    NodeInfo(node_id="red", block_type="run_tests"),
    NodeInfo(node_id="propose", block_type="llm_call", after=("red",)),
    NodeInfo(node_id="apply", block_type="tool_invoke", after=("propose",)),
    NodeInfo(node_id="green", block_type="run_tests", after=("apply",)),
    NodeInfo(node_id="stage", block_type="tool_invoke", after=("green",)),
    NodeInfo(node_id="commit", block_type="tool_invoke", after=("stage",)),
]


def mission(name: str = "fix-the-build", **changes: Any) -> MissionInfo:
    """A mission as the catalogue lists it."""
    members: dict[str, Any] = {
        "name": name,
        "path": name,
        "version": "1",
        "description": "Repair a failing test suite, prove it, commit it.",
        "inputs": (InputInfo(name="goal", type="string", required=False, default="Make the failing tests pass."),),
        "nodes": tuple(NODES),
        "envelope": {
            "allowed_paths": ["src/**", "tests/**"],
            "allowed_tools": ["filesystem.write_file", "git.add", "git.commit"],
            "max_budget_micros": 500_000,
            "timeout_seconds": 120,
        },
        "workspace": "private copy of project (git)",
    }
    return MissionInfo(**{**members, **changes})


def entry(seq: int, kind: str, run_id: str = RUN, **members: Any) -> EntryAppended:
    """One journal entry of a run."""
    at = f"2026-01-02T00:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z"
    return EntryAppended(
        run_id=run_id,
        seq=seq,
        kind=kind,
        at=at,
        entry_hash=f"sha256:{seq:064x}",
        entry={"seq": seq, "kind": kind, **members},
    )


def lanes(depth: int = 1) -> tuple[LaneState, ...]:
    """Gauges of the three lanes."""
    return tuple(
        LaneState(
            lane=name,
            depth=depth,
            limit=limit,
            high=limit // 2,
            low=limit // 4,
            saturated=False,
            dispatched=3,
            running=1,
            dropped=0,
        )
        for name, limit in (("ControlLane", 32), ("DataLane", 128), ("TelemetryLane", 128))
    )


def streams() -> tuple[LaneState, ...]:
    """Gauges of the two stream edges in the middle of a storm."""

    def edge(lane: str, depth: int, dispatched: int, dropped: int, *, saturated: bool) -> LaneState:
        return LaneState(
            lane=lane,
            depth=depth,
            limit=1024,
            high=768,
            low=384,
            saturated=saturated,
            dispatched=dispatched,
            running=0,
            dropped=dropped,
        )

    return (
        edge("DataLane", 412, 12_345, 0, saturated=False),
        edge("TelemetryLane", 1024, 3_072, 31_870, saturated=True),
    )
