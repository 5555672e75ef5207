"""Everything handlers are told by the host, resolved once per run and never changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelProvider, ProcessRunner
from runtime.orchestration.handlers.routes import Transform
from runtime.orchestration.operation_ports import GitPort

#: Operations spec §3.1.
DEFAULT_MAX_TOKENS: Final = 8192
#: Ruling R32: one provider attempt.
DEFAULT_LLM_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-USD per million tokens."""

    per_million_in: int
    per_million_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Who answers ``llm_call``. ``prices`` maps model names; ``free`` providers (scripted) cost nothing.

    ``unpriced`` lets a model without a price run on a token budget (rulings §9.9). ``prompts`` are the mission's
    role prompts, ``schemas`` the output schemas it may name.
    """

    provider: ModelProvider | None = None
    model: str = "auto"
    free: bool = False
    unpriced: bool = False
    prices: Mapping[str, Price] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_tokens: int = DEFAULT_MAX_TOKENS
    timeout: float = DEFAULT_LLM_SECONDS


def _undeclared(reference: str) -> str:
    raise Refused("SECRET_REFERENCE", f"{reference} is not among the mission's sandbox.secrets")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSettings:
    """What the host resolved for one run.

    ``root`` is the work tree. ``python`` and ``commands`` come from the mission's ``commands:`` (ruling R50), the
    raw mapping of each template is checked by `runtime.orchestration.handlers.process`. ``scratch_root`` is a
    private folder outside the work tree; ``sandbox_env`` looks up, for each child anew, the secrets it gets as
    variables (blocking; raises `Refused`), ``hosts`` are what children with a network, and requests, may reach.
    ``secret`` looks up one secret the mission declares, by its reference (blocking; raises `Refused`), ``environ``
    holds the operator's own settings of the mail server.
    ``is_protected`` is the protected set's own question; without it the check ``governance_baseline`` is not offered.
    ``witness`` is asked for the line commits carry as a trailer, where the operator wants one (operations spec §7.4).
    ``transforms`` are those of packs, by name; built-in ones win. ``output`` is the run's output folder, made when something is written; without it those tools are not offered.
    """

    root: Path
    clock: Clock
    runner: ProcessRunner
    scratch_root: Path
    git: GitPort | None = None
    python: str | None = None
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: ModelSettings = ModelSettings()
    sandbox_env: Callable[[], Mapping[str, str]] = dict
    secret: Callable[[str], str] = _undeclared
    environ: Mapping[str, str] = field(default_factory=dict)
    sandbox_scratch: Sequence[str] = ()
    hosts: Sequence[str] = ()
    is_protected: Callable[[str], bool] | None = None
    output: Path | None = None
    witness: Callable[[], Awaitable[str]] | None = None
    transforms: Mapping[str, Transform] = field(default_factory=dict)

    @property
    def confined(self) -> bool:
        """Does the kernel hold children to their plan? (tiers A and B, ruling R48)"""
        return self.runner.tier in ("A", "B")
