"""``kill -9`` at the worst moments: nothing is lost, nothing is done twice, and the operator can go either way."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deckhand import (
    SAMPLES,
    Deckhand,
    Going,
    deckhand,
    git,
    git_state,
    mission,
    poll,
    processes_with,
    sample,
    tree,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


def under_way(deck: Deckhand, run_id: str, step: str) -> bool:
    """Is an operation of ``step`` announced on disk and not yet proven?"""
    started = {item["operation_id"] for item in deck.entries(run_id, "operation_started") if item["step_id"] == step}
    return bool(started - {item["operation_id"] for item in deck.receipts(run_id)})


def assert_resumable(deck: Deckhand, run_id: str) -> None:
    listed = next(line for line in deck.inline("runs", "--json").lines if line["run_id"] == run_id)
    assert listed["resumable"] is True, listed
    assert listed["finished_at"] is None
    deck.assert_verifies(run_id)


def effects(deck: Deckhand, run_id: str) -> Counter[str]:
    """Successful receipts per operation that touched the world, undone ones not counted."""
    receipts = deck.receipts(run_id)
    undone = {item["compensates"] for item in receipts if item["compensates"]}
    return Counter(
        item["operation_id"]
        for item in receipts
        if item["status"] == "success"
        and item["effect"] in ("write", "execute", "external")
        and not item["compensates"]
        and item["receipt_hash"] not in undone
    )


def assert_each_effect_once(deck: Deckhand, run_id: str, steps: set[str]) -> None:
    found = effects(deck, run_id)
    assert {name.partition(".")[0] for name in found} == steps
    assert set(found.values()) == {1}, found


def die_when(deck: Deckhand, going: Going, moment: Callable[[str], Any]) -> str:
    """Kill the runner the instant ``moment`` of its run is there."""
    run_id = going.run_id()
    poll("the moment to die", lambda: moment(run_id) or going.process.poll() is not None)
    going.kill()
    return run_id


#: The first test run is meant to fail, so it is no effect that stands.
FIX_STEPS = {"propose", "apply", "green", "stage", "commit"}


@pytest.fixture(scope="module")
def undisturbed(deck: Deckhand) -> tuple[str, Any]:
    """What fix-the-build makes when nobody interferes: the committed tree and the files."""
    done = deck.run("run", str(SAMPLES / "fix-the-build"), "--json")
    assert done.code == 0, done
    root = Path(done.done["work_tree"])
    return git(root, "rev-parse", "HEAD^{tree}"), tree(root)


@pytest.mark.parametrize("step", ["red", "green", "commit"])
def test_killed_inside_an_operation_and_resumed(deck: Deckhand, undisturbed: tuple[str, Any], step: str) -> None:
    going = deck.start("run", str(SAMPLES / "fix-the-build"), "--json")
    run_id = die_when(deck, going, lambda run_id: under_way(deck, run_id, step))
    assert under_way(deck, run_id, step), "the crash hit the operation itself"
    assert_resumable(deck, run_id)
    done = deck.run("resume", run_id, "--json")
    assert done.code == 0, done
    assert done.done["status"] == "succeeded"
    root = Path(done.done["work_tree"])
    assert (git(root, "rev-parse", "HEAD^{tree}"), tree(root)) == undisturbed
    assert git(root, "status", "--porcelain", "--ignored") == ""
    assert len(git(root, "log", "--format=%H").splitlines()) == 2
    assert_each_effect_once(deck, run_id, FIX_STEPS)
    assert len(deck.entries(run_id, "recovery")) == 1
    deck.assert_verifies(run_id)


def test_killed_between_the_commit_and_its_receipt(deck: Deckhand, undisturbed: tuple[str, Any]) -> None:
    going = deck.start("run", str(SAMPLES / "fix-the-build"), "--json")
    root = Path(going.line("launch")["work_tree"])
    branch = root / git(root, "rev-parse", "--git-dir") / git(root, "symbolic-ref", "HEAD")
    baseline = branch.read_text()
    run_id = die_when(deck, going, lambda run_id: branch.read_text() != baseline)
    assert under_way(deck, run_id, "commit"), "the commit is there, its receipt is not"
    assert_resumable(deck, run_id)
    done = deck.inline("resume", run_id, "--json")
    assert done.code == 0, done
    assert (git(root, "rev-parse", "HEAD^{tree}"), tree(root)) == undisturbed
    assert len(git(root, "log", "--format=%H").splitlines()) == 2, "one commit, not two"
    assert done.done["outputs"]["commit"] == git(root, "rev-parse", "HEAD")
    assert_each_effect_once(deck, run_id, FIX_STEPS)
    deck.assert_verifies(run_id)


@pytest.mark.parametrize("step", ["green", "commit"])
def test_killed_and_then_cancelled(deck: Deckhand, step: str) -> None:
    """The other way out: everything goes back to the baseline."""
    going = deck.start("run", str(SAMPLES / "fix-the-build"), "--json")
    root = Path(going.line("launch")["work_tree"])
    run_id = die_when(deck, going, lambda run_id: under_way(deck, run_id, step))
    assert_resumable(deck, run_id)
    done = deck.inline("cancel", run_id, "--reason", "not any more", "--json")
    assert done.code == 0, done
    assert deck.status(run_id) == "cancelled"
    state = git_state(root)
    assert state.head == deck.entries(run_id, "journal_opened")[0]["baseline_commit"]
    assert state.status == ""
    assert len(git(root, "log", "--all", "--format=%H").splitlines()) == 1
    assert state.files == tree(SAMPLES / "fix-the-build" / "project")
    assert effects(deck, run_id).keys().isdisjoint({"apply.0", "stage.0", "commit.0"})
    deck.assert_verifies(run_id)


WRITES = """\
mission: writes
version: "1"
description: Many small writes in the operator's own folder.
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}"}
envelope:
  allowed_paths: [made, "made/**"]
  allowed_tools: [filesystem.write_file, filesystem.make_dir, filesystem.delete_file]
blocks:
  folder: {type: tool_invoke, tool: filesystem.make_dir, path: made}
BLOCKS
links:
  - folder -> LINKS
"""
#: So many that the run cannot end before the kill arrives, however late a loaded machine sends it.
COUNT = 26


def many_writes(folder: Path) -> str:
    names = [f"write{number:02}" for number in range(COUNT)]
    # Every file is written twice over, so that a write done again, or undone too far, would show.
    blocks = [
        f"  {name}: {{type: tool_invoke, tool: filesystem.write_file, path: made/f{number // 2},"
        f' content: "{name} {"x" * 2000}\\n"}}'
        for number, name in enumerate(names)
    ]
    return mission(folder, WRITES.replace("BLOCKS", "\n".join(blocks)).replace("LINKS", " -> ".join(names)))


def finished_tree() -> dict[str, bytes]:
    return {f"made/f{number // 2}": f"write{number:02} {'x' * 2000}\n".encode() for number in range(1, COUNT, 2)}


def contents(root: Path) -> dict[str, bytes]:
    return {name: body for name, (kind, _, body) in tree(root).items() if kind == "file"}


@pytest.mark.parametrize("victim", [0, 7, 15])
def test_killed_between_a_write_and_its_receipt(deck: Deckhand, tmp_path: Path, victim: int) -> None:
    """Each round dies while another write is announced and not proven; the odd one may have just been proven."""
    root, step = tmp_path / "tree", f"write{victim:02}"
    (root / "kept").mkdir(parents=True)
    path = many_writes(tmp_path / "m")
    going = deck.start("run", path, "--input", f"root={root}", "--json")
    run_id = die_when(
        deck, going, lambda run_id: any(item["step_id"] == step for item in deck.entries(run_id, "operation_started"))
    )
    assert_resumable(deck, run_id)
    # Until it is settled, nobody else may work there, and they are told why and what to do.
    other = deck.inline("run", path, "--input", f"root={root}", "--json")
    assert other.code != 0, other
    assert other.done["status"] == "refused"
    assert run_id[:8] in other.done["message"]
    assert "resume" in other.done["message"]
    done = deck.inline("resume", run_id, "--json")
    assert done.code == 0, done
    assert contents(root) == finished_tree()
    assert_each_effect_once(deck, run_id, {"folder", *(f"write{number:02}" for number in range(COUNT))})
    deck.assert_verifies(run_id)


def test_killed_during_writes_and_cancelled(deck: Deckhand, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "kept").mkdir(parents=True)
    (root / "kept" / "mine").write_text("mine\n")
    before = tree(root)
    going = deck.start("run", many_writes(tmp_path / "m"), "--input", f"root={root}", "--json")
    run_id = die_when(deck, going, lambda run_id: len(deck.receipts(run_id)) > 10)
    assert contents(root).keys() > {"made/f0"}
    done = deck.inline("cancel", run_id, "--json")
    assert done.code == 0, done
    assert tree(root) == before
    assert deck.status(run_id) == "cancelled"
    deck.assert_verifies(run_id)


def test_killed_again_while_recovering(deck: Deckhand, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    going = deck.start("run", many_writes(tmp_path / "m"), "--input", f"root={root}", "--json")
    run_id = die_when(deck, going, lambda run_id: len(deck.receipts(run_id)) > 3)
    for at_least in (8, 14):
        again = deck.start("resume", run_id, "--json")
        poll("some more receipts", lambda at_least=at_least: len(deck.receipts(run_id)) > at_least)
        again.kill()
        assert_resumable(deck, run_id)
    done = deck.inline("resume", run_id, "--json")
    assert done.code == 0, done
    assert contents(root) == finished_tree()
    assert len(deck.entries(run_id, "recovery")) == 3
    assert_each_effect_once(deck, run_id, {"folder", *(f"write{number:02}" for number in range(COUNT))})
    deck.assert_verifies(run_id)


SERVE = """\
mission: serve
version: "1"
description: A command that writes, and then takes its time.
workspace: {from: tree}
envelope: {allowed_paths: [out, "out/**"], allowed_tools: [process.run]}
sandbox: {confinement: best_effort}
commands:
  slow:
    argv: [sh, -c, "echo done >> out/log; test -e out/quick || while :; do sleep 0.05; done", MARKER]
    writes: [out]
blocks:
  slow: {type: tool_invoke, tool: process.run, template: slow}
links: []
"""


def test_a_killed_runner_takes_its_processes_along(deck: Deckhand, tmp_path: Path) -> None:
    """A write whose moment lasts: the command has written and its receipt cannot be there."""
    marker = f"marker-{uuid.uuid4()}"
    path = mission(tmp_path, SERVE.replace("MARKER", marker), {"tree/out/old": "old\n"})
    going = deck.start("run", path, "--json")
    log = Path(going.line("launch")["work_tree"]) / "out" / "log"
    run_id = die_when(deck, going, lambda run_id: log.exists() and log.read_text())
    poll("every process of the run to be gone", lambda: not processes_with(marker))
    assert under_way(deck, run_id, "slow")
    assert_resumable(deck, run_id)
    again = deck.start("resume", run_id, "--json")
    poll("the command to run again", lambda: len(deck.entries(run_id, "operation_started")) == 2)
    poll("its words", lambda: log.exists() and log.read_text())
    assert log.read_text() == "done\n", "the first attempt was taken back before the second"
    (log.parent / "quick").touch()
    again.kill()
    done = deck.inline("cancel", run_id)
    assert done.code == 0, done
    assert contents(log.parent.parent) == {"out/old": b"old\n"}
    deck.assert_verifies(run_id)


def test_killed_while_waiting_for_an_answer(deck: Deckhand) -> None:
    going = deck.start("run", str(SAMPLES / "approval"), "--await-approval", "--json")
    run_id = die_when(deck, going, lambda run_id: deck.status(run_id) == "waiting")
    assert_resumable(deck, run_id)
    early = deck.inline("approve", run_id)
    assert early.code != 0, early
    assert "resume" in early.err, "what to do first"
    again = deck.start("resume", run_id, "--await-approval", "--json")
    poll("the question to be open again", lambda: deck.entries(run_id, "recovery") and deck.status(run_id) == "waiting")
    answered = deck.inline("approve", run_id, "--json")
    assert answered.code == 0, answered
    done = again.finish()
    assert done.code == 0, done
    assert (Path(done.done["work_tree"]) / "notes" / "published.md").exists()
    deck.assert_verifies(run_id)


def test_a_changed_mission_file_cannot_be_resumed_under_a_new_meaning(deck: Deckhand, tmp_path: Path) -> None:
    """The plan is frozen: what the file says today does not matter, only what the store kept."""
    folder = sample(tmp_path, "fix-the-build")
    going = deck.start("run", str(folder), "--json")
    run_id = die_when(deck, going, lambda run_id: under_way(deck, run_id, "red"))
    source = folder / "mission.yaml"
    source.write_text(source.read_text().replace("Fix: ", "Changed: "))
    done = deck.inline("resume", run_id, "--json")
    assert done.code == 0, done
    root = Path(done.done["work_tree"])
    assert git(root, "log", "-1", "--format=%s").startswith("Fix: ")
    deck.assert_verifies(run_id)


@pytest.mark.parametrize("verb", ["resume", "cancel"])
def test_killed_between_the_end_and_its_row(deck: Deckhand, verb: str) -> None:
    """The journal is closed and durable, the run's row still says running: what the journal says wins (ruling R25)."""
    done = deck.inline("run", str(SAMPLES / "hello"), "--json")
    run_id = done.run_id
    with contextlib.closing(sqlite3.connect(deck.database, isolation_level=None)) as database:
        database.execute(
            "UPDATE runs SET status = 'running', finished_at = NULL, exit_code = NULL, outputs = NULL WHERE run_id = ?",
            (run_id,),
        )
    before = deck.entries(run_id)
    settled = deck.inline(verb, run_id, "--json")
    assert settled.code in (0, 1), settled
    assert deck.entries(run_id) == before, "nothing follows the end"
    row = deck.inline("show", run_id, "--json").lines[0]
    assert row["status"] == "succeeded"
    assert row["exit_code"] == 0
    assert row["resumable"] is False
    assert row["finished_at"] is not None
    deck.assert_verifies(run_id)
