"""Bytes at rest: one value, one frame, and a decoder that accepts nothing else (blocks spec §20.3, ruling R40)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks.projection import INLINE_LIMIT, project, references, restore
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameError, FrameType, decode_value, encode_value, frame, pack
from runtime.kernel.canonical import canonical_bytes, digest_bytes

texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["$int", "$map", "$artifact"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=40)
    | st.integers(4000, 6000).map("x".__mul__)
    | st.integers(4000, 6000).map(b"x".__mul__)
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=12
)


@given(plain)
def test_a_frame_decodes_to_an_equal_value_and_encodes_uniquely(obj: Any) -> None:
    value = BlockValue.of(obj)
    data = encode_value(value)
    again = decode_value(data)
    assert again == value
    assert encode_value(again) == data


@settings(deadline=None)
@given(plain)
async def test_a_projected_value_is_canonical_and_comes_back_whole(obj: Any) -> None:
    value = BlockValue.of(obj)
    projected, bodies = project(value)
    canonical_bytes({"outputs": {"value": projected}})
    store = {digest_bytes(body): body for body in bodies}
    assert set(references(projected)) <= set(store)

    async def fetch(name: str) -> bytes | None:
        return store.get(name)

    assert await restore(projected, fetch) == value


def framed(payload: bytes) -> bytes:
    return frame(FrameType.VALUE, payload)


CORPUS = {
    "repeated key": b"\x82\xa1a\x01\xa1a\x02",
    "unsorted keys": b"\x82\xa1b\x01\xa1a\x02",
    "bytes key": b"\x81\xc4\x01a\x01",
    "int key": b"\x81\x01\x01",
    "extension": b"\xd4\x01\x00",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "2^63": b"\xcf\x80" + b"\x00" * 7,
    "nan": b"\xcb\x7f\xf8" + b"\x00" * 6,
    "infinity": b"\xcb\x7f\xf0" + b"\x00" * 6,
    "negative zero": b"\xcb\x80" + b"\x00" * 7,
    "float32": b"\xca\x3f\x80\x00\x00",
    "long int": b"\xcd\x00\x01",
    "long str header": b"\xd9\x01a",
    "invalid utf-8": b"\xa1\xff",
    "trailing byte": b"\xc0\xc0",
    "too deep": b"\x91" * 65 + b"\xc0",
    "far too deep": b"\x91" * 200_000 + b"\xc0",
    "array size beyond input": b"\xdd\xff\xff\xff\xff\x01",
    "map size beyond input": b"\xdf\xff\xff\xff\xff\xa1a\x01",
    "text size beyond input": b"\xdb\xff\xff\xff\xffa",
    "reserved opcode": b"\xc1",
    "nothing": b"",
}


@pytest.mark.parametrize("name", CORPUS)
def test_the_strict_decoder_refuses(name: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_value(framed(CORPUS[name]))
    assert caught.value.code == "plugin.bad_encoding"


def header(
    magic: bytes = b"BPK2",
    kind: int = 3,
    flags: int = 0,
    reserved: int = 0,
    length: int = 1,
    crc: int = zlib.crc32(b"\xc0"),
) -> bytes:
    return struct.pack(">4sBBHII", magic, kind, flags, reserved, length, crc) + b"\xc0"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "plugin.truncated"),
        (b"BPK2", "plugin.truncated"),
        (header(magic=b"BPK1"), "plugin.bad_magic"),
        (header(kind=11), "plugin.bad_frame"),
        (header(kind=1), "plugin.bad_frame"),
        (header(flags=1), "plugin.bad_frame"),
        (header(reserved=1), "plugin.bad_frame"),
        (header(length=0xFFFFFFFF), "plugin.bad_frame"),
        (header(length=2), "plugin.truncated"),
        (header() + b"\x00", "plugin.bad_frame"),
        (header(crc=1), "plugin.checksum"),
    ],
)
def test_damaged_frames_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_value(data)
    assert caught.value.code == code
    assert decode_value(header()).is_null


def test_golden_frame() -> None:
    value = BlockValue.of({"b": 1, "a": [True, None, "ä", 1.5]})
    payload = "82a16194c3c0a2c3a4cb3ff8000000000000a16201"
    assert pack(value).hex() == payload
    assert encode_value(value).hex() == "42504b320300000000000015104fac1c" + payload


def test_special_forms_of_the_projection() -> None:
    value = BlockValue.of({"big": 2**60, "raw": b"\x00", "odd": {"$x": 1}})
    assert project(value) == (
        {"big": {"$int": str(2**60)}, "odd": {"$map": [["$x", 1]]}, "raw": {"$bytes": "AA=="}},
        (),
    )


def test_a_large_leaf_leaves_the_map_around_it_readable() -> None:
    value = BlockValue.of({"ok": False, "stdout": "x" * (INLINE_LIMIT + 1)})
    projected, bodies = project(value)
    assert projected["ok"] is False
    assert projected["stdout"] == {"$artifact": digest_bytes(bodies[0]), "bytes": len(bodies[0])}


def test_many_small_parts_become_one_artifact() -> None:
    projected, bodies = project(BlockValue.of(["12345678" for _ in range(1000)]))
    assert set(projected) == {"$artifact", "bytes"}
    assert len(bodies) == 1


def test_deep_values_stay_within_canonical_depth() -> None:
    value: Any = 1
    for _ in range(30):
        value = {"$deep": [value]}
    projected, _ = project(BlockValue.of(value))
    canonical_bytes([[[projected]]])


@pytest.mark.parametrize("odd", [{"$other": 1}, {"$int": "1", "more": 2}, {"$bytes": "?"}])
async def test_unknown_marks_are_refused(odd: Any) -> None:
    async def fetch(name: str) -> bytes | None:
        return None

    with pytest.raises(FrameError):
        await restore(odd, fetch)
    with pytest.raises(FrameError, match="missing or altered"):
        await restore({"$artifact": "sha256:" + "0" * 64, "bytes": 3}, fetch)
