"""Tier A: bubblewrap. It is a tool, not a policy; the flags below are the policy (reliability §2.6).

The user namespace maps one ordinary identity onto the operator's own, root included, so nothing needs to be
chowned and no capability survives. Files under ``/proc/sys`` still belong to that identity when the console runs
as root, hence the read-only bind over them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.governance import seccomp
from runtime.governance.sandbox_backends import INSIDE_ID, Channels, Launch, Walls, hold_writable, identity
from runtime.governance.sandbox_counting import may_enter_trees
from runtime.governance.sandbox_layout import Mount, MountKind, plan_mounts
from runtime.governance.sandbox_limits import Limits
from runtime.kernel.ports import ProcessSpec

#: Looked for here only: a work tree on PATH must not supply the program that confines it.
_PLACES: Final = "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin"
_SHARED_MEMORY: Final = "/dev/shm"


def find_bwrap() -> str | None:
    """The bubblewrap program, or None."""
    return shutil.which("bwrap", path=_PLACES)


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Starts children through ``program``."""

    program: str
    tier: str = "A"
    namespaced: bool = True
    sets_limits: bool = False

    def walls(self, limits: Limits) -> Walls:
        return Walls(
            identity=identity(),
            seccomp=seccomp.program() is not None,
            landlock=False,
            counting=limits.counting(tree_of_its_own=True, enters=may_enter_trees()),
        )

    def launch(self, spec: ProcessSpec, limits: Limits, channels: Channels) -> Launch:
        mounts = plan_mounts(spec)
        held = hold_writable(mounts)
        calls = seccomp.program()
        filters = () if calls is None else (_kept(calls),)
        options = [
            *_isolation(bool(spec.hosts)),
            *_file_system(mounts, held, limits.scratch_bytes),
            *_environment(spec.env),
            *("--chdir", str(spec.cwd)),
            *(word for descriptor in filters for word in ("--seccomp", str(descriptor))),
            *("--json-status-fd", str(channels.status), "--block-fd", str(channels.go)),
        ]
        payload = b"".join(os.fsencode(option) + b"\0" for option in options)
        argv = (self.program, "--args", str(channels.payload), "--", *spec.argv)
        return Launch(argv=argv, payload=payload, inherited=(*held.values(), *filters))


def _kept(program: bytes) -> int:
    """A descriptor bubblewrap reads the filter of system calls from."""
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, program)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _isolation(network: bool) -> Iterator[str]:
    # Every namespace by name: --unshare-all creates the user and cgroup ones only where possible.
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    if not network:
        yield "--unshare-net"
    yield from ("--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--disable-userns", "--cap-drop", "ALL")
    yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox")


def _file_system(mounts: Sequence[Mount], held: Mapping[Mount, int], scratch_bytes: int) -> Iterator[str]:
    size = ("--size", str(scratch_bytes), "--tmpfs")
    yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev")
    yield from (*size, _SHARED_MEMORY, "--remount-ro", "/dev")
    for mount in mounts:
        place = str(mount.place)
        match mount.kind:
            case MountKind.FOLDER:
                yield from ("--dir", place)
            case MountKind.LINK:
                yield from ("--symlink", mount.source, place)
            case MountKind.READ:
                yield from ("--ro-bind", mount.source, place)
            case MountKind.WRITE:
                yield from ("--bind-fd", str(held[mount]), place)
            case MountKind.PRIVATE:
                yield from (*size, place)
    yield from ("--remount-ro", "/")


def _environment(env: Mapping[str, str]) -> Iterator[str]:
    yield "--clearenv"
    for name, value in env.items():
        yield from ("--setenv", name, value)
