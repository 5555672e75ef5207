"""Questions a run asks and offers to undo: one key to answer, and what is asked is shown first."""

from __future__ import annotations

from dataclasses import replace

from support.fake_deck import AT, RUN, entry, run_summary
from support.pictures import QUESTION, deck, drawn, notices, open_run, settle
from textual.widgets import Input

from console.app import ConsoleApp
from console.screens.dialogs import AnswerScreen
from console.screens.run import RunScreen
from runtime.events.facts import InboxChanged, UndoPlan, UndoStep, offer_id
from runtime.host.api import RunStatus


async def test_undoing_an_ended_run_shows_what_goes_and_wants_the_digest() -> None:
    steps = tuple(
        UndoStep(operation_id=name, step_id=name, compensation=kind, command="", paths=(path,))
        for name, kind, path in (("commit.0", "git_reset_soft", "src/a.py"), ("apply.0", "fs_restore", "src/a.py"))
    )
    digest = "sha256:" + "c0ffee42" * 8
    fake = deck(
        runs_list=[run_summary(status=RunStatus.SUCCEEDED, entries=1)],
        standing=UndoPlan(run_id=RUN, mission="fix-the-build", digest=digest, steps=steps),
    )
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("U")
        await settle(pilot)
        picture = drawn(pilot)
        assert digest[:23] in picture
        assert picture.index("commit.0  git_reset_soft  src/a.py") < picture.index("apply.0   fs_restore  src/a.py")
        box = pilot.app.screen.query_one("#confirmation", Input)
        box.value = f"{RUN[:8]} not wanted"
        await pilot.press("enter")
        await settle(pilot)
        assert fake.intents == []
        box.value = "c0ffee42 not wanted"
        await pilot.press("enter")
        await settle(pilot)
        await settle(pilot)
        assert f"undo of {RUN[:8]}" in drawn(pilot), "its run is opened"
        await pilot.press("U")
        assert "has not ended" in notices(pilot)
    assert fake.intents == [("undo", RUN, "not wanted", digest)]


async def test_an_ended_run_asks_whether_to_undo_it() -> None:
    offer = replace(QUESTION, escalation_id=offer_id(RUN), choices=("undo", "keep"), reason="Undo it?")
    fake = deck(runs_list=[run_summary(status=RunStatus.CANCELLED)], inbox=[offer])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("exclamation_mark")
        await settle(pilot)
        assert "Undo it?" in drawn(pilot)
        await pilot.press("a")
        assert "this question offers undo, keep; enter chooses" in notices(pilot)
        await pilot.press("3", "enter")
        await settle(pilot)
        await pilot.press("down", "enter")
        await settle(pilot)
    ((verb, answer),) = fake.intents
    assert (verb, answer.escalation_id, answer.resolution) == ("answer", offer.escalation_id, "keep")


async def test_approving_the_open_question_is_one_key() -> None:
    fake = deck(inbox=[QUESTION])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("exclamation_mark")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.screen.query_one("#notice").display
        await pilot.press("a")
        await settle(pilot)
        assert fake.intents[0][0] == "answer"
        assert fake.intents[0][1].resolution == "approved"
        fake.publish(InboxChanged(escalations=()))
        await settle(pilot)
        assert not pilot.app.screen.query_one("#notice").display


async def test_rejecting_shows_what_is_asked_and_takes_a_reason() -> None:
    """A rejection ends the run, so it is two keys; the value the step was given is there to look at."""
    asked = entry(
        1,
        "step_started",
        step_id="ask",
        operation_type="human",
        status="running",
        started_at=AT,
        inputs={"value": "# Release 1.0\nFor: team"},
    )
    fake = deck(inbox=[QUESTION], entries_list=[entry(0, "journal_opened", mission_id="approval"), asked])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("R")
        await settle(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, AnswerScreen)
        assert "# Release 1.0" in drawn(pilot)
        screen.query_one("#note", Input).value = "not today"
        await pilot.press("enter")
        await settle(pilot)
    assert (fake.intents[0][1].resolution, fake.intents[0][1].notes) == ("rejected", "not today")


async def test_a_question_with_its_own_answers_offers_them() -> None:
    fake = deck(inbox=[replace(QUESTION, choices=("monday", "friday"))])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("a")
        await settle(pilot)
        assert fake.intents == []
        assert "monday, friday" in notices(pilot)
        await pilot.press("enter")
        await settle(pilot)
        await pilot.press("down", "enter")
        await settle(pilot)
    assert fake.intents[0][1].resolution == "friday"


async def test_the_inbox_lists_every_open_question() -> None:
    fake = deck(inbox=[QUESTION])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("i")
        await settle(pilot)
        assert "Publish this note?" in drawn(pilot)
        await pilot.press("a")
        await settle(pilot)
    assert fake.intents[0][1].escalation_id == QUESTION.escalation_id


async def test_answer_keys_are_off_without_a_question() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("a")
        await settle(pilot)
    assert fake.intents == []


async def test_a_journal_that_lost_entries_is_seen_everywhere_and_asks_nothing() -> None:
    told = replace(QUESTION, run_id="store", escalation_id="store/behind/1", severity="critical", blocking=False)
    told = replace(told, choices=(), reason="the store's own journal has 3 entries, sink memory knows 9")
    async with ConsoleApp(deck(inbox=[told])).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert "1 journal behind" in drawn(pilot)
        assert "waiting for you" not in drawn(pilot)
        await pilot.press("i")
        await settle(pilot)
        assert "has 3 entries, sink memory knows 9" in drawn(pilot)
        await pilot.press("a")
        assert "no question is open" in notices(pilot)
