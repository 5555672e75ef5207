"""Our own starter of child processes: run as ``python -I -S``, standard library only, never part of the console.

Two modes. *namespaces* (tier B) makes user, mount, PID, network, IPC and UTS namespaces, builds an empty root from
the mounts it is told and starts the program in it without any capability. *subreaper* (tier D) confines nothing,
but adopts every orphan below it, so that it can end daemons that left their session.

Nothing outlives the console: in the first mode every process asks to die with its parent, and the kernel ends a
PID namespace with its first process; in the second the *go* descriptor reads as closed and the sweep begins.
The protocol is described in ``sandbox_backends``.
"""

# Every import is paid by every child: without json, pathlib, signal, socket and typing the start takes half the time.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH116, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

# Numbers of the kernel's interface: linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h, linux/if.h.
_NEW_NAMESPACES: Final = 0x10000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000
_NEW_NETWORK: Final = 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH: Final = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR: Final = 442  # the same number on every architecture
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 22, 36, 38
_SECCOMP_MODE_FILTER: Final = 2
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH: Final = 1
_RESERVED_NUMBERS: Final = 300  # never given out again by a namespace that has counted past them
_CAP_VERSION_3: Final = 0x20080522
_LAST_POSSIBLE_CAPABILITY: Final = 63
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_AF_INET, _SOCK_DGRAM = 2, 2
_SIGHUP, _SIGINT, _SIGKILL, _SIGPIPE, _SIGTERM, _SIGXFSZ = 1, 2, 9, 13, 15, 25

#: Writable by the owner of the user namespace unless covered, root's own when the console runs as root.
_COVERED_PROC: Final = ("sys", "sysrq-trigger", "irq", "bus")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_SWEEP_PAUSE: Final = 0.001  # between two rounds of killing while ended children are being handed to us
_EXEC_FAILED: Final = 127

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A C library call that raises `OSError` naming itself."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def system_call(number: int, *arguments: Any) -> int:
    """A system call the C library has no function for."""
    return call("syscall", ctypes.c_long(number), *arguments)


def prctl(option: int, value: int = 0, address: Any = None) -> None:
    call("prctl", option, ctypes.c_ulong(value), address, *(ctypes.c_ulong(0),) * 2)


def report(status: int, key: str, value: int | str) -> None:
    # Nothing can be imported any more once the root has been replaced, not even json.
    if isinstance(value, str):
        value = '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in value) + '"'
    os.write(status, f'{{"{key}": {value}}}\n'.encode("ascii"))


# --- namespaces -----------------------------------------------------------------------------------------------


def confine(task: dict[str, Any]) -> NoReturn:
    """Enter the namespaces, start their first process and stay as its parent, which outside signals can see."""
    go_first()
    user, group = os.geteuid(), os.getegid()
    call("unshare", _NEW_NAMESPACES | (0 if task["network"] else _NEW_NETWORK))
    write_file("/proc/self/setgroups", "deny")
    write_file("/proc/self/uid_map", f"{task['inside_id']} {user} 1")
    write_file("/proc/self/gid_map", f"{task['inside_id']} {group} 1")
    die_with_parent()
    if os.getppid() != task["parent"]:
        os._exit(1)  # the console died before the request took effect
    first = os.fork()
    if first == 0:
        guarded(task["status"], lambda: be_init(task))
    report(task["status"], "child-pid", first)
    os.close(task["go"])
    os.waitpid(first, 0)
    os._exit(0)


def die_with_parent() -> None:
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def be_init(task: dict[str, Any]) -> NoReturn:
    """First process of the PID namespace: build the root, start the program, collect orphans until it ends."""
    die_with_parent()
    build_root(task)
    if not task["network"]:
        raise_loopback()
    drop_capabilities()
    prctl(_PR_SET_DUMPABLE, 0)  # the program must not reach our descriptors through /proc/1
    wait_for_go(task["go"])
    program = start(task)
    while True:
        pid, status = os.wait()
        if pid == program:
            report(task["status"], "exit-code", os.waitstatus_to_exitcode(status))
            os._exit(0)


def write_file(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def mount(source: str, place: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, place, kind, options)]
    try:
        call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    except OSError as problem:
        raise OSError(problem.errno, f"mount {source} on {place}: {os.strerror(problem.errno or 0)}") from None


def set_attributes(place: str, attributes: int, *, deep: bool) -> None:
    """Restrict a mount, with everything mounted below it if ``deep`` (needs Linux 5.12)."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if deep else 0
    system_call(
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(place),
        ctypes.c_uint(flags),
        wanted,
        ctypes.c_size_t(len(wanted)),
    )


def pivot(new_root: str, put_old: str) -> None:
    number = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"pivot_root: not known for {os.uname().machine}")
    system_call(number, os.fsencode(new_root), os.fsencode(put_old))


def build_root(task: dict[str, Any]) -> None:
    """Make ``/new`` with the planned mounts beside the host's tree at ``/old``, then leave the host's tree behind."""
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    os.chdir("/tmp")
    os.mkdir("old")
    os.mkdir("new")
    pivot(".", "old")
    os.chdir("/")
    size = f"mode=1777,size={task['scratch_bytes']}"
    mount("tmpfs", "/new", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    mount_proc("/new/proc", task["highest_pid"])
    mount_devices("/new/dev", size)
    for kind, place, source, descriptor in task["mounts"]:
        add_mount(kind, place, source, descriptor, size)
    set_attributes("/new", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, deep=False)
    os.chdir("/new")
    pivot(".", ".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def add_mount(kind: str, place: str, source: str, descriptor: int, size: str) -> None:
    inside = "/new" + place
    if kind == "LINK":
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.symlink(source, inside)
    elif kind == "FOLDER":
        os.makedirs(inside, exist_ok=True)
    elif kind == "PRIVATE":
        os.makedirs(inside, exist_ok=True)
        mount("tmpfs", inside, "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    else:
        bind("/old" + source, inside, writable=kind == "WRITE", descriptor=descriptor)


def bind(source: str, place: str, *, writable: bool, descriptor: int = -1) -> None:
    make_mount_point(source, place)
    mount(source, place, None, _MS_BIND | _MS_REC)
    if descriptor >= 0:
        meant, bound = os.fstat(descriptor), os.stat(place)
        os.close(descriptor)
        if (meant.st_dev, meant.st_ino) != (bound.st_dev, bound.st_ino):
            raise OSError(0, f"{source} changed while it was being bound")
    set_attributes(place, _ATTR_NOSUID | _ATTR_NODEV | (0 if writable else _ATTR_RDONLY), deep=True)


def make_mount_point(source: str, place: str) -> None:
    if os.path.lexists(place):
        return
    if os.path.isdir(source):
        os.makedirs(place)
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def mount_proc(place: str, highest_pid: int | None) -> None:
    os.mkdir(place)
    mount("proc", place, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    # None below ours; the capability to raise either again is dropped.
    write_file(f"{place}/sys/user/max_user_namespaces", "0")
    if highest_pid is not None:
        limit_numbers(f"{place}/sys/kernel", highest_pid)
    for name in _COVERED_PROC:
        covered = f"{place}/{name}"
        if os.path.lexists(covered):
            mount(covered, covered, None, _MS_BIND | _MS_REC)
            set_attributes(covered, _ATTR_RDONLY, deep=True)


def limit_numbers(settings: str, highest: int) -> None:
    """No more processes than numbers, see ``sandbox_counting``; both files mean the writer's own namespace."""
    write_file(f"{settings}/pid_max", str(highest))
    if os.path.exists(f"{settings}/ns_last_pid"):  # in kernels built with checkpoints
        write_file(f"{settings}/ns_last_pid", str(_RESERVED_NUMBERS))


def mount_devices(place: str, size: str) -> None:
    os.mkdir(place)
    mount("tmpfs", place, "tmpfs", _MS_NOSUID, "mode=0755,size=65536")
    for name in _DEVICES:
        device = f"{place}/{name}"
        os.close(os.open(device, os.O_CREAT | os.O_WRONLY, 0o600))
        mount(f"/old/dev/{name}", device, None, _MS_BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{place}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{place}/{name}")
    mount("devpts", f"{place}/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", f"{place}/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    set_attributes(place, _ATTR_RDONLY, deep=False)


def raise_loopback() -> None:
    """Tests that talk to themselves over 127.0.0.1 keep working in the empty network namespace."""
    handle = call("socket", _AF_INET, _SOCK_DGRAM, 0)
    request = ctypes.create_string_buffer(struct.pack("16sh14x", b"lo", 0))
    call("ioctl", handle, ctypes.c_ulong(_SIOCGIFFLAGS), request)
    flags = struct.unpack("16sh14x", request.raw[:32])[1]
    request = ctypes.create_string_buffer(struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    call("ioctl", handle, ctypes.c_ulong(_SIOCSIFFLAGS), request)
    os.close(handle)


def drop_capabilities() -> None:
    for number in range(_LAST_POSSIBLE_CAPABILITY + 1):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            break  # the kernel's last capability has been passed
    header = struct.pack("Ii", _CAP_VERSION_3, 0)
    call("capset", header, bytes(24))
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def restrict_files(attributes: bytes, rules: list[tuple[str, int]]) -> None:
    """Landlock behind the mounts, computed in ``landlock``: only what is below the private root can be opened, whatever way is found to it."""
    handle = system_call(_SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    for place, rights in rules:
        below = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, below)
        system_call(_SYS_LANDLOCK_ADD_RULE, ctypes.c_int(handle), _RULE_PATH_BENEATH, rule, ctypes.c_uint(0))
        os.close(below)
    system_call(_SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(handle), ctypes.c_uint(0))
    os.close(handle)


def restrict_calls(program: bytes) -> None:
    """Install the filter of system calls; nothing but the program may follow."""
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions of eight bytes, and where they are.
    counted = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, counted)


# --- subreaper ------------------------------------------------------------------------------------------------


def supervise(task: dict[str, Any]) -> NoReturn:
    """Run the program unconfined; when it ends, or *go* is closed, end everything below us, then report."""
    go_first()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken = watch_children()
    report(task["status"], "child-pid", os.getpid())
    wait_for_go(task["go"])
    program = start(task)
    code = None
    while code is None and task["go"] not in select.select([woken, task["go"]], [], [])[0]:
        os.read(woken, 4096)
        code = collect(program)
    swept = sweep(program)
    code = swept if code is None else code
    report(task["status"], "exit-code", -_SIGKILL if code is None else code)
    os._exit(0)


def watch_children() -> int:
    """A descriptor that becomes readable whenever a child ends. Polite signals are for the tree, not for us."""
    import signal

    for number in (_SIGTERM, _SIGINT, _SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return woken


def collect(program: int) -> int | None:
    """Reap every child that has ended; the program's exit code if it was among them."""
    code = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                code = os.waitstatus_to_exitcode(ended[1])
    except ChildProcessError:
        return code  # none left
    return code


def sweep(program: int) -> int | None:
    """Kill and reap until nothing is left below us: killed parents hand their children up."""
    code, known = None, None
    while left := children():
        for pid in left:
            try:
                os.kill(pid, _SIGKILL)
            except ProcessLookupError:
                continue
        ended = collect(program)
        code = ended if code is None else code
        if left == known:  # dying; a tree that keeps forking instead leaves no time to wait
            select.select([], [], [], _SWEEP_PAUSE)
        known = left
    return code


def children() -> list[int]:
    """Our own children, fast enough to catch processes that live only to fork the next one."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel built without it
        return below(os.getpid())


def below(root: int) -> list[int]:
    """Every process descending from ``root``, ended ones that wait to be reaped included."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parents.setdefault(parent_of(entry), []).append(int(entry))
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in parents.get(pid, ())]
        found += level
    return found


def parent_of(entry: str) -> int:
    try:
        with open(f"/proc/{entry}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return 0  # it has just ended
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


# --- both -----------------------------------------------------------------------------------------------------


def wait_for_go(go: int) -> None:
    if not os.read(go, 1):
        os._exit(1)  # the console changed its mind, or died


def go_first() -> None:
    """When memory runs out, end us and all below us before anything else. Later our entry is no longer ours to write."""
    write_file("/proc/self/oom_score_adj", "1000")


def start(task: dict[str, Any]) -> int:
    """Fork the program into its own session, with default signals and its limits."""
    program = os.fork()
    if program == 0:
        guarded(task["status"], lambda: execute(task))
    return program


def execute(task: dict[str, Any]) -> NoReturn:
    os.setsid()
    # The interpreter and supervise() ignore these; an ignored signal would stay ignored in the program.
    for number in (_SIGPIPE, _SIGXFSZ, _SIGTERM, _SIGINT, _SIGHUP):
        _libc.signal(number, None)
    os.chdir(task["cwd"])
    if task.get("landlock"):
        restrict_files(*task["landlock"])
    for number, *wanted in task["limits"]:
        _, top = resource.getrlimit(number)
        soft, hard = wanted if top == resource.RLIM_INFINITY else (min(value, top) for value in wanted)
        resource.setrlimit(number, (soft, hard))
    if task.get("seccomp"):
        restrict_calls(task["seccomp"])
    os.execve(task["argv"][0], task["argv"], task["env"])


def guarded(status: int, action: Callable[[], NoReturn]) -> NoReturn:
    """Run ``action``, which ends this process; whatever goes wrong is reported, never raised into other code."""
    try:
        action()
    except BaseException as problem:  # noqa: BLE001 - the process ends here either way
        report(status, "error", str(problem))
    os._exit(_EXEC_FAILED)


def main() -> NoReturn:
    """Read the task from the descriptor named last on the command line and never return."""
    with open(int(sys.argv[-1]), "rb") as file:
        task = marshal.load(file)
    for descriptor in (task["status"], task["go"], *(entry[3] for entry in task.get("mounts", ()))):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    guarded(task["status"], lambda: confine(task) if task["mode"] == "namespaces" else supervise(task))
