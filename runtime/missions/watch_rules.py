"""When do changed files mean "run again"? The decisions of a watch, pure: facts and times in, decisions out.

A file counts as changed when its content changed; touching, chmod and rewriting the same bytes do not. What a run of
the watch itself left behind is told apart by its journal and starts nothing. A run that changes what it reads would
rerun for ever, and so would one whose writes nobody can account for: such a watch is suspended, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from runtime.events.facts import FileChange
from runtime.kernel.globs import literal_prefix, matches

OVERLAPS: Final = ("queue", "preempt", "skip")
#: Consecutive reruns nobody can account for after which the watch is suspended.
LOOP_RUNS: Final = 5
#: A change that never comes to rest starts a run after this many seconds all the same.
MAX_SETTLE_SECONDS: Final = 10.0

#: Never watched, wherever they are: version control, environments and caches …
HIDDEN_FOLDERS: Final = frozenset(
    {
        *(".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "_darcs"),
        *("__pycache__", ".venv", "venv", "node_modules"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox"),
    }
)
#: … and what editors, systems and our own atomic writes leave for a moment.
_HIDDEN_NAMES: Final = frozenset({"4913", ".DS_Store", "Thumbs.db", ".git"})
_HIDDEN_STARTS: Final = (".#", ".quarterdeck-", "~$")
_HIDDEN_ENDS: Final = (".pyc", ".pyo", ".swp", ".swo", ".swx", ".tmp", "~")


def hidden(path: str) -> bool:
    """Is this relative path one no watch ever looks at?"""
    *folders, name = path.split("/")
    return (
        name in HIDDEN_FOLDERS
        or name in _HIDDEN_NAMES
        or name.startswith(_HIDDEN_STARTS)
        or name.endswith(_HIDDEN_ENDS)
        or not HIDDEN_FOLDERS.isdisjoint(folders)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """Which paths below the root concern a watch. ``ours`` are folders of our own state below it."""

    paths: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def unseen(self, path: str) -> bool:
        """Is it, or what lies below it, never looked at?"""
        return hidden(path) or any(path == own or path.startswith(own + "/") for own in self.ours)

    def excluded(self, path: str) -> bool:
        """Would the file count if the mission did not leave it out?"""
        return self._wanted(path) and any(matches(pattern, path) for pattern in self.excludes)

    def counts(self, path: str) -> bool:
        """Does a change of this file concern the watch?"""
        return (
            not self.unseen(path)
            and self._wanted(path)
            and not any(matches(pattern, path) for pattern in self.excludes)
        )

    def leads(self, path: str) -> bool:
        """Is it a folder on the way to where the patterns may match?"""
        return any(_inside(_reach(pattern)[0], path) or _reach(pattern)[0] == path for pattern in self.paths)

    def _wanted(self, path: str) -> bool:
        return any(matches(pattern, path) for pattern in self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Folders to listen at, relative to the root (empty: the root): with all below them, and without."""

    deep: tuple[str, ...]
    flat: tuple[str, ...]


def places(rules: WatchRules, is_folder: Callable[[str], bool]) -> Places:
    """The smallest folders that hold whatever the patterns may match; for one that is not there, its nearest parent.

    The root is taken to exist.
    """
    deep: set[str] = set()
    flat: set[str] = set()
    for pattern in rules.paths:
        folder, below = _reach(pattern)
        there = next((item for item in _upwards(folder) if not item or is_folder(item)), "")
        (deep if below and there == folder else flat).add(there)
    deep = {item for item in deep if not any(_inside(item, other) for other in deep)}
    covered = {item for item in flat if item in deep or any(_inside(item, other) for other in deep)}
    return Places(deep=tuple(sorted(deep)), flat=tuple(sorted(flat - covered)))


def _reach(pattern: str) -> tuple[str, bool]:
    """The folder a pattern's matches lie in, and whether they may lie deeper than directly in it."""
    prefix = literal_prefix(pattern)
    if prefix == pattern:  # one file
        return prefix.rpartition("/")[0], False
    rest = pattern.rstrip("/").removeprefix(prefix).lstrip("/")
    return prefix, pattern.endswith("/") or "/" in rest or rest.startswith("**")


def _upwards(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


def _inside(path: str, folder: str) -> bool:
    return path != folder and (not folder or path.startswith(folder + "/"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A file as it was: ``content`` tells contents apart, ``stamp`` whether it is worth reading again."""

    content: str
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Between two looks. ``same``: files that were touched and hold what they held before."""

    changes: tuple[FileChange, ...] = ()
    same: tuple[str, ...] = ()


def compare(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> Difference:
    """What changed, sorted by path."""
    changes, same = [], []
    moved = [path for path in before.keys() | after.keys() if before.get(path) is not after.get(path)]
    for path in sorted(moved):
        old, new = before.get(path), after.get(path)
        contents = (old.content if old else None, new.content if new else None)
        if contents[0] != contents[1]:
            changes.append(FileChange(path=path, before=contents[0], after=contents[1]))
        elif old != new:
            same.append(path)
    return Difference(changes=tuple(changes), same=tuple(same))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWrite:
    """One journalled write (or undo) of a run of the watch. ``stands``: changed files that are as it left them."""

    run_id: str
    seq: int
    paths: tuple[str, ...]
    stands: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRead:
    """One journalled look of a run of the watch at a file or folder; ``names``: only at which files there are."""

    run_id: str
    seq: int
    path: str
    names: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Doings:
    """What the journals of the watch's runs say. ``unfinished``: paths of writes that have begun and not ended.

    ``loose``: some process of theirs could write anywhere, because nothing confined it.
    """

    writes: tuple[OwnWrite, ...] = ()
    reads: tuple[OwnRead, ...] = ()
    unfinished: tuple[str, ...] = ()
    loose: bool = False

    def possible(self, path: str) -> bool:
        """Could one of the runs have written this file, as far as can be told?"""
        return self.loose or any(covers(write.paths, path) for write in self.writes)


def covers(paths: Iterable[str], path: str) -> bool:
    """Is ``path`` one of ``paths`` or below one of them?"""
    return any(path == known or path.startswith(known + "/") for known in paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whose changes these are. ``undecided`` ones may be a write that is just happening. ``loop`` explains one."""

    foreign: tuple[FileChange, ...] = ()
    own: tuple[tuple[FileChange, OwnWrite], ...] = ()
    undecided: tuple[FileChange, ...] = ()
    loop: str | None = None


def judge(changes: Sequence[FileChange], doings: Doings) -> Judgement:
    """Attribute changes: a file that is as a run left it is that run's; the newest such entry is named."""
    foreign, own, undecided = [], [], []
    for change in changes:
        author = max(
            (write for write in doings.writes if change.path in write.stands), key=lambda write: write.seq, default=None
        )
        if author is not None:
            own.append((change, author))
        elif covers(doings.unfinished, change.path):
            undecided.append(change)
        else:
            foreign.append(change)
    loop = next((told for change, author in own if (told := _loop(change, author, doings)) is not None), None)
    return Judgement(foreign=tuple(foreign), own=tuple(own), undecided=tuple(undecided), loop=loop)


def _loop(change: FileChange, author: OwnWrite, doings: Doings) -> str | None:
    """Why the next run would see another input than this one did: it looked first and wrote afterwards."""
    mine = [item for item in doings.writes if item.run_id == author.run_id and covers(item.paths, change.path)]
    first = min(item.seq for item in (*mine, author))
    appeared = (change.before is None) != (change.after is None)
    read = min(
        (
            item
            for item in doings.reads
            if item.run_id == author.run_id
            and item.seq < first
            and covers((item.path,), change.path)
            and (appeared or not item.names)
        ),
        key=lambda item: item.seq,
        default=None,
    )
    if read is None:
        return None
    return (
        f"run {author.run_id[:8]} wrote {change.path} (entry {author.seq}), "
        f"which it also reads (entry {read.seq}); it would rerun for ever"
    )


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Reruns in a row for the same files, each changed while the run before was at work and could have done it."""

    runs: int = 0
    paths: frozenset[str] = frozenset()

    def after(self, possible: Collection[str]) -> Suspicion:
        """One more rerun; ``possible`` are those of its files the run before may have written."""
        again = self.paths.intersection(possible)
        if again:
            return Suspicion(self.runs + 1, again)
        return Suspicion(1, frozenset(possible)) if possible else Suspicion()

    @property
    def loop(self) -> str | None:
        if self.runs < LOOP_RUNS:
            return None
        return (
            f"{self.runs} reruns in a row: {min(self.paths)} changed each time while a run was at work, and no "
            "journal entry says who wrote it; if the mission does, exclude the path"
        )


@dataclass(slots=True)
class Settling:
    """The quiet time after changes: they are looked at when nothing has moved for ``quiet`` seconds."""

    quiet: float
    first: float | None = None
    last: float | None = None

    @property
    def touched(self) -> bool:
        return self.last is not None

    def touch(self, now: float) -> None:
        self.first = now if self.first is None else self.first
        self.last = now

    def expire(self, now: float) -> None:
        """Look now."""
        self.first = self.last = now - self.quiet

    def clear(self) -> None:
        self.first = self.last = None

    def overdue(self, now: float) -> bool:
        """Has it been put off for as long as it may be?"""
        return self.first is not None and now - self.first >= MAX_SETTLE_SECONDS

    def left(self, now: float) -> float | None:
        """Seconds until it is time to look; None when nothing was touched."""
        if self.first is None or self.last is None:
            return None
        due = min(self.last + self.quiet, self.first + max(self.quiet, MAX_SETTLE_SECONDS))
        return max(0.0, due - now)


class Next(Enum):
    """What a watch does with changes that came to rest."""

    NOTHING = "nothing"
    RUN = "run"
    PREEMPT = "preempt"
    SKIP = "skip"


def may_look(*, busy: bool, overlap: str, stoppable: bool) -> bool:
    """May changes be judged now? While a run works only to stop it; the others wait for its whole journal."""
    return not busy or (overlap == "preempt" and stoppable)


def overlapping(judgement: Judgement, *, busy: bool, overlap: str, all_while_busy: bool) -> Next:
    """The overlap policy. ``all_while_busy``: every change arrived while the last run was at work."""
    if not judgement.foreign:
        return Next.NOTHING
    if busy:
        return Next.PREEMPT
    return Next.SKIP if overlap == "skip" and all_while_busy else Next.RUN


def cause_of(changes: Sequence[FileChange]) -> str:
    """Why a run starts, in one line."""
    if not changes:
        return "the watch began"
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0].path}{more} changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One batch of notices, sifted. ``count`` files of the watch moved; ``look``: something did that may matter;
    ``excluded`` would have counted, had the mission not left them out."""

    count: int = 0
    look: bool = False
    excluded: tuple[str, ...] = ()


def sift(rules: WatchRules, paths: Iterable[str], *, deep: bool, kept: int = 20) -> Heard:
    """Sort a batch of relative paths. Below a ``deep`` place any folder's own notice means that what is in it moved."""
    count, look = 0, False
    excluded: list[str] = []
    for path in paths:
        if rules.unseen(path):
            continue
        if rules.excluded(path):
            if len(excluded) < kept:
                excluded.append(path)
        else:
            counts = rules.counts(path)
            count += counts
            look = look or counts or deep or rules.leads(path)
    return Heard(count=count, look=look, excluded=tuple(sorted(excluded)))
