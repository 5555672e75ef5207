"""What git's machine-readable outputs mean. Pure functions over NUL-separated bytes; no names are ever guessed at.

Paths become text the way the operating system's do (``os.fsdecode``), so a name that is not UTF-8 survives.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.errors import Refused
from runtime.kernel.ids import COMMIT

#: Tags of ``ls-files -v``: lower case is assume-unchanged, ``S`` skip-worktree.
_SKIP_WORKTREE: Final = "S"
#: Fields end in NUL, which no commit can hold; with ``-z`` so does the last of each commit.
LOG_FORMAT: Final = "%H%x00%P%x00%an%x00%ae%x00%at%x00%s"
_LOG_FIELDS: Final = 6
#: Characters kept of a subject and of a name; thousands of commits must fit one operation's output.
MAX_SUBJECT: Final = 500
MAX_NAME: Final = 200
_SECONDS: Final = re.compile(r"-?[0-9]{1,15}\Z")


@dataclass(frozen=True, slots=True)
class GitLine:
    """One path git reports. ``index`` and ``worktree`` are porcelain letters, a space for unchanged, ``?`` for
    untracked, ``U`` and friends for conflicts. ``staged`` is the index entry when it differs from HEAD, else empty."""

    path: str
    index: str
    worktree: str
    staged: str = ""

    @property
    def untracked(self) -> bool:
        return self.index == "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitStatus:
    """HEAD, branch and every change, from one call. ``head`` is None before the first commit, ``ref`` when detached."""

    head: str | None
    ref: str | None
    lines: tuple[GitLine, ...]

    @property
    def staged(self) -> tuple[str, ...]:
        """Paths whose index entry differs from HEAD, conflicts included."""
        return tuple(line.path for line in self.lines if line.staged)


@dataclass(frozen=True, slots=True, kw_only=True)
class GitIndex:
    """The staged listing: its hash, its paths, and those hidden from status."""

    sha256: str
    paths: tuple[str, ...]
    assumed: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(sorted({*self.assumed, *self.skipped}))


def unexpected(what: str, record: bytes) -> Refused:
    """Output we do not understand is a failure, never an empty answer."""
    return Refused("GIT_FAILED", f"git {what} answered something unexpected: {record[:80]!r}")


def parse_status(output: bytes) -> GitStatus:
    """Read ``status --porcelain=v2 --branch -z``."""
    head: str | None = None
    ref: str | None = None
    lines: list[GitLine] = []
    records = iter(output.split(b"\0")[:-1])
    for record in records:
        if record.startswith(b"# "):
            name, _, value = record[2:].decode("utf-8", "surrogateescape").partition(" ")
            if name == "branch.oid":
                head = None if value == "(initial)" else value
            elif name == "branch.head":
                ref = None if value == "(detached)" else f"refs/heads/{value}"
        else:
            lines.append(_status_line(record))
            if record[:2] == b"2 ":  # a rename carries its old name in a record of its own
                lines.append(GitLine(os.fsdecode(next(records)), "D", " ", "renamed"))
    return GitStatus(head=head, ref=ref, lines=tuple(sorted(lines, key=lambda line: os.fsencode(line.path))))


def _status_line(record: bytes) -> GitLine:
    kind = record[:2]
    if kind == b"? ":
        return GitLine(os.fsdecode(record[2:]), "?", "?")
    #: Fields before the path, by record kind (git-status(1), porcelain format version 2).
    leading = {b"1 ": 8, b"2 ": 9, b"u ": 10}.get(kind)
    fields = record.split(b" ", leading) if leading is not None else []
    if leading is None or len(fields) != leading + 1:
        raise unexpected("status", record)
    letters = fields[1].decode("ascii", "replace").replace(".", " ")
    entry = b" ".join(fields[7:10] if kind == b"u " else (fields[4], fields[7])).decode("ascii", "replace")
    return GitLine(os.fsdecode(fields[-1]), letters[0], letters[1], entry if letters[0] != " " else "")


def parse_index(output: bytes) -> GitIndex:
    """Read ``ls-files --stage -v -z``; the hash is over the listing without the tags."""
    hasher = hashlib.sha256()
    paths, assumed, skipped = [], [], []
    for record in output.split(b"\0")[:-1]:
        tag, space, rest = record[:1].decode("ascii", "replace"), record[1:2], record[2:]
        _, tab, name = rest.partition(b"\t")
        if space != b" " or not tab:
            raise unexpected("ls-files", record)
        hasher.update(rest + b"\0")
        path = os.fsdecode(name)
        paths.append(path)
        if tag.islower():
            assumed.append(path)
        if tag.upper() == _SKIP_WORKTREE:
            skipped.append(path)
    return GitIndex(
        sha256="sha256:" + hasher.hexdigest(), paths=tuple(paths), assumed=tuple(assumed), skipped=tuple(skipped)
    )


def parse_numstat(output: bytes) -> tuple[dict[str, Any], ...]:
    """Read ``diff --numstat -z``; binary files have no counts."""
    return tuple(_numstat(record) for record in output.split(b"\0")[:-1])


def _numstat(record: bytes) -> dict[str, Any]:
    fields = record.split(b"\t", 2)
    if len(fields) != 3:
        raise unexpected("diff", record)
    added, deleted = (None if item == b"-" else int(item) for item in fields[:2])
    return {"path": os.fsdecode(fields[2]), "added": added, "deleted": deleted}


def parse_log(output: bytes) -> tuple[dict[str, Any], ...]:
    """Read ``log -z`` in `LOG_FORMAT`; ``at`` is in seconds since 1970, None where the commit's date is unreadable.

    Texts that are not UTF-8 keep their readable parts, and long ones their beginning.
    """
    return tuple(_commits(output))


def _commits(output: bytes) -> Iterator[dict[str, Any]]:
    fields = output.decode("utf-8", "replace").split("\0")
    if fields.pop() or len(fields) % _LOG_FIELDS:
        raise unexpected("log", output)
    for commit, parents, author, email, at, subject in zip(*[iter(fields)] * _LOG_FIELDS, strict=True):
        if not COMMIT.match(commit):
            raise unexpected("log", commit.encode())
        yield {
            "commit": commit,
            "parents": parents.split(),
            "author": _cut(author, MAX_NAME),
            "email": _cut(email, MAX_NAME),
            "at": int(at) if _SECONDS.match(at) else None,
            "subject": _cut(subject, MAX_SUBJECT),
        }


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
