"""The executor's order, its idempotency table and its failure modes (operations spec §4, rulings R16–R24)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import Halted, JournalError, Refused, StorageError
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    Operation,
    OperationPlan,
    OperationReceipt,
    OperationStatus,
    PlannedPath,
    ValidationResult,
)
from runtime.kernel.ports import Denial
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.operation_ports import HandlerOutcome, RunCall
from runtime.orchestration.operation_table import Known
from runtime.orchestration.operations import HaltRequired, Recorded
from runtime.orchestration.undo import CompensationOutcome
from tests.support.operation_rig import FakeHandler, Rig, never


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    (root / "docs/a.md").write_text("old\n")
    return Rig(root)


def write(root: Path, work: Any, path: str = "out.txt") -> FakeHandler:
    plan = OperationPlan(
        Effect.WRITE,
        (PlannedPath(path, Access.WRITE),),
        tool="filesystem.write_file",
        undo=CompensationType.FILESYSTEM_RESTORE,
        undo_command=f"fs_restore {path}",
    )
    return FakeHandler(plan, work)


async def test_a_write_leaves_intention_receipt_and_file(rig: Rig) -> None:
    result = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert (result.status, result.reason_code) == (OperationStatus.SUCCESS, None)
    assert rig.kinds() == ["operation_started", "receipt"]
    receipt = result.receipt
    assert receipt is not None
    assert receipt.record() == rig.receipts()[0]
    assert receipt.compensation_command == "fs_delete new.txt"
    assert receipt.pre_state_hash != receipt.post_state_hash
    assert (rig.root / "new.txt").read_text() == "hi\n"
    assert rig.artifacts.bodies.keys() >= {receipt.params_hash, receipt.output_hash, receipt.evidence_hash}


async def test_a_stored_plan_is_found_under_its_hash(rig: Rig) -> None:
    await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    stored = parse_strict(rig.artifacts.bodies[rig.entries()[1]["plan_hash"]])
    assert (stored["effect"], stored["paths"]) == ("write", [["new.txt", "create"]])


async def test_a_refusal_is_recorded_with_path_and_check(rig: Rig) -> None:
    result = await rig.tool("filesystem.write_file", path="docs/../x", content="hi\n")
    assert result.reason_code == "PATH_TRAVERSAL"
    denied, receipt = rig.entries()[1:]
    assert (denied["kind"], denied["code"], denied["path"]) == ("operation_denied", "PATH_TRAVERSAL", "docs/../x")
    assert denied["check"].startswith("path")
    assert (denied["rule"], denied["attempted"]) == ("path syntax L12", "create docs/../x with filesystem.write_file")
    assert denied["needed"].startswith("nothing: ")
    assert denied["evidence_hash"] in rig.artifacts.bodies
    assert receipt["receipt"]["status"] == "escalated"
    assert receipt["receipt"]["pre_state_hash"] == receipt["receipt"]["post_state_hash"]


async def test_no_effect_when_the_intention_does_not_become_durable(rig: Rig) -> None:
    class Poisoned:
        def __await__(self) -> Any:
            raise StorageError("STORE_FULL", "disk full")
            yield

    append = rig.store.append
    rig.store.append = lambda entry: append(entry) and Poisoned()  # type: ignore[assignment,method-assign]
    with pytest.raises(JournalError, match="STORE_FULL"):
        await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert not (rig.root / "new.txt").exists()


async def test_a_fence_refuses_before_anything_is_looked_at(rig: Rig) -> None:
    rig.halted = Halted("HALT_LATCHED")
    with pytest.raises(Halted):
        await rig.tool("filesystem.read_file", path="docs/a.md")
    assert rig.kinds() == ["operation_denied", "receipt"]
    assert rig.receipts()[0]["reason_code"] == "HALT_LATCHED"


async def test_one_id_for_two_works_is_a_conflict(rig: Rig) -> None:
    await rig.tool("filesystem.read_file", path="docs/a.md")
    other = await rig.tool("filesystem.read_file", path="docs/b.md")
    assert other.reason_code == "IDEMPOTENCY_CONFLICT"


async def test_a_failed_operation_without_effect_runs_again_as_a_new_attempt(rig: Rig) -> None:
    missing = await rig.tool("filesystem.read_file", path="docs/b.md")
    assert missing.reason_code == "PATH_MISSING"
    (rig.root / "docs/b.md").write_text("now\n")
    again = await rig.tool("filesystem.read_file", path="docs/b.md")
    assert again.ok
    assert again.receipt is not None
    assert again.receipt.attempt == 2


async def test_a_read_only_operation_that_leaves_a_file(rig: Rig) -> None:
    async def litter(call: RunCall) -> HandlerOutcome:
        (rig.root / "litter.txt").write_text("x")
        return HandlerOutcome(output={"fine": True})

    rig.extra = {"run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), litter)}
    rig.__post_init__()
    result = await rig.do("run_tests", {})
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "OP_UNDECLARED_EFFECT")
    [told] = [entry["reason"] for entry in rig.entries() if entry["kind"] == "escalation"]
    assert told == "OP_UNDECLARED_EFFECT: The operation changed something its plan did not name: litter.txt"
    assert (rig.root / "litter.txt").exists()  # listed, never deleted
    assert result.evidence["undeclared"] == ["litter.txt"]


async def test_a_confined_operation_cannot_have_been_it(rig: Rig) -> None:  # ruling R49, relaxation 1
    async def meanwhile(call: RunCall) -> HandlerOutcome:
        (rig.root / "docs/a.md").write_text("the operator types")
        return HandlerOutcome()

    rig.extra = {"run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), meanwhile, confined=True)}
    rig.__post_init__()
    assert (await rig.do("run_tests", {})).ok  # the run never touched docs/a.md
    await rig.tool("filesystem.write_file", id="s1.1", path="docs/a.md", content="ours\n")
    touched = await rig.do("run_tests", {}, id="s1.2")
    assert touched.reason_code == "EXTERNAL_MODIFICATION"


async def test_a_protected_surplus_is_named_as_such(rig: Rig) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        (rig.root / "AGENTS.md").write_text("obey")
        return HandlerOutcome()

    rig.extra = {"run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), work)}
    rig.__post_init__()
    assert (await rig.do("run_tests", {})).reason_code == "SELFMOD_EFFECT"


async def test_a_hanging_handler_ends_at_the_smallest_limit(rig: Rig) -> None:
    rig.extra = {"gate_check": FakeHandler(OperationPlan(Effect.NONE, timeout_seconds=0.02), never)}
    rig.__post_init__()
    assert (await rig.do("gate_check", {})).reason_code == "OP_TIMEOUT"


async def test_no_time_left_for_the_mission(rig: Rig) -> None:
    rig.remaining_seconds = 0
    assert (await rig.tool("filesystem.read_file", path="docs/a.md")).reason_code == "ENV_DEADLINE"


async def test_a_foreign_edit_on_a_touched_path_halts(rig: Rig) -> None:  # X8, relaxation 1
    await rig.tool("filesystem.write_file", path="docs/a.md", content="ours\n")
    (rig.root / "elsewhere.txt").write_text("operator")
    assert (await rig.tool("filesystem.write_file", id="s1.1", path="b.txt", content="b")).ok
    (rig.root / "docs/a.md").write_text("operator, longer")
    with pytest.raises(HaltRequired, match="EXTERNAL_MODIFICATION"):
        await rig.tool("filesystem.write_file", id="s1.2", path="c.txt", content="c")
    assert not (rig.root / "c.txt").exists()


async def test_strict_runs_halt_on_any_foreign_edit(rig: Rig) -> None:
    rig.strict = True
    rig.build()
    await rig.tool("filesystem.write_file", path="a.txt", content="a")
    (rig.root / "elsewhere.txt").write_text("operator")
    with pytest.raises(HaltRequired, match="EXTERNAL_MODIFICATION"):
        await rig.tool("filesystem.write_file", id="s1.1", path="b.txt", content="b")


async def test_another_envelope_than_the_one_the_run_started_with(rig: Rig) -> None:
    with pytest.raises(HaltRequired, match="ENV_CHANGED"):
        await rig.do("tool_invoke", {"tool": "filesystem.read_file", "path": "docs/a.md"}, stack=(Envelope(),))


async def test_a_context_without_step_or_journal(rig: Rig) -> None:
    rig.ctx = rig.with_context(step_id="")
    assert (await rig.tool("filesystem.read_file", path="docs/a.md")).reason_code == "CTX_INCOMPLETE"
    rig.ctx = rig.with_context(step_id="s2", journal=None)
    assert (await rig.tool("filesystem.read_file", id="s2.0", path="docs/a.md")).ok
    refused = await rig.tool("filesystem.write_file", id="s2.1", path="x", content="")
    assert refused.reason_code == "CTX_NO_JOURNAL"


async def test_unknown_types_are_denied(rig: Rig) -> None:
    rig.build(handlers=type("None_", (), {"get": lambda self, name: None})())
    assert (await rig.do("gate_check", {})).reason_code == "OP_UNKNOWN_TYPE"


async def test_a_recorded_run_answers_instead_of_the_world(rig: Rig) -> None:
    answer = Recorded(status=OperationStatus.SUCCESS, output={"text": "as it was"})

    async def recorded(operation: Operation, ctx: ExecutionContext) -> Recorded:
        return answer

    rig.build(recorded=recorded)
    result = await rig.tool("filesystem.write_file", path="new.txt", content="hi\n")
    assert result.replayed
    assert result.output == {"text": "as it was"}
    assert rig.kinds() == []
    assert not (rig.root / "new.txt").exists()


async def test_an_output_that_cannot_be_hashed_is_a_failure(rig: Rig) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        return HandlerOutcome(output={"x": float("nan")})

    rig.extra = {"gate_check": FakeHandler(OperationPlan(Effect.NONE), work)}
    rig.__post_init__()
    assert (await rig.do("gate_check", {})).reason_code == "OP_OUTPUT"


async def test_a_violation_at_use_is_escalated_and_undone(rig: Rig) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        (rig.root / "docs/a.md").write_text("half")
        raise EnvelopeViolation(ValidationResult.deny("PATH_RACE", "swapped", check="path.use", operation="write"))

    rig.extra = {"tool_invoke": write(rig.root, work, "docs/a.md")}
    rig.__post_init__()
    result = await rig.tool("filesystem.write_file")
    assert (result.status, result.reason_code) == (OperationStatus.ESCALATED, "PATH_RACE")
    assert result.compensation_status == "completed"
    assert (rig.root / "docs/a.md").read_text() == "old\n"


async def test_an_undo_that_fails_is_the_outcome(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:  # 6.k
    async def work(call: RunCall) -> HandlerOutcome:
        (rig.root / "docs/a.md").write_text("half")
        raise Refused("OP_FAILED", "broke")

    rig.extra = {"tool_invoke": write(rig.root, work, "docs/a.md")}
    rig.__post_init__()
    rig.artifacts.get = _nothing  # type: ignore[method-assign]
    result = await rig.tool("filesystem.write_file")
    assert (result.compensation_status, result.reason_code) == ("failed", "COMP_FAILED")
    assert result.evidence["failed_with"] == "OP_FAILED"
    assert rig.receipts()[-1]["compensation_verified"] is False
    with pytest.raises(HaltRequired, match="HALT_LATCHED"):  # and the key is stuck
        await rig.tool("filesystem.write_file")


async def _nothing(digest: str) -> None:
    return None


async def test_writes_are_exclusive_and_executes_share(rig: Rig) -> None:  # ruling R21
    running: set[str] = set()
    seen: list[frozenset[str]] = []

    def tracked(name: str) -> Any:
        async def work(call: RunCall) -> HandlerOutcome:
            running.add(name)
            seen.append(frozenset(running))
            for _ in range(20):
                await asyncio.sleep(0)
            running.discard(name)
            return HandlerOutcome()

        return work

    rig.extra = {
        "tool_invoke": write(rig.root, tracked("write"), "docs/a.md"),
        "run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), tracked("execute")),
    }
    rig.__post_init__()
    await asyncio.gather(
        rig.do("run_tests", {"n": 1}, id="s1.1"),
        rig.do("run_tests", {"n": 2}, id="s1.2"),
        rig.tool("filesystem.write_file", id="s1.3"),
        rig.do("run_tests", {"n": 4}, id="s1.4"),
    )
    assert frozenset({"write"}) in seen
    assert not any("write" in together and len(together) > 1 for together in seen)


async def test_compensate_all_undoes_last_to_first(rig: Rig) -> None:  # 6.j
    await rig.tool("filesystem.write_file", id="s1.0", path="docs/a.md", content="one\n")
    await rig.tool("filesystem.write_file", id="s1.1", path="docs/a.md", content="two\n")
    await rig.tool("filesystem.write_file", id="s1.2", path="deep/er/new.txt", content="x", create_parents=True)
    outcomes = await rig.executor.compensate_all([OperationReceipt.from_record(item) for item in rig.receipts()])
    assert [outcome.operation_id for outcome in outcomes] == ["s1.2", "s1.1", "s1.0"]
    assert all(isinstance(outcome, CompensationOutcome) and outcome.verified for outcome in outcomes)
    assert (rig.root / "docs/a.md").read_text() == "old\n"
    assert not (rig.root / "deep").exists()


async def test_cancelling_while_waiting_for_the_gate_leaves_it_usable(rig: Rig) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def work(call: RunCall) -> HandlerOutcome:
        begun.set()
        await end.wait()
        return HandlerOutcome()

    rig.extra = {"run_tests": FakeHandler(OperationPlan(Effect.EXECUTE), work)}
    rig.__post_init__()
    first = asyncio.ensure_future(rig.do("run_tests", {}, id="s1.0"))
    await begun.wait()
    waiting = asyncio.ensure_future(rig.tool("filesystem.write_file", id="s1.1", path="x", content=""))
    while rig.executor._gate.statistics()["waiting"] == 0:
        await asyncio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    end.set()
    assert (await first).ok
    assert (await rig.tool("filesystem.write_file", id="s1.2", path="y", content="")).ok


async def test_what_a_running_operation_was_refused_is_a_violation_and_no_outcome(rig: Rig) -> None:
    denial = Denial(
        code="NET_HOST_DENIED", message="evil.example", attempted="evil.example:443", needed="sandbox.hosts"
    )

    async def work(call: RunCall) -> HandlerOutcome:
        return HandlerOutcome(output={"done": True}, denials=(denial,))

    rig = Rig(rig.root, extra={"tool_invoke": FakeHandler(OperationPlan(Effect.EXECUTE, tool="process.run"), work)})
    result = await rig.do("tool_invoke", {})
    assert result.ok
    assert rig.kinds() == ["operation_started", "operation_denied", "receipt"]
    entry = rig.entries()[2]
    assert (entry["code"], entry["attempted"], entry["during"]) == ("NET_HOST_DENIED", "evil.example:443", True)
    assert (entry["rule"], entry["needed"]) == ("sandbox.hosts", "sandbox.hosts")
    known = rig.journal.operations.lookup(entry["idempotency_key"])
    assert known is not None
    assert known.state is Known.DONE
    assert verify_entries(rig.store.entries).ok
