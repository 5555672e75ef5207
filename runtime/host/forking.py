"""What a fork may reuse of the run it starts from: pure decisions over recorded attempts (rulings R13, R14, R19).

A dataflow keeps what does not follow the chosen step; a routed mission keeps what its one cursor had done before it
first came there, as far as its branches still lead the same way. Either way only steps whose definition is what it was
are kept, only visits that ended well, and nothing that depends on a step that runs again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.blocks.recurring import STREAM_ENDS
from runtime.kernel.canonical import digest
from runtime.kernel.model import Effect, OperationReceipt, StepRecord, thawed
from runtime.missions import references
from runtime.missions.graph import Graph
from runtime.missions.loader import Mission
from runtime.missions.model import BlockSpec
from runtime.missions.parameters import LEAVING, tool_action
from runtime.orchestration.journal_history import FinishedStep, StepKey, finished_step, step_key, step_of_operation
from runtime.orchestration.journal_history import step_record as started_record
from runtime.orchestration.operation_table import KnownOperation, OperationTable, left_changes
from runtime.orchestration.reuse import Redone

_APPROVAL: Final = "approval"
_CHILD: Final = "child_workflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One block attempt of the parent. ``step`` is None while it has no result of its own: open, or cancelled.

    ``place`` counts attempts in the order they were needed; ``step.reused_from`` is the run that executed it.
    """

    record: StepRecord
    place: int = -1
    step: FinishedStep | None = None

    @property
    def key(self) -> StepKey:
        return step_key(self.record)

    @property
    def block(self) -> str:
        """The mission's block it belongs to."""
        return self.record.step_id.partition("/")[0]

    @property
    def origin(self) -> str:
        """The run that executed it."""
        return "" if self.step is None else self.step.reused_from or ""


def attempts_of(
    run_id: str, entries: Iterable[Mapping[str, Any]], redone: Sequence[Redone] = ()
) -> tuple[Attempted, ...]:
    """Every attempt in a journal, in the order they were needed.

    That is the order they began in, but for a fork: it journals what it takes over first, and ``redone`` says which
    visits it did again in between.
    """
    found: dict[StepKey, Attempted] = {}
    for entry in entries:
        if entry["kind"] == "step_started":
            record = started_record(entry)
            found[step_key(record)] = Attempted(record=record)
        elif entry["kind"] == "step_finished" and entry["status"] != "cancelled":
            step = finished_step(entry)
            key = step_key(step.record)
            found[key] = replace(found[key], step=replace(step, reused_from=step.reused_from or run_id))
    places = {visit: place for place, visit in redone}
    ranked = [
        (places.get(item.key[:3], place) - (item.key[:3] in places) / 2, place, item)
        for place, item in enumerate(found.values())
    ]
    ranked.sort(key=lambda each: each[:2])
    return tuple(replace(item, place=place) for place, (_, _, item) in enumerate(ranked))


# -- which blocks run again ------------------------------------------------------------------------------------


def follows(graph: Graph, blocks: Iterable[str]) -> set[str]:
    """``blocks`` and everything that may run, or read, after them."""
    following = graph.successors()
    for principal, stand_in in graph.fallbacks.items():
        # What a stand-in yields goes where its principal's result would have gone.
        following[stand_in] = [*following[stand_in], *following[principal]]
    for principal, stand_in in (*graph.handlers.items(), *graph.fallbacks.items()):
        following[principal] = [*following[principal], stand_in]
    seen: set[str] = set()
    waiting = list(blocks)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(following.get(name, ()))
    return seen


def changed_blocks(
    before: Mapping[str, Any], after: Mapping[str, Sequence[str]], mission: Mission, attempts: Sequence[Attempted]
) -> set[str]:
    """Blocks that are not what they were. ``before`` is the parent's definition, ``after`` its blocks' predecessors."""
    if attempts and attempts[0].block != mission.graph.entry:
        return set(mission.spec.blocks)  # the mission starts elsewhere: visits are not the same visits any more
    now = mission.graph.after()
    gone = {item.block for item in attempts} - mission.spec.blocks.keys()
    return gone | {
        name
        for name in mission.spec.blocks
        if _part(before, name, after.get(name)) != _part(mission.definition, name, now[name])
    }


def _part(definition: Mapping[str, Any], name: str, after: Sequence[str] | None) -> str | None:
    """Everything about one block that its result depends on, as a digest; None when there is no such block.

    Provider, envelope and sandbox are no part of it: another model from some step on is what forks are for.
    """
    data, files = definition["mission"], definition["files"]
    block = data.get("blocks", {}).get(name)
    if block is None or after is None:
        return None
    parts: dict[str, Any] = {
        "block": block,
        "after": list(after),
        "branches": (data.get("branches") or {}).get(name),
        "on_error": (data.get("on_error") or {}).get(name),
    }
    each = block.get("each")
    for where, written in (("block", block), ("each", each if isinstance(each, Mapping) else {})):
        schema, child = written.get("output_schema"), written.get("type") == _CHILD
        if isinstance(schema, str):
            parts["schema" if where == "block" else "each_schema"] = files.get(schema)
        if child:
            parts["child"] = definition.get("children", {}).get(written.get("mission"))
        if child or written.get("type") == "llm_call":
            prompts = data.get("prompts") or {}
            texts = [files.get(item["file"]) for item in prompts.values() if isinstance(item, Mapping)]
            parts["prompts"] = [prompts, texts]
        if child or written.get("type") == "run_tests" or tool_action(written) == "process.run":
            parts["commands"] = data.get("commands")
    return digest(thawed(parts))


def open_branches(mission: Mission, inputs: Collection[str]) -> set[str]:
    """Blocks a branch may now lead to, or no longer, because its conditions ask for one of these inputs."""
    asked = {f"inputs.{name}" for name in inputs}
    deciding = {
        where[1]
        for where, condition in mission.conditions.items()
        if where[0] == "branches" and condition.names & asked
    }
    return {case.target for source, cases in mission.spec.branches.items() if source in deciding for case in cases}


def open_approvals(mission: Mission, inputs: Collection[str]) -> set[str]:
    """Blocks with approvals of what one of these inputs is part of: an answer never admits another subject (operations
    spec §11.2)."""
    return {
        name
        for name, block in mission.spec.blocks.items()
        if reads_any(mission, name, inputs) and _asks(mission, block)
    }


def _asks(mission: Mission, block: BlockSpec) -> bool:
    """Is the block an approval, or is one inside it?"""
    for part in block.with_each:
        child = mission.children.get(str(part.params.get("mission"))) if part.type == _CHILD else None
        if part.type == _APPROVAL or (child is not None and any(one.type == _APPROVAL for one in child.every_block())):
            return True
    return False


def reads_any(mission: Mission, block: str, inputs: Collection[str]) -> bool:
    """Do the block's parameters, or those of what it does for each item, refer to one of these inputs?"""
    written = [part.params for part in mission.spec.blocks[block].with_each]
    return not set(inputs).isdisjoint(references.names(written, "inputs"))


def leaves_files(mission: Mission, step_id: str) -> bool:
    """Does the step leave files in the run's own output folder? Each run has one of its own, so nothing there stands."""
    spec = mission.block_at(step_id)
    return spec is not None and spec.type == "tool_invoke" and tool_action(spec.params) in LEAVING


def kept_attempts(mission: Mission, attempts: Sequence[Attempted], again: Iterable[str]) -> tuple[Attempted, ...]:
    """The attempts whose results hold although the blocks ``again`` run again."""
    again = set(again)
    while True:
        beside = _beside(mission.graph, attempts, again)
        broken = _broken(mission, beside, attempts) - again
        if not broken:
            return tuple(item for item in beside if item.step is not None)
        again |= broken


def _beside(graph: Graph, attempts: Sequence[Attempted], again: set[str]) -> tuple[Attempted, ...]:
    """The attempts that came before ``again`` (routed), or do not follow it (dataflow)."""
    if not graph.routed:
        following = follows(graph, again)
        return tuple(item for item in attempts if item.block not in following)
    end = min((item.place for item in attempts if item.block in again), default=len(attempts))
    return tuple(item for item in attempts if item.place < end)


def _broken(mission: Mission, beside: Sequence[Attempted], attempts: Sequence[Attempted]) -> set[str]:
    """Blocks with a visit that did not end well: they may try again."""
    last = {item.key[:3]: item for item in beside if "/" not in item.record.step_id}
    done: dict[str, list[int]] = {}
    for item in attempts:
        if item.step is not None and item.step.code is None:
            done.setdefault(item.block, []).append(item.place)
    return {item.block for item in last.values() if not _ended_well(mission, item, done)}


def _ended_well(mission: Mission, item: Attempted, done: Mapping[str, Sequence[int]]) -> bool:
    """Did the run go on from this visit's last attempt as the mission meant it to? ``done`` are places of successes."""
    if item.step is None:
        return item.record.tick > 1 and item.block == mission.graph.entry  # its next item was only waited for
    if item.step.record.status == "completed" or item.step.code in STREAM_ENDS:
        return True
    block = mission.spec.blocks[item.block]
    if item.step.record.status != "failed":
        return False
    stood_in = done.get(block.fallback, ()) if block.fallback is not None else ()
    return item.step.accepted or block.optional or bisect_right(stood_in, item.place) < len(stood_in)


# -- writes ----------------------------------------------------------------------------------------------------


class Doings:
    """The operations of kept attempts, from the journals of the runs that executed them."""

    def __init__(self, tables: Mapping[str, OperationTable]) -> None:
        self._by_step: dict[tuple[str, StepKey], list[KnownOperation]] = {}
        for run_id, table in tables.items():
            for known in table.everything():
                step_id = known.receipt.step_id if known.receipt is not None else str(known.started["step_id"])
                key = step_of_operation(step_id, known.operation_id)
                self._by_step.setdefault((run_id, key), []).append(known)

    def of(self, attempts: Iterable[Attempted]) -> list[tuple[Attempted, KnownOperation]]:
        """Operation by operation, in order."""
        return [(item, known) for item in attempts for known in self._by_step.get((item.origin, item.key), ())]

    def writes(self, attempts: Iterable[Attempted]) -> list[tuple[StepKey, OperationReceipt]]:
        """Successful writes, undone since or not; a failed attempt left none (ruling R14)."""
        done = [item for item in attempts if item.step is not None and item.step.record.status == "completed"]
        found = ((item.key, known.receipt) for item, known in self.of(done))
        return [
            (key, receipt)
            for key, receipt in found
            if receipt is not None and receipt.effect == Effect.WRITE.value and receipt.status == "success"
        ]


async def not_standing(
    writes: Sequence[tuple[StepKey, OperationReceipt]],
    state_hash: Callable[[Sequence[str]], Awaitable[str | None]],
    workspace: str | None,
) -> set[StepKey]:
    """The steps whose writes the tree does not hold, and every step that wrote after the first of them.

    ``state_hash`` tells the present state of paths, ``workspace`` is the tree's fingerprint. What a later standing
    write covers counts as standing. What only git's own books hold stands when the whole fingerprint is the one
    that was left.
    """
    first, covered, books = len(writes), set[str](), False
    for index in reversed(range(len(writes))):
        receipt = writes[index][1]
        paths = set(receipt.affected_paths)
        if receipt.pre_state_hash == receipt.post_state_hash and left_changes(receipt):
            holds = books = books or (workspace is not None and workspace == receipt.post_workspace)
        else:
            holds = paths <= covered or await state_hash(receipt.affected_paths) == receipt.post_state_hash
        if holds:
            covered |= paths
        else:
            first = index
    return {key for key, _ in writes[first:]}
