"""One running child: start it, watch it, and leave only when its whole tree has gone.

Children are spawned by asyncio on the loop's own thread, because death with the parent follows the spawning
*thread* (ruling R31). A `Child` is driven by one task that nobody cancels; stopping it is a request (`stop`), so a
cancelled caller never leaves a tree behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, cast

from runtime.governance import process_tree
from runtime.governance.network_proxy import HostProxy
from runtime.governance.sandbox_backends import Backend, Channels, Launch
from runtime.governance.sandbox_capture import Capture, StatusReader
from runtime.governance.sandbox_counting import Counting, cap_numbers
from runtime.governance.sandbox_limits import Limits, lower
from runtime.kernel.errors import Refused
from runtime.kernel.ports import Denial, ProcessSpec

OnOutput = Callable[[str, bytes], None]

_STREAMS: Final = {1: "stdout", 2: "stderr"}
#: Reading goes on this long after the end, should anything still hold a pipe (dependencies §6).
_DRAIN_SECONDS: Final = 0.2
#: A killed tree took 69 ms at worst (reliability §2.4); beyond this something is stuck in the kernel.
_GONE_SECONDS: Final = 5.0
#: Namespaces are made within 20 ms; a loaded machine gets a hundred times that.
_SETUP_SECONDS: Final = 2.0
_FILE_MODE: Final = 0o022
_SETUP_TEXT_BYTES: Final = 500
#: bubblewrap reports death by signal n as 128 + n, as shells do.
_SIGNAL_BASE: Final = 128
_LAST_CLASSIC_SIGNAL: Final = 31


class Turn(Enum):
    """Why waiting for a child stopped; the first reason counts."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    FLOODED = "flooded"
    BROKEN = "broken"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended, before it is put into the caller's terms."""

    turn: Turn
    exit_code: int
    notes: tuple[str, ...]
    denials: tuple[Denial, ...]


class Child(asyncio.SubprocessProtocol):
    """One child process of one `ProcessSpec`."""

    def __init__(self, spec: ProcessSpec, backend: Backend, limits: Limits, on_output: OnOutput | None) -> None:
        self.captures = {number: Capture(spec.output_cap) for number in _STREAMS}
        self._cleaned = {number: spec.redactor.chunks() for number in _STREAMS}
        self._spec = spec
        self._backend = backend
        self._limits = limits
        self._on_output = on_output
        self._callback_error: Exception | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._led = asyncio.Event()
        self._exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = asyncio.Event()
        self._open_pipes = set(_STREAMS)
        self._status = -1
        self._go = -1
        # Where nothing is held back, there is no network to hand a proxy into either.
        self._proxy = HostProxy(spec.hosts) if spec.hosts and backend.namespaced else None
        self._channel: socket.socket | None = None
        self._reader: StatusReader | None = None
        self._leader: int | None = None
        self._pidfd: int | None = None
        self._started = False
        self._exit_code: int | None = None
        self._error: str | None = None
        self._notes: list[str] = []

    def stop(self) -> None:
        """Ask for the end of the tree; `run` returns once it has gone."""
        self._decide(Turn.STOPPED)

    async def run(self) -> Ended:
        """Start the child and see it through. Raises `Refused` ``PROCESS_SPAWN`` or ``SANDBOX_PATH``."""
        try:
            await self._spawn()
            timer = asyncio.get_running_loop().call_later(self._spec.timeout, self._decide, Turn.TIMED_OUT)
            try:
                turn = await self._turn
            finally:
                timer.cancel()
            await self._end_tree(0 if turn is Turn.EXITED else self._spec.stop_grace)
            await _within(_DRAIN_SECONDS, self._drained.wait())
            self._drain_status()
            if self._proxy is not None:
                # A program may end right after its last byte, which then is still with us.
                await self._proxy.close(_DRAIN_SECONDS if turn is Turn.EXITED else 0)
        finally:
            await self._close()
        for number, stream in self._cleaned.items():
            self._take(number, stream.flush())
        return self._ended(turn)

    # --- starting -------------------------------------------------------------------------------------------------

    async def _spawn(self) -> None:
        self._status, status = os.pipe()
        go, self._go = os.pipe()
        payload, stdin = os.memfd_create("task"), self._open_stdin()
        given = [status, go, payload, stdin]
        try:
            channels = Channels(payload=payload, status=status, go=go, proxy=self._open_channel(given))
            launch = self._backend.launch(self._spec, self._limits, channels)
            shared = (*launch.inherited, *(number for number in given if number != stdin))
            given += launch.inherited
            _fill(payload, launch.payload)
            await self._execute(launch, stdin, shared)
        finally:
            for descriptor in given:
                os.close(descriptor)
        loop = asyncio.get_running_loop()
        self._reader = StatusReader(self._status, self._on_status)
        loop.add_reader(self._status, self._drain_status)
        if self._channel is not None:
            loop.add_reader(self._channel, self._on_listener)

    def _open_stdin(self) -> int:
        """The channel of the caller's, or a file of what the child is to read."""
        if self._spec.channel is not None:
            return os.dup(self._spec.channel)
        stdin = os.memfd_create("stdin")
        _fill(stdin, self._spec.stdin)
        return stdin

    def _open_channel(self, given: list[int]) -> int:
        """The child's end of the channel its listener comes through, also put into ``given``; -1 for none."""
        if self._proxy is None:
            return -1
        self._channel, theirs = socket.socketpair()
        given.append(theirs.detach())
        return given[-1]

    async def _execute(self, launch: Launch, stdin: int, inherited: tuple[int, ...]) -> None:
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *launch.argv,
                stdin=stdin,
                pass_fds=inherited,
                start_new_session=True,
                # Nothing of the mission reaches the starter: a declared LD_PRELOAD would otherwise run outside.
                env={},
                cwd="/",
                umask=_FILE_MODE,
            )
        except OSError as problem:
            raise Refused("PROCESS_SPAWN", f"cannot start {launch.argv[0]}: {problem.strerror}") from None

    def _on_listener(self) -> None:
        """One message is all that is expected; without a listener in it the starter has failed, and says so itself."""
        if self._channel is None or self._proxy is None:
            return
        _, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        self._close_channel()
        if descriptors:
            self._proxy.start(socket.socket(fileno=descriptors[0]))

    def _close_channel(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _on_status(self, document: Mapping[str, Any]) -> None:
        if "child-pid" in document and self._leader is None:
            self._on_leader(int(document["child-pid"]))
        if "exit-code" in document:
            self._exit_code = int(document["exit-code"])
        if "error" in document:
            self._error = str(document["error"])

    def _on_leader(self, pid: int) -> None:
        """The tree has a first process that waits for *go*: hold on to it, limit it, let it start."""
        self._leader = pid
        self._led.set()
        if self._backend.namespaced:
            self._pidfd = process_tree.open_namespace(pid)
            if self._pidfd is None:
                self._abandon()
                return
        if self._backend.sets_limits or self._limited(pid):
            self._let_go()

    def _let_go(self) -> None:
        if not self._turn.done() and self._go >= 0:
            self._started = True
            with suppress(BrokenPipeError):  # died in between: reported by its exit
                os.write(self._go, b"g")

    def _limited(self, pid: int) -> bool:
        """Limit the tree from outside; False while that is not finished, or if it cannot be done."""
        try:
            lower(pid, self._limits.kernel(tree_of_its_own=self._backend.namespaced))
        except OSError as problem:
            self._error = f"its limits cannot be set: {problem.strerror}"
            self._abandon()
            return False
        highest = self._limits.highest_pid()
        if self._backend.walls(self._limits).counting is not Counting.NUMBERS or self._pidfd is None or highest is None:
            return True
        try:
            helper = cap_numbers(self._pidfd, highest)
        except OSError as problem:
            self._notes.append(f"PROCESSES_UNLIMITED: {problem.strerror}")
            return True
        asyncio.get_running_loop().add_reader(helper, self._numbers_capped, helper)
        return False

    def _numbers_capped(self, helper: int) -> None:
        """The helper has ended. Until it is reaped its namespace cannot end, so this waits for nothing else."""
        asyncio.get_running_loop().remove_reader(helper)
        result = os.waitid(os.P_PIDFD, helper, os.WEXITED)
        os.close(helper)
        if (result is None or result.si_status != 0) and not self._turn.done():
            self._notes.append("PROCESSES_UNLIMITED: the kernel refused to lower pid_max")
        self._let_go()

    def _abandon(self) -> None:
        """The first process died during set-up: whatever the starter has to say about it comes with its own end."""
        if self._transport is not None and not self._exited.is_set():
            self._transport.kill()

    # --- callbacks of the event loop ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        self._take(fd, self._cleaned[fd].feed(cast(bytes, data)))

    def _take(self, fd: int, chunk: bytes) -> None:
        """Output without secrets, counted, hashed, kept and shown from here on."""
        if not chunk:
            return
        self.captures[fd].add(chunk)
        if sum(capture.count for capture in self.captures.values()) > self._limits.output_bytes:
            self._decide(Turn.FLOODED)
        self._show(_STREAMS[fd], chunk)

    def _show(self, stream: str, chunk: bytes) -> None:
        if self._on_output is None or self._callback_error is not None:
            return
        try:
            self._on_output(stream, chunk)
        except Exception as problem:  # noqa: BLE001 - kept, and raised to the caller once the tree has gone
            self._callback_error = problem
            self._decide(Turn.BROKEN)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self._drained.set()

    def process_exited(self) -> None:
        self._drain_status()
        self._led.set()
        self._exited.set()
        self._decide(Turn.EXITED)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def _decide(self, turn: Turn) -> None:
        if not self._turn.done():
            self._turn.set_result(turn)

    def _drain_status(self) -> None:
        if self._reader is not None and not self._reader.drain():
            asyncio.get_running_loop().remove_reader(self._status)

    # --- ending ---------------------------------------------------------------------------------------------------

    async def _end_tree(self, grace: float) -> None:
        if not self._exited.is_set():
            # Killing the starter before it has named the tree's first process could leave that one behind.
            await _within(_SETUP_SECONDS, self._led.wait())
        if grace > 0 and self._leader is not None and not self._exited.is_set():
            process_tree.signal_below(self._leader, signal.SIGTERM)
            await _within(grace, self._exited.wait())
        self._kill()
        if not await _within(_GONE_SECONDS, self._exited.wait()) or not await self._leader_gone():
            self._notes.append(f"TREE_STUCK: processes were still there {_GONE_SECONDS:g} s after being killed")

    async def _leader_gone(self) -> bool:
        return self._pidfd is None or await process_tree.ended(self._pidfd, _GONE_SECONDS)

    def _kill(self) -> None:
        if self._pidfd is not None:
            process_tree.send(self._pidfd, signal.SIGKILL)
        elif self._leader is not None and not self._backend.namespaced:
            self._close_go()  # the supervisor sweeps everything below it, then ends
        elif self._transport is not None and not self._exited.is_set():
            # Nothing foreign has started; the starter's helpers die with it.
            with suppress(ProcessLookupError):
                self._transport.kill()

    def _close_go(self) -> None:
        if self._go >= 0:
            os.close(self._go)
            self._go = -1

    async def _close(self) -> None:
        """Release every descriptor; also the way out when the driving task itself is cancelled at shutdown."""
        if not self._exited.is_set():
            self._kill()
        self._close_go()
        self._close_channel()
        if self._proxy is not None:
            await self._proxy.close()
        if self._status >= 0:
            asyncio.get_running_loop().remove_reader(self._status)
            os.close(self._status)
            self._reader = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._transport is not None:
            self._transport.close()
            await _within(_DRAIN_SECONDS, self._closed.wait())

    def _ended(self, turn: Turn) -> Ended:
        if self._callback_error is not None:
            raise self._callback_error
        if turn is Turn.EXITED and (self._error is not None or self._setup_failed()):
            raise Refused("PROCESS_SPAWN", f"cannot start {self._spec.argv[0]}: {self._setup_text()}")
        if turn is Turn.FLOODED:
            self._notes.append(f"OUTPUT_LIMIT: stopped after {self._limits.output_bytes} bytes of output")
        self._notes += [
            f"OUTPUT_CUT: {capture.left_out} bytes of {_STREAMS[number]} were hashed but not kept"
            for number, capture in self.captures.items()
            if capture.left_out
        ]
        exit_code = self._code(turn)
        proxy = self._proxy
        notes = (*self._notes, *(() if proxy is None else proxy.notes))
        return Ended(turn=turn, exit_code=exit_code, notes=notes, denials=() if proxy is None else proxy.denials)

    def _setup_failed(self) -> bool:
        if self._exit_code is not None:
            return False
        return not self._started or self.captures[2].body().startswith(b"bwrap: ")

    def _setup_text(self) -> str:
        if self._error is not None:
            return self._error
        text = self.captures[2].body()[:_SETUP_TEXT_BYTES].decode("utf-8", "replace").strip()
        return text or "the starter ended without saying why"

    def _code(self, turn: Turn) -> int:
        code = self._exit_code
        if code is None or (turn is not Turn.EXITED and code == _SIGNAL_BASE + signal.SIGKILL):
            if turn is Turn.EXITED:
                self._notes.append("EXIT_UNKNOWN: the sandbox was killed from outside, perhaps for want of memory")
            return -signal.SIGKILL
        if not self._backend.sets_limits and _SIGNAL_BASE < code <= _SIGNAL_BASE + _LAST_CLASSIC_SIGNAL:
            return _SIGNAL_BASE - code
        return code


def _fill(descriptor: int, data: bytes) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)


async def _within(seconds: float, waiting: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return False
    return True
