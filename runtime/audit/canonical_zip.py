"""The one ZIP encoding of a bundle (operations spec §12.4): the same content gives the same bytes everywhere.

Stored, never deflated, because compressors differ between versions; no times, owners, comments or extra fields, and
nothing between the headers. Whoever re-encodes the content of a bundle and gets other bytes knows that it is not one.
Standard library only: bundles carry this module.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

LOCAL: Final = struct.Struct("<4s5H3L2H")
CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
END: Final = struct.Struct("<4s4H2LH")
LOCAL_MARK: Final = b"PK\x03\x04"
CENTRAL_MARK: Final = b"PK\x01\x02"
END_MARK: Final = b"PK\x05\x06"
VERSION: Final = 20
MADE_BY: Final = 0x0314
DOS_TIME: Final = 0
DOS_DATE: Final = 0x0021
#: A regular file, mode 644, in the upper half as Unix tools keep it.
MODE: Final = 0o100644 << 16


def encode(files: Mapping[str, bytes]) -> bytes:
    """The archive of ``files`` by path, manifest included by the caller. Raises `ValueError` beyond what ZIP holds
    without ZIP64 (65,535 entries, 4 GiB)."""
    heads: list[bytes] = []
    bodies: list[bytes] = []
    offset = 0
    for name in sorted(files, key=lambda item: item.encode()):
        raw, data = name.encode(), files[name]
        crc, size = zlib.crc32(data), len(data)
        common = (VERSION, 0, 0, DOS_TIME, DOS_DATE, crc, size, size, len(raw), 0)
        local = LOCAL.pack(LOCAL_MARK, *common) + raw + data
        heads.append(CENTRAL.pack(CENTRAL_MARK, MADE_BY, *common, 0, 0, 0, MODE, offset) + raw)
        bodies.append(local)
        offset += len(local)
    directory = b"".join(heads)
    if len(files) > 0xFFFF or offset + len(directory) > 0xFFFFFFFF:
        raise ValueError("too much for an archive without ZIP64")
    end = END.pack(END_MARK, 0, 0, len(files), len(files), len(directory), offset, 0)
    return b"".join([*bodies, directory, end])
