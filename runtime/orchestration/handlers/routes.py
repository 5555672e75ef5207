"""``packet_route``: pure transforms of packets, each run twice to prove that it is pure (operations spec §3.3).

Transforms are named and come from this closed table, or from packs the mission uses (ruling R44). They run on deep copies
under a time limit: those of the table in a worker thread, which cannot be killed, so only what certainly ends belongs
there (one pass over a packet of at most 256 KiB, or sorting it); those of packs in a process that is.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.canonical import digest
from runtime.kernel.errors import Refused
from runtime.kernel.model import Effect, ExecutionContext, OperationPlan
from runtime.orchestration.handlers import schema_subset
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.operation_ports import HandlerOutcome, PlanCall, RunCall, Traits

#: Operations spec §3.3.
LIMIT_SECONDS: Final = 5.0
#: One that gives an awaitable is awaited, where it must not block; any other runs in a worker thread.
_Function = Callable[[dict[str, Any], Mapping[str, str]], Any]
#: What a transform without narrower shapes takes and gives.
OBJECT: Final[Mapping[str, Any]] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One named pure function of (packet, context) with the shapes it takes and gives."""

    name: str
    version: str
    function: _Function
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]


class RouteHandler:
    """Effect ``none``; the output is the transform's."""

    def __init__(self, transforms: Mapping[str, Transform] | None = None) -> None:
        self._transforms = dict(BUILT_IN if transforms is None else transforms)

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("packet_route", call.params)
        name = params.text("transform")
        packet = params.mapping("input")
        params.done()
        transform = self._transforms.get(name)
        if transform is None:
            raise Refused("ROUTE_UNKNOWN", f"there is no transform {name!r}", hint=", ".join(sorted(self._transforms)))
        wrong = schema_subset.errors(transform.input_schema, packet)
        if wrong:
            raise Refused("ROUTE_INPUT", f"{name}: {'; '.join(wrong)}")
        data = {"transform": name, "version": transform.version, "input": digest(packet)}
        return OperationPlan(Effect.NONE, data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        transform = self._transforms[call.plan.data["transform"]]
        packet = Params("packet_route", call.params).mapping("input")
        about = _about(call.ctx)
        limit = min(LIMIT_SECONDS, call.timeout)
        async with asyncio.timeout(limit):
            outputs = [await _once(transform, copy.deepcopy(packet), about) for _ in range(2)]
        first, second = outputs
        problem = _shape_problem(transform, first)
        if problem:
            return HandlerOutcome(code="ROUTE_OUTPUT", message=f"{transform.name}: {problem}")
        if digest(first) != digest(second):
            return HandlerOutcome(code="ROUTE_NONDETERMINISTIC", message=f"{transform.name} gave two different answers")
        return HandlerOutcome(output=first, evidence={**call.plan.data, "output": digest(first)})


async def _once(transform: Transform, packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    if inspect.iscoroutinefunction(transform.function):
        return await transform.function(packet, about)
    return await asyncio.to_thread(transform.function, packet, about)


def _shape_problem(transform: Transform, output: object) -> str:
    if not isinstance(output, dict):
        return "the answer is not a mapping"
    return "; ".join(schema_subset.errors(transform.output_schema, output))


def _about(ctx: ExecutionContext) -> dict[str, str]:
    """All a transform may know of where it runs."""
    return {
        "run_id": ctx.run_id,
        "mission_id": ctx.mission_id,
        "step_id": ctx.step_id,
        "mission_type": ctx.mission_type,
    }


def _identity(packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    return packet


def _pick(packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    return {key: packet["from"][key] for key in packet["keys"] if key in packet["from"]}


def _rename(packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    return {packet["names"].get(key, key): value for key, value in packet["from"].items()}


def _merge(packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    merged: dict[str, Any] = {}
    for part in packet["parts"]:
        merged.update(part)
    return merged


def _sort_lines(packet: dict[str, Any], about: Mapping[str, str]) -> Any:
    lines = packet["text"].splitlines()
    return {"text": "\n".join(sorted(set(lines) if packet.get("unique") else lines))}


def _shape(required: list[str], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": dict(properties), "additionalProperties": False}


_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_ROWS: Final[tuple[tuple[str, _Function, Mapping[str, Any]], ...]] = (
    ("identity", _identity, OBJECT),
    ("pick", _pick, _shape(["from", "keys"], {"from": OBJECT, "keys": _TEXTS})),
    (
        "rename",
        _rename,
        _shape(["from", "names"], {"from": OBJECT, "names": {**OBJECT, "additionalProperties": {"type": "string"}}}),
    ),
    ("merge", _merge, _shape(["parts"], {"parts": {"type": "array", "items": OBJECT}})),
    ("sort_lines", _sort_lines, _shape(["text"], {"text": {"type": "string"}, "unique": {"type": "boolean"}})),
)
BUILT_IN: Final[Mapping[str, Transform]] = {
    name: Transform(name=name, version="1", function=function, input_schema=shape, output_schema=OBJECT)
    for name, function, shape in _ROWS
}
