"""Finding and signalling whole process trees through pidfds.

A process number may be reused the moment its process is reaped; a pidfd names one process for ever and becomes
readable when that process has ended. Ending the first process of a PID namespace ends every other member before
its pidfd becomes readable, which makes "the tree is gone" exact (reliability §2.4).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def parent_of(pid: int) -> int | None:
    """The parent of ``pid``, or None when it has gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in brackets may itself hold brackets and blanks: fields count from the last one.
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            parent = parent_of(int(entry.name))
            if parent is not None:
                yield int(entry.name), parent


def descendants(root: int) -> tuple[int, ...]:
    """Every living process below ``root``, nearest first. A snapshot: a hostile tree can outrun it."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children.get(pid, ())]
        found += level
    return tuple(found)


def open_pidfd(pid: int) -> int | None:
    """A pidfd for ``pid``, or None when it has gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send(pidfd: int, number: signal.Signals) -> bool:
    """Signal the process behind ``pidfd``; False when it has already ended."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def signal_below(root: int, number: signal.Signals) -> int:
    """Signal every descendant of ``root`` politely; how many were told."""
    told = 0
    for pid in descendants(root):
        pidfd = open_pidfd(pid)
        if pidfd is None:
            continue
        try:
            told += send(pidfd, number)
        finally:
            os.close(pidfd)
    return told


def open_namespace(pid: int) -> int | None:
    """A pidfd for ``pid`` if it is the first process of a PID namespace other than ours; guards against reuse."""
    pidfd = open_pidfd(pid)
    if pidfd is not None and not _is_namespace_init(pid):
        os.close(pidfd)
        return None
    return pidfd


def _is_namespace_init(pid: int) -> bool:
    try:
        status = (_PROC / str(pid) / "status").read_text("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == "1"


async def ended(pidfd: int, timeout: float) -> bool:
    """Wait until the process behind ``pidfd`` has ended, and reap it if it was handed to us; False after ``timeout``."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        async with asyncio.timeout(timeout):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    reap(pidfd)
    return True


def reap(pidfd: int) -> bool:
    """Collect an ended process that became our child because its parent died first (we may be PID 1)."""
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False
