"""When journals are signed, in which order, and what trouble with key or sinks costs (ruling R38)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.host import checkpointing, copies
from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.checkpointing import CheckpointDesk
from runtime.host.signing import check_signature
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import StorageError
from runtime.kernel.ids import SequenceIds
from runtime.kernel.ports import Durable, JournalStore, StoredEntry
from runtime.orchestration.checkpoints import read_note
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from tests.support.hosting import asking, entries, hosting, live, open_host, plain, question, run_to_end, until, writing
from tests.support.signers import ExternalSigner, MemorySink, assert_covered, notes_of, sizes

RUN = "00000000-0000-4000-8000-000000000001"


class Deskwork:
    """A desk on a real store, and one journal appended to by hand."""

    def __init__(self, store: Store, desk: CheckpointDesk, clock: ManualClock) -> None:
        self.store = store
        self.desk = desk
        self.clock = clock
        self.port: JournalStore = desk.journal(RUN)
        self.count = 0

    def append(self, kind: str = "signal", body: str = "{}") -> Durable:
        entry = StoredEntry(
            self.count, kind, "t", f"h{self.count - 1}", f"h{self.count}", f"{self.count}{body}".encode()
        )
        self.count += 1
        return self.port.append(entry)

    async def sizes(self) -> list[int]:
        await self.desk.anchored(RUN)
        await self.store.flush()
        return [row.size for row in await self.store.checkpoints.of(RUN)]


@asynccontextmanager
async def working(folder: Path, **evidence: object) -> AsyncIterator[Deskwork]:
    clock = ManualClock()
    store = await Store.open(StateDir(folder), clock, SequenceIds())
    desk = await CheckpointDesk.open(store, clock, **evidence)  # type: ignore[arg-type]
    try:
        yield Deskwork(store, desk, clock)
    finally:
        await desk.close()
        await store.close()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("journal_opened", "{}"),
        ("journal_closed", "{}"),
        ("run_head", "{}"),
        ("epoch", "{}"),
        ("receipt", '{"receipt":{"effect":"write"}}'),
        ("receipt", '{"receipt":{"effect":"none","operation_type":"gate_check"}}'),
        ("escalation", '{"phase":"answered"}'),
    ],
)
async def test_an_entry_that_calls_for_a_checkpoint_shares_its_commit(tmp_path: Path, kind: str, body: str) -> None:
    async with working(tmp_path / "store") as work:
        commits = work.store.writer.statistics().commits
        await work.append()
        assert await work.sizes() == []
        await work.append(kind, body)
        row = (await work.store.checkpoints.of(RUN))[0]
        assert (row.size, row.head_hash) == (2, "h1")
        assert work.store.writer.statistics().commits == commits + 2, "entry and checkpoint are one commit"


async def test_other_entries_wait_for_the_64th_or_for_a_minute(tmp_path: Path) -> None:
    async with working(tmp_path / "store") as work:
        for _ in range(63):
            work.append("receipt", '{"receipt":{"effect":"read","note":"\\"effect\\":\\"write\\""}}')
        assert await work.sizes() == []
        work.append()
        assert await work.sizes() == [64]
        work.clock.advance(30)
        work.append()
        await asyncio.sleep(0)
        work.clock.advance(59)
        work.append()
        assert await work.sizes() == [64]
        work.clock.advance(1)
        await until(lambda: work.desk._tallies[RUN].covered == 66, "the minute after the first uncovered entry")
        assert await work.sizes() == [64, 66]
        work.clock.advance(300)
        assert await work.sizes() == [64, 66], "nothing new, nothing to sign"


async def test_while_one_is_on_its_way_the_next_ones_are_one(tmp_path: Path) -> None:
    async with working(tmp_path / "store") as work:
        for _ in range(100):
            work.append("receipt", '{"receipt":{"effect":"write"}}')
        assert await work.sizes() == [1, 100]


async def test_a_checkpoint_is_never_on_disk_before_what_it_covers(tmp_path: Path) -> None:
    async with working(tmp_path / "store") as work:
        await work.append("journal_opened")
        work.append("receipt", '{"receipt":{"effect":"write"}}')
        work.count += 1  # a gap, which the table refuses
        with pytest.raises(StorageError):
            await work.append("receipt", '{"receipt":{"operation_type":"gate_check"}}')
        assert not await work.desk.anchored(RUN)
        assert [row.size for row in await work.store.checkpoints.of(RUN)] == [1], "what shared the commit went with it"


async def test_a_gate_and_an_answer_are_final_when_a_checkpoint_covers_them(tmp_path: Path) -> None:
    signer = ExternalSigner()
    async with working(tmp_path / "store", signer=signer) as work:
        signer.going.clear()
        for kind, body in (("receipt", '{"operation_type":"gate_check"}'), ("escalation", '{"phase":"answered"}')):
            decided = asyncio.ensure_future(work.append(kind, body))  # type: ignore[arg-type]
            await work.store.flush()
            await asyncio.sleep(0)
            assert not decided.done(), "the entry is on disk, its checkpoint is not"
            signer.going.set()
            await decided
            assert (await work.sizes())[-1] == work.count
            signer.going.clear()
        signer.going.set()


async def test_a_signer_in_trouble_costs_checkpoints_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = "  a: {type: template, template: hi}\n  g: {type: gate_check, check: non_empty, condition: {a: x}}\n"
    path = plain(
        tmp_path / "m", blocks + "  h: {type: gate_check, check: non_empty, condition: {a: x}}", "[a -> g -> h]"
    )
    signer = ExternalSigner()
    async with hosting(tmp_path / "store", signer=signer) as host:
        signer.broken = True
        run = await run_to_end(host, path)
        assert run.status is RunStatus.SUCCEEDED
        assert run.message == "its end is on record, but under no signed checkpoint yet"
        assert await sizes(host, run.run_id) == []
        told = [
            item for item in await entries(host, "store", "operator_action") if item["action"] == "evidence_trouble"
        ]
        assert [(item["journal"], item["code"]) for item in told if item["journal"] == run.run_id] == [
            (run.run_id, "SIGN_TROUBLE")
        ], "once per run"
        assert caplog.text.count(f"evidence of {run.run_id}: signer") == 1
        signer.broken = False
    async with hosting(tmp_path / "store", signer=signer) as host:
        assert await sizes(host, run.run_id) == [run.entries], "what the signer missed is signed when the store closes"
        monkeypatch.setattr(checkpointing, "COVER_SECONDS", 0.01)
        monkeypatch.setattr(checkpointing, "SIGN_SECONDS", 0.05)
        monkeypatch.setattr(checkpointing, "LAST_SECONDS", 0.05)
        signer.going.clear()
        assert (await run_to_end(host, path)).status is RunStatus.SUCCEEDED, "one that hangs is not waited for"


async def test_another_key_signs_from_the_moment_it_is_changed(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        signer = ExternalSigner()
        host._journal.append("operator_action", action="rotate_key")
        host._desk.sign_with(signer)
        assert await host._desk.anchored("store")
        newest = (await notes_of(host, "store"))[-1]
        assert newest.signed_by((signer.key,), check_signature) == signer.key
        assert newest.checkpoint.size == (await entries(host, "store", "operator_action"))[-1]["seq"] + 1


async def test_a_key_others_may_read_keeps_no_store_from_opening(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    async with hosting(tmp_path / "store") as host:
        await run_to_end(host, path)
    (tmp_path / "store" / "keys" / "ed25519.pem").chmod(0o644)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, path)
        assert (run.status, await sizes(host, run.run_id)) == (RunStatus.SUCCEEDED, [])
        assert "KEY_PERMISSIONS" in [item.get("code") for item in await entries(host, "store", "operator_action")]


async def test_a_run_is_covered_to_its_end_and_so_is_the_store(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    async with hosting(tmp_path / "store") as host:
        begun = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tmp_path / "tree")}))
        asked = await question(host, begun.run_id)
        receipts = [item["seq"] for item in await entries(host, begun.run_id, "receipt")]
        assert (await sizes(host, begun.run_id))[-1] > max(receipts), "both writes are under a checkpoint"
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        answered = (await entries(host, begun.run_id, "escalation"))[-1]
        assert answered["seq"] < max(await sizes(host, begun.run_id)), "the answer was shown when it was covered"
        final = await host.wait(begun.run_id)
        assert (await assert_covered(host, begun.run_id)).checkpoint.size == final.entries
        newest = await assert_covered(host, "store")
        assert newest.checkpoint.journal_id == f"store-{await host._store.checkpoints.store_id()}"
        head = (await entries(host, "store", "run_head"))[-1]
        assert (head["head"], head["seq"] < newest.checkpoint.size) == (final.head_hash, True)
        assert begun.run_id not in host._desk._tallies, "nothing is kept of a run that ended"


async def test_closing_signs_what_is_not_covered_and_a_resumed_run_continues_the_tree(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        run = await host.launch(Launch(path=asking(tmp_path / "m")))
        await question(host, run.run_id)
    async with hosting(tmp_path / "store") as host:
        left = await assert_covered(host, run.run_id)
        await host.resume(run.run_id)
        asked = await question(host, run.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
        assert (await host.wait(run.run_id)).status is RunStatus.SUCCEEDED
        assert (await assert_covered(host, run.run_id)).checkpoint.size > left.checkpoint.size


async def test_a_crash_leaves_no_more_than_the_cadence_uncovered(tmp_path: Path) -> None:
    blocks = "\n".join(f"  t{number}: {{type: template, template: x}}" for number in range(60))
    links = " -> ".join(f"t{number}" for number in range(60))
    path = plain(tmp_path / "m", f"{blocks}\n  ask: {{type: approval, message: Go?}}", f"[{links} -> ask]")
    host = await open_host(tmp_path / "store")
    try:
        run = await host.launch(Launch(path=path))
        await until(lambda: live(host, run.run_id).summary.steps_done >= 60)
        await host._store.flush()
        # What a process that dies now leaves on disk.
        with (
            sqlite3.connect(tmp_path / "store" / "quarterdeck.db") as source,
            sqlite3.connect(tmp_path / "copy") as copy,
        ):
            source.backup(copy)
        (count,) = copy.execute("SELECT count(*) FROM journal_entries WHERE journal_id = ?", (run.run_id,)).fetchone()
        (covered,) = copy.execute("SELECT max(size) FROM checkpoints WHERE journal_id = ?", (run.run_id,)).fetchone()
        assert count > 120
        assert count - covered < 64
        source.close()
        copy.close()
    finally:
        await host.close()


async def test_a_sink_gets_the_newest_and_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LAST_OFFERS_SECONDS", 0.05)
    hanging, well = MemorySink("hanging"), MemorySink("well")
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    host = await open_host(tmp_path / "store", sinks=(hanging, well))
    hanging.going = asyncio.Event()
    run = await run_to_end(host, path)
    assert run.status is RunStatus.SUCCEEDED
    newest = (await notes_of(host, run.run_id))[-1]
    await until(lambda: well.notes.get(newest.checkpoint.origin) == newest)
    assert newest.checkpoint.origin not in hanging.notes
    await host.close()


async def test_a_sink_that_comes_back_gets_what_it_missed(tmp_path: Path) -> None:
    sink = MemorySink(trouble=True)
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    async with hosting(tmp_path / "store", sinks=(sink,)) as host:
        first, _ = await run_to_end(host, path), await run_to_end(host, path)
        told = [
            item for item in await entries(host, "store", "operator_action") if item["action"] == "evidence_trouble"
        ]
        assert [item["code"] for item in told] == ["SINK_TROUBLE"], "once per sink and process"
        sink.trouble = False
        second = await run_to_end(host, path)
        for run in (first, second):
            newest = (await notes_of(host, run.run_id))[-1]
            await until(lambda newest=newest: sink.notes.get(newest.checkpoint.origin) == newest)  # type: ignore[misc]


async def test_a_sink_is_told_the_root_it_remembers_from_memory_or_from_disk(tmp_path: Path) -> None:
    async with working(tmp_path / "store") as work:
        for _ in range(70):
            work.append()
        await work.sizes()
        tally = work.desk._tallies[RUN]
        root_after = work.desk._continues(tally)
        issued = read_note((await work.store.checkpoints.of(RUN))[0].note).checkpoint
        assert await root_after(64) == issued.root
        tally.issued.clear()
        assert await root_after(64) == issued.root
        assert await root_after(71) is None
        assert await root_after(0) is not None


async def test_a_journal_continued_from_rows_has_the_same_tree(tmp_path: Path) -> None:
    async with working(tmp_path / "store") as work:
        for _ in range(10):
            work.append()
        await work.store.flush()
        port, known = await work.desk.resumed(RUN, await work.store.journals.read(RUN))
        assert known is None
        work.port = port
        await work.append("journal_closed")
        assert await work.sizes() == [11]
        await work.desk.resumed(RUN, await work.store.journals.read(RUN))
        await work.desk.close()
        await work.store.flush()
        assert work.store.poisoned is None, "what is covered is not signed again, which the table would refuse"
