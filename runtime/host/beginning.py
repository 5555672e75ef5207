"""The first entries of a run's journal, and what is known of a run before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from runtime.events.envelope import ControlSignal
from runtime.events.facts import FileChange, RunSummary
from runtime.host.api import Launch
from runtime.host.assembly import Parts, Shared, wall
from runtime.host.hooks import Hooks
from runtime.host.lineage import Fork, Reuse
from runtime.host.prepared import Prepared
from runtime.host.surroundings import surroundings
from runtime.host.undoing import Rollback
from runtime.host.versions import BEHAVIOUR_VERSION, code_version
from runtime.host.words import plain_words
from runtime.kernel.canonical import canonical_bytes
from runtime.missions.loader import Mission
from runtime.orchestration.journal_history import FinishedStep
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.run_controller import PreflightFacts
from runtime.storage.missions import MissionRecord, insert_mission
from runtime.storage.runs import RunRecord, insert_run
from runtime.storage.store import Store

#: Reused attempts journalled between two looks at the disk, far below what the writer lets wait.
_TAKEN_AT_ONCE: Final = 1000
#: Changed files named in a run's first entry; ``cause`` says how many there were.
MAX_BECAUSE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a run is."""

    run_id: str
    session_id: str
    lineage_id: str
    recipe_hash: str


@dataclass(frozen=True, slots=True)
class Start:
    """One new run, as far as it can be told before its tree is looked at."""

    mission: Mission
    inputs: Mapping[str, Any]
    identity: Identity
    summary: RunSummary
    intent: Launch
    fork: Fork | None = None
    rollback: Rollback | None = None
    changes: Sequence[FileChange] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A run that only lacks its first entry."""

    prepared: Prepared
    parts: Parts
    hooks: Hooks
    facts: PreflightFacts
    signals: list[ControlSignal]
    reuse: Reuse


async def write_opening(ready: Ready, start: Start, shared: Shared, store: Store, prev_head: str | None) -> None:
    """The first entries, then what is reused, then the run's row with the mission's bytes (ruling R23).

    ``prev_head`` is the digest of the newest checkpoint of the store: taking an older journal away shows in this one.

    The row comes last: an entry that cannot be recorded must not leave a row without a journal, and a run that can
    be resumed has in its journal everything it was to reuse.
    """
    prepared, facts = ready.prepared, ready.facts
    identity, intent, changes = start.identity, start.intent, start.changes
    mission, plan, journal = prepared.mission, prepared.plan, prepared.journal
    document = shared.artifacts.put(plan.document())
    # Kept under the mission's own hash, so that a later fork can tell which blocks have changed.
    shared.artifacts.put(canonical_bytes(mission.definition))
    journal.append(
        "journal_opened",
        mission_id=mission.name,
        run_id=identity.recipe_hash,
        mission_type=mission.name,
        baseline_commit=facts.baseline_commit,
        envelope_hash=mission.envelope.envelope_hash,
        prev_journal_head=prev_head,
        mission_version=mission.spec.version,
        session_id=identity.session_id,
        lineage_id=identity.lineage_id,
        workspace=prepared.workspace.describe(),
        confinement=shared.sandbox.tier,
        sandbox=wall(mission, shared).record(),
        protected_hash=facts.protected_hash,
        governance_hash=facts.governance_hash,
        **prepared.policy.rules.record(),
        code_version=code_version(),
        behaviour_version=BEHAVIOUR_VERSION,
        # The files the mission names are kept, so that the run can be replayed where its folder is not.
        files={item.name: shared.artifacts.put(item.data) for item in mission.files.values()},
        environment=shared.artifacts.put(surroundings(shared.sandbox.tier)),
        **({"packs": [asdict(item) for item in mission.packs]} if mission.packs else {}),
        trigger=prepared.summary.trigger,
        **({"reason": plain_words(intent.reason)} if intent.reason else {}),
        **({"cause": prepared.summary.cause} if prepared.summary.cause else {}),
        **({"because": [asdict(item) for item in changes[:MAX_BECAUSE]]} if changes else {}),
        **({"resumes": intent.parent_run_id} if intent.parent_run_id else {}),
        **ready.reuse.member(shared.artifacts),
        **({} if start.rollback is None else start.rollback.member()),
    )
    journal.append(
        "plan",
        plan_hash=plan.plan_hash,
        contract_hash=plan.contract_hash,
        document=document,
        steps=len(mission.spec.blocks),
    )
    journal.append("signal", signals=[item.record() for item in ready.signals])
    for number, step in enumerate(ready.reuse.steps, 1):
        _take_over(journal, step)
        if number % _TAKEN_AT_ONCE == 0:
            await journal.durable
    store.submit(
        [
            insert_mission(
                MissionRecord(
                    mission_hash=mission.mission_hash,
                    name=mission.name,
                    version=mission.spec.version,
                    path=str(mission.path),
                    source=mission.source,
                    first_seen=prepared.summary.created_at,
                )
            ),
            insert_run(
                RunRecord(
                    summary=prepared.summary,
                    epoch=store.epoch,
                    mission_hash=mission.mission_hash,
                    plan_digest=document,
                    contract_hash=plan.contract_hash,
                    plan_hash=plan.plan_hash,
                    recipe_hash=identity.recipe_hash,
                    unattended=prepared.unattended,
                )
            ),
        ]
    )


def _take_over(journal: MissionJournal, step: FinishedStep) -> None:
    """Start and end of an attempt an earlier run executed, so that this journal is complete by itself (ruling R19)."""
    record = step.record
    place: dict[str, Any] = {"attempt": record.attempt, "visit": record.visit, "tick": record.tick}
    journal.record_step(
        record.step_id,
        operation_type=record.operation_type,
        name=record.name,
        inputs=record.inputs,
        reused_from=step.reused_from,
        **place,
    )
    journal.complete_step(
        record.step_id,
        record.status,
        outputs=record.outputs,
        error_message=record.error_message,
        code=step.code,
        accepted=step.accepted,
        reused_from=step.reused_from,
        **place,
        **step.extras,
    )
