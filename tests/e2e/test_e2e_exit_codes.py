"""How each way of ending looks to a script: exit code, run row and journal agree (ruling R4)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deckhand import SAMPLES, Deckhand, Done, deckhand, mission, poll, processes_with, tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


HEAD = """\
mission: ending
version: "1"
description: One way to end.
workspace: {from: tree}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file, process.run], max_budget_usd: 1}
sandbox: {confinement: best_effort}
provider: {scripted: answers.yaml}
"""
TREE = {"tree/kept.txt": "kept\n", "answers.yaml": 'runner: ["one", "two", "three"]\n'}
WRITE = 'write: {type: tool_invoke, tool: filesystem.write_file, path: new.txt, content: "x"}'
BAD = "bad: {type: tool_invoke, tool: filesystem.write_file, path: CLAUDE.md, content: x}"
ASK = 'ask{n}: {{type: llm_call, prompt: "{n}?"}}'

#: body of the mission → exit code, run status, abort reason, innermost code, closing status
ENDINGS: dict[str, tuple[str, tuple[int, str, str | None, str | None, str]]] = {
    "succeeded": (f"blocks:\n  {WRITE}\n", (0, "succeeded", None, None, "completed")),
    "failed": (
        f'blocks:\n  {WRITE}\n  no: {{type: gate_check, check: non_empty, condition: {{x: ""}}}}\nlinks: [write -> no]\n',
        (1, "failed", "node_timeout_or_failure", "op.gate_not_passed", "failed"),
    ),
    "approval missing": (
        f"blocks:\n  {WRITE}\n  ask: {{type: approval, message: Well?}}\nlinks: [write -> ask]\n",
        (3, "failed", "approval_refused", "approval.missing", "failed"),
    ),
    "policy": (
        f"blocks:\n  {WRITE}\n  {BAD}\nlinks: [write -> bad]\n",
        (4, "failed", "policy_refused", "op.selfmod_protected", "failed"),
    ),
    "calls exhausted": (
        f"budgets: {{calls: 1}}\nblocks:\n  {WRITE}\n  {ASK.format(n=1)}\n  {ASK.format(n=2)}\nlinks: [write -> ask1 -> ask2]\n",
        (5, "failed", "budget_exhausted", "op.budget_exceeded", "failed"),
    ),
    "tokens exhausted": (
        f"budgets: {{tokens: 10}}\nblocks:\n  {WRITE}\n  {ASK.format(n=1)}\nlinks: [write -> ask1]\n",
        (5, "failed", "budget_exhausted", "op.budget_exceeded", "failed"),
    ),
    "time exhausted": (
        f"budgets: {{time: 0.4}}\nblocks:\n  {WRITE}\n  wait: {{type: delay, seconds: 60}}\nlinks: [write -> wait]\n",
        (124, "timed_out", "budget_exhausted", None, "timed_out"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_every_ending(
    deck: Deckhand, tmp_path: Path, body: str, expected: tuple[int, str, str | None, str | None, str]
) -> None:
    code, status, reason, inner, closing = expected
    done = deck.inline("run", mission(tmp_path, HEAD + body, TREE), "--no-input", "--json")
    assert done.code == code, done
    assert (done.done["status"], done.done["reason"], done.done["exit_code"]) == (status, reason, code), done
    if inner is not None:
        assert done.done["code"] == inner, done
    assert_recorded(deck, done, closing)
    left = set(tree(Path(done.done["work_tree"])))
    assert left == ({"kept.txt", "new.txt"} if code == 0 else {"kept.txt"}), "a run that fails leaves nothing behind"


def assert_recorded(deck: Deckhand, done: Done, closing: str) -> dict[str, Any]:
    """Row, journal and done line tell the same story, in every reading verb."""
    run_id = done.run_id
    last = deck.entries(run_id)[-1]
    assert (last["kind"], last["status"]) == ("journal_closed", closing)
    row = deck.inline("show", run_id, "--json").lines[0]
    assert (row["status"], row["exit_code"]) == (done.done["status"], last["exit_code"])
    assert (row["entries"], row["head_hash"]) == (done.done["entries"], done.done["journal_head"])
    assert row["resumable"] is False
    deck.assert_verifies(run_id)
    return last


def test_keep_keeps_what_a_failed_run_did(deck: Deckhand, tmp_path: Path) -> None:
    body = "on_failure: keep\n" + ENDINGS["failed"][0]
    done = deck.inline("run", mission(tmp_path, HEAD + body, TREE), "--json")
    assert done.code == 1, done
    assert set(tree(Path(done.done["work_tree"]))) == {"kept.txt", "new.txt"}


SLEEPER = """\
commands:
  sleep: {argv: [sh, -c, "touch out/here; (setsid sleep 60 &); while :; do sleep 0.05; done", MARKER], writes: [out]}
blocks:
  sleep: {type: tool_invoke, tool: process.run, template: sleep}
"""
OUT = {**TREE, "tree/out/kept": "kept\n"}


def test_time_kills_a_command_too(deck: Deckhand, tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    text = HEAD + "budgets: {time: 1}\n" + SLEEPER.replace("MARKER", marker)
    done = deck.run("run", mission(tmp_path, text, OUT), "--json")
    assert done.code == 124, done
    assert processes_with(marker) == []
    assert set(tree(Path(done.done["work_tree"]))) == {"kept.txt", "out", "out/kept"}
    assert_recorded(deck, done, "timed_out")


def test_a_stop_file_in_the_state_folder_stops_everything(deck: Deckhand, tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    going = deck.start("run", mission(tmp_path, HEAD + SLEEPER.replace("MARKER", marker), OUT), "--json")
    root = Path(going.line("launch")["work_tree"])
    poll("the command", (root / "out" / "here").exists)
    switch = deck.store / "STOP_AUTONOMY"
    switch.touch()
    try:
        poll("the command to be gone", lambda: not processes_with(marker), limit=3)
        done = going.finish(limit=3)
        refused = deck.inline("run", str(SAMPLES / "hello"), "--json")
    finally:
        switch.unlink()
    assert done.code == 130, done
    assert done.done["status"] == "cancelled"
    assert "kill_switch" in (done.done["reason"], done.done["message"], done.done["code"]), done
    assert assert_recorded(deck, done, "halted")["status"] == "halted"
    assert set(tree(root)) == {"kept.txt", "out", "out/kept"}
    assert refused.code != 0, "nothing starts while the switch is set"
    assert refused.done["status"] == "refused"
    assert refused.done["code"] == "KILL_SWITCH"
    assert "STOP_AUTONOMY" in refused.out
    assert deck.inline("run", str(SAMPLES / "hello")).code == 0, "without it, work goes on"


@pytest.mark.parametrize("ending", ["cancelled", "timed out"])
def test_a_question_goes_with_its_run(deck: Deckhand, tmp_path: Path, ending: str) -> None:
    """Nobody is asked about a run that is over; and waiting for a human is not time spent (ruling R27)."""
    body = (
        "blocks:\n  start: {type: echo}\n  ask: {type: approval, message: Well?}\n  wait: {type: delay, seconds: 60}\n"
        "links: [start -> ask, start -> wait]\n"
    )
    limits = "" if ending == "cancelled" else "budgets: {time: 0.5}\n"
    going = deck.start("run", mission(tmp_path, HEAD + limits + body, TREE), "--await-approval", "--json")
    run_id = going.run_id()
    poll("the question", lambda: deck.entries(run_id, "escalation"))
    if ending == "cancelled":
        assert deck.inline("cancel", run_id).code == 0
    done = going.finish()
    assert done.code == (130 if ending == "cancelled" else 124), done
    assert deck.inline("approvals", "--json").lines == []
    assert deck.inline("approve", run_id).code == 2


def test_only_waiting_for_a_human_costs_no_time(deck: Deckhand, tmp_path: Path) -> None:
    body = "budgets: {time: 0.3}\nblocks:\n  ask: {type: approval, message: Well?}\n  done: {type: echo}\nlinks: [ask -> done]\n"
    going = deck.start("run", mission(tmp_path, HEAD + body, TREE), "--await-approval", "--json")
    run_id = going.run_id()
    deck.until(run_id, "waiting")
    # Each of these commands takes longer than the budget could.
    for _ in range(4):
        assert deck.run("show", run_id).code == 0
    assert deck.inline("approve", run_id).code == 0
    done = going.finish()
    assert done.code == 0, done


def test_protection_is_given_up_by_its_digest_alone(deck: Deckhand, tmp_path: Path) -> None:
    text = """\
mission: reader
version: "1"
workspace: {root: tree, kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.read_file]}
blocks: {read: {type: tool_invoke, tool: filesystem.read_file, path: a}}
"""
    path = mission(tmp_path, text, {"tree/a": "1", "tree/config/protected_paths.json": '["secrets/**"]'})
    assert deck.inline("run", path).code == 0
    (tmp_path / "tree" / "config" / "protected_paths.json").write_text("[]")
    refused = deck.inline("run", path, "--json")
    assert (refused.code, refused.done["code"]) == (4, "SELFMOD_FLOOR"), refused
    digest = re.search(r"sha256:[0-9a-f]{64}", refused.done["message"])
    assert digest is not None
    verb = ["unprotect", str(tmp_path / "tree"), "--pattern", "secrets/**", "--reason", "moved", "--json"]
    wrong = deck.inline(*verb, "--digest", "sha256:" + "0" * 64)
    assert wrong.code == 4, wrong
    assert deck.inline(*verb, "--digest", digest[0]).lines[0]["done"] is True
    assert deck.inline("run", path).code == 0
