"""Every sample mission, run offline by the real command, and what each one promises to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from runtime.host.api import Answer, Launch
from tests.support.deckhand import (
    SAMPLES,
    Deckhand,
    Done,
    deckhand,
    git,
    git_state,
    mission,
    poll,
    processes_with,
    sample,
    tree,
)
from tests.support.hosting import hosting, question
from tests.support.repositories import Commit, imported

pytestmark = pytest.mark.slow

WRONG = "return sum(entries) + 1  # still wrong"


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    """One store for the whole module, as an operator has."""
    with deckhand(tmp_path_factory.mktemp("deck")) as hand:
        yield hand


def test_hello_greets(deck: Deckhand) -> None:
    done = deck.run("run", str(SAMPLES / "hello"), "--input", "name=Ada", "--json", installed=True)
    assert done.code == 0, done
    assert done.done["outputs"] == {"greeting": "Hello, Ada. The deck is yours."}
    assert done.launch["run_id"] == done.done["run_id"]
    assert done.launch["work_tree"] is None
    deck.assert_verifies(done.run_id)


def test_fix_the_build_repairs_proves_and_commits(deck: Deckhand) -> None:
    done = deck.run("run", str(SAMPLES / "fix-the-build"), "--json")
    assert done.code == 0, done
    root = Path(done.done["work_tree"])
    assert root == Path(done.launch["work_tree"])
    by_hand = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=root,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert by_hand.returncode == 0, by_hand.stdout
    assert git(root, "rev-parse", "HEAD") == done.done["outputs"]["commit"]
    assert git(root, "show", "--stat", "--format=%s", "HEAD").startswith("Fix: count the last entry of a ledger")
    assert git(root, "status", "--porcelain", "--ignored") == ""
    # Verified from another process, as the operator would.
    verdict = deck.run("verify", done.run_id, "--json")
    assert verdict.code == 0, verdict
    assert verdict.lines[0]["entries"] == verdict.lines[0]["trusted_prefix"] == done.done["entries"]
    assert verdict.lines[0]["closed"] is True


def test_a_wrong_answer_leaves_the_tree_at_its_baseline(deck: Deckhand, tmp_path: Path) -> None:
    folder = sample(tmp_path, "fix-the-build")
    answers = folder / "answers.yaml"
    answers.write_text(answers.read_text().replace("return sum(entries)", WRONG))
    done = deck.run("run", str(folder), "--json")
    assert done.code == 1, done
    assert done.done["code"] == "op.test_failed"
    root = Path(done.done["work_tree"])
    state = git_state(root)
    opened = deck.entries(done.run_id, "journal_opened")[0]
    assert state.head == opened["baseline_commit"]
    assert len(git(root, "log", "--all", "--format=%H").splitlines()) == 1
    assert [line.split("\t")[-1] for line in state.index.splitlines()] == git(
        root, "ls-tree", "-r", "--name-only", "HEAD"
    ).splitlines()
    assert state.status == ""
    assert state.files == tree(folder / "project")
    undone = deck.entries(done.run_id, "compensation_finished")
    assert len(undone) == 1, "the one write was undone, and proven so"
    deck.assert_verifies(done.run_id)


LATE = """\
mission: late
version: "1"
description: Write, stage, commit, and only then find out that it was all wrong.
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}"}
envelope:
  allowed_paths: ["src/**"]
  allowed_tools: [filesystem.write_file, filesystem.delete_file, filesystem.make_dir, git.add, git.commit]
sandbox: {confinement: best_effort}
blocks:
  change: {type: tool_invoke, tool: filesystem.write_file, path: src/tool.py, content: "print(2)\\n"}
  folder: {type: tool_invoke, tool: filesystem.make_dir, path: src/deep}
  create: {type: tool_invoke, tool: filesystem.write_file, path: src/deep/new.py, content: "new = 1\\n"}
  remove: {type: tool_invoke, tool: filesystem.delete_file, path: src/old.py, expect_sha256: "${inputs.old}"}
  stage:  {type: tool_invoke, tool: git.add, paths: [src/tool.py, src/deep/new.py]}
  commit: {type: tool_invoke, tool: git.commit, message: "All wrong"}
  doubt:  {type: gate_check, check: non_empty, condition: {proof: ""}}
links:
  - change -> folder -> create -> remove -> stage -> commit -> doubt
"""


def test_failing_after_the_commit_gives_everything_back(deck: Deckhand, tmp_path: Path) -> None:
    """HEAD, refs, index and every path, content and mode of the operator's own repository."""
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "src" / "tool.py").write_text("print(1)\n")
    (root / "src" / "tool.py").chmod(0o755)
    (root / "src" / "old.py").write_text("old = 1\n")
    (root / "notes.txt").write_text("mine\n")
    identity = ("-c", "user.name=T", "-c", "user.email=t@localhost")
    git(root, "add", "-A")
    git(root, *identity, "commit", "-q", "-m", "first")
    git(root, "tag", "v1")
    before = git_state(root)
    old = f"sha256:{subprocess.run(['sha256sum', root / 'src' / 'old.py'], capture_output=True, text=True).stdout[:64]}"
    text = LATE.replace("inputs: {root: {type: string}}", "inputs: {root: {type: string}, old: {type: string}}")
    path = mission(tmp_path / "m", text)
    done = deck.run("run", path, "--input", f"root={root}", "--input", f"old={old}", "--json")
    assert done.code == 1, done
    assert done.done["work_tree"] == str(root)
    assert git_state(root) == before
    written = {item["operation_id"] for item in deck.receipts(done.run_id) if item["effect"] == "write"}
    assert {item.partition(".")[0] for item in written} >= {"change", "folder", "create", "remove", "stage", "commit"}
    deck.assert_verifies(done.run_id)


def test_guarded_refuses_nineteen_operations_and_says_why(deck: Deckhand) -> None:
    done = deck.run("run", str(SAMPLES / "guarded"), "--json")
    assert done.code == 0, done
    listed = deck.inline("violations", done.run_id, "--json").lines
    assert [line["step_id"] for line in listed] == [name for name, _ in _REFUSED]
    assert [line["code"].lower() for line in listed] == [code for _, code in _REFUSED]
    assert len(listed) == done.done["violations"] == 19
    source = _GUARDED.splitlines()
    for line in listed:
        assert line["accepted"], line
        assert line["outcome"] == "accepted"
        assert all(line[name] for name in ("rule", "attempted", "needed")), line
        place = line["position"]
        assert source[place["line"] - 1][place["column"] - 1 :].startswith(f"{line['step_id']}:"), line
        assert (place["since"], Path(place["path"])) == ("", SAMPLES / "guarded" / "mission.yaml")
    root = Path(done.done["work_tree"])
    assert (root / "docs" / "notes.md").read_text() == "An ordinary, allowed write.\n"
    expected = tree(SAMPLES / "guarded" / "project")
    assert {name: item for name, item in tree(root).items() if name != "docs/notes.md"} == expected
    undone = [entry["outcome"] for entry in deck.entries(done.run_id, "compensation_finished")]
    assert undone == ["completed", "completed"], "halfway, twice"
    verdict = "denied" if done.launch["confinement"] in ("A", "B") else "POSSIBLE"
    assert f"write outside the declared folder: {verdict}" in done.done["outputs"]["probe"]
    deck.assert_verifies(done.run_id)
    _check_list(deck, done.run_id)
    _check_why(deck, done.run_id, {line["step_id"]: line["seq"] for line in listed})


def _check_list(deck: Deckhand, run_id: str) -> None:
    """A line each for people; filters by code, also as a mission spells it, and by step."""
    assert [line.split()[2] for line in deck.inline("violations", run_id).out.splitlines()[1:]] == [
        name for name, _ in _REFUSED
    ]
    for arguments, steps in (
        (("--code", "policy_*"), ["outside", "readonly", "secret", "reopened", "narrowed"]),
        (("--code", "op.env_*"), ["tool", "role"]),
        (("--code", "POLICY_*", "--step", "re*"), ["readonly", "reopened"]),
    ):
        found = deck.inline("violations", run_id, "--json", *arguments)
        assert [line["step_id"] for line in found.lines] == steps, found
    none = deck.inline("violations", run_id, "--step", "honest")
    assert (none.code, none.out) == (0, "")
    assert "no such violations" in none.err


def _check_why(deck: Deckhand, run_id: str, entries: Mapping[str, int]) -> None:
    told = deck.inline("violations", run_id, "--why", str(entries["reopened"])).out
    for text in (
        "attempted  read docs/secret/key.txt with filesystem.read_file",
        "refused by envelope.denied_paths: docs/secret/**",
        'needed     take "docs/secret/**" out of envelope.denied_paths',
        "became     the mission expects this code; the run went on",
    ):
        assert text in told
    line, caret = told.partition("mission.yaml:")[2].partition("mission.yaml:")[2].splitlines()[1:3]
    assert line[caret.index("^") :].startswith('"docs/secret/**"'), told
    (shown,) = deck.inline("violations", run_id, "--why", str(entries["tool"]), "--json").lines
    assert _GUARDED.splitlines()[shown["rule_position"]["line"] - 1].strip().startswith("allowed_tools:")
    for arguments in ((run_id, "--why", "0"), ("--why", "0")):
        refused = deck.inline("violations", *arguments, "--json")
        assert (refused.code, refused.error["code"]) == (2, "VIOLATION_UNKNOWN")


_ACCEPT = re.compile(r", accept: \[op\.([a-z_]+)\]")
_GUARDED = (SAMPLES / "guarded" / "mission.yaml").read_text()
_EXPECTED = re.findall(r"^  (\w+): .*accept: \[op\.([a-z_]+)\]", _GUARDED, re.MULTILINE)
#: In the order of the file and of the run; two failures are expected that are no refusals.
_REFUSED = [(block, code) for block, code in _EXPECTED if block not in ("halfway", "gate")]
#: One of each family: what ends a run is decided by the family, not by the code.
_ENDING = ("traversal", "outside", "reopened", "tool", "role", "budget", "rules", "stopfile", "halfway", "gate")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample(tmp_path_factory.mktemp("guarded"), "guarded")


@pytest.mark.parametrize("block", _ENDING)
def test_without_accept_a_violation_ends_the_run(deck: Deckhand, guarded: Path, block: str) -> None:
    """The sample's own text, one ``accept`` taken away: the run begins, and ends there with exit 4."""
    lines = [_ACCEPT.sub("", line) if line.startswith(f"  {block}:") else line for line in _GUARDED.splitlines()]
    path = guarded / f"{block}.yaml"
    path.write_text("\n".join(lines) + "\n")
    done = deck.inline("run", str(path), "--json")
    code = {"budget": 5, "halfway": 1, "gate": 1}.get(block, 4)
    assert done.code == code, done
    assert done.done["code"] == f"op.{dict(_EXPECTED)[block]}"
    assert (done.done["reason"] == "policy_refused") == (code == 4)
    # What the honest block wrote is taken back with the rest.
    assert tree(Path(done.done["work_tree"])) == tree(guarded / "project")
    last = deck.entries(done.run_id)[-1]
    assert (last["kind"], last["status"], last["exit_code"]) == ("journal_closed", "failed", code)
    outcomes = [line["outcome"] for line in deck.inline("violations", done.run_id, "--json").lines]
    assert outcomes[-1:] == ["ended" if code > 1 else "accepted"]


@pytest.mark.parametrize(("verb", "code", "status"), [("approve", 0, "succeeded"), ("reject", 3, "failed")])
def test_an_approval_answered_from_another_process(deck: Deckhand, verb: str, code: int, status: str) -> None:
    going = deck.start("run", str(SAMPLES / "approval"), "--await-approval", "--json")
    run_id = going.run_id()
    deck.until(run_id, "waiting")
    published = Path(going.line("launch")["work_tree"]) / "notes" / "published.md"
    assert not published.exists(), "nothing happens before the answer"
    poll("the question in the inbox", lambda: deck.inline("approvals", "--json").lines)
    answered = deck.inline(verb, run_id, "--reason", "looked at it", "--json")
    assert answered.code == 0, answered
    done = going.finish()
    assert done.code == code, done
    assert done.done["status"] == status
    assert published.exists() == (verb == "approve")
    notes = [item["notes"] for item in deck.entries(run_id, "escalation") if item["phase"] == "answered"]
    assert notes == ["looked at it"]
    assert deck.inline("approvals", "--json").lines == []
    deck.assert_verifies(run_id)


def test_storm_keeps_its_data_and_tells_what_it_dropped(deck: Deckhand) -> None:
    inputs = ("--input", "items=1500", "--input", "telemetry=3000", "--input", "seconds=1")
    done = deck.inline("run", str(SAMPLES / "storm"), *inputs, "--json")
    assert done.code == 0, done
    shown = deck.inline("show", done.run_id, "--json").lines[0]["streams"]
    assert shown["DataLane"]["kept"] == 4 * 1500
    assert shown["DataLane"]["dropped"] == 0
    assert shown["DataLane"]["saturated"] > 0
    assert 0 < shown["TelemetryLane"]["dropped"] < 4 * 3000
    assert shown["TelemetryLane"]["saturated"] > 0
    text = deck.inline("show", done.run_id).out
    assert "data 6,000 items kept" in text
    assert f"telemetry {shown['TelemetryLane']['dropped']:,} items dropped" in text
    for station in ("north", "west"):
        printed = deck.inline("logs", done.run_id, "--step", station)
        assert printed.out.splitlines() == [f"{station} wind {number}" for number in range(1500)]
    assert "flash" in deck.inline("logs", done.run_id, "--step", "beacon").out
    unknown = deck.inline("logs", done.run_id, "--step", "nowhere")
    assert unknown.code != 0
    assert "nowhere" in unknown.err
    deck.assert_verifies(done.run_id)


def test_a_storm_cancelled_in_the_middle_leaves_nothing_behind(deck: Deckhand, tmp_path: Path) -> None:
    marker = f"beacon-{uuid.uuid4()}"
    folder = sample(tmp_path, "storm")
    text = (folder / "mission.yaml").read_text()
    (folder / "mission.yaml").write_text(text.replace("storm-beacon", marker).replace("volleys: 2", "volleys: 600"))
    going = deck.start(
        "run",
        str(folder),
        "--json",
        *("--input", "seconds=60", "--input", "items=60000", "--input", "telemetry=900000"),
    )
    run_id = going.run_id()
    poll("the daemon", lambda: len(processes_with(marker)) >= 2)
    poll("pressure", lambda: "drop_notice" in [item["signal"] for item in _signals(deck, run_id)])
    told = deck.inline("cancel", run_id, "--reason", "enough", "--json")
    assert told.code == 0, told
    done = going.finish()
    assert done.code == 130, done
    assert processes_with(marker) == []
    ends = {entry["step_id"]: entry for entry in deck.entries(run_id, "step_finished")}
    assert ends["north"]["status"] == "cancelled"
    assert ends["north"]["stream"]["items"] > 0, "what was kept until then is named"
    deck.assert_verifies(run_id)


def _signals(deck: Deckhand, run_id: str) -> list[dict[str, Any]]:
    return [signal for entry in deck.entries(run_id, "signal") for signal in entry["signals"]]


def test_nobody_to_ask_means_no(deck: Deckhand) -> None:
    done = deck.inline("run", str(SAMPLES / "approval"), "--no-input", "--json")
    assert done.code == 3, done
    assert tree(Path(done.done["work_tree"])) == tree(SAMPLES / "approval" / "board")
    deck.assert_verifies(done.run_id)


# -- release-notes ----------------------------------------------------------------------------------------------------


def linear() -> Iterable[Commit]:
    """One author, conventional commits, releases."""
    kinds = (b"feat: add part %d", b"fix(core): mend part %d", b"docs: describe part %d", b"feat!: turn part %d around")
    for number in range(1_000):
        tag = b"v%d" % (number // 400) if number % 400 == 399 else None
        yield Commit(message=kinds[number % 4] % number, tag=tag)


def busy() -> Iterable[Commit]:
    """A dozen authors, and every fifth commit a merge."""
    for number in range(1_100):
        author = b"Author %d <a%d@example.org>" % (number % 12, number % 12)
        if number % 5 == 4:
            yield Commit(
                message=b"Merge pull request #%d from x/y\n\nfix: hidden below" % number, author=author, merges=3
            )
        else:
            yield Commit(message=b"ci: job %d" % number if number % 2 else b"Change %d" % number, author=author)


def messy() -> Iterable[Commit]:
    """No convention at all: other encodings, markup, no message, and a subject that never ends."""
    said = (
        b"",
        b"<script>alert(1)</script> [x](javascript:y)",
        b"r\xe9par\xe9",
        b"wip " * 300,
        b"fix stuff",
        b"\t.\r\n",
    )
    for number in range(1_050):
        author = b"Zo\xeb \x1b[31m <z\xff@example.org>" if number % 3 else b"<>"
        yield Commit(message=said[number % len(said)], author=author, tag=b"odd/tag" if number == 500 else None)


def everything(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path below ``root`` and in ``.git``: when it changed and what it holds."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


def notes(deck: Deckhand, root: Path, *inputs: str) -> tuple[Done, str]:
    """The notes on ``root``, with a dirty tree, and nothing in it or its ``.git`` touched."""
    (root / "file-1.txt").write_text("not committed\n")
    os.utime(root / "file-2.txt", (1, 1))  # a git that may would note this in its index
    before = everything(root)
    given = [part for pair in (f"repository={root}", *inputs) for part in ("--input", pair)]
    done = deck.inline("run", str(SAMPLES / "release-notes"), *given, "--json")
    assert everything(root) == before
    if done.code == 0:
        assert done.done["outputs"]["notes"] == "release-notes.md"
        assert not Path(done.done["output_folder"]).is_relative_to(root)
        return done, (Path(done.done["output_folder"]) / "release-notes.md").read_text()
    return done, ""


def test_release_notes_of_a_tidy_history(deck: Deckhand, tmp_path: Path) -> None:
    root = imported(tmp_path / "tidy", linear())
    done, text = notes(deck, root)
    assert done.code == 0, done
    assert "1000 changes and 0 merges by 1 authors, from the beginning to HEAD." in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Release notes",
        "## Breaking changes (250)",
        "## Features (500)",
        "## Fixes (250)",
        "## Documentation (250)",
        "## Authors",
    ]
    assert f"- **core:** mend part 997 ({git(root, 'rev-parse', 'HEAD~2')[:10]}, Ada)" in text
    assert "- … and 400 more" in text
    assert deck.inline("show", done.run_id).out.count(done.done["output_folder"]) == 1
    effects = {(item["operation_id"], item["effect"]) for item in deck.receipts(done.run_id)}
    assert effects == {("history.0", "read"), ("keep.0", "none")}
    deck.assert_verifies(done.run_id)
    done, text = notes(deck, root, "since=v0", "until=v1", "title=Two [one]")
    assert done.done["outputs"]["changes"] == 400
    assert text.startswith("# Two \\[one]\n\n400 changes")
    assert "from v0 to v1" in text
    done, _ = notes(deck, root, "since=v9")
    assert (done.code, done.done["code"]) == (1, "op.git_revision")
    assert done.done["output_folder"] is None


def test_release_notes_of_a_busy_history(deck: Deckhand, tmp_path: Path) -> None:
    done, text = notes(deck, imported(tmp_path / "busy", busy()), "longest=1000")
    assert done.code == 0, done
    assert "880 changes and 220 merges by 12 authors" in text
    assert "Merge pull request" not in text
    assert "## Upkeep (440)" in text
    assert "## Other changes (440)" in text
    assert text.count("\n- ") == 880 + 12
    assert "more\n" not in text


def test_release_notes_of_a_messy_history(deck: Deckhand, tmp_path: Path) -> None:
    done, text = notes(deck, imported(tmp_path / "messy", messy()), "until=odd/tag")
    assert done.code == 0, done
    assert "501 changes and 0 merges by 2 authors, from the beginning to odd/tag." in text
    assert "## Other changes (501)" in text
    assert "<script>" not in text.replace("\\<", "")
    assert "- r\ufffdpar\ufffd (" in text
    assert "- (no message) (" in text
    assert ", nobody)" in text
    assert max(map(len, text.splitlines())) < 150


# -- digest -----------------------------------------------------------------------------------------------------------


def test_digest_tells_each_news_once_and_runs_nothing_of_it(deck: Deckhand) -> None:
    done = deck.inline("run", str(SAMPLES / "digest"), "--json")
    assert done.code == 0, done
    written = (Path(done.done["output_folder"]) / "digest.eml").read_bytes()
    mail = message_from_bytes(written, policy=policy.default)
    assert [item.addr_spec for item in mail["To"].addresses] == ["crew@example.org"]
    assert (mail["Subject"], mail.get_content_type(), mail.is_multipart()) == ("Harbour news", "text/plain", False)
    text = mail.get_content()
    assert text.startswith("4 of 5 items are new.")
    titles = [line[2:] for line in text.splitlines() if line.startswith("* ")]
    assert titles == [
        "New crane on pier 4",
        "Ferry timetable for spring",
        'alert("all hands") Free mooring & more',
        "Café “Zur Möwe” reopens",
    ]
    assert "onerror" not in text
    assert "javascript:" not in text
    assert "<really>" in text, "an entity is text, and shown as such"
    again = deck.inline("run", str(SAMPLES / "digest"), "--json")
    last = [next(iter(deck.entries(item.run_id, "step_finished")[-1:])) for item in (done, again)]
    assert last[0]["outputs"] == last[1]["outputs"], "two runs say the same, whenever they say it"
    told = ["seen=hg-101,hg-102,hg-103,hg-104", "to=Ada Ünal <ada@example.org>"]
    nothing = deck.inline("run", str(SAMPLES / "digest"), "--input", told[0], "--input", told[1], "--json")
    assert "Nothing happened." in (Path(nothing.done["output_folder"]) / "digest.eml").read_text()
    deck.assert_verifies(done.run_id)


# -- review-each ------------------------------------------------------------------------------------------------------


def test_review_each_maps_a_child_mission_over_the_pages(deck: Deckhand) -> None:
    done = deck.inline("run", str(SAMPLES / "review-each"), "--json")
    assert done.code == 0, done
    assert done.done["outputs"] == {"report": "reviews.md", "first": "fair"}
    text = (Path(done.done["output_folder"]) / "reviews.md").read_text(encoding="utf-8")
    assert "3 pages, 1 of them poor." in text
    assert [line[:2] for line in text.splitlines() if line[:1].isdigit()] == ["3 ", "1.", "2.", "3."]
    shown = deck.inline("show", done.run_id).out.splitlines()
    steps = [line.split()[1:3] for line in shown if line.startswith("  ✓ ")]
    inside = [[f"reviews/{page}{step}", kind] for page in range(3) for step, kind in _REVIEW]
    assert steps == [
        ["pages", "tool_invoke"],
        ["reviews", "map_over"],
        *inside,
        ["summary", "template"],
        ["keep", "tool_invoke"],
    ]
    assert {item["operation_id"] for item in deck.receipts(done.run_id)} >= {"reviews/0/read.0", "reviews/2/ask.0"}
    deck.assert_verifies(done.run_id)


_REVIEW = (("", "mission"), ("/read", "tool_invoke"), ("/ask", "llm_call"))


# -- triage -----------------------------------------------------------------------------------------------------------


def steps(deck: Deckhand, run_id: str) -> list[str]:
    return [entry["step_id"] for entry in deck.entries(run_id, "step_finished")]


@pytest.mark.parametrize(
    ("issue", "way", "kind", "path"),
    [
        ("crash", ["report", "file_bug"], "filed", "bugs/crash.md"),
        ("howto", ["answer", "reply"], "replied", "mail/howto.eml"),
        ("vague", ["doubt", "reconsider"] * 2 + ["report", "file_bug"], "filed", "bugs/vague.md"),
        ("garbled", ["second_reader", "report", "file_bug"], "filed", "bugs/garbled.md"),
        ("empty", ["question_back", "ask_back"], "asked_back", "mail/empty.eml"),
    ],
)
def test_triage_goes_the_way_the_answers_say(deck: Deckhand, issue: str, way: list[str], kind: str, path: str) -> None:
    done = deck.inline("run", str(SAMPLES / "triage"), "--input", f"issue={issue}", "--no-input", "--json")
    assert done.code == 0, done
    assert steps(deck, done.run_id) == ["message", "classify", *way]
    assert {name: value for name, value in done.done["outputs"].items() if value} == {kind: path}
    assert (Path(done.done["output_folder"]) / path).is_file()
    assert tree(Path(done.done["work_tree"])) == tree(SAMPLES / "triage" / "tracker"), "the inbox is only read"


def test_triage_that_is_never_sure_comes_to_an_end(deck: Deckhand) -> None:
    done = deck.inline("run", str(SAMPLES / "triage"), "--input", "issue=riddle", "--no-input", "--json")
    assert (done.code, done.done["code"]) == (1, "graph.max_steps_exceeded")
    assert steps(deck, done.run_id) == ["message", "classify"] + ["doubt", "reconsider"] * 5
    deck.assert_verifies(done.run_id)


@pytest.mark.parametrize(("resolution", "code"), [("approved", 0), ("rejected", 3)])
async def test_triage_has_a_person_decide_about_what_cannot_be_taken_back(
    tmp_path: Path, resolution: str, code: int
) -> None:
    async with hosting(tmp_path / "store") as host:
        run = await host.launch(Launch(path=str(SAMPLES / "triage"), inputs={"issue": "deletion"}))
        asked = await question(host, run.run_id)
        handed_over = Path(str(run.work_tree)) / "erasures" / "deletion.md"
        assert not handed_over.exists()
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution=resolution))
        ended = await host.wait(run.run_id)
    assert ended.exit_code == code, ended
    assert handed_over.exists() == (resolution == "approved")
    assert ended.output_folder is None
