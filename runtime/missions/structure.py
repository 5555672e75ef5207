"""From plain values to the mission model, and from the library's complaints to problems with a position."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runtime.missions.model import MissionSpec
from runtime.missions.problems import did_you_mean, shown
from runtime.missions.yaml_reader import Document, Where

#: How a file's author calls the kinds of values the library names otherwise.
_WORDS: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_OUR_FAMILIES: Final = ("mission_", "glob_", "env_", "comp_")

Model = TypeVar("Model", bound=BaseModel)


def validate(document: Document) -> MissionSpec | None:
    """The model of the document, or None with everything structural reported."""
    if document.data is None and not document.report.failed:
        document.report.add("MISSION_EMPTY", "the file is empty", hint="start with 'mission: <name>'")
        return None
    return checked(document, MissionSpec)


def checked(document: Document, model: type[Model]) -> Model | None:
    """The document as ``model``, or None with everything structural reported."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=True, include_input=True):
            _report(document, detail, model)
    return None


def _report(document: Document, detail: ErrorDetails, model: type[BaseModel]) -> None:
    where = _existing(document.data, detail["loc"])
    kind = detail["type"]
    name = where[-1] if where else "the file"
    if kind == "extra_forbidden":
        hint = did_you_mean(name, _fields_at(model, where[:-1]))
        document.problem("MISSION_UNKNOWN_KEY", f"there is no key {shown(name)} here", where, key=True, hint=hint)
    elif kind == "missing":
        key = detail["loc"][-1]
        document.problem(
            "MISSION_MISSING_KEY", f"the key {key!r} is missing", where, key=True, hint=_about(model, where, key)
        )
    elif kind.startswith(_OUR_FAMILIES):
        document.problem(kind.upper(), detail["msg"], where, key=detail["loc"][-1:] == ("[key]",))
    elif kind in _WORDS:
        given = detail["input"]
        hint = "put it in quotes" if kind == "string_type" and isinstance(given, int | float) else ""
        document.problem("MISSION_VALUE", f"{name} must be {_WORDS[kind]}, not {_kind_of(given)}", where, hint=hint)
    else:
        document.problem("MISSION_VALUE", f"{name}: {detail['msg'][0].lower()}{detail['msg'][1:]}", where)


def _existing(data: Any, loc: tuple[str | int, ...]) -> Where:
    """``loc`` without the parts the library inserted (tags of unions) or that the file lacks."""
    where: list[str | int] = []
    for part in loc:
        indexed = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if indexed or (isinstance(data, Mapping) and part in data):
            data = data[part]
            where.append(part)
    return tuple(where)


def _kind_of(value: object) -> str:
    if value is None:
        return "empty"
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def _fields_at(root: type[BaseModel], where: Where) -> list[str]:
    """The keys that exist at a place of the file, for suggestions."""
    model = _model_at(root, where)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _about(root: type[BaseModel], where: Where, key: str | int) -> str:
    model = _model_at(root, where)
    field = model.model_fields.get(str(key)) if model else None
    return field.description or "" if field else ""


def _model_at(root: type[BaseModel], where: Where) -> type[BaseModel] | None:
    current: Any = root
    for part in where:
        model = _model_in(current)
        if model is not None:
            field = next((item for name, item in model.model_fields.items() if part in (name, item.alias)), None)
            extra = typing.get_type_hints(model, include_extras=True).get("__pydantic_extra__")
            current = field.annotation if field else extra and typing.get_args(extra)[-1]
        else:
            current = _item_type(current)
    return _model_in(current)


def _item_type(annotation: Any) -> Any:
    """What a dict or tuple annotation holds."""
    for option in _options(annotation):
        arguments = [item for item in typing.get_args(option) if item is not Ellipsis]
        if typing.get_origin(option) in (dict, tuple) and arguments:
            return arguments[-1]
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return next((item for item in _options(annotation) if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _options(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without ``Annotated`` and ``None``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [option for item in typing.get_args(annotation) for option in _options(item)]
    return [annotation]
