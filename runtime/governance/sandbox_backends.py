"""The ways to start a child, reduced to one shape: a program to run and a payload for it to read.

Every backend speaks one protocol over two inherited descriptors. On *status* it writes JSON lines:
``{"child-pid": n}`` first, ``{"exit-code": n}`` last, ``{"error": text}`` if it could not start the program. It
starts the program only after a byte on *go*, so limits and a pidfd are in place before foreign code runs.
The payload travels in an anonymous file: environment values never appear in a process list.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from runtime.governance import landlock, seccomp
from runtime.governance.sandbox_counting import Counting, exempt
from runtime.governance.sandbox_layout import Mount, MountKind, open_unfollowed, plan_mounts
from runtime.governance.sandbox_limits import Limits
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessSpec

#: Imported rather than run as a script, so that its compiled form is kept; our folder comes last in the search.
_START: Final = "import sys; sys.path.append(sys.argv[1]); import sandbox_launcher as s; s.main()"
#: Who a confined process believes to be; outside it is the operator's own user.
INSIDE_ID: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to execute. ``inherited`` descriptors are passed on besides the channels; the caller closes them."""

    argv: Sequence[str]
    payload: bytes
    inherited: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Descriptor numbers as the child sees them."""

    payload: int
    status: int
    go: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What a tier has besides its namespaces. ``identity`` is whose rights over host files its children have."""

    identity: str
    seccomp: bool
    landlock: bool
    counting: Counting

    def record(self) -> dict[str, object]:
        """For the journal."""
        return {
            "identity": self.identity,
            "seccomp": self.seccomp,
            "landlock": self.landlock,
            "processes_held_by": self.counting.value,
        }


class Backend(Protocol):
    """One way to start a child."""

    @property
    def tier(self) -> str:
        """``A`` bubblewrap, ``B`` own launcher, ``D`` unconfined."""
        ...

    @property
    def namespaced(self) -> bool:
        """Is the reported child the first process of a PID namespace, so that killing it ends the whole tree?"""
        ...

    @property
    def sets_limits(self) -> bool:
        """Does the backend apply the limits itself? Otherwise they are set from outside before *go*."""
        ...

    def walls(self, limits: Limits) -> Walls:
        """What holds besides namespaces and rlimits on this machine."""
        ...

    def launch(self, spec: ProcessSpec, limits: Limits, channels: Channels) -> Launch:
        """Compose the start. Raises `Refused` ``SANDBOX_PATH``."""
        ...


def identity() -> str:
    """Whose rights over host files a confined child has. Inside it is a user of its own, outside it is us.

    Root's are without any capability, and over nothing but what is mounted (dependencies §8b).
    """
    return "mapped root" if exempt() else "own"


@dataclass(frozen=True, slots=True)
class OwnLauncher:
    """Tier B: namespaces and a private root made by our own standard-library launcher."""

    tier: str = "B"
    namespaced: bool = True
    sets_limits: bool = True

    def walls(self, limits: Limits) -> Walls:
        return Walls(
            identity=identity(),
            seccomp=seccomp.program() is not None,
            landlock=landlock.version() > 0,
            counting=limits.counting(tree_of_its_own=True, enters=True),
        )

    def launch(self, spec: ProcessSpec, limits: Limits, channels: Channels) -> Launch:
        mounts = plan_mounts(spec)
        held = hold_writable(mounts)
        rules = landlock.ruleset(mounts, landlock.version())
        task = {
            **_task("namespaces", spec, limits, channels),
            "seccomp": seccomp.program(),
            "landlock": None if rules is None else [rules.attributes, list(rules.rules)],
            "highest_pid": limits.highest_pid() if self.walls(limits).counting is Counting.NUMBERS else None,
            "network": bool(spec.hosts),
            "inside_id": INSIDE_ID,
            "scratch_bytes": limits.scratch_bytes,
            "mounts": [[mount.kind.name, str(mount.place), mount.source, held.get(mount, -1)] for mount in mounts],
        }
        return Launch(argv=_argv(channels), payload=_encode(task), inherited=tuple(held.values()))


@dataclass(frozen=True, slots=True)
class Unconfined:
    """Tier D: our launcher as a subreaper that sweeps every descendant; nothing else is restricted."""

    tier: str = "D"
    namespaced: bool = False
    sets_limits: bool = True

    def walls(self, limits: Limits) -> Walls:
        counting = limits.counting(tree_of_its_own=False, enters=False)
        return Walls(identity="own", seccomp=False, landlock=False, counting=counting)

    def launch(self, spec: ProcessSpec, limits: Limits, channels: Channels) -> Launch:
        return Launch(argv=_argv(channels), payload=_encode(_task("subreaper", spec, limits, channels)))


def hold_writable(mounts: Sequence[Mount]) -> dict[Mount, int]:
    """Descriptors of everything to be bound writable, so the starter can prove it bound just that.

    Between our check and the mount another process could put a symlink in the way.
    """
    held: dict[Mount, int] = {}
    try:
        for mount in mounts:
            if mount.kind is MountKind.WRITE:
                held[mount] = open_unfollowed(mount.source)
    except OSError as problem:
        for descriptor in held.values():
            os.close(descriptor)
        raise Refused("SANDBOX_PATH", f"{mount.source} changed while it was being bound: {problem.strerror}") from None
    return held


def _argv(channels: Channels) -> tuple[str, ...]:
    # Isolated and without site packages: nothing in the environment or the work tree can reach the launcher.
    return (sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parent), str(channels.payload))


def _task(mode: str, spec: ProcessSpec, limits: Limits, channels: Channels) -> dict[str, object]:
    return {
        "mode": mode,
        "argv": list(spec.argv),
        "env": dict(spec.env),
        "cwd": str(spec.cwd),
        "limits": [[number, *pair] for number, pair in limits.kernel(tree_of_its_own=mode == "namespaces").items()],
        "status": channels.status,
        "go": channels.go,
        "parent": os.getpid(),
    }


def _encode(task: dict[str, object]) -> bytes:
    # Read by the same interpreter at once. Keeps file names that are not UTF-8; loads 10 ms faster than JSON.
    return marshal.dumps(task)
