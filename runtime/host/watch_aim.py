"""What one watch looks at, worked out from its mission file: the root, the patterns, and the file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from runtime.events.facts import FileChange
from runtime.host.api import Watch
from runtime.host.ground import workspace_request
from runtime.host.watch_files import shown
from runtime.kernel.errors import Refused
from runtime.missions.inputs import bind
from runtime.missions.loader import Mission, load
from runtime.missions.model import MAX_DEBOUNCE_MS
from runtime.missions.watch_rules import MAX_SETTLE_SECONDS, OVERLAPS, Heard, WatchRules, sift
from runtime.orchestration.git import find_toplevel, git_folders
from runtime.orchestration.workspace import source_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A mission as it is watched. ``definition`` are the files the mission is made of."""

    mission: Mission
    root: Path
    rules: WatchRules
    debounce_ms: int
    overlap: str
    definition: frozenset[Path]
    git_lock: Path | None = None
    """What git keeps while it rewrites the work tree the root lies in."""

    def relative(self, path: str) -> str | None:
        """An absolute path as rules know it; None when it does not lie below the root."""
        top = f"{self.root}/"
        return path.removeprefix(top) if path.startswith(top) else None

    def named(self, path: str) -> str:
        """A definition file as operators know it."""
        inside = self.relative(path)
        return Path(path).name if inside is None else inside

    def rewritten(self, now: datetime) -> bool:
        """Is git in the middle of changing files? A lock that has been there for long was left behind. Blocking."""
        try:
            since = self.git_lock.stat().st_mtime if self.git_lock is not None else None
        except OSError:
            return False
        return since is not None and abs(now.timestamp() - since) < MAX_SETTLE_SECONDS

    def sift(self, paths: Sequence[str], *, deep: bool) -> Heard:
        """Sort a batch of notices from folders of the root, which may hold the mission's own files, too."""
        heard = sift(self.rules, (name for path in paths if (name := self.relative(path)) is not None), deep=deep)
        return replace(heard, look=heard.look or self.redefined(paths))

    def redefined(self, paths: Sequence[str]) -> bool:
        """Is one of the mission's own files among these?"""
        return any(Path(path) in self.definition for path in paths)


def take_aim(intent: Watch, ours: Sequence[Path]) -> Aim:
    """Load the mission and work out what to watch; ``ours`` are folders of our own state. Blocking.

    Raises `MissionInvalid`, `InputsInvalid`, `Refused` ``WATCH_NOT_DECLARED``, ``WATCH_OPTION``, ``ROOT_MISSING``.
    """
    mission = load(intent.path)
    spec = mission.spec.watch
    if spec is None:
        raise Refused(
            "WATCH_NOT_DECLARED",
            f"mission {mission.name} does not say which files to watch",
            where=str(mission.path),
            hint='add a line such as `watch: {paths: ["src/**"]}` to it',
        )
    overlap = spec.overlap if intent.overlap is None else intent.overlap
    debounce = spec.debounce_ms if intent.debounce_ms is None else intent.debounce_ms
    _check_options(overlap, debounce)
    inputs: Mapping[str, Any] = bind(mission.spec.inputs, intent.inputs, intent.directory)
    root = source_root(workspace_request(mission, inputs), mission.directory).resolve()
    inside = tuple(str(folder.relative_to(root)) for folder in ours if folder.is_relative_to(root) and folder != root)
    return Aim(
        mission=mission,
        root=root,
        rules=WatchRules(paths=spec.paths, excludes=spec.exclude, ours=inside),
        debounce_ms=debounce,
        overlap=overlap,
        definition=frozenset({mission.path.resolve(), *(item.path for item in mission.files.values())}),
        git_lock=_git_lock(root),
    )


def _git_lock(root: Path) -> Path | None:
    top = find_toplevel(root)
    folders = None if top is None else git_folders(top)
    return None if folders is None else folders.own / "index.lock"


def _check_options(overlap: object, debounce: object) -> None:
    """They may come from another process."""
    if overlap not in OVERLAPS:
        raise Refused("WATCH_OPTION", f"overlap {overlap!r} is not one of {', '.join(OVERLAPS)}")
    if not isinstance(debounce, int) or isinstance(debounce, bool) or not 0 <= debounce <= MAX_DEBOUNCE_MS:
        raise Refused("WATCH_OPTION", f"debounce {debounce!r} is not a number of milliseconds up to {MAX_DEBOUNCE_MS}")


def recorded(changes: Sequence[FileChange]) -> tuple[FileChange, ...]:
    """Changes with paths that can be written down."""
    return tuple(FileChange(path=shown(item.path), before=item.before, after=item.after) for item in changes)
