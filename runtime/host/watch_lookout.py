"""Where a watch listens and what it knows: the ears at its folders, and every file as it was last taken note of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.events.facts import FileChange
from runtime.host.watch_aim import Aim
from runtime.host.watch_ears import Ears, Sift
from runtime.host.watch_files import Identity, Looker, identity, marks_of, survey
from runtime.kernel.errors import Refused
from runtime.missions.watch_rules import Difference, Heard, Mark, Places, compare


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one look found: the files as they are, and how they differ from what is known."""

    files: Mapping[str, Mark]
    difference: Difference


class Lookout:
    """Listens and looks for one watch. ``heard`` is told of notices, ``lost`` when ears ended or a folder changed."""

    def __init__(self, aim: Aim, *, heard: Callable[[Heard], None], lost: Callable[[], None]) -> None:
        self._aim = aim
        self._heard = heard
        self._told_lost = lost
        self._looker = Looker(aim.root, aim.rules)
        self._places = Places(deep=(), flat=())
        self._folders: dict[Path, Identity] = {}
        self._ears: list[Ears] = []
        self._index: dict[str, Mark] = {}
        self._definition: dict[str, Mark] = {}
        self._deaf: str | None = None

    @property
    def files(self) -> int:
        return len(self._index)

    async def begin(self, aim: Aim) -> None:
        """Know the files as they are now, all of them. Raises `Refused` ``WATCH_*``, listening to nothing then."""
        try:
            await self.close()
            self._deaf = None
            self._definition = await asyncio.to_thread(marks_of, aim.definition, {})
            await self.turn(aim)
        except BaseException:
            await self.close()
            raise

    async def turn(self, aim: Aim) -> None:
        """Watch what a changed mission says. The files it means now are known as they are."""
        self._aim, self._looker = aim, Looker(aim.root, aim.rules)
        await self.listen()
        self._index = await asyncio.to_thread(self._looker.look, self._places, {})

    async def redefined(self, *, note: bool) -> tuple[FileChange, ...]:
        """Which of the mission's own files changed; ``note``: they are known as they are from now on."""
        found = await asyncio.to_thread(marks_of, self._aim.definition, self._definition)
        changes = compare(self._definition, found).changes
        if note:
            self._definition = found
        return changes

    async def look(self) -> Sighting:
        """Be where the files are, and see how they differ from what is known. Raises `Refused` ``WATCH_*``."""
        await self.listen()
        files = await asyncio.to_thread(self._looker.look, self._places, self._index)
        return Sighting(files=files, difference=compare(self._index, files))

    def note(self, sighting: Sighting, paths: Iterable[str]) -> None:
        """These files are known as they were seen."""
        for path in paths:
            if path in sighting.files:
                self._index[path] = sighting.files[path]
            else:
                self._index.pop(path, None)

    async def listen(self) -> None:
        """Be at the folders the patterns mean, whichever they are now; new ears open before old ones close."""
        if self._deaf is not None:
            raise Refused("WATCH_FAILED", f"the file system's notices ended: {self._deaf}", hint="rearm the watch")
        aim = self._aim
        places, folders, homes = await asyncio.to_thread(_survey, aim)
        if self._ears and (places, {**folders, **homes}) == (self._places, self._folders):
            return
        old, self._ears = self._ears, []
        self._places, self._folders = places, {**folders, **homes}
        deep, flat = (_among(folders, aim.root, names) for names in (places.deep, places.flat))
        try:
            await self._open(deep, deeply=True, sift=partial(aim.sift, deep=True))
            await self._open(flat, deeply=False, sift=partial(aim.sift, deep=False))
            rest = {path: found for path, found in homes.items() if path not in flat and path not in deep}
            await self._open(rest, deeply=False, sift=lambda paths: Heard(look=aim.redefined(paths)))
        finally:
            for ears in old:
                await ears.close()

    async def _open(self, folders: Mapping[Path, Identity], *, deeply: bool, sift: Sift) -> None:
        if folders:
            ears = Ears(folders, deep=deeply, sift=sift, heard=self._heard, lost=self._lost)
            self._ears.append(ears)
            await ears.start()

    def _lost(self, why: str | None) -> None:
        """``why`` None: a folder is gone or another one, which the next look sorts out."""
        self._deaf = why
        self._told_lost()

    async def close(self) -> None:
        """Hear nothing more."""
        ears, self._ears, self._folders = self._ears, [], {}
        for item in ears:
            await item.close()


def _survey(aim: Aim) -> tuple[Places, dict[Path, Identity], dict[Path, Identity]]:
    """Places and their folders, and the folders of the mission's own files. Blocking."""
    places, folders = survey(aim.root, aim.rules)
    homes = {path: found for path in {item.parent for item in aim.definition} if (found := identity(path)) is not None}
    home = aim.mission.path.resolve().parent
    if home not in homes:
        raise Refused("WATCH_ROOT", "the mission's folder is not there", where=str(home), hint="bring it back, rearm")
    return places, folders, homes


def _among(folders: Mapping[Path, Identity], root: Path, names: Iterable[str]) -> dict[Path, Identity]:
    return {root / name: folders[root / name] for name in names if root / name in folders}
