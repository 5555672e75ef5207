"""Operations specification §6, compensation: its tests 6.a–6.l, and every compensation type as a mission undone later.

Which test fails when a defence (trap W12 of §14) is removed; each was tried:

- undo is executed at all (`Undo._apply`): 6.c, 6.e, 6.g, 6.j and every mission below;
- the template decides, not mere presence of text (`compensation._after_prefix`): 6.a;
- `custom` is byte-equal to its list: 6.b; a write must declare an undo (`compensation.fit`): 6.h; that must suit the
  world (`compensation.suitable`): 6.i;
- only the recorded difference is cleaned (a blanket `git clean` instead): 6.e;
- what is back already is left alone (`already_satisfied`): 6.c, 6.l;
- drift changes nothing (`Undo._drifted`): 6.d, 6.f, and `git_checkout` below, where it is another file that changed
  (`_git_moved`); before anything else is undone (`Undo.foreseen`): `git_clean`, `fs_restore`; staged or committed by
  others (`Undo._claimed`): `fs_delete`, `fs_restore`;
- mid-mission the target is the recorded state, not a blank status (`verification`): 6.g, 6.j, `git_reset_soft`;
- last to first (`compensate_all`): 6.j; (`compensate_earlier`): every mission below that writes more than once;
- the latch (`Settlement._latch`): 6.k, and every drift below.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.events.facts import RunSummary
from runtime.host.api import Refused, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.model import Access, CompensationType, Effect, OperationPlan, OperationReceipt, PlannedPath
from runtime.orchestration.compensation import InvalidCompensation, validate_compensation
from runtime.orchestration.operation_ports import HandlerOutcome, RunCall
from runtime.orchestration.state_hash import compute_state_hash
from runtime.orchestration.undo import CompensationOutcome
from tests.support.hosting import entries, hosting, run_to_end, write_mission
from tests.support.operation_rig import FakeHandler, Rig
from tests.support.repositories import repository, sh

C = CompensationType
FILES = {"a.txt": "one\n", "b.txt": "b\n", "run.sh": "#!/bin/sh\n", ".gitignore": "ignored/\n"}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "tree", git=repository(tmp_path / "tree", FILES))


async def undo(rig: Rig, index: int = 0) -> CompensationOutcome:
    return await rig.executor.compensate(OperationReceipt.from_record(rig.receipts()[index]))


# -- declarations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["rm -rf x", "rm -rf -- x"])
def test_6_a_a_command_of_another_form_is_refused(command: str) -> None:
    with pytest.raises(InvalidCompensation, match="COMP_COMMAND"):
        validate_compensation(C.GIT_CHECKOUT, command)


@pytest.mark.parametrize("command", ["git clean -fd ", "git  clean -fd"])
def test_6_b_custom_is_byte_equal_to_the_list(command: str) -> None:
    with pytest.raises(InvalidCompensation, match="COMP_NOT_WHITELISTED"):
        validate_compensation("custom", command)


# -- one operation -----------------------------------------------------------------------------------------------------


async def test_6_c_a_commit_is_undone_once_and_then_left_alone(rig: Rig) -> None:
    base = sh(rig.root, "rev-parse", "HEAD")
    (rig.root / "a.txt").write_text("two\n")
    sh(rig.root, "add", "a.txt")
    result = await rig.do(
        "tool_invoke", {"tool": "git.commit", "message": "second"}, undo=(C.GIT_RESET_SOFT, "git reset --soft HEAD~1")
    )
    assert sh(rig.root, "rev-parse", "HEAD") == result.output["commit"] != base
    first, second = await undo(rig), await undo(rig)
    assert (first.outcome, first.verified) == ("completed", True)
    assert (second.outcome, second.verified) == ("already_satisfied", True)
    assert sh(rig.root, "rev-parse", "HEAD") == base
    assert sh(rig.root, "diff", "--cached", "--name-only") == "a.txt"
    assert rig.receipts()[1]["compensates"] == rig.receipts()[0]["receipt_hash"]


async def test_6_d_a_commit_on_top_is_drift(rig: Rig) -> None:
    (rig.root / "a.txt").write_text("two\n")
    sh(rig.root, "add", "a.txt")
    await rig.tool("git.commit", message="ours")
    (rig.root / "b.txt").write_text("operator\n")
    sh(rig.root, "commit", "-qam", "operator's")
    theirs = sh(rig.root, "rev-parse", "HEAD")
    outcome = await undo(rig)
    assert (outcome.code, outcome.outcome, outcome.verified) == ("COMP_DRIFT", "drift", False)
    assert sh(rig.root, "rev-parse", "HEAD") == theirs
    assert rig.kinds()[-4:] == ["compensation_started", "escalation", "compensation_finished", "receipt"]


async def test_6_e_clean_removes_only_what_the_operation_made(rig: Rig) -> None:
    (rig.root / "mine.txt").write_text("before")
    (rig.root / "STOP_AUTONOMY").touch()
    params = {"tool": "filesystem.write_file", "path": "new/theirs.txt", "content": "x", "create_parents": True}
    assert (await rig.do("tool_invoke", params, undo=(C.GIT_CLEAN, "git clean -fd"))).ok
    assert (await undo(rig)).verified
    assert not (rig.root / "new").exists()
    assert (rig.root / "mine.txt").read_text() == "before"
    assert (rig.root / "STOP_AUTONOMY").exists()


async def test_6_f_a_hand_edit_of_a_new_file_is_drift(rig: Rig) -> None:
    params = {"tool": "filesystem.write_file", "path": "new.txt", "content": "x"}
    assert (await rig.do("tool_invoke", params, undo=(C.FILESYSTEM_DELETE, "fs_delete new.txt"))).ok
    (rig.root / "new.txt").write_text("mine now")
    assert (await undo(rig)).code == "COMP_DRIFT"
    assert (rig.root / "new.txt").read_text() == "mine now"


async def test_6_g_restore_brings_back_content_mode_and_absence(rig: Rig) -> None:
    script = rig.root / "run.sh"
    script.chmod(0o750)
    operations = (
        ("filesystem.write_file", {"path": "run.sh", "content": "changed", "mode": "644"}),
        ("filesystem.delete_file", {"path": "run.sh", "expect_sha256": digest_bytes(b"changed")}),
        ("filesystem.write_file", {"path": "absent", "content": "x"}),
    )
    for number, (tool, params) in enumerate(operations):
        declared = (C.FILESYSTEM_RESTORE, f"fs_restore {params['path']}")
        assert (await rig.do("tool_invoke", {"tool": tool, **params}, id=f"s1.{number}", undo=declared)).ok
    assert not script.exists()
    for number in (2, 1, 0):
        assert (await undo(rig, number)).verified
    assert (script.read_text(), script.stat().st_mode & 0o777) == ("#!/bin/sh\n", 0o750)
    assert not (rig.root / "absent").exists()


async def test_6_h_a_raw_write_without_undo_is_refused(rig: Rig) -> None:
    params = {"tool": "filesystem.write_file", "path": "x", "content": ""}
    with pytest.raises(InvalidCompensation, match="COMP_REQUIRED"):
        await rig.do("tool_invoke", params, fill_default=False)
    assert rig.kinds() == ["operation_denied", "receipt"]
    assert not (rig.root / "x").exists()


async def test_6_i_a_checkout_cannot_undo_a_file_that_is_created(rig: Rig) -> None:
    params = {"tool": "filesystem.write_file", "path": "new.txt", "content": "x"}
    with pytest.raises(InvalidCompensation, match="COMP_UNSUITABLE"):
        await rig.do("tool_invoke", params, undo=(C.GIT_CHECKOUT, "git checkout -- ."))
    assert not (rig.root / "new.txt").exists()
    assert rig.kinds() == ["operation_denied", "receipt"]


async def test_6_l_a_hard_reset_of_an_operation_that_made_no_commit_loses_none(rig: Rig) -> None:
    base = sh(rig.root, "rev-parse", "HEAD")

    async def work(call: RunCall) -> HandlerOutcome:
        return HandlerOutcome(code="OP_FAILED")

    shape = OperationPlan(Effect.WRITE, (PlannedPath("a.txt", Access.MODIFY),), tool="git.commit", writes_ref=True)
    rig.extra = {"tool_invoke": FakeHandler(shape, work)}
    rig.__post_init__()
    result = await rig.do("tool_invoke", {}, undo=(C.GIT_RESET_HARD, "git reset --hard HEAD~1"))
    assert result.compensation_status == "not_needed"
    assert (await undo(rig)).outcome == "already_satisfied"
    assert sh(rig.root, "rev-parse", "HEAD") == base


# -- whole missions ----------------------------------------------------------------------------------------------------

MISSION = """\
mission: writes
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
envelope:
  allowed_paths: ["**"]
  allowed_tools: [filesystem, git]
sandbox: {confinement: best_effort}
blocks:
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    repository(root, FILES)
    return root


def mission(folder: Path, *blocks: str) -> str:
    """Blocks in one line, each given as the inside of a flow mapping."""
    lines = [f"  b{number}: {{type: tool_invoke, {inside}}}" for number, inside in enumerate(blocks, 1)]
    names = " -> ".join(f"b{number}" for number in range(1, len(blocks) + 1))
    links = f"links: [{names}]" if len(blocks) > 1 else "links: []"
    return write_mission(folder, MISSION + "\n".join([*lines, links, ""]))


def picture(root: Path) -> tuple[str, str]:
    """Everything §6.4 compares: HEAD, branch and index as far as anything differs, and every file with its mode."""
    paths = [item.name for item in root.iterdir() if item.name != ".git"]
    return sh(root, "status", "--porcelain=v2", "--branch", "--ignored"), compute_state_hash(paths, root)


async def undo_run(host: RuntimeHost, run_id: str) -> RunSummary:
    begun = await host.undo(run_id, "not wanted", (await host.undo_plan(run_id)).digest)
    return begun if begun.status is RunStatus.REFUSED else await host.wait(begun.run_id)


async def undone(host: RuntimeHost, run_id: str) -> list[tuple[str, str]]:
    """Operation and outcome of every undo in a journal, in order."""
    return [(item["operation_id"], item["outcome"]) for item in await entries(host, run_id, "compensation_finished")]


async def test_6_j_the_third_write_fails_and_the_others_are_undone_last_to_first(
    host: RuntimeHost, tmp_path: Path, tree: Path
) -> None:
    before = picture(tree)
    path = mission(
        tmp_path / "m",
        "tool: filesystem.write_file, path: a.txt, content: two",
        "tool: filesystem.write_file, path: new/c.txt, content: c, create_parents: true",
        "tool: filesystem.write_file, path: b.txt, content: x, expect_sha256: null",
    )
    done = await run_to_end(host, path, inputs={"root": str(tree)})
    assert done.status is RunStatus.FAILED
    assert await undone(host, done.run_id) == [("b2.0", "completed"), ("b1.0", "completed")]
    assert picture(tree) == before
    with pytest.raises(Refused, match="UNDO_NOTHING"):
        await host.undo(done.run_id)


async def test_6_k_an_undo_that_is_not_verified_latches(
    host: RuntimeHost, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mission(
        tmp_path / "m",
        "tool: filesystem.write_file, path: a.txt, content: two",
        "tool: filesystem.write_file, path: b.txt, content: x, expect_sha256: null",
    )

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr("runtime.orchestration.undo.Undo._apply", nothing)
    done = await run_to_end(host, path, inputs={"root": str(tree)})
    assert (done.status, done.code) == (RunStatus.FAILED, "COMP_FAILED")
    assert (await run_to_end(host, path, inputs={"root": str(tree)})).code == "HALT_LATCHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A mission of ``blocks``, how many writes an undo of it reaches, and what an operator does to the tree meanwhile
    and takes back (nothing: no drift). ``HEAD`` in a block stands for the commit before."""

    blocks: tuple[str, ...]
    writes: int = 1
    meddle: str = ""
    mend: str = ""


WRITE_A = "tool: filesystem.write_file, path: a.txt, content: two"
WRITE_NEW = "tool: filesystem.write_file, path: new.txt, content: two"
ADD = "tool: git.add, paths: [a.txt]"
DELETE = f'tool: filesystem.delete_file, path: run.sh, expect_sha256: "{digest_bytes(FILES["run.sh"].encode())}"'


def declaring(block: str, kind: str, command: str) -> str:
    return f'{block}, compensation_type: {kind}, compensation_command: "{command}"'


CASES = {
    "git_checkout": Case(
        blocks=(declaring(WRITE_A, "git_checkout", "git checkout -- a.txt"),),
        meddle="echo mine > b.txt",
        mend="git checkout -q b.txt",
    ),
    "git_reset_head": Case(blocks=(WRITE_A, ADD), writes=2),
    "git_reset_soft": Case(
        blocks=(WRITE_A, ADD, "tool: git.commit, message: ours"),
        writes=3,
        meddle="echo mine > b.txt; git commit -qam theirs",
        mend="git reset -q --hard HEAD~1",
    ),
    "git_reset_hard": Case(blocks=(declaring(WRITE_A, "git_reset_hard", "git reset --hard HEAD"),)),
    "git_clean": Case(
        blocks=(declaring(WRITE_NEW, "git_clean", "git clean -fd -- new.txt"), WRITE_A),
        writes=2,
        meddle="echo mine > new.txt",
        mend="printf two > new.txt",
    ),
    "fs_delete": Case(
        blocks=("tool: filesystem.write_file, path: new/c.txt, content: c, create_parents: true",),
        meddle="git add new",
        mend="git reset -q",
    ),
    "fs_restore": Case(
        blocks=(WRITE_A, WRITE_NEW, DELETE),
        writes=3,
        meddle="git commit -qm theirs a.txt",
        mend="git reset -q HEAD~1",
    ),
    "custom": Case(blocks=(declaring(WRITE_A, "custom", "git checkout -- ."),)),
}


@pytest.mark.parametrize("kind", CASES)
async def test_a_run_that_succeeded_is_undone_afterwards(
    host: RuntimeHost, tmp_path: Path, tree: Path, kind: str
) -> None:
    """Drift first: nothing changes, it escalates and latches. Once mended, the tree is what it was, provably."""
    case, before = CASES[kind], picture(tree)
    head = before[0].split()[2]
    path = mission(tmp_path / "m", *(item.replace("HEAD", head) for item in case.blocks))
    done = await run_to_end(host, path, inputs={"root": str(tree)})
    assert done.status is RunStatus.SUCCEEDED, (done.code, done.message)
    assert kind in {step.compensation for step in (await host.undo_plan(done.run_id)).steps}

    if case.meddle:
        shell(tree, case.meddle)
        await drifts(host, done.run_id, tree)
        shell(tree, case.mend)
        assert (await host.unlatch(str(tree), "took my own change back")).done
    rolled = await undo_run(host, done.run_id)
    assert (rolled.status, rolled.exit_code) == (RunStatus.SUCCEEDED, 0), (rolled.code, rolled.message)
    reached = [(f"b{number}.0", "completed") for number in range(case.writes, 0, -1)]
    assert await undone(host, rolled.run_id) == reached
    assert picture(tree) == before
    assert sh(tree, "status", "--porcelain") == ""
    old = {item["receipt"]["receipt_hash"] for item in await entries(host, done.run_id, "receipt")}
    proofs = [item["receipt"] for item in await entries(host, rolled.run_id, "receipt")]
    assert all(item["compensation_verified"] and item["compensates"] in old for item in proofs)
    assert (await host.verify(rolled.run_id)).ok


async def drifts(host: RuntimeHost, run_id: str, tree: Path) -> None:
    """Undoing changes nothing, escalates and latches."""
    theirs = picture(tree)
    drifted = await undo_run(host, run_id)
    assert (drifted.status, drifted.code) == (RunStatus.FAILED, "COMP_DRIFT")
    assert picture(tree) == theirs
    assert [item["severity"] for item in await entries(host, drifted.run_id, "escalation")] == ["critical"]
    assert (await undo_run(host, run_id)).code == "HALT_LATCHED"


async def test_a_run_that_only_read_has_nothing_to_undo(host: RuntimeHost, tmp_path: Path, tree: Path) -> None:
    """Type ``none``."""
    path = mission(tmp_path / "m", "tool: git.status", "tool: filesystem.read_file, path: a.txt")
    done = await run_to_end(host, path, inputs={"root": str(tree)})
    receipts = [item["receipt"] for item in await entries(host, done.run_id, "receipt")]
    assert {item["compensation_type"] for item in receipts} == {"none"}
    with pytest.raises(Refused, match="UNDO_NOTHING"):
        await host.undo(done.run_id)
    assert [run.run_id for run in await host.lineage(done.run_id)] == [done.run_id]


def shell(root: Path, command: str) -> None:
    """What an operator does by hand."""
    identity = ["-c", "user.name=Op", "-c", "user.email=op@localhost"]
    git = " ".join(["git", *identity])
    subprocess.run(["/bin/sh", "-ec", f'git() {{ command {git} "$@"; }}; {command}'], cwd=root, check=True)
