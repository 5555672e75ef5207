"""Where a pack may live: the two protocols the runtime and a pack talk through, in frames only (blocks spec §20.5).

::

    runtime  ── PackLink ──▶  pack        create, validate, run, drop
    runtime  ◀── PackHost ──  pack        log, service, wait, cancelled

`PackLink` is what a block made from a manifest holds: `LocalLink` (in `runtime.blocks.packs.local`) calls a pack in
this process, the execution room has one that talks to a confined worker. `PackHost` is the only door of a running
block to the world; whoever carries a link carries it too. What the frames hold is said in `runtime.blocks.packs.frames`.

A reply is always a frame. A block's own failure is an ERROR frame, never an exception; a link raises

* `BlockInternalError` ``plugin.fault`` when the pack raised instead of answering, or its process died;
* `BlockInternalError` ``plugin.bad_frame``, never to be tried again, for an answer that is not bytes;
* whatever `PackHost` raised that is control flow (`runtime.kernel.errors.Halted`, cancellation): the call is abandoned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class PackHost(Protocol):
    """What one attempt offers to the pack that works for it."""

    def log(self, entry: bytes) -> None:
        """Take a VALUE frame without an answer; never waits. Only on the loop.

        Its MAP is one of ``{"kind": "log", "level", "event", "value"}``, ``{"kind": "annotate", "key", "value"}``,
        ``{"kind": "offer", "value"}`` (a telemetry item) and ``{"kind": "abandoned"}`` (a thread ended too late).
        Anything else is dropped.
        """
        ...

    async def service(self, name: str, method: str, args: bytes) -> bytes:
        """Call a service: ``args`` is a VALUE frame holding a MAP; the answer is a VALUE or an ERROR frame.

        Always there: ``operations.operate`` ``{type, params, key, compensation}`` → its output MAP,
        ``stream.send`` ``{value}`` → null, ``clock.sleep`` ``{seconds}`` → the time then, RFC 3339. Besides them the
        services the CONTEXT frame lists. Anything unknown is answered with ``runtime.unknown_service``.
        Raises `runtime.kernel.errors.Halted`.
        """
        ...

    async def wait(self, question: bytes) -> bytes:
        """Ask the operator: a VALUE frame of ``{prompt, kinds, choices}`` and maybe ``subject`` → a VALUE or an ERROR frame.

        Raises `runtime.kernel.errors.Halted`.
        """
        ...

    def cancelled(self) -> bool:
        """True once the attempt is over."""
        ...


class PackLink(Protocol):
    """One loaded pack, wherever it runs.

    A handle stays good for the life of its link: a link that has to start its worker again creates again, too.
    """

    def create_now(self, request: bytes) -> tuple[int, bytes] | None:
        """`create` for packs of this process, at construction. None: this pack must be asked with `create`."""
        ...

    async def create(self, request: bytes) -> tuple[int, bytes]:
        """Build a block from a CREATE frame: its handle (positive) and an OK frame, or 0 and an ERROR frame."""
        ...

    async def validate(self, handle: int, value: bytes, context: bytes) -> bytes:
        """Ask the author's ``validate``: an OK or an ERROR frame. ``value`` VALUE, ``context`` CONTEXT."""
        ...

    def run(self, handle: int, value: bytes, context: bytes, host: PackHost) -> AsyncIterator[bytes]:
        """Run once: one ONCE, MULTIPLE or ERROR frame; or OK, then STREAM_ITEM frames, then STREAM_END or ERROR.

        Closing the iterator, or cancelling the task that advances it, ends the work.
        """
        ...

    def drop(self, handle: int) -> None:
        """Forget a block. One way; never raises; may be called from any thread, also after the link has ended."""
        ...


async def close(stream: AsyncIterator[object]) -> None:
    """End a stream early; iterators without a way to say so are left to themselves."""
    end = getattr(stream, "aclose", None)
    if end is not None:
        await end()
