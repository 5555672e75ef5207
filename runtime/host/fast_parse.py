"""Decoding canonical bytes several times faster than `parse_strict`, with the same result.

A fast decoder and encoder do the work where they agree with the definition: an object without floats, without an integer
near the limit and without deep nesting, whose bytes come out as they went in. Everything else, damage included, goes to
`parse_strict`, so what is refused and how never changes. Only the host uses it: modules the evidence bundle carries must
not depend on it (architecture ruling 12).
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import msgspec

from runtime.kernel.canonical import MAX_BYTES, MAX_DEPTH, parse_strict

#: Makes every digit a zero and an array's begin a comma, so that long numbers can be looked for as text.
_ZEROS: Final = bytes.maketrans(b"123456789[", b"000000000,")
#: Sixteen digits after what a number can follow, signs left out. Where a string has them, it only costs the fast way.
_MEMBER: Final = b'":' + b"0" * 16
_ITEM: Final = b"," + b"0" * 16


class _NotOurs(Exception):
    """The fast way does not apply."""


def _refuse_float(text: str) -> NoReturn:
    raise _NotOurs(text)


_DECODE: Final = msgspec.json.Decoder(float_hook=_refuse_float).decode
_ENCODE: Final = msgspec.json.Encoder(order="sorted").encode


def parse_fast(data: bytes) -> Any:
    """See `parse_strict`, with its default limit."""
    zeros = data.translate(_ZEROS, b"-")
    if (
        data[:1] == b"{"
        and _MEMBER not in zeros
        and _ITEM not in zeros
        and data.count(b"{") + data.count(b"[") <= MAX_DEPTH
        and len(data) <= MAX_BYTES
    ):
        try:
            value = _DECODE(data)
            if _ENCODE(value) == data and (data.isascii() or data.decode("utf-8")):
                return value
        except (msgspec.MsgspecError, _NotOurs, ValueError, RecursionError):
            pass  # `parse_strict` says what is wrong with it, if anything is
    return parse_strict(data)
