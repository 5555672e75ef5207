"""Which block types a mission may name, and the parameters of each: the registry's, joined with the operations'.

The registry knows what its blocks declare; what an operation's handler takes is known to
`runtime.missions.parameters` alone, so for operation types that table wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.registry import BlockRegistry, BlockTypeInfo, builtin_registry
from runtime.missions.parameters import COMPOSITES, OPERATIONS, Param, Shape

_KIND_NAMES: Final = {
    Kinds.NULL: "null",
    Kinds.BOOL: "boolean",
    Kinds.INT: "integer",
    Kinds.FLOAT: "number",
    Kinds.STRING: "text",
    Kinds.LIST: "list",
    Kinds.MAP: "map",
}
#: Parameters that are code to their block (a value inserted there would be run, not shown), or name who is asked.
_CODE: Final = frozenset(
    {
        *(("template", name) for name in ("template", "partials")),
        ("custom_transform", "transform"),
        *(("ai_generate", name) for name in ("provider", "model", "api_key_env")),
    }
)


@lru_cache(maxsize=1)
def default_registry() -> BlockRegistry:
    """The built-in block types, built once."""
    return builtin_registry()


def shapes(registry: BlockRegistry) -> dict[str, Shape]:
    """Type id → its parameters."""
    return {info.type_id: _shape(info) for info in registry.types()} | dict(COMPOSITES)


def _shape(info: BlockTypeInfo) -> Shape:
    if info.operation and info.type_id in OPERATIONS:
        return OPERATIONS[info.type_id]
    params = tuple(_param(info.type_id, item) for item in info.config)
    return Shape(params, info.summary, open=info.free_form)


def _param(type_id: str, item: ConfigField) -> Param:
    return Param(
        item.name,
        _kinds(item.kinds),
        item.summary or f"{item.name} of {type_id}.",
        required=item.required,
        references=(type_id, item.name) not in _CODE,
        choices=item.choices,
        default=None if item.required or item.secret else item.default,
    )


def _kinds(kinds: Kinds) -> tuple[str, ...]:
    if kinds == Kinds.ANY:
        return ("any",)
    names: Mapping[str, None] = {name: None for kind, name in _KIND_NAMES.items() if kinds.intersects(kind)}
    return tuple(name for name in names if not (name == "integer" and "number" in names))
