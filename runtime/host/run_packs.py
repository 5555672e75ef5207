"""The packs one run uses, ready to run their code: looked at anew, trusted, linked, and ended with the run (ruling R43)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Self

from runtime.blocks.packs.links import PackLink
from runtime.blocks.packs.report import FoundPack, Trust, how_to_trust
from runtime.blocks.registry import BlockRegistry
from runtime.execution.pack_process import ProcessLink
from runtime.execution.pack_transforms import is_transform, pack_transform
from runtime.execution.pack_worker import PackPlace
from runtime.host.pack_trust import PackTrust
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessRunner
from runtime.missions.loader import Mission
from runtime.missions.packs import MissionTypes, Nowhere, UsedPack, types_beside
from runtime.orchestration.handlers.routes import Transform

#: Packs are read, and those trusted with this process imported, within this time, in seconds.
_LOAD_SECONDS: Final = 30.0


class RunPacks:
    """``registry`` makes blocks whose code can run; None for a mission without packs. ``transforms`` are what
    ``packet_route`` may name besides its own. `close` it at the run's end."""

    def __init__(self) -> None:
        self._links: dict[str, ProcessLink] = {}
        self.registry: BlockRegistry | None = None
        self.transforms: Mapping[str, Transform] = {}

    @classmethod
    async def open(cls, mission: Mission, used: Sequence[UsedPack], trust: PackTrust, runner: ProcessRunner) -> Self:
        """Raises `Refused` ``plugin.untrusted`` for a pack nobody trusts, ``PACK_CHANGED`` for one that is another since
        the mission was loaded, and the code of one whose code cannot be imported here."""
        packs = cls()
        for pack in used:
            _check_trust(pack, trust)
        if used:
            try:
                async with asyncio.timeout(_LOAD_SECONDS):
                    packs.registry = await asyncio.to_thread(packs._load, mission, used, trust, runner)
            except TimeoutError:
                names = ", ".join(pack.name for pack in used)
                what = f"loading the packs {names} took more than {_LOAD_SECONDS:g} s"
                raise Refused("plugin.import_failed", what) from None
        return packs

    async def close(self) -> None:
        """End every worker."""
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _load(
        self, mission: Mission, used: Sequence[UsedPack], trust: PackTrust, runner: ProcessRunner
    ) -> BlockRegistry:
        wanted = {pack.digest for pack in used}

        def of(digest: str) -> Trust:
            # Whatever else lies there is known by name only: none of its code runs for this mission.
            return trust.of(digest) if digest in wanted else Trust.CONFINED

        def link(found: FoundPack) -> PackLink:
            if found.digest not in wanted:
                return Nowhere(found.manifest.name)
            place = PackPlace(name=found.manifest.name, folder=found.path.absolute(), digest=found.digest)
            return self._links.setdefault(found.digest, ProcessLink(place, runner))

        types = types_beside(mission.directory, trust=of, link_for=link)
        for pack in used:
            _check_there(pack, types)
        self.transforms = {
            about.type_id: pack_transform(about, link(found))
            for found in types.report.loaded
            if found.digest in wanted
            for about in found.manifest.blocks
            if is_transform(about)
        }
        return types.registry


def _check_trust(pack: UsedPack, trust: PackTrust) -> None:
    if trust.of(pack.digest) is Trust.NONE:
        raise Refused(
            "plugin.untrusted",
            f"nobody trusts the pack {pack.name} {pack.version} as it is ({pack.digest}), so none of its code runs",
            where=pack.path,
            hint=how_to_trust(pack.path),
        )


def _check_there(pack: UsedPack, types: MissionTypes) -> None:
    if any(found.digest == pack.digest for found in types.report.loaded):
        return
    skipped = next((item for item in types.report.skipped if item.digest == pack.digest), None)
    if skipped is not None:
        raise Refused(skipped.code, f"the pack {pack.name} cannot be used: {skipped.message}", where=skipped.path)
    raise Refused(
        "PACK_CHANGED", f"the pack {pack.name} has just changed", where=pack.path, hint="look at it and trust it anew"
    )
