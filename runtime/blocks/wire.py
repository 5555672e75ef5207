"""Values as bytes: the framed, canonical MessagePack of the block ABI, version 2 (blocks spec §20.3).

One value has exactly one encoding, and the decoder accepts only that one: after decoding, the value is encoded again
and must give the same bytes. That single rule refuses repeated, unsorted and non-text keys, float32, non-minimal
integers and everything else a second spelling could hide in; kinds, ranges and depth are checked by `BlockValue.of`.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Any, Final

import msgspec

from runtime.blocks.errors import BlockInputError
from runtime.blocks.values import BlockValue

MAGIC: Final = b"BPK2"
#: magic, type, flags, reserved, payload length, CRC-32 of the payload; big-endian.
_HEADER: Final = struct.Struct(">4sBBHII")
MAX_PAYLOAD: Final = 16 * 1024 * 1024

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder()


class FrameType(IntEnum):
    """What a frame holds. Packs use the others; values at rest are VALUE frames."""

    MANIFEST = 1
    CREATE = 2
    VALUE = 3
    CONTEXT = 4
    ONCE = 5
    MULTIPLE = 6
    STREAM_ITEM = 7
    STREAM_END = 8
    ERROR = 9
    OK = 10


class FrameError(BlockInputError):
    """Bytes are not the canonical frame of a value. ``code`` is one of the ``plugin.*`` frame codes."""


def encode_value(value: BlockValue) -> bytes:
    """The VALUE frame of ``value``; raises `FrameError` ``plugin.bad_frame`` above 16 MiB."""
    return frame(FrameType.VALUE, pack(value))


def decode_value(data: bytes) -> BlockValue:
    """The value of a VALUE frame. Raises `FrameError` for anything but its canonical bytes."""
    kind, payload = unframe(data)
    if kind is not FrameType.VALUE:
        raise FrameError("plugin.bad_frame", f"expected a VALUE frame, got {kind.name}")
    return unpack(payload)


def frame(kind: FrameType, payload: bytes) -> bytes:
    """Put a checked header before ``payload``."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError("plugin.bad_frame", f"{len(payload)} bytes exceed a frame's limit of {MAX_PAYLOAD}")
    return _HEADER.pack(MAGIC, kind, 0, 0, len(payload), zlib.crc32(payload)) + payload


def unframe(data: bytes) -> tuple[FrameType, bytes]:
    """Type and payload of exactly one frame; raises `FrameError`."""
    if data[:4] != MAGIC[: len(data[:4])]:
        raise FrameError("plugin.bad_magic", "the bytes do not begin with BPK2")
    if len(data) < _HEADER.size:
        raise FrameError("plugin.truncated", "the bytes end inside the frame header")
    _, kind, flags, reserved, length, checksum = _HEADER.unpack_from(data)
    if flags or reserved or kind not in set(FrameType) or length > MAX_PAYLOAD:
        raise FrameError(
            "plugin.bad_frame", f"type {kind}, flags {flags}, reserved {reserved}, length {length} is no frame"
        )
    payload = data[_HEADER.size :]
    if len(payload) < length:
        raise FrameError("plugin.truncated", f"{length - len(payload)} payload bytes are missing")
    if len(payload) > length:
        raise FrameError("plugin.bad_frame", f"{len(payload) - length} bytes follow the frame")
    if zlib.crc32(payload) != checksum:
        raise FrameError("plugin.checksum", "the payload does not match its checksum")
    return FrameType(kind), payload


def pack(value: BlockValue) -> bytes:
    """Canonical MessagePack: map keys ascend because values keep them so, numbers take their shortest form."""
    return _ENCODER.encode(value.to_python())


def unpack(payload: bytes) -> BlockValue:
    """Strict inverse of `pack`; raises `FrameError` ``plugin.bad_encoding``."""
    try:
        decoded: Any = _DECODER.decode(payload)
        value = BlockValue.of(decoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError, ValueError) as error:
        raise FrameError("plugin.bad_encoding", f"not MessagePack of a value: {error}") from None
    except BlockInputError as error:
        raise FrameError("plugin.bad_encoding", error.message, details={"value_code": error.code}) from None
    if pack(value) != payload:
        raise FrameError("plugin.bad_encoding", "the bytes are not the canonical encoding of their value")
    return value
