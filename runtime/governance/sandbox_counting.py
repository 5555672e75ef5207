"""How the number of processes of one tree is held, also for uid 0, which the kernel exempts from RLIMIT_NPROC.

A PID namespace whose highest number is lowered can hold no more processes than it has numbers, whoever they belong to.
Once it has counted past the first 300 numbers it never comes back to them, so it is started off there; on a kernel that
does not let us (built without checkpoints) those come on top.
"""

from __future__ import annotations

import ctypes
import os
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

_COUNTED_PER_NAMESPACE: Final = (5, 14)  # before, RLIMIT_NPROC counted all processes of the user, ours included
_NUMBERED_PER_NAMESPACE: Final = (6, 14)  # before, pid_max was one number for the whole machine
RESERVED_NUMBERS: Final = 300  # RESERVED_PIDS of the kernel
_CLONE_NEWPID: Final = 0x20000000
_CAP_SYS_ADMIN: Final = 21
_LOWER_NUMBERS: Final = """
cd /proc/sys/kernel && echo "$1" > pid_max || exit 1
if [ -e ns_last_pid ]; then echo "$2" > ns_last_pid; fi
"""


class Counting(Enum):
    """What keeps the number of processes down."""

    RLIMIT = "rlimit"
    NUMBERS = "pid namespace"
    NONE = "nothing"


def exempt() -> bool:
    """Are we the user whose processes the kernel does not count?"""
    return os.geteuid() == 0


def counts_each_tree() -> bool:
    """Does RLIMIT_NPROC count what is in a user namespace by itself?"""
    return _release() >= _COUNTED_PER_NAMESPACE


def numbers_each_tree() -> bool:
    """Has each PID namespace a ``pid_max`` of its own? Otherwise writing it would change the whole machine's."""
    return _release() >= _NUMBERED_PER_NAMESPACE


@cache
def may_enter_trees() -> bool:
    """Have we the capability to start a process in the PID namespace of a child?"""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(mask, 16) >> _CAP_SYS_ADMIN & 1)


def cap_numbers(pidfd: int, highest: int) -> int:
    """Start a helper that limits the numbers in the PID namespace of the process behind ``pidfd``; the helper's pidfd.

    The kernel decides by the writer's own namespace which of the numbers is meant, so the writer has to be inside;
    through a foreign ``/proc`` it would be the host's. Raises `OSError`.
    """
    own = os.pidfd_open(os.getpid())
    try:
        _next_child_in(pidfd)
        try:
            helper = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _LOWER_NUMBERS, "sh", str(highest), str(RESERVED_NUMBERS)],
                {},
                setpgroup=0,  # a Ctrl-C for the console is not for it
            )
        finally:
            _next_child_in(own)
    finally:
        os.close(own)
    return os.pidfd_open(helper)


def _next_child_in(pidfd: int) -> None:
    """Children of this thread are born in that PID namespace from now on; the thread itself stays where it is."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(pidfd, _CLONE_NEWPID) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@cache
def _release() -> tuple[int, int]:
    """The kernel's version. Distributions may have added to what it stands for, never taken away."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
