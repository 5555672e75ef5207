"""Tier A: bubblewrap. It is a tool, not a policy; the flags below are the policy (reliability §2.6).

The user namespace maps one ordinary identity onto the operator's own, root included, so nothing needs to be
chowned and no capability survives. Files under ``/proc/sys`` still belong to that identity when the console runs
as root, hence the read-only bind over them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from runtime.governance import seccomp
from runtime.governance.sandbox_backends import (
    INSIDE_ID,
    LAUNCHER,
    Channels,
    Launch,
    Walls,
    encode,
    hold_writable,
    identity,
    launcher,
    listener,
)
from runtime.governance.sandbox_counting import may_enter_trees
from runtime.governance.sandbox_layout import Mount, MountKind, plan_mounts, program_roots
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
        if channels.proxy < 0:
            return self._compose(spec, limits, channels)
        with ExitStack() as undo:
            task, status = os.memfd_create("program"), os.dup(channels.status)
            for descriptor in (task, status):
                undo.callback(os.close, descriptor)
            launch = self._compose(_introduced(spec, task), limits, channels)
            with os.fdopen(os.dup(task), "wb") as file:
                file.write(encode(_introduction(spec, channels, status)))
            os.lseek(task, 0, os.SEEK_SET)
            undo.pop_all()
        return replace(launch, inherited=(*launch.inherited, task, status))

    def _compose(self, spec: ProcessSpec, limits: Limits, channels: Channels) -> Launch:
        mounts = plan_mounts(spec)
        held = hold_writable(mounts)
        calls = seccomp.program()
        filters = () if calls is None else (_kept(calls),)
        options = [
            *_isolation(),
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


def _introduced(spec: ProcessSpec, task: int) -> ProcessSpec:
    """``spec`` with our launcher in the program's place, which it takes from inside once it has sent the listener.

    The mission's variables reach only the program: a declared ``LD_PRELOAD`` must not sit where the listener is made.
    """
    compiled = LAUNCHER.parent / "__pycache__"
    ours = (LAUNCHER, compiled) if compiled.is_dir() else (LAUNCHER,)
    readable = (*spec.readable, *program_roots(Path(spec.argv[0])), *ours)
    return replace(spec, argv=launcher(task), env={}, readable=readable)


def _introduction(spec: ProcessSpec, channels: Channels, status: int) -> dict[str, object]:
    program = {"argv": list(spec.argv), "env": dict(spec.env)}
    return {"mode": "inside", "status": status, **program, **listener(channels)}


def _isolation() -> Iterator[str]:
    # Every namespace by name: --unshare-all creates the user and cgroup ones only where possible.
    yield from ("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts")
    yield "--unshare-cgroup-try"
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
