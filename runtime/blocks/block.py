"""The one class authors subclass: config fields, ``validate`` and ``run`` (blocks spec §6).

Everything else — guarding, timing, contracts, metadata, recovery — belongs to the runtime, so `execute` cannot be
overridden. Instances are frozen and compared by identity: the same variable is the same node. Variants
(`Block.named`, `Block.with_timeout`, …) are new blocks; configure first, link afterwards.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, dataclass_transform

from runtime.blocks import execute as engine
from runtime.blocks.config import ConfigField, config_fields, is_class_variable, revived
from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.definition import BlockSpec, check_recovery_map, check_timeout, define
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockDefinitionError, BlockValidationError
from runtime.blocks.estimates import BlockEstimate, estimate_block
from runtime.blocks.policies import PolicyStack, RecoveryMap, RetryPolicy
from runtime.blocks.state import BlockPhase, BlockState

if TYPE_CHECKING:
    from runtime.blocks.attempts import AttemptStore
    from runtime.blocks.envelope import Request, Response
    from runtime.blocks.registry import BlockRegistry
    from runtime.blocks.results import BlockRunResult
    from runtime.blocks.running import AttemptHost, NodeRunner, Scope


class Unset(Enum):
    UNSET = 0


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What instance variants and node configuration say over the class keywords."""

    name: str | None = None
    timeout: float | Unset | None = UNSET
    side_effects: SideEffects | None = None
    retry: RetryPolicy | None = None
    recovery: RecoveryMap | None = None


_ROOT: Final = BlockSpec(type_id="block", abstract=True)
_OWN_NAMES: Final = frozenset({"execute", "_attempt"})


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
class Block:
    """Subclass this. Annotated fields become frozen, keyword-only config.

    Class keywords: ``type_id``, ``display_name``, ``version``, ``input``, ``output``, ``side_effects``, ``timeout``,
    ``retry``, ``recovery``, ``reads``, ``inline``, ``abstract``, and ``local`` for config that cannot travel
    (functions); such blocks cannot be exported.
    """

    spec: ClassVar[BlockSpec] = _ROOT
    #: Name of the config field that takes undeclared parameters, for free-form block types.
    free_form_field: ClassVar[str | None] = None
    #: True for blocks that are one governed operation.
    is_operation: ClassVar[bool] = False
    _engine_class: ClassVar[bool] = False

    if TYPE_CHECKING:
        _state: ClassVar[BlockState]
        _overrides: ClassVar[Overrides]

    def __init_subclass__(
        cls,
        *,
        type_id: str | None = None,
        display_name: str | None = None,
        version: str | None = None,
        input: BlockValueContract | None = None,
        output: BlockValueContract | None = None,
        side_effects: SideEffects | str | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        recovery: RecoveryMap | None = None,
        reads: Iterable[str] | None = None,
        inline: bool | None = None,
        abstract: bool = False,
        local: bool | None = None,
        _engine: bool = False,
    ) -> None:
        super().__init_subclass__()
        cls._engine_class = _engine
        given = {
            "type_id": type_id,
            "display_name": display_name,
            "version": version,
            "input": input,
            "output": output,
            "side_effects": side_effects,
            "timeout": timeout,
            "retry": retry,
            "recovery": recovery,
            "reads": reads,
            "inline": inline,
            "abstract": abstract or _engine,
            "local": local,
        }
        if not _engine:
            _refuse_reserved(cls)
            _make_config(cls)
        spec = define(cls, cls.spec, given)
        cls.spec = spec if _engine else dataclasses.replace(spec, fields=config_fields(cls, local=spec.local))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.spec.abstract and not cls._engine_class:
            raise TypeError(f"{cls.__name__} is abstract; subclass it and define validate and run")
        self = object.__new__(cls)
        object.__setattr__(self, "_state", BlockState())
        object.__setattr__(self, "_overrides", Overrides())
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.block_name}>"

    # -- what a block says about itself ------------------------------------------------------------------------

    @property
    def block_name(self) -> str:
        return self._overrides.name or self.spec.type_id

    @property
    def explicit_name(self) -> str | None:
        """The name given by `named`, if any."""
        return self._overrides.name

    @property
    def input_contract(self) -> BlockValueContract:
        """Override when it depends on config; it must stay the same for the instance's lifetime."""
        return self.spec.input

    @property
    def output_contract(self) -> BlockValueContract:
        """Override when it depends on config; it must stay the same for the instance's lifetime."""
        return self.spec.output

    @property
    def output_count(self) -> int | None:
        """How many values a MULTIPLE output holds, when config tells; lets the plan check fan-out."""
        return None

    @property
    def config_side_effects(self) -> SideEffects | None:
        """Override when the class depends on config (append or overwrite)."""
        return self.spec.side_effects

    @property
    def stated_side_effects(self) -> SideEffects | None:
        """What node configuration or a variant says over class and config, if anything."""
        return self._overrides.side_effects

    @property
    def declared_side_effects(self) -> SideEffects | None:
        """Node override, else instance variant, else class or config; None means undeclared."""
        return self._overrides.side_effects or self.config_side_effects

    @property
    def side_effects(self) -> SideEffects:
        """The declared class; undeclared counts as `SideEffects.NON_IDEMPOTENT`."""
        return self.declared_side_effects or SideEffects.NON_IDEMPOTENT

    @property
    def attempt_timeout(self) -> float | None:
        timeout = self._overrides.timeout
        return self.spec.timeout if timeout is UNSET else timeout

    @property
    def is_workflow(self) -> bool:
        """True when the work is a graph of other blocks."""
        return self._engine_class

    @property
    def block_phase(self) -> BlockPhase:
        return self._state.phase

    @property
    def shared_state(self) -> BlockState:
        """Identifies the instance across its node-level variants."""
        return self._state

    def config(self) -> Mapping[str, Any]:
        """The config fields as a read-only mapping."""
        if self._engine_class:
            return MappingProxyType({})
        return MappingProxyType({item.name: getattr(self, item.name) for item in dataclasses.fields(self)})  # type: ignore[arg-type]

    @classmethod
    def declared_config(cls) -> tuple[ConfigField, ...]:
        """The fields a catalogue lists and a registry checks; free-form types describe their known parameters here."""
        return cls.spec.fields

    @classmethod
    def from_config(cls, config: Mapping[str, Any], registry: BlockRegistry) -> Block:
        """Build from checked config, as registries do; a type made of other types finds those in ``registry``."""
        if cls.free_form_field is not None:
            return cls(**{cls.free_form_field: dict(config)})
        return cls(**revived(cls, config))

    def get_policy_stack(self, error_type: type[Exception]) -> PolicyStack:
        """The recovery policies for a failure of this type. May be overridden; must be pure (blocks spec §14.2)."""
        for level in (self._overrides, self.spec):
            if level.recovery is not None:
                found = (level.recovery[kind] for kind in error_type.__mro__ if kind in level.recovery)
                return tuple(next(found, ()))
            if level.retry is not None:
                return (level.retry,)
        return ()

    # -- running -----------------------------------------------------------------------------------------------

    def execute(
        self,
        request: Request,
        *,
        runner: NodeRunner | None = None,
        host: AttemptHost | None = None,
        scope: Scope | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Run one attempt: ``response = await block.execute(request)``. Returns exactly one response for every fault of the block.

        Only cancellation, `KeyboardInterrupt`, `SystemExit` and `runtime.kernel.errors.Halted` come out as
        exceptions; the block is READY again in every case.
        """
        return engine.execute(self, request, runner, host, scope)

    def estimate_execution(
        self, request: Request | None = None, *, attempts: AttemptStore | None = None
    ) -> BlockEstimate:
        """What one execution is expected to take, from the records in ``attempts``; the prior without any.

        Runs nothing, changes nothing and never raises. ``request`` makes no difference to the blocks there are.
        """
        return estimate_block(self, attempts)

    def _attempt(self, attempt: engine.Attempt) -> Coroutine[Any, Any, Response | BlockRunResult]:
        """The body between guard and metadata; workflows schedule a graph here."""
        return engine.leaf(attempt)

    # -- variants ----------------------------------------------------------------------------------------------

    def named(self, name: str) -> Self:
        return self._variant(name=name)

    def with_retry(self, retry: RetryPolicy) -> Self:
        return self._variant(retry=retry)

    def with_recovery(self, recovery: Mapping[type[Exception], Sequence[object]]) -> Self:
        """A variant with its own recovery mapping; raises ``validation.bad_config`` for a malformed one."""
        return self._variant(recovery=checked_recovery(recovery))

    def with_timeout(self, seconds: float | None) -> Self:
        check_timeout(seconds, lambda text: BlockValidationError("validation.bad_config", text))
        return self._variant(timeout=seconds)

    def with_side_effects(self, side_effects: SideEffects | str) -> Self:
        return self._variant(side_effects=SideEffects.parse(side_effects))

    def _variant(self, *, share: bool = False, **changes: Any) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        object.__setattr__(twin, "_overrides", dataclasses.replace(self._overrides, **changes))
        if not share:
            object.__setattr__(twin, "_state", BlockState())
        return twin

    def node_variant(self, **changes: Any) -> Self:
        """The same instance with node-level overrides, for the scheduler: same state, same guard."""
        return self._variant(share=True, **changes) if changes else self


def checked_recovery(recovery: Mapping[type[Exception], Sequence[object]]) -> RecoveryMap:
    """A frozen copy; raises `BlockValidationError` ``validation.bad_config``."""
    try:
        check_recovery_map(recovery)
    except TypeError as error:
        raise BlockValidationError("validation.bad_config", str(error)) from None
    return MappingProxyType({kind: tuple(stack) for kind, stack in recovery.items()})


def _refuse_reserved(cls: type) -> None:
    for name in sorted(_OWN_NAMES):
        owner = next(kind for kind in cls.__mro__ if name in kind.__dict__)  # a mixin must not slip one in either
        if not (owner is Block or owner.__dict__.get("_engine_class")):
            whose = "" if owner is cls else f" through {owner.__name__}"
            raise BlockDefinitionError(
                "definition.overrides_execute",
                f"block class {cls.__name__} defines {name}{whose}; put the work into run(self, input, ctx)",
            )
    fields = {name for name, hint in inspect.get_annotations(cls).items() if not is_class_variable(hint)}
    clash = sorted(name for name in fields if hasattr(Block, name) or name in ("validate", "run"))
    if clash:
        raise BlockDefinitionError(
            "definition.bad_config",
            f"block class {cls.__name__}: the config field {clash[0]!r} is a name of Block itself; choose another",
        )


def _make_config(cls: type) -> None:
    doc = cls.__doc__
    try:
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)
    except (TypeError, ValueError) as error:
        raise BlockDefinitionError("definition.bad_config", f"block class {cls.__name__}: {error}") from None
    cls.__doc__ = doc  # dataclass would invent a signature as documentation
