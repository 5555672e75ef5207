"""A permission to touch one path once, bound to what was there when it was granted (operations spec §8.5).

Between check and use anything may happen to a name. A ticket therefore holds the parent directory's descriptor and
the identity of the object, or its proven absence. Every use walks from the root again, compares, works only
relative to descriptors, and walks once more: a difference is ``PATH_RACE``, and what was written is taken away
again through the descriptor. Methods block; the executor calls them in worker threads, one thread per ticket.

Replacing a file keeps its owner where the system lets us, its permission bits unless told otherwise, and drops
extended attributes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, NoReturn, Self

from runtime.governance import path_walk
from runtime.governance.path_io import (
    fill,
    identity_at,
    kind_of,
    opened,
    rename_within,
    same_thing,
    slurp,
    temporary_file,
)
from runtime.governance.path_lexical import Finding, shown
from runtime.governance.path_walk import Identity, PathDenied, Place, Root
from runtime.kernel.errors import ContractError, Refused
from runtime.kernel.model import Access, EnvelopeViolation, ValidationResult

#: Operations spec §15.
MAX_WRITE_BYTES: Final = 4 * 1024 * 1024
MAX_LIST_ENTRIES: Final = 5_000
_PERMISSIONS: Final = 0o777
_NEW_FILE_MODE: Final = 0o644
_NEW_DIRECTORY_MODE: Final = 0o755
_OPEN_FILE: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
)
#: Answers that contradict what was verified a moment before: somebody changed the names.
_SWAPPED: Final = frozenset({errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
_OPEN_DIRECTORY: Final = _OPEN_FILE | getattr(os, "O_DIRECTORY", 0)


class Expect(Enum):
    """``ANY``: the caller states no expectation about the present content."""

    ANY = "any"


MISSING: Final = Expect.ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What a read file was. ``sha256`` covers the whole file; None when it is larger than 64 MiB."""

    size: int
    mode: int
    nlink: int
    sha256: str | None
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write left behind."""

    size: int
    sha256: str
    created: bool
    mode: int


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One name in a listing, relative to the listed directory. ``kind``: file, directory, symlink or other."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Sorted entries; ``truncated`` when there were more than asked for."""

    entries: tuple[ListEntry, ...]
    truncated: bool


_Entries = list[ListEntry]


class PathTicket:
    """Use exactly one of `read`, `list`, `write`, `delete`, `mkdir`, `symlink`, once; `close` in any case.

    Raises on use: `EnvelopeViolation` ``PATH_RACE``, ``ENV_LIMIT``; `Refused` ``TOOL_CONFLICT`` (content is not as
    expected) or ``OP_FAILED`` (the system refused); `ContractError` ``TICKET_MISUSE`` for a second or foreign use.
    """

    def __init__(
        self,
        root: Root,
        parts: Sequence[str],
        access: Access,
        place: Place,
        *,
        create_parents: bool = False,
        link: bool = False,
        descend: Callable[[str], bool] | None = None,
    ) -> None:
        self._root = root
        self._parts = tuple(parts)
        self._access = access
        self._place = place
        self._create_parents = create_parents
        self._link = link
        self._descend = descend or (lambda path: False)
        self._used = False

    @property
    def path(self) -> str:
        """The path in normal form, links resolved."""
        return "/".join(self._parts)

    @property
    def identity(self) -> Identity | None:
        """What was there when the ticket was granted; None for proven absence."""
        return self._place.found

    def read(self, max_bytes: int) -> tuple[bytes, FileStat]:
        """The first ``max_bytes`` of the file, with what it was."""
        self._use(Access.READ)
        with self._again() as place, self._failing("read"), opened(place, _OPEN_FILE) as file:
            self._confirm(file)
            data, sha256 = slurp(file, max_bytes)
            info = self._confirm(file)
            return data, FileStat(
                size=info.st_size,
                mode=stat.S_IMODE(info.st_mode),
                nlink=info.st_nlink,
                sha256=sha256,
                truncated=len(data) < info.st_size,
            )

    def list(self, *, recursive: bool = False, max_entries: int = MAX_LIST_ENTRIES) -> Listing:
        """The names in the directory, without ``.git``; below it only where the envelope allows listing."""
        self._use(Access.LIST)
        with self._again() as place, self._failing("list"), opened(place, _OPEN_DIRECTORY) as directory:
            self._confirm(directory)
            found: _Entries = []
            self._collect(directory, "", recursive, max_entries, found)
            entries = sorted(found[:max_entries], key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
            return Listing(tuple(entries), len(found) > max_entries)

    def write(self, data: bytes, mode: int | None = None, expect_sha256: str | Expect | None = Expect.ANY) -> Written:
        """Replace or create the file atomically. ``mode`` None keeps the present bits, 644 for a new file.

        ``expect_sha256`` None demands that nothing exists, a digest that the present content has it.
        """
        self._use(Access.CREATE, Access.MODIFY, Access.WRITE)
        if len(data) > MAX_WRITE_BYTES:
            self._refuse("ENV_LIMIT", f"{len(data)} bytes exceed the {MAX_WRITE_BYTES} of one file")
        if mode is not None and mode & ~_PERMISSIONS:
            raise ContractError("TICKET_MISUSE", f"mode {mode:o} holds more than permission bits")
        self._expect(expect_sha256)
        with self._again() as place, self._failing("write"), self._parents(place) as parent:
            before = self._present(place, expect_sha256)
            if mode is None:
                mode = _NEW_FILE_MODE if before is None else stat.S_IMODE(before.st_mode) & _PERMISSIONS
            with temporary_file(parent, place.name) as (temporary, file):
                fill(file, data, mode, before)
                written = Identity.of(os.fstat(file))
                self._unchanged(parent, place.name)
                self._publish(parent, temporary, place.name)
            os.fsync(parent)
            self._verify_result(parent, written)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        return Written(size=len(data), sha256=digest, created=before is None, mode=mode)

    def delete(self, expect_sha256: str | Expect = Expect.ANY) -> None:
        """Remove the file, the directory if it is empty, or the link itself. Only a file's content can be expected."""
        self._use(Access.DELETE, link=self._link)
        if self._link and expect_sha256 is not Expect.ANY:
            raise ContractError("TICKET_MISUSE", "a link has no content to expect")
        self._expect(expect_sha256)
        with self._again() as place, self._failing("delete"):
            directory = self.identity is not None and stat.S_ISDIR(self.identity.mode)
            if not (directory or self._link):
                self._present(place, expect_sha256)
            self._unchanged(place.parent_fd, place.name)
            if directory:
                os.rmdir(place.name, dir_fd=place.parent_fd)
            else:
                os.unlink(place.name, dir_fd=place.parent_fd)
            os.fsync(place.parent_fd)
            self._verify_result(place.parent_fd, None)

    def mkdir(self, mode: int = _NEW_DIRECTORY_MODE) -> None:
        """Create the directory."""
        self._use(Access.CREATE, Access.WRITE)
        with self._again() as place, self._failing("create"), self._parents(place) as parent:
            if self.identity is not None:
                self._refuse("PATH_EXISTS", "something exists under this name already")
            os.mkdir(place.name, mode, dir_fd=parent)
            made = Identity.of(os.stat(place.name, dir_fd=parent, follow_symlinks=False))
            os.fsync(parent)
            self._verify_result(parent, made)

    def symlink(self, target: bytes) -> None:
        """Create a symbolic link holding exactly ``target``, which is never looked at."""
        self._use(Access.CREATE, link=True)
        if not target or b"\0" in target:
            raise ContractError("TICKET_MISUSE", "a link needs a target without NUL")
        with self._again() as place, self._failing("create"), self._parents(place) as parent:
            os.symlink(target, os.fsencode(place.name), dir_fd=parent)
            made = Identity.of(os.stat(place.name, dir_fd=parent, follow_symlinks=False))
            if os.readlink(os.fsencode(place.name), dir_fd=parent) != target:
                self._race("the link was replaced right after it was made")
            os.fsync(parent)
            self._verify_result(parent, made)

    def close(self) -> None:
        """Give up the held descriptor. Closing twice is fine."""
        self._used = True
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Before use

    def _use(self, *accesses: Access, link: bool = False) -> None:
        if self._used:
            raise ContractError("TICKET_MISUSE", f"the ticket for {shown(self.path)} was used or closed before")
        if self._access not in accesses:
            raise ContractError("TICKET_MISUSE", f"a {self._access.value} ticket cannot be used to do that")
        if link is not self._link:
            raise ContractError("TICKET_MISUSE", "a ticket for a link is for nothing else, and no other is for a link")
        self._used = True

    def _expect(self, expected: str | Expect | None) -> None:
        """What can be told about an expectation without looking at the file."""
        if expected is None and self.identity is not None:
            raise Refused("TOOL_CONFLICT", "the file exists, but it was expected to be missing", where=shown(self.path))
        if isinstance(expected, str) and self.identity is None:
            raise Refused("TOOL_CONFLICT", "the file is missing, but a content was expected", where=shown(self.path))

    @contextmanager
    def _again(self) -> Iterator[Place]:
        """Walk from the root once more; parent and object must be what they were."""
        place = self._walk()
        try:
            same = same_thing(place.parent, self._place.parent)
            if not same or place.missing != self._place.missing or not self._as_granted(place.found):
                self._race("the path changed between check and use")
            yield place
        finally:
            place.close()

    def _walk(self) -> Place:
        creating = self._access in (Access.CREATE, Access.WRITE)
        try:
            return path_walk.walk(
                self._root, self._parts, creating=creating, parents=self._create_parents, link=self._link
            )
        except PathDenied as denied:
            self._race("the path changed between check and use", cause=denied.finding.code)

    @contextmanager
    def _parents(self, place: Place) -> Iterator[int]:
        """The directory to work in, with missing parents created; they go again if the work fails."""
        held = os.dup(place.parent_fd)
        made: list[tuple[int, str]] = []
        try:
            for name in place.missing:
                os.mkdir(name, _NEW_DIRECTORY_MODE, dir_fd=held)
                made.append((held, name))
                seen = os.stat(name, dir_fd=held, follow_symlinks=False)
                below = path_walk.open_directory(self._root, held, name, seen)
                os.fsync(held)
                held = below
            yield held
        except BaseException as error:
            for parent, name in reversed(made):
                with suppress(OSError):  # not empty or gone: then it is no longer only ours
                    os.rmdir(name, dir_fd=parent)
            if isinstance(error, PathDenied):
                self._race("a created directory was replaced", cause=error.finding.code)
            raise
        finally:
            for descriptor in {held, *(parent for parent, _ in made)}:
                os.close(descriptor)

    # While working

    def _as_granted(self, now: Identity | None) -> bool:
        """Equal to the granted identity; a directory may have gained or lost entries meanwhile."""
        granted = self.identity
        if granted is None or now is None or not stat.S_ISDIR(granted.mode):
            return now == granted
        return same_thing(now, granted)

    def _confirm(self, file: int) -> os.stat_result:
        """The opened object must be the one the ticket was granted for."""
        info = os.fstat(file)
        if not self._as_granted(Identity.of(info)):
            self._race("the object changed between check and use")
        return info

    def _present(self, place: Place, expected: str | Expect | None) -> os.stat_result | None:
        """Compare the present content with what the caller expects, on the opened descriptor."""
        if self.identity is None:
            return None
        with opened(place, _OPEN_FILE) as file:
            info = self._confirm(file)
            if isinstance(expected, str) and slurp(file, 0)[1] != expected:
                raise Refused("TOOL_CONFLICT", "the file's content is not the expected one", where=shown(self.path))
            return info

    def _unchanged(self, parent: int, name: str) -> None:
        """The last look before the world changes."""
        if not self._as_granted(identity_at(parent, name)):
            self._race("the object changed between check and use")

    def _publish(self, parent: int, temporary: str, name: str) -> None:
        try:
            rename_within(parent, temporary, name, replace=self.identity is not None)
        except FileExistsError:
            self._race("the name was taken between check and use")

    def _verify_result(self, parent: int, left: Identity | None) -> None:
        """After the deed: from the root, the same parent must hold exactly what was left there."""
        try:
            place = path_walk.walk(self._root, self._parts, link=self._link)
        except PathDenied as denied:
            if left is None and denied.finding.code == "PATH_CASE_MISMATCH":
                return  # deleted; what remains is a neighbour spelled differently
            self._take_back(parent, left)
            self._race("the path changed during use", cause=denied.finding.code)
        try:
            held = os.fstat(parent)
            there = place.found
            as_left = there is None if left is None else there is not None and same_thing(there, left)
            if not place.parent.same_object(held) or not as_left:
                self._take_back(parent, left)
                self._race("the path changed during use")
        finally:
            place.close()

    def _take_back(self, parent: int, left: Identity | None) -> None:
        """Remove what was written, through the descriptor, if it still is what was written."""
        name = self._parts[-1]
        there = None if left is None else identity_at(parent, name)
        if left is None or there is None or not same_thing(there, left):
            return
        if stat.S_ISDIR(there.mode):
            os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
        os.fsync(parent)

    def _collect(self, directory: int, prefix: str, recursive: bool, limit: int, found: _Entries) -> None:
        with os.scandir(directory) as entries:
            below = sorted((entry.name, kind_of(entry)) for entry in entries if entry.name.casefold() != ".git")
        for name, kind in below:
            if len(found) > limit:
                return
            found.append(ListEntry(prefix + name, kind))
            if recursive and kind == "directory" and self._descend(f"{self.path}/{prefix}{name}"):
                self._collect_below(directory, prefix, name, limit, found)

    def _collect_below(self, directory: int, prefix: str, name: str, limit: int, found: _Entries) -> None:
        try:
            seen = os.stat(name, dir_fd=directory, follow_symlinks=False)
            below = path_walk.open_directory(self._root, directory, name, seen)
        except PathDenied:
            return  # a mount, a nested repository or a name just replaced: listed, not entered
        try:
            self._collect(below, f"{prefix}{name}/", True, limit, found)
        finally:
            os.close(below)

    # Refusing

    @contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        """The system's own refusals (full disk, permissions, a read-only tree) are ordinary failures."""
        try:
            yield
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "an unknown error")
            if error.errno in _SWAPPED:
                self._race("the path changed during use", cause=name)
            raise Refused("OP_FAILED", f"cannot {verb}: {name}", where=shown(self.path)) from error

    def _race(self, text: str, **evidence: str) -> NoReturn:
        self._refuse("PATH_RACE", text, **evidence)

    def _refuse(self, code: str, text: str, **evidence: str) -> NoReturn:
        raise EnvelopeViolation(denial(Finding(code, text, dict(evidence)), "path.use", self._access.value, self.path))


def denial(finding: Finding, check: str, operation: str, requested: object) -> ValidationResult:
    """The one shape of a denied path verdict."""
    return ValidationResult.deny(
        finding.code,
        f"{finding.text}: {shown(requested)}",
        check=check,
        operation=operation,
        requested_path=shown(requested),
        **finding.evidence,
    )
