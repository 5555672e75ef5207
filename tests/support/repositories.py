"""Real git repositories in a few milliseconds, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.orchestration.git import Git
from tests.support.plain_runner import PlainRunner

_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}


def sh(root: Path, *arguments: str) -> str:
    """Run git as an operator would, and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=root, env=_ENV, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(root: Path, files: dict[str, str] | None = None) -> Git:
    """A repository at ``root`` with one commit of ``files``."""
    root.mkdir(parents=True, exist_ok=True)
    sh(root, "init", "-q", "-b", "main")
    for name, text in (files or {"a.txt": "one\n"}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    sh(root, "add", "-A")
    sh(root, "commit", "-q", "-m", "first")
    return Git(root, PlainRunner())


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit to import; ``merges`` counts back from it: 2 is the commit before the previous one."""

    message: bytes
    author: bytes = b"Ada <ada@example.org>"
    merges: int | None = None
    tag: bytes | None = None


def imported(root: Path, commits: Iterable[Commit]) -> Path:
    """A repository at ``root`` with all of ``commits`` in one line, oldest first; thousands in well under a second."""
    root.mkdir(parents=True)
    sh(root, "init", "-q", "-b", "main")
    stream = b"".join(part for number, commit in enumerate(commits, 1) for part in _parts(number, commit))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, env=_ENV, input=stream, check=True)
    sh(root, "reset", "-q", "--hard", "main")
    return root


def _parts(number: int, commit: Commit) -> Iterable[bytes]:
    when = b"%d +0000" % (1_700_000_000 + 60 * number)
    yield b"commit refs/heads/main\nmark :%d\n" % number
    yield b"author %s %s\ncommitter %s %s\n" % (commit.author, when, commit.author, when)
    yield b"data %d\n%s\n" % (len(commit.message), commit.message)
    if number > 1:
        yield b"from :%d\n" % (number - 1)
    if commit.merges is not None:
        yield b"merge :%d\n" % (number - commit.merges)
    body = b"%d\n" % number
    yield b"M 644 inline file-%d.txt\ndata %d\n%s\n" % (number % 20, len(body), body)
    if commit.tag is not None:
        yield b"reset refs/tags/%s\nfrom :%d\n\n" % (commit.tag, number)
