"""A pack in a process of its own: ``python -m runtime.blocks.packs.worker FOLDER DIGEST``, spoken to over standard input.

Standard input is one end of a socket pair; `runtime.execution.pack_process` holds the other. The pack is imported
under a private name and served through the same `LocalLink` as a pack of the host's own process. Of the host it
reaches only what `PackHost` offers, by messages. The process confines nothing itself: whoever starts it does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from runtime.blocks.errors import BlockError
from runtime.blocks.packs.folders import read_folder
from runtime.blocks.packs.frames import OK, error_frame
from runtime.blocks.packs.imports import import_symbol, live
from runtime.blocks.packs.links import PackLink
from runtime.blocks.packs.local import LocalLink, fault
from runtime.blocks.packs.manifest import PackError
from runtime.blocks.packs.pipe import MAX_TO_WORKER, Message, Verb, encode, parted, receive, service_call

_USAGE: Final = (
    "usage: python -m runtime.blocks.packs.worker FOLDER DIGEST, with one end of a socket pair as standard input"
)
_EXIT_USAGE: Final = 2


class _Line:
    """Our end of the socket; also the `PackHost` of whatever is being run."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._calls = 0

    async def say(self, verb: Verb, number: int = 0, body: bytes = b"") -> None:
        """Send and wait for room."""
        self._writer.write(encode(verb, number, body))
        await self._writer.drain()

    def answer(self, number: int, body: bytes) -> None:
        """What the host says to a call; one nobody waits for any more is dropped."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(body)

    def log(self, entry: bytes) -> None:
        self._writer.write(encode(Verb.LOG, 0, entry))

    async def service(self, name: str, method: str, args: bytes) -> bytes:
        return await self._call(Verb.SERVICE, service_call(name, method, args))

    async def wait(self, question: bytes) -> bytes:
        return await self._call(Verb.WAIT, question)

    def cancelled(self) -> bool:
        return False  # an attempt that is over takes this process along

    async def _call(self, verb: Verb, body: bytes) -> bytes:
        self._calls += 1
        number = self._calls
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self.say(verb, number, body)
            return await answer
        finally:
            self._waiting.pop(number, None)


class _Server:
    """Serves one pack, one call at a time. ``handles``: the host's number of a block → the pack's own."""

    def __init__(self, link: PackLink, line: _Line) -> None:
        self._link = link
        self._line = line
        self._handles: dict[int, int] = {}
        self._call: asyncio.Task[None] | None = None

    def take(self, message: Message) -> None:
        """One message of the host, in order."""
        if message.verb is Verb.ANSWER:
            self._line.answer(message.number, message.body)
        elif message.verb is Verb.DROP:
            self._link.drop(self._handles.pop(message.number))
        else:
            self._call = asyncio.create_task(self._serve(message))

    def close(self) -> None:
        """Stop what is being done: nobody waits for it any more."""
        if self._call is not None:
            self._call.cancel()

    async def _serve(self, message: Message) -> None:
        try:
            async for reply in self._replies(message):
                await self._line.say(Verb.REPLY, message.number, reply)
        except Exception as error:  # noqa: BLE001 - whatever a pack raises is told, and its process ended by who hears it
            told = error if isinstance(error, BlockError) else fault(error)
            await self._line.say(Verb.FAULT, message.number, error_frame(told))
        else:
            await self._line.say(Verb.DONE, message.number)

    async def _replies(self, message: Message) -> AsyncIterator[bytes]:
        if message.verb is Verb.CREATE:
            handle, reply = await self._link.create(message.body)
            if handle:
                self._handles[message.number] = handle
            yield reply
            return
        value, context = parted(message.body)
        handle = self._handles[message.number]
        if message.verb is Verb.VALIDATE:
            yield await self._link.validate(handle, value, context)
            return
        async for reply in self._link.run(handle, value, context, self._line):
            yield reply


async def serve(channel: socket.socket, folder: Path, digest: str) -> None:
    """Import the pack in ``folder``, if that is the one with ``digest``, and serve it until the other end closes."""
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    line = _Line(writer)
    try:
        link = LocalLink(_imported(folder, digest))
    except BlockError as error:
        await line.say(Verb.READY, 0, error_frame(error))
        writer.close()
        return
    server = _Server(link, line)
    try:
        await line.say(Verb.READY, 0, OK)
        while (message := await receive(reader, MAX_TO_WORKER)) is not None:
            server.take(message)
    finally:
        server.close()
        writer.close()


def _imported(folder: Path, digest: str) -> object:
    """The pack's object, from the very bytes that are trusted. Raises `PackError`."""
    found = read_folder(folder)
    if found.digest != digest:
        raise PackError("plugin.untrusted", f"{folder} has changed; nobody trusts it as it is now")
    about = found.read_manifest()
    return import_symbol(found, about.module, about.symbol, lambda pack: live(pack, found.manifest))


def take_channel() -> socket.socket:
    """The socket that is standard input, which is empty from now on: a pack that reads it meets its end."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


def main() -> None:
    """Serve the folder named on the command line."""
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_dir():
        print(_USAGE, file=sys.stderr)
        sys.exit(_EXIT_USAGE)
    asyncio.run(serve(take_channel(), Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
