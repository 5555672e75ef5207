"""What a confined process must not be able to do, tried from inside: one function for each of the 28 probes.

Runs in the sandbox as ``python -I -S -c``, standard library only; the facts about the canaries come on standard input.
Every line of output is one probe: its name, whether it was held back, and how. ``null`` leaves the verdict to the
outside, where the canaries are: what a process believes to have reached may be a private copy.
"""

# Paths as text and few imports: every millisecond of this is part of every start.
# ruff: noqa: PTH101, PTH102, PTH106, PTH116, PTH123, PTH208

from __future__ import annotations

import binascii
import ctypes
import json
import os
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

# Numbers of the kernel's interface: linux/sched.h, linux/ptrace.h, linux/in.h, linux/keyctl.h, linux/bpf.h.
_NEW_USER, _NEW_MOUNT = 0x10000000, 0x00020000
_PTRACE_SEIZE: Final = 0x4206
_IPPROTO_MPTCP: Final = 262
_SYS_IO_URING_SETUP: Final = 425  # the same number on every architecture
_KEYCTL_GET_KEYRING_ID, _USER_KEYRING = 0, -4
_BPF_MAP_CREATE, _BPF_ARRAY = 0, 2
#: The numbers of ``keyctl`` and ``bpf``.
_NUMBERS: Final = {
    "x86_64": (250, 321),
    "aarch64": (219, 280),
    "riscv64": (219, 280),
    "ppc64le": (271, 361),
    "s390x": (280, 351),
}
_CHARACTER_DEVICE: Final = 0o020600
_SOCKET_SECONDS: Final = 2
#: Set by shells and starters themselves, under the same names everywhere.
_INNOCENT: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})

_libc = ctypes.CDLL(None, use_errno=True)


class Elsewhere(OSError):
    """What was found is not what was looked for."""


def call(name: str, *arguments: Any) -> int:
    """A C library call that raises `OSError`."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def forked(action: Callable[[], object]) -> None:
    """Try what would change this very process in a process of its own, and raise what came of it."""
    try:
        child = os.fork()
    except OSError as problem:
        raise RuntimeError(f"no process could be started to try it: {problem}") from None
    if child == 0:
        try:
            action()
        except OSError as problem:
            os._exit(problem.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if code > 0 else f"killed by signal {-code}")


def write(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("written")


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# --- files ----------------------------------------------------------------------------------------------------------


def listing(facts: Mapping[str, Any]) -> None:
    if "canary" not in os.listdir(facts["folder"]):
        raise Elsewhere(2, "a private folder of the same name")


def write_outside(facts: Mapping[str, Any]) -> None:
    """Beside the work tree, and in a part of it that was not granted. Whether it arrived is seen from there."""
    for path in facts["outside"]:
        try:
            write(path)
        except OSError:
            continue


# --- processes ------------------------------------------------------------------------------------------------------


def console(facts: Mapping[str, Any]) -> int:
    """The console's number, unless another process bears it here: a PID namespace counts from 1 again."""
    try:
        stat = read(f"/proc/{facts['pid']}/stat")
    except OSError:
        return int(facts["pid"])
    if stat[stat.rindex(b")") + 2 :].split()[19].decode() != facts["started"]:
        raise Elsewhere(3, "another process of the same number")
    return int(facts["pid"])


def read_environment(facts: Mapping[str, Any]) -> None:
    if binascii.crc32(read(f"/proc/{facts['pid']}/environ")) != facts["environ"]:
        raise Elsewhere(3, "another process of the same number")


def trace(facts: Mapping[str, Any]) -> None:
    """Seizing does not stop the console, and ends with the process that did it."""
    pid = console(facts)
    forked(lambda: call("ptrace", ctypes.c_long(_PTRACE_SEIZE), ctypes.c_long(pid), None, None))


def secret(facts: Mapping[str, Any]) -> None:
    if not (set(facts["hidden"]) - _INNOCENT) & set(os.environ):
        raise Elsewhere(2, "no variable of the console")


# --- network --------------------------------------------------------------------------------------------------------


def connect(family: int, address: Any, protocol: int = 0) -> None:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as handle:
        handle.settimeout(_SOCKET_SECONDS)
        handle.connect(address)


def send_datagram(facts: Mapping[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        handle.sendto(b"probe", ("127.0.0.1", facts["udp"]))


def bind_port(facts: Mapping[str, Any]) -> None:
    """The console listens on this very port: only a network of one's own has it free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as handle:
        handle.bind(("127.0.0.1", facts["tcp"]))


# --- kernel ---------------------------------------------------------------------------------------------------------


def make_device(facts: Mapping[str, Any]) -> None:
    os.mknod(facts["node"], _CHARACTER_DEVICE, os.makedev(1, 3))


def use_ring() -> None:
    os.close(call("syscall", ctypes.c_long(_SYS_IO_URING_SETUP), ctypes.c_uint(1), ctypes.create_string_buffer(120)))


def use_keys() -> None:
    number, _ = numbers()
    call("syscall", ctypes.c_long(number), ctypes.c_long(_KEYCTL_GET_KEYRING_ID), ctypes.c_long(_USER_KEYRING), 1)


def use_bpf() -> None:
    _, number = numbers()
    task = ctypes.create_string_buffer(struct.pack("IIII", _BPF_ARRAY, 4, 4, 1), 128)
    os.close(call("syscall", ctypes.c_long(number), ctypes.c_long(_BPF_MAP_CREATE), task, ctypes.c_long(128)))


def numbers() -> tuple[int, int]:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise RuntimeError(f"the system calls of {machine} are not known")
    return _NUMBERS[machine]


def make_group(facts: Mapping[str, Any]) -> None:
    os.mkdir(facts["cgroup"])
    os.rmdir(facts["cgroup"])


def open_for_writing(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


#: In the order of the research's table. A probe that returns was possible; one that raises `OSError` was held back.
PROBES: Final[Mapping[str, Callable[[Mapping[str, Any]], object]]] = {
    "read_outside": lambda facts: read(facts["canary"]),
    "read_via_symlink": lambda facts: read(facts["link"]),
    "list_outside": listing,
    "write_outside": write_outside,
    "hardlink_outside": lambda facts: os.link(facts["canary"], facts["linked"]),
    "stat_outside": lambda facts: os.stat(facts["canary"]),
    "chmod_outside": lambda facts: os.chmod(facts["canary"], 0o666),
    "utime_outside": lambda facts: os.utime(facts["canary"], (1, 1)),
    "setxattr_outside": lambda facts: os.setxattr(facts["canary"], "user.probe", b"written"),
    "read_console_environment": read_environment,
    "signal_console": lambda facts: os.kill(console(facts), 0),
    "ptrace_console": trace,
    "tcp_connect": lambda facts: connect(socket.AF_INET, ("127.0.0.1", facts["tcp"])),
    "mptcp_connect": lambda facts: connect(socket.AF_INET, ("127.0.0.1", facts["tcp"]), _IPPROTO_MPTCP),
    "udp_datagram": send_datagram,
    "unix_connect": lambda facts: connect(socket.AF_UNIX, facts["socket"]),
    "abstract_connect": lambda facts: connect(socket.AF_UNIX, "\0" + facts["abstract"]),
    "write_core_pattern": lambda facts: open_for_writing("/proc/sys/kernel/core_pattern"),
    "device_node": make_device,
    "nested_user_namespace": lambda facts: forked(lambda: call("unshare", _NEW_USER)),
    "nested_mount_namespace": lambda facts: forked(lambda: call("unshare", _NEW_MOUNT)),
    "io_uring": lambda facts: use_ring(),
    "key_ring": lambda facts: use_keys(),
    "bpf": lambda facts: use_bpf(),
    "secret_in_environment": secret,
    "cgroup_write": make_group,
    "raw_disk": lambda facts: os.close(os.open(facts["disk"], os.O_RDONLY)),
    "bind_port": bind_port,
}
#: Judged from outside.
SEEN_OUTSIDE: Final = ("write_outside", "udp_datagram")


def attempt(name: str, facts: Mapping[str, Any]) -> tuple[str, bool | None, str]:
    try:
        PROBES[name](facts)
    except OSError as problem:
        return name, True, problem.strerror or str(problem)
    return name, None if name in SEEN_OUTSIDE else False, "nothing in the way"


def main() -> None:
    facts = json.load(sys.stdin)
    for name in PROBES:
        print(json.dumps(attempt(name, facts)))
    write(facts["writable"])
    print(json.dumps(["identity", os.getuid(), os.getgid()]))


if __name__ == "__main__":
    main()
