"""Packs in confined worker processes: the `PackLink` of packs that are trusted, but not with this process (ruling R43).

A worker serves one attempt at a time and is used again by the next, so a pack has as many as the run has attempts of it
going at once, and stopping an attempt ends nobody else's. Whatever goes wrong ends the worker with its whole tree: a
deadline, a cancelled run, an answer that is no frame, its own death. The next attempt gets a fresh one. Its network is
empty, it reads the pack and our own installation, and it writes to private scratch only; what it wants from the world it
asks its attempt's `PackHost` for, so envelope, journal and fence hold as for any block.
"""

from __future__ import annotations

import asyncio
import codecs
import math
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import runtime
from runtime.blocks.errors import BlockError, BlockInternalError, BlockRuntimeError, engine_error
from runtime.blocks.packs.frames import payload_of, read_error, value_frame
from runtime.blocks.packs.links import PackHost
from runtime.blocks.packs.local import bad_frame
from runtime.blocks.packs.pipe import MAX_FROM_WORKER, Message, Verb, encode, joined, read_service_call, receive
from runtime.blocks.sanitise import clean_text
from runtime.blocks.wire import FrameError, FrameType, unframe
from runtime.governance.environment import rebuilt
from runtime.kernel.errors import Halted, Refused
from runtime.kernel.outcomes import block_code
from runtime.kernel.ports import ProcessResult, ProcessRunner, ProcessSpec

#: A worker imports its pack within this time, in seconds; a loaded machine takes one.
START_SECONDS: Final = 30.0
#: A worker that closed its end of the line has ended, or is made to.
_END_SECONDS: Final = 1.0
#: Calls of one attempt to its host that overlap.
MAX_CALLS: Final = 64
#: Kept of each output stream, at both ends; told when a worker dies.
_KEPT_BYTES: Final = 2048
#: Frames that end an answer, and where a frame has its type.
_LAST: Final = frozenset({FrameType.ONCE, FrameType.MULTIPLE, FrameType.STREAM_END, FrameType.ERROR})
_TYPE_AT: Final = 4
_UNCONFINED: Final = value_frame(
    FrameType.VALUE,
    {"kind": "log", "level": "warn", "event": "pack_unconfined", "value": "nothing but its process tree is held"},
)
_SOURCES: Final = Path(runtime.__file__).parent
#: Our own package is found wherever this process has it from; nothing else is added to the search.
_START: Final = "import sys; sys.path.append(sys.argv.pop(1)); from runtime.blocks.packs.worker import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlace:
    """A pack to be run: its name, its folder, and the digest of the content that is trusted."""

    name: str
    folder: Path
    digest: str


class ProcessLink:
    """Runs one pack for one run; implements `runtime.blocks.packs.links.PackLink`. `close` it at the run's end."""

    def __init__(self, place: PackPlace, runner: ProcessRunner) -> None:
        self._place = place
        self._runner = runner
        self._requests: dict[int, bytes] = {}
        self._last = 0
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._closed = False

    @property
    def folder(self) -> Path:
        return self._place.folder

    def create_now(self, request: bytes) -> tuple[int, bytes] | None:
        """A confined pack is asked when its first attempt begins; nothing foreign runs before."""
        return None

    async def create(self, request: bytes) -> tuple[int, bytes]:
        async with self._worker(None) as worker:
            self._last += 1
            handle = self._last
            reply = await worker.ask(Verb.CREATE, handle, request)
            if unframe(reply)[0] is FrameType.ERROR:
                return 0, reply
            worker.made.add(handle)
            self._requests[handle] = request
            return handle, reply

    async def validate(self, handle: int, value: bytes, context: bytes) -> bytes:
        async with self._worker(None) as worker:
            await self._know(worker, handle)
            return await worker.ask(Verb.VALIDATE, handle, joined(value, context))

    async def run(self, handle: int, value: bytes, context: bytes, host: PackHost) -> AsyncIterator[bytes]:
        async with self._worker(host) as worker:
            if self._runner.tier == "D":
                host.log(_UNCONFINED)
            await self._know(worker, handle)
            last: bytes | None = None
            async with aclosing(worker.converse(Verb.RUN, handle, joined(value, context), host)) as replies:
                async for reply in replies:
                    if last is not None:
                        raise bad_frame("it goes on after its last frame")
                    if FrameType(reply[_TYPE_AT]) in _LAST:
                        last = reply  # whoever has it needs no more, and closes: the worker is to be free by then
                    else:
                        yield reply
            if last is None:
                raise bad_frame("it ended too early")
        yield last

    def drop(self, handle: int) -> None:
        """Workers forget it when they are used next."""
        self._requests.pop(handle, None)

    async def check(self) -> None:
        """Start a worker, so that the pack's code is imported and compared with its manifest. Raises `BlockError`."""
        async with self._worker(None):
            return

    async def close(self) -> None:
        """End every worker with its tree; nothing is started after that."""
        self._closed = True
        await asyncio.gather(*(worker.end() for worker in self._workers))
        self._workers.clear()
        self._idle.clear()

    # -- workers ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _worker(self, host: PackHost | None) -> AsyncIterator[_Worker]:
        """A worker for one call. It is used again only if nothing went wrong."""
        if self._closed:
            raise _fault(self._place, "its run is over")
        worker = self._idle.pop() if self._idle else self._fresh()
        worker.host = host
        try:
            await worker.begin()
            yield worker
        except BaseException:
            self._workers.discard(worker)
            await worker.end()
            raise
        worker.host = None
        self._idle.append(worker)

    def _fresh(self) -> _Worker:
        worker = _Worker(self._place, self._runner)
        self._workers.add(worker)
        return worker

    async def _know(self, worker: _Worker, handle: int) -> None:
        """Make the worker's blocks those that are wanted: forget dropped ones, create the one that is to work."""
        for old in [item for item in worker.made if item not in self._requests]:
            worker.made.discard(old)
            await worker.send(Verb.DROP, old)
        if handle in worker.made:
            return
        request = self._requests.get(handle)
        if request is None:
            raise _fault(self._place, "the block was dropped")
        if unframe(await worker.ask(Verb.CREATE, handle, request))[0] is FrameType.ERROR:
            raise _fault(self._place, "it refused config that it took before")
        worker.made.add(handle)


class _Worker:
    """One process. `begin` it, call it, `end` it."""

    def __init__(self, place: PackPlace, runner: ProcessRunner) -> None:
        self.made: set[int] = set()
        self.host: PackHost | None = None
        self._place = place
        self._begun = False
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        self._ours, theirs = socket.socketpair()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._process = asyncio.create_task(self._live(runner, theirs), name=f"pack-{place.name}")

    async def _live(self, runner: ProcessRunner, theirs: socket.socket) -> ProcessResult:
        """See the process through. Our copy of its end closes with it, so that reading meets an end then."""
        folder = self._place.folder
        with theirs:
            return await runner.run(
                ProcessSpec(
                    argv=(
                        sys.executable,
                        "-I",
                        "-B",
                        "-u",
                        "-c",
                        _START,
                        str(_SOURCES.parent),
                        str(folder),
                        self._place.digest,
                    ),
                    cwd=folder,
                    root=folder,
                    env=rebuilt(),
                    readable=(_SOURCES,),
                    channel=theirs.fileno(),
                    # It lives as long as its run; each call has the deadline of its attempt.
                    timeout=math.inf,
                    output_cap=_KEPT_BYTES,
                ),
                self._print,
            )

    async def begin(self) -> None:
        """Wait until the pack is imported. Raises `BlockError` with the ``plugin.*`` code it could not be for."""
        if self._begun:
            return
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await self._next()
        except TimeoutError:
            raise _fault(self._place, f"it was not ready within {START_SECONDS:g} s") from None
        if ready.verb is not Verb.READY:
            raise bad_frame(f"it began with {ready.verb.name}")
        if self._checked(ready)[0] is FrameType.ERROR:
            raise self._error(ready)
        self._begun = True

    async def end(self) -> None:
        """Kill the process and all below it, and return when they have gone."""
        self._process.cancel()
        await asyncio.wait({self._process})
        if not self._process.cancelled():
            self._process.exception()  # whoever talked to it has been told
        if self._writer is not None:
            self._writer.close()
        else:
            self._ours.close()

    # -- talking ------------------------------------------------------------------------------------------------

    async def ask(self, verb: Verb, number: int, body: bytes) -> bytes:
        """One call without a host, answered with one frame."""
        found: bytes | None = None
        async with aclosing(self.converse(verb, number, body, None)) as replies:
            async for reply in replies:
                if found is not None:
                    raise bad_frame(f"it answered {verb.name} more than once")
                found = reply
        if found is None:
            raise bad_frame(f"it did not answer {verb.name}")
        return found

    async def send(self, verb: Verb, number: int = 0, body: bytes = b"") -> None:
        assert self._writer is not None, "begin comes first"
        try:
            self._writer.write(encode(verb, number, body))
            await self._writer.drain()
        except ConnectionError:
            raise await self._gone() from None

    async def converse(
        self, verb: Verb, number: int, body: bytes, host: PackHost | None
    ) -> AsyncGenerator[bytes, None]:
        """One call: the frames of its answer, while what it asks of ``host`` is served beside.

        Raises what the host raised, `FrameError`, and `BlockError` ``plugin.fault``.
        """
        await self.send(verb, number, body)
        calls: set[asyncio.Task[None]] = set()
        reading: asyncio.Task[Message] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(self._next())
                await asyncio.wait({reading, *calls}, return_when=asyncio.FIRST_COMPLETED)
                calls = _still_going(calls)
                if not reading.done():
                    continue
                message, reading = reading.result(), None
                if message.verb is Verb.DONE:
                    return
                if message.verb is Verb.REPLY:
                    self._checked(message)
                    yield message.body
                else:
                    calls |= self._serve(message, host, len(calls))
        finally:
            left = {*calls, *({reading} if reading is not None else ())}
            for task in left:
                task.cancel()
            # What they failed with meanwhile is nobody's any more: this call has its end already.
            await asyncio.gather(*left, return_exceptions=True)

    def _serve(self, message: Message, host: PackHost | None, going: int) -> set[asyncio.Task[None]]:
        """What a worker says besides answering."""
        if message.verb is Verb.FAULT:
            raise self._fault(message)
        if message.verb is Verb.LOG:
            if host is not None:
                host.log(message.body)
            return set()
        if host is None or going >= MAX_CALLS or message.verb not in (Verb.SERVICE, Verb.WAIT):
            raise bad_frame(f"it said {message.verb.name}, which nobody expected now")
        return {asyncio.create_task(self._answer(message.number, _asked(message, host)))}

    async def _answer(self, number: int, answer: Awaitable[bytes]) -> None:
        await self.send(Verb.ANSWER, number, await answer)

    async def _next(self) -> Message:
        try:
            message = await receive(self._reader, MAX_FROM_WORKER)
        except FrameError as error:
            raise bad_frame(error.message) from error
        if message is None:
            raise await self._gone()
        return message

    def _checked(self, message: Message) -> tuple[FrameType, bytes]:
        try:
            return unframe(message.body)
        except FrameError as error:
            raise bad_frame(error.message) from error

    # -- what went wrong ------------------------------------------------------------------------------------------

    def _fault(self, message: Message) -> BlockError:
        return self._error(message)

    def _error(self, message: Message) -> BlockError:
        """What an ERROR frame of the worker's own says."""
        try:
            error, _ = read_error(payload_of(message.body, FrameType.ERROR)[1])
        except (BlockError, ValueError) as malformed:
            return bad_frame(str(malformed))
        return error if isinstance(error, BlockError) else bad_frame("it skipped where nothing can be skipped")

    async def _gone(self) -> BlockError:
        """Why nobody is at the other end any more."""
        await asyncio.wait({self._process}, timeout=_END_SECONDS)
        if not self._process.done():
            return _fault(self._place, "it closed its line")
        if self._process.cancelled():
            return _fault(self._place, "its run is over")
        error = self._process.exception()
        if isinstance(error, Refused):
            hint = f" ({error.hint})" if error.hint else ""
            text = f"pack {self._place.name} cannot be run: {error.message}{hint}"
            return BlockRuntimeError(block_code(error.code), text, retry_disposition="never", effects="none")
        if error is not None:
            raise error
        result = self._process.result()
        words = clean_text(result.stderr.decode("utf-8", "replace").strip()[-_KEPT_BYTES:])
        details = {"exit_code": result.exit_code, "printed": words, "notes": list(result.notes)}
        why = words.splitlines()[-1] if words else "; ".join(result.notes) or "it said nothing"
        return _fault(self._place, f"it ended with exit code {result.exit_code}: {why}", details)

    # -- what it prints -------------------------------------------------------------------------------------------

    def _print(self, stream: str, chunk: bytes) -> None:
        """Show what was printed with the attempt that is worked on, as telemetry, and piece by piece as it came: a flood
        of lines must not cost the loop a step for each."""
        text = self._decoders[stream].decode(chunk).rstrip("\n")
        if self.host is None or not text:
            return
        try:
            self.host.log(value_frame(FrameType.VALUE, {"kind": "offer", "value": text}))
        except Halted:
            return  # the attempt meets that by itself


def _asked(message: Message, host: PackHost) -> Awaitable[bytes]:
    if message.verb is Verb.WAIT:
        return host.wait(message.body)
    try:
        return host.service(*read_service_call(message.body))
    except FrameError as error:
        raise bad_frame(error.message) from error


def _still_going(calls: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that go on; raises what one of the others raised."""
    for call in calls:
        if call.done():
            call.result()
    return {call for call in calls if not call.done()}


def _fault(place: PackPlace, what: str, details: dict[str, object] | None = None) -> BlockError:
    return engine_error(BlockInternalError, "plugin.fault", f"the pack {place.name} failed: {what}", details=details)
