"""Block types by id: what a mission file may name, with the config each declares (blocks spec §22, §20.4).

`BlockRegistry.create` checks the whole config before it builds anything and reports every problem at once, with the
field it belongs to, so that a loader can point at the line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError, BlockValidationError, RegistryError
from runtime.blocks.policies import RetryPolicy

_FORMER_NAMES: Final = {"template_handlebars": "template"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTypeInfo:
    """One block type as catalogues and schemas show it.

    ``free_form`` types take any further parameters beside the listed ``config``. ``operation`` types are one governed
    operation each. ``side_effects`` None means: decided per instance, or undeclared.
    ``timeout`` (seconds) and ``retry`` are what instances declare unless told otherwise.
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
    timeout: float | None = None
    retry: RetryPolicy | None = None

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
        self._aliases: dict[str, str] = {}
        self._skipped: dict[str, tuple[str, str]] = {}

    def register(self, block_class: type[Block]) -> None:
        """Add a block class; raises `RegistryError` ``registry.duplicate_type_id``."""
        self._free(block_class.spec.type_id)
        self.override(block_class)

    def override(self, block_class: type[Block]) -> None:
        """Add or replace a block class, or take an alias's place."""
        info = type_info(block_class)
        self._aliases.pop(info.type_id, None)
        self._types[info.type_id] = _Registered(info, lambda config: block_class.from_config(config, self))

    def withdraw(self, type_id: str) -> None:
        """Take a type out again; one that is not there is no error."""
        self._types.pop(type_id, None)

    def alias(self, alias: str, type_id: str) -> None:
        """Let ``alias`` stand for a registered type. Raises ``registry.duplicate_type_id``, ``registry.unknown_name``."""
        self._free(alias)
        self._aliases[alias] = self._lookup(type_id).info.type_id

    def aliases(self) -> Mapping[str, str]:
        """Further names → type id."""
        return dict(self._aliases)

    def note_skipped(self, type_id: str, pack: str, code: str) -> None:
        """Remember that ``pack``, which has this type, was not loaded because of ``code``: whoever asks is told."""
        self._skipped[type_id] = (pack, code)

    def skipped(self, type_id: str) -> tuple[str, str] | None:
        """Pack and code of a type that is missing only because its pack was skipped."""
        return None if type_id in self else self._skipped.get(type_id)

    def _free(self, type_id: str) -> None:
        if type_id in self:
            raise RegistryError("registry.duplicate_type_id", f"the block type {type_id!r} is registered already")

    def __contains__(self, type_id: object) -> bool:
        return type_id in self._types or type_id in self._aliases

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
            raise _bad_config(type_id, (ConfigProblem(None, str(error)),)) from error

    def _lookup(self, type_id: str) -> _Registered:
        entry = self._types.get(self._aliases.get(type_id, type_id))
        if entry is None and type_id in self._skipped:
            pack, code = self._skipped[type_id]
            text = f"the block type {type_id!r} is in the pack {pack!r}, which was skipped: {code}"
            raise RegistryError("registry.unknown_name", text)
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
        timeout=spec.timeout,
        retry=spec.retry,
    )


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


def _bad_config(type_id: str, problems: tuple[ConfigProblem, ...]) -> BlockValidationError:
    text = "; ".join(problem.message for problem in problems)
    details = {"type_id": type_id, "problems": [problem.record() for problem in problems]}
    return BlockValidationError("validation.bad_config", f"{type_id}: {text}", details=details)


def builtin_registry(*, byte_path: bool = False) -> BlockRegistry:
    """A fresh registry holding the built-in blocks; with ``byte_path`` they are spoken to as any other pack is."""
    # Built-ins import Jinja2, and packs what it takes to run foreign code: not paid by those who only read registries.
    from runtime.blocks.builtin.catalogue import BUILTIN
    from runtime.blocks.packs.loading import load_packs

    registry = BlockRegistry()
    report = load_packs(registry, builtin=BUILTIN, byte_path=byte_path)
    if report.skipped:
        raise RegistryError(report.skipped[0].code, report.skipped[0].message)
    return registry


def add_former_names(registry: BlockRegistry) -> None:
    """Let the built-in types also go by the names they once had, where those are free."""
    for former, type_id in _FORMER_NAMES.items():
        if type_id in registry and former not in registry:
            registry.alias(former, type_id)


__all__ = ["BlockRegistry", "BlockTypeInfo", "ConfigField", "ConfigProblem", "builtin_registry"]
