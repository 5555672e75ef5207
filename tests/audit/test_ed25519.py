"""The plain verification of signatures decides as the library does, on good, damaged and odd input alike."""

from __future__ import annotations

import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.support.bundle_scripts import script

verify = script("ed25519").verify
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
#: One of the points of order 8.
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")

#: RFC 8032 §7.1: public key, message, signature.
VECTORS = {
    "TEST 1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    "TEST 2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    "TEST 3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
}


def library(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_standard(name: str) -> None:
    public, message, signature = (bytes.fromhex(text) for text in VECTORS[name])
    assert verify(public, signature, message)
    assert not verify(public, signature, message + b"\0")


def test_it_decides_as_the_library_does_for_good_and_damaged_signatures() -> None:
    chance = random.Random(8032)
    for _ in range(60):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        public, message = key.public_key().public_bytes_raw(), chance.randbytes(chance.randrange(1, 200))
        signature = key.sign(message)
        assert verify(public, signature, message)
        for tried in (
            (flipped(public, chance.randrange(256)), signature, message),
            (public, flipped(signature, chance.randrange(512)), message),
            (public, signature, flipped(message, chance.randrange(8 * len(message)))),
        ):
            assert verify(*tried) is library(*tried) is False


def test_no_flipped_bit_of_key_or_signature_passes() -> None:
    public, message, signature = (bytes.fromhex(text) for text in VECTORS["TEST 3"])
    assert not any(verify(flipped(public, bit), signature, message) for bit in range(256))
    assert not any(verify(public, flipped(signature, bit), message) for bit in range(512))


def test_a_second_spelling_of_s_or_r_is_refused_as_by_the_library() -> None:
    public, message, signature = (bytes.fromhex(text) for text in VECTORS["TEST 2"])
    s = int.from_bytes(signature[32:], "little")
    for more in range(1, 15):
        twin = signature[:32] + (s + more * ORDER).to_bytes(32, "little")
        assert verify(public, twin, message) is library(public, twin, message) is False
    for r in (P, P + 1, 1 | 1 << 255):
        odd = r.to_bytes(32, "little") + bytes(32)
        assert verify(public, odd, message) is library(public, odd, message) is False


def test_keys_no_generator_makes_are_refused_where_the_library_is_lenient() -> None:
    """Small order: one signature fits many texts. Not canonical: a second spelling of the same key."""
    neutral, nothing = (1).to_bytes(32, "little"), bytes(32)
    odd = [1, P - 1, 0, P, P + 1, 1 | 1 << 255, (P - 1) | 1 << 255, (P + 1) | 1 << 255]
    keys = [*(number.to_bytes(32, "little") for number in odd), ORDER_8, flipped(ORDER_8, 255)]
    texts = [b"%d" % number for number in range(40)]
    for key in keys:
        assert any(library(key, neutral + nothing, text) for text in texts), "no longer worth refusing here"
        assert not any(verify(key, neutral + nothing, text) for text in texts)


@pytest.mark.parametrize(("key", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_wrong_lengths_are_just_wrong(key: int, signature: int) -> None:
    assert not verify(bytes(key), bytes(signature), b"")


def test_what_is_no_point_is_no_key() -> None:
    assert not verify((2).to_bytes(32, "little"), bytes(64), b"")
