"""The runtime on its own thread: calls cross over, errors come back, and the thread always ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from runtime.events.facts import EntryAppended, StreamEvent
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.host.api import Answer, Launch, Refused, RunStatus, StorageError
from runtime.host.thread import ThreadedDeck, open_threaded_deck
from tests.support.hosting import PATIENCE, asking, plain


@pytest.fixture(autouse=True)
def quick_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    async def detect(*_: object, **__: object) -> Sandbox:
        return Sandbox(Unconfined(), confinement="best_effort")

    monkeypatch.setattr(Sandbox, "detect", detect)


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[ThreadedDeck]:
    with open_threaded_deck(str(tmp_path / "store")) as opened:
        yield opened
    assert_no_thread()


def assert_no_thread() -> None:
    assert "quarterdeck-runtime" not in {thread.name for thread in threading.enumerate()}


async def test_a_run_seen_from_another_loop(deck: ThreadedDeck, tmp_path: Path) -> None:
    feed = deck.subscribe()
    seen: list[StreamEvent] = []
    begun = await deck.launch(Launch(path=asking(tmp_path / "m")))
    async with asyncio.timeout(PATIENCE):
        while not (questions := await deck.escalations(run_id=begun.run_id)):
            await feed.wait()
            seen.extend(feed.drain())
        await deck.answer(Answer(escalation_id=questions[0].escalation_id, resolution="approved"))
        done = await deck.wait(begun.run_id)
        await deck.drained()
    assert done.status is RunStatus.SUCCEEDED
    seen.extend(feed.drain())
    assert [event.seq for event in seen if isinstance(event, EntryAppended)] == list(range(done.entries))
    feed.close()


async def test_every_question_a_face_may_ask(deck: ThreadedDeck, tmp_path: Path) -> None:
    run_id = (await deck.launch(Launch(path=plain(tmp_path / "m", "  a: {type: template, template: hi}")))).run_id
    await deck.wait(run_id)
    assert not deck.read_only
    assert deck.store_path == str(tmp_path / "store")
    assert (await deck.find(run_id[:8])).run_id == run_id
    assert [run.run_id for run in await deck.runs()] == [run_id]
    assert [node.node_id for node in await deck.nodes(run_id)] == ["a"]
    assert (await deck.verify(run_id)).ok
    assert len(await deck.entries(run_id, limit=2)) == 2
    assert await deck.violations(run_id) == ()
    assert await deck.missions() == ()
    assert (await deck.mission(str(tmp_path / "m"))).name == "plain"
    assert await deck.artifact("sha256:" + "0" * 64) is None
    assert (await deck.holder()) is not None
    for verb in (deck.cancel, deck.terminate, deck.stop, deck.pause, deck.resume):
        assert not (await verb(run_id)).done
    with pytest.raises(Refused):
        await deck.unlatch(str(tmp_path), "")


async def test_a_caller_who_gives_up_leaves_the_runtime_alone(deck: ThreadedDeck, tmp_path: Path) -> None:
    run_id = (await deck.launch(Launch(path=asking(tmp_path / "m")))).run_id
    waiting = asyncio.create_task(deck.wait(run_id))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await deck.cancel(run_id)).done
    assert (await deck.wait(run_id)).status is RunStatus.CANCELLED


def test_opening_that_fails_raises_and_ends_the_thread(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(StorageError), open_threaded_deck(str(tmp_path / "store")):
        pytest.fail("nothing was opened")
    assert_no_thread()


def test_an_interrupted_opening_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the sandbox is being tried out."""
    reached = threading.Event()

    async def slow(*_: object, **__: object) -> Sandbox:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    result = Future.result

    def interrupted(future: Future[object], timeout: float | None = None) -> object:
        if threading.current_thread() is not threading.main_thread():
            return result(future, timeout)
        assert reached.wait(PATIENCE)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sandbox, "detect", slow)
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt), open_threaded_deck(str(tmp_path / "store")):
            pytest.fail("nothing was opened")
    assert_no_thread()
    with open_threaded_deck(str(tmp_path / "store")) as deck:
        assert not deck.read_only


def test_a_body_that_fails_still_closes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_threaded_deck(str(tmp_path / "store")):
        raise ZeroDivisionError
    assert_no_thread()
    with open_threaded_deck(str(tmp_path / "store")) as first, open_threaded_deck(str(tmp_path / "store")) as second:
        assert not first.read_only
        assert second.read_only
