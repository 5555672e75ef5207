"""What a mission will likely take, from what its runs took (blocks spec §19.2): the journal is the record of attempts.

Whole runs that succeeded are the best sample of a run: they know branches, parallel work and retries. Where there are
none yet, the blocks that ever finished are added up. Another version of a mission is another mission.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from runtime.blocks.attempts import AttemptRecord
from runtime.blocks.estimates import NOTHING, BlockEstimate, EstimateSource, combined, from_samples
from runtime.events.facts import MissionEstimate, NodeInfo, StepEstimate
from runtime.kernel.model import MICROS
from runtime.kernel.outcomes import RunStatus
from runtime.missions.loader import Mission
from runtime.storage.past_work import WorkRow

_LLM: Final = "llm_call"
#: How the journal calls blocks whose type is not their own (ruling R3).
_HUMAN, _COMPOSITE = "human", "mission"
#: Receipts of work that was done, however it ended; refused operations were not.
_DONE: Final = ("success", "failed")


@dataclass(slots=True)
class _Work:
    """What one block did in one run, retries and ticks included."""

    block_type: str = ""
    status: str = ""
    time_ms: float = 0.0
    executions: int = 0
    micros: int = 0
    calls: int = 0


@dataclass(slots=True)
class _Run:
    """One run. ``whole``: none of it was taken over from another run."""

    status: RunStatus
    duration_ms: int
    whole: bool = True
    work: dict[str, _Work] = field(default_factory=dict)


def estimate_mission(mission: Mission, rows: Sequence[WorkRow]) -> MissionEstimate:
    """Pure: the estimate of ``mission`` from ``rows`` of its earlier runs."""
    runs, odd = _folded(rows)
    nodes, stand_ins = mission.graph.nodes(), mission.graph.stand_ins()
    parts = {node.node_id: _block(mission, node, runs) for node in nodes}
    whole = from_samples(mission.name, _COMPOSITE, mission.spec.version, list(_whole_runs(mission, runs)))
    notes: list[str] = []
    if whole.sample_size == 0 and any(part.sample_size for part in parts.values()):
        after = {node.node_id: node.after for node in nodes}
        ordinary = {name: part for name, part in parts.items() if name not in stand_ins}
        whole = combined(mission.name, _COMPOSITE, mission.spec.version, ordinary, after)
        notes = ["no run has succeeded yet: added up from blocks that finished", *whole.notes]
    if any(node.block_type == "approval" for node in nodes):
        notes.append("waiting for people is not counted")
    if odd:
        notes.append(f"{odd} records of earlier runs could not be read")
    known = whole.sample_size > 0 or bool(whole.components)
    return MissionEstimate(
        mission=mission.name,
        version=mission.spec.version,
        samples=whole.sample_size,
        source=(EstimateSource.STATS if whole.sample_size else EstimateSource.HEURISTIC).value if known else "unknown",
        confidence=whole.confidence.value if known else "none",
        time_ms=whole.time_ms.mean if known else 0.0,
        time_std_ms=whole.time_ms.std if known else 0.0,
        cost_usd=whole.cost_usd.mean,
        cost_std_usd=whole.cost_usd.std,
        llm_calls=whole.expected_llm_calls,
        block_executions=whole.expected_block_executions if known else 0.0,
        steps=tuple(_step(node, parts[node.node_id]) for node in nodes),
        notes=tuple(notes),
    )


def _folded(rows: Iterable[WorkRow]) -> tuple[Mapping[str, _Run], int]:
    """The runs by id, and how many rows hold something else than steps and receipts do."""
    runs: dict[str, _Run] = {}
    odd = 0
    for row in rows:
        try:
            _take(runs.setdefault(row.run_id, _Run(row.status, row.duration_ms)), row.told)
        except (ValueError, TypeError, AttributeError):
            odd += 1
    return runs, odd


def _take(run: _Run, told: Mapping[str, Any]) -> None:
    if told["reused_from"] is not None:
        run.whole = False
    elif told["step_id"] is not None:
        _take_step(run, told)
    elif told["receipt.compensates"] is None and told["receipt.status"] in _DONE:
        work = _of(run, told["receipt.step_id"])
        work.micros += int(told["receipt.cost_micros"] or 0)
        work.calls += told["receipt.operation_type"] == _LLM


def _take_step(run: _Run, told: Mapping[str, str]) -> None:
    name, kind = told["step_id"], told["operation_type"]
    work = _of(run, name)
    work.executions += kind != _COMPOSITE
    if "/" not in name:  # a block inside another counts as part of it
        work.block_type, work.status = kind, told["status"]
        work.time_ms += 0.0 if kind == _HUMAN else _elapsed(told["started_at"], told["completed_at"])


def _of(run: _Run, step_id: str) -> _Work:
    return run.work.setdefault(step_id.partition("/")[0], _Work())


def _elapsed(started: str, completed: str) -> float:
    """Milliseconds between two stamps of one journal; never negative, whatever a clock did."""
    begin, end = (datetime.fromisoformat(stamp) for stamp in (started, completed))
    return max(0.0, (end - begin).total_seconds() * 1000.0)


def _block(mission: Mission, node: NodeInfo, runs: Mapping[str, _Run]) -> BlockEstimate:
    """One block's estimate, from the runs in which it came to its end."""
    samples = [
        _record(run_id, mission, node.node_id, work.block_type, work.time_ms, [work], work.status == "completed")
        for run_id, run in runs.items()
        if (work := run.work.get(node.node_id)) is not None and _is_same(node.block_type, work.block_type)
    ]
    found = from_samples(node.node_id, node.block_type, mission.spec.version, samples)
    # A person takes as long as a person takes.
    return found if node.block_type != "approval" else replace(found, time_ms=NOTHING)


def _is_same(declared: str, recorded: str) -> bool:
    return recorded in (declared, _COMPOSITE) or (declared, recorded) == ("approval", _HUMAN)


def _whole_runs(mission: Mission, runs: Mapping[str, _Run]) -> Iterable[AttemptRecord]:
    for run_id, run in runs.items():
        if run.whole and run.status is RunStatus.SUCCEEDED:
            yield _record(
                run_id, mission, mission.name, _COMPOSITE, float(run.duration_ms), list(run.work.values()), True
            )


def _record(
    run_id: str, mission: Mission, name: str, kind: str, time_ms: float, work: Sequence[_Work], success: bool
) -> AttemptRecord:
    return AttemptRecord(
        run_id=run_id,
        block_name=name,
        block_type=kind,
        version=mission.spec.version,
        success=success,
        duration_ms=time_ms,
        cost_usd=sum(item.micros for item in work) / MICROS,
        llm_calls=sum(item.calls for item in work),
        block_executions=sum(item.executions for item in work),
    )


def _step(node: NodeInfo, found: BlockEstimate) -> StepEstimate:
    if found.sample_size == 0:
        return StepEstimate(node_id=node.node_id, block_type=node.block_type)
    return StepEstimate(
        node_id=node.node_id,
        block_type=node.block_type,
        samples=found.sample_size,
        time_ms=found.time_ms.mean,
        time_std_ms=found.time_ms.std,
        cost_usd=found.cost_usd.mean,
        llm_calls=found.expected_llm_calls,
    )
