"""Which bytes are hashed: the one canonical form every digest in Quarterdeck is taken over.

The definition is the standard library's JSON encoder with sorted keys, no white space and literal
non-ASCII text, restricted to values that survive a round trip unchanged. It refuses rather than
repairs: a key that is not text, a float that has no single spelling, an integer other languages
would round. Nothing here performs I/O, and the module uses the standard library only because the
evidence bundle carries it.

Numbers: 1 MiB and 64 levels are the specification's hard limits for one hashed object.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

from runtime.kernel.errors import QuarterdeckError

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64
MAX_INT: Final = 2**53 - 1

_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


class CanonicalizationError(QuarterdeckError, ValueError):
    """A value has no canonical bytes, or stored bytes are not canonical. ``code`` is ``CANON_*`` or ``J_*``."""


def canonical_bytes(value: object, *, limit: int = MAX_BYTES) -> bytes:
    """Return the canonical UTF-8 JSON bytes of ``value``.

    Accepts exactly ``dict`` with ``str`` keys, ``list``, ``tuple``, ``str``, ``bool``, ``None``, ``int`` up to
    2**53-1 in magnitude and finite ``float``; subclasses and enums are refused.
    Raises `CanonicalizationError` with a ``CANON_*`` code otherwise.
    """
    _check(value, MAX_DEPTH)
    encoded = _ENCODER.encode(value).encode("utf-8")
    if len(encoded) > limit:
        raise CanonicalizationError("CANON_SIZE", f"{len(encoded)} bytes exceed the limit of {limit}")
    return encoded


def digest(value: object) -> str:
    """Return ``sha256:`` plus the lower-case hex SHA-256 of the canonical bytes of ``value``."""
    return digest_bytes(canonical_bytes(value))


def digest_bytes(data: bytes) -> str:
    """Return ``sha256:`` plus the lower-case hex SHA-256 of ``data`` itself."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


JOURNAL_GENESIS: Final = digest_bytes(b"mission-journal/genesis/1")
ANCHOR_GENESIS: Final = digest_bytes(b"mission-anchor/genesis/1")
RECEIPT_GENESIS: Final = digest_bytes(b"mission-receipt/genesis/1")


def parse_strict(data: bytes, *, limit: int = MAX_BYTES) -> Any:
    """Decode canonical bytes, refusing every encoding but the canonical one.

    Raises `CanonicalizationError`: ``J_NOT_UTF8``, ``J_NOT_JSON``, ``J_DUPLICATE_KEY`` or ``J_NONCANONICAL``.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CanonicalizationError("J_NOT_UTF8", f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except CanonicalizationError:
        raise
    except (ValueError, RecursionError) as error:
        raise CanonicalizationError("J_NOT_JSON", f"not JSON: {error}") from None
    try:
        again = canonical_bytes(value, limit=limit)
    except CanonicalizationError as error:
        raise CanonicalizationError("J_NONCANONICAL", f"holds a refused value: {error}") from None
    if again != data:
        raise CanonicalizationError("J_NONCANONICAL", "the bytes differ from the canonical encoding of their value")
    return value


def _check(value: object, depth: int) -> None:
    """Leaves are looked at where they are found: a call for each would cost as much as all the rest."""
    kind = type(value)
    if kind is dict:
        _check_depth(depth)
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise CanonicalizationError("CANON_KEY_TYPE", f"key of type {type(key).__name__}; keys must be str")
            if not key.isascii():
                _check_text(key)
            if type(item) is not str or not item.isascii():
                _check(item, depth - 1)
    elif kind is list or kind is tuple:
        _check_depth(depth)
        for item in value:  # type: ignore[attr-defined]
            if type(item) is not str or not item.isascii():
                _check(item, depth - 1)
    elif kind is str:
        _check_text(value)  # type: ignore[arg-type]
    elif kind is int:
        if not -MAX_INT <= value <= MAX_INT:  # type: ignore[operator]
            raise CanonicalizationError("CANON_INT_RANGE", "integer beyond 2**53-1; store it as a decimal string")
    elif kind is float:
        _check_float(value)  # type: ignore[arg-type]
    elif value is not None and kind is not bool:
        raise CanonicalizationError("CANON_TYPE", f"a {kind.__name__} has no canonical form; convert it first")


def _check_depth(depth: int) -> None:
    if depth <= 0:
        raise CanonicalizationError("CANON_DEPTH", f"nesting exceeds {MAX_DEPTH} levels, or the value contains itself")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CanonicalizationError("CANON_SURROGATE", "text holds a lone surrogate") from None


def _check_float(number: float) -> None:
    if not math.isfinite(number):
        raise CanonicalizationError("CANON_NONFINITE", "NaN and infinities have no canonical form")
    if number == 0.0 and math.copysign(1.0, number) < 0:
        raise CanonicalizationError("CANON_NEG_ZERO", "negative zero equals zero but is spelled differently")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise CanonicalizationError("J_DUPLICATE_KEY", f"key {key!r} appears twice")
            seen.add(key)
    return result


def _refuse_constant(token: str) -> Any:
    raise CanonicalizationError("J_NONCANONICAL", f"{token} is not allowed")
