"""Is a block of a known type, with the parameters that type takes, naming only what the mission has?

A block that lists the matching code under ``accept`` expects the refusal and is let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.errors import BlockError
from runtime.kernel.codes import known
from runtime.kernel.codes_operations import OPERATIONS as OPERATION_CODES
from runtime.kernel.outcomes import block_code
from runtime.missions import references
from runtime.missions.composites import check_composite
from runtime.missions.draft import COMMON_KEYS, COMPOSITES, EACH, Draft, Site
from runtime.missions.graph import Graph
from runtime.missions.parameters import ACTIONS, CHECKS, OPERATIONS, Shape, check, shape_of, tool_action
from runtime.missions.problems import did_you_mean, shown
from runtime.missions.rules import RUNNER
from runtime.missions.yaml_reader import Where

#: Packs that could not be read, named with a type that is absent.
_UNREAD: Final = 5
_SCHEMA_GATE: Final = "schema:"


def check_block(draft: Draft, site: Site) -> None:
    """Report everything wrong with the type, parameters and accepted codes of one block."""
    _check_type(draft, site)
    _check_accepted(draft, site)
    check_composite(draft, site)


def check_recurring(draft: Draft, graph: Graph) -> None:
    """A recurring block starts its mission, and nothing leads back to it (blocks spec §10, P7)."""
    for site in draft.sites():
        if graph.loose or site.inner or site.type not in draft.recurring:
            continue
        name, where = site.name, site.where
        if name in graph.handlers.values():
            why = f"{name!r} gives one item after the other, so it cannot handle errors"
            draft.document.problem("validation.recurring_handler", why, where, key=True)
        elif name != graph.entry:
            why = f"{name!r} gives one item after the other, so it must be the first block, and {graph.entry!r} is"
            draft.document.problem("validation.recurring_not_entry", why, where, key=True)
        for edge in graph.edges:
            if edge.target == name == graph.entry:
                why = f"{name!r} gives one item after the other; the next one starts the next round by itself"
                draft.document.report.add("validation.recurring_not_entry", why, edge.place, hint="lead elsewhere")


def _check_type(draft: Draft, site: Site) -> None:
    block_type, where = site.type, site.where
    if not block_type:
        return
    shape = draft.types.get(block_type)
    if shape is None:
        text, hint = _absent(draft, block_type)
        draft.document.problem("validation.block_unavailable", text, (*where, "type"), hint=hint)
        return
    params = site.params
    exact = shape_of(block_type, params, shape)
    if exact is None:
        _unknown_action(draft, site, params)
        return
    # What is in ``each`` is a block of its own, checked at its own place.
    written = {**params, EACH: {}} if EACH in site.block else params
    found = [] if site.accepts("OP_PARAM_UNKNOWN", "OP_PARAMS") else list(check(written, exact))
    for problem in found:
        spot = where if problem.name is None else (*where, problem.name)
        hint = did_you_mean(problem.name, {*problem.known, *COMMON_KEYS}) if problem.key else ""
        draft.document.problem(problem.code, problem.message, spot, key=problem.key or problem.name is None, hint=hint)
    if not found:
        _check_construction(draft, site, block_type, params)
    _check_names_in_params(draft, site, block_type, params)


def _absent(draft: Draft, block_type: str) -> tuple[str, str]:
    """Why there is no such type, and what may help: its pack, or one that could not be read, was skipped."""
    text = f"there is no block type {shown(block_type)}"
    for pack in draft.skipped:
        if block_type in pack.type_ids:
            return f"{text}: the pack {pack.name} was skipped, {pack.code}: {pack.message}", "quarterdeck packs list"
    unread = [f"{pack.path} ({pack.code})" for pack in draft.skipped if not pack.type_ids]
    if unread:
        return text, f"packs that could not be read: {', '.join(unread[:_UNREAD])}; quarterdeck packs list says why"
    return text, did_you_mean(block_type, draft.types)


def _check_construction(draft: Draft, site: Site, block_type: str, params: Mapping[str, Any]) -> None:
    """Let the block itself judge what is known of its parameters: a template's syntax, a question's choices."""
    if block_type in COMPOSITES:
        return
    info = draft.registry.info(block_type)
    known = {key: value for key, value in params.items() if not references.has_reference(value)}
    if info.operation or any(item.required and item.name not in known for item in info.config):
        return
    error = _refusal(draft, block_type, known)
    if error is not None and len(known) < len(params):
        # It may miss what a reference will give; a reference is a text, which many parameters may be.
        fields = {item.name: item for item in info.config}
        texts = {key: value for key, value in params.items() if key in fields and fields[key].problem(value) is None}
        error = _refusal(draft, block_type, known | texts)
    if error is not None:
        draft.document.problem(error.code, error.message, site.where, key=True)


def _refusal(draft: Draft, block_type: str, params: Mapping[str, Any]) -> BlockError | None:
    try:
        draft.registry.create(block_type, params)
    except BlockError as error:
        return error
    return None


def _unknown_action(draft: Draft, site: Site, params: Mapping[str, Any]) -> None:
    action = tool_action(params)
    if site.accepts("TOOL_UNKNOWN", "ENV_TOOL") or references.has_reference(params.get("tool")):
        action = ""
    if action:
        key = "action" if isinstance(params.get("action"), str) else "tool"
        draft.document.problem(
            "TOOL_UNKNOWN",
            f"there is no tool action {shown(action)}",
            (*site.where, key),
            hint=did_you_mean(action, ACTIONS),
        )
    for problem in check(params, Shape(OPERATIONS["tool_invoke"].params, open=True)):
        spot: Where = site.where if problem.name is None else (*site.where, problem.name)
        draft.document.problem(problem.code, problem.message, spot, key=problem.name is None)


def _check_names_in_params(draft: Draft, site: Site, block_type: str, params: Mapping[str, Any]) -> None:
    """What only the rest of the mission can tell about parameters: gates, commands, prompts."""
    if block_type == "gate_check":
        _check_gate(draft, site, params)
    elif block_type == "tool_invoke" and tool_action(params) == "process.run":
        _check_command(draft, site, params)
    elif block_type == "llm_call" and "prompt" not in params:
        role = params.get("role") or site.block.get("acting_role") or RUNNER
        prompts = draft.around.get("prompts")
        if isinstance(role, str) and not (isinstance(prompts, dict) and role in prompts):
            wanted = f"nothing is asked: the block has no prompt and the role {shown(role)} has none in 'prompts'"
            draft.document.problem("MISSION_MISSING_PARAMETER", wanted, site.where, key=True)


def _check_gate(draft: Draft, site: Site, params: Mapping[str, Any]) -> None:
    if "require" in params:
        for key in params.keys() & {"condition", "data"}:
            message = f"a gate with 'require' takes no {key!r}: the condition itself says what is looked at"
            draft.document.problem("MISSION_PARAMETER_TYPE", message, (*site.where, key), key=True)
        return
    key = "check" if "check" in params else "schema"
    gate = params.get(key)
    if not isinstance(gate, str) or site.accepts("GATE_UNKNOWN", "OP_PARAMS"):
        return
    if gate.startswith(_SCHEMA_GATE):
        known = {f"{_SCHEMA_GATE}{file}" for file in _schema_files(draft)}
        condition_fits = True
    else:
        known = set(CHECKS)
        condition = params.get("condition", params.get("data", {}))
        condition_fits = isinstance(condition, dict) or references.is_reference(condition)
    if gate not in known:
        hint = did_you_mean(gate, known or CHECKS)
        draft.document.problem("GATE_UNKNOWN", f"there is no check {shown(gate)}", (*site.where, key), hint=hint)
    elif not condition_fits:
        where: Where = (*site.where, "condition" if "condition" in params else "data")
        draft.document.problem("MISSION_PARAMETER_TYPE", f"what {gate!r} checks must be a mapping", where)


def _schema_files(draft: Draft) -> set[str]:
    """The schemas a gate may name: those some model block must answer to."""
    written = (site.block.get("output_schema") for site in draft.sites())
    return {item for item in written if isinstance(item, str)}


def _check_command(draft: Draft, site: Site, params: Mapping[str, Any]) -> None:
    commands = draft.around.get("commands")
    known = {key: item for key, item in commands.items() if key != "python"} if isinstance(commands, dict) else {}
    template, where = params.get("template"), site.where
    if not isinstance(template, str) or site.accepts("TOOL_UNKNOWN", "OP_PARAMS", "OP_PARAM_UNKNOWN"):
        return
    if template not in known:
        hint = did_you_mean(template, known) or "declare it under 'commands'"
        draft.document.problem(
            "MISSION_UNKNOWN_COMMAND", f"the mission has no command {shown(template)}", (*where, "template"), hint=hint
        )
        return
    command = known[template]
    declared = command.get("args", {}) if isinstance(command, dict) else {}
    declared = declared if isinstance(declared, dict) else {}
    given = params.keys() - {"tool", "action", "template"}
    for key in sorted(given - declared.keys()):
        draft.document.problem(
            "MISSION_COMMAND_ARGS", f"the command {template!r} has no argument {shown(key)}", (*where, key), key=True,
            hint=did_you_mean(key, declared),
        )  # fmt: skip
    for key, declaration in declared.items():
        if key not in given and not (isinstance(declaration, dict) and declaration.get("default") is not None):
            message = f"the command {template!r} needs the argument {shown(key)}"
            draft.document.problem("MISSION_COMMAND_ARGS", message, where, key=True)


def _check_accepted(draft: Draft, site: Site) -> None:
    """A misspelt code would never match; packs may have codes of their own, so it is only a warning."""
    listed = site.block.get("accept")
    for index, code in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(code, str) and code.startswith("op.") and not known(code):
            hint = did_you_mean(code, map(block_code, OPERATION_CODES))
            where: Where = (*site.where, "accept", index)
            draft.document.problem(
                "MISSION_ACCEPT", f"no operation fails with {shown(code)}", where, hint=hint, severity="warning"
            )
