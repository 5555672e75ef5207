"""Which build, and which behaviour, a journal was written by."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

#: Recorded in every journal; a resume under another one is refused (ruling R20).
BEHAVIOUR_VERSION: Final = "1"


def code_version() -> str:
    """The build that runs; informative only."""
    try:
        return version("quarterdeck")
    except PackageNotFoundError:
        return "unknown"
