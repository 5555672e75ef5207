"""The secrets one run refers to (reliability §4.1): what they are, and that the run may begin with them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from runtime.governance.secrets import Secrets
from runtime.host.assembly import Shared
from runtime.kernel.redaction import Redactor
from runtime.missions.loader import Mission


def secrets_of(mission: Mission, shared: Shared) -> Secrets:
    """What the mission refers to; nothing is looked up yet. The host's redactor learns what the run's learns."""
    provider = mission.spec.provider
    key = provider.openai.key if provider is not None and provider.openai is not None else None
    return Secrets(
        shared.environ,
        handed=mission.spec.sandbox.references,
        others=() if key is None else (key,),
        redactor=Redactor(also=shared.redactor),
    )


async def admit(secrets: Secrets, mission: Mission, inputs: Mapping[str, Any]) -> None:
    """Every secret can be had, and none stands where it would be stored. Raises `Refused` ``SECRET_*``."""
    await asyncio.to_thread(secrets.check)
    files = [(item.content, item.data.decode("utf-8", "replace")) for item in mission.files.values()]
    secrets.refuse_written(mission.source, mission.definition, files, inputs)
