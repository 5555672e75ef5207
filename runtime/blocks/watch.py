"""Does ``validate`` keep its hands off the world? Watched in tests only (blocks spec §6.3).

An audit hook cannot be removed and sees the whole process, so there is one, installed by the first watched block, and
it looks no further than a context variable unless a watched ``validate`` is running in this very context.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from runtime.blocks.errors import BlockValidationError

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.execute import Authored

B = TypeVar("B", bound="Block")

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LOOKING: Final = frozenset(("os.fwalk", "os.getxattr", "os.listdir", "os.listxattr", "os.scandir", "os.walk"))
_PROCESSES: Final = frozenset(("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"))

_watched: ContextVar[list[BlockValidationError] | None] = ContextVar("watched_validate", default=None)
_installed = False


def watched(block: B) -> B:
    """The same block (state and all) whose ``validate`` fails with ``validation.side_effect`` when it acts.

    Acting is: writing, changing or removing files, using sockets, resolving names, starting processes, changing the
    process (its folder, its environment). Reading files is not seen, nor is what ``validate`` has another thread do.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    twin = block.node_variant(name=block.explicit_name)
    judge = cast("Authored", block).validate

    def validate(input: Any, ctx: Any) -> object:
        acts: list[BlockValidationError] = []
        token = _watched.set(acts)
        try:
            returned = judge(input, ctx)
        finally:
            _watched.reset(token)
            if acts:
                raise acts[0]  # also when validate caught it, or failed because of it
        return returned

    object.__setattr__(twin, "validate", validate)
    return twin


def _hook(event: str, args: tuple[Any, ...]) -> None:
    acts = _watched.get()
    if acts is None:
        return
    act = _act(event, args)
    if act is None:
        return
    error = BlockValidationError(
        "validation.side_effect",
        f"validate must not act, but it tried to {act}; move that into run, and reach the world through ctx there",
        effects="none",
    )
    acts.append(error)
    raise error


_hook.__cantrace__ = True  # type: ignore[attr-defined]  # let debuggers look in: hooks are hidden from them by default


def _act(event: str, args: tuple[Any, ...]) -> str | None:
    if args and isinstance(args[0], str | bytes) and "__pycache__" in os.fsdecode(args[0]):
        return None  # the interpreter keeping what it compiled for an import
    if event == "open":
        _, mode, flags = args
        by_flags = isinstance(flags, int) and flags & _WRITING
        by_mode = isinstance(mode, str) and set(mode) & set("wax+")
        return "write a file" if by_flags or by_mode else None
    if event.startswith("socket."):
        return f"use the network ({event})"
    if event in _PROCESSES or event.startswith(("subprocess.", "pty.")):
        return f"start a process ({event})"
    if event.startswith(("os.", "shutil.", "tempfile.")) and event not in _LOOKING:
        return f"change its surroundings ({event})"
    return None
