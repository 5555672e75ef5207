"""What running a block is likely to take, from what it took before: pure, total, and honest about how little it knows.

A block is known by its name, type and version; another version is another block. Without samples there is the prior
of blocks spec §19.2. A workflow's estimate is that of its parts along its plan: costs and calls are sums, time is that
of the slowest way through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

from runtime.blocks.attempts import AttemptRecord, AttemptStore

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.workflow import Workflow

#: Samples from which an estimate may be relied on somewhat, and well (blocks spec §19.2).
MEDIUM_SAMPLES: Final = 5
HIGH_SAMPLES: Final = 20
NO_HISTORY: Final = "no history"


class EstimateSource(Enum):
    """``HEURISTIC``: parts of it are measured and parts assumed. ``UNKNOWN``: it could not be estimated."""

    STATS = "stats"
    PRIOR = "prior"
    HEURISTIC = "heuristic"
    UNKNOWN = "unknown"


class Confidence(Enum):
    """By the number of samples; that of a workflow is its least known part's."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @classmethod
    def of(cls, samples: int) -> Confidence:
        return cls.HIGH if samples >= HIGH_SAMPLES else cls.MEDIUM if samples >= MEDIUM_SAMPLES else cls.LOW


@dataclass(frozen=True, slots=True)
class Measure:
    """Mean and population standard deviation."""

    mean: float
    std: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        mean = _mean(values)
        return cls(mean, math.sqrt(_mean([(value - mean) ** 2 for value in values])))

    def __add__(self, other: Measure) -> Measure:
        """Of one after the other, taken as independent."""
        return Measure(self.mean + other.mean, math.hypot(self.std, other.std))


NOTHING: Final = Measure(0.0)
#: Blocks spec §19.2: milliseconds of a block nobody has run yet.
PRIOR_MS: Final = Measure(10.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEstimate:
    """What one execution is expected to take. ``components`` are a workflow's parts, in plan order."""

    block_name: str
    block_type: str
    version: str
    estimate_source: EstimateSource = EstimateSource.PRIOR
    confidence: Confidence = Confidence.LOW
    sample_size: int = 0
    time_ms: Measure = PRIOR_MS
    cost_usd: Measure = NOTHING
    expected_llm_calls: float = 0.0
    expected_block_executions: float = 1.0
    components: tuple[BlockEstimate, ...] = ()
    notes: tuple[str, ...] = ()


def estimate_block(block: Block, attempts: AttemptStore | None) -> BlockEstimate:
    """See `Block.estimate_execution`."""
    named = (block.block_name, block.spec.type_id, block.spec.version)
    if attempts is None:
        return from_samples(*named, ())
    try:
        return from_samples(*named, attempts.samples(*named))
    except Exception as error:  # noqa: BLE001 - an estimate is total, whatever a store does
        return unknown(*named, f"its records cannot be read: {type(error).__name__}")


def estimate_workflow(workflow: Workflow, attempts: AttemptStore | None) -> BlockEstimate:
    """See `Block.estimate_execution`."""
    named = (workflow.block_name, "workflow", workflow.spec.version)
    try:
        plan = workflow.plan()
    except Exception as error:  # noqa: BLE001 - a condition or registry of the author's
        return unknown(*named, f"its plan cannot be made: {type(error).__name__}")
    if plan.errors:
        return unknown(*named, f"its plan has errors: {plan.errors[0].code}")
    nodes = {name: node for name, node in plan.nodes.items() if name in plan.reached}
    parts = {name: node.block.estimate_execution(attempts=attempts) for name, node in nodes.items()}
    after = None if plan.routed else {name: [edge.source for edge in node.inbound] for name, node in nodes.items()}
    notes = ("the blocks of all branches are counted, once each",) if plan.routed else ()
    return combined(*named, parts, after, notes)


def from_samples(block_name: str, block_type: str, version: str, samples: Sequence[AttemptRecord]) -> BlockEstimate:
    """The estimate of one block from its records; the prior where there are none.

    Failed attempts say little about how long success takes, so they are left out and counted in a note.
    """
    good = [item for item in samples if item.success]
    notes = [] if len(good) == len(samples) else [f"{len(samples) - len(good)} of {len(samples)} attempts failed"]
    if not good:
        notes.append(NO_HISTORY)
        return BlockEstimate(block_name=block_name, block_type=block_type, version=version, notes=tuple(notes))
    costs = [item.cost_usd for item in good if item.cost_usd is not None]
    if not costs:
        notes.append("no sample says what it costs")
    return BlockEstimate(
        block_name=block_name,
        block_type=block_type,
        version=version,
        estimate_source=EstimateSource.STATS,
        confidence=Confidence.of(len(good)),
        sample_size=len(good),
        time_ms=Measure.of([item.duration_ms for item in good]),
        cost_usd=Measure.of(costs) if costs else NOTHING,
        expected_llm_calls=_mean([item.llm_calls for item in good]),
        expected_block_executions=_mean([item.block_executions for item in good]),
        notes=tuple(notes),
    )


def combined(
    block_name: str,
    block_type: str,
    version: str,
    parts: Mapping[str, BlockEstimate],
    after: Mapping[str, Sequence[str]] | None,
    notes: Sequence[str] = (),
) -> BlockEstimate:
    """The estimate of ``parts`` together. ``after`` names what each waits for; None: one after the other."""
    several = tuple(parts.values())
    sources = {item.estimate_source for item in several}
    unsure = [name for name, item in parts.items() if item.estimate_source is not EstimateSource.STATS]
    told = [f"assumed, not measured: {', '.join(unsure)}"] if unsure and len(unsure) < len(several) else []
    return BlockEstimate(
        block_name=block_name,
        block_type=block_type,
        version=version,
        estimate_source=sources.pop() if len(sources) == 1 else EstimateSource.HEURISTIC,
        confidence=Confidence.of(min((item.sample_size for item in several), default=0)),
        sample_size=min((item.sample_size for item in several), default=0),
        time_ms=_slowest(parts, after),
        cost_usd=sum((item.cost_usd for item in several), NOTHING),
        expected_llm_calls=math.fsum(item.expected_llm_calls for item in several),
        expected_block_executions=math.fsum(item.expected_block_executions for item in several),
        components=several,
        notes=(*notes, *told),
    )


def unknown(block_name: str, block_type: str, version: str, why: str) -> BlockEstimate:
    """The prior, and why there is nothing better."""
    return BlockEstimate(
        block_name=block_name, block_type=block_type, version=version,
        estimate_source=EstimateSource.UNKNOWN, notes=(why,),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _slowest(parts: Mapping[str, BlockEstimate], after: Mapping[str, Sequence[str]] | None) -> Measure:
    """The time of the slowest way through; of everything in turn where there is no order."""
    one_by_one = sum((item.time_ms for item in parts.values()), NOTHING)
    if after is None:
        return one_by_one
    known = {name: [item for item in after.get(name, ()) if item in parts] for name in parts}
    ends: dict[str, Measure] = {}
    try:
        for name in TopologicalSorter(known).static_order():
            before = max((ends[item] for item in known[name]), key=lambda end: end.mean, default=NOTHING)
            ends[name] = before + parts[name].time_ms
    except CycleError:
        return one_by_one
    return max(ends.values(), key=lambda end: end.mean, default=NOTHING)
