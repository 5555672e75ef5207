"""How the runtime and a pack's worker process talk: messages over one socket, each with a 13-byte header.

==================  ==========================================================================================
``>BQI``            verb, number, length of the body in bytes
``CREATE`` …        to the worker; the number is the runtime's handle of the block, or of the call it answers
``READY`` …         from the worker; the number is that of a call it makes and wants answered, else 0
==================  ==========================================================================================

A worker serves one call at a time: ``CREATE``, ``VALIDATE`` or ``RUN``, answered with ``REPLY`` for each frame of the
answer and one ``DONE``, or with a ``FAULT``. What it asks its host for meanwhile may overlap.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from runtime.blocks.wire import MAX_PAYLOAD, FrameError

_HEADER: Final = struct.Struct(">BQI")
_LENGTH: Final = struct.Struct(">I")
#: The largest frame and some words beside it; two frames to the worker.
MAX_FROM_WORKER: Final = MAX_PAYLOAD + 64 * 1024
MAX_TO_WORKER: Final = 2 * MAX_FROM_WORKER


class Verb(IntEnum):
    """What a message says."""

    CREATE = 1  #: a CREATE frame
    VALIDATE = 2  #: a VALUE and a CONTEXT frame, `joined`
    RUN = 3  #: the same
    DROP = 4  #: nothing
    ANSWER = 5  #: a VALUE or an ERROR frame
    READY = 16  #: an OK frame, or an ERROR frame when the pack cannot be loaded
    REPLY = 17  #: a frame
    DONE = 18  #: nothing
    FAULT = 19  #: an ERROR frame: the pack raised instead of answering
    LOG = 20  #: a VALUE frame
    SERVICE = 21  #: name and method, each ended by a zero byte, and a VALUE frame
    WAIT = 22  #: a VALUE frame


@dataclass(frozen=True, slots=True)
class Message:
    """One message of either side."""

    verb: Verb
    number: int
    body: bytes


def encode(verb: Verb, number: int = 0, body: bytes = b"") -> bytes:
    """A message as it is sent."""
    return _HEADER.pack(verb, number, len(body)) + body


async def receive(reader: asyncio.StreamReader, limit: int) -> Message | None:
    """The next message, or None at the end. Raises `FrameError` ``plugin.bad_frame`` for anything but a whole one."""
    try:
        header = await reader.readexactly(_HEADER.size)
        verb, number, length = _HEADER.unpack(header)
        if verb not in set(Verb) or length > limit:
            raise FrameError("plugin.bad_frame", f"verb {verb} with {length} bytes is no message")
        return Message(Verb(verb), number, await reader.readexactly(length))
    except asyncio.IncompleteReadError as cut:
        if cut.expected == _HEADER.size and not cut.partial:
            return None
        raise FrameError("plugin.bad_frame", "the connection ended inside a message") from None
    except ConnectionError:
        return None


def joined(first: bytes, second: bytes) -> bytes:
    """Two frames in one body."""
    return _LENGTH.pack(len(first)) + first + second


def parted(body: bytes) -> tuple[bytes, bytes]:
    """Inverse of `joined`; raises `FrameError` ``plugin.bad_frame``."""
    if len(body) < _LENGTH.size:
        raise FrameError("plugin.bad_frame", "the body holds no two frames")
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    return body[_LENGTH.size : end], body[end:]


def service_call(name: str, method: str, args: bytes) -> bytes:
    """The body of a ``SERVICE``."""
    return b"\0".join((name.encode(), method.encode(), args))


def read_service_call(body: bytes) -> tuple[str, str, bytes]:
    """Name, method and arguments. Raises `FrameError` ``plugin.bad_frame``."""
    parts = body.split(b"\0", 2)
    try:
        name, method, args = parts[0].decode("ascii"), parts[1].decode("ascii"), parts[2]
    except (IndexError, UnicodeDecodeError):
        raise FrameError("plugin.bad_frame", "the call names no service") from None
    return name, method, args
