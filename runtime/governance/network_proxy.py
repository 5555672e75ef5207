"""The only way out of a confined process: an HTTP proxy that knows which hosts the mission lists.

A confined process has a network of its own, with nothing in it but loopback. If its mission lists hosts, a listener is
made in there before the program starts and handed out to us (`sandbox_launcher.hand_over`); accepted connections
belong to the network the listener was made in, so the program reaches us and nothing else. Programs find the proxy
through the usual variables (`environment.proxied`).

`network_rules` decides. What is refused is answered with 403 and kept as a `Denial`; what is let through is counted.
Names are resolved out here, once per connection, and the connection goes to the address that was judged.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from runtime.governance.network_names import HostDenied, Resolver, SystemResolver, judged_addresses
from runtime.governance.network_rules import Request, Target, parse_request
from runtime.kernel.ports import Denial

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

#: Different refused targets kept; different hosts counted. What comes after is only counted.
MAX_KEPT: Final = 64
_HEAD_BYTES: Final = 16 * 1024
_CHUNK: Final = 64 * 1024
#: After an error that only time can mend: too many open files, no memory.
_ACCEPT_PAUSE: Final = 0.1
#: For a refused client to read the answer, which closing at once would tear away, and for the last bytes to leave.
_LINGER_SECONDS: Final = 1.0
_RESET: Final = struct.pack("ii", 1, 0)
_SENT, _RECEIVED = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds and counts of one proxy. ``idle`` is how long a connection may be silent in both directions."""

    connections: int = 64
    head: float = 30.0
    connect: float = 10.0
    idle: float = 300.0


@dataclass(slots=True)
class _Traffic:
    """What went to one target: ``moved`` are the bytes sent to it and received from it."""

    connections: int = 0
    moved: list[int] = field(default_factory=lambda: [0, 0])


class _Reply(Exception):
    """There is nothing to relay: what to answer instead, as status line and text."""


class HostProxy:
    """Serves one child process. Everything happens on the running loop; `close` leaves nothing behind."""

    def __init__(self, hosts: Sequence[str], *, resolver: Resolver | None = None, bounds: Bounds | None = None) -> None:
        self._hosts = tuple(hosts)
        self._bounds = bounds or Bounds()
        self._system = SystemResolver()
        self._resolver = resolver or self._system
        self._listener: socket.socket | None = None
        self._listening = False
        self._serving: set[asyncio.Task[None]] = set()
        self._denials: dict[Target, Denial] = {}
        self._traffic: dict[Target, _Traffic] = {}
        self._uncounted = 0

    def start(self, listener: socket.socket) -> None:
        """Serve what connects to ``listener``, which is ours from now on."""
        listener.setblocking(False)
        self._listener = listener
        self._listen()

    async def close(self, drain: float = 0.0) -> None:
        """End every connection, those still at work after ``drain`` seconds by force. Idempotent."""
        self._pause()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._serving and drain > 0:
            await asyncio.wait(self._serving, timeout=drain)
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=_LINGER_SECONDS)
        self._system.close()

    @property
    def denials(self) -> tuple[Denial, ...]:
        """Every refused target once, in the order of the first request."""
        return tuple(self._denials.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was reached, one line per target."""
        lines = [
            f"NET_REACHED: {target}, {seen.connections} connections, {seen.moved[_SENT]} bytes sent, "
            f"{seen.moved[_RECEIVED]} received"
            for target, seen in self._traffic.items()
        ]
        if self._uncounted:
            lines.append(f"NET_UNCOUNTED: {self._uncounted} further connections or refusals")
        return tuple(lines)

    # --- accepting ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Accept while there is room; the rest waits in the kernel's queue."""
        if self._listener is not None and not self._listening and len(self._serving) < self._bounds.connections:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
            self._listening = True

    def _pause(self) -> None:
        if self._listener is not None and self._listening:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listening = False

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        except OSError:
            self._pause()
            asyncio.get_running_loop().call_later(_ACCEPT_PAUSE, self._listen)
            return
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(lambda _: client.close())  # a task cancelled before its first step has not done it
        task.add_done_callback(self._served)
        if len(self._serving) >= self._bounds.connections:
            self._pause()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._listen()

    # --- one connection -------------------------------------------------------------------------------------------

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client, limit=_HEAD_BYTES)
        try:
            async with _closing(writer):
                await self._answer(reader, writer)
        except* (OSError, EOFError):
            pass  # one side went away, or both were silent for too long: the connection has ended, which says it all

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._requested(reader)
            upstream = await self._connected(request.target)
        except _Reply as reply:
            await _tell(reader, writer, *reply.args)
            return
        async with _closing(upstream[1]):
            await self._relay(request, (reader, writer), upstream)

    async def _requested(self, reader: asyncio.StreamReader) -> Request:
        try:
            async with asyncio.timeout(self._bounds.head):
                return parse_request(await reader.readuntil(b"\r\n\r\n"))
        except TimeoutError:
            raise _Reply("408 Request Timeout", f"no request within {self._bounds.head:g} s") from None
        except asyncio.LimitOverrunError:
            raise _Reply("431 Request Header Fields Too Large", f"more than {_HEAD_BYTES} bytes") from None
        except ValueError as problem:
            raise _Reply("400 Bad Request", str(problem)) from None

    async def _connected(self, target: Target) -> Stream:
        try:
            async with asyncio.timeout(self._bounds.connect):
                return await self._connect(target)
        except OSError as problem:
            reason = problem.strerror or f"no answer within {self._bounds.connect:g} s"
            raise _Reply("502 Bad Gateway", f"{target} cannot be reached: {reason}") from None

    async def _connect(self, target: Target) -> Stream:
        """The judgement and the connection. Raises `OSError`, `TimeoutError` included, when it cannot be reached."""
        try:
            allowed = await judged_addresses(target, self._hosts, self._resolver)
        except HostDenied as denied:
            raise self._denied(target, denied.denial) from None
        failure = OSError(0, "its name has no address")
        for address in allowed:
            try:
                return await asyncio.open_connection(address, target.port, limit=_CHUNK)
            except OSError as problem:
                failure = problem
        raise failure

    def _denied(self, target: Target, denial: Denial) -> _Reply:
        """Keep the refusal for the operator, and tell the process."""
        if target not in self._denials and len(self._denials) >= MAX_KEPT:
            self._uncounted += 1
        else:
            self._denials[target] = denial
        return _Reply("403 Forbidden", f"{denial.code}: {denial.message}")

    # --- relaying -------------------------------------------------------------------------------------------------

    async def _relay(self, request: Request, client: Stream, upstream: Stream) -> None:
        moved = self._counted(request.target).moved
        if request.tunnel:
            client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        upstream[1].write(request.opening)
        moved[_SENT] += len(request.opening)
        async with asyncio.timeout(self._bounds.idle) as limit, asyncio.TaskGroup() as both:

            def count(way: int, size: int) -> None:
                moved[way] += size
                limit.reschedule(asyncio.get_running_loop().time() + self._bounds.idle)

            both.create_task(_pump(client[0], upstream[1], partial(count, _SENT)))
            both.create_task(_pump(upstream[0], client[1], partial(count, _RECEIVED)))

    def _counted(self, target: Target) -> _Traffic:
        if target not in self._traffic and len(self._traffic) >= MAX_KEPT:
            self._uncounted += 1
            return _Traffic()
        seen = self._traffic.setdefault(target, _Traffic())
        seen.connections += 1
        return seen


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]) -> None:
    """Copy one direction to its end, and pass the end on: the other direction may go on for long."""
    while chunk := await reader.read(_CHUNK):
        count(len(chunk))
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: str, text: str) -> None:
    """Answer, then let the client finish: what it still sends is read and dropped for a moment."""
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode("ascii") + b"Connection: close\r\n\r\n" + body)
    writer.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while await reader.read(_CHUNK):
                pass


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close at the end: after the last bytes have left when all went well; else at once, as a reset.

    A body that was cut short must not look like one that has ended.
    """
    try:
        yield
        writer.close()
        async with asyncio.timeout(_LINGER_SECONDS):
            await writer.wait_closed()
    except BaseException:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
