"""Bad input of every kind: what is wrong, what to do, the documented exit code, and nothing half-done."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deckhand import SAMPLES, Deckhand, Done, deckhand, mission, poll, sample, tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deckhand]:
    """A store that holds two finished runs."""
    with deckhand(tmp_path_factory.mktemp("shared")) as hand:
        for _ in range(2):
            assert hand.inline("run", str(SAMPLES / "hello")).code == 0
        yield hand


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[Deckhand]:
    with deckhand(tmp_path / "deck") as hand:
        yield hand


def assert_says(hand: Deckhand, arguments: list[str], code: int, *words: str) -> Done:
    """Once for people and once for programs: the code, what is wrong, and what to do."""
    text = hand.inline(*arguments)
    assert text.code == code, text
    assert text.out == "", "stdout is for data"
    for word in words:
        assert word in text.err, text
    data = hand.inline(*arguments, "--json")
    assert data.code == code, data
    assert data.error["exit_code"] == code
    assert data.error["message"]
    assert data.error["hint"] or data.error["problems"], data
    return data


def run_count(hand: Deckhand) -> int:
    return int(hand.rows("SELECT count(*) FROM runs")[0][0])


# -- the mission file ---------------------------------------------------------------------------------------------

FIVE = """\
mission: five
version: 1
description: Five different mistakes, none of them of syntax.
inputs: {name: {type: string, default: you}}
workspace: {kind: none}
blocks:
  greet: {type: templat, template: "Hello"}
  check: {type: gate_check, check: non_empty, condition: {x: "${inputs.nam}"}}
  again: {type: template, template: "{{ x }}", data: {x: "1"}, retires: 3}
links:
  - greet -> check -> agan
"""


@pytest.mark.parametrize("verb", ["run", "lint"])
def test_five_mistakes_five_positions(shared: Deckhand, tmp_path: Path, verb: str) -> None:
    path = mission(tmp_path, FIVE)
    before = run_count(shared)
    done = shared.inline(verb, path)
    assert done.code == 2, done
    found = re.findall(r"mission\.yaml:(\d+):(\d+): error: .* \[([A-Za-z_.]+)\]", done.out + done.err)
    assert sorted(int(line) for line, _, _ in found) == [2, 7, 8, 9, 11], done
    assert len({code for _, _, code in found}) == 5, found
    assert (done.out + done.err).count("^") >= 5, "each with a caret"
    assert "did you mean" in done.out + done.err
    assert run_count(shared) == before, "nothing was started"


MALFORMED = {
    "syntax": "mission: x\n  bad: [1,\n",
    "empty": "",
    "a list": "- a\n- b\n",
    "not text": "mission: \x00\x01\n",
    "no blocks": 'mission: x\nversion: "1"\n',
    "duplicate key": 'mission: x\nmission: y\nversion: "1"\nblocks: {a: {type: echo}}\n',
    "alias": 'mission: x\nversion: "1"\nblocks: {a: &a {type: echo}, b: *a}\n',
    "bare yes": 'mission: x\nversion: "1"\nblocks: {a: {type: echo, optional: yes}}\n',
    "a cycle": 'mission: x\nversion: "1"\nblocks: {a: {type: echo}, b: {type: echo}}\nlinks: [a -> b -> a]\n',
    "deep": "mission: " + "[" * 60 + "]" * 60 + "\n",
    "long": "mission: x\ndescription: " + "x" * 300_000 + "\n",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_mission_is_placed(shared: Deckhand, tmp_path: Path, text: str) -> None:
    path = mission(tmp_path, text)
    before = run_count(shared)
    done = shared.inline("run", path)
    assert done.code == 2, done
    assert re.search(r"mission\.yaml:\d+:\d+: error: ", done.err), done
    assert run_count(shared) == before


def test_bytes_that_are_no_text(shared: Deckhand, tmp_path: Path) -> None:
    (tmp_path / "mission.yaml").write_bytes(b"mission: \xff\xfe\n")
    done = shared.inline("run", str(tmp_path))
    assert done.code == 2, done
    assert "mission.yaml:1:" in done.err


@pytest.mark.parametrize("place", ["nowhere", "nowhere/mission.yaml", "empty"])
def test_no_mission_there(shared: Deckhand, tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    done = assert_says(shared, ["run", str(tmp_path / place)], 2, str(tmp_path / place.partition("/")[0]))
    assert "MISSION_NOT_FOUND" in done.out


# -- inputs -------------------------------------------------------------------------------------------------------

TYPED = """\
mission: typed
version: "1"
description: One input of each type.
inputs:
  count: {type: integer}
  ratio: {type: number, default: 0.5}
  loud: {type: boolean, default: false}
  mood: {type: string, default: calm, choices: [calm, wild]}
workspace: {kind: none}
blocks:
  say: {type: template, template: "{{ n }}", data: {n: "${inputs.count}"}}
"""

INPUTS = {
    "wrong type": (["count=three"], "count"),
    "wrong number": (["count=1", "ratio=half"], "ratio"),
    "wrong boolean": (["count=1", "loud=maybe"], "loud"),
    "not a choice": (["count=1", "mood=odd"], "mood"),
    "unknown": (["count=1", "colour=red"], "colour"),
    "missing": ([], "count"),
    "not a pair": (["count"], "name=value"),
    "twice": (["count=1", "count=2"], "count"),
}


@pytest.mark.parametrize(("given", "word"), INPUTS.values(), ids=INPUTS.keys())
def test_wrong_inputs(shared: Deckhand, tmp_path: Path, given: list[str], word: str) -> None:
    before = run_count(shared)
    arguments = ["run", mission(tmp_path, TYPED)]
    for pair in given:
        arguments += ["--input", pair]
    text = shared.inline(*arguments)
    assert text.code == 2, text
    assert word in text.err
    data = shared.inline(*arguments, "--json")
    assert data.code == 2
    assert data.error["code"].startswith("INPUT_")
    assert run_count(shared) == before


def test_all_wrong_inputs_are_told_at_once(shared: Deckhand, tmp_path: Path) -> None:
    done = shared.inline("run", mission(tmp_path, TYPED), "-i", "count=x", "-i", "mood=odd", "-i", "colour=red")
    assert done.code == 2
    assert all(word in done.err for word in ("count", "mood", "colour")), done


# -- runs ---------------------------------------------------------------------------------------------------------

ABOUT_A_RUN = ("show", "logs", "verify", "violations", "cancel", "terminate", "pause", "resume", "approve", "reject")


@pytest.mark.parametrize("verb", [*ABOUT_A_RUN, "export"])
@pytest.mark.parametrize("selector", ["zzzz", str(uuid.UUID(int=7))], ids=["prefix", "whole id"])
def test_an_unknown_run(shared: Deckhand, verb: str, selector: str) -> None:
    done = shared.inline(verb, selector)
    assert done.code == 2, done
    assert selector in done.err
    assert done.out == ""


@pytest.mark.parametrize("verb", ["show", "verify", "cancel"])
def test_an_ambiguous_prefix_lists_the_candidates(shared: Deckhand, verb: str) -> None:
    with contextlib.closing(sqlite3.connect(shared.database, isolation_level=None)) as database:
        ids = [row[0] for row in database.execute("SELECT run_id FROM runs")]
        twins = [f"abcd{number}{found[5:]}" for number, found in enumerate(ids)]
        for new, old in zip(twins, ids, strict=True):
            database.execute("UPDATE runs SET run_id = ? WHERE run_id = ?", (new, old))
        done = shared.inline(verb, "abcd")
        for new, old in zip(twins, ids, strict=True):
            database.execute("UPDATE runs SET run_id = ? WHERE run_id = ?", (old, new))
    assert done.code == 2, done
    assert all(twin in done.err for twin in twins), done


def test_latest_of_an_empty_store(deck: Deckhand) -> None:
    done = assert_says(deck, ["show", "@latest"], 2, "no runs yet")
    assert done.error["code"] == "RUN_UNKNOWN"
    listed = deck.inline("runs", "--json")
    assert (listed.code, listed.out) == (0, "")


def test_an_unknown_step(shared: Deckhand) -> None:
    done = shared.inline("logs", "@latest", "--step", "nope")
    assert done.code == 2, done
    assert "nope" in done.err


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["run", "x", "--nonsense"], ["runs", "--limit", "many"]])
def test_a_mistyped_command_line(shared: Deckhand, arguments: list[str]) -> None:
    done = shared.inline(*arguments)
    assert done.code == 2, done
    assert "usage:" in done.err


# -- the state folder ---------------------------------------------------------------------------------------------


def test_the_store_is_a_file(deck: Deckhand) -> None:
    deck.store.write_text("not a folder")
    done = assert_says(deck, ["run", str(SAMPLES / "hello")], 2, str(deck.store), "--store")
    assert done.error["code"] == "STORE_NOT_FOLDER"
    assert deck.inline("runs").code == 2
    assert deck.store.read_text() == "not a folder"


def test_the_store_is_below_a_file(deck: Deckhand) -> None:
    (deck.home / "file").write_text("x")
    done = deck.inline("--store", str(deck.home / "file" / "below"), "run", str(SAMPLES / "hello"))
    assert done.code == 2, done
    assert "STORE_" in done.err


def test_the_store_is_open_to_others(deck: Deckhand) -> None:
    deck.store.mkdir()
    (deck.store / "something").write_text("x")
    deck.store.chmod(0o755)
    for verb in (["run", str(SAMPLES / "hello")], ["runs"]):
        done = assert_says(deck, verb, 2, f"chmod 700 {deck.store}", "0755")
        assert done.error["code"] == "STORE_TOO_OPEN"
    assert [item.name for item in deck.store.iterdir()] == ["something"]


def test_the_store_is_a_link(deck: Deckhand, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    deck.store.symlink_to(tmp_path / "real")
    done = assert_says(deck, ["run", str(SAMPLES / "hello")], 2, f"--store {tmp_path / 'real'}")
    assert done.error["code"] == "STORE_SYMLINK"


def test_a_database_of_another_program(deck: Deckhand) -> None:
    deck.store.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(deck.database)) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    before = deck.database.read_bytes()
    for verb in (["run", str(SAMPLES / "hello")], ["runs"]):
        assert assert_says(deck, verb, 2, "another program").error["code"] == "STORE_NOT_OURS"
    assert deck.database.read_bytes() == before


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of our own; skips where this account may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield folder
        # Not lazily: nothing of ours may keep a hand on it.
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def test_a_read_only_disk(deck: Deckhand, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m,mode=0700,ro") as disk:
        done = assert_says(deck, ["--store", str(disk / "store"), "run", str(SAMPLES / "hello")], 2, "--store")
        assert done.error["code"] in ("STORE_READ_ONLY", "STORE_UNWRITABLE")


def test_a_folder_that_may_not_be_written(deck: Deckhand, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only for root")
    (tmp_path / "closed").mkdir(mode=0o500)
    done = assert_says(deck, ["--store", str(tmp_path / "closed" / "store"), "run", str(SAMPLES / "hello")], 2)
    assert done.error["code"] == "STORE_UNWRITABLE"


def test_a_store_that_became_read_only_can_still_be_read(deck: Deckhand, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=24m,mode=0700") as disk:
        hand = Deckhand(tmp_path / "other", store=disk / "store")
        assert hand.inline("run", str(SAMPLES / "hello")).code == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for verb in (["runs"], ["show", "@latest"], ["verify", "@latest"]):
            assert hand.inline(*verb).code == 0
        refused = hand.inline("run", str(SAMPLES / "hello"))
        assert refused.code == 2, refused
        assert "STORE_READ_ONLY" in refused.err


def test_a_disk_too_full_to_begin(deck: Deckhand, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m,mode=0700") as disk:
        done = deck.inline("--store", str(disk / "store"), "run", str(SAMPLES / "hello"))
        assert done.code != 0, done
        assert "STORE_FULL" in done.err
        assert "free some disk space" in done.err
        assert not (disk / "store" / "quarterdeck.db").exists()


BIG = """\
mission: big
version: "1"
description: Ask, then write more than a full disk takes.
workspace: {root: "${inputs.root}"}
inputs: {root: {type: string}}
envelope: {allowed_paths: ["*.txt"], allowed_tools: [filesystem.write_file]}
blocks:
  ask: {type: approval, message: "Go on?"}
BLOCKS
links: [ask -> LINKS]
"""


def fill(path: Path) -> None:
    """Take what space is left."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    free = os.fstatvfs(descriptor)
    os.posix_fallocate(descriptor, 0, free.f_bavail * free.f_frsize)
    os.close(descriptor)
    assert os.statvfs(path).f_bavail == 0


@pytest.mark.parametrize("spare", [0, 256 * 1024], ids=["before the answer", "between two writes"])
def test_a_disk_that_fills_up_during_a_run(tmp_path: Path, spare: int) -> None:
    """The run stops where it is; with space again it is resumed, and everything is there once."""
    work = tmp_path / "tree"
    work.mkdir()
    names = [f"write{number:02}" for number in range(26)]
    blocks = "\n".join(
        f'  {name}: {{type: tool_invoke, tool: filesystem.write_file, path: {name}.txt, content: "{name} {"x" * 7000}"}}'
        for name in names
    )
    path = mission(tmp_path / "m", BIG.replace("BLOCKS", blocks).replace("LINKS", " -> ".join(names)))
    with mounted(tmp_path / "disk", "size=12m,mode=0700") as disk, deckhand(tmp_path / "deck") as hand:
        hand.store = disk / "store"
        going = hand.start("run", path, "--input", f"root={work}", "--await-approval", "--json")
        run_id = going.run_id()
        hand.until(run_id, "waiting")
        (disk / "spare").write_bytes(bytes(spare))
        fill(disk / "ballast")
        (disk / "spare").unlink()
        told = hand.inline("approve", run_id)
        assert (told.code == 0) == (spare > 0), "an answer is acknowledged when it is on disk"
        done = going.finish()
        assert done.code not in (0, 124, 130), done
        assert "the disk is full" in done.err
        assert done.done["resumable"] is True
        assert done.done["code"] == "STORE_FULL"
        assert len(list(work.iterdir())) < len(names)
        hand.assert_verifies(run_id)
        (disk / "ballast").unlink()
        again = hand.start("resume", run_id, "--await-approval", "--json")
        if told.code != 0:
            poll("the question", lambda: hand.entries(run_id, "recovery") and hand.status(run_id) == "waiting")
            assert hand.inline("approve", run_id).code == 0
        finished = again.finish()
        assert finished.code == 0, finished
        assert {item.name for item in work.iterdir()} == {f"{name}.txt" for name in names}
        successes = [item["step_id"] for item in hand.receipts(run_id) if item["status"] == "success"]
        assert sorted(successes) == names
        hand.assert_verifies(run_id)


# -- somebody else holds it -----------------------------------------------------------------------------------------


def test_a_holder_nobody_can_reach(deck: Deckhand) -> None:
    """The lock is held and no socket answers: acting exits 8 and says who; looking still works."""
    assert deck.inline("run", str(SAMPLES / "hello")).code == 0
    with (deck.store / "store.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        json.dump({"pid": 4711, "process_start": "", "boot_id": "", "host": "elsewhere", "nonce": "",
                   "started_at": "2026-01-01T00:00:00Z", "socket": str(deck.store / "control.sock")}, lock)  # fmt: skip
        lock.flush()
        before = run_count(deck)
        for verb in (["run", str(SAMPLES / "hello")], ["cancel", "@latest"]):
            done = assert_says(deck, verb, 8, "4711")
            assert done.error["code"] == "STORE_UNRESPONSIVE"
        assert run_count(deck) == before
        assert deck.inline("runs").code == 0
        deck.assert_verifies(deck.rows("SELECT run_id FROM runs")[0][0])


# -- git, terminal, sandbox -----------------------------------------------------------------------------------------


def path_without_git(folder: Path) -> str:
    folder.mkdir()
    for name in ("bwrap", "sh", "env"):
        for place in ("/usr/bin", "/bin"):
            if Path(place, name).exists() and not (folder / name).exists():
                (folder / name).symlink_to(Path(place, name))
    return str(folder)


def test_no_git(deck: Deckhand, tmp_path: Path) -> None:
    env = {"PATH": path_without_git(tmp_path / "bin")}
    done = deck.inline("run", str(SAMPLES / "fix-the-build"), "--json", env=env)
    assert done.code in (1, 2), done
    refused = done.done
    assert refused["status"] == "refused"
    assert "git" in refused["message"]
    assert "install" in refused["message"].lower() or "PATH" in refused["message"], "what to do"
    assert not list((deck.store / "work").iterdir()), "no half-made copy stays behind"
    assert deck.inline("run", str(SAMPLES / "hello"), env=env).code == 0, "what needs no git runs"


def test_no_terminal_for_the_console(deck: Deckhand) -> None:
    done = deck.run(installed=True)
    assert done.code == 2, done
    assert "terminal" in done.err
    assert "--help" in done.err
    assert not deck.store.exists(), "nothing was opened"


PROCESS = """\
mission: process
version: "1"
description: Write something, then run something.
workspace: {from: tree}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file, process.run]}
SANDBOX
commands:
  say: {argv: [echo, hello]}
blocks:
  note: {type: tool_invoke, tool: filesystem.write_file, path: note.txt, content: "x"}
  say: {type: tool_invoke, tool: process.run, template: say}
links: [note -> say]
"""


@pytest.fixture
def no_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without bubblewrap and user namespaces: there is no backend to try."""
    monkeypatch.setattr("runtime.governance.sandbox.confining_backends", lambda: ())


@pytest.mark.usefixtures("no_walls")
@pytest.mark.parametrize("declared", ["", "sandbox: {confinement: required}"], ids=["silent", "required"])
def test_confinement_that_cannot_be_had_is_denied(deck: Deckhand, tmp_path: Path, declared: str) -> None:
    path = mission(tmp_path / "m", PROCESS.replace("SANDBOX", declared), {"tree/kept.txt": "kept"})
    done = deck.inline("run", path, "--json")
    assert done.code in (1, 4), done
    assert done.done["code"] == "op.sandbox_unavailable"
    assert "best_effort" in done.out, "what to do about it"
    assert tree(Path(done.done["work_tree"])) == tree(tmp_path / "m" / "tree"), "and nothing stays half-done"
    assert [item["operation_id"] for item in deck.receipts(done.run_id) if item["status"] == "success"
            and not item["compensates"]] == ["note.0"]  # fmt: skip
    deck.assert_verifies(done.run_id)


@pytest.mark.usefixtures("no_walls")
def test_best_effort_runs_unconfined_and_says_so(deck: Deckhand, tmp_path: Path) -> None:
    text = PROCESS.replace("SANDBOX", "sandbox: {confinement: best_effort}")
    done = deck.inline("run", mission(tmp_path / "m", text, {"tree/kept.txt": "kept"}), "--json")
    assert done.code == 0, done
    assert done.launch["confinement"] == "D"
    assert deck.entries(done.run_id, "journal_opened")[0]["confinement"] == "D"
    assert "hello" in deck.inline("logs", done.run_id, "--step", "say").out


# -- the work tree --------------------------------------------------------------------------------------------------

COMMIT = """\
mission: commit
version: "1"
description: Commit in the operator's own folder.
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}"}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file, git.add, git.commit]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: new.txt, content: "x"}
  stage: {type: tool_invoke, tool: git.add, paths: [new.txt]}
  commit: {type: tool_invoke, tool: git.commit, message: "New"}
links: [write -> stage -> commit]
"""


def repository(root: Path) -> Path:
    root.mkdir()
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        if arguments[0] == "add":
            (root / "a.txt").write_text("one\n")
        identity = ["-c", "user.name=T", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=root, check=True, env={"PATH": os.environ["PATH"]})
    return root


@pytest.mark.parametrize("trouble", ["missing", "not git", "unborn", "dirty", "merging", "index locked"])
def test_a_work_tree_that_cannot_be_used(deck: Deckhand, tmp_path: Path, trouble: str) -> None:
    root = tmp_path / "repo"
    if trouble == "not git":
        root.mkdir()
    elif trouble == "unborn":
        root.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    elif trouble != "missing":
        repository(root)
    if trouble == "dirty":
        (root / "a.txt").write_text("two\n")
    if trouble == "merging":
        (root / ".git" / "MERGE_HEAD").write_text("0" * 40 + "\n")
    if trouble == "index locked":
        (root / ".git" / "index.lock").touch()
    before = tree(root, skip=()) if root.exists() else None
    done = deck.inline("run", mission(tmp_path / "m", COMMIT), "--input", f"root={root}", "--json")
    assert done.code not in (0, 7, 130), done
    assert done.done["status"] == "refused" or trouble == "not git", done
    assert str(root) in done.done["message"] or trouble in ("dirty", "not git"), done
    after = tree(root, skip=()) if root.exists() else None
    assert after == before, "nothing was touched"


def test_a_scripted_answer_that_is_used_up(deck: Deckhand, tmp_path: Path) -> None:
    folder = sample(tmp_path, "fix-the-build")
    (folder / "answers.yaml").write_text("runner: []\n")
    done = deck.inline("run", str(folder), "--json")
    assert done.code in (1, 2), done
    assert "answer" in done.out
    if done.code == 1:
        assert tree(Path(done.done["work_tree"])) == tree(folder / "project")


def test_what_waits_is_told_before_it_is_too_late(deck: Deckhand) -> None:
    """A run that waits for a human says so on stderr even when nobody watches its JSON."""
    going = deck.start("run", str(SAMPLES / "approval"), "--await-approval")
    run_id = poll("the run", lambda: next((row[0] for row in deck.rows("SELECT run_id FROM runs")), None))
    deck.until(run_id, "waiting")
    poll("the word", lambda: "waiting" in going.so_far().err.lower())
    assert deck.inline("reject", run_id).code == 0
    assert going.finish().code == 3
