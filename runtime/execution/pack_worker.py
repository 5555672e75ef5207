"""One worker process of a pack: started confined, spoken to in messages, and ended with everything it started.

Its network is empty, it reads the pack and our own installation, and it writes to private scratch only; what it wants from
the world it asks its attempt's `PackHost` for, so envelope, journal and fence hold as for any block. What it prints goes
no further than the attempt's telemetry.
"""

from __future__ import annotations

import asyncio
import codecs
import math
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import runtime
from runtime.blocks.errors import BlockError, BlockInternalError, BlockRuntimeError, engine_error
from runtime.blocks.packs.frames import payload_of, read_error, value_frame
from runtime.blocks.packs.links import PackHost
from runtime.blocks.packs.local import bad_frame
from runtime.blocks.packs.pipe import MAX_FROM_WORKER, Message, Verb, encode, read_service_call, receive
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
_SOURCES: Final = Path(runtime.__file__).parent
#: Our own package is found wherever this process has it from; nothing else is added to the search.
_START: Final = "import sys; sys.path.append(sys.argv.pop(1)); from runtime.blocks.packs.worker import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlace:
    """A pack to be run: its name, its folder, and the digest of the content that is trusted."""

    name: str
    folder: Path
    digest: str


class PackWorker:
    """One process. `begin` it, call it, `end` it."""

    def __init__(self, place: PackPlace, runner: ProcessRunner) -> None:
        self.made: set[int] = set()
        self.host: PackHost | None = None
        self._place = place
        self._begun = False
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        self._ours, self._theirs = socket.socketpair()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._process = asyncio.create_task(self._live(runner), name=f"pack-{place.name}")

    async def _live(self, runner: ProcessRunner) -> ProcessResult:
        """See the process through. Our copy of its end closes with it, so that reading meets an end then."""
        folder = self._place.folder
        with self._theirs:
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
                    channel=self._theirs.fileno(),
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
            raise fault_of(self._place, f"it was not ready within {START_SECONDS:g} s") from None
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
        self._theirs.close()  # a task that never began has not
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
            return fault_of(self._place, "it closed its line")
        if self._process.cancelled():
            return fault_of(self._place, "its run is over")
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
        return fault_of(self._place, f"it ended with exit code {result.exit_code}: {why}", details)

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


def fault_of(place: PackPlace, what: str, details: dict[str, object] | None = None) -> BlockError:
    return engine_error(BlockInternalError, "plugin.fault", f"the pack {place.name} failed: {what}", details=details)
