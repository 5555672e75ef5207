"""Identifiers: their forms, and the injected source of fresh ones (ruling R2).

The host mints one UUID per launch; everything else is derived from it or from content.
"""

from __future__ import annotations

import os
import re
from typing import Final, Protocol

HASH: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
COMMIT: Final = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
#: Mission, operation, transform and check names, and each segment of a step id.
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
#: Roles, tools and tool actions.
WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
#: Block and input names in mission files.
BLOCK_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
#: Operation ids carry attempt marks (ruling R13): ``<step>~<tick>.<visit>.<attempt>.<index>``.
OPERATION_ID: Final = re.compile(r"[a-z0-9][a-z0-9_.~/-]{0,319}\Z")

#: The file that stops every run of a work tree, or of the whole state folder (ruling R33).
KILL_SWITCH_FILE: Final = "STOP_AUTONOMY"
NO_COMMIT: Final = "0" * 40
#: A planned write of this name below a folder stands for "anything below the folder" (``process.run``): the
#: enforcer judges it like any new file, and nothing of this name is ever created.
TREE_MARK: Final = ".quarterdeck-tree"


def operation_id(step_id: str, index: int | str, *, tick: int = 1, visit: int = 1, attempt: int = 1) -> str:
    """The id of the ``index``-th operation of one block attempt (ruling R13)."""
    if tick == visit == attempt == 1:
        return f"{step_id}.{index}"
    return f"{step_id}~{tick}.{visit}.{attempt}.{index}"


class IdSource(Protocol):
    """Where unpredictable ids come from."""

    def uuid(self) -> str:
        """A fresh lower-case hyphenated UUID."""
        ...


#: The digit whose two highest bits say which layout the UUID has, for each random one.
_VARIANT: Final = {f"{number:x}": f"{number & 3 | 8:x}" for number in range(16)}


class SystemIds:
    """Random version-4 UUIDs."""

    def uuid(self) -> str:
        # As `uuid.uuid4` does, without building its object: every block attempt takes one.
        digits = os.urandom(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


class SequenceIds:
    """Predictable UUIDs for tests and recordings: ``00000000-0000-4000-8000-00000000000n``."""

    def __init__(self, start: int = 1) -> None:
        self._next = start

    def uuid(self) -> str:
        value = self._next
        self._next += 1
        return f"00000000-0000-4000-8000-{value:012x}"
