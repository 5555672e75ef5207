"""Where a run runs: what else it needs to be understood, or repeated, on another machine."""

from __future__ import annotations

import platform
import re
import sqlite3
import sys
from functools import cache
from importlib import metadata
from typing import Final

from runtime.host.versions import code_version
from runtime.kernel.canonical import canonical_bytes

SCHEMA: Final = "environment/1"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


@cache
def surroundings(tier: str) -> bytes:
    """Canonical JSON: versions of Python, SQLite, this program and the packages it asks for, platform, confinement tier.

    Names no host, user or path. Looked up once per process: reading what is installed takes some milliseconds.
    """
    return canonical_bytes(
        {
            "schema": SCHEMA,
            "quarterdeck": code_version(),
            "python": platform.python_version(),
            "implementation": sys.implementation.name,
            "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
            "sqlite": sqlite3.sqlite_version,
            "confinement": tier,
            "packages": _packages(),
        }
    )


def _packages() -> dict[str, str]:
    """Installed versions of what this program requires, optional extras left out; one that is absent is left out, too."""
    try:
        wanted = metadata.requires("quarterdeck") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in wanted:
        match = _NAME.match(line)
        if match is None or "extra ==" in line:
            continue
        try:
            found[match[0]] = metadata.version(match[0])
        except metadata.PackageNotFoundError:
            continue
    return found
