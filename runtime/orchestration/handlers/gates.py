"""``gate_check``: named questions with yes or no for an answer. A gate that does not pass is not a success.

Checks are a closed set of names; there is no expression language and nothing is ever evaluated from text, so an
answer such as ``approved' or '1'=='1`` is just a wrong word (operations spec §3.4).
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import Access, Effect, OperationPlan
from runtime.orchestration.governance_baseline import check_baseline
from runtime.orchestration.handlers import schema_subset
from runtime.orchestration.handlers.escalate import MAX_REASON
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import EscalationNote, HandlerOutcome, PlanCall, RunCall, Traits

#: What a check answers: the reasons it did not pass; none means passed.
Errors = list[str]
Pure = Callable[[Mapping[str, Any]], Errors]
_SCHEMA_PREFIX: Final = "schema:"
_APPROVED: Final = "approved"
_CLOSED: Final = "GATE_NOT_PASSED"
_READING: Final = ("repo_clean", "governance_baseline")


class GateHandler:
    """Effect ``none``, or ``read`` for checks that look at the repository."""

    def __init__(self, settings: HandlerSettings) -> None:
        self._git = settings.git
        self._settings = settings
        self._schemas = settings.models.schemas
        self._looking: dict[str, Callable[[Mapping[str, Any], RunCall], Awaitable[Errors]]] = {
            "path_scope": self._path_scope,
            "repo_clean": self._repo_clean,
            "budget_available": self._budget_available,
        }
        if settings.is_protected is not None:
            self._looking["governance_baseline"] = self._governance_baseline

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("gate_check", call.params)
        check = params.text("schema" if params.given("schema") else "check")
        condition = params.any("data" if params.given("data") else "condition", {})
        on_fail = params.text("on_fail", "fail", among=("fail", "escalate"))
        params.done()
        self._require_known(check)
        if not check.startswith(_SCHEMA_PREFIX) and not isinstance(condition, dict):
            raise params.bad("condition", "must be a mapping")
        effect = Effect.READ if check in _READING else Effect.NONE
        return OperationPlan(effect, data={"check": check, "condition": condition, "on_fail": on_fail})

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        errors = await self._answer(data["check"], data["condition"], call)
        output = {"passed": not errors, "check": data["check"], "errors": errors}
        if not errors:
            return HandlerOutcome(output=output)
        message = "; ".join(errors)
        if data["on_fail"] != "escalate":
            return HandlerOutcome(output=output, code=_CLOSED, message=message)
        note = EscalationNote.about(_CLOSED, message[:MAX_REASON], "warning", check=data["check"])
        return HandlerOutcome(output=output, code=_CLOSED, message=message, escalated=True, notes=(note,))

    def _require_known(self, check: str) -> None:
        if check.startswith(_SCHEMA_PREFIX):
            schema = self._schemas.get(check.removeprefix(_SCHEMA_PREFIX))
            if schema is not None:
                schema_subset.check_schema(schema)
                return
        elif check in PURE or check in self._looking:
            return
        raise Refused("GATE_UNKNOWN", f"there is no check {check!r}", hint=", ".join(sorted({*PURE, *self._looking})))

    async def _answer(self, check: str, condition: Any, call: RunCall) -> Errors:
        if check.startswith(_SCHEMA_PREFIX):
            schema = self._schemas[check.removeprefix(_SCHEMA_PREFIX)]
            return await asyncio.to_thread(schema_subset.errors, schema, condition)
        if check in PURE:
            return PURE[check](condition)
        return await self._looking[check](condition, call)

    async def _path_scope(self, condition: Mapping[str, Any], call: RunCall) -> Errors:
        paths = condition.get("paths")
        if not isinstance(paths, list) or not paths:
            return ["paths must be a non-empty list"]
        try:
            access = Access(condition.get("access", Access.WRITE.value))
        except ValueError:
            return ["access is unknown"]
        verdicts = [await asyncio.to_thread(call.verdict, path, access) for path in paths]
        return [f"{path}: {verdict.code}" for path, verdict in zip(paths, verdicts, strict=True) if not verdict]

    async def _repo_clean(self, condition: Mapping[str, Any], call: RunCall) -> Errors:
        if self._git is None:
            return ["the workspace is not a git work tree"]
        return [f"{line.path} has changes" for line in await self._git.status()]

    async def _governance_baseline(self, condition: Mapping[str, Any], call: RunCall) -> Errors:
        """Passes without a list, too: then there is nothing to differ from (rulings §9.2)."""
        is_protected = self._settings.is_protected
        if is_protected is None:
            return ["the protected set is not known"]
        try:
            await asyncio.to_thread(check_baseline, self._settings.root, is_protected)
        except Refused as refusal:
            return [f"{refusal.code}: {refusal.message}"]
        return []

    async def _budget_available(self, condition: Mapping[str, Any], call: RunCall) -> Errors:
        wanted = condition.get("micros", 1)
        if type(wanted) is not int or wanted < 0:
            return ["micros must be a whole number"]
        left = call.remaining_micros
        return [] if left >= wanted else [f"{left} micro-USD remain, {wanted} are wanted"]


def _equals(condition: Mapping[str, Any]) -> Errors:
    if condition.keys() != {"left", "right"}:
        return ["equals needs left and right"]
    same = canonical_bytes(condition["left"]) == canonical_bytes(condition["right"])
    return [] if same else ["left and right differ"]


def _non_empty(condition: Mapping[str, Any]) -> Errors:
    if not condition:
        return ["there is nothing to check"]
    return [f"{name} is empty" for name, value in condition.items() if value in (None, "", [], {})]


_ORDERED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _compare(condition: Mapping[str, Any]) -> Errors:
    """``text`` may say what is compared in words for a person; it decides nothing."""
    if condition.keys() - {"text"} != {"left", "op", "right"}:
        return ["compare needs left, op and right"]
    left, name, right = condition["left"], condition["op"], condition["right"]
    if name in ("eq", "ne"):
        holds = (canonical_bytes(left) == canonical_bytes(right)) is (name == "eq")
    elif name in ("in", "not_in"):
        if not isinstance(right, list):
            return [f"{name} needs a list on the right"]
        holds = any(canonical_bytes(left) == canonical_bytes(item) for item in right) is (name == "in")
    elif name in _ORDERED:
        if not _comparable(left, right):
            return [f"{name} needs two numbers or two texts"]
        holds = _ORDERED[name](left, right)
    else:
        return ["op must be one of eq, ne, lt, le, gt, ge, in, not_in"]
    return [] if holds else [f"{condition.get('text', name)} does not hold"]


def _comparable(left: object, right: object) -> bool:
    def number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return (number(left) and number(right)) or (isinstance(left, str) and isinstance(right, str))


def _verdict_approved(condition: Mapping[str, Any]) -> Errors:
    """``verdict`` or ``verdicts``; one reject is enough, and so is one word that is not exactly "approved"."""
    listed = condition.get("verdicts", [condition["verdict"]] if "verdict" in condition else [])
    values = list(listed.values()) if isinstance(listed, dict) else listed
    if not isinstance(values, list) or not values:
        return ["there is no verdict"]
    return [f"verdict {number} is not {_APPROVED}" for number, value in enumerate(values, 1) if value != _APPROVED]


def _tests_passed(condition: Mapping[str, Any]) -> Errors:
    wrong = [name for name in ("failures", "errors") if condition.get(name) != 0]
    problems = [f"{name} is {condition.get(name)!r}" for name in wrong]
    if condition.get("passed") is not True:
        problems.append("the tests did not pass")
    executed = condition.get("executed")
    if type(executed) is not int or executed < 1:
        problems.append("no test was executed")
    return problems


PURE: Final[Mapping[str, Pure]] = {
    "equals": _equals,
    "non_empty": _non_empty,
    "compare": _compare,
    "verdict_approved": _verdict_approved,
    "tests_passed": _tests_passed,
}
