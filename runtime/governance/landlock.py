"""File rules behind the private root of tier B: should a way out of the mounts ever be found, it leads to nothing.

Everything below the private root may be read and executed; only what is mounted writable may be changed. The mounts
say the same already, so a program notices nothing. The rules are computed here and carried out by the launcher.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from runtime.governance.sandbox_layout import Mount, MountKind

# Rights of linux/landlock.h.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FIRST_VERSION: Final = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_SCOPES: Final = 0b11  # abstract sockets, signals: none of ours leads outside the tree
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_LOOK: Final = _EXECUTE | _READ_FILE | _READ_DIR | _IOCTL_DEV
_SYS_CREATE_RULESET: Final = 444  # the same number on every architecture
#: Writable as far as their own mounts let them.
_OURS: Final = (Path("/proc"), Path("/dev"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """``attributes`` is a ``struct landlock_ruleset_attr``; ``rules`` are paths inside and the rights below them."""

    attributes: bytes
    rules: tuple[tuple[str, int], ...]


@cache
def version() -> int:
    """The kernel's Landlock version, 0 where it has none or has it switched off."""
    answer = ctypes.CDLL(None).syscall(ctypes.c_long(_SYS_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, int(answer))


def ruleset(mounts: Sequence[Mount], version: int) -> Ruleset | None:
    """The rules for ``mounts``, with the rights ``version`` knows of; None below 1."""
    if version < 1:
        return None
    handled = _FIRST_VERSION
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        handled |= right if version >= since else 0
    fields = (handled, 0, _SCOPES) if version >= 6 else (handled,)
    rules = [("/", _LOOK & handled), *((str(place), handled) for place in _OURS)]
    for mount in mounts:
        if mount.kind is MountKind.PRIVATE:
            rules.append((str(mount.place), handled))
        elif mount.kind is MountKind.WRITE:
            folder = Path(mount.source).is_dir()
            rules.append((str(mount.place), handled if folder else handled & _ON_FILES))
    return Ruleset(attributes=struct.pack(f"{len(fields)}Q", *fields), rules=tuple(rules))
