"""Hearing that something moved below some folders: watchfiles on a thread of its own, one batch at a time.

A notice only says "look": what changed is found by looking. Folders are listened at, never single files, which
editors replace; that one of them was replaced itself is noticed by its identity, twice a second. Setting up takes as
long as there are folders and would hold an event loop up, which is why this is not the library's async form.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from runtime.host.watch_files import Identity, identity
from runtime.kernel.errors import Refused
from runtime.missions.watch_rules import Heard

#: Notices are grouped until nothing came for a step, and handed on after `_GROUP_MS` at the latest.
_STEP_MS: Final = 50
_GROUP_MS: Final = 200
_PULSE_MS: Final = 500
#: Setting up a large tree takes seconds; a file system that takes longer does not answer.
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
_LOG: Final = logging.getLogger(__name__)

Sift = Callable[[Sequence[str]], Heard]


class _Stop:
    """Asked by the library between its steps, which tells that it listens by then."""

    def __init__(self, listening: Callable[[], None]) -> None:
        self._listening = listening
        self._asked = False
        self._stop = threading.Event()

    def set(self) -> None:
        self._stop.set()

    def is_set(self) -> bool:
        if not self._asked:
            self._asked = True
            self._listening()
        return self._stop.is_set()


class Ears:
    """Listens at some folders until closed. ``heard`` and ``lost`` are called on the loop that started it."""

    def __init__(
        self,
        folders: Mapping[Path, Identity],
        *,
        deep: bool,
        sift: Sift,
        heard: Callable[[Heard], None],
        lost: Callable[[str | None], None],
    ) -> None:
        """``sift`` sorts a batch of absolute paths, on the thread. ``lost`` is told once why it ended, or None when
        a folder is gone or another one now."""
        self._folders = dict(folders)
        self._deep = deep
        self._sift = sift
        self._heard = heard
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._stop = _Stop(lambda: self._tell(self._listening))
        self._thread = threading.Thread(target=self._serve, name="quarterdeck-watch", daemon=True)

    async def start(self) -> None:
        """Return when every later change is heard. Raises `Refused` ``WATCH_FAILED``."""
        self._thread.start()
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self._stop.set()
            raise _failed(f"the file system did not answer within {START_SECONDS:g} s") from None

    async def close(self) -> None:
        """Stop and wait for the thread. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # whoever waited has heard it

    # -- on the thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        from watchfiles import watch  # it costs every start of a command, and few commands watch

        try:
            batches = watch(
                *self._folders,
                watch_filter=None,
                debounce=_GROUP_MS,
                step=_STEP_MS,
                rust_timeout=_PULSE_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
                recursive=self._deep,
                ignore_permission_denied=True,
            )
            for batch in batches:
                if batch:
                    found = self._sift(sorted({path for _, path in batch}))
                    if found.look or found.excluded:
                        self._tell(partial(self._heard, found))
                if any(identity(path) != known for path, known in self._folders.items()):
                    self._tell(lambda: self._end(None))
                    return
        except Exception as error:  # noqa: BLE001 - whatever ends the notices, the watch must say so
            told = f"{type(error).__name__}: {error}"
            self._tell(lambda: self._end(told))

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            _LOG.debug("the loop of a watch is closed")

    # -- on the loop --------------------------------------------------------------------------------------------

    def _listening(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _end(self, why: str | None) -> None:
        if not self._ready.done():
            self._ready.set_exception(_failed(why or "the folder vanished"))
        elif not self._stop.is_set():
            self._lost(why)


def _failed(why: str) -> Refused:
    return Refused(
        "WATCH_FAILED",
        f"the file system's notices cannot be had: {why}",
        hint="narrow `watch.paths`, or raise fs.inotify.max_user_watches; then rearm",
    )
