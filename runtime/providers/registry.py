"""From a mission's ``provider:`` declaration to the adapter that answers its model calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from runtime.governance.secrets import Secrets
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelProvider
from runtime.providers.adapters.openai import OpenAIProvider
from runtime.providers.adapters.scripted import ScriptedProvider

_Builder = Callable[[Mapping[str, Any], Secrets, Clock], ModelProvider]


def build_provider(declaration: Mapping[str, Any], *, secrets: Secrets, clock: Clock) -> ModelProvider:
    """The provider ``declaration`` names: ``{"scripted": {role: [answer…]}}`` or ``{"openai": {base_url, model, key}}``.

    ``secrets`` looks keys up, at each call. Raises `Refused` ``PROVIDER_UNKNOWN``, ``PROVIDER_CONFIG``.
    """
    if len(declaration) != 1:
        raise Refused("PROVIDER_CONFIG", f"name exactly one provider, not {len(declaration)}", where="provider")
    ((kind, options),) = declaration.items()
    if kind not in _BUILDERS:
        known = ", ".join(sorted(_BUILDERS))
        raise Refused("PROVIDER_UNKNOWN", f"there is no provider {kind!r}", where="provider", hint=f"known: {known}")
    if not isinstance(options, Mapping):
        raise Refused("PROVIDER_CONFIG", "expected a mapping", where=f"provider.{kind}")
    return _BUILDERS[kind](options, secrets, clock)


def _scripted(options: Mapping[str, Any], secrets: Secrets, clock: Clock) -> ModelProvider:
    return ScriptedProvider(options)


def _openai(options: Mapping[str, Any], secrets: Secrets, clock: Clock) -> ModelProvider:
    unknown = sorted(set(options) - {"base_url", "model", "key"})
    if unknown:
        raise Refused("PROVIDER_CONFIG", f"unknown key {unknown[0]!r}", where="provider.openai")
    for name in ("base_url", "model"):
        if not isinstance(options.get(name), str) or not options[name]:
            raise Refused("PROVIDER_CONFIG", f"{name!r} must be given as text", where="provider.openai")
    if not isinstance(options.get("key", ""), str | None):
        raise Refused("PROVIDER_CONFIG", "'key' must be given as env://NAME or file://PATH", where="provider.openai")
    return OpenAIProvider(
        base_url=options["base_url"],
        model=options["model"],
        key_ref=options.get("key"),
        secrets=secrets,
        clock=clock,
    )


_BUILDERS: Final[Mapping[str, _Builder]] = {"scripted": _scripted, "openai": _openai}
