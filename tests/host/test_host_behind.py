"""A journal that is behind what is remembered of it stops what depends on it, until an operator accepts the loss."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from console.cli import main
from runtime.host import behind
from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.codes import exit_code_of
from runtime.host.observer import RemoteDeck
from runtime.host.opening import open_deck
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import JournalError, Refused, StorageError
from runtime.kernel.outcomes import Exit
from runtime.orchestration.checkpoints import Checkpoint
from runtime.orchestration.merkle import Frontier
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from runtime.storage.journals import Journals
from tests.support.hosting import asking, entries, hosting, plain, question, run_to_end, writing
from tests.support.signers import MemorySink, assert_covered, notes_of, rewriting

REASON = "the disk was put back from Monday"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return plain(tmp_path / "m", "  a: {type: template, template: hi}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def refused(host: RuntimeHost, path: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await host.launch(Launch(path=path))
    return caught.value


def cut(store: Path, journal_id: str, count: int) -> None:
    """Take the last entries away, and nothing else."""
    with rewriting(store) as database:
        database.execute(
            "DELETE FROM journal_entries WHERE journal_id = ?1"
            " AND seq > (SELECT max(seq) FROM journal_entries WHERE journal_id = ?1) - ?2",
            (journal_id, count),
        )


async def test_a_store_journal_that_lost_its_tail_stops_everything_until_accepted(store: Path, path: str) -> None:
    async with hosting(store) as host:
        run = await run_to_end(host, path)
    cut(store, "store", 1)
    async with hosting(store) as host:
        error = await refused(host, path)
        assert (error.code, exit_code_of(error)) == ("J_BEHIND", Exit.UNVERIFIED)
        assert "the store's own journal" in error.message
        assert "quarterdeck accept-loss store" in str(error.hint)
        assert [(item.run_id, item.blocking, item.severity) for item in await host.escalations()] == [
            ("store", False, "critical")
        ]
        assert (await host.find(run.run_id)).status is RunStatus.SUCCEEDED, "looking goes on"
        with pytest.raises(Refused, match="LOSS_REASON"):
            await host.accept_loss("store", "  ")
        before = (await notes_of(host, "store"))[-1].checkpoint
        assert (await host.accept_loss("store", REASON)).done
        told = (await entries(host, "store", "operator_action"))[-1]
        assert (told["action"], told["journal"], told["generation"], told["reason"]) == (
            "accept_loss",
            "store",
            2,
            REASON,
        )
        assert (told["known_size"], told["known_from"]) == (before.size, "the store's own checkpoint")
        assert told["size"] == told["seq"], "what was there before it"
        assert (await assert_covered(host, "store")).checkpoint.generation == 2
        assert await host.escalations() == ()
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED
        with pytest.raises(Refused, match="LOSS_NONE"):
            await host.accept_loss("store", REASON)
    async with hosting(store) as host:
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED
        assert (await assert_covered(host, "store")).checkpoint.generation == 2


async def test_a_rewritten_store_journal_is_behind_however_long_it_is(store: Path, path: str) -> None:
    async with hosting(store) as host:
        await run_to_end(host, path)
    with rewriting(store) as database:
        database.execute(
            "UPDATE journal_entries SET body = CAST(replace(body, 'succeeded', 'cancelled') AS BLOB)"
            " WHERE journal_id = 'store' AND kind = 'run_head'"
        )
    async with hosting(store) as host:
        error = await refused(host, path)
        assert (error.code, "are not those" in error.message) == ("J_BEHIND", True)


async def test_an_older_copy_of_the_store_is_found_by_a_sink(store: Path, path: str, tmp_path: Path) -> None:
    sink = MemorySink()
    async with hosting(store, sinks=(sink,)) as host:
        await run_to_end(host, path)
    shutil.copytree(store, tmp_path / "monday")
    async with hosting(store, sinks=(sink,)) as host:
        await run_to_end(host, path)
    shutil.rmtree(store)
    (tmp_path / "monday").rename(store)
    sink.trouble = True
    async with hosting(store, sinks=(sink,)) as host:
        assert "SINK_TROUBLE" in [item.get("code") for item in await entries(host, "store", "operator_action")]
    sink.trouble = False
    async with hosting(store, sinks=(sink,)) as host:
        error = await refused(host, path)
        assert (error.code, "sink memory knows" in error.message) == ("J_BEHIND", True)
        await host.accept_loss("store", REASON)
        await run_to_end(host, path)
    newest = max((note.checkpoint for note in sink.notes.values()), key=lambda item: item.generation)
    assert newest.generation == 2, "the sink keeps both histories apart"
    async with hosting(store, sinks=(sink,)) as host:
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED


async def test_a_sink_that_knows_better_while_runs_go_on_is_believed(store: Path, path: str) -> None:
    sink = MemorySink(trouble=True)
    async with hosting(store, sinks=(sink,)) as host:
        store_id = await host._store.checkpoints.store_id()
        newest = (await notes_of(host, "store"))[-1]
        ahead = Checkpoint(f"store-{store_id}", newest.checkpoint.size + 90, bytes(32))
        sink.trouble = False
        sink.notes[ahead.origin] = type(newest)(ahead.text(), ahead, ())
        run = await run_to_end(host, path)
        assert run.status is RunStatus.SUCCEEDED, "what runs is not cut short"
        await host._desk._copies.close()
        assert (await refused(host, path)).code == "J_BEHIND"


@pytest.fixture
async def left(store: Path, tmp_path: Path) -> str:
    """The id of a run that waits for an answer in a closed store."""
    async with hosting(store) as host:
        run = await host.launch(Launch(path=asking(tmp_path / "asking")))
        await question(host, run.run_id)
    return run.run_id


@pytest.mark.parametrize("hashed", [2000, 0], ids=["hashed at start", "counted at start"])
async def test_a_run_that_lost_its_tail_does_not_go_on_and_others_do(
    store: Path, path: str, left: str, hashed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "HASHED_AT_START", hashed)
    cut(store, left, 1)
    async with hosting(store) as host:
        assert [item.run_id for item in await host.escalations() if not item.blocking] == [left]
        for going_on in (host.resume, host.cancel):
            with pytest.raises(Refused, match="J_BEHIND"):
                await going_on(left)
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED
        await host.accept_loss(left, REASON)
    async with hosting(store) as host:
        await host.resume(left)
        asked = await question(host, left)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        assert (await host.wait(left)).status is RunStatus.SUCCEEDED
        assert (await assert_covered(host, left)).checkpoint.generation == 2


@pytest.mark.parametrize(("size", "generation"), [(1000, 1), (1, 2)], ids=["longer", "a later history"])
async def test_a_journal_that_is_whole_again_leaves_no_notice(
    store: Path, left: str, size: int, generation: int
) -> None:
    sink = MemorySink()
    note = Checkpoint(left, size, bytes(32), generation)
    async with hosting(store) as host:
        template = (await notes_of(host, left))[-1]
    sink.notes[note.origin] = type(template)(note.text(), note, ())
    async with hosting(store, sinks=(sink,)) as host:
        assert len([item for item in await host.escalations() if not item.blocking]) == 1
    sink.notes.clear()
    async with hosting(store, sinks=(sink,)) as host:
        assert [item for item in await host.escalations() if not item.blocking] == []


def test_a_journal_notices_itself_that_it_is_behind_its_checkpoint() -> None:
    memory = MemoryJournalStore()
    journal = MissionJournal(memory, journal_id="j", clock=ManualClock())
    for _ in range(4):
        journal.append("kill_switch")
    tree = Frontier()
    for entry in memory.entries:
        tree.append(entry.body)
    known = Checkpoint("j", 4, tree.root())
    for entries_left, checkpoint in ((3, known), (4, Checkpoint("j", 4, bytes(32)))):
        with pytest.raises(JournalError, match="J_BEHIND"):
            MissionJournal.resume(MemoryJournalStore(), memory.entries[:entries_left], ManualClock(), known=checkpoint)
    assert MissionJournal.resume(MemoryJournalStore(), memory.entries, ManualClock(), known=known).entries == 4


async def test_another_process_accepts_a_loss_through_the_holder(store: Path, left: str) -> None:
    cut(store, left, 1)
    async with hosting(store):
        remote = await open_deck(str(store), writing=True)
        assert isinstance(remote, RemoteDeck)
        assert (await remote.accept_loss(left, REASON)).done
        await remote.close()


def test_the_verb_accepts_by_run_prefix_or_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(store), "accept-loss", "store", "--reason", REASON]) == Exit.USAGE
    assert "LOSS_NONE" in capsys.readouterr().err


async def test_an_ended_run_whose_row_was_cut_like_its_journal_is_not_built_upon(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    path, inputs = writing(tmp_path / "m", on_failure="keep"), {"root": str(tmp_path / "tree")}
    async with hosting(store) as host:
        run = await host.launch(Launch(path=path, inputs=inputs))
        asked = await question(host, run.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        await host.wait(run.run_id)
    cut(store, run.run_id, 1)
    with rewriting(store) as database:
        database.execute(
            "UPDATE runs SET (entries, last_seq, head_hash) = (SELECT seq + 1, seq, entry_hash FROM journal_entries"
            " WHERE journal_id = run_id ORDER BY seq DESC LIMIT 1) WHERE run_id = ?",
            (run.run_id,),
        )
    async with hosting(store) as host:
        with pytest.raises(Refused, match="J_BEHIND"):
            await host.undo(run.run_id)
        with pytest.raises(Refused, match="J_BEHIND"):
            await host.launch(Launch(path=path, inputs=inputs, parent_run_id=run.run_id, from_step="two"))
        assert (tmp_path / "tree" / "made" / "two").exists()


async def test_what_cannot_be_read_is_behind_of_what_was_signed_and_is_not_signed_again(
    store: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosting(store) as host:
        await run_to_end(host, path)
        signed = len(await notes_of(host, "store"))

    async def damaged(self: Journals, journal_id: str, take: Any, *, until: int) -> None:
        raise StorageError("STORE_CORRUPT", "database disk image is malformed")

    monkeypatch.setattr(Journals, "each", damaged)
    async with hosting(store) as host:
        error = await refused(host, path)
        assert (error.code, "cannot be read" in error.message) == ("J_BEHIND", True)
        await host.accept_loss("store", REASON)
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED
    async with hosting(store) as host:
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED
        assert len(await notes_of(host, "store")) == signed
        assert "STORE_CORRUPT" in [item.get("code") for item in await entries(host, "store", "operator_action")]
