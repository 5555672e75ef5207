"""Looking at a store somebody else holds, and asking its holder to act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.blocks.packs.folders import pack_digest
from runtime.events.facts import EntryAppended, HolderChanged, InboxChanged, RunChanged, StreamEvent
from runtime.host.api import Answer, Deck, Launch, Refused, RunStatus, StorageError
from runtime.host.observer import Observer, RemoteDeck
from runtime.host.opening import open_console_deck, open_deck
from runtime.host.runtime_host import RuntimeHost
from runtime.missions.problems import MissionInvalid
from tests.support.hosting import (
    PATIENCE,
    asking,
    hosting,
    open_host,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
)
from tests.support.packs import HEALTHY, write_pack


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
async def observer(tmp_path: Path, host: RuntimeHost) -> AsyncIterator[Deck]:
    deck = await open_console_deck(str(tmp_path / "store"))
    yield deck
    await deck.close()


@pytest.fixture
async def remote(tmp_path: Path, host: RuntimeHost) -> AsyncIterator[Deck]:
    deck = await open_deck(str(tmp_path / "store"), writing=True)
    yield deck
    await deck.close()


async def test_an_observer_says_who_holds_the_store(observer: Deck, tmp_path: Path) -> None:
    assert isinstance(observer, Observer)
    assert observer.read_only
    answer = Answer(escalation_id="x", resolution="approved")
    for intent in (
        observer.launch(Launch(path="x")),
        observer.cancel("x"),
        observer.terminate("x"),
        observer.stop("x"),
        observer.pause("x"),
        observer.resume("x", unattended=True),
        observer.undo("x"),
        observer.unlatch("x", "y"),
        observer.unprotect("x", "a/**", "sha256:0", "y"),
        observer.trust_pack("x", "sha256:0"),
        observer.untrust_pack("sha256:0"),
        observer.answer(answer),
    ):
        with pytest.raises(Refused, match="held by pid") as caught:
            await intent
        assert caught.value.code == "STORE_LOCKED"
    await observer.drained()


async def test_an_observer_sees_every_entry_of_a_long_run_once(
    observer: Deck, host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More entries between two looks than one page holds, and none after."""
    monkeypatch.setattr("runtime.host.observer._PAGE", 4)
    feed = observer.subscribe()
    seen: list[StreamEvent] = []

    def look(kind: type[StreamEvent]) -> list[StreamEvent]:
        seen.extend(feed.drain())
        return [event for event in seen if isinstance(event, kind)]

    await until(lambda: look(HolderChanged))
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}\n  b: {type: template, template: x}", "[a -> b]")
    done = await run_to_end(host, path)
    await until(lambda: len(look(EntryAppended)) >= done.entries)
    assert [event.seq for event in seen if isinstance(event, EntryAppended)] == list(range(done.entries))
    await until(
        lambda: any(
            isinstance(event, RunChanged) and event.run.status is RunStatus.SUCCEEDED for event in look(RunChanged)
        )
    )
    feed.close()


async def test_an_observer_sees_questions_and_the_end(observer: Deck, host: RuntimeHost, tmp_path: Path) -> None:
    feed = observer.subscribe()
    run_id = (await host.launch(Launch(path=asking(tmp_path / "m")))).run_id
    asked = await question(host, run_id)
    inbox: list[InboxChanged] = []

    def look() -> bool:
        inbox.extend(event for event in feed.drain() if isinstance(event, InboxChanged))
        return bool(inbox) and bool(inbox[-1].escalations)

    await until(look)
    assert inbox[-1].escalations[0].escalation_id == asked.escalation_id
    waiting = asyncio.create_task(observer.wait(run_id))
    await host.cancel(run_id)
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).status is RunStatus.CANCELLED


async def test_waiting_for_a_run_whose_holder_goes_ends(tmp_path: Path) -> None:
    host = await open_host(tmp_path / "store")
    observer = await open_console_deck(str(tmp_path / "store"))
    remote = await open_deck(str(tmp_path / "store"), writing=True)
    try:
        run_id = (await host.launch(Launch(path=asking(tmp_path / "m")))).run_id
        await question(host, run_id)
        waits = [asyncio.create_task(deck.wait(run_id)) for deck in (observer, remote)]
        await asyncio.sleep(0.05)
        await host.close()
        async with asyncio.timeout(PATIENCE):
            for found in await asyncio.gather(*waits):
                assert found.resumable
                assert not found.status.terminal
    finally:
        await remote.close()
        await observer.close()


async def test_every_verb_through_the_holder(remote: Deck, host: RuntimeHost, tmp_path: Path) -> None:
    assert isinstance(remote, RemoteDeck)
    assert not remote.read_only
    begun = await remote.launch(Launch(path=asking(tmp_path / "m"), trigger="cli"))
    asked = await question(host, begun.run_id)
    assert (await remote.pause(begun.run_id, "a moment")).done
    assert (await remote.resume(begun.run_id)).done
    await remote.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    assert (await remote.wait(begun.run_id)).status is RunStatus.SUCCEEDED
    second = await remote.launch(Launch(path=asking(tmp_path / "m")))
    await question(host, second.run_id)
    assert (await remote.cancel(second.run_id)).done
    assert (await remote.wait(second.run_id)).exit_code == 130
    with pytest.raises(Refused, match="does not recur"):
        await remote.stop((await remote.launch(Launch(path=asking(tmp_path / "m")))).run_id)
    third = await remote.launch(Launch(path=asking(tmp_path / "m")))
    assert (await remote.terminate(third.run_id)).done
    with pytest.raises(Refused, match="UNDO_NOTHING"):
        await remote.undo(begun.run_id, "it wrote nothing")
    assert not (await remote.unlatch(str(tmp_path), "nothing there")).done
    assert not (await remote.unprotect(str(tmp_path), "secrets/**", "sha256:0", "nothing there")).done
    about = write_pack(tmp_path / "pack", "sample", HEALTHY)
    assert (await remote.trust_pack(str(tmp_path / "pack"), pack_digest(tmp_path / "pack"))).done
    assert [pack.name for pack in await remote.trusted_packs()] == [about.name]
    assert not (await remote.untrust_pack("sha256:0")).done


async def test_refusals_travel_with_code_and_advice(remote: Deck, tmp_path: Path) -> None:
    for intent in (remote.cancel("nope"), remote.wait("nope"), remote.resume("nope", unattended=False)):
        with pytest.raises(Refused) as caught:
            await intent
        assert caught.value.code == "RUN_UNKNOWN"
        assert caught.value.hint
    with pytest.raises(Refused) as caught:
        await remote.unlatch(str(tmp_path), "")
    assert caught.value.code == "LATCH_REASON"
    with pytest.raises(MissionInvalid) as invalid:
        await remote.launch(Launch(path=write_mission(tmp_path / "m", "mission: x\n")))
    assert invalid.value.problems, "every position, not one message"


@pytest.mark.parametrize(
    "request_",
    [
        {"verb": "explode"},
        {"verb": "cancel"},
        {"verb": "cancel", "run_id": 3},
        {"verb": "launch", "nonsense": 1},
        {"verb": "answer"},
        {"verb": "resume", "run_id": "x", "unattended": "maybe"},
    ],
    ids=str,
)
async def test_requests_that_do_not_fit_are_refused(remote: Deck, request_: dict[str, object]) -> None:
    assert isinstance(remote, RemoteDeck)
    arguments = dict(request_)
    with pytest.raises(Refused) as caught:
        await remote._ask(str(arguments.pop("verb")), **arguments)
    assert caught.value.code == "CONTROL_VERB"


async def test_a_fault_of_the_holder_is_not_blamed_on_the_request(
    remote: Deck, host: RuntimeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(host, "pause", broken)
    with pytest.raises(Refused) as caught:
        await remote.pause("x")
    assert caught.value.code == "CONTROL_FAILED"


async def test_a_holder_that_does_not_answer_is_named(tmp_path: Path, host: RuntimeHost) -> None:
    await host._server.close()
    with pytest.raises(StorageError, match=r"process .* which holds the store since") as caught:
        await open_deck(str(tmp_path / "store"), writing=True)
    assert caught.value.code == "STORE_UNRESPONSIVE"
