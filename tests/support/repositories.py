"""Real git repositories in a few milliseconds, for tests."""

from __future__ import annotations

import os
import subprocess
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
