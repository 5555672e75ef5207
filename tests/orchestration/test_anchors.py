"""The anchor log, its vector, and witnesses (operations spec §7.4)."""

from __future__ import annotations

import pytest

from runtime.kernel.errors import JournalError
from runtime.orchestration.anchors import AnchorChain, Witness, key_id, read_anchors, with_trailer, without_trailer
from tests.support.journals import JOURNAL_ID, RECIPE

KEY = bytes(range(32))
ENTRY = "sha256:194bf9e6c894662da4d860bc29fd4b0c7efff57b6813ee0a90b3d5b85f46c099"
AT = "2026-01-01T00:00:02.000000Z"


def log(count: int = 1, key: bytes = KEY) -> bytes:
    chain = AnchorChain(key)
    return b"".join(
        chain.next(journal_id=JOURNAL_ID, run_id=RECIPE, seq=seq, entry_hash=ENTRY, at=AT)
        for seq in range(1, count + 1)
    )


def test_the_vector() -> None:
    read = read_anchors(log(), KEY)
    assert key_id(KEY) == "cd302045d966c63e"
    mac = "hmac-sha256:a5bd03bf8ca6351fc2c04dc71774ae2b08ab34e9c9bc15334d0333d7e7b39359"
    assert read.records[0]["mac"] == mac
    assert read.head == "sha256:a1a5fb98b40f105caa42d413324102f5cd9433d65e1f8266a6aaa1fe448e055d"
    assert (read.problems, read.authenticated) == ((), True)


def test_every_flipped_byte_is_found_with_the_key() -> None:
    data = log(3)
    for at in range(len(data)):
        assert read_anchors(bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]), KEY).problems, at


def test_a_log_rebuilt_with_another_key_is_found_only_with_the_key() -> None:
    forged = log(3, b"x" * 32)
    assert read_anchors(forged).problems == ()
    assert {item.code for item in read_anchors(forged, KEY).problems} == {"J_ANCHOR_MAC"}


def test_a_dropped_record_breaks_the_chain() -> None:
    lines = log(3).splitlines(keepends=True)
    assert {item.code for item in read_anchors(lines[0] + lines[2], KEY).problems} == {"J_ANCHOR_CHAIN"}


def test_a_witness_survives_its_text_and_others_are_refused() -> None:
    witness = Witness(JOURNAL_ID, 1, ENTRY)
    assert Witness.parse(f" {witness.text}\n") == witness
    for text in ("", "mission-witness/2 a 1 b", witness.text + "0", witness.text.replace(" 1 ", " 01 ")):
        with pytest.raises(JournalError, match="WITNESS_FORMAT"):
            Witness.parse(text)


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("Fix", "Fix\n\nMission-Journal: {}\n"),
        ("Fix\n\nWhy: it broke\nand more\n", "Fix\n\nWhy: it broke\nand more\n\nMission-Journal: {}\n"),
        ("Fix\n\nSigned-off-by: A\nChange-Id: I1\n", "Fix\n\nSigned-off-by: A\nChange-Id: I1\nMission-Journal: {}\n"),
        ("fix: it", "fix: it\n\nMission-Journal: {}\n"),
    ],
)
def test_a_commit_message_keeps_its_own_trailers(message: str, written: str) -> None:
    witness = Witness("abc", 3, f"sha256:{'0' * 64}").text
    told = with_trailer(message, witness)
    assert told == written.format(witness)
    assert without_trailer(told) == (message.rstrip(), witness)
    assert without_trailer(message) == (message.rstrip(), None)
