"""Two frozen plans side by side: is it the same contract, and if not, what exactly was changed (ruling R6)?

A contract hash only says that something differs. The mission as written says what: a block, a link, the envelope, a
limit. Facts of the machine are no part of the question, and neither are scripted answers: those are judged by what
they answer, not by their file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.model import thawed

#: What differs between two machines without making a difference to the mission.
_MACHINE: Final = frozenset({"confinement", "workspace"})
#: Members of the contract that are judged by themselves, below.
_JUDGED: Final = frozenset({"mission_hash", "nodes", "inputs", "files", "behaviour_version"}) | _MACHINE
#: Sections of a mission file about single blocks.
_BY_BLOCK: Final = ("blocks", "links", "branches", "on_error")
#: What a run started from, as its first entry says.
_BASELINE: Final = "baseline_commit"
_PROVENANCE: Final = (_BASELINE, "governance_hash", "protected_hash")
_SHOWN: Final = 160
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTrace:
    """A frozen plan as comparison sees it.

    ``document`` is the plan's record, ``definition`` the mission's values as written (empty when no longer known),
    ``opened`` the members of ``journal_opened``. ``seq`` is the plan's entry.
    """

    document: Mapping[str, Any]
    definition: Mapping[str, Any] = field(default_factory=dict)
    opened: Mapping[str, Any] = field(default_factory=dict)
    seq: int | None = None

    @property
    def contract(self) -> Mapping[str, Any]:
        """What the mission fixed."""
        found: Mapping[str, Any] = self.document["contract"]["contract"]
        return found

    @property
    def blocks(self) -> tuple[str, ...]:
        """The steps in registration order."""
        return tuple(str(node["node_id"]) for node in self.contract["nodes"])

    def after(self) -> dict[str, tuple[str, ...]]:
        """Step → its direct predecessors."""
        return {str(node["node_id"]): tuple(node["after"]) for node in self.contract["nodes"]}

    def following(self) -> dict[str, set[str]]:
        """Step → the steps directly behind it: links, branches, and those that stand in for it or handle its failure."""
        found: dict[str, set[str]] = {name: set() for name in self.blocks}
        for name, sources in self.after().items():
            for source in sources:
                found.setdefault(source, set()).add(name)
        for name, block in _section(self.definition, "blocks").items():
            if isinstance(block, Mapping) and isinstance(block.get("fallback"), str):
                found.setdefault(name, set()).add(block["fallback"])
        for source, handler in _section(self.definition, "on_error").items():
            found.setdefault(source, set()).add(str(handler))
        return found


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """One thing the two plans do not share. ``step_id`` None: it concerns every step."""

    field: str
    detail: str
    expected: str
    actual: str
    step_id: str | None = None


def plan_differences(base: PlanTrace, other: PlanTrace) -> tuple[PlanDifference, ...]:
    """Everything that differs: first what concerns every step, then block by block in the base's order."""
    known = bool(base.definition and other.definition)
    wide = [*_sections(base, other), *_values(base, other)] if known else list(_values(base, other))
    steps = list(_blocks(base, other)) if known else []
    files, attached = _files(base, other) if known else ([], False)
    steps += files
    if not (wide or steps):
        wide += _derived(base, other)
    if not (wide or steps or attached) and _mission(base) != _mission(other):
        wide.append(_difference("mission", "the mission is another one", _mission(base), _mission(other)))
    return (*wide, *steps)


def reachable(following: Mapping[str, set[str]], start: str) -> set[str]:
    """Every step that may run after ``start``; itself only when a circle leads back."""
    found: set[str] = set()
    waiting = list(following.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(following.get(name, ()))
    return found


# -- what concerns every step ------------------------------------------------------------------------------------


def _sections(base: PlanTrace, other: PlanTrace) -> Iterator[PlanDifference]:
    mine, theirs = base.definition, other.definition
    for name in _ordered(mine, theirs):
        if name not in _BY_BLOCK and mine.get(name) != theirs.get(name):
            place, one, two = _first(mine.get(name, _ABSENT), theirs.get(name, _ABSENT), name)
            yield _difference(place, f"{place} of the mission was changed", one, two)
    if sorted(base.blocks) == sorted(other.blocks) and base.blocks != other.blocks:
        yield _difference("blocks", "the blocks stand in another order", list(base.blocks), list(other.blocks))


def _values(base: PlanTrace, other: PlanTrace) -> Iterator[PlanDifference]:
    """The values the run began with, what it started from, and the rules of the build."""
    mine, theirs = base.contract["inputs"], other.contract["inputs"]
    for name in _ordered(mine, theirs):
        one, two = mine.get(name, _ABSENT), theirs.get(name, _ABSENT)
        if one is _ABSENT or two is _ABSENT or thawed(one) != thawed(two):
            yield _difference(f"input.{name}", f"input {name} has another value", one, two)
    one, two = base.contract.get("behaviour_version"), other.contract.get("behaviour_version")
    if one != two:
        yield _difference("behaviour_version", "the runtime behaves by other rules", one, two)
    for name in _PROVENANCE:
        one, two = base.opened.get(name), other.opened.get(name)
        if one != two and not (name == _BASELINE and _private(base) and _private(other)):
            yield _difference(name, f"it started from another {name.replace('_', ' ')}", one, two)
    mine, theirs = base.document["snapshot_provenance"], other.document["snapshot_provenance"]
    for name in _ordered(mine, theirs):
        if mine.get(name) != theirs.get(name):
            yield _difference(
                f"provenance.{name}", f"it was planned by another {name}", mine.get(name), theirs.get(name)
            )


def _private(plan: PlanTrace) -> bool:
    """Did the run work on a copy of its own? The first commit of that is made anew each time."""
    return "from" in plan.contract["workspace"]


def _derived(base: PlanTrace, other: PlanTrace) -> Iterator[PlanDifference]:
    """The mission says the same, and yet another contract came of it: the build or its profile changed."""
    mine, theirs = _rest(base), _rest(other)
    for name in _ordered(mine, theirs):
        if mine.get(name) != theirs.get(name):
            place, one, two = _first(mine.get(name, _ABSENT), theirs.get(name, _ABSENT), name)
            yield _difference(place, f"{place} of the plan differs", one, two)


def _rest(plan: PlanTrace) -> dict[str, Any]:
    outer = thawed(plan.document["contract"])
    inner = {name: value for name, value in outer.pop("contract").items() if name not in _JUDGED}
    outer.pop("graph_definition_ref")
    return {**outer, **inner, "nodes": thawed(plan.contract["nodes"])}


def _mission(plan: PlanTrace) -> str:
    return str(plan.contract["mission_hash"])


# -- block by block -----------------------------------------------------------------------------------------------


def _blocks(base: PlanTrace, other: PlanTrace) -> Iterator[PlanDifference]:
    mine, theirs = _section(base.definition, "blocks"), _section(other.definition, "blocks")
    before, behind = base.after(), other.after()
    for name in dict.fromkeys((*base.blocks, *other.blocks)):
        one, two = mine.get(name, _ABSENT), theirs.get(name, _ABSENT)
        if one is _ABSENT or two is _ABSENT:
            word = "was added" if one is _ABSENT else "was removed"
            yield _difference(f"blocks.{name}", f"block {name} {word}", one, two, name)
        elif one != two:
            place, first, second = _first(one, two, f"blocks.{name}")
            yield _difference(place, f"the definition of block {name} was changed", first, second, name)
        elif before.get(name) != behind.get(name):
            links = list(before.get(name, ())), list(behind.get(name, ()))
            yield _difference(f"links.{name}", f"block {name} follows other blocks", *links, name)
        else:
            yield from _routes(base.definition, other.definition, name)


def _routes(mine: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> Iterator[PlanDifference]:
    for section in ("branches", "on_error"):
        one = _section(mine, section).get(name, _ABSENT)
        two = _section(theirs, section).get(name, _ABSENT)
        if one != two:
            yield _difference(f"{section}.{name}", f"{section} of block {name} was changed", one, two, name)


def _files(base: PlanTrace, other: PlanTrace) -> tuple[list[PlanDifference], bool]:
    """Files the mission names that hold something else now, each at the first block it concerns.

    The second part says whether a file accounts for another mission hash.
    """
    mine, theirs = base.contract.get("files"), other.contract.get("files")
    if mine is None or theirs is None:
        return [], False
    changed = [name for name in _ordered(mine, theirs) if mine.get(name) != theirs.get(name)]
    answers = _section(base.definition, "provider").get("scripted")
    found = [
        _difference(
            f"files.{name}",
            f"the file {name} was changed",
            mine.get(name),
            theirs.get(name),
            _user_of(base.definition, name),
        )
        for name in changed
        if name != answers
    ]
    return found, bool(changed)


def _user_of(definition: Mapping[str, Any], file: str) -> str | None:
    """The first block that works with a named file."""
    roles = {
        role
        for role, prompt in _section(definition, "prompts").items()
        if isinstance(prompt, Mapping) and prompt.get("file") == file
    }
    for name, block in _section(definition, "blocks").items():
        if not isinstance(block, Mapping):
            continue
        asks = (
            block.get("type") in ("llm_call", "ai_generate")
            and block.get("role", block.get("acting_role", "runner")) in roles
        )
        if asks or block.get("output_schema") == file:
            return name
    return None


# -- shared -------------------------------------------------------------------------------------------------------


def _section(definition: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = definition.get(name)
    return found if isinstance(found, Mapping) else {}


def _ordered(one: Mapping[str, Any], two: Mapping[str, Any]) -> Sequence[str]:
    return list(dict.fromkeys((*one, *two)))


def _first(one: object, two: object, place: str) -> tuple[str, object, object]:
    """The innermost place where two values differ first."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for name in _ordered(one, two):
            mine, theirs = one.get(name, _ABSENT), two.get(name, _ABSENT)
            if mine != theirs:
                return _first(mine, theirs, f"{place}.{name}")
    return place, one, two


def _difference(
    place: str, detail: str, expected: object, actual: object, step_id: str | None = None
) -> PlanDifference:
    return PlanDifference(place, detail, _shown(expected), _shown(actual), step_id)


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(thawed(value), ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
