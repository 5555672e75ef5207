"""Several processes, one store: one holds it, the others reach it or only look (rulings R35, R36)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.host import control
from runtime.host.api import Ack, Answer, Deck, Launch, Refused, RunSummary
from runtime.host.opening import open_console_deck
from tests.support.deckhand import SAMPLES, Deckhand, Going, deckhand, mission, poll, tree

pytestmark = pytest.mark.slow

FAILING = """\
mission: failing
version: "1"
description: Fails on purpose.
workspace: {kind: none}
blocks:
  no: {type: gate_check, check: non_empty, condition: {proof: ""}}
"""
SLOW = """\
mission: slow
version: "1"
description: Takes a while, in steps.
workspace: {kind: none}
blocks:
  a: {type: delay, seconds: 0.5}
  b: {type: delay, seconds: 0.5}
  c: {type: delay, seconds: 0.5}
links: [a -> b -> c]
"""


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


@contextlib.contextmanager
def holding(deck: Deckhand) -> Iterator[Going]:
    """A process that holds the store because its own run waits for an answer."""
    holder = deck.start("run", str(SAMPLES / "approval"), "--await-approval", "--json")
    run_id = holder.run_id()
    deck.until(run_id, "waiting")
    try:
        yield holder
    finally:
        if holder.process.poll() is None:
            holder.signal(signal.SIGCONT)
            deck.inline("reject", run_id)
    assert holder.finish().code == 3


def test_a_second_run_attaches_and_takes_its_exit_code(deck: Deckhand, tmp_path: Path) -> None:
    with holding(deck) as holder:
        good = deck.run("run", str(SAMPLES / "hello"), "--input", "name=Bo", "--json")
        assert good.code == 0, good
        assert good.done["outputs"] == {"greeting": "Hello, Bo. The deck is yours."}
        bad = deck.inline("run", mission(tmp_path, FAILING), "--json")
        assert bad.code == 1, bad
        assert bad.done["code"] == "op.gate_not_passed"
        unattended = deck.inline("run", str(SAMPLES / "approval"), "--no-input", "--json")
        assert unattended.code == 3, unattended
        # All of it happened in the holder, whose own run still waits.
        assert deck.status(holder.run_id()) == "waiting"
    for done in (good, bad):
        assert deck.entries(done.run_id)[-1]["kind"] == "journal_closed"
        deck.assert_verifies(done.run_id)


def test_mistakes_are_told_the_same_through_a_holder(deck: Deckhand, tmp_path: Path) -> None:
    """Positions, carets and advice travel too."""
    broken = mission(tmp_path, FAILING.replace("gate_check", "gate_chek").replace("version", "verison"))
    mistakes = (
        ["run", str(tmp_path / "nowhere"), "--json"],
        ["run", broken, "--json"],
        ["run", broken],
        ["run", str(SAMPLES / "hello"), "--input", "age=3", "--json"],
        ["run", str(SAMPLES / "hello"), "--input", "age=3"],
        ["cancel", "zzz", "--json"],
    )
    alone = [deck.inline(*mistake) for mistake in mistakes]
    with holding(deck):
        told = [deck.inline(*mistake) for mistake in mistakes]
    assert [done.code for done in alone] == [2] * len(mistakes)
    for first, second in zip(alone, told, strict=True):
        assert (second.code, second.out, second.err) == (first.code, first.out, first.err)


def test_a_relative_path_means_the_callers_folder(
    deck: Deckhand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mission(tmp_path / "here", FAILING)
    monkeypatch.chdir(tmp_path)
    with holding(deck):
        assert deck.inline("run", "here").code == 1


def test_interrupting_an_attached_run_cancels_that_run_only(deck: Deckhand, tmp_path: Path) -> None:
    with holding(deck) as holder:
        other = deck.start("run", mission(tmp_path, SLOW), "--json")
        run_id = other.run_id()
        other.signal(signal.SIGINT)
        done = other.finish()
        assert done.code == 130, done
        assert deck.status(run_id) == "cancelled"
        assert deck.status(holder.run_id()) == "waiting"
    deck.assert_verifies(run_id)


def test_the_holders_own_run_ends_first(deck: Deckhand, tmp_path: Path) -> None:
    """Whoever attached still gets the run they asked for, and its exit code."""
    with holding(deck) as holder:
        other = deck.start("run", mission(tmp_path, SLOW), "--json")
        run_id = other.run_id()
        assert deck.inline("reject", holder.run_id()).code == 0
        assert holder.finish().code == 3
        done = other.finish()
        assert done.code == 0, done
        assert deck.status(run_id) == "succeeded"
    deck.assert_verifies(run_id)


def test_the_holder_dies_under_an_attached_run(deck: Deckhand, tmp_path: Path) -> None:
    holder = deck.start("run", str(SAMPLES / "approval"), "--await-approval", "--json")
    first = holder.run_id()
    deck.until(first, "waiting")
    other = deck.start("run", mission(tmp_path, SLOW), "--json")
    second = other.run_id()
    holder.kill()
    done = other.finish()
    assert done.code == 1, done
    assert done.lines[-1]["resumable"] is True, "what became of it"
    listed = {line["run_id"]: line for line in deck.inline("runs", "--json").lines}
    assert listed[first]["resumable"] is True
    assert listed[second]["resumable"] is True
    assert deck.inline("resume", second).code == 0
    assert deck.inline("cancel", first).code == 0
    assert [deck.status(second), deck.status(first)] == ["succeeded", "cancelled"]


def test_a_client_that_goes_away_leaves_its_run_alone(deck: Deckhand, tmp_path: Path) -> None:
    with holding(deck):
        other = deck.start("run", mission(tmp_path, SLOW), "--json")
        run_id = other.run_id()
        other.kill()
        assert deck.until(run_id, "succeeded", "failed", "cancelled") == "succeeded"


def test_a_holder_keeps_nothing_open_of_runs_that_ended(deck: Deckhand) -> None:
    def work_trees(pid: int) -> list[str]:
        links = [str(item.readlink()) for item in Path(f"/proc/{pid}/fd").iterdir() if item.is_symlink()]
        return [link for link in links if "/work/" in link]

    with holding(deck) as holder:
        before = work_trees(holder.pid)
        for _ in range(3):
            assert deck.inline("run", str(SAMPLES / "guarded")).code == 0
        poll("the holder to let go", lambda: sorted(work_trees(holder.pid)) == sorted(before), limit=5)


INTENTS: dict[str, Callable[[Deck, str], Awaitable[Ack | RunSummary]]] = {
    "launch": lambda deck, run: deck.launch(Launch(path=str(SAMPLES / "hello"))),
    "cancel": lambda deck, run: deck.cancel(run),
    "terminate": lambda deck, run: deck.terminate(run),
    "stop": lambda deck, run: deck.stop(run),
    "pause": lambda deck, run: deck.pause(run),
    "resume": lambda deck, run: deck.resume(run),
    "answer": lambda deck, run: deck.answer(Answer(escalation_id=run, resolution="approved")),
}


@contextlib.asynccontextmanager
async def observing(store: Path) -> AsyncIterator[Deck]:
    observer = await open_console_deck(str(store))
    try:
        yield observer
    finally:
        await observer.close()


def test_a_second_console_observes_and_says_who_holds_the_store(deck: Deckhand) -> None:
    async def look(pid: int, run_id: str) -> None:
        async with observing(deck.store) as observer:
            assert observer.read_only
            held = await observer.holder()
            assert held is not None
            assert held.pid == pid
            for name, act in INTENTS.items():
                with pytest.raises(Refused) as refusal:
                    await act(observer, run_id)
                assert refusal.value.code == "STORE_LOCKED", name
                assert str(pid) in refusal.value.message, name
                assert refusal.value.hint, name
            # Looking works as for the holder.
            assert (await observer.find("@latest")).run_id == run_id
            assert (await observer.verify(run_id)).ok
            assert [item.run_id for item in await observer.escalations(run_id=run_id)] == [run_id]

    with holding(deck) as holder:
        run_id = holder.run_id()
        asyncio.run(look(holder.pid, run_id))
        assert deck.status(run_id) == "waiting"


async def test_an_observer_sees_the_run_go_on(deck: Deckhand) -> None:
    holder = deck.start("run", str(SAMPLES / "approval"), "--await-approval", "--json")
    run_id = holder.run_id()
    deck.until(run_id, "waiting")
    async with observing(deck.store) as observer:
        feed = observer.subscribe()
        kinds: set[str] = set()
        approving = deck.start("approve", run_id)
        final = await observer.wait(run_id)
        while "RunChanged" not in kinds:
            await feed.wait()
            kinds |= {type(event).__name__ for event in feed.drain()}
        feed.close()
    assert final.status.value == "succeeded"
    assert approving.finish().code == 0
    assert holder.finish().code == 0


def test_a_hung_holder_is_named_and_nothing_is_done(deck: Deckhand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, not dead: the lock is held and the socket takes connections that nobody answers."""
    quick = replace(control.ControlLimits(), connect_seconds=0.5, silence_seconds=0.5)
    monkeypatch.setattr(control, "ControlLimits", lambda: quick)
    with holding(deck) as holder:
        runs = len(deck.rows("SELECT 1 FROM runs"))
        holder.signal(signal.SIGSTOP)
        for verb in (["run", str(SAMPLES / "hello")], ["cancel", holder.run_id()]):
            done = deck.inline(*verb)
            assert done.code == 8, done
            assert "STORE_UNRESPONSIVE" in done.err
            assert str(holder.pid) in done.err
        assert deck.inline("show", holder.run_id()).code == 0, "looking still works"
        assert len(deck.rows("SELECT 1 FROM runs")) == runs
        holder.signal(signal.SIGCONT)
        assert deck.inline("run", str(SAMPLES / "hello")).code == 0, "awake again, it serves again"


# -- one work tree ------------------------------------------------------------------------------------------------

BUSY = """\
mission: busy
version: "1"
description: Write, then take a moment.
inputs: {root: {type: string}, name: {type: string}}
workspace: {root: "${inputs.root}"}
envelope: {allowed_paths: ["*.txt"], allowed_tools: [filesystem.write_file]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: "${inputs.name}", content: "x"}
  wait: {type: delay, seconds: SECONDS}
links: [write -> wait]
"""


def test_a_busy_work_tree_is_refused_or_waited_for(deck: Deckhand, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    path = mission(tmp_path / "m", BUSY.replace("SECONDS", "1.5"))
    quick = mission(tmp_path / "q", BUSY.replace("SECONDS", "0"))
    first = deck.start("run", path, "--input", f"root={root}", "--input", "name=a.txt", "--json")
    run_id = first.run_id()
    second = deck.inline("run", quick, "--input", f"root={root}", "--input", "name=b.txt", "--json")
    assert second.code == 8, second
    assert second.done["status"] == "refused"
    assert run_id[:8] in second.done["message"], "who works there"
    assert "b.txt" not in tree(root)
    patient = deck.inline("run", quick, "--input", f"root={root}", "--input", "name=c.txt", "--wait", "--json")
    assert patient.code == 0, patient
    assert first.finish().code == 0
    assert set(tree(root)) == {"a.txt", "c.txt"}
