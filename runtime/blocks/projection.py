"""Values as canonical JSON for the journal, without losing anything (ruling R40).

What JSON cannot say gets a one-key map with a ``$`` key; what is large becomes a reference to an artifact holding the
value's frame. Sizes are estimated by a fixed rule, not by encoding, so that projecting stays linear; the rule decides
hashed bytes and must not change: text and bytes count their UTF-8 or raw length, other scalars 8, and every element
of a container 4 plus its key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from runtime.blocks.values import BlockValue, BlockValueKind
from runtime.blocks.wire import FrameError, decode_value, encode_value
from runtime.kernel.canonical import MAX_INT, digest_bytes

#: Larger values live in the artifact store (ruling R40).
INLINE_LIMIT: Final = 4 * 1024
#: A journal entry wraps values in a few levels of its own; canonical JSON ends at 64.
MAX_LEVELS: Final = 48
_SCALAR_SIZE: Final = 8
_ELEMENT_SIZE: Final = 4

Fetch = Callable[[str], Awaitable[bytes | None]]


@dataclass(slots=True)
class _Projected:
    json: Any
    size: int
    levels: int
    artifacts: tuple[bytes, ...] = ()


def project(value: BlockValue) -> tuple[Any, tuple[bytes, ...]]:
    """The canonicalisable form of ``value`` and the artifact bodies it refers to, in order of appearance."""
    result = _project(value)
    return result.json, result.artifacts


async def restore(projected: Any, fetch: Fetch) -> BlockValue:
    """The value `project` was given. ``fetch`` returns artifact bodies by digest.

    Raises `FrameError` ``plugin.bad_encoding`` for a form `project` never makes or a body that is missing.
    """
    bodies = {}
    for name in dict.fromkeys(references(projected)):
        body = await fetch(name)
        if body is None or digest_bytes(body) != name:
            raise FrameError("plugin.bad_encoding", f"the artifact {name} is missing or altered")
        bodies[name] = decode_value(body)
    return BlockValue.of(_restored(projected, bodies))


def references(projected: Any) -> Iterable[str]:
    """The artifact digests a projected value refers to."""
    if isinstance(projected, dict):
        if "$artifact" in projected:
            yield str(projected["$artifact"])
        for item in projected.values():
            yield from references(item)
    elif isinstance(projected, list | tuple):
        for item in projected:
            yield from references(item)


def _project(value: BlockValue) -> _Projected:
    payload = value.payload
    match value.kind:
        case BlockValueKind.STRING:
            result = _Projected(payload, len(payload.encode()), 0)
        case BlockValueKind.BYTES:
            # The length decides before the text is built: encoding megabytes only to drop them would cost.
            text = "" if len(payload) > INLINE_LIMIT else base64.b64encode(payload).decode()
            result = _Projected({"$bytes": text}, len(payload), 1)
        case BlockValueKind.INT if not -MAX_INT <= payload <= MAX_INT:
            result = _Projected({"$int": str(payload)}, _SCALAR_SIZE, 1)
        case BlockValueKind.LIST:
            result = _list([_project(item) for item in payload])
        case BlockValueKind.MAP:
            result = _map({key: _project(item) for key, item in payload.items()})
        case _:
            result = _Projected(payload, _SCALAR_SIZE, 0)
    return result if result.size <= INLINE_LIMIT and result.levels <= MAX_LEVELS else _artifact(value)


def _list(items: list[_Projected]) -> _Projected:
    return _Projected(
        [item.json for item in items],
        sum(item.size + _ELEMENT_SIZE for item in items),
        1 + max((item.levels for item in items), default=0),
        tuple(body for item in items for body in item.artifacts),
    )


def _map(items: dict[str, _Projected]) -> _Projected:
    plain = _list(list(items.values()))
    size = plain.size + sum(len(key.encode()) for key in items)
    if any(key.startswith("$") for key in items):
        pairs = [[key, item.json] for key, item in items.items()]
        return _Projected({"$map": pairs}, size, plain.levels + 2, plain.artifacts)
    return _Projected({key: item.json for key, item in items.items()}, size, plain.levels, plain.artifacts)


def _artifact(value: BlockValue) -> _Projected:
    body = encode_value(value)
    reference = {"$artifact": digest_bytes(body), "bytes": len(body)}
    return _Projected(reference, len(reference["$artifact"]) + _SCALAR_SIZE, 1, (body,))  # type: ignore[arg-type]


def _restored(projected: Any, bodies: dict[str, BlockValue]) -> Any:
    if isinstance(projected, list | tuple):
        return [_restored(item, bodies) for item in projected]
    if not isinstance(projected, dict):
        return projected
    marks = [key for key in projected if key.startswith("$")]
    if not marks:
        return {key: _restored(item, bodies) for key, item in projected.items()}
    match projected:
        case {"$artifact": str(name), "bytes": int()} if len(projected) == 2:
            return bodies[name]
        case {"$int": str(digits)} if len(projected) == 1:
            return int(digits)
        case {"$bytes": str(text)} if len(projected) == 1:
            return _unbase64(text)
        case {"$map": [*pairs]} if len(projected) == 1:
            return {key: _restored(item, bodies) for key, item in pairs}
        case _:
            raise FrameError("plugin.bad_encoding", f"unknown marks {', '.join(sorted(marks))} in a journalled value")


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise FrameError("plugin.bad_encoding", f"bad base64: {error}") from None
