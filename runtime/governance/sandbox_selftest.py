"""Proof, not feature detection: probes run in the real sandbox against canaries of our own.

Kernels, distributions and container runtimes restrict namespaces in different ways, and a sandbox that starts may
still hold nothing back. The verdict is data: a journal entry and the badge in the header (reliability §2.6).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.governance.environment import rebuilt
from runtime.kernel.clock import Clock
from runtime.kernel.errors import QuarterdeckError
from runtime.kernel.ports import ProcessResult, ProcessRunner, ProcessSpec

_LIMIT_SECONDS: Final = 10.0
_SOCKET_PATH_MAX: Final = 100  # sun_path holds 108 bytes
_DETAIL_MAX: Final = 200

#: Runs inside. Every line of output is one probe: its name and what happened.
_SCRIPT: Final = """
import ctypes, json, os, socket, sys
facts = json.loads(sys.argv[1])
def attempt(name, action):
    try:
        action()
    except OSError as problem:
        print(json.dumps([name, True, problem.strerror or str(problem)]))
    else:
        print(json.dumps([name, False, "it was possible"]))
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as handle:
        handle.settimeout(2)
        handle.connect(address)
def nested():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def write(path):
    with open(path, "w") as file:
        file.write("written")
def listing():
    if "canary" not in os.listdir(facts["folder"]):
        raise OSError(2, "the canary is not listed")
attempt("write_work_tree", lambda: write(facts["tree"]))
attempt("read_canary", lambda: open(facts["canary"]).read())
attempt("list_outside", listing)
attempt("tcp_connect", lambda: connect(socket.AF_INET, ("127.0.0.1", facts["port"])))
attempt("unix_connect", lambda: connect(socket.AF_UNIX, facts["socket"]))
attempt("abstract_connect", lambda: connect(socket.AF_UNIX, "\\0" + facts["abstract"]))
attempt("signal_console", lambda: os.kill(facts["pid"], 0))
attempt("write_sysctl", lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)))
attempt("nested_namespace", nested)
write(facts["writable"])
try:
    write(facts["outside"])  # may land in a private folder; whether it reached the host is seen from there
except OSError:
    pass
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing that must not be possible, and whether it was."""

    name: str
    blocked: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The verdict on one tier. ``failure`` says why the probes could not run at all."""

    tier: str
    probes: tuple[Probe, ...]
    failure: str | None
    milliseconds: int

    @property
    def ok(self) -> bool:
        return self.failure is None and all(probe.blocked for probe in self.probes)

    @property
    def summary(self) -> str:
        """One clause for operators."""
        if self.failure is not None:
            return self.failure
        open_ones = [probe.name for probe in self.probes if not probe.blocked]
        return f"not held back: {', '.join(open_ones)}" if open_ones else f"{len(self.probes)} probes held back"

    def record(self) -> dict[str, object]:
        """For the journal."""
        return {
            "tier": self.tier,
            "ok": self.ok,
            "failure": self.failure,
            "milliseconds": self.milliseconds,
            "probes": {probe.name: probe.blocked for probe in self.probes},
        }


@dataclass(frozen=True, slots=True)
class _Canaries:
    folder: Path
    facts: Mapping[str, object]

    @property
    def tree(self) -> Path:
        return self.folder / "tree"


#: Every probe the script makes; fewer answers mean it was cut short.
PROBES: Final = (
    *(line.split('"')[1] for line in _SCRIPT.splitlines() if line.startswith("attempt(")),
    "write_outside",
)


async def probe(runner: ProcessRunner, clock: Clock) -> SelfTest:
    """Run every probe through ``runner``. Never raises: a sandbox that cannot start has failed its test."""
    started = clock.monotonic()
    with _canaries() as canaries:
        try:
            result = await runner.run(_spec(canaries))
            probes, failure = _read(result, canaries)
        except (QuarterdeckError, OSError) as problem:
            probes, failure = (), str(problem)[:_DETAIL_MAX]
    spent = round((clock.monotonic() - started) * 1000)
    return SelfTest(tier=runner.tier, probes=probes, failure=failure, milliseconds=spent)


def _spec(canaries: _Canaries) -> ProcessSpec:
    return ProcessSpec(
        argv=(sys.executable, "-I", "-S", "-c", _SCRIPT, json.dumps(canaries.facts)),
        cwd=canaries.tree,
        root=canaries.tree,
        env=rebuilt(),
        writable=(canaries.tree / "out",),
        timeout=_LIMIT_SECONDS,
    )


def _read(result: ProcessResult, canaries: _Canaries) -> tuple[tuple[Probe, ...], str | None]:
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    probes = tuple(Probe(name=name, blocked=blocked, detail=detail) for name, blocked, detail in answers)
    probes += (_write_outside(canaries),)
    if result.exit_code != 0:
        text = result.stderr.decode("utf-8", "replace").strip()[-_DETAIL_MAX:]
        return probes, f"the probes ended with exit code {result.exit_code}: {text}"
    if tuple(probe.name for probe in probes) != PROBES:
        return probes, f"{len(probes)} of {len(PROBES)} probes answered"
    if (canaries.tree / "out" / "mine").read_text() != "written":
        return probes, "a granted path could not be written"
    return probes, None


def _write_outside(canaries: _Canaries) -> Probe:
    reached = (canaries.folder / "outside").exists()
    detail = "it reached the host" if reached else "nothing reached the host"
    return Probe(name="write_outside", blocked=not reached, detail=detail)


@contextmanager
def _canaries() -> Iterator[_Canaries]:
    """A work tree, a secret beside it, and listeners that would answer."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="quarterdeck-", dir=_short_folder()))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "tree" / "out").mkdir(parents=True)
        (folder / "canary").write_text("canary")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        named = _listen(stack, str(folder / "socket"))
        abstract = _listen(stack, f"\0{folder.name}")
        facts = {
            "tree": str(folder / "tree" / "file"),
            "writable": str(folder / "tree" / "out" / "mine"),
            "outside": str(folder / "outside"),
            "canary": str(folder / "canary"),
            "folder": str(folder),
            "port": tcp.getsockname()[1],
            "socket": named,
            "abstract": abstract.removeprefix("\0"),
            "pid": os.getpid(),
        }
        yield _Canaries(folder, facts)


def _listen(stack: ExitStack, address: str) -> str:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(address)
    listener.listen()
    return address


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) < _SOCKET_PATH_MAX // 2 else "/tmp"
