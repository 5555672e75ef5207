"""``quarterdeck replay`` and ``quarterdeck diff``, as an operator types them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deckhand import Deckhand, Done, deckhand, sample


@dataclass(frozen=True)
class Stage:
    """A store with two runs of a mission of its own; the second greets somebody else."""

    hand: Deckhand
    folder: Path
    ada: str
    eve: str

    def __call__(self, *arguments: str) -> Done:
        return self.hand.inline(*arguments)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    place = tmp_path_factory.mktemp("replay")
    folder = sample(place, "hello")
    with deckhand(place) as hand:
        runs = [hand.inline("run", str(folder), "--input", f"name={name}", "--json").run_id for name in ("Ada", "Eve")]
        yield Stage(hand, folder, *runs)


def test_recorded_says_that_the_run_can_be_repeated(stage: Stage) -> None:
    done = stage("replay", stage.ada[:8], "--json")
    (report,) = done.lines
    assert done.code == 0
    assert report["comparison"]["equivalent"] is True
    assert (report["operations_answered"], report["operations_total"]) == (1, 1)
    assert (report["mode"], report["mission_source"]) == ("re_simulate_nodes", "current")
    text = stage("replay", stage.ada, "--fidelity", "recorded")
    assert text.code == 0
    assert "✓ equivalent: 2 step attempts" in text.out
    assert "1 of 1 operations" in text.out


def test_recorded_ends_with_6_and_names_the_first_step_that_differs(stage: Stage) -> None:
    mission = stage.folder / "mission.yaml"
    kept = mission.read_text()
    mission.write_text(kept.replace("Hello, {{ name }}", "Goodbye, {{ name }}"))
    done = stage("replay", stage.ada, "--json")
    comparison = done.lines[0]["comparison"]
    assert done.code == 6
    assert comparison["first"]["kind"] == "PLAN_DIVERGENCE"
    assert (comparison["first"]["step_id"], comparison["downstream"]) == ("greet", ["check"])
    text = stage("replay", stage.ada)
    assert text.code == 6
    assert "first at step greet; behind it: check" in text.out
    assert "Goodbye" in text.out, "what was expected and what is there now"
    assert stage("replay", stage.ada, "--mission", "recorded").code == 0
    assert stage("replay", stage.ada, "--from", "check", "--json").code == 6, "the check was given something else"
    mission.write_text("no mission at all")
    broken = stage("replay", stage.ada)
    assert broken.code == 0
    assert "replayed as it was recorded" in broken.err
    mission.write_text(kept)


def test_diff_of_two_runs(stage: Stage) -> None:
    same = stage("diff", stage.ada, stage.ada, "--json")
    assert (same.code, same.lines[0]["equivalent"]) == (0, True)
    done = stage("diff", stage.ada, stage.eve[:8], "--json")
    comparison = done.lines[0]
    assert done.code == 6
    assert (comparison["base"], comparison["other"]) == (stage.ada, stage.eve)
    assert (comparison["first"]["kind"], comparison["first"]["field"]) == ("PLAN_DIVERGENCE", "input.name")
    assert (comparison["first"]["expected"], comparison["first"]["actual"]) == ("Ada", "Eve")
    pairs = {pair["step_id"]: pair for pair in comparison["steps"]}
    assert pairs["greet"]["base_output"] != pairs["greet"]["other_output"]
    assert None not in (pairs["greet"]["base_ms"], pairs["greet"]["other_ms"], pairs["greet"]["other_seq"])
    assert "✗ diverged" in stage("diff", stage.ada, stage.eve).out


def test_diff_with_differences_that_are_expected(stage: Stage) -> None:
    expected = ("--expect", "plan", "--expect", "outcome@step:greet", "--expect", "outcome@operation:check.0")
    assert stage("diff", stage.ada, stage.eve, *expected).code == 0
    assert stage("diff", stage.ada, stage.eve, "--expect", "plan").code == 6
    absent = stage("diff", stage.ada, stage.ada, "--expect", "plan")
    assert absent.code == 6
    assert "expected and did not appear" in absent.out
    assert stage("diff", stage.ada, stage.ada, "--timing", "0").code == 0
    assert stage("diff", stage.ada, stage.ada, "--expect", "nonsense").code == 2


def test_view_walks_the_journal(stage: Stage) -> None:
    done = stage("replay", stage.ada, "--fidelity", "view", "--json")
    entries = stage.hand.entries(stage.ada)
    assert done.code == 0
    assert [line["kind"] for line in done.lines] == [entry["kind"] for entry in entries]
    assert [line["position"] for line in done.lines] == list(range(1, len(entries) + 1))
    assert (done.lines[0]["elapsed_ms"], done.lines[0]["turn"]) == (0, "Idle")
    assert (done.lines[-1]["turn"], done.lines[-1]["steps_done"], done.lines[-1]["steps_total"]) == ("Closed", 2, 2)
    later = stage("replay", stage.ada, "--fidelity", "view", "--from", "check", "--json").lines
    assert (later[0]["kind"], later[0]["step_id"], later[0]["steps_done"]) == ("step_started", "check", 1)
    text = stage("replay", stage.ada, "--fidelity", "view").out.splitlines()
    assert len(text) == len(entries)
    assert text[-1].endswith("journal closed  completed")


def test_view_of_one_moment(stage: Stage) -> None:
    at = next(entry["seq"] for entry in stage.hand.entries(stage.ada) if entry.get("step_id") == "check")
    (state,) = stage("replay", stage.ada, "--fidelity", "view", "--at", str(at), "--json").lines
    assert [(row["step_id"], row["status"]) for row in state["steps"]] == [("greet", "completed"), ("check", "running")]
    assert state["entry"]["seq"] == at
    assert "● check  running" in stage("replay", stage.ada, "--fidelity", "view", "--at", str(at)).out


def test_live_is_a_new_run_of_the_same_lineage(stage: Stage) -> None:
    done = stage("replay", stage.ada, "--fidelity", "live", "--input", "name=Joan", "--json")
    assert done.code == 0, done
    assert done.done["outputs"] == {"greeting": "Hello, Joan. The deck is yours."}
    assert done.run_id != stage.ada
    found = stage.hand.rows("SELECT lineage_id, parent_run_id FROM runs WHERE run_id = ?", done.run_id)
    assert found == [(stage.ada, stage.ada)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--at", "3"), "REPLAY_OPTION"),
        (("--fidelity", "view", "--input", "name=x"), "REPLAY_OPTION"),
        (("--fidelity", "live", "--mission", "recorded"), "REPLAY_OPTION"),
        (("--fidelity", "view", "--at", "9999"), "REPLAY_OPTION"),
        (("--fidelity", "view", "--from", "nowhere"), "STEP_UNKNOWN"),
        (("--from", "nowhere"), "STEP_UNKNOWN"),
    ],
)
def test_what_makes_no_sense_is_refused_with_2(stage: Stage, arguments: tuple[str, ...], code: str) -> None:
    done = stage("replay", stage.ada, *arguments, "--json")
    assert (done.code, done.error["code"]) == (2, code)


def test_a_journal_that_does_not_verify_ends_with_7(stage: Stage) -> None:
    run_id = stage("run", str(stage.folder), "--json").run_id
    with closing(sqlite3.connect(stage.hand.database)) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE journal_entries SET at = '2020' WHERE journal_id = ? AND seq = 3", (run_id,))
    for verb in (("replay", run_id), ("diff", stage.ada, run_id), ("diff", run_id, stage.ada)):
        done = stage(*verb, "--json")
        assert (done.code, done.error["code"]) == (7, "J_COLUMN_MISMATCH"), done
    assert "[J_COLUMN_MISMATCH]" in stage("replay", run_id).err
