"""Two tellings of a mission side by side: every difference in its class, and the one all others follow from.

Attempts are matched by what they are (step, tick, visit, attempt), never by when they ran, so siblings that ran at
the same time may end in any order. Attempts that one side does not have because they follow a difference are its
blast radius, not differences of their own (turn runtime §3.27, operations spec §11.3). Pure: traces in, a verdict out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from runtime.events.facts import Comparison, Divergence, StepPair
from runtime.orchestration.journal_history import StepKey
from runtime.replay.cursor import Resumed, resume
from runtime.replay.differences import about_step, is_reused, of_attempt
from runtime.replay.plans import plan_differences, reachable
from runtime.replay.policy import AUTHORITY, CLASSES, ORDERING, OUTCOME, PLAN, FailPolicy
from runtime.replay.trace import AttemptTrace, DecisionTrace, Trace

#: Differences and step pairs a comparison lists; what is beyond is counted.
MAX_DIVERGENCES: Final = 500
MAX_PAIRS: Final = 2000
#: The other side of a comparison with a replay in memory.
REPLAY: Final = "replay"
VERSION_DRIFT: Final = "version_drift"
_CURSOR: Final = "cursor"
#: After everything that has a place.
_LAST: Final = 2**62

_Attempts = dict[StepKey, AttemptTrace]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A difference and where it stands in the base's order."""

    at: int
    found: Divergence

    @property
    def order(self) -> tuple[int, int]:
        return self.at, _rank(self.found.kind)


def compare(
    base: Trace,
    other: Trace,
    *,
    policy: FailPolicy | None = None,
    from_step: str | None = None,
    also: Sequence[Divergence] = (),
) -> Comparison:
    """Everything that differs, in base order. ``also`` are differences found elsewhere, named by their step.

    Equivalent means that nothing fails under ``policy``. With ``from_step`` attempts before its first one are left
    out on both sides; raises `Refused` ``replay_cursor_not_found`` when the base never came to it.
    """
    return _Sides(base, other, policy or FailPolicy(), _resumed(base, other, from_step)).compared(also)


class _Sides:
    """One comparison while it is made."""

    def __init__(self, base: Trace, other: Trace, policy: FailPolicy, resumed: Resumed | None) -> None:
        self._base, self._other, self._policy, self._resumed = base, other, policy, resumed
        self._mine, self._theirs = _remainders(base, other, resumed)
        self._scope = f"turn:{base.run_id}"
        self._following = _merged(base.plan.following(), other.plan.following())
        self._drift = base.code_version != other.code_version

    def compared(self, also: Sequence[Divergence]) -> Comparison:
        found = self._found(also)
        missing = [
            Divergence(
                kind=item.kind,
                scope=item.scope or self._scope,
                field="expected",
                detail="this difference was expected and did not appear",
            )
            for item in self._policy.missing(found)
        ]
        equivalent = not self._policy.failing(found) and not missing
        found += missing
        first = found[0] if found else None
        return Comparison(
            base=self._base.run_id,
            other=self._other.run_id if self._other.stored else REPLAY,
            equivalent=equivalent,
            divergences=tuple(found[:MAX_DIVERGENCES]),
            first=first,
            downstream=self._downstream(first),
            drift=VERSION_DRIFT if self._drift else None,
            steps=tuple(self._pairs(found)),
            truncated=max(0, len(found) - MAX_DIVERGENCES),
        )

    def _found(self, also: Sequence[Divergence]) -> list[Divergence]:
        placed = [*self._plans(), *self._moved(), *self._attempts()]
        placed += [_Placed(self._place(item.step_id, item.base_seq), item) for item in also]
        placed += [*self._absent(placed), *self._decisions()]
        found = [item.found for item in sorted(placed, key=lambda item: item.order)]
        # Numbers of entries nobody can look up say nothing.
        return found if self._other.stored else [replace(item, other_seq=None) for item in found]

    # -- plan and turn ------------------------------------------------------------------------------------------

    def _plans(self) -> Iterator[_Placed]:
        plan, begin = self._base.plan, next((item.step_id for item in self._mine.values()), None)
        for item in plan_differences(plan, self._other.plan):
            wide, at = item.step_id is None, self._place(item.step_id, None)
            if not wide and at < _LAST and all(key[0] != item.step_id for key in self._mine):
                continue  # the step ran before the place where the comparison begins
            found = Divergence(
                kind=PLAN,
                scope=self._scope if wide else f"step:{item.step_id}",
                field=item.field,
                detail=item.detail,
                step_id=begin if wide else item.step_id,
                expected=item.expected,
                actual=item.actual,
                base_seq=plan.seq if wide or at == _LAST else at,
                other_seq=self._other.plan.seq,
            )
            yield _Placed((plan.seq or 0) if wide else at, found)

    def _decisions(self) -> Iterator[_Placed]:
        """The first decision that differs, and the first that was made under another authority."""
        mine, theirs = self._base.decisions, self._other.decisions
        for index in range(max(len(mine), len(theirs))):
            one, two = _at(mine, index), _at(theirs, index)
            if _told(one) != _told(two):
                found = self._decision(OUTCOME, "decision", "the turn was decided otherwise", one, two)
                yield _Placed(_seq(found.base_seq), replace(found, expected=_named(one), actual=_named(two)))
                break
        for one, two in zip(mine, theirs, strict=False):
            if one.name == two.name and self._epoch(one, self._base) != self._epoch(two, self._other):
                found = self._decision(AUTHORITY, "authority_epoch", "decided under another authority", one, two)
                yield _Placed(_seq(one.seq), replace(found, expected=str(one.epoch), actual=str(two.epoch)))
                break

    def _epoch(self, decision: DecisionTrace, trace: Trace) -> int | None:
        """Of the same run as it stands; of two runs since their opening, because every holder counts on."""
        if self._base.run_id == self._other.run_id or decision.epoch is None or trace.epoch is None:
            return decision.epoch
        return decision.epoch - trace.epoch

    def _decision(
        self, kind: str, name: str, detail: str, one: DecisionTrace | None, two: DecisionTrace | None
    ) -> Divergence:
        return Divergence(
            kind=kind,
            scope=self._scope,
            field=name,
            detail=detail,
            base_seq=one.seq if one is not None else None,
            other_seq=two.seq if two is not None else None,
        )

    def _moved(self) -> Iterator[_Placed]:
        """The step the comparison was to begin with is not there on the other side."""
        if self._resumed is not None and self._resumed.moved:
            start = self._base.attempts[self._resumed.base]
            found = about_step(start, None, ORDERING, _CURSOR, "the other side never came to this step")
            yield _Placed(_seq(start.seq), found)

    # -- attempts -----------------------------------------------------------------------------------------------

    def _attempts(self) -> Iterator[_Placed]:
        """Attempts both sides have. An input that differs is told only where no earlier difference explains it."""
        inputs: list[tuple[AttemptTrace, AttemptTrace]] = []
        diverged: set[str] = set()
        for one in self._mine.values():
            two = self._theirs.get(one.key)
            if two is None:
                continue
            differences = of_attempt(one, two, self._policy if self._other.stored else FailPolicy())
            self._drift = self._drift or differences.drift
            if any(item.kind == OUTCOME for item in differences.found):
                diverged.add(one.step_id)
            elif one.input != two.input and not is_reused(one, two):
                inputs.append((one, two))
            for item in differences.found:
                yield _Placed(_seq(one.seq), item)
        behind = self._behind(diverged)
        for one, two in inputs:
            if one.step_id not in behind:
                told = about_step(one, two, OUTCOME, "input", "the step was given something else", one.input, two.input)
                yield _Placed(_seq(one.seq), told)

    def _absent(self, placed: Sequence[_Placed]) -> list[_Placed]:
        """Attempts only one side has, but for those at or behind a step that differs or is itself absent."""
        diverged = {step for step in (self._diverging(item.found) for item in placed) if step is not None}
        alone = [(item, True) for key, item in self._mine.items() if key not in self._theirs]
        alone += [(item, False) for key, item in self._theirs.items() if key not in self._mine]
        covered, found = self._behind(diverged) | diverged, []
        for item, mine in sorted(alone, key=lambda pair: _seq(pair[0].seq)):
            if item.step_id not in covered:
                covered |= self._behind({item.step_id}) | {item.step_id}
                found.append(_one_sided(item, mine=mine))
        return found

    def _diverging(self, found: Divergence) -> str | None:
        """The step whose work a difference may have changed; what concerns all of them explains nothing missing."""
        telling = found.kind in (PLAN, OUTCOME) or found.field == _CURSOR
        return found.step_id if telling and found.scope != self._scope else None

    def _behind(self, steps: set[str]) -> set[str]:
        """Every step that may run after one of these, by either plan."""
        return {name for step in steps for name in reachable(self._following, step)}

    def _place(self, step_id: str | None, seq: int | None) -> int:
        """Where a step first ran in the base; after everything when it never did."""
        if seq is not None:
            return seq
        return next((_seq(item.seq) for item in self._base.attempts if item.step_id == step_id), _LAST)

    # -- the verdict's lists ------------------------------------------------------------------------------------

    def _downstream(self, first: Divergence | None) -> tuple[str, ...]:
        """What follows the first difference in the base's plan, in its order."""
        if first is None or first.step_id is None:
            return ()
        behind = reachable(self._base.plan.following(), first.step_id) - {first.step_id}
        return tuple(name for name in self._base.plan.blocks if name in behind)

    def _pairs(self, found: Sequence[Divergence]) -> Iterator[StepPair]:
        worst: dict[str, str] = {}
        for item in found:
            if item.step_id is not None:
                worst[item.step_id] = min(worst.get(item.step_id, item.kind), item.kind, key=_rank)
        keys = [*self._mine, *(key for key in self._theirs if key not in self._mine)]
        for key in keys[:MAX_PAIRS]:
            yield self._pair(self._mine.get(key), self._theirs.get(key), worst.get(key[0]))

    def _pair(self, one: AttemptTrace | None, two: AttemptTrace | None, worst: str | None) -> StepPair:
        known = one or two
        assert known is not None, "one side has it"
        step_id, tick, visit, attempt = known.key
        there = two if self._other.stored else None
        return StepPair(
            step_id=step_id,
            block_type=known.block_type,
            attempt=attempt,
            visit=visit,
            tick=tick,
            base_status=one.status if one else None,
            other_status=two.status if two else None,
            base_code=one.code if one else None,
            other_code=two.code if two else None,
            base_ms=one.duration_ms if one else None,
            other_ms=there.duration_ms if there else None,
            base_output=one.output if one else None,
            other_output=two.output if two else None,
            base_seq=one.seq if one else None,
            other_seq=there.seq if there else None,
            kind=worst,
            reused_from=next((item.reused_from for item in (one, two) if item and item.reused_from), None),
        )


def _resumed(base: Trace, other: Trace, from_step: str | None) -> Resumed | None:
    if from_step is None:
        return None
    mine, theirs = [item.key for item in base.attempts], [item.key for item in other.attempts]
    return resume(mine, theirs, next((key for key in mine if key[0] == from_step), (from_step, 1, 1, 1)))


def _remainders(base: Trace, other: Trace, resumed: Resumed | None) -> tuple[_Attempts, _Attempts]:
    """The attempts that count on either side. What the base did before the place is left out wherever the other did
    it: siblings that ran at the same time have no order."""
    if resumed is None:
        return {item.key: item for item in base.attempts}, {item.key: item for item in other.attempts}
    before = {item.key for item in base.attempts[: resumed.base]}
    mine = {item.key: item for item in base.attempts[resumed.base :]}
    theirs = {
        item.key: item
        for index, item in enumerate(other.attempts)
        if item.key not in before and (index >= resumed.other or item.key in mine)
    }
    return mine, theirs


def _one_sided(item: AttemptTrace, *, mine: bool) -> _Placed:
    """An attempt without its twin; one the base does not have comes after everything it has."""
    status = item.status or "unfinished"
    if mine:
        return _Placed(_seq(item.seq), about_step(item, None, OUTCOME, "attempt", "the step did not run again", status))
    return _Placed(_LAST, about_step(None, item, OUTCOME, "attempt", "the step ran on one side only", None, status))


def _merged(one: Mapping[str, set[str]], two: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {name: one.get(name, set()) | two.get(name, set()) for name in {*one, *two}}


def _at(items: Sequence[DecisionTrace], index: int) -> DecisionTrace | None:
    return items[index] if index < len(items) else None


def _told(decision: DecisionTrace | None) -> tuple[str, str | None, str] | None:
    return None if decision is None else (decision.name, decision.reason, decision.by)


def _named(decision: DecisionTrace | None) -> str | None:
    if decision is None:
        return None
    return f"{decision.name} ({decision.reason})" if decision.reason else decision.name


def _rank(kind: str) -> int:
    return CLASSES.index(kind) if kind in CLASSES else len(CLASSES)


def _seq(seq: int | None) -> int:
    return _LAST if seq is None else seq
