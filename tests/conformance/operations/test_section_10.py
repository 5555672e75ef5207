"""Operations specification §10, run controller: its tests 10.a–10.l.

Which test fails when a defence (traps W14, W15, W16 and W18 of §14) is removed; each was tried:

- W14, a deterministic run id is no ownership (`TreeLock.release` looks at its descriptor): 10.d; that the idempotency
  key is consulted belongs to §4;
- W15, the lock file appears whole or not at all (`os.link` in `TreeLock._create`): 10.b; the kernel's lock decides, not
  the file (`TreeLock._adopt`): 10.b, 10.d; what cannot be read is never no lock: 10.c; the lock lies outside the tree
  (`Ground.preflight`): 10.e; a dead holder's record is told before it is replaced (`TreeLock.acquire`): 10.h;
- W16, any form of the name stops (`lstat` in `KillSwitch.active`): 10.a; hidden index bits are no clean tree
  (`check_repository`): 10.f; git's environment is built, not inherited (`Git._run`): 10.g;
- W18, what was spent is read back (`Ledger.replay`) and a lost answer stays paid (`Ledger.lose`): 10.k; money is checked
  at X6 and again when it is set aside (`Ledger._check`): with both gone 10.k, with the second alone
  ``test_parallel_reservations_cannot_pass_the_limit_together``;
- besides: the second look at the stop file (step 4): 10.l; a refused start gives the lock back: 10.f, 10.l; the look
  every half second (`LiveRun._watch`) and its note: 10.i; the lock is looked at before every effect (`RunGuard`): 10.j;
  a torn last line is set aside: 10.h.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.host.api import Launch, Refused, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import parse_strict
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SystemIds
from runtime.kernel.ports import ModelReply
from runtime.orchestration.budget import Limits
from runtime.orchestration.handlers.settings import ModelSettings, Price
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.run_controller import KillSwitch
from runtime.orchestration.tree_lock import LockHeld, LockMode, LockOwner, TreeLock
from tests.support.crash_points import OWNER as DEAD
from tests.support.crash_points import POINTS, DurableRig, params_of
from tests.support.hosting import entries, hosting, live, question, until, write_mission, writing
from tests.support.journals import JOURNAL_ID
from tests.support.operation_rig import Rig
from tests.support.repositories import repository, sh

ROOT = Path(__file__).parents[3]
RECIPE = "sha256:" + "0" * 64


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as host:
        yield host


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
def places(tmp_path: Path, tree: Path) -> tuple[Path, Path]:
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks", tree


def lock_of(places: tuple[Path, Path]) -> TreeLock:
    return TreeLock(*places, clock=ManualClock(), ids=SystemIds())


def owner(name: str = "run-a") -> LockOwner:
    return LockOwner(run_id=RECIPE, run_id_audit=name, mission_type="m")


def locks(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "locks").iterdir())


def _file(path: Path) -> None:
    path.write_text("")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_file, Path.mkdir, _dangling])
async def test_10_a_any_form_of_the_stop_file_stops(
    host: RuntimeHost, tmp_path: Path, tree: Path, make: Callable[[Path], None]
) -> None:
    mission = writing(tmp_path / "m")
    for folder in (tree, tmp_path / "store"):
        make(folder / "STOP_AUTONOMY")
        refused = await host.launch(Launch(path=mission, inputs={"root": str(tree)}))
        assert (refused.status, refused.code) == (RunStatus.REFUSED, "KILL_SWITCH")
        assert "STOP_AUTONOMY exists" in str(refused.message)
        gone = folder / "STOP_AUTONOMY"
        gone.rmdir() if gone.is_dir() and not gone.is_symlink() else gone.unlink()
    assert locks(tmp_path) == []
    assert "cannot look for" in str(KillSwitch(_plain(tmp_path)).active()), "doubt stops"


def _plain(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def test_10_b_of_two_starts_exactly_one_wins(places: tuple[Path, Path]) -> None:
    for _ in range(50):
        barrier, won = threading.Barrier(2), []

        def start(barrier: threading.Barrier = barrier, won: list[TreeLock] = won) -> None:
            lock = lock_of(places)
            barrier.wait()
            try:
                lock.acquire(LockMode.EXCLUSIVE, owner())
            except LockHeld:
                return
            won.append(lock)

        racers = [threading.Thread(target=start) for _ in range(2)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert len(won) == 1
        won[0].check()
        won[0].release()


@pytest.mark.parametrize("garbage", [b"", b"{", b"not json", b"[]", b'{"schema":"run-lock/1"}', b'{"schema":"x"}'])
def test_10_c_an_unreadable_lock_is_never_no_lock(places: tuple[Path, Path], garbage: bytes) -> None:
    lock = lock_of(places)
    lock.path.write_bytes(garbage)
    with pytest.raises(Refused, match="LOCK_CORRUPT"):
        lock.acquire(LockMode.EXCLUSIVE, owner())
    assert lock.path.read_bytes() == garbage
    assert not lock.held


_STRANGER = """
import sys
from pathlib import Path
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SystemIds
from runtime.orchestration.tree_lock import LockHeld, LockMode, LockOwner, TreeLock
lock = TreeLock(Path(sys.argv[1]), Path(sys.argv[2]), clock=ManualClock(), ids=SystemIds())
try:
    lock.acquire(LockMode.EXCLUSIVE, LockOwner(run_id=sys.argv[3], run_id_audit="run-a", mission_type="m"))
except LockHeld:
    lock.release()
    sys.exit(42)
"""


def test_10_d_the_same_run_id_in_another_process_is_not_ownership(places: tuple[Path, Path]) -> None:
    lock = lock_of(places)
    lock.acquire(LockMode.EXCLUSIVE, owner())
    before = lock.path.read_bytes()
    command = [sys.executable, "-c", _STRANGER, str(places[0]), str(places[1]), RECIPE]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 42
    assert lock.path.read_bytes() == before
    lock.check()


GIT = """\
mission: in-git
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem, git]}
sandbox: {confinement: best_effort}
blocks:
  ask: {type: approval, message: Go on?}
  write: {type: tool_invoke, tool: filesystem.write_file, path: a.txt, content: "two"}
  add: {type: tool_invoke, tool: git.add, paths: [a.txt]}
  commit: {type: tool_invoke, tool: git.commit, message: ours}
links: [ask -> write -> add -> commit]
"""


async def begun(host: RuntimeHost, tmp_path: Path, root: Path) -> Any:
    return await host.launch(Launch(path=write_mission(tmp_path / "g", GIT), inputs={"root": str(root)}))


async def test_10_e_starting_leaves_a_clean_repository_clean(host: RuntimeHost, tmp_path: Path) -> None:
    git = repository(tmp_path / "repo")
    run = await begun(host, tmp_path, git.root)
    await question(host, run.run_id)
    assert len(locks(tmp_path)) == 1
    opened = (await entries(host, run.run_id, "journal_opened"))[0]
    assert opened["baseline_commit"] == sh(git.root, "rev-parse", "HEAD")
    assert sh(git.root, "status", "--porcelain", "--ignored") == ""


async def test_10_f_a_hidden_change_is_no_clean_tree(host: RuntimeHost, tmp_path: Path) -> None:
    root = repository(tmp_path / "repo", {"a": "1", "b": "1"}).root
    sh(root, "update-index", "--skip-worktree", "a")
    (root / "a").write_text("hidden change")
    assert (await begun(host, tmp_path, root)).code == "REPO_HIDDEN_BITS"
    (root / "a").unlink()  # a sparse checkout (relaxation 4)
    sh(root, "update-index", "--assume-unchanged", "b")
    (root / "b").unlink()
    assert (await begun(host, tmp_path, root)).code == "REPO_HIDDEN_BITS"
    sh(root, "update-index", "--no-assume-unchanged", "b")
    (root / "b").write_text("1")
    assert (await begun(host, tmp_path, root)).status is RunStatus.RUNNING


async def test_10_g_an_inherited_git_dir_has_no_influence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = repository(tmp_path / "repo").root
    other = repository(tmp_path / "other", {"z": "1"}).root
    (other / "z").write_text("dirty")
    with monkeypatch.context() as patched:
        patched.setenv("GIT_DIR", str(other / ".git"))
        patched.setenv("GIT_WORK_TREE", str(other))
        async with hosting(tmp_path / "store") as host:
            run = await begun(host, tmp_path, root)
            assert run.status is RunStatus.RUNNING, "the other repository is dirty, this one is not"
            opened = (await entries(host, run.run_id, "journal_opened"))[0]
    assert opened["baseline_commit"] == sh(root, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten processes, each killed at its point."""
    folder = tmp_path_factory.mktemp("crashed")
    command = [sys.executable, "-m", "tests.support.crash_points", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("point", POINTS)
async def test_10_h_killed_at_any_point_a_restart_ends_the_same(crashed: Path, point: str) -> None:
    rig = DurableRig(crashed / point)
    stale = rig.lock.acquire(LockMode.EXCLUSIVE, replace(DEAD, run_id_audit="later"))
    assert stale is not None
    assert stale["run_id_audit"] == JOURNAL_ID, "what a dead holder left is told, not overwritten"
    if not rig.journal.closed:
        for operation in rig.executor.unresolved():
            assert (await rig.executor.recover(operation)).action in ("run_again", "recovered", "undone")
        if point != "C7":
            assert (await rig.do("tool_invoke", params_of(point))).ok
    rig.lock.claim(DEAD)
    rig.lock.release()
    assert rig.executor.unresolved() == ()
    assert sorted(path.name for path in rig.root.iterdir()) == [".git", "a.txt"], "nothing half-written is left"
    assert (rig.root / "a.txt").read_text() == ("one\n" if point == "C7" else "two\n")
    assert sh(rig.root, "rev-list", "--count", "HEAD") == ("2" if point == "C8" else "1")
    told = [parse_strict(item.body)["receipt"] for item in rig.stored if item.kind == "receipt"]
    assert sum(item["status"] == "success" and item["compensates"] is None for item in told) == 1
    verdict = verify_entries(rig.stored, run_id=JOURNAL_ID)
    assert [item.code for item in verdict.findings if item.severity == "error"] == []


TESTS = """\
mission: long-tests
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
sandbox: {confinement: best_effort}
blocks:
  note: {type: tool_invoke, tool: filesystem.write_file, path: note, content: "x"}
  test: {type: run_tests, test_paths: [tests]}
  after: {type: echo}
links: [note -> test -> after]
"""


async def test_10_i_the_stop_file_ends_a_long_test_run_within_three_seconds(host: RuntimeHost, tmp_path: Path) -> None:
    started = tmp_path / "started"
    body = f"import pathlib, time\n\ndef test_long():\n    pathlib.Path({str(started)!r}).touch()\n    time.sleep(60)\n"
    root = repository(tmp_path / "repo", {"tests/test_long.py": body}).root
    run = await host.launch(Launch(path=write_mission(tmp_path / "m", TESTS), inputs={"root": str(root)}))
    await until(started.exists)
    began = time.monotonic()
    (root / "STOP_AUTONOMY").touch()
    done = await host.wait(run.run_id)
    assert time.monotonic() - began <= 3
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    assert (await entries(host, run.run_id, "journal_closed"))[0]["status"] == "halted"
    assert sh(root, "status", "--porcelain") == "?? STOP_AUTONOMY", "what was there before, and the file itself"
    (note,) = await entries(host, run.run_id, "escalation")
    assert (note["severity"], note["blocking"]) == ("info", False)
    assert note["reason"] == "KILL_SWITCH: STOP_AUTONOMY stopped the run; 2 of 3 steps were not done"
    assert locks(tmp_path) == []


@pytest.mark.parametrize("replaced", [False, True])
async def test_10_j_a_lock_taken_away_stops_the_run_before_its_next_effect(
    host: RuntimeHost, tmp_path: Path, tree: Path, replaced: bool
) -> None:
    run = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    asked = await question(host, run.run_id)
    (lock,) = locks(tmp_path)
    data = lock.read_bytes()
    lock.rename(tmp_path / "moved")
    if replaced:
        lock.write_bytes(data)  # the same words are not the same lock
    await live(host, run.run_id).parts.questions.answer(
        asked.escalation_id, resolution="approved", by="operator", notes=""
    )
    done = await host.wait(run.run_id)
    assert (done.status, done.code) == (RunStatus.FAILED, "LOCK_LOST")
    assert not (tree / "made" / "two").exists()
    assert lock.exists() == replaced, "what is not ours is not removed"


class Dear:
    """Answers, and takes a process with it when told to."""

    name = "dear"

    def __init__(self) -> None:
        self.crash = False

    async def complete(self, request: Any, on_delta: Any = None) -> ModelReply:
        if self.crash:
            raise Crash
        return ModelReply(
            text="hi", model="m", provider="dear", tokens_in=1, tokens_out=request.max_tokens, latency_ms=1
        )


class Crash(BaseException):
    """Stands for the process going away."""


async def test_10_k_a_crash_forgets_nothing_that_was_spent(tree: Path) -> None:
    """Ruling R20: what an interrupted call had set aside stays spent."""
    model = Dear()
    models = ModelSettings(provider=model, model="m", prices={"m": Price(0, 1_000_000)})
    rig = Rig(tree, models=models, limits=Limits(micros=100))
    assert (await rig.do("llm_call", {"prompt": "hi", "max_tokens": 30}, id="s1.0")).ok
    model.crash = True
    with pytest.raises(Crash):
        await rig.do("llm_call", {"prompt": "hi", "max_tokens": 50}, id="s1.1")
    model.crash = False
    executor = rig.after_crash()
    for operation in executor.unresolved():
        assert (await executor.recover(operation)).action == "run_again"
    assert rig.budget.remaining_micros == 20
    over = await rig.do("llm_call", {"prompt": "hi", "max_tokens": 21}, id="s1.2")
    assert over.reason_code == "BUDGET_EXCEEDED"
    assert (await rig.do("llm_call", {"prompt": "hi", "max_tokens": 20}, id="s1.3")).ok
    phases = [entry["phase"] for entry in rig.entries() if entry["kind"] == "budget"]
    assert phases == ["reserved", "settled", "reserved", "lost", "reserved", "settled"]


async def test_10_l_a_stop_file_made_while_starting_leaves_no_lock(
    host: RuntimeHost, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = TreeLock.acquire

    def acquire(lock: TreeLock, mode: LockMode, holder: LockOwner) -> Any:
        found = taken(lock, mode, holder)
        (tree / "STOP_AUTONOMY").touch()
        return found

    monkeypatch.setattr(TreeLock, "acquire", acquire)
    refused = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(tree)}))
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "KILL_SWITCH")
    assert locks(tmp_path) == []
