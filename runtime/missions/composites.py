"""What the loader says about blocks made of blocks: ``map_over`` and ``child_workflow``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.contracts import BlockMode
from runtime.blocks.map_over import MAX_ITEMS
from runtime.missions import references
from runtime.missions.draft import CHILD, COMPOSITES, MAP_OVER, Draft, Site
from runtime.missions.inputs import fits_type
from runtime.missions.problems import did_you_mean, shown

MAX_PARALLEL: Final = 64
#: Keys that say how one operation is made, which a block made of blocks is not.
_OF_OPERATIONS: Final = ("acting_role", "lane", "compensation_type", "compensation_command")


def check_composite(draft: Draft, site: Site) -> None:
    """Report what only concerns composites and what stands inside them."""
    if site.type in COMPOSITES:
        for key in _OF_OPERATIONS:
            if key in site.block:
                why = f"a {site.type} does nothing itself, so {key!r} has no meaning here"
                draft.document.problem(
                    "MISSION_COMPOSITE", why, (*site.where, key), key=True, hint="write it on the blocks inside"
                )
    if site.inner or draft.data is not draft.around:
        _check_nested(draft, site)
    if site.inner:
        _check_each(draft, site)
    if site.type == MAP_OVER:
        _check_map(draft, site)
    elif site.type == CHILD:
        _check_child(draft, site)


def _check_nested(draft: Draft, site: Site) -> None:
    if site.type in draft.registry and draft.registry.info(site.type).output.mode is BlockMode.RECURRING:
        why = f"a {site.type} gives one item after the other; only the first block of the run itself may"
        draft.document.problem("validation.recurring_nested", why, (*site.where, "type"))


def _check_each(draft: Draft, site: Site) -> None:
    if site.type == MAP_OVER:
        hint = "put the inner one into a child mission"
        draft.document.problem(
            "MISSION_COMPOSITE", "a map_over cannot map a map_over: which ${item} would be meant?",
            (*site.where, "type"), hint=hint,
        )  # fmt: skip
    if "fallback" in site.block:
        draft.document.problem(
            "MISSION_COMPOSITE", "an item has no other block to fall back to", (*site.where, "fallback"), key=True,
            hint="write the fallback on the map_over, or 'optional' here",
        )  # fmt: skip


def _check_map(draft: Draft, site: Site) -> None:
    items, parallel = site.block.get("items"), site.block.get("max_parallel")
    if isinstance(items, list) and len(items) > MAX_ITEMS:
        draft.document.problem(
            "input.too_many_items", f"{len(items)} items, and at most {MAX_ITEMS} are mapped", (*site.where, "items")
        )
    if isinstance(parallel, int) and not isinstance(parallel, bool) and not 1 <= parallel <= MAX_PARALLEL:
        draft.document.problem(
            "MISSION_VALUE", f"max_parallel must be 1 to {MAX_PARALLEL}", (*site.where, "max_parallel")
        )


def _check_child(draft: Draft, site: Site) -> None:
    """Do the values fit the child's inputs, as far as they are written out?"""
    given, child = site.block.get("inputs", {}), draft.child_of(site)
    if child is None or not isinstance(given, dict):
        return
    section = child.get("inputs")
    declared: Mapping[str, Any] = section if isinstance(section, dict) else {}
    where = (*site.where, "inputs")
    for name, value in given.items():
        spec = declared.get(name)
        if not isinstance(spec, dict):
            hint = did_you_mean(name, declared) if declared else "the child takes no inputs"
            draft.document.problem(
                "MISSION_UNKNOWN_INPUT", f"the child has no input {shown(name)}", (*where, name), key=True, hint=hint
            )
        elif not references.has_reference(value):
            _check_value(draft, name, value, spec, (*where, name))
    for name, spec in declared.items():
        if name not in given and isinstance(spec, dict) and _needed(spec):
            draft.document.problem(
                "MISSION_MISSING_PARAMETER", f"the child needs the input {name!r}",
                where if "inputs" in site.block else site.where, key=True, hint=str(spec.get("description", ""))[:100],
            )  # fmt: skip


def _check_value(draft: Draft, name: str, value: object, spec: Mapping[str, Any], where: tuple[str | int, ...]) -> None:
    kind, choices = spec.get("type", "string"), spec.get("choices")
    if value is None and not _needed(spec):
        return
    if not fits_type(value, kind):
        draft.document.problem("MISSION_INPUT", f"{name} must be of type {kind}, not {shown(value)}", where)
    elif isinstance(choices, list) and choices and value not in choices:
        draft.document.problem("MISSION_INPUT", f"{name} must be one of the child's choices", where)


def _needed(spec: Mapping[str, Any]) -> bool:
    return spec.get("default") is None and spec.get("required", True) is not False
