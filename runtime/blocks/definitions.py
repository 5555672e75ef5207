"""A workflow from portable data, and the routed form given as mappings (blocks spec §9.1, §10 P2, P6, P11).

`runtime.blocks.exporting` writes what is read here: a map of plain values whose absent keys mean their defaults::

    {"name", "max_steps", "max_parallel", "seed", "propagate", "entry", "output", "routed",
     "nodes": [{"name", "type", "version", "config": {…}, "block_name", "side_effects", "timeout", "retry": {…},
                "recovery": [{"error", "policies": […]}], "reads", "store_as", "accept", "fallback", "optional",
                "lane", "extra"}],
     "links": [{"source", "target", "pick", "as"}],
     "branches": [{"source", "cases": [{"target", "condition"?}]}],
     "on_error": [{"source", "handler"}]}

A nested workflow is a node of type ``child_workflow`` whose config holds its ``definition``. A condition is a registered
name or ``{"key", "equals"}`` or ``{"key", "contains"}``; a repair is a registered name. Functions cannot travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runtime.blocks.block import Block
from runtime.blocks.conditions import CONDITIONS, Case, Condition, ConditionRegistry, case
from runtime.blocks.contracts import multiple
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockValidationError,
    RegistryError,
)
from runtime.blocks.exporting import CHILD, DEFAULTS, ERRORS, POLICIES
from runtime.blocks.policies import REPAIRS, RepairRegistry, RetryPolicy
from runtime.blocks.validation import BINDINGS, CONFIG, PRESENCE, TYPES
from runtime.blocks.values import BlockValue
from runtime.blocks.wiring import Issue
from runtime.blocks.workflow import Workflow

if TYPE_CHECKING:
    from runtime.blocks.registry import BlockRegistry

W = TypeVar("W", bound=Workflow)


class Unavailable(Block, local=True, type_id="unavailable", input=multiple(), side_effects="none"):
    """Holds the place of a node that could not be built, so that everything around it can still be judged."""

    def validate(self, input: BlockValue, ctx: object) -> None:
        raise BlockValidationError("validation.block_unavailable", "this block could not be built", effects="none")

    def run(self, input: BlockValue, ctx: object) -> None:
        """Never reached: the plan has an error."""


def from_definition(
    kind: type[W],
    definition: object,
    registry: BlockRegistry,
    *,
    conditions: ConditionRegistry = CONDITIONS,
    repairs: RepairRegistry = REPAIRS,
) -> W:
    """The workflow a definition describes. What is wrong inside it are issues of the workflow, found by `issues`.

    Raises `BlockValidationError` ``validation.bad_config`` for data that is no definition, and `WorkflowWiringError`
    for a node name that is malformed or given twice.
    """
    made = _Reader(kind, registry, conditions, repairs).workflow(_plain(definition))
    return cast(W, made)


class _Reader:
    """Builds one workflow; nested ones are built by readers of their own."""

    def __init__(
        self, kind: type[Any], registry: BlockRegistry, conditions: ConditionRegistry, repairs: RepairRegistry
    ) -> None:
        self._kind = kind
        self._registry = registry
        self._conditions = conditions
        self._repairs = repairs

    def workflow(self, told: Mapping[str, Any]) -> Any:
        made: Workflow = self._kind(
            _get(told, "name", str, "workflow"),
            max_steps=_get(told, "max_steps", int, 128),
            max_parallel=_get(told, "max_parallel", int, 16),
            seed=_get(told, "seed", dict, {}),
            propagate=_texts(told, "propagate"),
            conditions=self._conditions,
            repairs=self._repairs,
        )
        for entry in _maps(told, "nodes"):
            self._node(made, entry)
        for entry in _maps(told, "nodes"):
            if "fallback" in entry:
                made.configure(_get(entry, "name", str), fallback=_get(entry, "fallback", str))
        _links(made, told)
        for entry in _maps(told, "branches"):
            _import_cases(made, _get(entry, "source", str), _maps(entry, "cases"))
        for entry in _maps(told, "on_error"):
            made.on_error(_get(entry, "source", str), _get(entry, "handler", str))
        made.wiring.routed = _get(told, "routed", bool, False)
        if told.get("entry") is not None:
            made.set_entry(_get(told, "entry", str))
        if told.get("output") is not None:
            made.set_output(_get(told, "output", str))
        return _varied(made, told)

    def _node(self, workflow: Workflow, entry: Mapping[str, Any]) -> None:
        name = _get(entry, "name", str)
        try:
            block = _varied(self._block(entry), entry)
        except RegistryError as error:
            skipped = self._registry.skipped(_get(entry, "type", str))
            details = () if skipped is None else (("pack", skipped[0]), ("skip_code", skipped[1]))
            self._refuse(workflow, name, TYPES, "validation.block_unavailable", error.message, details)
            block = Unavailable()
        except BlockError as error:
            self._refuse(workflow, name, CONFIG, error.code, error.message)
            block = Unavailable()
        workflow.configure(
            block,
            name=name,
            reads=_texts(entry, "reads") if "reads" in entry else None,
            store_as=_get(entry, "store_as", str, "") or None,
            accept=_texts(entry, "accept"),
            optional=_get(entry, "optional", bool, False),
            lane=_get(entry, "lane", str, DEFAULTS.lane),
            extra=_get(entry, "extra", dict, {}),
        )

    def _block(self, entry: Mapping[str, Any]) -> Block:
        type_id, config = _get(entry, "type", str), _get(entry, "config", dict, {})
        if type_id == CHILD and type_id not in self._registry:
            from runtime.blocks.builtin.child_workflow import ChildWorkflow

            return ChildWorkflow.from_config(config, self._registry, conditions=self._conditions, repairs=self._repairs)
        block = self._registry.create(type_id, config)
        wanted = _get(entry, "version", str, block.spec.version)
        if wanted != block.spec.version:
            raise RegistryError(
                "registry.unknown_name",
                f"the definition was made with version {wanted} of {type_id}, but version {block.spec.version} is here",
            )
        return block

    @staticmethod
    def _refuse(
        workflow: Workflow, name: str, stage: int, code: str, message: str, details: tuple[tuple[str, Any], ...] = ()
    ) -> None:
        issue = Issue(code, "error", name, message, details=details)
        workflow.wiring.imported.append((stage, issue))


def _links(workflow: Workflow, told: Mapping[str, Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for entry in _maps(told, "links"):
        pair = _get(entry, "source", str), _get(entry, "target", str)
        if pair in seen:
            text = f"the definition links {pair[0]!r} to {pair[1]!r} twice"
            workflow.wiring.imported.append(
                (BINDINGS, Issue("validation.duplicate_source", "error", pair[1], text, pair[0]))
            )
        seen.add(pair)
        workflow.link(*pair, pick=_get(entry, "pick", int, None), as_=_get(entry, "as", str, None))


def _varied(block: Any, entry: Mapping[str, Any]) -> Any:
    """The block with what the definition says over its class. Raises `BlockValidationError`."""
    if "block_name" in entry:
        block = block.named(_get(entry, "block_name", str))
    if "side_effects" in entry:
        block = block.with_side_effects(_get(entry, "side_effects", str))
    if "timeout" in entry:
        block = block.with_timeout(entry["timeout"])
    if "retry" in entry:
        block = block.with_retry(policy_of(_get(entry, "retry", dict)))
    if "recovery" in entry:
        block = block.with_recovery(dict(_recovery(item) for item in _maps(entry, "recovery")))
    return block


def _recovery(entry: Mapping[str, Any]) -> tuple[type[Exception], tuple[object, ...]]:
    name = _get(entry, "error", str)
    if name not in ERRORS:
        raise _malformed(f"recovery names the error class {name!r}; known: {', '.join(ERRORS)}")
    return ERRORS[name], tuple(policy_of(item) for item in _maps(entry, "policies"))


def policy_of(entry: Mapping[str, Any]) -> Any:
    """A policy from its portable form; ``policy`` may be silent for a retry. Raises `BlockValidationError`."""
    kind = _get(entry, "policy", str, RetryPolicy.name)
    said = {key: value for key, value in entry.items() if key != "policy"}
    try:
        return POLICIES[kind](**said)
    except (KeyError, TypeError) as error:
        raise _malformed(f"{kind!r} with {sorted(said)} is no recovery policy: {error}") from None


def _plain(definition: object) -> dict[str, Any]:
    try:
        plain = BlockValue.of(definition).to_python()
    except BlockInputError as error:
        raise _malformed(error.message) from None
    if not isinstance(plain, dict):
        raise _malformed("it must be a map")
    return plain


def _get(told: Mapping[str, Any], key: str, kind: type[Any], *default: Any) -> Any:
    """The value at ``key``; raises for a wrong kind, and for an absent one without a default."""
    value = told.get(key)
    if value is None and default:
        return default[0]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _malformed(f"{key} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def _texts(told: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _get(told, key, list, [])
    if not all(isinstance(item, str) for item in found):
        raise _malformed(f"{key} must be a list of texts")
    return tuple(found)


def _maps(told: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = _get(told, key, list, [])
    if not all(isinstance(item, dict) for item in found):
        raise _malformed(f"{key} must be a list of maps")
    return cast("list[dict[str, Any]]", found)


def _malformed(why: str) -> BlockValidationError:
    return BlockValidationError("validation.bad_config", f"not a workflow definition: {why}", effects="none")


# -- the routed form as mappings ----------------------------------------------------------------------------------


def from_transitions(workflow: W, nodes: Mapping[str, Block], entry_point: str, transitions: Mapping[str, object]) -> W:
    """Wire an empty workflow: a transition is a target name, or a list of ``{condition?, target}`` mappings."""
    for node_name, block in nodes.items():
        workflow.configure(block, name=node_name)
    workflow.wiring.routed = True
    workflow.wiring.entry = entry_point
    for source, transition in transitions.items():
        if isinstance(transition, str):
            workflow.link(source, transition)
        elif isinstance(transition, Sequence):
            _import_cases(workflow, source, transition)
        else:
            text = f"the transition of {source!r} must be a node name or a list of cases"
            workflow.wiring.imported.append((PRESENCE, Issue("graph.bad_transition", "error", source, text)))
    return workflow


def _import_cases(workflow: Workflow, source: str, cases: Sequence[object]) -> None:
    made: list[Case] = []
    for entry in cases:
        if not isinstance(entry, Mapping) or not entry.get("target"):
            text = f"a branch of {source!r} names no target"
            workflow.wiring.imported.append((PRESENCE, Issue("graph.missing_target", "error", source, text)))
            continue
        made.append(Case(_condition(entry.get("condition")), str(entry["target"])))
    if made:
        workflow.branch(source, *made)


def _condition(told: Any) -> Condition:
    if not isinstance(told, Mapping):
        return cast(Condition, told or "default")
    if not told.keys() <= {"key", "equals", "contains"}:
        raise _malformed(f"a condition knows key, equals and contains, not {', '.join(sorted(told))}")
    return case(**told)
