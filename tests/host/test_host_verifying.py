"""Verifying a store's journals by all evidence at hand: checkpoints, keys, sinks, rows and other journals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runtime.events.facts import Verification
from runtime.host import gathering
from runtime.host.api import Refused, RunStatus
from runtime.host.observer import Observer
from runtime.host.runtime_host import RuntimeHost
from runtime.host.signing import check_signature, trusted_keys
from runtime.host.verifying import SWEEP_SECONDS, VERIFY_SECONDS, LiveCheck, verify_live
from runtime.kernel.clock import ManualClock, SystemClock
from runtime.orchestration.checkpoints import Note
from runtime.orchestration.tlog_proof import read_proof
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from tests.support.hosting import PATIENCE, asking, hosting, live, plain, question, run_to_end, until, writing
from tests.support.vouching import checkpointed, finished, tamper

CUT = "DELETE FROM journal_entries WHERE journal_id = '{run}' AND seq >= 6"


class Remembering:
    """A sink with notes by origin."""

    def __init__(self, *notes: Note, name: str = "far away", trouble: Refused | None = None) -> None:
        self.name = name
        self.notes = {note.checkpoint.origin: note for note in notes}
        self.trouble = trouble
        self.silent = False

    async def offer(self, note: Note, continues: Any) -> None:
        raise AssertionError("verification offers nothing")

    async def newest(self, origin: str) -> Note | None:
        if self.silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return self.notes.get(origin)


def sinks(monkeypatch: pytest.MonkeyPatch, *found: Remembering) -> None:
    monkeypatch.setattr(gathering, "load_sinks", lambda state: found)


async def verified(folder: Path, run_id: str, witnesses: Sequence[str] = ()) -> Verification:
    deck = Observer(await Store.observe(StateDir(folder / "store")), missions=(), clock=SystemClock())
    try:
        return await deck.verify(run_id, witnesses=witnesses)
    finally:
        await deck.close()


def codes(verdict: Verification) -> list[str]:
    return [item.code for item in verdict.findings]


def standings(verdict: Verification) -> tuple[str, str, str]:
    return verdict.integrity.standing, verdict.completeness.standing, verdict.anchoring.standing


async def test_a_checkpoint_and_a_copy_elsewhere_give_the_best_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, note = await finished(tmp_path)
    alone = await verified(tmp_path, run_id)
    assert (alone.level, standings(alone), codes(alone)) == ("authenticated", ("good",) * 3, [])
    assert (alone.checkpoint_size, alone.unanchored_tail) == (alone.entries, 0)
    assert alone.words == note.checkpoint.words
    assert alone.key_words == trusted_keys(StateDir(tmp_path / "store"))[0].words
    sinks(monkeypatch, Remembering(note), Remembering(name="knows nothing"))
    both = await verified(tmp_path, run_id)
    assert (both.level, both.witnessed_size) == ("witnessed", both.entries)
    assert [(item.name, item.size, item.trouble) for item in both.sinks] == [
        ("far away", both.entries, ""),
        ("knows nothing", None, ""),
    ]
    blind = [item.what for item in both.manipulations if not item.revealed]
    assert blind == ["append a false entry at the end"]
    assert len([item for item in alone.manipulations if not item.revealed]) == 5


async def test_a_cut_back_store_is_whole_in_itself_and_not_for_a_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, note = await finished(tmp_path)
    tamper(
        tmp_path,
        CUT.format(run=run_id),
        f"DELETE FROM checkpoints WHERE journal_id = '{run_id}'",
        f"UPDATE runs SET status = 'running', entries = 6, last_seq = 5, head_hash = NULL WHERE run_id = '{run_id}'",
    )
    assert (await verified(tmp_path, run_id)).ok
    sinks(monkeypatch, Remembering(note))
    found = await verified(tmp_path, run_id)
    assert (found.ok, codes(found), found.trusted_prefix) == (False, ["J_TRUNCATED"], 0)
    assert found.bad_between == (0, 6)
    by_hand = await verified(tmp_path, run_id, [note.data.decode()])
    assert codes(by_hand) == ["J_TRUNCATED"]


async def test_a_journal_that_only_a_sink_knows_is_missing_and_one_nobody_knows_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, note = await finished(tmp_path)
    gone = f"WHERE journal_id = '{run_id}'"
    tamper(tmp_path, f"DELETE FROM journal_entries {gone}", f"DELETE FROM checkpoints {gone}", "DELETE FROM runs")
    with pytest.raises(Refused, match="there is no run"):
        await verified(tmp_path, run_id)
    sinks(monkeypatch, Remembering(note))
    found = await verified(tmp_path, run_id)
    assert (found.ok, found.entries, found.completeness.standing) == (False, 0, "bad")
    assert "J_MISSING" in codes(found)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_sink_in_trouble_is_told_and_never_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(gathering, "SINK_SECONDS", 0.01)
    run_id, _ = await finished(tmp_path)
    far = Remembering(trouble=Refused("SINK_TROUBLE", "the remote does not answer"))
    far.silent = silent
    sinks(monkeypatch, far)
    found = await verified(tmp_path, run_id)
    assert (found.ok, found.anchoring.standing) == (True, "warn")
    assert found.sinks[0].trouble == ("it did not answer within 0.01 s" if silent else "the remote does not answer")


async def test_the_stores_own_journal_has_the_stores_name_in_checkpoints(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        note = await checkpointed(host._store, "store")
        assert note.checkpoint.journal_id == f"store-{await host._store.checkpoints.store_id()}"
        found = await host.verify("store")
        assert (found.ok, found.level) == (True, "authenticated")
        other = await run_to_end(host, plain(tmp_path / "m", "  a: {type: template, template: hi}"))
        wrong = await host.verify(other.run_id, witnesses=[note.data.decode()])
        assert codes(wrong)[0] == "J_WITNESS_MISMATCH"
        with pytest.raises(Refused) as caught:
            await host.verify("store", witnesses=["I saw it"])
        assert caught.value.code == "WITNESS_FORMAT"


async def test_a_run_that_has_not_ended_may_not_be_shorter_than_its_row(tmp_path: Path) -> None:
    run_id, _ = await finished(tmp_path)
    cut = (f"DELETE FROM checkpoints WHERE journal_id = '{run_id}'", CUT.format(run=run_id))
    tamper(tmp_path, *cut, "UPDATE runs SET status = 'running', head_hash = NULL")
    found = await verified(tmp_path, run_id)
    assert (codes(found), standings(found)) == (["J_TRUNCATED"], ("good", "bad", "warn"))


async def test_a_journal_names_evidence_that_must_still_be_there(tmp_path: Path) -> None:
    """The second run's journal names the newest evidence of its time, which the first run left."""
    first, _ = await finished(tmp_path)
    async with hosting(tmp_path / "store") as host:
        second = (await run_to_end(host, str(tmp_path / "m"))).run_id
        assert (await host.verify(second)).ok
    tamper(tmp_path, "DELETE FROM checkpoints", f"DELETE FROM runs WHERE run_id = '{first}'")
    assert "J_ANCHOR_CHAIN" in codes(await verified(tmp_path, second))


async def test_an_undo_of_what_is_not_stored_is_found(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    async with hosting(tmp_path / "store") as host:
        begun = asyncio.create_task(
            run_to_end(host, writing(tmp_path / "m", on_failure="keep"), inputs={"root": str(tmp_path / "tree")})
        )
        first = await until(lambda: next(iter(host._runs), None))
        await question(host, first)
        await host.terminate(first)
        assert (await begun).status.terminal
        plan = await host.undo_plan(first)
        second = await host.undo(first, approved=plan.digest)
        async with asyncio.timeout(PATIENCE):
            assert (await host.wait(second.run_id)).status is RunStatus.SUCCEEDED
        assert (await host.verify(second.run_id)).ok
    tamper(tmp_path, f"DELETE FROM journal_entries WHERE journal_id = '{first}' AND kind = 'receipt'")
    found = await verified(tmp_path, second.run_id)
    assert (found.ok, codes(found), found.completeness.standing) == (False, ["J_UNDO_UNKNOWN"], "bad")


async def test_a_proof_holds_by_its_text_alone(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, path)
        note = await checkpointed(host._store, run.run_id)
        proof = await host.proof(run.run_id, 4)
        assert (proof.holds, proof.size, proof.words) == (True, run.entries, note.checkpoint.words)
        assert proof.signed_by == trusted_keys(host._store.state)[0].words
        text = read_proof(proof.text)
        (entry,) = await host.entries(run.run_id, after=3, limit=1)
        assert proof.entry_hash == entry.entry_hash
        assert entry.entry_hash.encode() in text.body
        assert text.holds()
        assert text.signed_by(trusted_keys(host._store.state), check_signature) is not None
        for seq in (run.entries, -1):
            with pytest.raises(Refused, match="no checkpoint covers"):
                await host.proof(run.run_id, seq)


# -- while a run goes on ----------------------------------------------------------------------------------------------


async def waiting(host: RuntimeHost, folder: Path) -> tuple[str, asyncio.Task[Any]]:
    """A run that waits for an answer."""
    task = asyncio.create_task(run_to_end(host, asking(folder / "m")))
    run_id = await until(lambda: next(iter(host._runs), None))
    await question(host, run_id)
    return run_id, task


async def test_the_quick_check_reads_what_is_new_and_a_sweep_everything(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        run_id, task = await waiting(host, tmp_path)
        check = LiveCheck(host._store, SystemClock(), run_id)
        first = await check.now()
        assert (first.ok, first.entries, first.completeness.standing) == (
            True,
            live(host, run_id).summary.entries,
            "good",
        )
        await checkpointed(host._store, run_id)
        assert (await check.now()).checkpoint_size == first.entries, "of entries that have gone by"
        tamper(tmp_path, f"UPDATE journal_entries SET at = '1999' WHERE journal_id = '{run_id}' AND seq = 2")
        assert (await check.now()).ok, "it has seen that entry before"
        swept = await check.sweep()
        assert ([item.seq for item in swept.findings], swept.ok) == ([2], False)
        assert not (await check.now()).ok, "it goes on from the sweep"
        await host.cancel(run_id)
        await task


class Clockwork:
    """Stands for the check of a live run."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, float]] = []

    async def now(self) -> Verification:
        return self._told("now")

    async def sweep(self) -> Verification:
        return self._told("sweep")

    def _told(self, what: str) -> Verification:
        self.calls.append((what, self.clock.monotonic()))
        return Verification(
            run_id=what, ok=True, entries=1, trusted_prefix=1, head_seq=0, head_hash="", closed=False, duration_ms=500
        )


class Growing:
    """A live run whose journal grows between any two looks."""

    def __init__(self) -> None:
        self.run_id = "run"
        self.prepared = self.journal = self
        self.count = 0

    @property
    def entries(self) -> int:
        self.count += 1
        return self.count


async def test_checks_take_a_tenth_of_the_time_and_a_sweep_comes_every_five_minutes() -> None:
    clock = ManualClock()
    work, shown = Clockwork(clock), []
    run: Any = Growing()
    check: Any = work
    task = asyncio.create_task(
        verify_live(run, check, clock=clock, going=lambda: clock.monotonic() < 700, show=shown.append)
    )
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    quick = [at for what, at in work.calls if what == "now"]
    assert min(later - earlier for earlier, later in pairwise(quick)) >= 20 * 0.5
    assert quick[0] <= VERIFY_SECONDS
    swept = [at for what, at in work.calls if what == "sweep"]
    assert len(swept) == 2
    assert swept[1] - swept[0] >= SWEEP_SECONDS
    assert [item.run_id for item in shown].count("sweep") == 2
