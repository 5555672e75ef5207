"""The controlled thing must not change its controls (operations spec §9).

No role has clearance: the operator edits protected files outside missions. Names are judged by `ProtectedSet`; this
module adds who asks and what the disk says, because a directory holds further files and a file may have further
names. It is consulted before every file-system or git operation, staging and compensation included, and is a
second lock beside the envelope enforcer, not a replacement. Records hold no absolute paths.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from runtime.governance.path_lexical import Finding, shown
from runtime.governance.protected_set import GRANT, READS, UPROOTING, ProtectedSet, resolved
from runtime.governance.roles import is_role
from runtime.kernel.errors import Refused
from runtime.kernel.globs import folded
from runtime.kernel.model import Access, ValidationResult

#: Beyond this many entries a search for protected files gives up and denies; the state hash's limit (§15).
MAX_SEARCH_ENTRIES: Final = 20_000

_CHECK: Final = "self_modification"


class SelfModProtector:
    """The protected set of one workspace, bound to its root. Options as for `ProtectedSet`."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        additions: Sequence[str] = (),
        openable: Sequence[str] = (),
        *,
        reserved: Sequence[str] = (),
        names: str = "strict",
    ) -> None:
        self._root = Path(root).resolve()
        self._options = {"openable": tuple(openable), "reserved": tuple(reserved)}
        self._names = names
        self.protected = ProtectedSet(additions, openable, reserved=reserved, names=names)

    @property
    def protected_hash(self) -> str:
        """The digest of the effective set."""
        return self.protected.protected_hash

    def get_protected_paths(self) -> list[str]:
        """The effective patterns, as a fresh list."""
        return list(self.protected.patterns)

    def is_protected(self, path: object) -> bool:
        """Is ``path`` protected by its name?"""
        return self.protected.is_protected(path)

    def is_governed(self, path: str) -> bool:
        """Is ``path`` protected as a file of the project, so that its governance baseline must list it?"""
        return self.protected.is_protected(path) and not self.protected.is_reserved(path)

    def reloaded(self, additions: Sequence[str]) -> SelfModProtector:
        """The same protector with newly loaded additions. Raises `Refused` ``SELFMOD_SHRINK`` if any is gone."""
        lost = sorted({*self.protected.additions} - {*additions})
        if lost:
            raise Refused("SELFMOD_SHRINK", f"the protected set lost {', '.join(map(repr, lost))} while running")
        return SelfModProtector(self._root, additions, names=self._names, **self._options)

    def validate(
        self, path: object, role: str, operation: str | Access = "modify", *, target: object = None
    ) -> ValidationResult:
        """May ``role`` do ``operation`` to ``path`` (and ``target``, for rename and link)? Looks at the disk."""
        name = operation.value if isinstance(operation, Access) else operation
        verdict = _verdict(self.protected, path, role, name, target)
        if not verdict or name in READS:
            return verdict
        try:
            found = self._on_disk(path, name)
        except (OSError, RuntimeError):  # RuntimeError: links that loop
            found = Finding("SELFMOD_ALIAS", "what the path leads to cannot be determined")
        return verdict if found is None else _denied(found, name, path)

    def _on_disk(self, path: object, operation: str) -> Finding | None:
        """Protected files inside a directory that would go, and other names of protected files."""
        parts = resolved(path) or ()
        place = self._root.joinpath(*parts)
        real = place.resolve()
        if not real.is_relative_to(self._root):
            return Finding("SELFMOD_OUTSIDE", "the path leads outside the workspace")
        led = real.relative_to(self._root).parts
        if led != tuple(parts) and self.protected.path_finding(led) is not None:
            return Finding("SELFMOD_ALIAS", "the path leads to a protected file")
        try:
            info = real.stat()
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(info.st_mode) and operation in (*UPROOTING, GRANT):
            return self._search(real, None)
        if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
            return self._search(self._root, info)
        return None

    def _search(self, top: Path, alias_of: os.stat_result | None) -> Finding | None:
        """A protected file below ``top``, or, given ``alias_of``, one that is the same object."""
        code = "SELFMOD_ANCESTOR" if alias_of is None else "SELFMOD_ALIAS"
        for count, entry in enumerate(_below(top)):
            if count >= MAX_SEARCH_ENTRIES:
                return Finding(code, "too many files to rule out a protected one")
            if alias_of is not None and not _is_object(entry, alias_of):
                continue
            relative = Path(entry.path).relative_to(self._root).as_posix()
            matching = self.protected.matching(relative)
            if matching:
                text = "the directory holds a protected file" if alias_of is None else "a protected file has this name"
                return Finding(code, text, {"matching_patterns": matching})
        return None


def check_self_modification(
    path: object, role: str, operation: str = "modify", *, target: object = None
) -> ValidationResult:
    """The built-in set alone, by names alone; a bound `SelfModProtector` also looks at the disk."""
    return _verdict(_BUILT_IN_ONLY, path, role, operation, target)


def is_protected(path: object) -> bool:
    """Does the built-in set protect ``path``?"""
    return _BUILT_IN_ONLY.is_protected(path)


def _verdict(protected: ProtectedSet, path: object, role: str, operation: str, target: object) -> ValidationResult:
    """The decision table of §9.3, as far as names decide it."""
    if not is_role(role):
        return _denied(Finding("SELFMOD_ROLE", "the acting role is missing or unknown"), operation, path)
    found = protected.finding(path, operation, target)
    if found is not None:
        return _denied(found, operation, path)
    return ValidationResult.allow(_CHECK, operation, requested_path=shown(path))


def _denied(found: Finding, operation: str, path: object) -> ValidationResult:
    return ValidationResult.deny(
        found.code,
        f"{found.text}: {shown(path)}",
        check=_CHECK,
        operation=operation,
        requested_path=shown(path),
        **found.evidence,
    )


def _below(top: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below ``top``, not following links; git's own directories are protected as a whole."""
    waiting = [os.fspath(top)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False) and folded(entry.name) != ".git":
                    waiting.append(entry.path)


def _is_object(entry: os.DirEntry[str], info: os.stat_result) -> bool:
    if entry.inode() != info.st_ino:
        return False
    return entry.stat(follow_symlinks=False).st_dev == info.st_dev


_BUILT_IN_ONLY: Final = ProtectedSet()
