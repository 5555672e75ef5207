"""Keys do what the footer says: launch, cancel, approve, filter, palette; an observer may not."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_deck import AT, NODES, RUN, FakeDeck, entry, mission, run_summary
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from console.app import ConsoleApp
from console.panels.lines import LinesPanel
from console.screens.help import HelpScreen
from console.screens.home import HomeScreen
from console.screens.launch import LaunchScreen
from console.screens.run import RunScreen
from runtime.events.facts import Escalation, Finding, Holder, InboxChanged, RunChanged, Verification
from runtime.host.api import InputInfo, Refused, RunStatus

QUESTION = Escalation(
    escalation_id=f"{RUN}/ask.0",
    run_id=RUN,
    step_id="ask",
    reason="Publish this note?",
    severity="info",
    blocking=True,
    choices=("approved", "rejected"),
    subject_digest="sha256:" + "a" * 64,
    created_at=AT,
)


def deck(**changes: Any) -> FakeDeck:
    members: dict[str, Any] = {
        "missions_list": [mission(), mission("hello", inputs=())],
        "runs_list": [run_summary()],
        "nodes_list": NODES,
        "entries_list": [entry(0, "journal_opened", mission_id="fix-the-build")],
    }
    return FakeDeck(**{**members, **changes})


async def settle(pilot: Pilot[Any]) -> None:
    """Let workers and one tick of the feed pass."""
    await pilot.app.workers.wait_for_complete()
    pilot.app._tick()  # type: ignore[attr-defined]
    await pilot.pause()


async def open_run(pilot: Pilot[Any]) -> None:
    await settle(pilot)
    await pilot.press("2", "enter")
    await settle(pilot)
    assert isinstance(pilot.app.screen, RunScreen)


async def test_launch_sends_typed_inputs_and_opens_the_dashboard() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("n")
        await settle(pilot)
        assert isinstance(pilot.app.screen, LaunchScreen)
        field = pilot.app.screen.query_one("#input-goal", Input)
        field.value = "Repair it"
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)
    verb, intent = fake.intents[0]
    assert verb == "launch"
    assert (intent.path, dict(intent.inputs), intent.trigger) == ("fix-the-build", {"goal": "Repair it"}, "console")


async def test_a_refused_launch_keeps_the_sheet_and_says_why() -> None:
    fake = deck(refuse_launch=Refused("REPO_DIRTY", "the work tree has changes"))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("n")
        await settle(pilot)
        await pilot.press("ctrl+s")
        await settle(pilot)
        assert isinstance(pilot.app.screen, LaunchScreen)
        assert "REPO_DIRTY" in str(pilot.app.screen.query_one("#launch-problem").render())


async def test_choices_and_booleans_keep_their_type() -> None:
    inputs = (
        InputInfo(name="audience", type="string", required=True, choices=("team", "customers"), default="team"),
        InputInfo(name="dry", type="boolean", required=False, default=True),
    )
    fake = deck(missions_list=[mission(inputs=inputs)])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("n")
        await settle(pilot)
        await pilot.press("ctrl+s")
        await settle(pilot)
    assert dict(fake.intents[0][1].inputs) == {"audience": "team", "dry": True}


@pytest.mark.parametrize(("key", "verb"), [("x", "cancel"), ("p", "pause")])
async def test_control_keys_reach_the_runtime(key: str, verb: str) -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press(key)
        await settle(pilot)
    assert fake.intents[0][:2] == (verb, RUN)


async def test_p_resumes_a_paused_run() -> None:
    fake = deck(runs_list=[run_summary(status=RunStatus.PAUSED)])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("p")
        await settle(pilot)
    assert fake.intents[0][:2] == ("resume", RUN)


async def test_terminate_wants_the_id_and_a_reason() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("X")
        await settle(pilot)
        box = pilot.app.screen.query_one("#confirmation", Input)
        box.value = "8b3f0000"
        await pilot.press("enter")
        await settle(pilot)
        assert fake.intents == []
        box.value = "8b3f0000 it hangs"
        await pilot.press("enter")
        await settle(pilot)
    assert fake.intents == [("terminate", RUN, "it hangs")]


@pytest.mark.parametrize(("key", "resolution"), [("a", "approved"), ("R", "rejected")])
async def test_answering_the_open_question(key: str, resolution: str) -> None:
    fake = deck(inbox=[QUESTION])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("exclamation_mark")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)
        assert pilot.app.screen.query_one("#question").display
        await pilot.press(key)
        await settle(pilot)
        assert fake.intents[0][0] == "answer"
        assert fake.intents[0][1].resolution == resolution
        fake.publish(InboxChanged(escalations=()))
        await settle(pilot)
        assert not pilot.app.screen.query_one("#question").display


async def test_answer_keys_are_off_without_a_question() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("a")
        await settle(pilot)
    assert fake.intents == []


async def test_control_keys_are_off_once_a_run_has_ended() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        fake.publish(RunChanged(run=run_summary(status=RunStatus.SUCCEEDED)))
        await settle(pilot)
        await pilot.press("x", "p")
        await settle(pilot)
    assert fake.intents == []


async def test_filter_narrows_missions_and_runs() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, HomeScreen)
        await pilot.press("slash", *"hello")
        await settle(pilot)
        assert [item.name for item in screen._missions] == ["hello"]
        assert screen.query_one("#runs", DataTable).row_count == 0
        await pilot.press("escape")
        await settle(pilot)
        assert screen.query_one("#runs", DataTable).row_count == 1


async def test_palette_launches_a_mission() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press(*"launch hello")
        await pilot.pause(0.4)
        await pilot.press("enter")
        await pilot.pause(0.2)
        await settle(pilot)
        assert isinstance(pilot.app.screen, LaunchScreen)


async def test_help_lists_keys_and_says_which_are_off() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("question_mark")
        await settle(pilot)
        assert isinstance(pilot.app.screen, HelpScreen)
        text = "\n".join("".join(part for part, _ in row) for row in pilot.app.screen._rows())
        assert "Cancel" in text
        assert "Approve   off now" in text


async def test_an_observer_is_told_who_writes() -> None:
    holder = Holder(pid=4711, host="bridge", epoch=3, started_at=AT, heartbeat_at=AT)
    fake = deck(read_only=True, holder_info=holder)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("x")
        await settle(pilot)
        shown = " ".join(str(item.message) for item in pilot.app._notifications)
        assert "4711" in shown
    assert fake.intents == []


async def test_a_broken_chain_is_red_and_named() -> None:
    finding = Finding(code="J_ENTRY_HASH", severity="error", seq=0, detail="hash differs")
    verdict = Verification(
        run_id=RUN, ok=False, entries=1, trusted_prefix=0, head_seq=0, head_hash=None, closed=False, findings=(finding,)
    )
    fake = deck(verdict=verdict)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("V")
        await settle(pilot)
        journal = pilot.app.screen.query_one("#journal", LinesPanel)
        assert journal.has_class("-broken")
        assert "BROKEN at entry 0 J_ENTRY_HASH" in str(journal.border_title)


async def test_hostile_text_is_drawn_as_text() -> None:
    """Markup in mission text stays text: no link, no action, no crash."""
    hostile = "[@click=app.quit]free[/] \x1b]0;owned\x07 [/unbalanced"
    fake = deck(missions_list=[mission("bad", description=hostile)], inbox=[QUESTION])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        drawn = "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        assert "[@click=app.quit]free[/]" in drawn
        assert "\x1b" not in drawn
