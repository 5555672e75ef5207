"""The JSON Schema of mission files, from the same models and tables the loader uses.

Written in draft 2020-12 but kept readable for draft 7, which editors' YAML servers understand: no keyword beside a
``$ref``, no ``prefixItems``. Every field has a description, which editors show as hover help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.registry import BlockRegistry
from runtime.missions.draft import EACH, MAP_OVER
from runtime.missions.model import BlockSpec, MissionSpec
from runtime.missions.parameters import ACTIONS, TOOLS, Param, Shape
from runtime.missions.types import default_registry, shapes

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_JSON_TYPES: Final = {
    "text": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "list": "array",
    "map": "object",
    "null": "null",
}
#: A text that is exactly one reference may stand for a value of any type.
_REFERENCE: Final = {
    "type": "string",
    "pattern": r"^\$\{((inputs|outputs)\.[^{}]+|item(\.[^{}]+)?|index)\}$",
}


def mission_schema(registry: BlockRegistry | None = None) -> dict[str, Any]:
    """The JSON Schema of a mission whose blocks are of the types in ``registry`` (default: built in)."""
    schema = _tidied(MissionSpec.model_json_schema(by_alias=True))
    definitions: dict[str, Any] = schema["$defs"]
    common: dict[str, Any] = definitions.pop(BlockSpec.__name__)["properties"]
    del common[EACH]
    variants = []
    for name, shape in sorted(shapes(registry or default_registry()).items()):
        for key, block in _variants(name, shape, common):
            definitions[key] = block
            variants.append({"$ref": f"#/$defs/{key}"})
    _mapped(definitions, variants)
    schema["properties"]["blocks"]["additionalProperties"] = {"anyOf": variants}
    return {"$schema": _DIALECT, "title": "Quarterdeck mission", **schema}


def _mapped(definitions: dict[str, Any], variants: list[dict[str, Any]]) -> None:
    """What is done for each item is any block that is not itself a `map_over`."""
    own = f"block_{MAP_OVER}"
    each = definitions[own]["properties"][EACH]
    others = [item for item in variants if item["$ref"] != f"#/$defs/{own}"]
    definitions[own]["properties"][EACH] = {"description": each["description"], "anyOf": others}


def _variants(name: str, shape: Shape, common: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The forms a block of one type may take: one, or one per tool action."""
    if name != "tool_invoke":
        return [(f"block_{name}", _block(name, shape, common))]
    forms = []
    for action, actual in ACTIONS.items():
        block = _block(name, Shape((*shape.params[:1], *actual.params), actual.description, open=actual.open), common)
        block["properties"]["tool"] = {"const": action, "description": actual.description}
        forms.append((f"block_{name}_{action.replace('.', '_')}", block))
    split = _block(name, Shape(shape.params, shape.description, open=True), common)
    split["properties"]["tool"]["enum"] = list(TOOLS)
    split["required"] = sorted({*split["required"], "action"})
    return [*forms, (f"block_{name}_split", split)]


def _block(name: str, shape: Shape, common: Mapping[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {
        "type": "object",
        "description": shape.description or f"A block of type {name}.",
        "properties": {
            **common,
            "type": {"const": name, "description": shape.description or "Block type."},
            **{param.name: _param(param) for param in shape.params},
        },
        "required": ["type", *(param.name for param in shape.params if param.required)],
        "additionalProperties": shape.open,
    }
    if shape.one_of:
        block["allOf"] = [{"oneOf": [{"required": [name]} for name in group]} for group in shape.one_of]
    return block


def _param(param: Param) -> dict[str, Any]:
    described: dict[str, Any] = {"description": param.description}
    if param.default not in (None, ""):
        described["default"] = param.default
    if "any" in param.kinds:
        return described
    own: dict[str, Any] = {"enum": list(param.choices)} if param.choices else {"type": _types(param.kinds)}
    if not param.references or (own.get("type") == "string"):
        return {**described, **own}
    return {**described, "anyOf": [own, _REFERENCE]}


def _types(kinds: tuple[str, ...]) -> str | list[str]:
    names = [_JSON_TYPES[kind] for kind in kinds]
    return names[0] if len(names) == 1 else names


def _tidied(node: Any, *, names: bool = False) -> Any:
    """Drop generated titles and empty defaults, and move what stands beside a ``$ref`` out of its way.

    With ``names`` the keys of ``node`` are names of fields, not keywords.
    """
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or not _is_noise(key, value)}
    tidy = {key: _tidied(value, names=not names and key in ("properties", "$defs")) for key, value in kept.items()}
    if not names and "$ref" in tidy and len(tidy) > 1:
        tidy["allOf"] = [{"$ref": tidy.pop("$ref")}]
    return tidy


def _is_noise(key: str, value: Any) -> bool:
    return key == "title" or (key == "default" and (value is None or isinstance(value, dict)))
