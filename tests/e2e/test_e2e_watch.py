"""``quarterdeck watch`` as a process: armed, rerun on a save, a run at work cancelled on leaving, and the exit codes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deckhand import SAMPLES, Deckhand, deckhand, mission, sample

pytestmark = pytest.mark.slow

SLOW = """\
mission: slow
version: "1"
description: Is at work for longer than anybody waits.
workspace: {from: files}
envelope: {allowed_paths: ["**"], allowed_tools: []}
blocks: {work: {type: delay, seconds: 600}}
links: []
watch: {paths: ["**"], debounce_ms: 50}
"""


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


def test_a_save_reruns_the_tests_and_ctrl_c_is_how_it_ends(deck: Deckhand, tmp_path: Path) -> None:
    folder = sample(tmp_path, "watch-tests")
    going = deck.start("watch", str(folder), "--json")
    armed = going.line("armed")
    assert (armed["files"], armed["overlap"]) == (2, "preempt")
    source = folder / "project" / "src" / "tides.py"
    source.write_text(source.read_text().replace("HALF_DAY = 12", "HALF_DAY = 13"))
    done = going.line("done")
    assert (done["status"], done["code"], done["cause"]) == ("failed", "op.test_failed", "src/tides.py changed")
    assert [item["path"] for item in going.line("changed")["changes"]] == ["src/tides.py"]
    assert going.run_id() == done["run_id"]
    source.touch()
    assert going.line("ignored")["why"] == "same_content"
    going.signal(signal.SIGINT)
    ended = going.finish()
    assert ended.code == 0, ended
    assert [item["event"] for item in ended.lines] == ["armed", "changed", "launch", "done", "ignored", "disarmed"]
    deck.assert_verifies(done["run_id"])


def test_leaving_cancels_the_run_at_work_and_another_terminal_may_watch_through_this_one(
    deck: Deckhand, tmp_path: Path
) -> None:
    going = deck.start("watch", mission(tmp_path, SLOW, {"files/a": "1"}), "--run-now", "--json")
    run_id = going.run_id()
    other = deck.start("watch", str(SAMPLES / "watch-tests"), "--json")
    assert other.line("armed")["mission"] == "watch-tests"
    twice = deck.inline("watch", str(SAMPLES / "watch-tests"), "--json")
    assert (twice.code, twice.lines[0]["code"]) == (8, "WATCH_ARMED")
    other.signal(signal.SIGTERM)
    assert other.finish().code == 143
    going.signal(signal.SIGTERM)
    ended = going.finish()
    assert ended.code == 143, ended
    assert [item["event"] for item in ended.lines[-2:]] == ["done", "disarmed"]
    assert (ended.done["run_id"], ended.done["status"], ended.done["cause"]) == (
        run_id,
        "cancelled",
        "the watch began",
    )
    assert deck.status(run_id) == "cancelled"


def test_the_sample_passes_when_run_once(deck: Deckhand) -> None:
    done = deck.inline("run", str(SAMPLES / "watch-tests"), "--json")
    assert (done.code, done.done["outputs"]) == (0, {"executed": 2}), done
    deck.assert_verifies(done.run_id)


def test_a_mission_without_a_watch_section_says_what_to_add(deck: Deckhand) -> None:
    done = deck.inline("watch", str(SAMPLES / "hello"), "--json")
    assert (done.code, done.lines[0]["code"]) == (2, "WATCH_NOT_DECLARED")
    assert "watch: {paths:" in done.lines[0]["hint"]
