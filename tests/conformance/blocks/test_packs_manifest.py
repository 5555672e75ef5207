"""Manifests: one spelling, strictly read, and no damage that goes unnoticed (blocks spec §20.3, §20.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pack_samples import PACK

from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockMode, BlockValueContract, BlockValueKindSet
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError
from runtime.blocks.packs.manifest import (
    PackBlockInfo,
    PackError,
    PackManifest,
    decode_manifest,
    encode_manifest,
)
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameError, FrameType, decode_value, frame, pack, unframe

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
_WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_KINDS = st.integers(1, 255).map(BlockValueKindSet)
_PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXTS | st.lists(_TEXTS, max_size=2)


def _contracts(*modes: BlockMode) -> st.SearchStrategy[BlockValueContract]:
    return st.builds(BlockValueContract, st.sampled_from(modes), _KINDS)


_FIELDS = st.builds(
    lambda required, default, **rest: ConfigField(required=required, default=None if required else default, **rest),
    name=_WORDS.map("f_".__add__),
    kinds=_KINDS,
    items=_KINDS,
    required=st.booleans(),
    default=_PLAIN,
    secret=st.booleans(),
    choices=st.lists(_TEXTS, max_size=2).map(tuple),
    summary=_TEXTS,
)
_RETRIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 9),
    initial=st.floats(0, 9),
    factor=st.floats(0.5, 4),
    cap=st.floats(0.01, 99),
    jitter=st.floats(0, 1),
    retry_on=st.lists(_TEXTS, max_size=2).map(tuple),
)
_BLOCKS = st.builds(
    PackBlockInfo,
    type_id=_WORDS,
    display_name=_TEXTS,
    summary=_TEXTS,
    version=_TEXTS,
    input=_contracts(BlockMode.ONCE, BlockMode.MULTIPLE),
    output=_contracts(*BlockMode),
    config=st.lists(_FIELDS, max_size=2, unique_by=lambda item: item.name).map(tuple),
    side_effects=st.none() | st.sampled_from(SideEffects),
    timeout=st.none() | st.integers(1, 10**9).map(lambda ms: ms / 1000),
    retry=st.none() | _RETRIES,
    reads=st.lists(_TEXTS, max_size=2).map(tuple),
    free_form=st.none() | _WORDS.map("f_".__add__),
    operation=st.booleans(),
)
MANIFESTS = st.builds(
    PackManifest,
    name=_WORDS,
    version=st.from_regex(r"[0-9]\.[0-9]", fullmatch=True),
    module=st.just("pack.main"),
    symbol=st.just("PACK"),
    blocks=st.lists(_BLOCKS, max_size=3, unique_by=lambda block: block.type_id).map(
        lambda blocks: tuple(sorted(blocks, key=lambda block: block.type_id))
    ),
)


@settings(deadline=None, max_examples=60)
@given(MANIFESTS)
def test_a_manifest_comes_back_whole_and_has_one_spelling(manifest: PackManifest) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert encode_manifest(decode_manifest(data)) == data


def spoiled(path: str, value: Any) -> bytes:
    """The samples' manifest with one member replaced, or removed (``...``)."""
    members = decode_value(frame(FrameType.VALUE, unframe(PACK.manifest())[1])).to_python()
    *way, last = path.split(".")
    place: Any = members
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return frame(FrameType.MANIFEST, pack(BlockValue.of(members)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("abi", "2"),
        ("pack.name", "Not A Name"),
        ("pack.version", ""),
        ("pack.sdk", ...),
        ("pack.extra", 1),
        ("pack", []),
        ("module", "os..path"),
        ("module", "../evil"),
        ("symbol", "a b"),
        ("blocks", {}),
        ("blocks", [1]),
        ("blocks.0.type_id", "Bad"),
        ("blocks.0.type_id", "zzz"),
        ("blocks.0.display_name", "x" * 201),
        ("blocks.0.input.kinds", 0),
        ("blocks.0.input.kinds", 256),
        ("blocks.0.input.kinds", True),
        ("blocks.0.input.mode", "recurring"),
        ("blocks.0.output.mode", "never"),
        ("blocks.0.output.extra", 1),
        ("blocks.0.side_effects", "harmless"),
        ("blocks.0.timeout_ms", 0),
        ("blocks.0.timeout_ms", 1.5),
        ("blocks.0.operation", 1),
        ("blocks.0.reads", [1]),
        ("blocks.0.free_form", ""),
        ("blocks.0.free_form", "class"),
        ("blocks.0.retry", 3),
        ("blocks.5.retry.max_attempts", 0),
        ("blocks.5.retry.initial", -1.0),
        ("blocks.5.retry.initial", 1),
        ("blocks.0.config", 1),
        ("blocks.1.config.0.name", "_hidden"),
        ("blocks.1.config.0.name", "lambda"),
        ("blocks.1.config.0.default", "x"),
        ("blocks.1.config.0.choices", [1]),
        ("blocks.8.config.1.name", "label"),
    ],
)
def test_a_manifest_that_breaks_its_schema_is_invalid(path: str, value: Any) -> None:
    with pytest.raises(PackError) as caught:
        decode_manifest(spoiled(path, value))
    assert caught.value.code == "plugin.manifest_invalid"
    assert path.rpartition(".")[2].split("_")[0] in caught.value.message or path == "blocks"


def test_what_is_no_manifest_cannot_be_written() -> None:
    with pytest.raises(PackError):
        encode_manifest(replace(PACK.about, name="Not A Name"))


SMALL = encode_manifest(replace(PACK.about, blocks=PACK.about.blocks[:1]))
FRAME_CODES = {"plugin.bad_magic", "plugin.truncated", "plugin.checksum", "plugin.bad_frame"}


def test_every_truncation_gives_a_documented_code() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(FrameError) as caught:
            decode_manifest(SMALL[:size])
        assert caught.value.code == "plugin.truncated"


def test_every_flipped_bit_gives_a_documented_code() -> None:
    for place in range(len(SMALL)):
        for bit in range(8):
            data = bytearray(SMALL)
            data[place] ^= 1 << bit
            with pytest.raises(FrameError) as caught:
                decode_manifest(bytes(data))
            assert caught.value.code in FRAME_CODES


SCHEMA_CODES = {"plugin.bad_encoding", "plugin.abi_mismatch", "plugin.manifest_invalid", "plugin.duplicate_type_id"}


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(SMALL) - 17), st.integers(0, 255))
def test_a_changed_payload_with_a_good_checksum_is_refused_or_read_as_it_is(place: int, byte: int) -> None:
    payload = bytearray(SMALL[16:])
    payload[place] = byte
    data = frame(FrameType.MANIFEST, bytes(payload))
    code = refusal(decode_manifest, data)
    assert code in SCHEMA_CODES or (code is None and encode_manifest(decode_manifest(data)) == data)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(FrameType))
def test_random_bytes_never_crash_a_decoder(junk: bytes, kind: FrameType) -> None:
    for data in (junk, frame(kind, junk), b"BPK2" + junk):
        for decode in (decode_manifest, decode_value):
            assert refusal(decode, data) in {None} | FRAME_CODES | SCHEMA_CODES


def refusal(decode: Callable[[bytes], object], data: bytes) -> str | None:
    """The code bytes are refused with; whatever else a decoder raises fails the test."""
    try:
        decode(data)
    except BlockError as error:
        return error.code
    return None
