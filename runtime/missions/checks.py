"""Do the parts of a mission fit together? References, parameters, conditions, inputs, names of tools and commands.

These checks read what the file says, guarded, rather than the validated model, so that one structural mistake hides
no other problem. Each reports to the document; none raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.blocks.contracts import BlockValueKindSet
from runtime.kernel import globs
from runtime.kernel.redaction import KEY_LIKE
from runtime.missions import references
from runtime.missions.block_checks import check_block, check_recurring
from runtime.missions.conditions import Condition, Names
from runtime.missions.draft import COMMON_KEYS, COMPOSITES, Draft, Site
from runtime.missions.graph import Ancestry, Graph
from runtime.missions.inputs import fits_type
from runtime.missions.parameters import ACTIONS, TOOLS
from runtime.missions.problems import did_you_mean, shown
from runtime.missions.references import Found, Malformed, Reference
from runtime.missions.watch_rules import hidden
from runtime.missions.yaml_reader import Where

#: What a block with ``accept`` always yields (ruling R16).
ACCEPT_KEYS: Final = ("ok", "code", "output")
#: Sections whose text may hold references, or holds another notation of its own.
_OWN_NOTATION: Final = frozenset({"blocks", "outputs", "branches", "commands", "description"})


def check_all(draft: Draft, graph: Graph) -> dict[Where, Condition]:
    """Run every check; returns the compiled conditions by their place in the file."""
    ancestry = graph.ancestry()
    for name in draft.blocks:
        if draft.document.report.full:
            break
        for site in draft.sites(name):
            check_block(draft, site)
            _check_block_references(draft, graph, site, ancestry)
    check_recurring(draft, graph)
    _check_joins(draft, graph)
    _check_outputs(draft, graph)
    _check_elsewhere(draft)
    _check_inputs(draft)
    _check_tools(draft)
    _check_watch(draft)
    _check_literals(draft, draft.data, ())
    return _compile_conditions(draft, graph, ancestry)


def _check_block_references(draft: Draft, graph: Graph, site: Site, ancestry: Ancestry) -> None:
    earlier: set[str] | None = None
    for way, found in references.find(site.params):
        if earlier is None and not graph.loose:
            earlier = ancestry.upstream(site.name)
        if site.inner and isinstance(found.item, Reference) and found.item.of_item:
            continue
        _check_reference(draft, graph, (*site.where, *way), found, earlier)
    for way, found in references.find({key: value for key, value in site.block.items() if key in COMMON_KEYS}):
        if way[0] != "compensation_command":  # the model says it better
            _forbidden(draft, (*site.where, *way), found)


def _check_joins(draft: Draft, graph: Graph) -> None:
    """Named links give a map, so the block they lead to must take one."""
    for edge in graph.links:
        kind = draft.blocks[edge.target].get("type") if edge.as_ is not None else None
        if isinstance(kind, str) and kind in draft.registry and kind not in COMPOSITES:
            takes = draft.registry.info(kind).input.kinds
            if not takes.intersects(BlockValueKindSet.MAP):
                why = f"named links give a map, but {edge.target!r} takes {takes}"
                draft.document.report.add("validation.kind_mismatch", why, edge.place, hint="remove 'as'")


def _check_reference(draft: Draft, graph: Graph, where: Where, found: Found, earlier: set[str] | None) -> None:
    """One reference: is it one, does its source exist, and has it run? ``earlier`` None: any block will do."""
    item = found.item
    place = draft.document.within(where, found.offset, str(item) if isinstance(item, Reference) else item.text)
    report = draft.document.report
    if isinstance(item, Malformed):
        report.add("MISSION_REFERENCE", f"{shown(item.text)} {item.reason}", place, hint="write $${ for a plain ${")
    elif item.of_item:
        report.add(
            "MISSION_REFERENCE", f"{item}: no item is mapped here", place, hint="it belongs into 'each' of a map_over"
        )
    elif item.root == "inputs":
        _check_input_reference(draft, item, place)
    elif item.name not in graph.known:
        report.add(
            "validation.source_missing",
            f"{item}: there is no block {item.name!r}",
            place,
            hint=did_you_mean(item.name, graph.blocks),
        )
    elif earlier is not None and item.name not in earlier:
        report.add(
            "validation.source_not_upstream",
            f"{item}: {item.name!r} has not run by then",
            place,
            hint=f"link it before {where[1]!r}",
        )
    elif item.keys and _yields_verdict(draft, item.name) and item.keys[0] not in ACCEPT_KEYS:
        report.add(
            "MISSION_REFERENCE",
            f"{item}: {item.name!r} has 'accept' and yields {{ok, code, output}}",
            place,
            hint=f"write {'.'.join(('${outputs', item.name, 'output', *item.keys))}}}",
        )
    else:
        _check_child_output(draft, item, place)


def _check_child_output(draft: Draft, item: Reference, place: tuple[int, int]) -> None:
    """The outputs of a child mission are known; of a mapped one, those of an item."""
    sites = list(draft.sites(item.name))
    child, depth = draft.child_of(sites[-1]), len(sites) - 1
    vague = any(site.block.get("accept") or site.block.get("fallback") for site in sites)
    if child is None or vague or len(item.keys) <= depth:
        return
    outputs, key = child.get("outputs"), item.keys[depth]
    known = outputs if isinstance(outputs, dict) else {}
    if key not in known:
        hint = did_you_mean(key, known) if known else "the child reports no outputs"
        message = f"{item}: the child mission of {item.name!r} has no output {key!r}"
        draft.document.report.add("MISSION_REFERENCE", message, place, hint=hint)


def _yields_verdict(draft: Draft, name: str) -> bool:
    block = draft.blocks.get(name, {})
    return bool(block.get("accept")) and "fallback" not in block


def _check_input_reference(draft: Draft, item: Reference, place: tuple[int, int]) -> None:
    declared = draft.inputs.get(item.name)
    if declared is None:
        draft.document.report.add(
            "MISSION_UNKNOWN_INPUT",
            f"{item}: there is no input {item.name!r}",
            place,
            hint=did_you_mean(item.name, draft.inputs),
        )
    elif item.keys and declared.get("type", "string") != "list":
        draft.document.report.add("MISSION_REFERENCE", f"{item}: the input {item.name!r} has no parts", place)


def _forbidden(draft: Draft, where: Where, found: Found) -> None:
    if isinstance(found.item, Reference):
        place = draft.document.within(where, found.offset, str(found.item))
        draft.document.report.add(
            "MISSION_REFERENCE_FORBIDDEN",
            f"{found.item}: references are not allowed here",
            place,
            hint="only parameters of blocks and the outputs take references",
        )


def _check_outputs(draft: Draft, graph: Graph) -> None:
    for way, found in references.find(draft.data.get("outputs")):
        _check_reference(draft, graph, ("outputs", *way), found, None)


def _check_elsewhere(draft: Draft) -> None:
    """References where nothing would ever resolve them; the work tree's root may name an input."""
    rest = {key: value for key, value in draft.data.items() if key not in _OWN_NOTATION}
    for way, found in references.find(rest):
        item = found.item
        if way == ("workspace", "root") and isinstance(item, Reference) and item.root == "inputs":
            _check_reference(draft, Graph(()), way, found, None)
        else:
            _forbidden(draft, way, found)


def _check_inputs(draft: Draft) -> None:
    for name, declared in draft.inputs.items():
        kind, where = declared.get("type", "string"), ("inputs", name)
        choices = declared.get("choices")
        for index, choice in enumerate(choices if isinstance(choices, list) else ()):
            if not fits_type(choice, kind):
                draft.document.problem(
                    "MISSION_INPUT", f"the choice {shown(choice)} is not of type {kind}", (*where, "choices", index)
                )
        default = declared.get("default")
        if default is None:
            continue
        if not fits_type(default, kind):
            draft.document.problem(
                "MISSION_INPUT", f"the default {shown(default)} is not of type {kind}", (*where, "default")
            )
        elif isinstance(choices, list) and choices and default not in choices:
            draft.document.problem(
                "MISSION_INPUT", f"the default {shown(default)} is not among the choices", (*where, "default")
            )


def _check_tools(draft: Draft) -> None:
    """Every allowed tool must exist: a misspelt one would silently allow nothing."""
    for where, tools in _tool_lists(draft):
        for index, tool in enumerate(tools):
            if isinstance(tool, str) and tool not in ACTIONS and tool not in TOOLS:
                draft.document.problem(
                    "TOOL_UNKNOWN",
                    f"there is no tool {shown(tool)}",
                    (*where, index),
                    hint=did_you_mean(tool, (*ACTIONS, *TOOLS)),
                )


def _check_watch(draft: Draft) -> None:
    """A pattern that can never see a change is a mistake; what it names need not exist yet."""
    section = draft.data.get("watch")
    paths, excluded = (section.get(key) if isinstance(section, dict) else None for key in ("paths", "exclude"))
    for index, pattern in enumerate(paths if isinstance(paths, list) else ()):
        if not isinstance(pattern, str):
            continue
        where = ("watch", "paths", index)
        if hidden(globs.literal_prefix(pattern)):
            hint = "version control, caches and editors' temporary files are always left out"
            draft.document.problem("MISSION_WATCH", f"{shown(pattern)} is never watched", where, hint=hint)
        elif isinstance(excluded, list) and pattern in excluded:
            draft.document.problem("MISSION_WATCH", f"{shown(pattern)} is left out by watch.exclude", where)


def _check_literals(draft: Draft, value: object, where: Where) -> None:
    """A mission file is stored as it is with every run of it; a key in it would be, too."""
    if isinstance(value, str):
        found = KEY_LIKE.search(value)
        if found is not None:
            place = draft.document.within(where, found.start(), value[found.start() : found.start() + 4])
            hint = "refer to it: env://NAME or file:///path, in 'sandbox: secrets:' or 'provider: openai: key:'"
            draft.document.report.add("MISSION_SECRET_LITERAL", "this text looks like a key", place, hint=hint)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_literals(draft, item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_literals(draft, item, (*where, index))


def _tool_lists(draft: Draft) -> Iterator[tuple[Where, list[Any]]]:
    owners: list[tuple[Where, object]] = [((), draft.data.get("envelope"))]
    owners += [(site.where, site.block.get("envelope")) for site in draft.sites()]
    for where, envelope in owners:
        tools = envelope.get("allowed_tools") if isinstance(envelope, dict) else None
        if isinstance(tools, list):
            yield (*where, "envelope", "allowed_tools"), tools


@dataclass(frozen=True, slots=True)
class _Written:
    """A condition as the file has it; ``seen`` says whether ``block`` itself has run when it is asked."""

    where: Where
    text: str
    block: str
    seen: bool


def _compile_conditions(draft: Draft, graph: Graph, ancestry: Ancestry) -> dict[Where, Condition]:
    written = [*_branch_conditions(draft), *_gate_conditions(draft)]
    if not written:
        return {}
    kinds = {name: _condition_type(declared) for name, declared in draft.inputs.items()}
    names = Names(kinds, graph.blocks)
    compiled: dict[Where, Condition] = {}
    for item in written:
        if draft.document.report.full:
            break
        condition = _compile(draft, item.where, item.text, names)
        if condition is not None:
            _check_condition_sources(draft, graph, item, condition, ancestry)
            compiled[item.where] = condition
    return compiled


def _branch_conditions(draft: Draft) -> Iterator[_Written]:
    branches = draft.data.get("branches")
    for source, cases in (branches if isinstance(branches, dict) else {}).items():
        for index, case in enumerate(cases if isinstance(cases, list) else ()):
            text = case.get("when") if isinstance(case, dict) else None
            if isinstance(text, str):
                yield _Written(("branches", source, index, "when"), text, source, seen=True)


def _gate_conditions(draft: Draft) -> Iterator[_Written]:
    for site in draft.sites():
        text = site.block.get("require") if site.type == "gate_check" else None
        if isinstance(text, str) and not references.has_reference(text):
            yield _Written((*site.where, "require"), text, site.name, seen=False)


def _condition_type(declared: Mapping[str, Any]) -> str:
    """Inputs that may be null are dynamic to the checker."""
    certain = declared.get("default") is not None or declared.get("required") is not False
    kind = declared.get("type", "string")
    return kind if certain and isinstance(kind, str) else ""


def _compile(draft: Draft, where: Where, text: str, names: Names) -> Condition | None:
    result = names.compile(text)
    if isinstance(result, Condition):
        return result
    for problem in result:
        needle = text[problem.offset : problem.offset + 8]
        place = draft.document.within(where, problem.offset, needle)
        draft.document.report.add("MISSION_CONDITION", problem.message, place, hint=problem.hint)
    return None


def _check_condition_sources(
    draft: Draft, graph: Graph, written: _Written, condition: Condition, ancestry: Ancestry
) -> None:
    if graph.loose or written.block not in graph.known:
        return
    late = set(condition.outputs()) - ancestry.upstream(written.block)
    for name in sorted(late - {written.block} if written.seen else late):
        place = draft.document.within(written.where, condition.text.find(f"outputs.{name}"), name)
        draft.document.report.add(
            "validation.source_not_upstream",
            f"outputs.{name} has not run by then",
            place,
            hint=f"link it before {written.block!r}",
        )
