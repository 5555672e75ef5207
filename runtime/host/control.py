"""The control socket: how another process asks the holder of the store for something (ruling R35).

A Unix socket in the private state folder carries JSON lines: one request per connection, then any number of
reply lines, then one that says how it ended::

    → {"verb": "cancel", …}
    ← {"item": {…}}            what the handler yields
    ← {"beat": true}           nothing to say, still here
    ← {"end": true}            or {"error": {"kind", "code", "message", "where", "hint"}}

Both sides check that the peer is the same user, and neither ever waits without a limit: a silent holder is
``STORE_UNRESPONSIVE`` (exit 8), a client that sends garbage, reads slowly or goes away costs the server one
connection. A client that leaves ends its *stream*, never the work: handlers start work under the host's
ownership and only report on it here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.kernel.errors import ContractError, QuarterdeckError, Refused, StorageError
from runtime.storage.layout import FILE_MODE, MAX_SOCKET_PATH
from runtime.storage.lock import StoreLock

Message = dict[str, Any]
Handler = Callable[[Message], AsyncGenerator[Message, None]]

#: ``struct ucred``: pid, uid, gid.
_UCRED: Final = struct.Struct("3i")
#: How much of what nobody asked for is thrown away at a time.
_UNREAD: Final = 65_536
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLimits:
    """Everything bounded about the conversation; tests make the times short."""

    request_bytes: int = 1024 * 1024
    reply_bytes: int = 16 * 1024 * 1024
    """The longest single reply line a client accepts: a page of entries, not a journal."""
    clients: int = 32
    request_seconds: float = 5.0
    """A client has sent its request by then."""
    send_seconds: float = 10.0
    """A client has taken a reply by then."""
    beat_seconds: float = 5.0
    silence_seconds: float = 15.0
    """Three missed beats: the holder hangs."""
    connect_seconds: float = 3.0


class _ClientGone(Exception):
    """The client left, or does not take what it is sent."""


class ControlServer:
    """Listens while this process holds the store."""

    def __init__(self, path: Path, handler: Handler, *, limits: ControlLimits | None = None) -> None:
        """``handler`` is called once per request and yields replies; it is closed when the client leaves.
        A `QuarterdeckError` it raises reaches the client with its code, message and hint."""
        self._path = path
        self._handler = handler
        self._limits = limits or ControlLimits()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[Any]] = set()

    async def start(self, lock: StoreLock) -> None:
        """Bind and listen. ``lock`` must be held: only then is a socket file found here certainly a stale one."""
        if not lock.held:
            raise ContractError("CONTROL_NOT_HOLDER", "the control socket belongs to the holder of the store")
        listener = _bind(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=self._limits.request_bytes)

    async def close(self) -> None:
        """Stop listening, end every conversation, remove the socket file. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._path.unlink(missing_ok=True)
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(set(self._clients))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise ContractError("CONTROL_NO_TASK", "a conversation runs in a task of its own")
        self._clients.add(task)
        try:
            await self._converse(reader, writer)
            await _part(reader, writer, self._limits.send_seconds)
        except _ClientGone:
            _LOG.debug("a control client went away")
        except asyncio.CancelledError:
            _LOG.debug("a control conversation ended with the server")
        finally:
            writer.transport.abort()
            self._clients.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._admit(writer)
            request = await self._read_request(reader)
            await self._answer(request, reader, writer)
        except _ClientGone:
            raise
        except QuarterdeckError as error:
            await self._send(writer, {"error": _describe(error)})
        except Exception:  # noqa: BLE001 - a fault in a handler costs one request, not the holder
            _LOG.exception("a control request failed")
            fault = Refused("CONTROL_FAILED", "the holder could not carry the request out", hint="see its log")
            await self._send(writer, {"error": _describe(fault)})

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        _require_same_user(writer.get_extra_info("socket"))
        if len(self._clients) > self._limits.clients:
            raise Refused("CONTROL_BUSY", f"the holder already serves {self._limits.clients} clients", hint="try again")

    async def _read_request(self, reader: asyncio.StreamReader) -> Message:
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                line = await reader.readline()
        except ValueError:
            raise Refused(
                "CONTROL_REQUEST_SIZE", f"a request is longer than {self._limits.request_bytes} bytes"
            ) from None
        except TimeoutError:
            raise Refused("CONTROL_REQUEST_TIMEOUT", "no complete request arrived in time") from None
        except OSError as error:
            raise _ClientGone from error
        if not line:
            raise _ClientGone
        return _parse(line)

    async def _answer(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward what the handler yields, with beats between, until it ends or the client leaves."""
        stream = self._handler(request)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while (item := await self._next(stream, gone, writer)) is not None:
                await self._send(writer, {"item": item})
            if not gone.done():
                await self._send(writer, {"end": True})
        finally:
            await _stop(gone)
            await stream.aclose()

    async def _next(
        self,
        stream: AsyncGenerator[Message, None],
        gone: asyncio.Future[bytes],
        writer: asyncio.StreamWriter,
    ) -> Message | None:
        """The handler's next reply; None when it has ended or nobody listens any more."""
        pending = asyncio.ensure_future(_following(stream))
        either: set[asyncio.Future[Any]] = {pending, gone}
        try:
            while True:
                done, _ = await asyncio.wait(
                    either, timeout=self._limits.beat_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if gone in done:  # end of file, or bytes after the one request a connection may carry
                    return None
                if pending in done:
                    return pending.result()
                await self._send(writer, {"beat": True})
        finally:
            await _stop(pending)

    async def _send(self, writer: asyncio.StreamWriter, message: Message) -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                writer.write(_line(message))
                await writer.drain()
        except (OSError, TimeoutError) as error:
            raise _ClientGone from error


class ControlClient:
    """Asks the holder whose socket is at ``path``."""

    def __init__(self, path: Path, *, limits: ControlLimits | None = None) -> None:
        self._path = path
        self._limits = limits or ControlLimits()

    async def call(self, request: Mapping[str, Any]) -> AsyncGenerator[Message, None]:
        """Send ``request`` and yield the replies as they come; close the generator to stop listening.

        Raises `Refused` or `StorageError` as the holder did, ``STORE_UNRESPONSIVE`` when it cannot be reached,
        falls silent or breaks off.
        """
        reader, writer = await self._connect()
        try:
            await self._send(writer, request)
            while (reply := await self._receive(reader)) is not None:
                yield reply
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=self._limits.reply_bytes)
        except (OSError, TimeoutError) as error:
            raise self._unresponsive(f"cannot be reached: {str(error) or 'no answer'}") from error
        try:
            _require_same_user(writer.get_extra_info("socket"))
        except Refused:
            writer.transport.abort()
            raise
        return reader, writer

    async def _send(self, writer: asyncio.StreamWriter, request: Mapping[str, Any]) -> None:
        line = _line(dict(request))
        if len(line) > self._limits.request_bytes:
            raise Refused("CONTROL_REQUEST_SIZE", f"a request is longer than {self._limits.request_bytes} bytes")
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                writer.write(line)
                await writer.drain()
        except TimeoutError as error:
            raise self._unresponsive("does not take the request") from error
        except OSError:
            # The holder hung up early; why is in the answer it left, or reading reports that there is none.
            _LOG.debug("the holder closed the connection before the whole request was sent")

    async def _receive(self, reader: asyncio.StreamReader) -> Message | None:
        """The next reply; None at the proper end."""
        while True:
            message = await self._read(reader)
            if "error" in message:
                raise _rebuild(message["error"])
            if "end" in message:
                return None
            if "item" in message:
                item: Message = message["item"]
                return item

    async def _read(self, reader: asyncio.StreamReader) -> Message:
        try:
            async with asyncio.timeout(self._limits.silence_seconds):
                line = await reader.readline()
        except TimeoutError as error:
            raise self._unresponsive(f"has been silent for {self._limits.silence_seconds:g} s") from error
        except (OSError, ValueError) as error:
            raise self._unresponsive(f"broke off: {error}") from error
        if not line.endswith(b"\n"):
            raise self._unresponsive("broke off in the middle of its answer")
        return _parse(line)

    def _unresponsive(self, what: str) -> StorageError:
        return StorageError(
            "STORE_UNRESPONSIVE",
            f"the process that holds the store {what}",
            where=str(self._path),
            hint="look at that process; when it hangs, end it and start again: its runs are resumable",
        )


def _bind(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600, replacing a stale socket file but nothing else."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise StorageError("CONTROL_PATH", f"a socket path may have {MAX_SOCKET_PATH} bytes", where=str(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(FILE_MODE)
    except OSError as error:
        listener.close()
        raise StorageError(
            "CONTROL_PATH",
            f"cannot listen for commands: {error}",
            where=str(path),
            hint="check the folder's permissions",
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StorageError(
            "CONTROL_PATH",
            "something that is not a socket is in the way of the control socket",
            where=str(path),
            hint="move it away",
        )
    path.unlink()


def _require_same_user(connection: socket.socket) -> None:
    """Refuse a peer of another user; where the kernel cannot say, the 0700 folder has to do."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    if uid != os.geteuid():
        raise Refused("CONTROL_FOREIGN", f"the peer runs as user id {uid}, this process as {os.geteuid()}")


async def _following(stream: AsyncIterator[Message]) -> Message | None:
    try:
        return await anext(stream)
    except StopAsyncIteration:
        return None


async def _stop(task: asyncio.Future[Any]) -> None:
    """Cancel and wait; whatever it had to say is of no interest any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def _part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float) -> None:
    """Let the client take the answer and hang up first: closing over unread bytes would destroy the answer."""
    try:
        async with asyncio.timeout(limit):
            writer.write_eof()
            while await reader.read(_UNREAD):
                _LOG.debug("a control client sent more than its one request")
    except (OSError, TimeoutError) as error:
        raise _ClientGone from error


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def _parse(line: bytes) -> Message:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    raise Refused("CONTROL_BAD_MESSAGE", "one JSON object on one line is expected")


def _describe(error: QuarterdeckError) -> Message:
    kind = "storage" if isinstance(error, StorageError) else "refused"
    return {
        "kind": kind,
        "code": error.code,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }


def _rebuild(described: Mapping[str, Any]) -> QuarterdeckError:
    kind = StorageError if described.get("kind") == "storage" else Refused
    return kind(
        str(described.get("code")),
        str(described.get("message")),
        where=described.get("where"),
        hint=described.get("hint"),
    )
