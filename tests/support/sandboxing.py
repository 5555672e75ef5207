"""The tiers this machine offers, and the processes one would rather not have started."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.environment import rebuilt
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Backend, OwnLauncher, Unconfined
from runtime.governance.sandbox_bwrap import Bubblewrap, find_bwrap
from runtime.kernel.ports import ProcessSpec

_UNSHARE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000 | 0x00020000 | 0x20000000) != 0)"


@cache
def denied(tier: str) -> str | None:
    """Why the kernel (not our code) refuses this tier, or None."""
    if tier == "D":
        return None
    bwrap = find_bwrap()
    if tier == "A" and bwrap is None:
        return "bubblewrap is not installed"
    program = [str(bwrap), "--unshare-all", "--ro-bind", "/", "/", "true"] if tier == "A" else None
    plain = subprocess.run(program or [sys.executable, "-c", _UNSHARE], capture_output=True, check=False)
    return f"user namespaces are denied: {plain.stderr.decode()[:100]}" if plain.returncode else None


def backend(tier: str) -> Backend:
    reason = denied(tier)
    if reason is not None:
        pytest.skip(reason)
    return {"A": lambda: Bubblewrap(str(find_bwrap())), "B": OwnLauncher, "D": Unconfined}[tier]()


def shell(tree: Path, command: str, **changes: Any) -> ProcessSpec:
    spec = ProcessSpec(argv=("/bin/sh", "-c", command), cwd=tree, root=tree, env=rebuilt(), timeout=20)
    return replace(spec, **changes)


def python(tree: Path, program: str, *arguments: str, **changes: Any) -> ProcessSpec:
    return shell(tree, "", argv=(sys.executable, "-I", "-S", "-c", program, *arguments), **changes)


def alive(token: str) -> list[int]:
    """Processes on this machine with ``token`` on their command line, other than zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if token.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def children() -> list[int]:
    """The test process's own children; earlier tests of the session may have left long-lived ones."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def descriptors() -> list[str]:
    # iterdir() lists eagerly, with its own descriptor open: the same one extra every time
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def counts_processes(sandbox: Sandbox) -> bool:
    """Can this kernel hold the number of processes for the user we are?"""
    limits: Any = sandbox.record()["limits"]
    return limits["processes"] is not None


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


#: Trees that ignore polite signals, as the research names them (reliability §2.4).
KINDS = ("setsid", "daemon", "stopped", "subreaper", "forker", "all")

HOSTILE = """
import os, signal, sys, time
kind = sys.argv[1]
def linger():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(120)
def fork(action):
    if os.fork() == 0:
        action()
        os._exit(0)
def daemon():
    os.setsid()
    fork(lambda: ([os.close(n) for n in range(3)], linger()))
def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)
def chain():
    while True:
        if os.fork():
            os._exit(0)
if kind in ("forker", "all"):
    fork(chain)
if kind in ("setsid", "all"):
    fork(lambda: (os.setsid(), fork(linger), linger()))
if kind in ("daemon", "all"):
    fork(daemon)
if kind in ("stopped", "all"):
    fork(stopped)
if kind in ("subreaper", "all"):
    import ctypes
    fork(lambda: (ctypes.CDLL(None).prctl(36, 1, 0, 0, 0), fork(daemon), linger()))
time.sleep(0.05)
print("ready", flush=True)
if kind != "left":
    linger()
"""

#: Tries what its first argument names, says what it met, and is the same for a mission and for a sandbox alone.
INTRUDER = """
import ctypes, os, socket, sys, time
what, *given = sys.argv[1:]
def tried(name, action):
    try:
        action()
    except OSError as problem:
        print(name + ":", problem.strerror)
    else:
        print(name + ": possible")
def trace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(ctypes.c_long(0x4206), ctypes.c_long(os.getppid()), None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def connect(address):
    with socket.socket() as handle:
        handle.settimeout(2)
        handle.connect(address)
if what == "look":
    home, outside, port = given
    tried("write in the tree", lambda: open("mine", "w"))
    tried("write to the system", lambda: open("/usr/mine", "w"))
    try:
        open(outside, "w").close()
    except OSError:
        pass
    tried("read a key", lambda: open(home + "/.ssh/id_ed25519"))
    tried("connect", lambda: connect(("127.0.0.1", int(port))))
    tried("trace", trace)
elif what == "bomb":
    count, most = 0, int(given[0])
    try:
        while count < most:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            count += 1
    except OSError as problem:
        print(count, "forks:", problem.strerror, flush=True)
        sys.exit(7)
elif what == "hog":
    kept = []
    while True:
        kept.append(bytearray(16 << 20))
elif what == "fill":
    try:
        with open(given[0] + "/full", "wb", 0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError as problem:
        print("fill:", problem.strerror)
        sys.exit(8)
elif what == "daemon":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):
                os.close(number)
            time.sleep(60)
        os._exit(0)
    print("left")
"""

CONSOLE = """
import asyncio, sys
from pathlib import Path
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import OwnLauncher, Unconfined
from runtime.governance.sandbox_bwrap import Bubblewrap, find_bwrap
from runtime.kernel.ports import ProcessSpec
tier, folder, hostile, token = sys.argv[1:]
backend = {"A": lambda: Bubblewrap(find_bwrap()), "B": OwnLauncher, "D": Unconfined}[tier]()
spec = ProcessSpec(argv=(sys.executable, "-I", "-S", "-c", hostile, "all", token), cwd=Path(folder),
                   root=Path(folder), env={}, timeout=60)
asyncio.run(Sandbox(backend, confinement="best_effort").run(spec, lambda *it: print(it, flush=True)))
"""


async def cancel_hostile(runner: Sandbox, tree: Path, kind: str) -> float:
    """Start a hostile tree, cancel it, and see that it is gone when the cancellation comes back: after how long, in s."""
    token = f"hostile-{os.getpid()}-{runner.tier}-{kind}"
    ready = asyncio.Event()
    task = asyncio.ensure_future(runner.run(python(tree, HOSTILE, kind, token), lambda *_: ready.set()))
    async with asyncio.timeout(10):
        await ready.wait()
    assert alive(token)
    started = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spent = time.perf_counter() - started
    assert alive(token) == []
    return spent


async def kill_console(tier: str, tree: Path) -> float:
    """Kill a console that runs a hostile tree, and wait until that is gone: after how long, in seconds."""
    token = f"orphan-{os.getpid()}-{tier}"
    console = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CONSOLE, tier, str(tree), HOSTILE, token),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert console.stdout is not None
    assert b"ready" in await console.stdout.readline()
    assert len(alive(token)) > 3
    started = time.perf_counter()
    console.kill()
    await console.wait()
    await until(lambda: not alive(token))
    return time.perf_counter() - started


class Pulse:
    """How often the event loop came round while something ran, and the most this process worked between two rounds.

    Processor time, not wall time: a loaded machine lets everybody wait, and says nothing about us.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.longest = 0.0

    async def __aenter__(self) -> Pulse:
        self._beating = asyncio.ensure_future(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])

    async def _beat(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.process_time()
            self.beats, self.longest, last = self.beats + 1, max(self.longest, now - last), now
