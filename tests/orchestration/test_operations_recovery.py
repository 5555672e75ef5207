"""After a crash: what the world shows decides what recovery does (operations spec §10.6, ruling R20)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.model import Effect, OperationPlan
from runtime.orchestration.operation_ports import HandlerOutcome, RunCall
from runtime.orchestration.operation_table import Known
from runtime.orchestration.recovery import RecoveryAction
from tests.support.operation_rig import FakeHandler, Rig, never
from tests.support.repositories import repository, sh


class Crash(BaseException):
    """Stands for the process going away."""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    git = repository(tmp_path / "tree", {"a.txt": "one\n", "docs/b.txt": "b\n"})
    return Rig(tmp_path / "tree", git=git)


def crash_at(rig: Rig, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """C1 after the intention, C4 after the effect and before the receipt, C6 after the receipt."""
    from runtime.orchestration.operations import OperationExecutor as Executor

    async def gone(*args: Any) -> Any:
        raise Crash

    target = {"C1": "_run", "C4": "_finish", "C6": "_undo_failure"}[point]
    monkeypatch.setattr(Executor, target, gone)


async def crashing(rig: Rig, monkeypatch: pytest.MonkeyPatch, point: str, tool: str, **params: Any) -> None:
    with monkeypatch.context() as patched:
        crash_at(rig, patched, point)
        with pytest.raises(Crash):
            await rig.tool(tool, **params)


async def recover(rig: Rig) -> list[RecoveryAction]:
    executor = rig.after_crash()
    return [await executor.recover(item) for item in executor.unresolved()]


def successes(rig: Rig) -> list[dict[str, Any]]:
    return [item for item in rig.receipts() if item["status"] == "success" and item["compensates"] is None]


WRITE: dict[str, Any] = {
    "tool": "filesystem.write_file",
    "path": "docs/new/n.txt",
    "content": "n",
    "create_parents": True,
}


@pytest.mark.parametrize("point", ["C1", "C4", "C6"])
@pytest.mark.parametrize(
    "case",
    [
        WRITE,
        {"tool": "filesystem.write_file", "path": "a.txt", "content": "two\n"},
        {"tool": "filesystem.make_dir", "path": "made"},
        {"tool": "git.add", "paths": ["docs/b.txt"]},
        {"tool": "git.commit", "message": "ours"},
    ],
    ids=["create", "modify", "mkdir", "add", "commit"],
)
async def test_every_effect_ends_in_exactly_one_successful_receipt(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, point: str, case: dict[str, Any]
) -> None:
    (rig.root / "docs/b.txt").write_text("changed\n")
    if case["tool"] == "git.commit":
        sh(rig.root, "add", "docs/b.txt")
    await crashing(rig, monkeypatch, point, **case)
    actions = await recover(rig)
    assert [action.action for action in actions] == {"C1": ["run_again"], "C4": ["recovered"], "C6": []}[point]
    again = await rig.do("tool_invoke", case)
    assert again.ok
    assert again.replayed is (point != "C1")
    assert len(successes(rig)) == 1
    assert rig.executor.unresolved() == ()
    if case["tool"] == "git.commit":
        assert again.output["commit"] == sh(rig.root, "rev-parse", "HEAD")
        assert sh(rig.root, "rev-list", "--count", "HEAD") == "2"


async def test_something_else_in_the_place_is_left_to_a_person(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await crashing(rig, monkeypatch, "C4", "filesystem.write_file", path="a.txt", content="two\n")
    (rig.root / "a.txt").write_text("three\n")
    (action,) = await recover(rig)
    assert (action.action, action.code) == ("manual", "COMP_DRIFT")
    assert (rig.root / "a.txt").read_text() == "three\n"


async def test_a_half_done_process_is_undone_and_may_run_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.commands = {"touch": {"argv": ["touch", "docs/made"], "writes": ["docs"]}}
    rig.__post_init__()
    await crashing(rig, monkeypatch, "C4", "process.run", template="touch")
    assert (rig.root / "docs/made").exists()
    (action,) = await recover(rig)
    assert action.action == "run_again"
    assert action.undo is not None
    assert action.undo.verified
    assert not (rig.root / "docs/made").exists()
    assert (await rig.tool("process.run", template="touch")).ok


async def test_reads_and_tests_run_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await crashing(rig, monkeypatch, "C1", "filesystem.read_file", path="a.txt")
    assert [action.action for action in await recover(rig)] == ["run_again"]
    again = await rig.tool("filesystem.read_file", path="a.txt")
    assert again.receipt is not None
    assert again.receipt.attempt == 2
    assert [item["reason_code"] for item in rig.receipts()] == ["OP_INTERRUPTED", None]


@pytest.mark.parametrize("changed", [False, True])
async def test_an_interrupted_test_run(rig: Rig, monkeypatch: pytest.MonkeyPatch, changed: bool) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        return await never(call)

    rig.extra = {"run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), work)}
    rig.__post_init__()
    with monkeypatch.context() as patched:
        crash_at(rig, patched, "C1")
        with pytest.raises(Crash):
            await rig.do("run_tests", {})
    if changed:
        (rig.root / "litter").write_text("x")
    (action,) = await recover(rig)
    assert action.action == ("manual" if changed else "run_again")


async def test_other_external_effects_are_asked_about(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.extra = {"tool_invoke": FakeHandler(OperationPlan(Effect.EXTERNAL, tool="git.push"), never)}
    rig.__post_init__()
    await crashing(rig, monkeypatch, "C1", "git.push")
    (action,) = await recover(rig)
    assert action.action == "ask"


async def test_an_interrupted_operation_is_not_run_before_recovery(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await crashing(rig, monkeypatch, "C1", "filesystem.write_file", path="a.txt", content="two\n")
    rig.after_crash()
    for _ in range(2):
        result = await rig.tool("filesystem.write_file", path="a.txt", content="two\n")
        assert result.reason_code == "RECOVERY_MANUAL"
    assert [item.state for item in rig.executor.unresolved()] == [Known.OPEN]
    assert (rig.root / "a.txt").read_text() == "one\n"
