"""Everything that is checked when an author's class statement runs (blocks spec §6.2).

A malformed block fails on import, with the class, the method and the expected form in the message, instead of in the
middle of somebody's run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import ANY_ONCE, BlockMode, BlockValueContract
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockDefinitionError
from runtime.blocks.policies import RecoveryMap, RetryPolicy, reexecutes

_TYPE_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_EXPECTED: Final = "expected '(self, input, ctx)'"
_RECOVERY: Final = "{BlockRuntimeError: (RetryPolicy(),)}"


class RunStyle(Enum):
    """How ``run`` is executed, decided once at definition."""

    THREAD = "thread"  # a plain function, in a worker thread
    INLINE = "inline"  # a plain function the author promises is quick
    ASYNC = "async"
    STREAM = "stream"  # an async generator


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """What a block class declares about itself."""

    type_id: str
    display_name: str = ""
    summary: str = ""
    version: str = "1"
    input: BlockValueContract = ANY_ONCE
    output: BlockValueContract = ANY_ONCE
    side_effects: SideEffects | None = None
    timeout: float | None = None
    retry: RetryPolicy | None = None
    recovery: RecoveryMap | None = None
    reads: tuple[str, ...] = ()
    inline: bool = False
    local: bool = False
    abstract: bool = False
    style: RunStyle = RunStyle.THREAD
    fields: tuple[ConfigField, ...] = field(default=())


def snake_case(name: str) -> str:
    return _CAMEL.sub("_", name).lower()


def define(cls: type, parent: BlockSpec | None, given: Mapping[str, Any]) -> BlockSpec:
    """Merge the class keywords over the parent's and check the class; raises `BlockDefinitionError`."""
    chosen = {name: value for name, value in given.items() if value is not None}
    doc = inspect.getdoc(cls) if cls.__doc__ else None
    base = replace(
        parent or BlockSpec(type_id=""),
        type_id=chosen.pop("type_id", None) or snake_case(cls.__name__),
        display_name=chosen.pop("display_name", None) or _CAMEL.sub(" ", cls.__name__),
        summary=(doc or "").partition("\n")[0],
        abstract=bool(chosen.pop("abstract", False)),
    )
    spec = replace(base, **_converted(cls, chosen))
    _check_declarations(cls, spec)
    if spec.abstract:
        return spec
    return replace(spec, style=_check_methods(cls, spec))


def _converted(cls: type, chosen: dict[str, Any]) -> dict[str, Any]:
    if "side_effects" in chosen and not isinstance(chosen["side_effects"], SideEffects):
        chosen["side_effects"] = SideEffects.parse(chosen["side_effects"])
    if "reads" in chosen:
        chosen["reads"] = _names(cls, chosen["reads"])
    for side in ("input", "output"):
        if side in chosen and not isinstance(chosen[side], BlockValueContract):
            raise _error(cls, "definition.bad_contract", f"{side} must be a contract such as once('string')")
    return chosen


def _names(cls: type, reads: object) -> tuple[str, ...]:
    names = () if isinstance(reads, str) or not isinstance(reads, Iterable) else tuple(reads)
    if reads and (not names or not all(isinstance(name, str) for name in names)):
        raise _error(
            cls, "definition.bad_config", f"reads must be a sequence of names such as ('draft',), not {reads!r}"
        )
    return names


def _check_declarations(cls: type, spec: BlockSpec) -> None:
    if not spec.abstract and not _TYPE_ID.match(str(spec.type_id)):
        text = f"type id {spec.type_id!r} must match [a-z][a-z0-9_]{{0,63}}, such as type_id='split_lines'"
        raise _error(cls, "definition.bad_type_id", text)
    if spec.input.mode is BlockMode.RECURRING:
        raise _error(cls, "definition.bad_contract", "an input cannot be RECURRING; use ONCE or MULTIPLE")
    for side, contract in (("input", spec.input), ("output", spec.output)):
        if contract.kinds.is_empty:
            raise _error(
                cls, "definition.bad_contract", f"the {side} kind set is empty; say once('string'), or once() for any"
            )
    check_timeout(spec.timeout, lambda text: _error(cls, "definition.bad_config", text))
    _check_recovery(cls, spec)


def check_timeout(timeout: float | None, refuse: Any) -> None:
    """Raise ``refuse(text)`` unless ``timeout`` is None or positive."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout > 0):
        raise refuse(f"timeout must be more than 0 seconds, not {timeout!r}")


def _check_recovery(cls: type, spec: BlockSpec) -> None:
    if spec.retry is not None and not isinstance(spec.retry, RetryPolicy):
        raise _error(cls, "definition.bad_recovery", "retry must be a policy such as RetryPolicy(max_attempts=3)")
    try:
        check_recovery_map(spec.recovery)
    except TypeError as error:
        raise _error(cls, "definition.bad_recovery", str(error)) from None
    stacks = [spec.retry, *(policy for stack in (spec.recovery or {}).values() for policy in stack)]
    if spec.side_effects is None and any(reexecutes(policy) for policy in stacks):
        raise _error(
            cls,
            "definition.side_effects_undeclared",
            "declares retry or repair; say side_effects='none', 'idempotent' or 'non_idempotent' too",
        )


def check_recovery_map(recovery: object) -> None:
    """Raise `TypeError` unless ``recovery`` maps exception classes to policy sequences."""
    if recovery is None:
        return
    if not isinstance(recovery, Mapping):
        raise TypeError(f"recovery must map exception classes to policy sequences, {_RECOVERY}")
    for key, stack in recovery.items():
        if not (isinstance(key, type) and issubclass(key, Exception)):
            raise TypeError(f"recovery key {key!r} is not an exception class; write {_RECOVERY}")
        if isinstance(stack, str) or not isinstance(stack, Sequence):
            raise TypeError(f"recovery for {key.__name__} must be a sequence of policies; write {_RECOVERY}")


def _check_methods(cls: type, spec: BlockSpec) -> RunStyle:
    for name in ("validate", "run"):
        if getattr(cls, name, None) is None:
            raise _error(cls, f"definition.missing_{name}", f"define 'def {name}(self, input, ctx)'")
        _check_signature(cls, name)
    validate: Any = cls.validate  # type: ignore[attr-defined]
    if (
        inspect.iscoroutinefunction(validate)
        or inspect.isasyncgenfunction(validate)
        or inspect.isgeneratorfunction(validate)
    ):
        raise _error(
            cls,
            "definition.async_validate",
            "validate must be a plain method without yield or await: 'def validate(self, input, ctx)'",
        )
    return _style(cls, spec)


def _style(cls: type, spec: BlockSpec) -> RunStyle:
    run: Any = cls.run  # type: ignore[attr-defined]
    if inspect.isasyncgenfunction(run):
        if spec.output.mode is not BlockMode.RECURRING:
            raise _error(cls, "definition.mode_mismatch", "an async-generator run needs output=recurring(...)")
        return RunStyle.STREAM
    if inspect.isgeneratorfunction(run):
        raise _error(cls, "definition.bad_signature", "run must not be a plain generator; use 'async def' with yield")
    if inspect.iscoroutinefunction(run):
        return RunStyle.ASYNC
    return RunStyle.INLINE if spec.inline else RunStyle.THREAD


def _check_signature(cls: type, name: str) -> None:
    if isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod):
        raise _error(cls, "definition.bad_signature", f"{name} must be a plain method, {_EXPECTED}")
    if not callable(getattr(cls, name)):
        raise _error(cls, "definition.bad_signature", f"{name} is no method, {_EXPECTED}")
    parameters = list(inspect.signature(getattr(cls, name)).parameters.values())
    positional = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    starred = [item for item in parameters if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    keyword = [item for item in parameters if item.kind is item.KEYWORD_ONLY and item.default is item.empty]
    if len(positional) != 3 or starred or keyword:
        found = ", ".join(str(item) for item in parameters)
        raise _error(cls, "definition.bad_signature", f"{name}({found}): {_EXPECTED}")


def _error(cls: type, code: str, why: str) -> BlockDefinitionError:
    return BlockDefinitionError(code, f"block class {cls.__name__}: {why}")
