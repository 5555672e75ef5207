"""The link to a pack of this process: its methods, with every fault of theirs told apart from a block's failure."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, cast

from runtime.blocks.errors import BlockInternalError, engine_error
from runtime.blocks.packs.links import PackHost, close
from runtime.blocks.sanitise import clean_text

_LOGGER: Final = logging.getLogger("runtime.blocks")


class LocalLink:
    """A `PackLink` to a pack object. The object stays loaded whatever its methods raise."""

    def __init__(self, pack: Any) -> None:
        self._pack = pack

    def create_now(self, request: bytes) -> tuple[int, bytes]:
        try:
            answer = self._pack.create(request)
        except Exception as error:
            raise fault(error) from error
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], int)):
            raise bad_frame(f"create must return a handle and a frame, not {type(answer).__name__}")
        return answer[0], _bytes(answer[1])

    async def create(self, request: bytes) -> tuple[int, bytes]:
        return self.create_now(request)

    async def validate(self, handle: int, value: bytes, context: bytes) -> bytes:
        try:
            return _bytes(self._pack.validate(handle, value, context))
        except BlockInternalError:
            raise
        except Exception as error:
            raise fault(error) from error

    async def run(self, handle: int, value: bytes, context: bytes, host: PackHost) -> AsyncIterator[bytes]:
        frames: object = None
        try:
            frames = self._pack.run(handle, value, context, host)
            if isinstance(frames, AsyncIterator):
                async for data in frames:
                    yield _bytes(data)
            else:
                yield _bytes(await cast("Awaitable[object]", frames))
        except BlockInternalError:
            raise
        except Exception as error:
            raise fault(error) from error
        finally:
            if isinstance(frames, AsyncIterator):
                await close(frames)

    def drop(self, handle: int) -> None:
        try:
            self._pack.drop(handle)
        except Exception as error:  # noqa: BLE001 - nobody waits for this answer
            _LOGGER.warning("a pack could not forget a block: %s", clean_text(f"{type(error).__name__}: {error}"))


def fault(error: BaseException) -> BlockInternalError:
    """What a block fails with when its pack raised instead of answering."""
    told = clean_text(f"{type(error).__name__}: {error}")
    details = {"error_class": type(error).__name__}
    return engine_error(BlockInternalError, "plugin.fault", f"the pack raised {told}", details=details)


def bad_frame(why: str, code: str = "plugin.bad_frame") -> BlockInternalError:
    """What a block fails with when its pack's answer cannot be read; trying again would not help."""
    return engine_error(
        BlockInternalError,
        "plugin.bad_frame",
        f"the pack's answer cannot be read: {clean_text(why)}",
        details={"code": code},
        retry_disposition="never",
    )


def _bytes(answer: object) -> bytes:
    if not isinstance(answer, bytes):
        raise bad_frame(f"expected bytes, got {type(answer).__name__}")
    return answer
