"""Stopping a run from outside while its command has already turned itself into a daemon."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deckhand import Deckhand, Done, Going, deckhand, mission, poll, processes_with, tree

pytestmark = pytest.mark.slow

#: Forks twice and leaves its session, as daemons do; then it talks on both its output and a file, for ever.
DAEMON = """\
mission: daemon
version: "1"
description: Start a daemon that outlives its parent, its group and its session.
workspace: {from: tree}
envelope:
  allowed_paths: [out, "out/**", src.txt]
  allowed_tools: [filesystem.write_file, process.run]
sandbox: {confinement: best_effort}
commands:
  serve:
    argv:
      - sh
      - -c
      - |
        (setsid sh -c '(while :; do echo tick; echo tick >> out/ticks; sleep 0.02; done) & wait' MARKER &)
        while :; do FOREGROUND; done
      - MARKER
    writes: [out]
blocks:
  note:  {type: tool_invoke, tool: filesystem.write_file, path: src.txt, content: "changed\\n"}
  serve: {type: tool_invoke, tool: process.run, template: serve}
  after: {type: echo}
links:
  - note -> serve -> after
"""
TREE = {"tree/src.txt": "as it was\n", "tree/out/kept": "kept\n"}


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


class Serving:
    """A run whose daemon is up and has written something."""

    def __init__(self, deck: Deckhand, folder: Path) -> None:
        self.marker = f"marker-{uuid.uuid4()}"
        text = DAEMON.replace("MARKER", self.marker).replace("FOREGROUND", "sleep 0.05")
        self.folder = folder
        self.going: Going = deck.start("run", mission(folder, text, TREE), "--json")
        self.run_id = self.going.run_id()
        self.root = Path(self.going.line("launch")["work_tree"])
        poll("the daemon's first words", self._spoke)
        assert len(processes_with(self.marker)) >= 2, "the daemon and its foreground are visible from outside"

    def _spoke(self) -> bool:
        ticks = self.root / "out" / "ticks"
        return ticks.exists() and ticks.stat().st_size > 0


def cancel(deck: Deckhand, run: Serving) -> None:
    done = deck.inline("cancel", run.run_id, "--reason", "enough", "--json")
    assert done.code == 0, done
    assert done.lines[0]["done"] is True


def send(number: signal.Signals) -> Callable[[Deckhand, Serving], None]:
    return lambda deck, run: run.going.signal(number)


@pytest.mark.parametrize(
    ("stop", "code"),
    [(cancel, 130), (send(signal.SIGINT), 130), (send(signal.SIGTERM), 143)],
    ids=["cancel", "SIGINT", "SIGTERM"],
)
def test_stopping_fences_kills_and_undoes(
    deck: Deckhand, tmp_path: Path, stop: Callable[[Deckhand, Serving], None], code: int
) -> None:
    run = Serving(deck, tmp_path)
    stop(deck, run)
    done = run.going.finish()
    assert processes_with(run.marker) == [], "the whole tree is gone when the end is shown"
    assert done.code == code, done
    assert done.done["status"] == "cancelled"
    assert done.done["exit_code"] == code
    assert tree(run.root) == tree(tmp_path / "tree"), "everything is undone"
    assert_nothing_accepted_after_the_fence(deck.entries(run.run_id))
    deck.assert_verifies(run.run_id)


def assert_nothing_accepted_after_the_fence(entries: list[dict[str, Any]]) -> None:
    fences = [
        entry["seq"]
        for entry in entries
        if entry["kind"] == "signal" and any(item["signal"] == "cancel" for item in entry["signals"])
    ]
    assert fences, "the fence is journalled"
    late = [entry for entry in entries if entry["seq"] > fences[0]]
    assert [entry["step_id"] for entry in late if entry["kind"] == "step_started"] == []
    assert [entry for entry in late if entry["kind"] == "step_finished" and entry["status"] == "completed"] == []
    assert [entry["operation_id"] for entry in late if entry["kind"] == "operation_started"] == []
    results = [entry["receipt"] for entry in late if entry["kind"] == "receipt"]
    accepted = [item["operation_id"] for item in results if item["status"] == "success" and not item["compensates"]]
    assert accepted == []
    assert entries[-1]["kind"] == "journal_closed"
    assert entries[-1]["status"] == "cancelled"


def test_a_command_that_ends_takes_its_daemon_with_it(deck: Deckhand, tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    text = DAEMON.replace("MARKER", marker).replace("FOREGROUND", "test -s out/ticks && exit 0")
    done = deck.run("run", mission(tmp_path, text, TREE), "--json")
    assert done.code == 0, done
    assert processes_with(marker) == []
    root = Path(done.done["work_tree"])
    assert (root / "out" / "ticks").exists()
    assert (root / "src.txt").read_text() == "changed\n"
    deck.assert_verifies(done.run_id)


def test_terminate_kills_and_keeps_what_was_done(deck: Deckhand, tmp_path: Path) -> None:
    run = Serving(deck, tmp_path)
    told = deck.inline("terminate", run.run_id, "--reason", "keep it", "--json")
    assert told.code == 0, told
    done = run.going.finish()
    assert processes_with(run.marker) == []
    assert done.done["status"] == "cancelled"
    assert done.code == 130, done
    assert (run.root / "src.txt").read_text() == "changed\n", "a finished step's work is kept"
    assert deck.entries(run.run_id, "operator_action")[0]["action"] == "terminate"
    undone = [entry for entry in deck.entries(run.run_id, "compensation_finished") if "note" in entry["operation_id"]]
    assert undone == []
    deck.assert_verifies(run.run_id)


STEPS = """\
mission: steps
version: "1"
description: Many short waits in a row.
workspace: {kind: none}
blocks:
BLOCKS
links:
  - LINKS
"""


def many_steps(folder: Path, count: int = 40) -> str:
    names = [f"wait{number}" for number in range(count)]
    blocks = "\n".join(f"  {name}: {{type: delay, seconds: 0.05}}" for name in names)
    return mission(folder, STEPS.replace("BLOCKS", blocks).replace("LINKS", " -> ".join(names)))


def test_pause_starts_nothing_until_resumed(deck: Deckhand, tmp_path: Path) -> None:
    going = deck.start("run", many_steps(tmp_path), "--json")
    run_id = going.run_id()
    poll("a finished step", lambda: deck.entries(run_id, "step_finished"))
    paused = deck.inline("pause", run_id, "--reason", "coffee", "--json")
    assert paused.lines[0]["done"] is True, paused
    deck.until(run_id, "paused")
    again = deck.inline("pause", run_id, "--json")
    assert (again.code, again.lines[0]["done"]) == (1, False)
    shown = deck.inline("show", run_id, "--json").lines[0]
    assert shown["status"] == "paused"
    assert shown["resumable"] is False, "it is held, only resting"
    resumed = deck.inline("resume", run_id, "--json")
    assert resumed.lines[0]["done"] is True, resumed
    done = going.finish()
    assert done.code == 0, done
    entries = deck.entries(run_id)
    first, last = (
        next(entry["seq"] for entry in entries if entry.get("action") == action) for action in ("pause", "resume")
    )
    between = [entry["kind"] for entry in entries if first < entry["seq"] < last]
    assert "step_started" not in between
    assert [entry["status"] for entry in deck.entries(run_id, "step_finished")].count("completed") == 40
    deck.assert_verifies(run_id)


def test_stop_lets_a_recurring_run_end_well(deck: Deckhand, tmp_path: Path) -> None:
    blocks = "  every: {type: cron, cron: '* * * * * *'}\n  say: {type: echo}\n"
    text = f"mission: ticking\nversion: '1'\nworkspace: {{kind: none}}\nblocks:\n{blocks}links: [every -> say]\n"
    going = deck.start("run", mission(tmp_path, text), "--json")
    run_id = going.run_id()
    poll("a tick", lambda: deck.entries(run_id, "step_finished"))
    told = deck.inline("stop", run_id, "--reason", "enough", "--json")
    assert (told.code, told.lines[0]["done"]) == (0, True), told
    done = going.finish()
    assert (done.code, done.lines[-1]["status"]) == (0, "succeeded"), done
    assert deck.inline("stop", run_id).code == 1


def test_a_paused_run_can_be_cancelled(deck: Deckhand, tmp_path: Path) -> None:
    going = deck.start("run", many_steps(tmp_path), "--json")
    run_id = going.run_id()
    deck.inline("pause", run_id)
    deck.until(run_id, "paused")
    assert deck.inline("cancel", run_id).code == 0
    assert going.finish().code == 130


def test_stopping_twice_says_so(deck: Deckhand, tmp_path: Path) -> None:
    going = deck.start("run", many_steps(tmp_path), "--json")
    run_id = going.run_id()
    assert deck.inline("cancel", run_id).code == 0
    done: Done = going.finish()
    assert done.code == 130, done
    for verb in ("cancel", "terminate", "pause", "resume"):
        late = deck.inline(verb, run_id)
        assert late.code == 1, late
        assert "cancelled" in late.err
