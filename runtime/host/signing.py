"""Who signs checkpoints: a key of the store's own, or a program of the operator's that keeps the key elsewhere.

The own key is made when it is first needed and lies in the state folder, which no mission can reach. It is never replaced
in silence: a secret that is gone or damaged is told, since a new one in its place would hide that somebody exchanged it.
Public keys lie beside it as text, so that verifying needs no secret and no cryptography to find out whom to trust.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from runtime.kernel.clock import Clock
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ports import ProcessRunner
from runtime.orchestration.checkpoints import KEY_NAME, VerifierKey
from runtime.storage.layout import FILE_MODE, StateDir, make_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: How long an external signer may take, in seconds.
SIGN_SECONDS: Final = 10.0
ROTATION: Final = "quarterdeck-key-rotation/1"
_SECRET: Final = "ed25519.pem"
_NEXT: Final = "ed25519.pem.next"
_PUBLIC: Final = "ed25519.pub"
_EXTERNAL: Final = "external.pub"
_RETIRED: Final = "retired"
_MAX_KEY_BYTES: Final = 16 * 1024
_SIGNATURE_BYTES: Final = 64


class Signer(Protocol):
    """Makes Ed25519 signatures of 64 bytes."""

    key: VerifierKey

    async def sign(self, text: bytes) -> bytes:
        """Raises `Refused` ``SIGNER_FAILED``, ``SIGNER_WRONG``, ``SIGNER_TIMEOUT``."""
        ...


class OwnKey:
    """The store's own key, which signs without waiting (30 µs)."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = VerifierKey(KEY_NAME, private.public_key().public_bytes_raw())

    def sign_now(self, text: bytes) -> bytes:
        return self._private.sign(text)

    async def sign(self, text: bytes) -> bytes:
        return self.sign_now(text)


class CommandSigner:
    """A program that reads a text from its input and prints the base64 of its signature; what it says is checked."""

    def __init__(self, command: tuple[str, ...], key: VerifierKey, runner: ProcessRunner, folder: Path) -> None:
        self.key = key
        self._command = command
        self._runner = runner
        self._folder = folder

    async def sign(self, text: bytes) -> bytes:
        from runtime.host.programs import asked

        answer = await asked(
            self._runner, self._command, text, folder=self._folder, family="SIGNER", seconds=SIGN_SECONDS
        )
        try:
            signature = base64.b64decode(answer.strip(), validate=True)
        except binascii.Error:
            signature = b""
        if len(signature) != _SIGNATURE_BYTES or not check_signature(self.key.public, signature, text):
            raise Refused(
                "SIGNER_WRONG",
                f"{self._command[0]} did not print a signature by the key {self.key.name}+{self.key.key_id.hex()}",
                hint="it prints the base64 of 64 bytes; the key in evidence.yaml is the one it signs with",
            )
        return signature


async def open_signer(state: StateDir, clock: Clock) -> Signer:
    """The operator's program if ``evidence.yaml`` names one, else the own key, which the first use makes.

    Raises `Refused` ``KEY_PERMISSIONS``, ``KEY_DAMAGED``, ``EVIDENCE_INVALID``; `StorageError` for the folder.
    """
    from runtime.host.evidence_file import load_evidence

    spec = (await asyncio.to_thread(load_evidence, state)).signer
    if spec is None:
        return await asyncio.to_thread(_own_key, state)
    from runtime.host.programs import supervised

    await asyncio.to_thread(_remember_external, state, spec.key)
    return CommandSigner(spec.command, spec.key, supervised(clock), state.keys)


def trusted_keys(state: StateDir) -> tuple[VerifierKey, ...]:
    """Whose signatures count: the current key first, then retired ones; none where nothing was ever signed.

    Raises `Refused` ``KEY_DAMAGED`` for a public key that cannot be read: trusting fewer keys would call good notes false.
    """
    folder = state.keys
    retired = folder / _RETIRED
    current = [folder / _EXTERNAL, folder / _PUBLIC]
    paths = [path for path in current if path.exists()] + (sorted(retired.glob("*.pub")) if retired.is_dir() else [])
    return tuple(dict.fromkeys(_public_in(path) for path in paths))


def check_signature(public: bytes, signature: bytes, text: bytes) -> bool:
    """Is this the Ed25519 signature of ``text`` by ``public``?"""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


# -- rotation -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new key that lies ready. Journal `members`, then `finish`; until then the old key stays."""

    state: StateDir
    signer: OwnKey
    members: dict[str, str]
    old: VerifierKey

    def finish(self) -> None:
        """Make the new key the current one; the old secret is gone afterwards, its public key stays trusted.

        Each step leaves a key that signs: the retired public key first, then the exchange of the secret in one rename, then
        the public key, which is rewritten from the secret whenever the two disagree.
        """
        folder = self.state.keys
        make_private(folder / _RETIRED)
        _write_whole(_retired_place(folder, self.old), f"{self.old.text}\n".encode())
        _sync(folder / _RETIRED)
        (folder / _NEXT).replace(folder / _SECRET)
        _write_whole(folder / _PUBLIC, f"{self.signer.key.text}\n".encode())
        _sync(folder)


def begin_rotation(state: StateDir, old: Signer) -> Rotation:
    """Make the next key and have the two vouch for each other. Raises `Refused` ``KEY_EXTERNAL``."""
    if not isinstance(old, OwnKey):
        raise Refused(
            "KEY_EXTERNAL",
            "an external program signs, so its key is not ours to change",
            hint="give evidence.yaml the new key; the old one stays trusted",
        )
    folder, new = state.keys, OwnKey(_generated())
    with suppress(FileNotFoundError):
        (folder / _NEXT).unlink()  # of a rotation that was never finished
    _write_new(folder / _NEXT, _pem(new))
    text = rotation_text(old.key, new.key)
    members = {
        "old": old.key.text,
        "new": new.key.text,
        "by_old": base64.b64encode(old.sign_now(text)).decode(),
        "by_new": base64.b64encode(new.sign_now(text)).decode(),
    }
    return Rotation(state, new, members, old.key)


def rotation_text(old: VerifierKey, new: VerifierKey) -> bytes:
    """What both keys sign."""
    return f"{ROTATION}\n{old.text}\n{new.text}\n".encode()


def rotation_holds(members: dict[str, str]) -> bool:
    """Did both keys of a journalled rotation sign it?"""
    try:
        keys = VerifierKey.parse(members["old"]), VerifierKey.parse(members["new"])
        signatures = [base64.b64decode(members[name], validate=True) for name in ("by_old", "by_new")]
    except (KeyError, JournalError, binascii.Error):
        return False
    text = rotation_text(*keys)
    return all(check_signature(key.public, item, text) for key, item in zip(keys, signatures, strict=True))


# -- the folder ---------------------------------------------------------------------------------------------------------


def check_secret(state: StateDir) -> None:
    """Raises `Refused` ``KEY_*`` unless the own key is as it should be, or not made yet."""
    secret = state.keys / _SECRET
    if os.path.lexists(secret):
        key = _read_secret(secret).key
        if (state.keys / _PUBLIC).exists():
            _check_pair(state.keys, _public_in(state.keys / _PUBLIC), key)
    elif (state.keys / _PUBLIC).exists():
        raise _damaged(secret, "the secret key is gone, though its public key is there")


def _own_key(state: StateDir) -> OwnKey:
    folder = state.keys
    make_private(folder)
    secret, public = folder / _SECRET, folder / _PUBLIC
    # The public key is looked for first: another process that makes both meanwhile makes the secret first.
    known = _public_in(public) if public.exists() else None
    if not os.path.lexists(secret):
        if known is not None:
            raise _damaged(secret, "the secret key is gone, though its public key is there")
        _create(secret, lambda: _pem(OwnKey(_generated())))
    key = _read_secret(secret)
    text = f"{key.key.text}\n".encode()
    if known is None:
        _create(public, lambda: text)
    elif known != key.key:
        _check_pair(folder, known, key.key)
        _write_whole(public, text)
    _retire(folder, folder / _EXTERNAL)
    return key


def _check_pair(folder: Path, known: VerifierKey, key: VerifierKey) -> None:
    """A rotation retires the old key before it exchanges the secret; nothing else may exchange one."""
    if known != key and not _retired_place(folder, known).exists():
        raise _damaged(folder / _SECRET, f"it is not the secret key of {_PUBLIC}")


def _remember_external(state: StateDir, key: VerifierKey) -> None:
    folder = state.keys
    make_private(folder)
    path = folder / _EXTERNAL
    if path.exists() and _public_in(path) == key:
        return
    _retire(folder, path)
    _write_whole(path, f"{key.text}\n".encode())


def _retire(folder: Path, path: Path) -> None:
    """A public key that signs no more stays trusted for what it has signed."""
    if path.exists():
        make_private(folder / _RETIRED)
        path.replace(_retired_place(folder, _public_in(path)))


def _retired_place(folder: Path, key: VerifierKey) -> Path:
    return folder / _RETIRED / f"{key.key_id.hex()}.pub"


def _read_secret(path: Path) -> OwnKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(path, f"it is no private key in PEM form ({error})") from None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise _damaged(path, "it is no Ed25519 key")
    return OwnKey(loaded)


def read_private(path: Path, *, changing: str = "`quarterdeck key rotate`", again: str = "") -> bytes:
    """A secret file of ours that nobody else may read. ``changing`` says how to get another secret, ``again`` what to do
    about a damaged one. Raises `Refused` ``KEY_PERMISSIONS``, ``KEY_DAMAGED``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _damaged(path, "it is a link" if path.is_symlink() else str(error.strerror), again) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _damaged(path, "it is not a regular file of this account", again)
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Refused(
                "KEY_PERMISSIONS",
                f"others may use this key (mode {stat.S_IMODE(found.st_mode):04o}, expected 0600)",
                where=str(path),
                hint=f"chmod 600 {path}; if somebody may have read it, {changing}",
            )
        return file.read(_MAX_KEY_BYTES)


def _public_in(path: Path) -> VerifierKey:
    try:
        return VerifierKey.parse(path.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError, JournalError) as error:
        raise _damaged(path, f"the public key cannot be read ({error})") from None


def _damaged(path: Path, why: str, hint: str = "") -> Refused:
    usual = f"restore it from a backup; to begin with a new key, move {path.parent} aside and keep its *.pub files"
    return Refused("KEY_DAMAGED", why, where=str(path), hint=hint or usual)


def _generated() -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def _pem(key: OwnKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _create(path: Path, content: Callable[[], bytes]) -> None:
    """Bring ``path`` into being whole, or leave it to whoever did so first."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    _write_new(temporary, content())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was faster; its key is the key
    finally:
        temporary.unlink()
    _sync(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _write_whole(path: Path, data: bytes) -> None:
    """Replace a file by one rename."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    _write_new(temporary, data)
    temporary.replace(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
