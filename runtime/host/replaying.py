"""Replaying a run and comparing two: reading what the store has of them, and telling what came of it (ruling R7).

Only reads. The record must verify and be whole; a run somebody works on is not yet a record. The mission is run as
its file is now, so that the report answers whether the change an operator made still does what was done; when the
file is gone or does not load, as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import Comparison, Divergence, ReplayReport, RunSummary, Verification
from runtime.governance.sandbox import Sandbox
from runtime.host.api import Replay
from runtime.host.contract import plan_inputs
from runtime.host.pack_trust import PackTrust, read_trust
from runtime.host.run_packs import RunPacks
from runtime.host.versions import code_version
from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import StoredEntry
from runtime.missions.files import Attachment
from runtime.missions.inputs import InputsInvalid, bind
from runtime.missions.loader import Mission, load, load_bytes
from runtime.missions.problems import MissionInvalid
from runtime.missions.yaml_reader import read
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.replay.answers import changed_answers
from runtime.replay.compare import compare
from runtime.replay.plans import PlanTrace
from runtime.replay.policy import Expected, FailPolicy
from runtime.replay.record import Record
from runtime.replay.recorded import Rehearsal, Replayed, replay
from runtime.replay.trace import Trace, fold_trace
from runtime.storage.store import Store

#: Entries of a run that is replayed or compared in memory.
MAX_ENTRIES: Final = 250_000
#: Model calls whose evidence is read for one comparison.
MAX_MODEL_CALLS: Final = 10_000
#: Replays and comparisons of one process at a time; others wait.
MAX_AT_ONCE: Final = 2
#: What the turn specification calls a replay that runs blocks and answers the rest, with and without a model (§3.27).
PLAYBACK: Final = "playback_recorded_provider_outputs"
RE_SIMULATE: Final = "re_simulate_nodes"
FIDELITY: Final = "recorded"
_MISSING: Final = frozenset({"J_ARTIFACT_MISSING", "J_ARTIFACT_WITHHELD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One run as its records tell it: checked entries, frozen plan, and the mission file it was launched with."""

    summary: RunSummary
    entries: tuple[Mapping[str, Any], ...]
    plan: Mapping[str, Any]
    source: bytes | None
    evidence: Mapping[str, Mapping[str, Any]]
    trace: Trace


class Replaying:
    """Replays and compares for one deck."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._room = asyncio.Semaphore(MAX_AT_ONCE)

    async def replay(
        self, intent: Replay, summary: RunSummary, rows: Sequence[StoredEntry], verdict: Verification
    ) -> ReplayReport:
        """Run the mission against the record of ``summary``'s run, whose journal is ``rows``.

        Raises `Refused`: ``REPLAY_LIVE``, ``REPLAY_NO_RECORD``, ``REPLAY_PRUNED``, ``REPLAY_UNDO``,
        ``REPLAY_MODE``, ``REPLAY_MISSION``, ``STEP_UNKNOWN``, ``replay_cursor_not_found``, and the ``J_…`` code of a
        journal that does not verify.
        """
        async with self._room:
            started = self._clock.monotonic()
            past = await self._recorded(summary, rows, verdict)
            _check_ran(past)
            _check_mode(past.plan)
            _check_step(past, intent.from_step)
            mission, origin = await self._mission(past, intent.mission)
            replayed, record = await self._rehearse(past, mission)
            also = await self._answers(past, mission)
            verdicts = await asyncio.to_thread(
                compare, past.trace, replayed.trace, from_step=intent.from_step, also=also
            )
            return ReplayReport(
                run_id=summary.run_id,
                fidelity=FIDELITY,
                mode=PLAYBACK if past.evidence else RE_SIMULATE,
                mission_source=origin,
                comparison=verdicts,
                operations_answered=replayed.operations_answered,
                operations_total=record.total,
                questions_answered=replayed.questions_answered,
                from_step=intent.from_step,
                duration_ms=(self._clock.monotonic() - started) * 1000,
                generated_at=timestamp(self._clock.now()),
            )

    async def compare(
        self,
        sides: Sequence[tuple[RunSummary, Sequence[StoredEntry], Verification]],
        *,
        timing_ms: int | None,
        expected: Sequence[str],
    ) -> Comparison:
        """Two recorded runs side by side. Raises like `replay`, and ``REPLAY_EXPECTED`` for a word that is no class."""
        policy = FailPolicy(tuple(Expected.parse(item) for item in expected), timing_ms)
        async with self._room:
            base, other = [await self._recorded(*side) for side in sides]
            return await asyncio.to_thread(compare, base.trace, other.trace, policy=policy)

    # -- what the store has -------------------------------------------------------------------------------------

    async def _recorded(self, summary: RunSummary, rows: Sequence[StoredEntry], verdict: Verification) -> Recorded:
        _check_verdict(summary, verdict)
        entries = await asyncio.to_thread(_parsed, rows)
        record = await self._store.runs.record(summary.run_id)
        plan = await self._body(record.plan_digest if record is not None else None)
        if record is None or record.mission_hash is None or plan is None:
            raise _no_record(summary, "the store does not know what it ran from")
        kept = await self._store.missions.get(record.mission_hash)
        evidence = await self._evidence(entries)
        trace = await asyncio.to_thread(_trace, summary, entries, plan, kept.source if kept else None, evidence)
        return Recorded(
            summary=summary,
            entries=entries,
            plan=plan,
            source=kept.source if kept is not None else None,
            evidence=evidence,
            trace=trace,
        )

    async def _evidence(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """The evidence of model calls: who answered, and with what."""
        wanted = [
            str(entry["receipt"]["evidence_hash"])
            for entry in entries
            if entry["kind"] == "receipt" and entry["receipt"]["operation_type"] == "llm_call"
        ]
        found = {name: await self._body(name) for name in dict.fromkeys(wanted[:MAX_MODEL_CALLS])}
        return {name: body for name, body in found.items() if body is not None}

    async def _body(self, name: str | None) -> dict[str, Any] | None:
        body = await self._store.artifacts.get(name) if name is not None else None
        found: dict[str, Any] | None = None if body is None else parse_strict(body, limit=MAX_BODY_BYTES)
        return found

    # -- running ------------------------------------------------------------------------------------------------

    async def _mission(self, past: Recorded, wanted: str) -> tuple[Mission, str]:
        path = Path(past.summary.mission_path)
        if wanted == "current":
            try:
                return await asyncio.to_thread(load, path), "current"
            except MissionInvalid:
                pass  # gone or broken: the report says that it ran the recorded one
        if past.source is None:
            raise _no_record(past.summary, "its mission file is not in the store")
        files = await self._files(past)
        try:
            return await asyncio.to_thread(load_bytes, past.source, path, recorded=files), "recorded"
        except MissionInvalid as invalid:
            raise Refused(
                "REPLAY_MISSION",
                f"the recorded mission does not load any more: {invalid}",
                where=str(path),
                hint="put the files it names back beside it",
            ) from None

    async def _files(self, past: Recorded) -> dict[str, bytes] | None:
        """The files its mission named, as they were; None when the run is from a version that did not keep them."""
        named = past.entries[0].get("files") if past.entries else None
        if not isinstance(named, Mapping):
            return None
        found = {name: await self._store.artifacts.get(digest) for name, digest in named.items()}
        return {name: body for name, body in found.items() if body is not None}

    async def _rehearse(self, past: Recorded, mission: Mission) -> tuple[Replayed, Record]:
        record = await asyncio.to_thread(Record, past.entries)
        contract = past.plan["contract"]["contract"]
        inputs = _inputs(mission, contract["inputs"])
        plan = plan_inputs(
            mission,
            inputs,
            run_id=past.summary.run_id,
            epoch=int(past.plan["authority_epoch"]),
            workspace=contract["workspace"],
            confinement=str(contract["confinement"]),
        )
        packs = await self._packs(mission)
        rehearsal = Rehearsal(
            record=record,
            mission=mission if packs.registry is None else replace(mission, registry=packs.registry),
            inputs=inputs,
            plan=plan,
            code_version=code_version(),
            fetch=self._store.artifacts.get,
            evidence=past.evidence,
        )
        try:
            return await replay(rehearsal), record
        finally:
            await packs.close()

    async def _packs(self, mission: Mission) -> RunPacks:
        """The mission's packs: their blocks run again like all others, confined, under the trust there is today."""
        if not mission.packs:
            return RunPacks()
        trust = PackTrust(await read_trust(self._store))
        sandbox = await Sandbox.detect(mission.spec.sandbox.confinement, clock=self._clock)
        return await RunPacks.open(mission, mission.packs, trust, sandbox)

    async def _answers(self, past: Recorded, mission: Mission) -> tuple[Divergence, ...]:
        """Scripted answers that are no longer what the run got."""
        if mission.answers is None:
            return ()
        try:
            provider = await asyncio.to_thread(_scripted, mission.answers)
        except QuarterdeckError as error:
            raise Refused("REPLAY_MISSION", f"the scripted answers cannot be read: {error}") from None
        return changed_answers(past.entries, past.evidence, provider, mission.answers.path.name)


def check_run(summary: RunSummary) -> None:
    """Can there be a record to read? Raises `Refused` before anything is read."""
    if summary.status is RunStatus.REFUSED:
        raise _no_record(summary, "it was refused before anything was recorded")
    if not summary.status.terminal and not summary.resumable:
        raise Refused(
            "REPLAY_LIVE",
            f"run {summary.run_id} is still {summary.status.value}",
            hint="a record can be replayed when the run has ended or was left",
        )
    if summary.entries > MAX_ENTRIES:
        raise Refused(
            "REPLAY_TOO_LARGE",
            f"the run has {summary.entries} entries, at most {MAX_ENTRIES} are replayed",
            hint="look at it with `quarterdeck replay --fidelity view`",
        )


def _check_verdict(summary: RunSummary, verdict: Verification) -> None:
    """Is the record whole and unaltered?"""
    errors = [item for item in verdict.findings if item.severity == "error" or item.code in _MISSING]
    broken = next((item for item in errors if item.code not in _MISSING), None)
    if broken is not None:
        place = "" if broken.seq is None else f" at entry {broken.seq}"
        raise Refused(
            broken.code,
            f"the journal of run {summary.run_id} does not hold{place}: {broken.detail}",
            hint="`quarterdeck verify` lists everything that is wrong with it",
        )
    if errors:
        raise Refused(
            "REPLAY_PRUNED",
            f"bodies the record of run {summary.run_id} names are no longer stored, or were withheld: {errors[0].detail}",
            hint="`--fidelity view` needs none; `--fidelity live` runs the mission again",
        )


def _check_ran(past: Recorded) -> None:
    """An undo ran no mission: there is nothing to execute again."""
    undid = past.entries[0].get("undoes") if past.entries else None
    if undid is not None:
        raise Refused("REPLAY_UNDO", f"it undid run {undid['run']}", hint="`--fidelity view` walks its journal")


def _check_mode(plan: Mapping[str, Any]) -> None:
    """A plan lists how it may be replayed (turn runtime §3.27)."""
    allowed = plan["contract"]["policies"]["recording_policy"]["allowed_replay_modes"]
    if FIDELITY not in allowed:
        raise Refused(
            "REPLAY_MODE",
            f"the plan of this run allows {', '.join(allowed) or 'no'} replay only",
            hint="its execution profile records too little for more",
        )


def _check_step(past: Recorded, step: str | None) -> None:
    known = {*past.trace.plan.blocks, *(item.step_id for item in past.trace.attempts)}
    if step is not None and step not in known:
        raise Refused(
            "STEP_UNKNOWN", f"run {past.summary.run_id} has no step {step!r}", hint="`quarterdeck show` lists them"
        )


def _no_record(summary: RunSummary, why: str) -> Refused:
    return Refused("REPLAY_NO_RECORD", f"run {summary.run_id} cannot be replayed: {why}")


def _parsed(rows: Sequence[StoredEntry]) -> tuple[Mapping[str, Any], ...]:
    """The entries of a journal that has just been verified."""
    return tuple(parse_strict(row.body) for row in rows)


def _trace(
    summary: RunSummary,
    entries: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any],
    source: bytes | None,
    evidence: Mapping[str, Mapping[str, Any]],
) -> Trace:
    seq = next((entry["seq"] for entry in entries if entry["kind"] == "plan"), None)
    written = _definition(source, Path(summary.mission_path))
    return fold_trace(
        entries, PlanTrace(document=plan, definition=written, opened=entries[0], seq=seq), evidence=evidence
    )


def _definition(source: bytes | None, path: Path) -> Mapping[str, Any]:
    """The mission's values as written; empty when nothing is known of it, or it cannot be read by these rules."""
    if source is None:
        return {}
    data = read(source, path).data
    return data if isinstance(data, dict) else {}


def _inputs(mission: Mission, recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recorded inputs, with the defaults of inputs that came since. Where they do not fit, they stay as they were:
    the plan differs then, and the report says where."""
    try:
        return bind(
            mission.spec.inputs, {name: value for name, value in recorded.items() if name in mission.spec.inputs}
        )
    except InputsInvalid:
        return dict(recorded)


def _scripted(answers: Attachment) -> ScriptedProvider:
    document = read(answers.data, answers.path)
    document.report.raise_if_failed()
    return ScriptedProvider(document.data)
