"""Processes of the ``quarterdeck`` command that skip the second in which an interpreter imports it.

One process per test session imports the command and then forks itself for every command line: each is a process of its
own, with its own session, environment, folder and files, which ends by itself or by signals, and is killed as any other.
What it shares is what every start does alike. What the start itself is about is tested with the installed command.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_MESSAGE: Final = 1 << 17
#: The verbs that start processes, and all that a run needs.
_IMPORTED: Final = (
    "console.cli",
    "console.verbs.reading",
    "console.verbs.running",
    "console.verbs.watching",
    "runtime.host.opening",
    "runtime.host.runtime_host",
)


class Prestarted:
    """A forked command, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, starter: _Starter, pid: int) -> None:
        self._starter = starter
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._starter.ended(self.pid, 0)
        return self.returncode

    def wait(self, limit: float) -> int:
        """The exit code; raises `subprocess.TimeoutExpired` after ``limit`` seconds."""
        if self.returncode is None:
            self.returncode = self._starter.ended(self.pid, limit)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("quarterdeck", limit)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Starter:
    """The test's end of the process that forks."""

    def __init__(self) -> None:
        self._channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int] = {}
        # Not the environment of the tests: an interpreter obeys some variables as it starts.
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.prestarted", str(far.fileno())],
            cwd=_ROOT,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[far.fileno()],
            start_new_session=True,
        ).returncode = 0  # it ends when this end of the channel closes; nobody waits for it
        far.close()

    def start(self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, out: Path, err: Path) -> Prestarted:
        task = {"arguments": arguments, "env": env, "cwd": str(cwd), "out": str(out), "err": str(err)}
        self._channel.send(json.dumps(task).encode())
        while (pid := self._take(30).get("started")) is None:
            pass
        self._codes.pop(pid, None)  # the number of a process that ended long ago
        return Prestarted(self, pid)

    def ended(self, pid: int, limit: float) -> int | None:
        """The exit code of a process, waited for up to ``limit`` seconds; None while it runs."""
        end = time.monotonic() + limit
        while pid not in self._codes:
            try:
                self._take(max(0.0, end - time.monotonic()))
            except (BlockingIOError, TimeoutError):
                return None
        return self._codes[pid]

    def _take(self, limit: float) -> dict[str, int]:
        self._channel.settimeout(limit)
        data = self._channel.recv(_MESSAGE)
        if not data:
            raise AssertionError("the process that starts commands has ended")
        message: dict[str, int] = json.loads(data)
        if "ended" in message:
            self._codes[message["ended"]] = message["code"]
        return message


@cache
def starter() -> _Starter:
    """One for all tests of this process."""
    return _Starter()


# -- the process that forks ------------------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> list[str] | None:
    """Fork for every task. Returns the arguments in each forked process, and None at the end of the channel."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not channel:
                    waiting.unregister(key.fileobj)
                    os.close(key.fd)
                    _, status = os.waitpid(key.data, 0)
                    code = os.waitstatus_to_exitcode(status)
                    channel.send(json.dumps({"ended": key.data, "code": code}).encode())
                    continue
                data = channel.recv(_MESSAGE)
                if not data:
                    return None
                task = json.loads(data)
                pid = os.fork()
                if not pid:
                    break
                channel.send(json.dumps({"started": pid}).encode())
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            else:
                continue
            break
    _become(task)
    return list(task["arguments"])


def _become(task: dict[str, Any]) -> None:
    """Be what a fresh process with this environment, folder and output would be."""
    os.setsid()
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    for number, name in ((1, task["out"]), (2, task["err"])):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(opened, number)
    os.closerange(3, 256)


def _main() -> int:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is None:
        return 0
    from console.cli import main

    sys.argv = ["quarterdeck", *arguments]
    return main()


if __name__ == "__main__":
    sys.exit(_main())
