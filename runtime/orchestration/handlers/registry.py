"""Which handler does what.

A type or tool action without a real implementation is not registered and therefore denied; no handler may report
success without having done the work (operations spec §3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationPlan
from runtime.orchestration.handlers import (
    escalate,
    filesystem,
    gates,
    git_tools,
    http,
    llm,
    mail_send,
    output,
    process,
    routes,
    tests_run,
)
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits


class Registry:
    """Handlers by operation type."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    def get(self, operation_type: str) -> Handler | None:
        return self._handlers.get(operation_type)


class ToolHandler:
    """``tool_invoke``: looks up ``tool.action`` and passes the rest on (operations spec §3.2)."""

    def __init__(self, actions: Mapping[str, Handler]) -> None:
        self._actions = dict(actions)

    def traits(self, plan: OperationPlan) -> Traits:
        return self._actions[plan.tool or ""].traits(plan)

    async def plan(self, call: PlanCall) -> OperationPlan:
        name, params = split_tool(call.params)
        action = self._actions.get(name)
        if action is None:
            known = ", ".join(sorted(self._actions))
            raise Refused("TOOL_UNKNOWN", f"there is no tool action {name!r}", hint=f"known: {known}")
        inner = PlanCall(operation_id=call.operation_id, params=params, ctx=call.ctx, stack=call.stack)
        return await action.plan(inner)

    async def run(self, call: RunCall) -> HandlerOutcome:
        return await self._actions[call.plan.tool or ""].run(call)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return await self._actions[plan.tool or ""].recovered(plan)


def split_tool(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """``tool.action`` and the action's own params; ``tool`` may hold both, joined with a dot."""
    tool, action = params.get("tool"), params.get("action")
    rest = {name: value for name, value in params.items() if name not in ("tool", "action")}
    if not isinstance(tool, str) or not isinstance(action, str | None):
        raise Refused("OP_PARAMS", "tool_invoke: tool and action must be text")
    return (tool if action is None else f"{tool}.{action}"), rest


def build(settings: HandlerSettings) -> Registry:
    """Every handler this workspace supports. Raises `Refused` ``PROCESS_TEMPLATE`` for a bad command template."""
    tools: dict[str, Handler] = {
        **filesystem.actions(settings),
        **git_tools.actions(settings),
        **output.actions(settings),
        **http.actions(settings),
        **mail_send.actions(settings),
        "pytest.run": tests_run.TestsHandler(settings, tool="pytest.run"),
        "process.run": process.ProcessHandler(settings),
    }
    return Registry(
        {
            "tool_invoke": ToolHandler(tools),
            "run_tests": tests_run.TestsHandler(settings),
            "gate_check": gates.GateHandler(settings),
            "packet_route": routes.RouteHandler({**settings.transforms, **routes.BUILT_IN}),
            "llm_call": llm.LlmHandler(settings.models),
            "escalate": escalate.EscalateHandler(),
        }
    )
