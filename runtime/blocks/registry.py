"""Block types by id: what a mission file may name, with the config each declares (blocks spec §22, §20.4).

`BlockRegistry.create` checks the whole config before it builds anything and reports every problem at once, with the
field it belongs to, so that a loader can point at the line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.blocks.block import Block
from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError, BlockValidationError, RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTypeInfo:
    """One block type as catalogues and schemas show it.

    ``free_form`` types take any further parameters beside the listed ``config``. ``operation`` types are one governed
    operation each. ``side_effects`` None means: decided per instance, or undeclared.
    """

    type_id: str
    display_name: str
    summary: str
    version: str
    config: tuple[ConfigField, ...]
    free_form: bool
    operation: bool
    input: BlockValueContract
    output: BlockValueContract
    side_effects: SideEffects | None

    def field(self, name: str) -> ConfigField | None:
        """The declared field ``name``, if any."""
        return next((item for item in self.config if item.name == name), None)


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong with a block's config. ``field`` None: the combination is wrong."""

    field: str | None
    message: str
    hint: str | None = None

    def record(self) -> dict[str, Any]:
        return {"field": self.field, "message": self.message, "hint": self.hint}


Factory = Callable[[Mapping[str, Any]], Block]


@dataclass(frozen=True, slots=True)
class _Registered:
    info: BlockTypeInfo
    factory: Factory


class BlockRegistry:
    """Block types by id. Registering one twice is refused; `override` says so on purpose."""

    def __init__(self) -> None:
        self._types: dict[str, _Registered] = {}

    def register(self, block_class: type[Block]) -> None:
        """Add a block class; raises `RegistryError` ``registry.duplicate_type_id``."""
        type_id = block_class.spec.type_id
        if type_id in self._types:
            raise RegistryError("registry.duplicate_type_id", f"the block type {type_id!r} is registered already")
        self.override(block_class)

    def override(self, block_class: type[Block]) -> None:
        """Add or replace a block class."""
        info = type_info(block_class)
        self._types[info.type_id] = _Registered(info, lambda config: build(block_class, config))

    def __contains__(self, type_id: object) -> bool:
        return type_id in self._types

    def types(self) -> tuple[BlockTypeInfo, ...]:
        """Everything registered, by type id."""
        return tuple(self._types[type_id].info for type_id in sorted(self._types))

    def info(self, type_id: str) -> BlockTypeInfo:
        """Raises `RegistryError` ``registry.unknown_name`` with the closest known ids."""
        return self._lookup(type_id).info

    def problems(
        self, type_id: str, config: Mapping[str, Any], *, skip: frozenset[str] = frozenset()
    ) -> tuple[ConfigProblem, ...]:
        """What is wrong with a config; fields in ``skip`` are present but not judged (their value is not known yet)."""
        return tuple(config_problems(self._lookup(type_id).info, config, skip))

    def create(self, type_id: str, config: Mapping[str, Any]) -> Block:
        """Build a block. Raises `BlockValidationError` ``validation.bad_config``, or the block's own code.

        ``details`` holds ``type_id`` and ``problems``: a list of ``{field, message, hint}``.
        """
        entry = self._lookup(type_id)
        found = tuple(config_problems(entry.info, config, frozenset()))
        if found:
            raise _bad_config(type_id, found)
        try:
            return entry.factory(config)
        except BlockError:
            raise
        except (TypeError, ValueError) as error:
            raise config_refused(type_id, error) from error

    def _lookup(self, type_id: str) -> _Registered:
        entry = self._types.get(type_id)
        if entry is None:
            near = difflib.get_close_matches(type_id, self._types, n=1)
            advice = f"; did you mean {near[0]!r}?" if near else f"; known types: {', '.join(sorted(self._types))}"
            raise RegistryError("registry.unknown_name", f"there is no block type {type_id!r}{advice}")
        return entry


def type_info(block_class: type[Block]) -> BlockTypeInfo:
    """The catalogue entry of a block class."""
    spec = block_class.spec
    return BlockTypeInfo(
        type_id=spec.type_id,
        display_name=spec.display_name,
        summary=spec.summary,
        version=spec.version,
        config=block_class.declared_config(),
        free_form=block_class.free_form_field is not None,
        operation=block_class.is_operation,
        input=spec.input,
        output=spec.output,
        side_effects=spec.side_effects,
    )


def build(block_class: type[Block], config: Mapping[str, Any]) -> Block:
    """Instantiate from checked config; a free-form type gets everything in its one field."""
    if block_class.free_form_field is not None:
        return block_class(**{block_class.free_form_field: dict(config)})
    return block_class(**config)


def config_problems(info: BlockTypeInfo, config: Mapping[str, Any], skip: frozenset[str]) -> list[ConfigProblem]:
    """Unknown, missing and ill-typed fields, in the order of the config and then of the declaration."""
    found: list[ConfigProblem] = []
    declared = {item.name: item for item in info.config}
    for name, value in config.items():
        item = declared.get(name)
        if item is None:
            if not info.free_form:
                found.append(_unknown(name, declared))
        elif name not in skip and (text := item.problem(value)) is not None:
            found.append(ConfigProblem(name, f"{name} {text}"))
    missing = [name for name, item in declared.items() if item.required and name not in config]
    found.extend(ConfigProblem(name, f"{name} is required by {info.type_id}") for name in missing)
    return found


def _unknown(name: str, declared: Mapping[str, ConfigField]) -> ConfigProblem:
    near = difflib.get_close_matches(name, declared, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(declared) or 'none'}"
    return ConfigProblem(name, f"unknown parameter {name!r}", hint)


def config_refused(type_id: str, error: Exception) -> BlockValidationError:
    """``validation.bad_config`` for what a block's constructor raised."""
    return _bad_config(type_id, (ConfigProblem(None, str(error)),))


def _bad_config(type_id: str, problems: tuple[ConfigProblem, ...]) -> BlockValidationError:
    text = "; ".join(problem.message for problem in problems)
    details = {"type_id": type_id, "problems": [problem.record() for problem in problems]}
    return BlockValidationError("validation.bad_config", f"{type_id}: {text}", details=details)


def builtin_registry() -> BlockRegistry:
    """A fresh registry holding the built-in blocks."""
    from runtime.blocks.builtin.catalogue import BUILTINS  # built-ins import Jinja2: not paid by library users

    registry = BlockRegistry()
    for block_class in BUILTINS:
        registry.register(block_class)
    return registry


__all__ = ["BlockRegistry", "BlockTypeInfo", "ConfigField", "ConfigProblem", "builtin_registry"]
