"""Packs in confined worker processes: the `PackLink` of packs that are trusted, but not with this process (ruling R43).

A worker serves one attempt at a time and is used again by the next, so a pack has as many as the run has attempts of it
going at once, and stopping an attempt ends nobody else's. Whatever goes wrong ends the worker with its whole tree: a
deadline, a cancelled run, an answer that is no frame, its own death. The next attempt gets a fresh one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from runtime.blocks.packs.frames import value_frame
from runtime.blocks.packs.links import PackHost
from runtime.blocks.packs.local import bad_frame
from runtime.blocks.packs.pipe import Verb, joined
from runtime.blocks.wire import FrameType, unframe
from runtime.execution.pack_worker import PackPlace, PackWorker, fault_of
from runtime.kernel.ports import ProcessRunner

#: Frames that end an answer, and where a frame has its type.
_LAST: Final = frozenset({FrameType.ONCE, FrameType.MULTIPLE, FrameType.STREAM_END, FrameType.ERROR})
_TYPE_AT: Final = 4
_UNCONFINED: Final = value_frame(
    FrameType.VALUE,
    {"kind": "log", "level": "warn", "event": "pack_unconfined", "value": "nothing but its process tree is held"},
)


class ProcessLink:
    """Runs one pack for one run; implements `runtime.blocks.packs.links.PackLink`. `close` it at the run's end."""

    def __init__(self, place: PackPlace, runner: ProcessRunner) -> None:
        self._place = place
        self._runner = runner
        self._requests: dict[int, bytes] = {}
        self._last = 0
        self._idle: list[PackWorker] = []
        self._workers: set[PackWorker] = set()
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
    async def _worker(self, host: PackHost | None) -> AsyncIterator[PackWorker]:
        """A worker for one call. It is used again only if nothing went wrong."""
        if self._closed:
            raise fault_of(self._place, "its run is over")
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

    def _fresh(self) -> PackWorker:
        worker = PackWorker(self._place, self._runner)
        self._workers.add(worker)
        return worker

    async def _know(self, worker: PackWorker, handle: int) -> None:
        """Make the worker's blocks those that are wanted: forget dropped ones, create the one that is to work."""
        for old in [item for item in worker.made if item not in self._requests]:
            worker.made.discard(old)
            await worker.send(Verb.DROP, old)
        if handle in worker.made:
            return
        request = self._requests.get(handle)
        if request is None:
            raise fault_of(self._place, "the block was dropped")
        if unframe(await worker.ask(Verb.CREATE, handle, request))[0] is FrameType.ERROR:
            raise fault_of(self._place, "it refused config that it took before")
        worker.made.add(handle)
