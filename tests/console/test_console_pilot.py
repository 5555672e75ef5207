"""Keys do what the footer says: launch, cancel, approve, filter, palette; an observer may not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from support.fake_deck import AT, RUN, entry, mission, run_summary
from support.pictures import QUESTION, deck, drawn, notices, open_run, press, settle
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from console.app import ConsoleApp
from console.panels.keys import KeyBar
from console.panels.lines import LinesPanel
from console.screens.dialogs import DetailScreen
from console.screens.help import HelpScreen
from console.screens.home import HomeScreen
from console.screens.launch import LaunchScreen
from console.screens.leave import LeaveScreen
from console.screens.run import RunScreen
from runtime.events.facts import (
    Finding,
    Holder,
    InboxChanged,
    Place,
    RunChanged,
    Verification,
    Violation,
)
from runtime.host.api import Check, Examination, Health, InputInfo, ProbeOutcome, Refused, RunStatus, StorageError


def denials(count: int) -> list[Any]:
    """An opening entry and refusals after it."""
    members = {"step_id": "red", "operation_id": "red.0", "idempotency_key": "k", "code": "ENV_TOOL"}
    return [
        entry(0, "journal_opened", mission_id="m"),
        *(entry(seq, "operation_denied", **members) for seq in range(1, count)),
    ]


async def found_in_palette(pilot: Pilot[Any], text: str) -> None:
    """Wait until the palette, which searches after a pause of its own, offers ``text`` first."""
    offered = pilot.app.screen.query_one(OptionList)
    async with asyncio.timeout(10):
        while not offered.option_count or text not in str(offered.get_option_at_index(0).prompt):
            await pilot.pause(0.02)


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


async def test_a_launch_says_what_is_expected_and_not_knowing_keeps_nobody_from_starting() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        for refusals, words in (
            ({}, "no history"),
            ({"estimate": StorageError("STORE_IO", "disk\x1b[2J gone")}, "gone"),
        ):
            fake.refusals = refusals
            await settle(pilot)
            await pilot.press("n")
            await settle(pilot)
            shown = str(pilot.app.screen.query_one("#launch-expected").render())
            assert words in shown
            assert "\x1b" not in shown
            await pilot.press("escape")
        await settle(pilot)
        await pilot.press("n")
        await settle(pilot)
        await pilot.press("ctrl+s")
        await settle(pilot)
    assert [verb for verb, *_ in fake.intents] == ["launch"]


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


@pytest.mark.parametrize(("key", "verb"), [("x", "cancel"), ("p", "pause"), ("s", "stop")])
async def test_control_keys_reach_the_runtime(key: str, verb: str) -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press(key)
        await settle(pilot)
    assert fake.intents[0][:2] == (verb, RUN)


async def test_a_key_in_the_bottom_line_answers_to_a_click() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        shown = pilot.app.screen.query_one(KeyBar).render_line(0).text
        await pilot.click(KeyBar, offset=(shown.index("x Cancel") + 2, 0))
        await settle(pilot)
    assert fake.intents[0][:2] == ("cancel", RUN)


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


async def test_violations_of_all_runs_open_in_full() -> None:
    refused = Violation(
        run_id=RUN,
        mission="guarded",
        seq=6,
        at=AT,
        step_id="home",
        operation_id="home.0",
        code="PATH_HOME",
        reason="the path begins with ~",
        path="~/.ssh/id",
        rule="path syntax L15",
        position=Place(
            path="m/mission.yaml", line=12, column=3, snippet="   12 |   home: {}\n      |   ^", since="changed"
        ),
    )
    other = replace(refused, seq=7, code="ENV_TOOL", rule="envelope.allowed_tools", position=None)
    fake = deck(violations_list=[refused, other])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("v")
        await settle(pilot)
        await pilot.press("w")
        await settle(pilot)
        assert isinstance(pilot.app.screen, DetailScreen)
        assert "the path begins with ~" in drawn(pilot)
        assert "m/mission.yaml:12:3" in drawn(pilot)
        assert "the mission file has changed since" in drawn(pilot)
        await pilot.press("escape", "slash", *"l15")
        await settle(pilot)
        assert "violations  1 of 2" in drawn(pilot)
        assert "ENV_TOOL" not in drawn(pilot)
        await pilot.press(*"x")
        await settle(pilot)
        assert "nothing matches" in drawn(pilot)
        await pilot.press("escape")
        await settle(pilot)
        assert "ENV_TOOL" in drawn(pilot)
        await pilot.press("o")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)


async def test_an_entry_opens_as_the_journal_has_it() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, DetailScreen)
        assert '"kind": "journal_opened"' in drawn(pilot)


async def test_quitting_with_live_runs_asks_and_staying_is_the_default() -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("ctrl+q")
        await settle(pilot)
        assert isinstance(pilot.app.screen, LeaveScreen)
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, HomeScreen)
        assert not fake.closed


@pytest.mark.parametrize(("keys", "intents"), [(("down",), []), (("down", "down"), ["cancel"])])
async def test_quitting_closes_the_deck(keys: tuple[str, ...], intents: list[str]) -> None:
    fake = deck()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("ctrl+q")
        await settle(pilot)
        await pilot.press(*keys, "enter")
        await settle(pilot)
    assert fake.closed
    assert [intent[0] for intent in fake.intents] == intents
    assert pilot.app.return_value == 0


async def test_quitting_without_live_runs_does_not_ask() -> None:
    fake = deck(runs_list=[run_summary(status=RunStatus.SUCCEEDED)])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("ctrl+q")
        await settle(pilot)
    assert fake.closed


async def test_ctrl_c_says_how_to_quit() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("ctrl+c")
        await settle(pilot)
        assert "ctrl+q" in notices(pilot)


async def test_entries_the_feed_lost_are_read_from_the_store() -> None:
    """Entries 2 and 3 never came: the console pages them, in order and once each."""
    fake = deck(entries_list=denials(6))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        fake.entries_list, late = fake.entries_list[:2], fake.entries_list
        await open_run(pilot)
        state = pilot.app.opened  # type: ignore[attr-defined]
        assert state.last_seq == 1
        fake.entries_list = late
        fake.publish(late[4], late[5])
        await settle(pilot)
        await settle(pilot)
        assert (state.last_seq, state.violation_count, state.missing) == (5, 5, False)
        fake.publish(late[4], late[5])
        await settle(pilot)
        assert state.violation_count == 5


async def test_a_gap_the_store_cannot_fill_is_said_not_retried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.journal_reader.FRUITLESS_PAUSE", 0.0)
    fake = deck(entries_list=denials(3), runs_list=[run_summary(entries=9)])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        reads = len(fake.reads)
        await settle(pilot)
        await settle(pilot)
        assert pilot.app.opened.stalled  # type: ignore[attr-defined]
        assert len(fake.reads) == reads
        assert "3 of 9 entries readable" in drawn(pilot)


async def test_a_long_journal_shows_its_tail_before_it_is_folded() -> None:
    entries = denials(2000)
    fake = deck(entries_list=entries, runs_list=[run_summary(entries=2000)])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        state = pilot.app.opened  # type: ignore[attr-defined]
        assert fake.reads[0] == (1599, 400)
        assert all(limit <= 500 for _, limit in fake.reads)
        assert (state.last_seq, state.violation_count) == (1999, 1999)
        assert [row.seq for row in state.journal] == list(range(1600, 2000))


async def test_an_unchanged_dashboard_is_not_drawn_again() -> None:
    async with ConsoleApp(deck(), clock=lambda: 0.0).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await settle(pilot)
        app = pilot.app
        before = app.repaints  # type: ignore[attr-defined]
        for _ in range(5):
            app._tick()  # type: ignore[attr-defined]
        assert app.repaints == before  # type: ignore[attr-defined]


async def test_older_runs_are_paged_in_at_the_end_of_the_list() -> None:
    runs = [
        run_summary(
            run_id=f"{9999 - index:08d}-0000-4000-8000-000000000000", created_at=f"2026-01-{28 - index // 100:02d}"
        )
        for index in range(450)
    ]
    fake = deck(runs_list=sorted(runs, key=lambda run: (run.created_at, run.run_id), reverse=True))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert len(pilot.app.home.runs) == 200  # type: ignore[attr-defined]
        for expected in (400, 450, 450):
            await pilot.press("2", "G")
            await settle(pilot)
            assert len(pilot.app.home.runs) == expected  # type: ignore[attr-defined]


async def test_a_store_that_cannot_be_read_says_so_and_can_be_read_again() -> None:
    fake = deck(refuse_reads=StorageError("STORE_IO", "the disk is gone"))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert "the disk is gone [STORE_IO]" in drawn(pilot)
        fake.refuse_reads = None
        await pilot.press("ctrl+r")
        await settle(pilot)
        assert "fix-the-build" in drawn(pilot)


async def test_a_finished_run_shows_the_output_its_receipts_kept() -> None:
    receipt = {"operation_id": "red.0", "step_id": "red", "status": "success", "output_hash": "sha256:1"}
    fake = deck(
        runs_list=[run_summary(status=RunStatus.SUCCEEDED)],
        entries_list=[entry(0, "journal_opened", mission_id="m"), entry(1, "receipt", receipt=receipt)],
        artifacts={"sha256:1": b'{"stdout": "1 failed, 2 passed\\n"}'},
    )
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await settle(pilot)
        assert "⟦tool⟧ 1 failed, 2 passed" in drawn(pilot)


async def test_an_internal_error_in_a_worker_is_shown() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)

        async def fail() -> None:
            raise ValueError("boom")

        pilot.app.run_worker(fail(), exit_on_error=False)
        await pilot.pause()
        assert "boom" in notices(pilot)


async def test_the_theme_can_be_switched_from_the_palette() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press(*"Theme")
        await found_in_palette(pilot, "Change the theme")


async def test_the_self_test_shows_what_was_found_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Examination(
        checks=(Check(name="confinement", status=Health.FAIL, detail="tier D\x1b[1m", fix="install bubblewrap"),),
        tier="D",
        probes=(ProbeOutcome(tier="B", name="bpf", blocked=False, ok=False, detail="nothing in the way"),),
    )
    monkeypatch.setattr("runtime.host.doctor.examine", lambda store: asyncio.sleep(0, found))
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        pilot.app.action_self_test()
        await settle(pilot)
        assert isinstance(pilot.app.screen, DetailScreen)
        shown = str(pilot.app.screen.query_one(".text", Static).content)
    assert shown.splitlines() == [
        "✗ confinement  tier D",
        "               → install bubblewrap",
        "",
        "probes of tier B",
        "✗ bpf  possible: nothing in the way",
    ]


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
        assert screen.run_at_hand() is None
        await pilot.press("escape")
        await settle(pilot)
        assert screen.run_at_hand() is not None


async def test_palette_launches_a_mission() -> None:
    async with ConsoleApp(deck()).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press(*"launch hello")
        await found_in_palette(pilot, "launch hello")
        await pilot.press("enter")
        async with asyncio.timeout(10):
            while not isinstance(pilot.app.screen, LaunchScreen):
                await pilot.pause(0.02)
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
        assert "Approve   off: no question is open" in text


async def test_an_observer_is_told_who_writes() -> None:
    holder = Holder(pid=4711, host="bridge", epoch=3, started_at=AT, heartbeat_at=AT)
    fake = deck(read_only=True, holder_info=holder)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("x")
        await settle(pilot)
        assert "4711" in notices(pilot)
    assert fake.intents == []


async def test_a_broken_chain_is_red_and_named() -> None:
    finding = Finding(code="J_ENTRY_HASH", severity="error", seq=0, detail="hash differs")
    verdict = Verification(
        run_id=RUN, ok=False, entries=1, trusted_prefix=0, head_seq=0, head_hash=None, closed=False, findings=(finding,)
    )
    fake = deck(verdict=verdict)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await press(pilot, "V")
        assert pilot.app.screen.query_one("#verdict").has_class("-broken")
        assert "chain broken at #0000 J_ENTRY_HASH" in drawn(pilot)
        await press(pilot, "escape")
        journal = pilot.app.screen.query_one("#journal", LinesPanel)
        assert journal.has_class("-broken")
        assert "✗ chain #0000" in str(journal.border_title)


async def test_hostile_text_is_drawn_as_text() -> None:
    """Markup in mission text stays text: no link, no action, no crash."""
    hostile = "[@click=app.quit]free[/] \x1b]0;owned\x07 [/unbalanced"
    fake = deck(missions_list=[mission("bad", description=hostile)], inbox=[QUESTION])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        assert "[@click=app.quit]free[/]" in drawn(pilot)
        assert "\x1b" not in drawn(pilot)


async def test_a_tick_after_the_last_screen_is_harmless() -> None:
    fake = deck()
    app = ConsoleApp(fake)
    async with app.run_test(size=(80, 24)):
        pass
    fake.publish(InboxChanged(escalations=()))
    app._tick()
    assert not app.screen_stack


FORKABLE = run_summary(status=RunStatus.FAILED, inputs={"goal": "As it was.", "dry": True})
STEPS = [
    entry(0, "journal_opened", mission_id="fix-the-build"),
    entry(1, "step_started", step_id="red", operation_type="run_tests", status="running", started_at=AT, inputs={}),
    entry(2, "step_finished", step_id="red", operation_type="run_tests", status="failed", outputs={}, completed_at=AT),
]


async def test_a_run_is_forked_from_the_selected_step_with_edited_inputs() -> None:
    inputs = (
        InputInfo(name="goal", type="string", required=True),
        InputInfo(name="paths", type="list", required=False, default=["a"]),
        InputInfo(name="dry", type="boolean", required=False, default=False),
    )
    fake = deck(missions_list=[mission(inputs=inputs)], runs_list=[FORKABLE], entries_list=STEPS)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("2", "g", "F")
        await settle(pilot)
        sheet = pilot.app.screen
        assert isinstance(sheet, LaunchScreen)
        assert sheet.query_one("#input-goal", Input).value == "As it was."
        assert sheet.query_one("#input-paths", Input).value == '["a"]'
        await pilot.press("ctrl+s")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)
        await pilot.press("3", "F")  # another panel: from the start
        await settle(pilot)
        pilot.app.screen.query_one("#input-goal", Input).value = ""
        await pilot.press("ctrl+s")
        await settle(pilot)
    first, second = (intent for verb, intent in fake.intents if verb == "launch")
    assert (first.parent_run_id, first.from_step, dict(first.inputs)) == (RUN, "red", {"dry": True})
    assert (second.parent_run_id, second.from_step, dict(second.inputs)) == (RUN, None, {"goal": "", "dry": True})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "the run has not ended: running"),
        ({"runs_list": [run_summary(resumable=True)]}, "r resumes it"),
        ({"runs_list": [FORKABLE], "missions_list": []}, "there is no such file"),
        ({"runs_list": [FORKABLE], "read_only": True}, "only observes"),
    ],
    ids=["live", "resumable", "mission gone", "observer"],
)
async def test_running_again_says_why_it_is_off(changes: dict[str, Any], why: str) -> None:
    fake = deck(**changes)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await open_run(pilot)
        await pilot.press("F")
        await settle(pilot)
        assert isinstance(pilot.app.screen, RunScreen)
        assert why in notices(pilot)


async def test_home_runs_the_selected_run_again() -> None:
    fake = deck(runs_list=[FORKABLE])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("2", "F")
        await settle(pilot)
        assert isinstance(pilot.app.screen, LaunchScreen)
        assert "the start" in drawn(pilot)
