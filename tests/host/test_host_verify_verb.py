"""`quarterdeck verify` and `quarterdeck proof`: what an operator reads, and what a program does."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.kernel.canonical import digest
from runtime.orchestration.anchors import Witness
from runtime.orchestration.checkpoints import Note
from runtime.orchestration.tlog_proof import read_proof
from tests.support.deckhand import Deckhand, deckhand
from tests.support.vouching import finished, tamper


@dataclass(frozen=True, slots=True)
class Stage:
    """A command line on a store with one finished run and a checkpoint of all of it, which is also in a file."""

    hand: Deckhand
    folder: Path
    run_id: str
    note: Note
    file: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Note]:
    folder = tmp_path_factory.mktemp("original")
    return folder, *asyncio.run(finished(folder))


@pytest.fixture
def stage(original: tuple[Path, str, Note], tmp_path: Path) -> Iterator[Stage]:
    folder, run_id, note = original
    with deckhand(tmp_path) as hand:
        shutil.rmtree(hand.store, ignore_errors=True)
        shutil.copytree(folder / "store", hand.store)
        file = tmp_path / "kept.note"
        file.write_bytes(note.data)
        yield Stage(hand, hand.store.parent, run_id, note, file)


def test_three_verdicts_and_what_they_are_worth(stage: Stage) -> None:
    done = stage.hand.inline("verify", "@latest")
    lines = done.out.splitlines()
    assert done.code == 0, done
    assert [line.split()[:2] for line in lines[:3]] == [["✓", "integrity"], ["✓", "completeness"], ["✓", "anchoring"]]
    assert "checkpoint verified up to" in lines[2]
    assert stage.note.checkpoint.words in done.out
    assert "tamper-proof" not in done.out
    assert "would not show (5 of 11" in lines[-1]
    every = stage.hand.inline("verify", stage.run_id, "--evidence").out
    assert every.count("would show") + every.count("would not show") == 11


def test_a_kept_note_or_line_raises_the_level_and_another_one_exits_7(stage: Stage) -> None:
    (verdict,) = stage.hand.inline("verify", "@latest", "--witness", str(stage.file), "--json").lines
    assert (verdict["level"], verdict["witnessed_size"]) == ("witnessed", verdict["entries"])
    line = Witness(stage.run_id, verdict["head_seq"], verdict["head_hash"]).text
    assert stage.hand.inline("verify", "@latest", "--witness", line).code == 0
    other = Witness(stage.run_id, verdict["head_seq"], digest({})).text
    stage.file.write_text(f"{line}\n{other}\n")
    done = stage.hand.inline("verify", "@latest", "--witness", str(stage.file))
    assert done.code == 7, done
    assert "J_WITNESS_MISMATCH" in done.out
    assert "leading entries can be trusted" in done.out
    for nonsense in ("I saw it", "mission-witness/1 x", str(stage.folder)):
        assert stage.hand.inline("verify", "@latest", "--witness", nonsense).code == 2, nonsense


def test_a_cut_off_end_names_the_interval(stage: Stage) -> None:
    tamper(stage.folder, f"DELETE FROM journal_entries WHERE journal_id = '{stage.run_id}' AND seq > 7")
    done = stage.hand.inline("verify", stage.run_id)
    assert done.code == 7
    assert done.out.splitlines()[1].startswith("✗ completeness  J_TRUNCATED")
    assert "the first bad one is among" in done.out
    assert "to 8" in done.out


def test_a_proof_goes_into_a_file_that_is_never_overwritten(stage: Stage) -> None:
    target = stage.folder / "entry.tlog-proof"
    done = stage.hand.inline("proof", "@latest", "3", "-o", str(target))
    assert (done.code, done.out) == (0, ""), done
    assert "is proven to be in the checkpoint" in done.err
    proof = read_proof(target.read_text("utf-8"))
    assert (proof.index, proof.holds()) == (3, True)
    assert stage.hand.inline("proof", "@latest", "3").out == target.read_text("utf-8")
    assert stage.hand.inline("proof", "@latest", "3", "-o", str(target)).code == 2
    assert stage.hand.inline("proof", "@latest", "999", "--json").code == 7
    (told,) = stage.hand.inline("proof", "@latest", "3", "--json").lines
    assert told["holds"] is True
    shutil.rmtree(stage.hand.store / "keys")
    assert stage.hand.inline("proof", "@latest", "3").code == 7, "signed by no key that is known"


def test_the_stores_own_journal_has_a_name(stage: Stage) -> None:
    (verdict,) = stage.hand.inline("verify", "store", "--json").lines
    assert (verdict["run_id"], verdict["ok"]) == ("store", True)
