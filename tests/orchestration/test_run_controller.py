"""May a run start? Latch, order, repository, baseline (operations spec §10.1-10.5, §9.5; numbered tests: conformance/)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted, Refused
from runtime.kernel.ids import NO_COMMIT, SequenceIds
from runtime.orchestration.git import Git
from runtime.orchestration.governance_baseline import BASELINE_PATH, check_baseline
from runtime.orchestration.repository import RepositoryFacts, check_repository
from runtime.orchestration.run_controller import (
    HaltLatch,
    KillSwitch,
    LockMode,
    LockOwner,
    PreflightRefused,
    PreflightRequest,
    RunGuard,
    TreeLock,
    preflight,
)
from runtime.orchestration.state_hash import Fingerprint
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import repository, sh

OWNER = LockOwner(run_id="sha256:" + "0" * 64, run_id_audit="run-a", mission_type="m")


# -- kill switch and latch ---------------------------------------------------------------------------------------


def latch_of(tmp_path: Path) -> HaltLatch:
    (tmp_path / "latches").mkdir(exist_ok=True)
    (tmp_path / "tree").mkdir(exist_ok=True)
    return HaltLatch(tmp_path / "latches", tmp_path / "tree", clock=ManualClock())


def test_a_latch_keeps_its_first_cause_until_it_is_cleared_with_a_reason(tmp_path: Path) -> None:
    latch = latch_of(tmp_path)
    assert latch.read() is None
    latch.check()
    latch.set("COMP_FAILED", run_id="run-a", message="undo was not verified", evidence="sha256:x")
    latch.set("COMP_DRIFT", run_id="run-b", message="later")
    record = latch_of(tmp_path).read()
    assert record is not None
    assert (record.code, record.run_id, record.evidence, record.readable) == ("COMP_FAILED", "run-a", "sha256:x", True)
    assert record.at == "2026-01-01T00:00:00.000000Z"
    with pytest.raises(Halted) as caught:
        latch.check()
    assert caught.value.code == "HALT_LATCHED"
    with pytest.raises(Refused, match="LATCH_REASON"):
        latch.clear("  ")
    assert latch.clear("put back by hand") == record
    assert latch.read() is None
    assert latch.clear("again") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"code":"X"}', None])
def test_an_unreadable_latch_latches(tmp_path: Path, content: bytes | None) -> None:
    latch = latch_of(tmp_path)
    if content is None:
        latch.path.symlink_to("nowhere")
    else:
        latch.path.write_bytes(content)
    record = latch.read()
    assert record is not None
    assert not record.readable
    latch.set("COMP_FAILED", run_id="r", message="m")
    assert latch.read() == record


def test_latches_are_per_work_tree(tmp_path: Path) -> None:  # relaxation 7
    latch = latch_of(tmp_path)
    latch.set("COMP_FAILED", run_id="run-a", message="m")
    (tmp_path / "other").mkdir()
    assert HaltLatch(tmp_path / "latches", tmp_path / "other", clock=ManualClock()).read() is None
    with pytest.raises(Refused, match="LATCH_IO"):
        HaltLatch(tmp_path / "missing folder", tmp_path / "tree", clock=ManualClock()).set("X", run_id="r", message="m")


# -- preflight ---------------------------------------------------------------------------------------------------


class World:
    """The pieces of a preflight, each recording that it was asked."""

    def __init__(self, tmp_path: Path) -> None:
        self.tree = tmp_path / "tree"
        for name in ("tree", "locks", "latches", "state"):
            (tmp_path / name).mkdir()
        self.asked: list[str] = []
        self.lock = TreeLock(tmp_path / "locks", self.tree, clock=ManualClock(), ids=SequenceIds())
        self.latch = HaltLatch(tmp_path / "latches", self.tree, clock=ManualClock())
        self.locks = tmp_path / "locks"
        self.fail: dict[str, BaseException] = {}
        self.meddle: Callable[[str], None] = lambda piece: None

    def _asked(self, piece: str) -> None:
        self.asked.append(piece)
        self.meddle(piece)
        if piece in self.fail:
            raise self.fail[piece]

    def request(self, **changes: Any) -> PreflightRequest:
        async def recover(stale: Mapping[str, Any]) -> None:
            self._asked(f"recover {stale['run_id_audit']}")

        def asking(piece: str, answer: Any) -> Callable[[], Awaitable[Any]]:
            async def ask() -> Any:
                self._asked(piece)
                return answer

            return ask

        return replace(
            PreflightRequest(
                owner=OWNER,
                kill_switch=KillSwitch(self.tree),
                lock_mode=LockMode.EXCLUSIVE,
                lock=self.lock,
                latch=self.latch,
                recover=recover,
                load_policy=asking("policy", "sha256:policy"),
                baseline=asking("baseline", "none"),
                repository=asking("repository", FOUND),
                fingerprint=asking("fingerprint", LOOKED),
            ),
            **changes,
        )


HEAD = "a" * 40
FOUND = RepositoryFacts(head=HEAD, ref="refs/heads/main", dirty=(), config_digest="", notes=())
LOOKED = Fingerprint(head=HEAD, ref="refs/heads/main", index="i", worktree={}, digest="d")


async def test_a_start_asks_in_order_and_keeps_the_lock(tmp_path: Path) -> None:
    world = World(tmp_path)
    facts = await preflight(world.request())
    assert world.asked == ["policy", "baseline", "repository", "fingerprint"]
    assert (facts.baseline_commit, facts.ref) == (HEAD, "refs/heads/main")
    assert (facts.protected_hash, facts.governance_hash, facts.stale) == ("sha256:policy", "none", None)
    assert facts.lock is world.lock
    assert world.lock.held


async def test_without_a_shared_tree_there_is_no_lock(tmp_path: Path) -> None:
    world = World(tmp_path)
    facts = await preflight(world.request(lock=None, lock_mode=None, latch=None, repository=None, fingerprint=None))
    assert (facts.lock, facts.baseline_commit, facts.fingerprint) == (None, NO_COMMIT, None)
    assert list(world.locks.iterdir()) == []


@pytest.mark.parametrize(("piece", "step"), [("policy", 6), ("baseline", 7), ("repository", 8), ("fingerprint", 9)])
async def test_every_later_failure_gives_the_lock_back(tmp_path: Path, piece: str, step: int) -> None:
    world = World(tmp_path)
    world.fail[piece] = Refused("REPO_DIRTY", "changes", hint="commit them", where="here")
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    error = caught.value
    assert (error.code, error.step, error.defer, error.hint, error.where) == (
        "REPO_DIRTY",
        step,
        False,
        "commit them",
        "here",
    )
    assert list(world.locks.iterdir()) == []
    world.fail[piece] = RuntimeError("a defect")
    with pytest.raises(RuntimeError):
        await preflight(world.request())
    assert list(world.locks.iterdir()) == []


async def test_switch_and_latch_are_looked_at_before_anything_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.latch.set("COMP_FAILED", run_id="run-z", message="undo was not verified")
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    assert (caught.value.code, caught.value.step) == ("HALT_LATCHED", 2)
    assert "run-z" in caught.value.message
    (world.tree / "STOP_AUTONOMY").mkdir()
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    assert (caught.value.code, caught.value.step) == ("KILL_SWITCH", 1)
    assert world.asked == []
    assert list(world.locks.iterdir()) == []


async def test_a_busy_tree_defers_and_its_lock_stays_with_its_holder(tmp_path: Path) -> None:
    world = World(tmp_path)
    holder = TreeLock(world.locks, world.tree, clock=ManualClock(), ids=SequenceIds(50))
    holder.acquire(LockMode.EXCLUSIVE, replace(OWNER, run_id_audit="run-b"))
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    assert (caught.value.code, caught.value.step, caught.value.defer) == ("LOCK_HELD", 3, True)
    assert caught.value.holder is not None
    assert caught.value.holder["run_id_audit"] == "run-b"
    holder.check()


def _crashed(world: World) -> bytes:
    dead = TreeLock(world.locks, world.tree, clock=ManualClock(), ids=SequenceIds(90))
    dead.acquire(LockMode.EXCLUSIVE, replace(OWNER, run_id_audit="dead"))
    data = dead.path.read_bytes()
    dead.release()
    dead.path.write_bytes(data)
    return data


async def test_a_crashed_run_is_settled_before_its_lock_is_taken_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    _crashed(world)
    facts = await preflight(world.request())
    assert world.asked[0] == "recover dead"
    assert facts.stale is not None
    assert facts.stale["run_id_audit"] == "dead"
    assert b"run-a" in world.lock.path.read_bytes()
    world.lock.check()


async def test_a_crashed_run_that_cannot_be_settled_keeps_its_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    data = _crashed(world)
    world.fail["recover dead"] = Refused("RECOVERY_MANUAL", "the journal is damaged")
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    assert (caught.value.code, caught.value.step) == ("RECOVERY_MANUAL", 5)
    assert world.lock.path.read_bytes() == data
    assert not world.lock.held


async def test_a_lock_lost_during_recovery_is_a_refusal(tmp_path: Path) -> None:
    world = World(tmp_path)
    _crashed(world)
    world.meddle = lambda piece: world.lock.path.unlink(missing_ok=True)
    with pytest.raises(PreflightRefused) as caught:
        await preflight(world.request())
    assert (caught.value.code, caught.value.step) == ("LOCK_LOST", 5)


async def test_a_repository_that_moves_while_checked_is_refused(tmp_path: Path) -> None:
    async def moved() -> Fingerprint:
        return replace(LOOKED, head="b" * 40)

    with pytest.raises(PreflightRefused) as caught:
        await preflight(World(tmp_path).request(fingerprint=moved))
    assert (caught.value.code, caught.value.step) == ("EXTERNAL_MODIFICATION", 9)


def test_the_guard_of_a_running_mission_asks_all_three(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.lock.acquire(LockMode.EXCLUSIVE, OWNER)
    guard = RunGuard(KillSwitch(world.tree), world.latch, world.lock)
    guard()
    RunGuard(KillSwitch(world.tree))()
    for code, meddle in (
        ("LOCK_LOST", world.lock.path.unlink),
        ("HALT_LATCHED", lambda: world.latch.set("X", run_id="r", message="m")),
        ("KILL_SWITCH", (world.tree / "STOP_AUTONOMY").mkdir),
    ):
        meddle()
        with pytest.raises(Halted) as caught:
            guard()
        assert caught.value.code == code


# -- repository --------------------------------------------------------------------------------------------------


async def refusal(git: Git, *, require_clean: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        await check_repository(git, require_clean=require_clean)
    return caught.value.code


async def test_a_good_repository(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    (git.root / "STOP_AUTONOMY").write_text("")
    facts = await check_repository(git, require_clean=True)
    assert (facts.head, facts.ref, facts.dirty) == (await git.head(), "refs/heads/main", ())


@pytest.mark.parametrize("how", ["untracked", "edited", "staged", "ignored by config"])
async def test_dirt_is_found_and_refused_only_where_it_matters(tmp_path: Path, how: str) -> None:
    git = repository(tmp_path / "r")
    name = "a.txt" if how in ("edited", "staged") else "new"
    (git.root / name).write_text("2")
    if how == "staged":
        sh(git.root, "add", name)
    if how == "ignored by config":
        sh(git.root, "config", "status.showUntrackedFiles", "no")
    assert await refusal(git, require_clean=True) == "REPO_DIRTY"
    assert (await check_repository(git, require_clean=False)).dirty == (name,)  # relaxation 1


async def test_what_is_no_usable_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert await refusal(Git(tmp_path / "plain", PlainRunner())) == "REPO_NOT_GIT"
    git = repository(tmp_path / "r", {"sub/a": "1"})
    assert await refusal(Git(git.root / "sub", PlainRunner())) == "REPO_ROOT_MISMATCH"
    (tmp_path / "unborn").mkdir()
    sh(tmp_path / "unborn", "init", "-q")
    assert await refusal(Git(tmp_path / "unborn", PlainRunner())) == "REPO_UNBORN"
    sh(git.root, "config", "core.worktree", str(tmp_path / "plain"))
    assert await refusal(git) == "REPO_ROOT_MISMATCH"


@pytest.mark.parametrize(
    "name", ["MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG"]
)
async def test_unfinished_business_is_refused(tmp_path: Path, name: str) -> None:
    git = repository(tmp_path / "r")
    (git.root / ".git" / name).write_text("")
    assert await refusal(git) == "REPO_IN_PROGRESS"


async def test_a_locked_index_is_refused(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    (git.root / ".git/index.lock").write_text("")
    assert await refusal(git) == "REPO_INDEX_LOCKED"


# -- governance baseline -----------------------------------------------------------------------------------------


def governed(root: Path) -> Path:
    (root / "config/governance").mkdir(parents=True)
    (root / "config/governance/rules").write_text("rules")
    listed = hashlib.sha256(b"rules").hexdigest()
    file = root / BASELINE_PATH
    file.write_text(f"{listed}  config/governance/rules\n")
    return file


def protected(path: str) -> bool:
    return path.startswith("config/governance")


def test_a_project_without_a_list_is_not_checked(tmp_path: Path) -> None:  # relaxation 2
    assert check_baseline(tmp_path, protected) == "none"


def test_a_true_list_is_named_by_its_digest(tmp_path: Path) -> None:
    file = governed(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("")
    (tmp_path / "STOP_AUTONOMY").write_text("")
    assert check_baseline(tmp_path, lambda path: True) == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("how", ["gone", "link", "surplus"])
def test_a_difference_is_refused_and_the_list_stays(tmp_path: Path, how: str) -> None:
    file = governed(tmp_path)
    before = file.read_bytes()
    rules = tmp_path / "config/governance/rules"
    if how == "surplus":
        (rules.parent / "more").write_text("")
    else:
        rules.rename(tmp_path / "elsewhere")
        if how == "link":
            rules.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="BASELINE_MISMATCH"):
        check_baseline(tmp_path, protected)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no newline",
        "  \n",
        f"{'a' * 64}  \n",
        f"{'a' * 64} one space\n",
        f"{'a' * 64}  ../x\n",
        f"{'a' * 64}  /x\n",
        f"{'a' * 64}  x\n{'a' * 64}  x\n",
        f"{'a' * 64}  x\n\n",
        f"{'A' * 64}  x\n",
    ],
)
def test_a_malformed_list_is_refused(tmp_path: Path, text: str) -> None:
    governed(tmp_path).write_text(text)
    with pytest.raises(Refused, match="BASELINE_FORMAT"):
        check_baseline(tmp_path, protected)


def test_a_list_that_is_no_file_is_refused(tmp_path: Path) -> None:
    file = governed(tmp_path)
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    with pytest.raises(Refused, match="BASELINE_FORMAT"):
        check_baseline(tmp_path, protected)
    file.unlink()
    file.write_bytes(b"\xff\n")
    with pytest.raises(Refused, match="BASELINE_FORMAT"):
        check_baseline(tmp_path, protected)
