"""Who signs checkpoints: the store's own Ed25519 key."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import KEY_NAME, VerifierKey
from runtime.storage.layout import StateDir, make_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer(Protocol):
    """Makes signatures of 64 bytes."""

    key: VerifierKey

    async def sign(self, text: bytes) -> bytes: ...


class OwnKey:
    """A key of our own, which signs without waiting (30 µs)."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = VerifierKey(KEY_NAME, private.public_key().public_bytes_raw())

    def sign_now(self, text: bytes) -> bytes:
        return self._private.sign(text)

    async def sign(self, text: bytes) -> bytes:
        return self.sign_now(text)


async def open_signer(state: StateDir, clock: Clock) -> Signer:
    """Read the key; the first use makes it. Raises `Refused` ``KEY_PERMISSIONS``."""
    return await asyncio.to_thread(_open, state.root / "keys")


def trusted_keys(state: StateDir) -> tuple[VerifierKey, ...]:
    """Public keys whose signatures count."""
    path = state.root / "keys" / "ed25519.pub"
    return (VerifierKey.parse(path.read_text("utf-8")),) if path.exists() else ()


def check_signature(public: bytes, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _open(folder: Path) -> OwnKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    make_private(folder)
    path = folder / "ed25519.pem"
    if not path.exists():
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        (folder / "ed25519.pub").write_text(OwnKey(private).key.text + "\n", "utf-8")
        return OwnKey(private)
    if path.stat().st_mode & 0o077:
        raise Refused("KEY_PERMISSIONS", "the key may be read by others", where=str(path), hint=f"chmod 600 {path}")
    loaded = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    return OwnKey(loaded)
