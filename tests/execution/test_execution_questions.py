"""Asking a human: what is open, what an answer does, and what becomes of a question nobody needs any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.blocks.errors import BlockRuntimeError
from runtime.events.facts import Escalation
from runtime.execution import questions as room
from runtime.execution.questions import WITHDRAWN, Questions, Reply
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Refused, StorageError
from runtime.kernel.ports import Settled


class Journal:
    """Keeps entries; ``durable`` is what an append returns to await."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.durable: Any = Settled()

    def append(self, kind: str, /, **members: Any) -> Any:
        self.entries.append({"kind": kind, **members})
        return self


class Inbox:
    """One run's questions with everything around them."""

    def __init__(self, **options: Any) -> None:
        self.journal = Journal()
        self.told: list[Escalation] = []
        self.leaving = False
        given: dict[str, Any] = {"unattended": False, "answered": {}, **options}
        self.questions = Questions(
            run_id="run",
            journal=self.journal,
            clock=ManualClock(),
            changed=self.told.append,
            leaving=lambda: self.leaving,
            **given,
        )

    def ask(self, question_id: str = "a.ask0", **members: Any) -> asyncio.Task[Reply]:
        told = {"step_id": "a", "prompt": "Really?", "choices": ("approved", "rejected"), "subject": 1, **members}
        return asyncio.ensure_future(self.questions.ask(question_id=question_id, **told))

    async def answer(self, resolution: str = "approved", question_id: str = "a.ask0") -> None:
        await self.questions.answer(f"run/{question_id}", resolution=resolution, by="ada", notes="n")


async def test_an_answer_reaches_the_asker_and_closes_the_question() -> None:
    inbox = Inbox()
    asker = inbox.ask()
    await asyncio.sleep(0)
    assert [item.escalation_id for item in inbox.questions.open] == ["run/a.ask0"]
    await inbox.answer()
    assert inbox.questions.open == (), "closed with the answer, not when the asker gets to run"
    assert await asker == Reply(resolution="approved", by="ada", notes="n")
    assert [entry["phase"] for entry in inbox.journal.entries] == ["asked", "answered"]
    assert [item.resolution for item in inbox.told] == [None, "approved"]


async def test_the_asker_waits_until_the_answer_is_durable() -> None:
    inbox, durable = Inbox(), asyncio.get_running_loop().create_future()
    asker = inbox.ask()
    await asyncio.sleep(0)
    inbox.journal.durable = durable
    answering = asyncio.ensure_future(inbox.answer())
    await asyncio.sleep(0)
    assert not asker.done()
    with pytest.raises(Refused, match="may have been answered"):
        await inbox.answer("rejected")
    durable.set_result(None)
    await answering
    assert (await asker).resolution == "approved"


async def test_an_answer_the_store_lost_lets_nobody_go_on() -> None:
    inbox, durable = Inbox(), asyncio.get_running_loop().create_future()
    asker = inbox.ask()
    await asyncio.sleep(0)
    inbox.journal.durable = durable
    durable.set_exception(StorageError("STORE_FULL", "no room"))
    with pytest.raises(StorageError):
        await inbox.answer()
    await asyncio.sleep(0)
    assert not asker.done()
    asker.cancel()


async def test_an_answer_that_was_not_offered_changes_nothing() -> None:
    inbox = Inbox()
    asker = inbox.ask(choices=("yes", "no"))
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="choose from yes, no") as caught:
        await inbox.answer("approved")
    assert caught.value.code == "APPROVAL_CHOICE"
    await inbox.answer("yes")
    assert (await asker).resolution == "yes"


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_cancelled_asker_withdraws_unless_the_process_goes(leaving: bool) -> None:
    inbox = Inbox()
    asker = inbox.ask()
    await asyncio.sleep(0)
    inbox.leaving = leaving
    asker.cancel()
    with pytest.raises(Refused, match="not open"):
        await inbox.answer()  # in the same step, before the asker has noticed
    await asyncio.wait({asker})
    assert [item.resolution for item in inbox.told] == ([None] if leaving else [None, WITHDRAWN])
    assert inbox.questions.open == ()


async def test_nobody_is_asked_without_a_human() -> None:
    inbox = Inbox(unattended=True)
    with pytest.raises(BlockRuntimeError) as caught:
        await inbox.ask()
    assert caught.value.code == "approval.missing"
    assert inbox.journal.entries == []


async def test_an_earlier_answer_is_reused_for_that_question_and_subject_only() -> None:
    first = Inbox()
    asker = first.ask()
    await asyncio.sleep(0)
    digest = first.questions.open[0].subject_digest
    await first.answer()
    known = Inbox(answered={("run/a.ask0", digest): await asker})
    assert (await known.ask()).by == "ada"
    for other in (known.ask("a~1.2.1.ask0"), known.ask(subject=2), known.ask(prompt="Other?")):
        await asyncio.sleep(0)
        assert not other.done(), "another visit, subject or prompt is another question"
        other.cancel()
        await asyncio.wait({other})


async def test_open_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_OPEN", 1)
    inbox = Inbox()
    first = inbox.ask()
    await asyncio.sleep(0)
    with pytest.raises(BlockRuntimeError, match="more than 1"):
        await inbox.ask("b.ask0")
    first.cancel()
