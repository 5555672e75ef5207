"""The system calls no child of a mission may make: a classic BPF program, assembled by hand (reliability §2.5).

It is a list of refusals, not of permissions: ordinary tools must go on working with kernels that know more calls than
we do. What it takes away is what reaches round namespaces, what reaches into other processes, and what has most often
been a way into the kernel. Refusals are errors that programs know how to live with, never a death, except for the
system calls of another architecture, whose numbers mean something else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT
from functools import cache
from types import MappingProxyType
from typing import Final

# Operations of linux/bpf_common.h and verdicts of linux/seccomp.h.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

# struct seccomp_data: number, architecture, instruction pointer, six arguments of eight bytes. Both architectures
# are little-endian, so the first four bytes of an argument are its low half, all a flag word or a family has.
_NUMBER, _ARCHITECTURE = 0, 4
_FIRST, _THIRD = 16, 32

#: CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. For clone the first is part of a signal.
_NEW_TIME: Final = 0x00000080
_NEW_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
#: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. Others reach past a network namespace (vsock) or are little used code.
_FAMILIES: Final = (1, 2, 10, 16)
_IPPROTO_MPTCP: Final = 262  # carries TCP past rules that only know TCP
#: The ordinary personality, and asking for the present one.
_PERSONALITIES: Final = (0, 0xFFFFFFFF)
#: On x86-64, numbers from here on are the x32 interface (or -1); kernels without it answer ENOSYS as well.
_X32: Final = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One architecture: what the kernel calls it (linux/audit.h), and its system calls by name."""

    architecture: int
    numbers: Mapping[str, int]
    x32: bool = False


#: The same number everywhere (kernels since 5.0 add calls to all architectures at once).
_COMMON: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}
_X86_64: Final = {
    "socket": 41,
    "socketpair": 53,
    "clone": 56,
    "ptrace": 101,
    "syslog": 103,
    "personality": 135,
    "pivot_root": 155,
    "acct": 163,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}
_AARCH64: Final = {
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "quotactl": 60,
    "acct": 89,
    "personality": 92,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "socket": 198,
    "socketpair": 199,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "clone": 220,
    "swapon": 224,
    "swapoff": 225,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}
MACHINES: Final[Mapping[str, Machine]] = MappingProxyType(
    {
        "x86_64": Machine(architecture=0xC000003E, numbers={**_COMMON, **_X86_64}, x32=True),
        "aarch64": Machine(architecture=0xC00000B7, numbers={**_COMMON, **_AARCH64}),
    }
)
#: Looked at with their arguments; every other name in the tables is refused whatever they are.
_JUDGED: Final = ("clone", "clone3", "unshare", "socket", "socketpair", "personality")


@cache
def program(machine: str = "") -> bytes | None:
    """The filter as an array of ``struct sock_filter``, or None on a machine whose numbers are not known here."""
    known = MACHINES.get(machine or os.uname().machine)
    return None if known is None else _assemble(list(_listing(known)))


@dataclass(frozen=True, slots=True)
class _Line:
    """One instruction; the two ways on are names of places, empty for the next line."""

    operation: int
    operand: int
    then: str = ""
    otherwise: str = ""


def _listing(machine: Machine) -> Iterator[_Line | str]:
    """The program with names in place of distances; a bare string names the line after it."""
    numbers = machine.numbers
    yield _Line(_LOAD, _ARCHITECTURE)
    yield _Line(_EQUAL, machine.architecture, otherwise="kill")
    yield _Line(_LOAD, _NUMBER)
    if machine.x32:
        yield _Line(_AT_LEAST, _X32, then="unknown")
    for name in _JUDGED:
        yield _Line(_EQUAL, numbers[name], then=name)
    yield from _any_of(sorted(numbers[name] for name in numbers.keys() - set(_JUDGED)), "denied", "allow")
    for name, flags in (("clone", _NEW_NAMESPACES), ("unshare", _NEW_NAMESPACES | _NEW_TIME)):
        yield name
        yield _Line(_LOAD, _FIRST)
        yield _Line(_ANY_BIT, flags, then="denied", otherwise="allow")
    for name, values, then, otherwise in (
        ("personality", _PERSONALITIES, "allow", "denied"),
        ("socketpair", _FAMILIES, "allow", "family"),
        ("socket", _FAMILIES, "protocol", "family"),
    ):
        yield name
        yield _Line(_LOAD, _FIRST)
        yield from _any_of(values, then, otherwise)
    yield "protocol"
    yield _Line(_LOAD, _THIRD)
    yield _Line(_EQUAL, _IPPROTO_MPTCP, then="multipath", otherwise="allow")
    # Flags of clone3 lie in memory, out of a filter's sight; told that it is missing, libraries go back to clone.
    yield "clone3"
    for name, verdict in (
        ("unknown", _ERROR | ENOSYS),
        ("allow", ALLOW),
        ("denied", _ERROR | EPERM),
        ("family", _ERROR | EAFNOSUPPORT),
        ("multipath", _ERROR | EPROTONOSUPPORT),
        ("kill", KILL),
    ):
        yield name
        yield _Line(_RETURN, verdict)


def _any_of(values: Sequence[int], then: str, otherwise: str) -> Iterator[_Line]:
    for value in values[:-1]:
        yield _Line(_EQUAL, value, then=then)
    yield _Line(_EQUAL, values[-1], then=then, otherwise=otherwise)


def _assemble(listing: list[_Line | str]) -> bytes:
    """Names become distances. Raises `struct.error` for one that leads back or beyond 255 lines: no jump can."""
    places: dict[str, int] = {}
    lines: list[_Line] = []
    for entry in listing:
        if isinstance(entry, str):
            places[entry] = len(lines)
        else:
            lines.append(entry)

    def distance(name: str, here: int) -> int:
        return places[name] - here - 1 if name else 0

    return b"".join(
        struct.pack("HBBI", line.operation, distance(line.then, at), distance(line.otherwise, at), line.operand)
        for at, line in enumerate(lines)
    )
