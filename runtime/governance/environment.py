"""A child's environment, rebuilt from nothing.

The console's own variables hold tokens, session addresses and settings that change what tools do. A child
therefore starts from this short list and gets further variables only by name (reliability §4.1, operations
spec §3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Programs a child finds without being told where they are.
SEARCH_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
#: Private to each confined process; an unconfined one gets a folder of its own in their place (`relocate`).
PRIVATE_TEMP: Final = Path("/tmp")
PRIVATE_HOME: Final = Path("/tmp/home")


def rebuilt(
    declared: Mapping[str, str] | None = None, *, home: Path = PRIVATE_HOME, temp: Path = PRIVATE_TEMP
) -> dict[str, str]:
    """The whole environment of a child: fixed basics, then ``declared``, which wins."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": str(home),
        "TMPDIR": str(temp),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(declared or {}),
    }


def relocate(env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """``env`` with the private home and temporary folder replaced by places below ``folder``."""
    places = {str(PRIVATE_HOME): str(folder / "home"), str(PRIVATE_TEMP): str(folder / "tmp")}
    return {name: places.get(value, value) if name in ("HOME", "TMPDIR") else value for name, value in env.items()}
