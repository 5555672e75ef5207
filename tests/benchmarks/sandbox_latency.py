"""How much a sandbox adds to the start of a program, on every tier this machine offers.

Interleaved rounds of a program that does nothing, so that a noisy machine is noisy for all of them. Prints one JSON line:
milliseconds at p50 and p95 of each way to start it, and how much that is above the plain start; targets are 5 and 12 ms
for tier A and 20 ms at p50 for tier B (reliability §5, S6), set where a plain start took 0.4 ms and bubblewrap alone 2.4.
Run it with ``PYTHONPATH=. python tests/benchmarks/sandbox_latency.py [rounds]``; it is not part of the suite.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from runtime.governance.environment import rebuilt
from runtime.governance.sandbox import Sandbox, confining_backends
from runtime.governance.sandbox_backends import Unconfined
from runtime.governance.sandbox_bwrap import find_bwrap
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessSpec

NOTHING = "/bin/true"
TARGETS = {"tier A": {"p50": 5, "p95": 12}, "tier B": {"p50": 20}}


async def plain() -> None:
    subprocess.run([NOTHING], check=True, env={})


async def piped() -> None:
    child = await asyncio.create_subprocess_exec(NOTHING, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={})
    await child.communicate()


def bare(bwrap: str) -> Callable[[], Awaitable[None]]:
    """What bubblewrap costs by itself on this machine, with the least of a root that starts a program."""
    links = [part for name in ("bin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
    argv = [bwrap, "--unshare-all", "--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev", NOTHING]

    async def start() -> None:
        subprocess.run(argv, check=True, env={})

    return start


def confined(sandbox: Sandbox, folder: Path) -> Callable[[], Awaitable[None]]:
    spec = ProcessSpec(argv=(NOTHING,), cwd=folder, root=folder, env=rebuilt())

    async def start() -> None:
        result = await sandbox.run(spec)
        assert result.exit_code == 0, result

    return start


async def measure(folder: Path, rounds: int) -> dict[str, object]:
    ways: dict[str, Callable[[], Awaitable[None]]] = {"plain": plain, "asyncio with pipes": piped}
    bwrap = find_bwrap()
    if bwrap is not None:
        ways["bubblewrap alone"] = bare(bwrap)
    for backend in (Unconfined(), *reversed(confining_backends())):
        start = confined(Sandbox(backend, confinement="best_effort"), folder)
        try:
            await start()
        except Refused as refused:
            print(f"tier {backend.tier} left out: {refused.message}", file=sys.stderr)
        else:
            ways[f"tier {backend.tier}"] = start
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, start in ways.items():
            begun = time.perf_counter()
            await start()
            taken[name].append((time.perf_counter() - begun) * 1000)
    figures = {name: {"p50": at(times, 0.5), "p95": at(times, 0.95)} for name, times in taken.items()}
    base = figures["plain"]
    return {
        "rounds": rounds,
        "user": os.geteuid(),
        "milliseconds": figures,
        "added": {
            name: {part: round(value - base[part], 2) for part, value in parts.items()}
            for name, parts in figures.items()
            if name != "plain"
        },
        "targets": TARGETS,
    }


def at(times: list[float], part: float) -> float:
    return round(sorted(times)[min(len(times) - 1, int(len(times) * part))], 2)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(os.path.realpath(folder)), rounds))))


if __name__ == "__main__":
    main()
