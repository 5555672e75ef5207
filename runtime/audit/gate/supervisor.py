"""Runs one program within limits and leaves nothing of it behind. Started as a process of its own, imports nothing of ours.

Arguments: seconds, bytes of memory, bytes per file, the log file, then the program with its arguments. One line of JSON
on stdout tells how it ended: ``{"how": "ended" | "timeout" | "spawn" | "left", "status": int}``.

A program may leave its process group, so ending the group is not enough. This process adopts whatever loses its parent
below it and ends until it has no children; the gate itself must not adopt, since it may be a part of something that has
children of its own. It ends when the gate ends. Where the system has no adoption (only Linux does), the group is all
that can be ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
#: Seconds in which everything must be gone after it was killed.
_LAST_WAIT: Final = 10.0


def main(arguments: list[str]) -> int:
    """Run, end, tell; returns 0 when the line on stdout says all there is to say."""
    seconds, memory, size, log, *command = arguments
    _adopt()
    for kind, value in (
        (resource.RLIMIT_AS, int(memory)),
        (resource.RLIMIT_FSIZE, int(size)),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(kind, value)
    signal.signal(signal.SIGTERM, _stopped)
    with Path(log).open("wb") as output:
        answer = _run(command, float(seconds), output)
    print(json.dumps(answer), flush=True)
    return 0


def _run(command: list[str], seconds: float, output: Any) -> dict[str, object]:
    """``subprocess.run`` kills only the program itself when time is up, so the group is made and ended here."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return {"how": "spawn", "status": error.errno or 0}
    how, status = "ended", 0
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        how = "timeout"
    finally:
        gone = _end(child)
    return {"how": how if gone else "left", "status": status}


def _end(child: subprocess.Popen[bytes]) -> bool:
    """Kill the group and everything that was adopted; False when something is still there."""
    deadline = time.monotonic() + _LAST_WAIT
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(_LAST_WAIT)
    while time.monotonic() < deadline:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _reaped():
            return True
        time.sleep(0.01)
    return False


def _children() -> Iterator[int]:
    """Our children, living or dead; none where there is no /proc, and then nothing is adopted either."""
    folder = Path("/proc/self/task")
    for thread in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            yield from map(int, (thread / "children").read_text("ascii").split())


def _reaped() -> bool:
    """Collect what has ended; is there still a child?"""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _adopt() -> None:
    """Become the parent of all orphans below, and be told when the gate ends."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        prctl(_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _stopped(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the rest must not be interrupted
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
