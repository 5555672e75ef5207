"""Decoding canonical bytes ten times faster than `parse_strict`, with the same result.

A fast decoder and encoder do the work where they provably agree with the definition: no floats, no integer near the limit,
no escape they might spell another way, no deep nesting, and the bytes come out as they went in. Everything else, damage
included, goes to `parse_strict`, so what is refused and how never changes. Only the host uses it: modules the evidence bundle
carries must not depend on it (architecture ruling 12).
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

import msgspec

from runtime.kernel.canonical import MAX_BYTES, MAX_DEPTH, parse_strict

#: Sixteen digits after what a number can follow; in strings it only costs the fast way.
_LONG_NUMBER: Final = re.compile(rb":-?[0-9]{16}|,-?[0-9]{16}|\[-?[0-9]{16}")


class _NotOurs(Exception):
    """The fast way does not apply."""


def _refuse_float(text: str) -> NoReturn:
    raise _NotOurs(text)


_DECODE: Final = msgspec.json.Decoder(float_hook=_refuse_float).decode
_ENCODE: Final = msgspec.json.Encoder(order="sorted").encode


def parse_fast(data: bytes) -> Any:
    """See `parse_strict`, with its default limit."""
    if (
        len(data) <= MAX_BYTES
        and b"\\" not in data
        and data.count(b"{") + data.count(b"[") <= MAX_DEPTH
        and _LONG_NUMBER.search(data) is None
    ):
        try:
            value = _DECODE(data)
            if _ENCODE(value) == data and (data.isascii() or data.decode("utf-8")):
                return value
        except (msgspec.MsgspecError, _NotOurs, ValueError, RecursionError):
            pass  # `parse_strict` says what is wrong with it, if anything is
    return parse_strict(data)
