"""What the work tree looks like, as one hash that two different trees never share.

Entries are framed objects, never concatenated text; directories count with everything below them; a missing file
is a fact of its own kind. Every file is reached by descriptors from the root, one component at a time and never
through a link, so nothing outside is read even while somebody rearranges the tree. Reading blocks: under a running
loop call it in a worker thread, as `workspace_fingerprint` does. Standard library and kernel only.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from runtime.kernel.canonical import MAX_BYTES, canonical_bytes, digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.ids import KILL_SWITCH_FILE

#: Operations spec §15.
MAX_ENTRIES: Final = 20_000
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024
#: A listing of `MAX_ENTRIES` entries outgrows the limit of one hashed record; paths have at most 1 024 bytes.
MAX_LISTING_BYTES: Final = 64 * MAX_BYTES

#: A listing is kept as one body of at most 16 MiB; what is beside the paths takes about as much per entry.
MAX_LISTED_BYTES: Final = 12 * MAX_BYTES
_BESIDE_A_PATH: Final = 100

#: Looking at metadata is cheap, and a folder without git has no other bound than what is in it.
MAX_METADATA_ENTRIES: Final = 200_000
#: Stands for everything below the root, as the writable root of an envelope that allows ``**``.
WHOLE_TREE: Final = "."

_TRIES: Final = 3
_CHUNK: Final = 1024 * 1024
_OPEN_FILE: Final = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)
_OPEN_DIR: Final = _OPEN_FILE | getattr(os, "O_DIRECTORY", 0)
_GIT_FOLDER: Final = ".git"

Entry = Mapping[str, Any]


def compute_state_hash(paths: Iterable[str], repo_root: Path, *, exclude: Collection[str] = ()) -> str:
    """The hash of ``paths`` under ``repo_root`` (operations spec §5). ``exclude`` are relative folders to skip.

    Order and duplicates do not matter. Raises `Refused`: ``PATH_*`` before anything is read, ``STATE_UNREADABLE``,
    ``STATE_UNSTABLE``, ``STATE_LIMIT``.
    """
    wanted = sorted(set(paths))
    for path in wanted:
        _require_inside(path)
    entries = state_entries(wanted, repo_root, exclude=exclude)
    return listing_digest("state/1", {"entries": [dict(entry) for entry in entries]})


def listing_digest(schema: str, members: Mapping[str, Any]) -> str:
    """The digest of a hashed listing, which may be longer than one record."""
    return digest_bytes(canonical_bytes({"schema": schema, **members}, limit=MAX_LISTING_BYTES))


def state_entries(
    paths: Iterable[str], root: Path, *, exclude: Collection[str] = (), links_hide: bool = False
) -> tuple[Entry, ...]:
    """Entries for ``paths`` and all below them, sorted by the bytes of their path.

    With ``links_hide`` a path below a symbolic link is ``missing`` (git's own view) instead of unreadable.
    """
    walk = _Walk(_open_root(root), frozenset(exclude), links_hide, _content_entry, MAX_ENTRIES)
    return walk.run(paths)


def metadata_entries(paths: Iterable[str], root: Path, *, exclude: Collection[str] = ()) -> tuple[Entry, ...]:
    """As `state_entries` with size and time instead of content: the cheap look at a folder without git."""
    walk = _Walk(_open_root(root), frozenset(exclude), True, _metadata_entry, MAX_METADATA_ENTRIES)
    return walk.run(paths)


def _require_inside(path: object) -> None:
    """Refuse every path that is not relative, plain and below the root; names as such are the enforcer's affair."""
    if not isinstance(path, str):
        raise Refused("PATH_TYPE", f"a path must be text, not {type(path).__name__}")
    checks = (
        (not path, "PATH_EMPTY", "is empty"),
        ("\0" in path, "PATH_NUL", "holds a NUL"),
        (path.startswith("/"), "PATH_ABSOLUTE", "is absolute"),
        ("\\" in path, "PATH_BACKSLASH", "holds a backslash"),
        (".." in path.split("/"), "PATH_TRAVERSAL", "climbs out"),
        (any(part in ("", ".") for part in path.split("/")), "PATH_NOT_NORMAL", "is not in normal form"),
        (_GIT_FOLDER in path.casefold().split("/"), "PATH_GIT_INTERNAL", "lies inside .git"),
    )
    for wrong, code, why in checks:
        if wrong:
            raise Refused(code, f"path {path!r} {why}")


def _open_root(root: Path) -> int:
    try:
        return os.open(root, _OPEN_DIR & ~getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        raise Refused(
            "STATE_UNREADABLE", f"the work tree cannot be opened: {error.strerror}", where=str(root)
        ) from error


@dataclass(slots=True)
class _Walk:
    """One pass. Owns the root descriptor and closes it; counts entries and bytes against the limits."""

    root: int
    exclude: frozenset[str]
    links_hide: bool
    describe: Callable[[int, str, str, os.stat_result, _Walk], Entry]
    max_entries: int
    found: dict[str, Entry] = field(default_factory=dict)
    total: int = 0
    listed: int = 0

    def run(self, paths: Iterable[str]) -> tuple[Entry, ...]:
        try:
            for path in paths:
                self._visit(path)
        finally:
            os.close(self.root)
        return tuple(self.found[path] for path in sorted(self.found, key=os.fsencode))

    def count_bytes(self, size: int) -> None:
        self.total += size
        if self.total > MAX_TOTAL_BYTES:
            raise Refused(
                "STATE_LIMIT",
                f"more than {MAX_TOTAL_BYTES} bytes would have to be hashed",
                hint="name narrower paths, or have git ignore large files that are no part of the work",
            )

    def _visit(self, path: str) -> None:
        if path == WHOLE_TREE:
            self._below(self.root, WHOLE_TREE, "")
            return
        *parents, name = path.split("/")
        holder = os.dup(self.root)
        try:
            for parent in parents:
                following = self._descend(holder, parent, path)
                if following is None:
                    self._keep(path, {"path": path, "kind": "missing"})
                    return
                os.close(holder)
                holder = following
            self._take(holder, name, path)
        finally:
            os.close(holder)

    def _descend(self, holder: int, name: str, path: str) -> int | None:
        try:
            return os.open(name, _OPEN_DIR, dir_fd=holder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise _unreadable(path, error) from error
        if not self.links_hide and _is_link(holder, name):
            raise Refused(
                "STATE_UNREADABLE", f"{path!r} lies behind a symbolic link", hint="name the linked folder itself"
            )
        return None

    def _take(self, holder: int, name: str, path: str) -> None:
        if path in self.exclude:
            return
        try:
            found = os.stat(name, dir_fd=holder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            self._keep(path, {"path": path, "kind": "missing"})
            return
        except OSError as error:
            raise _unreadable(path, error) from error
        if stat.S_ISDIR(found.st_mode):
            self._keep(path, {"path": path, "kind": "dir"})
            self._below(holder, name, path)
        else:
            self._keep(path, self.describe(holder, name, path, found, self))

    def _below(self, holder: int, name: str, path: str) -> None:
        try:
            folder = os.open(name, _OPEN_DIR, dir_fd=holder)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            for child in sorted(os.listdir(folder)):  # noqa: PTH208  # pathlib lists names, not descriptors
                if child != _GIT_FOLDER:
                    self._take(folder, child, f"{path}/{child}" if path else child)
        finally:
            os.close(folder)

    def _keep(self, path: str, entry: Entry) -> None:
        self.found[path] = _spelled(path, entry)
        self.listed += len(os.fsencode(path)) + _BESIDE_A_PATH
        if len(self.found) > self.max_entries or self.listed > MAX_LISTED_BYTES:
            raise Refused(
                "STATE_LIMIT", f"more than {len(self.found) - 1} files and folders", hint="name narrower paths"
            )


def _spelled(path: str, entry: Entry) -> Entry:
    """Names that are not UTF-8 have no canonical text: show them escaped and keep their bytes beside."""
    raw = os.fsencode(path)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return {**entry, "path": raw.decode("utf-8", "backslashreplace"), "raw": raw.hex()}
    return entry


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused("STATE_UNREADABLE", f"{path!r} cannot be read: {error.strerror}")


def _is_link(holder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=holder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _content_entry(holder: int, name: str, path: str, found: os.stat_result, walk: _Walk) -> Entry:
    if stat.S_ISLNK(found.st_mode):
        return _link_entry(holder, name, path)
    if not stat.S_ISREG(found.st_mode):
        raise Refused("STATE_UNREADABLE", f"{path!r} is neither file, folder nor link")
    for _ in range(_TRIES):
        entry = _read_once(holder, name, path, walk)
        if entry is not None:
            return entry
    raise Refused(
        "STATE_UNSTABLE", f"{path!r} changed while it was read, {_TRIES} times", hint="stop what writes to it"
    )


def _link_entry(holder: int, name: str, path: str) -> Entry:
    try:
        target = os.readlink(os.fsencode(name), dir_fd=holder)
    except OSError as error:
        raise _unreadable(path, error) from error
    return {"path": path, "kind": "symlink", "target_sha256": hashlib.sha256(target).hexdigest()}


def _read_once(holder: int, name: str, path: str, walk: _Walk) -> Entry | None:
    """Hash one file through its descriptor; None when it changed meanwhile."""
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=holder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return None
        walk.count_bytes(before.st_size)
        hasher, size = hashlib.sha256(), 0
        while chunk := os.read(descriptor, _CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            if size > before.st_size:  # it grows as we read; do not follow it for ever
                return None
        if size != before.st_size or _identity(os.fstat(descriptor)) != _identity(before):
            return None
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    return {"path": path, "kind": "file", "mode": _mode(before), "size": size, "sha256": hasher.hexdigest()}


def _identity(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _mode(found: os.stat_result) -> str:
    return "755" if found.st_mode & stat.S_IXUSR else "644"


def _metadata_entry(holder: int, name: str, path: str, found: os.stat_result, walk: _Walk) -> Entry:
    if stat.S_ISLNK(found.st_mode):
        return _link_entry(holder, name, path)
    kind = "file" if stat.S_ISREG(found.st_mode) else "special"
    # Nanoseconds since 1970 exceed 2**53, hence text.
    return {
        "path": path,
        "kind": kind,
        "mode": _mode(found),
        "size": found.st_size,
        "mtime": str(found.st_mtime_ns),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFacts:
    """What git says about the work tree: ``index`` is the SHA-256 of the staged listing, ``changed`` every path
    reported as changed or untracked, ``staged`` those whose index entry differs from HEAD, with that entry,
    ``flags`` the paths hidden by assume-unchanged or skip-worktree."""

    head: str | None
    ref: str | None
    index: str
    changed: tuple[str, ...]
    staged: Mapping[str, str]
    flags: tuple[str, ...]


class TreeView(Protocol):
    """The one thing the fingerprint asks of git."""

    async def tree_facts(self) -> TreeFacts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The work tree at one moment. ``digest`` covers everything but ``staged``, which ``index`` implies."""

    head: str | None
    ref: str | None
    index: str | None
    worktree: Mapping[str, Entry]
    staged: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    digest: str = ""

    @property
    def clean(self) -> bool:
        """Nothing changed, staged or untracked. Without git the question has no answer but this listing."""
        return not self.worktree and not self.staged


async def workspace_fingerprint(
    root: Path, git: TreeView | None, *, writable: Sequence[str] = (), exclude: Collection[str] = ()
) -> Fingerprint:
    """Look at the whole work tree (operations spec §5). Hashing happens in a worker thread.

    Without git (ruling R47) it is path, mode, size and time of everything below the ``writable`` roots. The operator's
    stop file is no change (ruling R33). Raises `Refused` as `compute_state_hash` and git do.
    """
    if git is None:
        skipped = (*exclude, KILL_SWITCH_FILE)
        listing = await asyncio.to_thread(metadata_entries, sorted(set(writable)), root, exclude=skipped)
        return _fingerprint(None, None, None, listing, {}, ())
    facts = await git.tree_facts()
    listing = await asyncio.to_thread(state_entries, facts.changed, root, exclude=exclude, links_hide=True)
    return _fingerprint(facts.head, facts.ref, facts.index, listing, facts.staged, facts.flags)


def _fingerprint(
    head: str | None,
    ref: str | None,
    index: str | None,
    listing: Sequence[Entry],
    staged: Mapping[str, str],
    flags: Sequence[str],
) -> Fingerprint:
    shown = sorted(os.fsencode(flag).decode("utf-8", "backslashreplace") for flag in flags)
    members = {"head": head, "ref": ref, "index": index, "worktree": [dict(item) for item in listing], "flags": shown}
    return Fingerprint(
        head=head,
        ref=ref,
        index=index,
        worktree={item["path"] if "raw" not in item else f"{item['path']} ({item['raw']})": item for item in listing},
        staged=staged,
        flags=tuple(shown),
        digest=listing_digest("workspace/1", members),
    )
