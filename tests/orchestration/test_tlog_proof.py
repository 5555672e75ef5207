"""A proof of inclusion as a text: made while leaves go by, and checked from the text alone (C2SP tlog-proof)."""

from __future__ import annotations

import base64

import pytest

from runtime.kernel.errors import JournalError
from runtime.orchestration.checkpoints import Checkpoint, signed_note
from runtime.orchestration.merkle import inclusion_path, leaf_hash, root_of
from runtime.orchestration.tlog_proof import PathTo, proof_text, read_proof
from tests.support.attacks import FOREIGN, SECRET, key_of
from tests.support.attacks import check_signature as check

BODIES = [b"entry %d" % number for number in range(21)]
LEAVES = [leaf_hash(body) for body in BODIES]


def text_of(index: int, size: int = len(BODIES)) -> str:
    note = signed_note(Checkpoint("j", size, root_of(LEAVES[:size])), key_of(SECRET), SECRET.sign)
    return proof_text(index, BODIES[index], inclusion_path(index, LEAVES[:size]), note)


def test_every_path_is_the_one_of_the_tree() -> None:
    for size in (1, 2, 3, 8, 13, 21):
        for index in range(size):
            path = PathTo(index, size)
            for leaf in LEAVES[:size]:
                path.feed(leaf)
            assert path.siblings() == inclusion_path(index, LEAVES[:size])
            proof = read_proof(text_of(index, size))
            assert proof.holds()
            sides = [side for side, _ in proof.steps()]
            assert len(sides) == len(proof.path)
            assert sides.count("left") == bin(index).count("1"), "a sibling to the left for every set bit"


def test_the_text_is_what_others_read() -> None:
    lines = text_of(5).split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra " + base64.b64encode(b"entry 5").decode(), "index 5"]
    assert lines[8] == ""
    assert lines[9:11] == ["quarterdeck/j", "21"]


def test_every_changed_byte_breaks_it() -> None:
    text = text_of(5).encode()
    for at in range(len(text)):
        changed = bytes([*text[:at], text[at] ^ 1, *text[at + 1 :]])
        try:
            proof = read_proof(changed.decode("utf-8", "replace"))
        except JournalError:
            continue
        assert not (proof.holds() and proof.signed_by([key_of(SECRET)], check)), at


def test_a_signature_counts_only_by_a_key_that_is_known() -> None:
    proof = read_proof(text_of(5))
    assert proof.signed_by([key_of(SECRET)], check) == key_of(SECRET)
    assert proof.signed_by([key_of(FOREIGN)], check) is None


@pytest.mark.parametrize(
    "text", ["", "c2sp.org/tlog-proof@v1\nindex 0\n\nnote", text_of(5).replace("index 5", "index 05")]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(JournalError, match="PROOF_FORMAT"):
        read_proof(text)
