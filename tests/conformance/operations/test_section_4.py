"""The executor's order, its idempotency table and undeclared effects (operations specification §4): tests 4.a–4.h."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.errors import JournalError, StorageError
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    OperationPlan,
    OperationStatus,
    PlannedPath,
    ValidationResult,
)
from runtime.kernel.ports import Durable, StoredEntry
from runtime.orchestration.operation_ports import HandlerOutcome, KillSwitchActive, RunCall
from runtime.orchestration.run_controller import KillSwitch
from tests.support.operation_rig import FakeHandler, Rig, never
from tests.support.repositories import repository


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    (root / "docs/a.md").write_text("old\n")
    return Rig(root)


@pytest.mark.parametrize(
    ("part", "code"), [("enforcer", "POLICY_DENIED"), ("protector", "SELFMOD_PROTECTED"), (None, None)]
)
async def test_4_a_every_write_asks_enforcer_and_protector(rig: Rig, part: str | None, code: str | None) -> None:
    """The write is denied only because the one part was asked and said no; with both as they are it is done."""

    class Denying:
        def validate_operation(self, *args: Any, **options: Any) -> ValidationResult:
            return ValidationResult.deny("POLICY_DENIED", "no", check="t", operation="t")

        def validate(self, *args: Any) -> ValidationResult:
            return ValidationResult.deny("SELFMOD_PROTECTED", "no", check="t", operation="t")

    rig.build(**({part: Denying()} if part else {}))
    result = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert result.reason_code == code
    assert result.status is (OperationStatus.ESCALATED if part else OperationStatus.SUCCESS)
    assert (rig.root / "new.txt").exists() is (part is None)


async def test_4_b_no_effect_when_the_journal_cannot_take_the_intention(rig: Rig) -> None:
    """Ruling R12: the store behind the journal is a port. A store that refuses stands for the read-only directory,
    which would not stop root."""

    def refuse(entry: object) -> None:
        raise StorageError("STORE_READ_ONLY", "read-only")

    rig.store.append = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(JournalError, match="STORE_READ_ONLY"):
        await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert not (rig.root / "new.txt").exists()


async def test_4_c_a_stop_file_between_x2_and_x11(rig: Rig) -> None:
    append = rig.store.append

    def stopping(entry: StoredEntry) -> Durable:
        if entry.kind == "operation_started":
            (rig.root / "STOP_AUTONOMY").touch()
        return append(entry)

    rig.store.append = stopping  # type: ignore[method-assign]
    rig.build(guard=KillSwitch(rig.root).check)
    with pytest.raises(KillSwitchActive):
        await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert not (rig.root / "new.txt").exists()
    assert rig.kinds() == ["operation_started", "receipt"]
    assert [receipt["reason_code"] for receipt in rig.receipts()] == ["KILL_SWITCH"]


async def test_4_d_the_same_write_twice_is_answered_from_the_record(rig: Rig) -> None:
    """Ruling R13: the same operation id is the same work, as after a crash; a block's retry has keys of its own."""
    first = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    again = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.output == first.output
    assert again.receipt == first.receipt
    assert rig.kinds().count("operation_started") == 1


async def test_4_e_a_hand_edit_between_the_two_is_drift(rig: Rig) -> None:
    await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    (rig.root / "new.txt").write_text("mine\n")
    for attempt in (2, 3):  # a refusal must not make the key look as if it might run again
        again = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
        assert (again.status, again.reason_code) == (OperationStatus.ESCALATED, "IDEMPOTENCY_DRIFT")
        assert again.receipt is not None
        assert again.receipt.attempt == attempt
    assert (rig.root / "new.txt").read_text() == "mine\n"


async def test_4_f_cancelling_a_write_restores_and_then_cancels(rig: Rig) -> None:
    begun = asyncio.Event()

    async def work(call: RunCall) -> HandlerOutcome:
        (rig.root / "docs/a.md").write_text("half")
        begun.set()
        return await never(call)

    plan = OperationPlan(
        Effect.WRITE,
        (PlannedPath("docs/a.md", Access.WRITE),),
        tool="filesystem.write_file",
        undo=CompensationType.FILESYSTEM_RESTORE,
        undo_command="fs_restore docs/a.md",
    )
    rig.extra = {"tool_invoke": FakeHandler(plan, work)}
    rig.__post_init__()
    task = asyncio.ensure_future(rig.tool("filesystem.write_file"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    own, undo = rig.receipts()
    assert (own["reason_code"], own["status"]) == ("OP_CANCELLED", "failed")
    assert undo["compensates"] == own["receipt_hash"]
    assert undo["compensation_verified"]
    assert (rig.root / "docs/a.md").read_text() == "old\n"


async def test_4_g_a_test_run_that_drops_a_file_in_the_tree(tmp_path: Path) -> None:
    """Ruling R49: without walls. In a sandbox the file cannot be written at all."""
    litter = "def test_litter():\n    open('litter.txt', 'w').write('x')\n"
    git = repository(tmp_path / "tree", {"tests/test_a.py": litter})
    rig = Rig(tmp_path / "tree", git=git, python=sys.executable)
    result = await rig.do("run_tests", {"test_paths": ["tests"]})
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "OP_UNDECLARED_EFFECT")
    assert result.evidence["undeclared"] == ["litter.txt"]
    assert (rig.root / "litter.txt").exists()  # listed, never deleted


async def test_4_h_an_unexpected_exception_is_a_failure_without_traceback(rig: Rig) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        raise KeyError(str(rig.root))

    rig.extra = {"gate_check": FakeHandler(OperationPlan(Effect.NONE), work)}
    rig.__post_init__()
    result = await rig.do("gate_check", {})
    assert result.reason_code == "OP_FAILED"
    assert result.receipt is not None
    evidence = rig.artifacts.bodies[result.receipt.evidence_hash].decode()
    assert "KeyError" in evidence
    assert str(rig.root) not in evidence
