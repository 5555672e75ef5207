"""What one attempt sees of the world, and how it is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, BlockValidationError
from runtime.blocks.running import NodeCall, NodeOptions
from runtime.blocks.values import BlockValue
from runtime.egress.scopes import CancelTree, Fenced, Scope, ScopeKind
from runtime.execution.attempt_undo import Undo
from runtime.execution.attempt_world import AttemptWorld
from runtime.execution.pause import PauseGate
from runtime.execution.questions import Reply
from runtime.execution.stream_keeper import DataItem, TextItem
from runtime.flow.streams import StreamStalled
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted, JournalError, StorageError
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.model import ExecutionContext, Operation, OperationReceipt, OperationResult, OperationStatus
from runtime.orchestration.compensation import InvalidCompensation
from runtime.orchestration.undo import CompensationOutcome
from tests.support.blocks_kit import single, step
from tests.support.journals import RECIPE, receipt

KEY = ("a", 1, 1, 1)


class Executor:
    """Does what it is told and remembers it."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.roles: list[str] = []
        self.filled: list[bool] = []
        self.undone: list[str] = []
        self.verified = True
        self.fault: BaseException | None = None
        self.effect, self.status = "write", OperationStatus.SUCCESS
        self.evidence: dict[str, Any] = {}

    async def execute(
        self, operation: Operation, ctx: ExecutionContext, stack: Any, *, fill_default: bool, on_output: Any, **_: Any
    ) -> OperationResult:
        if self.fault is not None:
            raise self.fault
        self.operations.append(operation)
        self.roles.append(ctx.acting_role)
        self.filled.append(fill_default)
        on_output("stdout", "working\n")
        return OperationResult(
            operation_id=operation.operation_id,
            operation_id_audit="audit",
            type=operation.type,
            status=self.status,
            output={},
            evidence=self.evidence,
            receipt=receipt(operation.operation_id, effect=self.effect),
            reason_code=None,
        )

    async def compensate_all(self, receipts: Sequence[OperationReceipt]) -> tuple[CompensationOutcome, ...]:
        self.undone += [item.idempotency_key for item in reversed(receipts)]
        code = None if self.verified else "COMP_DRIFT"
        return tuple(
            CompensationOutcome(operation_id=item.operation_id, outcome="completed", verified=self.verified, code=code)
            for item in receipts
        )


class Asked:
    """Questions whose answer is known."""

    def __init__(self) -> None:
        self.reply = Reply(resolution="approved", by="ada", notes="")
        self.fault: Exception | None = None
        self.asked: list[dict[str, Any]] = []

    async def ask(self, **members: Any) -> Reply:
        if self.fault is not None:
            raise self.fault
        self.asked.append(members)
        return self.reply


class Edges:
    """Stream edges that take everything, unless told what to raise."""

    max_item = 1000

    def __init__(self) -> None:
        self.sent: list[tuple[object, DataItem, int]] = []
        self.offered: list[tuple[object, TextItem, int]] = []
        self.fault: BaseException | None = None

    async def send(self, owner: object, payload: DataItem, size: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.sent.append((owner, payload, size))

    def offer(self, owner: object, payload: TextItem, size: int) -> bool:
        if self.fault is not None:
            raise self.fault
        self.offered.append((owner, payload, size))
        return True

    @property
    def texts(self) -> list[tuple[str, str, str]]:
        return [(item.step_id, item.stream, item.text) for _, item, _ in self.offered]


class Stage:
    """One attempt's world with everything around it."""

    def __init__(self, tmp_path: Path, *, key: tuple[str, int, int, int] = KEY, **extra: object) -> None:
        tree = CancelTree(ManualClock())
        self.scope: Scope = tree.open(ScopeKind.TURN, "turn", tree.open(ScopeKind.SESSION, "session"))
        self.executor, self.questions, self.edges = Executor(), Asked(), Edges()
        self.undo = Undo(self.executor)  # type: ignore[arg-type]
        self.gate = PauseGate(self.scope)
        context = ExecutionContext(
            run_id=RECIPE, run_id_audit=UUID(int=1), repo_root=tmp_path, baseline_commit=NO_COMMIT, step_id="a"
        )
        self.call = call(NodeOptions(extra=extra))
        self.world = AttemptWorld(
            call=self.call,
            key=key,
            executor=self.executor,  # type: ignore[arg-type]
            context=context,
            stack=(),
            role="tester",
            gate=self.gate,
            questions=self.questions,  # type: ignore[arg-type]
            undo=self.undo,
            streams=self.edges,  # type: ignore[arg-type]
        )


def call(options: NodeOptions | None = None, *, block: Any = None) -> NodeCall:
    return NodeCall(
        node_name="a",
        node_path="a",
        block=block or step("a"),
        request=Request(BlockValue.of(None)),
        options=options or NodeOptions(),
    )


async def test_operations_are_numbered_by_attempt_unless_they_are_named(tmp_path: Path) -> None:
    stage, again = Stage(tmp_path), Stage(tmp_path, key=("a", 1, 2, 3))
    for world in (stage.world, again.world):
        await world.operate("tool_invoke", {})
        await world.operate("tool_invoke", {}, key="named")
        await world.operate("tool_invoke", {})
    assert [item.operation_id for item in stage.executor.operations] == ["a.0", "a.named", "a.1"]
    assert [item.operation_id for item in again.executor.operations] == ["a~1.2.3.0", "a~1.2.3.named", "a~1.2.3.1"]
    assert stage.executor.roles == ["tester"] * 3
    assert stage.edges.texts[0] == ("a", "stdout", "working\n")


async def test_a_declared_undo_goes_along_and_a_silent_author_gets_the_default(tmp_path: Path) -> None:
    stage = Stage(tmp_path, compensation_type="fs_delete", compensation_command="fs_delete a")
    await stage.world.operate("tool_invoke", {})
    await stage.world.operate("tool_invoke", {}, compensation=("none", ""))
    assert [item.compensation_type.value for item in stage.executor.operations] == ["fs_delete", "none"]
    assert stage.executor.filled == [False, True]


@pytest.mark.parametrize(
    ("type_", "params", "compensation"),
    [("no such type", {}, None), ("tool_invoke", {"x": object()}, None), ("tool_invoke", {}, ("sometimes", ""))],
)
async def test_an_operation_that_makes_no_sense_is_the_authors_mistake(
    tmp_path: Path, type_: str, params: dict[str, Any], compensation: tuple[str, str] | None
) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(BlockValidationError):
        await stage.world.operate(type_, params, compensation=compensation)
    assert stage.executor.operations == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (InvalidCompensation("COMP_PATH", "no"), BlockValidationError),
        (StorageError("STORE_POISONED", "no"), Halted),
        (JournalError("J_IO", "no"), JournalError),
        (Halted("KILL_SWITCH"), Halted),
    ],
)
async def test_what_ends_the_run_is_never_an_ordinary_failure(
    tmp_path: Path, fault: BaseException, expected: type[BaseException]
) -> None:
    stage = Stage(tmp_path)
    stage.executor.fault = fault
    with pytest.raises(expected):
        await stage.world.operate("tool_invoke", {})


async def test_a_fenced_attempt_starts_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.scope.fence("operator_cancel")
    with pytest.raises(Fenced):
        await stage.world.operate("tool_invoke", {})
    assert stage.executor.operations == []


async def test_questions_are_bound_to_their_subject_whatever_it_holds(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    subject = BlockValue.of({"share": 0.5, "big": 2**60, "raw": b"\x00\xff"})
    answer = await stage.world.wait("Really?", subject=subject)
    choice = answer.get("choice")
    assert choice is not None
    assert choice.text() == "approved"
    await stage.world.wait("Really?", choices=("yes", "no"))
    assert [item["question_id"] for item in stage.questions.asked] == ["a.ask0", "a.ask1"]
    assert [item["choices"] for item in stage.questions.asked] == [("approved", "rejected"), ("yes", "no")]


async def test_a_rejection_fails_and_a_lost_journal_halts(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.questions.reply = Reply(resolution="rejected", by="ada", notes="not today")
    with pytest.raises(BlockRuntimeError, match="not today") as caught:
        await stage.world.wait("Really?")
    assert caught.value.code == "approval.refused"
    stage.questions.fault = StorageError("STORE_FULL", "no room")
    with pytest.raises(Halted):
        await stage.world.wait("Really?")


async def test_undo_takes_back_writes_last_to_first_and_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for name, effect, status in (
        ("1", "write", "success"),
        ("2", "read", "success"),
        ("3", "write", "failed"),
        ("4", "write", "success"),
    ):
        done = receipt(name, effect=effect, status=status)
        stage.undo.note(KEY, done)
        stage.undo.note(KEY, done)
    stage.undo.note(("b", 1, 1, 1), receipt("other", effect="write"))
    assert await stage.undo.attempt(stage.call, KEY) is SideEffects.NONE
    assert stage.executor.undone == ["4", "1"]
    await stage.undo.attempt(stage.call, KEY)
    assert stage.executor.undone == ["4", "1"]


GET: dict[str, Any] = {"tool": "http.request", "url": "http://example.org/"}
MAIL: dict[str, Any] = {"tool": "mail", "action": "send"}
NONE, AGAIN, NEVER = SideEffects.NONE, SideEffects.IDEMPOTENT, SideEffects.NON_IDEMPOTENT


@pytest.mark.parametrize(
    ("kind", "params", "failed", "expected"),
    [
        ("llm_call", {}, None, AGAIN),
        ("tool_invoke", {"tool": "other.thing"}, None, NEVER),
        ("tool_invoke", GET, None, AGAIN),
        ("tool_invoke", GET, "unknown", AGAIN),
        ("tool_invoke", {**GET, "method": "HEAD"}, "unknown", AGAIN),
        ("tool_invoke", {**GET, "method": "POST"}, "unknown", NEVER),
        ("tool_invoke", {**GET, "method": "POST"}, "none", NONE),
        ("tool_invoke", MAIL, None, NEVER),
        ("tool_invoke", MAIL, "unknown", NEVER),
        ("tool_invoke", MAIL, "none", NONE),
    ],
)
async def test_what_is_left_decides_the_class(
    tmp_path: Path, kind: str, params: dict[str, Any], failed: str | None, expected: SideEffects
) -> None:
    stage = Stage(tmp_path)
    stage.executor.effect = "external"
    if failed is not None:
        stage.executor.status, stage.executor.evidence = OperationStatus.FAILED, {"details": {"effects": failed}}
    await stage.world.operate(kind, params)
    assert await stage.undo.attempt(stage.call, KEY) is expected
    assert await stage.undo.attempt(stage.call, KEY) is NONE, "what was judged once is not judged again"


@pytest.mark.parametrize(
    ("params", "expected"), [(MAIL, NEVER), (GET, AGAIN), ({"tool": "filesystem.write_file", "path": "a"}, NONE)]
)
async def test_a_cancelled_operation_may_have_done_its_work(
    tmp_path: Path, params: dict[str, Any], expected: SideEffects
) -> None:
    """A block's time limit cancels what it waits for: the next attempt must not send the message twice."""
    stage = Stage(tmp_path)
    stage.executor.fault = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await stage.world.operate("tool_invoke", params)
    assert await stage.undo.attempt(stage.call, KEY) is expected


async def test_an_undo_that_is_not_proven_halts(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.executor.verified = False
    stage.undo.note(KEY, receipt("1", effect="write"))
    with pytest.raises(Halted) as caught:
        await stage.undo.attempt(stage.call, KEY)
    assert caught.value.code == "COMP_DRIFT"


async def test_undoing_a_workflow_includes_everything_inside_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for number, path in enumerate(("a/x", "a/y/z", "ab")):
        stage.undo.note((path, 1, 1, 1), receipt(str(number), effect="write"))
    await stage.undo.attempt(call(block=single(step("inner"))), KEY)
    assert stage.executor.undone == ["1", "0"]


async def test_ticks_that_are_over_are_neither_undone_nor_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for tick in (1, 2):
        stage.undo.note(("a", tick, 1, 1), receipt(str(tick), effect="write"))
        stage.undo.leave(("a", tick, 1, 1), SideEffects.NON_IDEMPOTENT)
    stage.undo.begin_tick(2)
    assert [await stage.undo.attempt(stage.call, ("a", tick, 1, 1)) for tick in (1, 2)] == [NONE, NEVER]
    assert stage.executor.undone == ["2"]


async def test_emitted_items_go_to_their_edge_under_the_attempts_name(tmp_path: Path) -> None:
    stage = Stage(tmp_path, key=("a", 1, 2, 3))
    await stage.world.send(BlockValue.of({"n": 1}))
    stage.world.offer(BlockValue.of("ü"))
    stage.world.log("warn", "odd", None)
    ((owner, item, size),) = stage.edges.sent
    assert owner == ("a", 1, 2, 3)
    assert (item.step_id, item.value, size) == ("a", BlockValue.of({"n": 1}), len(item.body))
    assert stage.edges.texts == [("a", "telemetry", "ü\n"), ("a", "telemetry", "warn odd \n")]
    stage.world.log("info", "sent", {"password": "x", "count": 2})
    assert stage.edges.texts[-1][2] == "info sent {'password': '<redacted>', 'count': 2}\n"
    assert stage.edges.offered[0][2] == 3, "sizes are bytes"


async def test_what_an_edge_can_never_hold_is_the_authors_mistake(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(BlockValidationError, match="emit it in parts") as caught:
        await stage.world.send(BlockValue.of("x" * 1001))
    assert caught.value.code == "validation.stream_item"
    nested: object = "deep"
    for _ in range(63):
        nested = [nested]
    with pytest.raises(BlockInputError):
        await stage.world.send(BlockValue.of([nested]))
    assert stage.edges.sent == []


@pytest.mark.parametrize(
    ("fault", "expected", "code"),
    [
        (
            StreamStalled("max_block_time_exceeded", "there was no room for 30 s"),
            BlockRuntimeError,
            "runtime.stream_stalled",
        ),
        (JournalError("J_IO", "no"), Halted, "J_IO"),
        (StorageError("STORE_FULL", "no"), Halted, "STORE_FULL"),
    ],
)
async def test_a_stalled_stream_fails_the_block_and_a_lost_journal_halts_the_run(
    tmp_path: Path, fault: BaseException, expected: type[BaseException], code: str
) -> None:
    stage = Stage(tmp_path)
    stage.edges.fault = fault
    with pytest.raises(expected) as caught:
        await stage.world.send(BlockValue.of("item"))
    assert caught.value.code == code  # type: ignore[attr-defined]
    if expected is Halted:
        with pytest.raises(Halted):
            stage.world.offer(BlockValue.of("item"))
