"""What the operator decided in advance: which operations are asked about, allowed or denied (ruling R9).

Rules only ever work inside the envelope: `decide` is asked about operations that passed X2–X7, so allowing loosens
nothing. The first rule that fits decides; where none fits, the envelope's word stands. Doubt denies: a rule that asks
or denies fits when it touches one of its paths in any spelling, one that allows only when it covers all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from runtime.kernel import globs
from runtime.kernel.canonical import canonical_bytes, digest
from runtime.kernel.globs import folded
from runtime.kernel.model import Envelope, Operation, OperationPlan

_QUESTION: Final = re.compile(r"(.+)\.rule-[0-9a-f]{12}\Z")
#: What of an operation is shown in its question; all of it is in the digest the answer is bound to.
SHOWN_PATHS: Final = 8
SHOWN_PARAMS: Final = 600


class Do(Enum):
    """What a rule says."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. What it does not name fits everything; ``position`` is where it stands, ``rules.yaml:LINE:COL``.

    ``tool`` is a tool or ``tool.action``, ``op`` an operation type, ``mission`` a pattern of mission names, ``paths``
    patterns of planned paths.
    """

    do: Do
    position: str
    tool: str | None = None
    op: str | None = None
    mission: str | None = None
    paths: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        named = [f"{name} {value}" for name in ("tool", "op", "mission") if (value := getattr(self, name))]
        if self.paths:
            named.append(f"paths {', '.join(self.paths)}")
        return f"{self.do.value} {', '.join(named) or 'everything'}"

    @property
    def evidence(self) -> dict[str, Any]:
        """What a refusal's record says of the rule behind it."""
        needed = "a yes to the question it asks" if self.do is Do.ASK else f"a change of {self.position}"
        told = {"check": "rules", "rule": str(self), "position": self.position, "needed": needed}
        return {**told, "reason_given": self.reason} if self.reason else told

    def fits(self, operation: Operation, plan: OperationPlan, mission: str) -> bool:
        """Is this rule about ``operation``, planned as ``plan`` in ``mission``?"""
        tool = plan.tool or ""
        if self.tool is not None and self.tool not in (tool, tool.partition(".")[0]):
            return False
        if self.op is not None and self.op != operation.type:
            return False
        if self.mission is not None and not globs.matches(self.mission, mission):
            return False
        return not self.paths or self._fits_paths([item.path for item in plan.paths])

    def _fits_paths(self, planned: Sequence[str]) -> bool:
        if self.do is Do.ALLOW:
            return bool(planned) and all(any(globs.matches(item, path) for item in self.paths) for path in planned)
        return any(_touches(pattern, path) for pattern in self.paths for path in planned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One operation somebody must decide about. ``subject`` is what an approval is bound to."""

    question_id: str
    step_id: str
    prompt: str
    subject: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the human said about a `Question`."""

    approved: bool
    by: str
    notes: str = ""


class Desk(Protocol):
    """Who puts questions to a human."""

    async def ask(self, question: Question) -> Answer:
        """Raises `Refused` ``APPROVAL_MISSING`` when nobody can answer."""
        ...


def operation_asked_about(question_id: str) -> str | None:
    """The operation a rule's question is about; None for any other question."""
    found = _QUESTION.match(question_id)
    return None if found is None else found[1]


def decide(rules: Sequence[Rule], operation: Operation, plan: OperationPlan, mission: str) -> Rule | None:
    """The first rule that fits; None where the operator said nothing."""
    return next((rule for rule in rules if rule.fits(operation, plan, mission)), None)


def question_about(
    rule: Rule, operation: Operation, plan: OperationPlan, stack: Sequence[Envelope], step_id: str
) -> Question:
    """The question ``rule`` raises. Whatever the operation is made of changes the subject, and with it the id."""
    subject = digest(
        {
            "schema": "approval/1",
            "type": operation.type,
            "params": digest(operation.hashed),
            "envelopes": [envelope.envelope_hash for envelope in stack],
            "plan": plan.plan_hash,
        }
    )
    return Question(
        question_id=f"{operation.operation_id}.rule-{subject.rpartition(':')[2][:12]}",
        step_id=step_id,
        prompt=_prompt(rule, operation, plan),
        subject=subject,
        rule=rule,
    )


def _prompt(rule: Rule, operation: Operation, plan: OperationPlan) -> str:
    because = f" ({rule.reason})" if rule.reason else ""
    what = plan.tool or operation.type
    paths = plan.affected_paths
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    touches = f" It changes {', '.join(paths[:SHOWN_PATHS])}{more}." if paths else ""
    return f"May {what} go on? {rule.position} asks{because}.{touches} It was given {_params(operation.hashed)}"


def _params(params: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(canonical_bytes(params)), ensure_ascii=False)
    return text if len(text) <= SHOWN_PARAMS else f"{text[:SHOWN_PARAMS]}… ({len(text)} characters)"


def _touches(pattern: str, path: str) -> bool:
    """Does ``path`` match, or hold what the pattern begins with?"""
    if globs.matches(pattern, path, fold=True):
        return True
    held = folded(globs.literal_prefix(pattern)).split("/")
    here = folded(path).split("/")
    return held[: len(here)] == here
