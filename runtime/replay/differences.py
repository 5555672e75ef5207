"""One block attempt told twice: at most one difference of each class, the finest there is.

An operation's receipt says more than the output the block made of it, so operations come first, then questions, then
how the attempt ended. Of one operation only the first differing member counts; the rest follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from runtime.events.facts import Divergence
from runtime.replay.policy import ORDERING, OUTCOME, PROVIDER, TIMING, FailPolicy
from runtime.replay.trace import AttemptTrace, OperationTrace, QuestionTrace

#: What makes two receipts of one operation different, in the order it is told (operations spec §11.3).
_COMPARED: Final[Mapping[str, str]] = {
    "type": "it is another kind of operation",
    "params": "it was asked with other parameters",
    "prompt": "the model was asked with another prompt",
    "status": "the operation ended otherwise",
    "code": "the operation ended with another code",
    "output": "the operation gave another output",
    "effect": "the operation had another effect",
    "before": "the files it works on were in another state",
    "after": "it left the files in another state",
    "undo": "its undo went otherwise",
}
_ENDING: Final = ("status", "code", "accepted", "output", "stream")
_STOPPED: Final = "cancelled"
_MISS: Final = "REPLAY_MISS"


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs between two tellings of one attempt; ``drift``: only the version of a model does."""

    found: tuple[Divergence, ...]
    drift: bool = False


def of_attempt(one: AttemptTrace, two: AttemptTrace, policy: FailPolicy) -> Differences:
    """Compare everything but the input, which only means something beside what came before."""
    reused = is_reused(one, two)
    operations = [] if reused else list(_operations(one, two))
    provider = next((item for item in operations if item.kind == PROVIDER), None)
    outcome = next((item for item in operations if item.kind == OUTCOME), None)
    outcome = outcome or (None if reused else _question(one, two)) or _ending(one, two)
    found = [_order(one, two), provider, outcome, _timing(one, two, policy)]
    return Differences(tuple(item for item in found if item is not None), drift=not reused and _drift(one, two))


def is_reused(one: AttemptTrace, two: AttemptTrace) -> bool:
    """Was it taken over from another run on either side? Then what it was given, did and asked is recorded there."""
    return one.reused_from is not None or two.reused_from is not None


def about_step(
    one: AttemptTrace | None,
    two: AttemptTrace | None,
    kind: str,
    name: str,
    detail: str,
    expected: str | None = None,
    actual: str | None = None,
) -> Divergence:
    """A difference of a whole attempt. One side has it."""
    known = one or two
    assert known is not None, "one side has it"
    return Divergence(
        kind=kind,
        scope=f"step:{known.step_id}",
        field=name,
        detail=detail,
        step_id=known.step_id,
        expected=expected,
        actual=actual,
        base_seq=one.seq if one is not None else None,
        other_seq=two.seq if two is not None else None,
    )


def _order(one: AttemptTrace, two: AttemptTrace) -> Divergence | None:
    """Did it begin after other work than before? Predecessors only one side has are the plan's business."""
    before = dict(two.order)
    for name, count in one.order:
        if before.get(name, count) != count:
            detail = f"it began when {name} had ended another number of times"
            return about_step(one, two, ORDERING, f"order.{name}", detail, str(count), str(before[name]))
    return None


def _operations(one: AttemptTrace, two: AttemptTrace) -> Iterator[Divergence]:
    theirs = {(item.operation_id, item.number): item for item in two.operations}
    for mine in one.operations:
        found = theirs.pop((mine.operation_id, mine.number), None)
        if found is None:
            detail = "the operation was not done again"
            yield _operation(one, mine, None, OUTCOME, "operation", detail, mine.type, None)
        else:
            yield from _same_operation(one, mine, found)
    for extra in theirs.values():
        detail = "an operation that was not recorded"
        yield _operation(one, None, extra, OUTCOME, "operation", detail, None, extra.type)


def _same_operation(attempt: AttemptTrace, one: OperationTrace, two: OperationTrace) -> Iterator[Divergence]:
    if one.provider != two.provider or (one.model != two.model and one.output != two.output):
        names = f"{one.provider}/{one.model}", f"{two.provider}/{two.model}"
        yield _operation(attempt, one, two, PROVIDER, "provider", "another provider or model answered", *names)
    for name, detail in _COMPARED.items():
        mine, theirs = getattr(one, name), getattr(two, name)
        if mine != theirs:
            asked = two.code == _MISS and name == "params"
            told = "it asks for something that was not recorded" if asked else detail
            yield _operation(attempt, one, two, OUTCOME, name, told, mine, theirs)
            return


def _drift(one: AttemptTrace, two: AttemptTrace) -> bool:
    """Did another version of a model give the same answer? That is drift, not a difference."""
    theirs = {(item.operation_id, item.number): item for item in two.operations}
    for mine in one.operations:
        found = theirs.get((mine.operation_id, mine.number))
        if found is not None and mine.model != found.model and mine.output == found.output:
            return True
    return False


def _operation(
    attempt: AttemptTrace,
    one: OperationTrace | None,
    two: OperationTrace | None,
    kind: str,
    name: str,
    detail: str,
    expected: str | None,
    actual: str | None,
) -> Divergence:
    known = one or two
    assert known is not None, "one side has it"
    return Divergence(
        kind=kind,
        scope=f"operation:{known.operation_id}",
        field=name,
        detail=detail,
        step_id=attempt.step_id,
        expected=expected,
        actual=actual,
        base_seq=one.seq if one is not None else attempt.seq,
        other_seq=two.seq if two is not None else None,
    )


def _question(one: AttemptTrace, two: AttemptTrace) -> Divergence | None:
    theirs = {item.question: item for item in two.questions}
    for mine in one.questions:
        found = theirs.pop(mine.question, None)
        if found is None or found.subject != mine.subject:
            other = found.subject if found is not None else None
            return _asked(one, mine, found, "question", "another question was asked", mine.subject, other)
        if mine.resolution != found.resolution:
            detail = "the question was answered otherwise"
            return _asked(one, mine, found, "answer", detail, mine.resolution, found.resolution)
        if mine.notes != found.notes:
            return _asked(one, mine, found, "answer", "the answer carries other notes", mine.notes, found.notes)
    extra = next(iter(theirs.values()), None)
    if extra is None:
        return None
    return _asked(one, None, extra, "question", "one question more was asked", None, extra.subject)


def _asked(
    attempt: AttemptTrace,
    one: QuestionTrace | None,
    two: QuestionTrace | None,
    name: str,
    detail: str,
    expected: str | None,
    actual: str | None,
) -> Divergence:
    found = about_step(attempt, None, OUTCOME, name, detail, expected, actual)
    return replace(
        found,
        base_seq=one.seq if one is not None else attempt.seq,
        other_seq=two.seq if two is not None else None,
    )


def _ending(one: AttemptTrace, two: AttemptTrace) -> Divergence | None:
    """An attempt without an end and one that was stopped are alike: neither came to an end by itself."""
    for name in _ENDING:
        if name == "stream" and is_reused(one, two):
            continue  # what it emitted is kept where it was executed
        mine, theirs = getattr(one, name), getattr(two, name)
        if name == "status":
            mine, theirs = mine or _STOPPED, theirs or _STOPPED
        if mine != theirs:
            return about_step(one, two, OUTCOME, name, f"the step's {name} differs", _text(mine), _text(theirs))
    return None


def _timing(one: AttemptTrace, two: AttemptTrace, policy: FailPolicy) -> Divergence | None:
    """How long it took, where somebody gave a tolerance and both sides really took time."""
    if policy.tolerance_ms is None or one.duration_ms is None or two.duration_ms is None:
        return None
    gap = abs(one.duration_ms - two.duration_ms)
    if gap <= policy.tolerance:
        return None
    told = f"{one.duration_ms} ms", f"{two.duration_ms} ms"
    return replace(about_step(one, two, TIMING, "duration", "the step took another time", *told), diff_ms=gap)


def _text(value: object) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
