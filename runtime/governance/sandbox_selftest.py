"""Proof, not feature detection: probes run in the real sandbox against canaries of our own.

Kernels, distributions and container runtimes restrict namespaces in different ways, and a sandbox that starts may
still hold nothing back. A tier counts when every probe of ``sandbox_probes`` ends as pinned here. The verdict is data:
a journal entry, the badge in the header and a part of ``quarterdeck doctor`` (reliability §2.6).
"""

from __future__ import annotations

import binascii
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from runtime.governance import sandbox_probes
from runtime.governance.environment import rebuilt
from runtime.kernel.clock import Clock
from runtime.kernel.errors import QuarterdeckError
from runtime.kernel.ports import ProcessResult, ProcessRunner, ProcessSpec

_LIMIT_SECONDS: Final = 10.0
_SOCKET_PATH_MAX: Final = 100  # sun_path holds 108 bytes
_DETAIL_MAX: Final = 200
#: Probes an error names; `quarterdeck doctor` shows all.
_NAMED: Final = 4
#: Where ``starttime`` stands in ``/proc/PID/stat``, counted behind the name in brackets.
_START_FIELD: Final = 19

_EVERY: Final = frozenset(sandbox_probes.PROBES)
#: What is held back, by tier; every other probe is pinned as possible. Binding a port happens in a network namespace
#: of the child's own, where nobody else can be reached or deceived.
PINNED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"A": _EVERY - {"bind_port"}, "B": _EVERY - {"bind_port"}}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing that was tried. ``blocked``: was it held back; ``pinned``: must it be; ``detail``: by what."""

    name: str
    blocked: bool
    pinned: bool
    detail: str

    @property
    def ok(self) -> bool:
        return self.blocked is self.pinned


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who confined processes are: the user and group they see, and the user who owns what they make outside."""

    user: int
    group: int
    outside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The verdict on one tier. ``failure`` says why the probes could not all run; ``identity`` is None then."""

    tier: str
    probes: tuple[Probe, ...]
    failure: str | None
    milliseconds: int
    identity: Identity | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None and not self.off

    @property
    def off(self) -> tuple[Probe, ...]:
        """The probes that did not end as pinned."""
        return tuple(probe for probe in self.probes if not probe.ok)

    @property
    def summary(self) -> str:
        """One clause for operators."""
        if self.failure is not None:
            return self.failure
        possible = [probe.name for probe in self.off if probe.pinned]
        missing = [probe.name for probe in self.off if not probe.pinned]
        said = [
            f"{_listed(names)} {word}"
            for names, word in (
                (possible, "was possible" if len(possible) == 1 else "were possible"),
                (missing, "failed"),
            )
            if names
        ]
        return "; ".join(said) or f"all {len(self.probes)} probes as pinned"

    def record(self) -> dict[str, object]:
        """For the journal: the verdict, and what went otherwise than pinned."""
        return {
            "tier": self.tier,
            "ok": self.ok,
            "failure": self.failure,
            "milliseconds": self.milliseconds,
            "probes": len(self.probes),
            "off": [probe.name for probe in self.off],
        }


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, slots=True)
class _Canaries:
    folder: Path
    facts: Mapping[str, Any]
    datagrams: socket.socket

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def written(self) -> Path:
        return Path(self.facts["writable"])

    def reached(self, name: str) -> bool:
        """Did what a probe did arrive here?"""
        if name == "write_outside":
            return any(Path(path).exists() for path in self.facts["outside"])
        try:
            return bool(self.datagrams.recv(16))
        except BlockingIOError:
            return False


async def probe(runner: ProcessRunner, clock: Clock) -> SelfTest:
    """Run every probe through ``runner``. Never raises: a sandbox that cannot start has failed its test."""
    started = clock.monotonic()
    probes: tuple[Probe, ...] = ()
    identity: Identity | None = None
    with _canaries() as canaries:
        try:
            result = await runner.run(_spec(canaries))
            probes = _read(result, canaries, PINNED.get(runner.tier, frozenset()))
            failure = _failure(result, probes, canaries)
            identity = _identity(result, canaries) if failure is None else None
        except (QuarterdeckError, OSError, ValueError) as problem:
            failure = str(problem)[:_DETAIL_MAX]
    spent = round((clock.monotonic() - started) * 1000)
    return SelfTest(tier=runner.tier, probes=probes, failure=failure, milliseconds=spent, identity=identity)


def _spec(canaries: _Canaries) -> ProcessSpec:
    return ProcessSpec(
        argv=(sys.executable, "-I", "-S", "-c", _script()),
        cwd=canaries.tree,
        root=canaries.tree,
        env=rebuilt(),
        writable=(canaries.tree / "out",),
        stdin=json.dumps(canaries.facts).encode(),
        timeout=_LIMIT_SECONDS,
    )


@cache
def _script() -> str:
    """Handed over as text: our own package is no part of the private root."""
    return Path(sandbox_probes.__file__).read_text("utf-8")


def _answers(result: ProcessResult) -> Iterator[list[Any]]:
    yield from (json.loads(line) for line in result.stdout.splitlines())


def _read(result: ProcessResult, canaries: _Canaries, pinned: frozenset[str]) -> tuple[Probe, ...]:
    probes = []
    for name, blocked, detail in _answers(result):
        if name not in _EVERY:
            continue
        if blocked is None:
            blocked = not canaries.reached(name)
            detail = "nothing reached the host" if blocked else "it reached the host"
        probes.append(Probe(name=name, blocked=blocked, pinned=name in pinned, detail=detail))
    return tuple(probes)


def _failure(result: ProcessResult, probes: tuple[Probe, ...], canaries: _Canaries) -> str | None:
    if result.exit_code != 0:
        text = result.stderr.decode("utf-8", "replace").strip()[-_DETAIL_MAX:]
        return f"the probes ended with exit code {result.exit_code}: {text}"
    if [probe.name for probe in probes] != list(sandbox_probes.PROBES):
        return f"{len(probes)} of {len(sandbox_probes.PROBES)} probes answered"
    if canaries.written.read_text() != "written":
        return "a granted path could not be written"
    return None


def _identity(result: ProcessResult, canaries: _Canaries) -> Identity:
    _, user, group = list(_answers(result))[-1]
    return Identity(user=user, group=group, outside=canaries.written.stat().st_uid)


@contextmanager
def _canaries() -> Iterator[_Canaries]:
    """A work tree, a secret beside it, and listeners that would answer."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="quarterdeck-", dir=_short_folder()))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        tree = folder / "tree"
        (tree / "out").mkdir(parents=True)
        (folder / "canary").write_text("canary")
        (tree / "link").symlink_to(folder / "canary")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        named = _listen(stack, str(folder / "socket"))
        abstract = _listen(stack, f"\0{folder.name}")
        facts = {
            **_console(),
            "folder": str(folder),
            "canary": str(folder / "canary"),
            "link": str(tree / "link"),
            "outside": [str(folder / "outside"), str(tree / "file")],
            "linked": str(tree / "out" / "linked"),
            "node": str(tree / "out" / "node"),
            "writable": str(tree / "out" / "mine"),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "socket": named,
            "abstract": abstract.removeprefix("\0"),
            "cgroup": f"/sys/fs/cgroup/{folder.name}",
            "disk": f"/dev/{_disk()}",
        }
        yield _Canaries(folder, facts, udp)


def _console() -> dict[str, object]:
    """How a probe recognises this very process, without being told anything that is secret."""
    stat = Path("/proc/self/stat").read_bytes()
    return {
        "pid": os.getpid(),
        "started": stat[stat.rindex(b")") + 2 :].split()[_START_FIELD].decode(),
        "environ": binascii.crc32(Path("/proc/self/environ").read_bytes()),
        "hidden": sorted(set(os.environ) - set(rebuilt())),
    }


def _disk() -> str:
    """Some disk of this machine."""
    try:
        return Path("/proc/partitions").read_text().split()[-1]
    except (OSError, IndexError):
        return "sda"


def _listen(stack: ExitStack, address: str) -> str:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(address)
    listener.listen()
    return address


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) < _SOCKET_PATH_MAX // 2 else "/tmp"
