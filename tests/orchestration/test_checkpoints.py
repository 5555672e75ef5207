"""Checkpoints and the signed notes around them (C2SP tlog-checkpoint, signed-note)."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from runtime.kernel.errors import JournalError
from runtime.orchestration.checkpoints import Checkpoint, Note, VerifierKey, read_note, signature_line, signed_note

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey("quarterdeck", SECRET.public_key().public_bytes_raw())
JOURNAL = "00000000-0000-4000-8000-000000000001"
CHECKPOINT = Checkpoint(JOURNAL, 5, bytes(range(32)))
NOTE = signed_note(CHECKPOINT, KEY, SECRET.sign)


def check(public: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def as_note(data: bytes) -> Note | None:
    """None when it is refused as no note."""
    try:
        return read_note(data)
    except JournalError as error:
        if error.code != "NOTE_FORMAT":
            raise
        return None


def test_a_note_is_the_text_others_write() -> None:
    lines = NOTE.decode().split("\n")
    assert lines[:4] == [f"quarterdeck/{JOURNAL}", "5", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]
    assert lines[4].startswith("— quarterdeck ")
    assert lines[5:] == [""]


def test_a_note_is_read_back_and_its_signature_counts() -> None:
    note = read_note(NOTE)
    assert note.checkpoint == CHECKPOINT
    assert note.signed_by([KEY], check) == KEY
    stranger = VerifierKey("quarterdeck", bytes(32))
    assert note.signed_by([stranger], check) is None


def test_two_signatures_of_one_note_each_count() -> None:
    second = Ed25519PrivateKey.from_private_bytes(bytes(32))
    other = VerifierKey("witness.example", second.public_key().public_bytes_raw())
    note = read_note(NOTE + signature_line(other, second.sign(CHECKPOINT.text())))
    assert note.signed_by([other], check) == other
    assert note.signed_by([KEY], check) == KEY


def test_every_flipped_byte_is_no_note_or_another_text_or_unsigned() -> None:
    for at in range(len(NOTE)):
        changed = bytes([*NOTE[:at], NOTE[at] ^ 1, *NOTE[at + 1 :]])
        note = as_note(changed)
        assert note is None or note.signed_by([KEY], check) is None, at


def test_a_later_generation_has_another_origin() -> None:
    later = Checkpoint(JOURNAL, 5, bytes(32), 2)
    assert later.origin == f"quarterdeck/{JOURNAL}/2"
    assert read_note(signed_note(later, KEY, SECRET.sign)).checkpoint == later


@pytest.mark.parametrize(
    "origin", ["quarterdeck/j/1", "quarterdeck/j/0", "quarterdeck/", "elsewhere/j", "quarterdeck/j/x"]
)
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(JournalError, match="NOTE_FORMAT"):
        read_note(NOTE.replace(f"quarterdeck/{JOURNAL}".encode(), origin.encode()))


def test_a_key_survives_its_text_and_a_torn_one_is_refused() -> None:
    assert VerifierKey.parse(KEY.text) == KEY
    for text in (KEY.text[:-2], KEY.text.replace("quarterdeck", "other"), "", "a+b", KEY.text.upper()):
        with pytest.raises(JournalError, match="KEY_FORMAT"):
            VerifierKey.parse(text)


def test_six_words_name_a_checkpoint_and_a_key() -> None:
    assert len(CHECKPOINT.words.split()) == len(KEY.words.split()) == 6
    assert CHECKPOINT.words != Checkpoint(JOURNAL, 6, bytes(range(32))).words
