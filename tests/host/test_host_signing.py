"""Who signs: the store's own key, its rotation, and programs of the operator's."""

from __future__ import annotations

import asyncio
import stat
import sys
import threading
from pathlib import Path

import pytest

from runtime.host.programs import supervised
from runtime.host.signing import (
    CommandSigner,
    OwnKey,
    begin_rotation,
    check_secret,
    check_signature,
    open_signer,
    rotation_holds,
    trusted_keys,
)
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import KEY_NAME, VerifierKey
from runtime.storage.layout import StateDir
from tests.support.hosting import entries, hosting, plain, run_to_end
from tests.support.signers import notes_of

TEXT = b"what is signed\n"


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "store")
    state.create()
    return state


async def own(state: StateDir) -> OwnKey:
    signer = await open_signer(state, SystemClock())
    assert isinstance(signer, OwnKey)
    return signer


async def test_the_first_use_makes_a_private_key_and_later_ones_find_it(state: StateDir) -> None:
    first = await own(state)
    again = await own(state)
    assert first.key == again.key == trusted_keys(state)[0]
    assert check_signature(first.key.public, await again.sign(TEXT), TEXT)
    assert not check_signature(first.key.public, await again.sign(TEXT), TEXT + b"!")
    modes = {stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in [state.keys, *state.keys.iterdir()]}
    assert modes == {0}


def test_two_creators_end_with_one_key(state: StateDir) -> None:
    found: list[VerifierKey] = []
    begin = threading.Barrier(4)

    def create() -> None:
        begin.wait()
        found.append(asyncio.run(own(state)).key)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == set(trusted_keys(state)), "one key, and none of theirs retired"


async def test_a_key_others_may_read_signs_nothing(state: StateDir) -> None:
    await own(state)
    secret = state.keys / "ed25519.pem"
    secret.chmod(0o640)
    with pytest.raises(Refused, match="KEY_PERMISSIONS") as caught:
        await own(state)
    assert f"chmod 600 {secret}" in (caught.value.hint or "")


@pytest.mark.parametrize("damage", ["gone", "garbage", "link", "other"])
async def test_a_damaged_key_is_never_replaced_in_silence(state: StateDir, damage: str) -> None:
    before = (await own(state)).key
    secret = state.keys / "ed25519.pem"
    kept = secret.read_bytes()
    secret.unlink()
    if damage == "garbage":
        secret.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    elif damage == "link":
        (state.root / "elsewhere").write_bytes(kept)
        secret.symlink_to(state.root / "elsewhere")
    elif damage == "other":
        secret.write_bytes(kept.replace(b"PRIVATE", b"PUBLIC"))
    if secret.exists() and not secret.is_symlink():
        secret.chmod(0o600)
    with pytest.raises(Refused, match="KEY_DAMAGED"):
        await own(state)
    assert trusted_keys(state) == (before,)


async def test_rotation_is_vouched_for_by_both_keys_and_the_old_secret_is_gone(state: StateDir) -> None:
    old = await own(state)
    note = await old.sign(TEXT)
    rotation = begin_rotation(state, old)
    assert rotation_holds(rotation.members)
    assert not rotation_holds({**rotation.members, "by_new": rotation.members["by_old"]})
    assert not rotation_holds({**rotation.members, "new": old.key.text})
    assert (await own(state)).key == old.key  # not finished: the old key signs
    rotation.finish()
    assert (await own(state)).key == rotation.signer.key
    assert trusted_keys(state) == (rotation.signer.key, old.key)
    assert check_signature(trusted_keys(state)[1].public, note, TEXT)
    assert [path.name for path in state.keys.glob("*.pem*")] == ["ed25519.pem"]


@pytest.mark.parametrize("steps", [0, 1])
async def test_a_crash_within_a_rotation_leaves_a_key_that_signs_and_all_trusted(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The power goes after the old key was retired, or after the secret was exchanged as well."""
    old = await own(state)
    rotation = begin_rotation(state, old)
    replace, left = Path.replace, [True, True][: steps + 1]

    def until_the_power_goes(path: Path, target: Path) -> Path:
        if not left:
            raise OSError("the power went")
        left.pop()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", until_the_power_goes)
    with pytest.raises(OSError, match="power"):
        rotation.finish()
    monkeypatch.undo()
    now = rotation.signer.key if steps else old.key
    assert (await own(state)).key == now
    assert trusted_keys(state) == tuple(dict.fromkeys((now, old.key)))


async def test_a_secret_somebody_exchanged_is_not_taken_for_a_rotation(state: StateDir, tmp_path: Path) -> None:
    before = await own(state)
    other = StateDir(tmp_path / "other")
    other.create()
    await own(other)
    (other.keys / "ed25519.pem").replace(state.keys / "ed25519.pem")
    for look in (lambda: check_secret(state), lambda: asyncio.run(own(state))):
        with pytest.raises(Refused, match="KEY_DAMAGED"):
            await asyncio.to_thread(look)
    assert trusted_keys(state) == (before.key,)


# -- the host -----------------------------------------------------------------------------------------------------------


async def test_a_store_names_its_key_and_rotates_on_record(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        (epoch,) = await entries(host, "store", "epoch")
        with pytest.raises(Refused, match="KEY_REASON"):
            await host.rotate_key(" ")
        ack = await host.rotate_key("a laptop was lost")
        (rotated,) = await entries(host, "store", "operator_action")
        assert rotation_holds(rotated)
        assert (rotated["action"], rotated["old"], rotated["reason"]) == (
            "key_rotated",
            epoch["key"],
            "a laptop was lost",
        )
        assert rotated["new"] in ack.message
        run = await run_to_end(host, plain(tmp_path / "m", "  said: {type: template, template: done}"))
        (*_, newest) = await notes_of(host, run.run_id)
        assert newest.signed_by([VerifierKey.parse(rotated["new"])], check_signature) is not None
    async with hosting(tmp_path / "store") as host:
        assert (await entries(host, "store", "epoch"))[-1]["key"] == rotated["new"]


# -- programs -----------------------------------------------------------------------------------------------------------


def signing(folder: Path, body: str) -> tuple[tuple[str, ...], VerifierKey]:
    """A program that signs with a fixed key, as ``body`` says."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    head = (
        "import base64, os, sys, time\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "key = Ed25519PrivateKey.from_private_bytes(bytes(32))\n"
        "text = sys.stdin.buffer.read()\n"
    )
    script = folder / "signer.py"
    script.write_text(head + body)
    return (sys.executable, str(script)), VerifierKey(KEY_NAME, public)


async def test_a_program_signs_and_its_key_is_the_trusted_one(state: StateDir, tmp_path: Path) -> None:
    command, key = signing(tmp_path, "print(base64.b64encode(key.sign(text)).decode())\n")
    words = ", ".join(command)
    state.evidence.write_text(f"signer: {{command: [{words}], key: {key.text!r}}}\n")
    signer = await open_signer(state, SystemClock())
    assert check_signature(key.public, await signer.sign(TEXT), TEXT)
    assert trusted_keys(state) == (key,)
    with pytest.raises(Refused, match="KEY_EXTERNAL"):
        begin_rotation(state, signer)
    state.evidence.unlink()
    mine = await own(state)
    assert trusted_keys(state) == (mine.key, key)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("print(base64.b64encode(key.sign(text + b'!')).decode())\n", "SIGNER_WRONG"),
        ("print('no')\n", "SIGNER_WRONG"),
        ("sys.exit('the card is not in the reader')\n", "SIGNER_FAILED"),
    ],
)
async def test_a_program_that_does_not_sign_is_not_believed(tmp_path: Path, body: str, code: str) -> None:
    command, key = signing(tmp_path, body)
    signer = CommandSigner(command, key, supervised(SystemClock()), tmp_path)
    with pytest.raises(Refused, match=code):
        await signer.sign(TEXT)


async def test_a_program_that_hangs_is_stopped_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.host.signing.SIGN_SECONDS", 0.5)
    mark = tmp_path / "child"
    script = tmp_path / "hang.sh"
    script.write_text(f"#!/bin/sh\nsetsid sleep 300 &\necho $! > {mark}\nsleep 300\n")
    script.chmod(0o700)
    key = VerifierKey(KEY_NAME, bytes(32))
    with pytest.raises(Refused, match="SIGNER_TIMEOUT"):
        await CommandSigner((str(script),), key, supervised(SystemClock()), tmp_path).sign(TEXT)
    pid = int(mark.read_text())
    assert not Path(f"/proc/{pid}").exists()
