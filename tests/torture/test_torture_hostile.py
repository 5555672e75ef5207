"""What the hostile mission of ``tests/host`` does once and politely, here without end and again and again, on each tier."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_limits import Limits
from tests.support.sandboxing import INTRUDER, Pulse, alive, backend, counts_processes, python

TURNS = 10
PROCESSES = 40
#: Every process forks for ever; the count at the end of a line is that of the processes it can see.
BOMB = """
import os, time
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        print(sum(name.isdigit() for name in os.listdir("/proc")), flush=True)
        time.sleep(0.05)
time.sleep(60)
"""


@pytest.fixture(params=["A", "B"])
def runner(request: pytest.FixtureRequest) -> Sandbox:
    limits = Limits(processes=PROCESSES, memory_bytes=256 << 20, scratch_bytes=64 << 20, file_bytes=None)
    return Sandbox(backend(request.param), limits=limits)


async def test_a_fork_bomb_is_held_and_swept(runner: Sandbox, tmp_path: Path) -> None:
    if not counts_processes(runner):
        pytest.skip("this kernel counts no processes of this user: as root that needs Linux 6.14, otherwise 5.14")
    most = 0
    for turn in range(TURNS):
        token = f"bomb-{os.getpid()}-{runner.tier}-{turn}"
        async with Pulse() as pulse:
            result = await runner.run(python(tmp_path, BOMB, token, timeout=2))
        assert (result.timed_out, result.exit_code) == (True, -signal.SIGKILL)
        assert alive(token) == []
        most = max(most, *(int(line) for line in result.stdout.split()))
        assert pulse.beats > 20
        assert pulse.longest < 0.5
    print(f"\ntier {runner.tier}: {TURNS} fork bombs under a limit of {PROCESSES}, at most {most} processes")
    assert most <= PROCESSES + 3  # launcher's own: the first process of the namespace, and helpers on their way out


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [("hog", 1, b"MemoryError"), ("fill", 8, b"fill: No space left on device"), ("daemon", 0, b"left")],
)
async def test_excess_ends_in_an_error_of_its_own(
    runner: Sandbox, tmp_path: Path, what: str, code: int, said: bytes
) -> None:
    for turn in range(TURNS):
        token = f"{what}-{os.getpid()}-{runner.tier}-{turn}"
        async with Pulse() as pulse:
            result = await runner.run(python(tmp_path, INTRUDER, what, "/tmp", token))
        assert result.exit_code == code, result
        assert said in result.stdout + result.stderr
        assert alive(token) == []
        assert pulse.longest < 0.5
