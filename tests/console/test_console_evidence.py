"""Three verdicts, proofs and the export sheet: how they are told, and what the keys do."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.evidence import BROKEN, ENTRIES, GOOD, IMPOSSIBLE, PLAN, PROOF, UNVERIFIED, WARN, riddled
from support.fake_deck import RUN, FakeDeck, entry, run_summary
from support.pictures import SIZES, deck, drawn, notices, press, settle, sized_picture
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from console.commands import DeckCommands
from console.model.bundles import default_target, exported_rows, kind_label, plan_lines, plan_row
from console.model.entries import entry_row, shown_rows
from console.model.proof import proof_rows
from console.model.rows import JournalLook, Row
from console.model.verdict_view import finding_lines, finding_row, summary_rows, verdict_of
from console.model.verdicts import title_role, title_row
from console.panels.lines import LinesPanel
from console.screens.export import ExportScreen
from console.screens.journal import JournalScreen
from console.screens.proof import ProofScreen
from console.screens.run import RunScreen
from console.screens.verdicts import VerdictsScreen
from runtime.events.facts import BundleMember, Finding, JournalVerified, Verdict, Verification
from runtime.host.api import ExportBundle, Exported, Refused, RunStatus, StorageError

ENDED = run_summary(status=RunStatus.SUCCEEDED, entries=ENTRIES)
JOURNAL = [entry(seq, "signal", signals=[{"signal": "admit"}]) for seq in range(ENTRIES)]
HOSTILE = "[@click=app.quit]free[/]\x1b]52;c;AAAA\x07"


def text(rows: list[Row] | tuple[Row, ...]) -> str:
    return "\n".join("".join(part for part, _ in row) for row in rows)


def console(**changes: Any) -> FakeDeck:
    return deck(**{"runs_list": [ENDED], "entries_list": JOURNAL, "plan": PLAN, "proof_given": PROOF, **changes})


async def shown(pilot: Pilot[Any], *keys: str) -> str:
    await settle(pilot)
    await press(pilot, *keys)
    return drawn(pilot)


# -- how verdicts are told -----------------------------------------------------------------------------------------------


def test_a_title_says_as_much_as_there_is_room_for() -> None:
    told = {width: text((title_row(WARN, ENTRIES + 2, width),)) for width in (200, 90, 40, 26)}
    assert told == {
        200: "✓ chain intact to #0052 · ○ completeness not judged · ▲ checkpoint to #0047, witnessed to #0031 · 2 newer",
        90: "✓ chain · ○ complete · ▲ checkpoint to #0047, witnessed to #0031",
        40: "✓ chain ○ complete ▲ anchored 48/55",
        26: "✓ chain ○ complete ▲ 48/55",
    }
    assert text((title_row(None, 3, 200),)) == "not checked yet"


@pytest.mark.parametrize(
    ("verdict", "role"),
    [
        (None, "dim"),
        (GOOD, "good"),
        (WARN, "warn"),
        (BROKEN, "bad"),
        (replace(GOOD, anchoring=Verdict()), "dim"),
        (replace(GOOD, anchoring=Verdict(standing="glorious")), "dim"),
        (replace(GOOD, ok=False), "bad"),
    ],
)
def test_only_three_good_verdicts_make_a_good_title(verdict: Verification | None, role: str) -> None:
    """What is unknown, or not known to this console, is never good; what is not ok is never anything but bad."""
    assert title_role(verdict) == role
    roles = [role for _, role in title_row(verdict, ENTRIES, 200)]
    assert ("bad" in roles) == (role == "bad")


def test_nobody_is_told_that_a_journal_cannot_be_tampered_with() -> None:
    for verdict in (GOOD, WARN, BROKEN):
        assert "tamper" not in text(summary_rows(verdict, ENTRIES, 100)).casefold()


def test_the_gutter_tells_bad_suspect_and_unanchored_entries_apart() -> None:
    def gutter(verdict: Verification) -> dict[int, tuple[str, str]]:
        rows = {item.seq: entry_row(item, JournalLook.of(verdict, 100)) for item in shown_rows(JOURNAL)}
        return {seq: (row[0][0][0], row[0][1]) for seq, row in rows.items()}

    assert {seq for seq, mark in gutter(GOOD).items() if mark != (" ", "dim")} == set()
    marks = gutter(WARN)
    assert (marks[47], marks[48], marks[52]) == ((" ", "dim"), ("┊", "dim"), ("┊", "dim"))
    marks = gutter(BROKEN)
    assert (marks[11], marks[12], marks[31], marks[32]) == ((" ", "dim"), ("?", "bad"), ("?", "bad"), ("┊", "bad"))
    exact = replace(BROKEN, bad_between=(20, 20), findings=(replace(riddled(1).findings[0], seq=20),))
    marks = gutter(exact)
    assert (marks[11], marks[20]) == ((" ", "dim"), ("✗", "bad"))


def test_findings_stand_below_the_verdict_they_belong_to() -> None:
    told = text([finding_row(line) for line in finding_lines(BROKEN)]).splitlines()
    assert [line.split()[0] for line in told] == ["integrity", "▲", "completeness", "✗", "anchoring", "✗"]
    assert [verdict_of(code) for code in ("J_STEP_OPEN", "J_WITNESS_MISMATCH", "J_NEVER_SEEN")] == [
        "completeness",
        "anchoring",
        "integrity",
    ]


@pytest.mark.parametrize("width", [30, 76, 174])
def test_the_view_says_all_there_is_at_any_width(width: int) -> None:
    told = " ".join(text(summary_rows(WARN, ENTRIES + 2, width)).split())
    for part in (
        "4 t u g a d",
        "6 n i r o t",
        "of 48 entries; 7 after it",
        "2 newer since",
        "not mounted",
        "hidden append a",
    ):
        assert part in told
    told = " ".join(text(summary_rows(BROKEN, ENTRIES, width)).split())
    assert "one of #0012 to #0031" in told
    assert "nowhere:" in told


def test_foreign_words_reach_no_terminal_as_they_are() -> None:
    bad = replace(
        WARN,
        integrity=Verdict(standing="good", words=HOSTILE),
        words=HOSTILE,
        sinks=(replace(WARN.sinks[0], name=HOSTILE, trouble=HOSTILE),),
        manipulations=(replace(WARN.manipulations[0], what=HOSTILE, because=HOSTILE),),
        findings=(Finding(code=HOSTILE, severity="error", seq=1, detail=HOSTILE),),
    )
    rows = [
        *summary_rows(bad, ENTRIES, 100),
        *(finding_row(line) for line in finding_lines(bad)),
        title_row(bad, 1, 200),
    ]
    finding, member = bad.findings[0], BundleMember(name=HOSTILE, bytes=1, what=HOSTILE, withheld=HOSTILE)
    plan = replace(PLAN, members=(member,), kinds=(HOSTILE,), notes=(HOSTILE,), problems=(finding,))
    rows += [plan_row(line, 76) for line in plan_lines(plan)]
    rows += [*proof_rows(replace(PROOF, leaf=HOSTILE, words=HOSTILE), 76), ((kind_label(plan, HOSTILE), "plain"),)]
    assert "\x1b" not in text(rows)
    assert "\x07" not in text(rows)


def test_a_target_is_named_by_mission_and_run_whatever_the_mission_is_called() -> None:
    named = default_target(replace(ENDED, mission="../../etc/nightly report\n"))
    assert named == "etc-nightly-report-8b3f0000.quarterdeck.zip"
    assert default_target(replace(ENDED, mission="///")) == "run-8b3f0000.quarterdeck.zip"


def test_what_was_exported_says_how_to_check_it() -> None:
    told = text(exported_rows(Exported(path="/x/b.zip", sha256="5e" * 32, bytes=1, members=2, withheld=3)))
    for part in ("1 B, 2 files, 3 withheld", "5e" * 32, "bundle verify b.zip", "scripts/verify_bundle.py"):
        assert part in told


# -- the verify view -----------------------------------------------------------------------------------------------------


async def test_v_checks_and_shows_the_verdicts_from_everywhere() -> None:
    async with ConsoleApp(console(verdict=WARN)).run_test(size=(120, 40)) as pilot:
        for way in (("2",), ("J",), ("escape", "enter"), ("d",), ("H",)):
            await shown(pilot, *way)
            before = pilot.app.screen
            assert "▲ checkpoint to #0047" in await shown(pilot, "V")
            assert "lusab" in drawn(pilot).replace("l u s a b", "lusab")
            await press(pilot, "escape")
            assert pilot.app.screen is before


async def test_b_goes_to_the_first_entry_that_may_be_bad_and_says_that_it_may() -> None:
    async with ConsoleApp(console(verdict=BROKEN)).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "enter", "V", "B")
        journal = pilot.app.screen
        assert isinstance(journal, JournalScreen)
        assert journal.panel.item.seq == 12
        assert "one of #0012 to #0031" in notices(pilot)
        await press(pilot, "V", "B")
        assert pilot.app.screen is journal, "the journal below is taken, not a second one"
        assert journal.panel.item.seq == 12


async def test_keys_without_a_meaning_say_why() -> None:
    fake = console(verdict=replace(GOOD, checkpoint_size=None))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "V", "B", "o")
        assert "no entry is known to be bad" in notices(pilot)
        assert "no checkpoint covers an entry yet" in notices(pilot)
        assert isinstance(pilot.app.screen, VerdictsScreen)
        assert "off: no entry is known to be bad" in await shown(pilot, "question_mark")


async def test_a_check_that_fails_keeps_the_older_verdict_and_says_so() -> None:
    fake = console(verdict=WARN)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "V")
        fake.refusals["verify"] = StorageError("STORE_IO", "the disk is gone")
        told = await shown(pilot, "ctrl+r")
        assert "could not be checked" in told
        assert "the disk is gone [STORE_IO]" in told
        assert "lusab" in told.replace("l u s a b", "lusab"), "what was known stays"
        fake.refusals.clear()
        assert "could not be checked" not in await shown(pilot, "V")


async def test_a_store_that_cannot_be_read_is_told_without_any_verdict() -> None:
    fake = console(refusals={"verify": StorageError("STORE_DAMAGED", "page 7 is damaged")})
    async with ConsoleApp(fake).run_test(size=(80, 24)) as pilot:
        assert "page 7 is damaged" in await shown(pilot, "2", "V")


async def test_an_observer_sees_a_live_run_judged_again_and_again() -> None:
    fake = console(runs_list=[run_summary(entries=ENTRIES)], verdict=WARN, read_only=True)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "V")
        fake.publish(*(entry(seq, "signal", signals=[{"signal": "admit"}]) for seq in (ENTRIES, ENTRIES + 1)))
        await settle(pilot)
        assert "2 newer since" in drawn(pilot)
        fake.publish(JournalVerified(verification=replace(GOOD, entries=55, checkpoint_size=55)))
        await settle(pilot)
        assert "checkpoint to #0054" in drawn(pilot)
        assert "newer" not in drawn(pilot)


async def test_thousands_of_findings_are_a_list_like_any_other() -> None:
    many = 20_000
    fake = console(verdict=riddled(many))
    async with ConsoleApp(fake).run_test(size=(80, 24)) as pilot:
        await shown(pilot, "2", "V", "2", "G")
        findings = pilot.app.screen.query_one("#findings", LinesPanel)
        assert findings.item == fake.verdict.findings[-1] if fake.verdict else False
        assert f"#{many - 1}" in drawn(pilot)
        assert "20,000 errors" in drawn(pilot)
        await press(pilot, "g", "j", "enter")
        assert "entry #0000" in drawn(pilot)


async def test_a_refused_run_has_nothing_to_judge_or_to_hand_on() -> None:
    fake = console(runs_list=[run_summary(status=RunStatus.REFUSED)], entries_list=[])
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "H", "V", "E")
        assert "it was refused" in notices(pilot)
        assert "it has no journal" in notices(pilot)


# -- proofs --------------------------------------------------------------------------------------------------------------


async def test_o_asks_which_entry_and_takes_only_those_there_are() -> None:
    fake = console(verdict=GOOD)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        assert "numbered 0 to 52" in await shown(pilot, "2", "V", "o", *"53", "enter")
        told = await shown(pilot, "backspace", "backspace", "7", "enter")
        assert isinstance(pilot.app.screen, ProofScreen)
        assert "✓ holds, checked from its text alone" in told
        assert ("proof", RUN, 7) in fake.intents


async def test_in_the_journal_o_proves_the_selected_entry_and_c_copies_the_proof() -> None:
    fake = console(verdict=GOOD, proof_given=replace(PROOF, text=f"proof\n{HOSTILE}\n", holds=False))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        assert "DOES NOT HOLD" in await shown(pilot, "2", "J", "k", "o", "c")
        assert ("proof", RUN, ENTRIES - 2) in fake.intents
        assert pilot.app.clipboard == "proof\n[@click=app.quit]free[/]\n"


async def test_without_a_checkpoint_there_is_no_proof() -> None:
    async with ConsoleApp(console(proof_given=None)).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "J", "o")
        assert "no checkpoint covers entry 52" in notices(pilot)


async def test_s_saves_the_proof_in_a_new_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with ConsoleApp(console()).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "J", "o", "s", "enter")
        saved = tmp_path / "8b3f0000-0052.tlog-proof"
        assert saved.read_bytes() == PROOF.text.encode()
        saved.write_text("mine")
        await press(pilot, "s", "enter")
        assert "it exists already" in notices(pilot)
        assert saved.read_text() == "mine"
        await press(pilot, "s", *"no/x", "enter")
        assert "No such file" in notices(pilot)


# -- handing on ----------------------------------------------------------------------------------------------------------


def handed(fake: FakeDeck) -> list[ExportBundle]:
    return [told[1] for told in fake.intents if told[0] == "bundle"]


async def test_what_is_ticked_stays_here_and_the_preview_shows_it() -> None:
    fake = console()
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        assert "bundle  8 files · 2.5 MB" in await shown(pilot, "2", "enter", "E")
        told = await shown(pilot, "tab", "tab", "space")
        assert "[x] leave out contents of files: 1 file, 2.5 MB" in told
        assert "bundle  7 files · 87.2 kB · 1 withheld" in told
        assert "withheld: the operator" in told
        told = await shown(pilot, "tab", "tab", "space", "enter")
        assert "✓ exported" in told
        assert "5e" * 32 in told
    (intent,) = handed(fake)
    target = str(Path.cwd() / "fix-the-build-8b3f0000.quarterdeck.zip")
    assert intent == ExportBundle(run_id=RUN, target=target, withhold=("files",), attest=True)


async def test_an_error_is_shown_in_place_and_nothing_is_lost() -> None:
    fake = console(
        refusals={"bundle": Refused("BUNDLE_EXISTS", f"there is such a file {HOSTILE}", hint="name another")}
    )
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "E", "space")
        pilot.app.screen.query_one("#target", Input).value = "mine.zip"
        told = await shown(pilot, "ctrl+s")
        assert "[BUNDLE_EXISTS]" in told
        assert "name another" in told
        assert "[x] leave out prompts and answers" in told
        fake.refusals.clear()
        assert "bundle verify mine.zip" in await shown(pilot, "shift+tab", "enter")
    assert [intent.withhold for intent in handed(fake)] == [("model",)] * 2


async def test_what_does_not_verify_is_exported_only_by_a_second_word() -> None:
    fake = console(plan=UNVERIFIED)
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        assert "▲ J_EXPORT_UNVERIFIED" in await shown(pilot, "2", "E")
        await press(pilot, "enter", "enter")
        assert handed(fake) == [], "the first choice is no"
        await press(pilot, "enter", "j", "enter")
    assert [intent.force for intent in handed(fake)] == [True]


async def test_leaving_the_sheet_does_not_stop_an_export() -> None:
    class Slow(FakeDeck):
        async def bundle(self, intent: ExportBundle) -> Exported:
            await going.wait()
            return await super().bundle(intent)

    going = asyncio.Event()
    fake = Slow(**{item.name: getattr(console(), item.name) for item in fields(FakeDeck)})
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "E")
        await pilot.press("enter", "ctrl+s", "escape")
        assert "it is being exported" in notices(pilot)
        going.set()
        await settle(pilot)
        assert "exported " in notices(pilot)
    assert len(handed(fake)) == 1


async def test_any_other_problem_stops_an_export() -> None:
    fake = console(plan=replace(IMPOSSIBLE, problems=(*UNVERIFIED.problems, *IMPOSSIBLE.problems)))
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "2", "E", "enter", "ctrl+s")
        assert "it cannot be exported: the body" in notices(pilot)
        assert isinstance(pilot.app.screen, ExportScreen)
    assert handed(fake) == []


async def test_a_plan_that_cannot_be_made_is_made_again_on_request() -> None:
    fake = console(refusals={"bundle_plan": StorageError("STORE_IO", "the disk is gone")})
    async with ConsoleApp(fake).run_test(size=(120, 40)) as pilot:
        assert "the disk is gone [STORE_IO]" in await shown(pilot, "2", "E", "ctrl+s")
        assert "what it would hold is not known" in notices(pilot)
        fake.refusals.clear()
        assert "bundle  8 files" in await shown(pilot, "ctrl+r")


async def test_only_a_run_that_has_ended_is_handed_on() -> None:
    async with ConsoleApp(console(runs_list=[run_summary(entries=9)])).run_test(size=(120, 40)) as pilot:
        await shown(pilot, "H", "E")
        assert "the run has not ended: running" in notices(pilot)


async def test_every_key_of_the_new_screens_has_a_name_in_the_palette() -> None:
    wanted: list[tuple[tuple[str, ...], type, set[str]]] = [
        (("2", "J"), JournalScreen, {"Verify", "Proof"}),
        (("o",), ProofScreen, {"Copy", "Save …"}),
        (("escape", "V"), VerdictsScreen, {"First bad", "Proof …", "Check again", "Export …", "Journal"}),
        (("escape", "escape", "E"), ExportScreen, {"Export", "Look again"}),
        (("escape", "enter"), RunScreen, {"Verify", "Export …"}),
    ]
    async with ConsoleApp(console(verdict=BROKEN)).run_test(size=(80, 24)) as pilot:
        for keys, screen, names in wanted:
            await shown(pilot, *keys)
            assert isinstance(pilot.app.screen, screen)
            assert names <= {name for name, _, _ in DeckCommands(pilot.app.screen)._commands()}


# -- pictures ------------------------------------------------------------------------------------------------------------

PICTURES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "verify-good": (("2", "V"), {"verdict": GOOD}),
    "verify-warn": (("2", "V"), {"verdict": WARN}),
    "verify-broken": (("2", "V"), {"verdict": BROKEN}),
    "proof": (("2", "J", "k", "o"), {"verdict": GOOD}),
    "export-plan": (("2", "E"), {}),
    "export-withheld": (("2", "E", "space", "enter"), {}),
    "export-problem": (("2", "E"), {"plan": IMPOSSIBLE}),
    "journal-warn": (("2", "J"), {"verdict": WARN}),
}


@pytest.fixture(autouse=True)
def steady_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Input, "_toggle_cursor", lambda box: None)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", PICTURES)
def test_screen(still: None, snap_compare: Any, name: str, size: tuple[int, int]) -> None:
    keys, changes = PICTURES[name]

    async def show(pilot: Pilot[Any]) -> None:
        await shown(pilot, *keys)

    fake = console(**changes)
    sized_picture(snap_compare, name, size, lambda: ConsoleApp(fake, clock=lambda: 0.0), show)
