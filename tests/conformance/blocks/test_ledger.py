"""The ledger: replay equals state, rollback restores it, and nobody else writes (blocks spec §16)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.blocks.conditions import otherwise, when
from runtime.blocks.errors import BlockError, BlockSkip, LedgerOwnershipError
from runtime.blocks.ledger import CHECKPOINT_WINDOW, Ledger, LedgerOpKind, replay
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import failing, raising, respond, scope, step
from tests.support.random_workflows import driven, turns_to_live, workflows

keys = st.sampled_from(["a", "b", "c"])


def ledger() -> Ledger:
    return Ledger(lambda: datetime(2026, 1, 1, tzinfo=UTC))


class LedgerMachine(RuleBasedStateMachine):
    """Compare with a dictionary that is copied at every checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger()
        self.model: dict[str, Any] = {}
        self.saved: dict[str, dict[str, Any]] = {}
        self.count = 0

    @rule(key=keys, value=st.integers(0, 5))
    def set(self, key: str, value: int) -> None:
        self.ledger.set(key, value, "node")
        self.model[key] = value

    @rule(key=keys, value=st.integers(0, 5))
    def append(self, key: str, value: int) -> None:
        if isinstance(self.model.get(key, []), list):
            self.ledger.append(key, value, "node")
            self.model[key] = [*self.model.get(key, []), value]

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.ledger.delete(key)
        self.model.pop(key, None)

    @rule()
    def checkpoint(self) -> None:
        self.count += 1
        self.saved[self.ledger.create_checkpoint(f"c{self.count}")] = dict(self.model)

    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        if self.ledger.checkpoints:
            name = data.draw(st.sampled_from(self.ledger.checkpoints))
            newer = self.ledger.checkpoints[self.ledger.checkpoints.index(name) + 1 :]
            self.ledger.rollback(name)
            assert not set(newer) & set(self.ledger.checkpoints)
            self.model = dict(self.saved[name])
            assert self.ledger.checkpoints[-1] == name

    @invariant()
    def replay_equals_state(self) -> None:
        view = self.ledger.view
        assert {key: value.to_python() for key, value in view.items()} == self.model
        assert {key: entry.value for key, entry in replay(view.log()).items()} == view.snapshot()
        assert [op.seq for op in view.log()] == list(range(1, len(view.log()) + 1))
        assert list(view) == sorted(self.model)
        assert len(self.ledger.checkpoints) <= CHECKPOINT_WINDOW


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_new_keys_append_and_known_ones_update() -> None:
    one = ledger()
    one.set("k", 1, "a", {"attempt": 1})
    one.set("k", 2, "b")
    assert [op.op for op in one.view.log()] == [LedgerOpKind.APPEND, LedgerOpKind.UPDATE]
    first, second = (op.entry for op in one.view.log())
    assert first is not None
    assert second is not None
    assert (first.source_block_id, first.metadata["attempt"], second.source_block_id) == ("a", 1, "b")


def test_append_grows_a_list_and_refuses_other_kinds() -> None:
    one = ledger()
    one.append("l", 1, "a")
    one.append("l", [2], "a")
    assert one.view["l"].to_python() == [1, [2]]
    one.set("s", "text", "a")
    with pytest.raises(BlockError, match=r"input\.expected_list"):
        one.append("s", 1, "a")


def test_orphaned_operations_stay_in_the_log() -> None:
    one = ledger()
    one.create_checkpoint("pre:a:1")
    one.set("k", 1, "a")
    one.rollback("pre:a:1")
    one.set("k", 2, "a")
    assert [(op.op.value, op.orphaned) for op in one.view.log()] == [
        ("checkpoint", False),
        ("append", True),
        ("rollback", False),
        ("append", False),
    ]


def test_checkpoint_ids_are_unique_and_known() -> None:
    one = ledger()
    one.create_checkpoint("x")
    with pytest.raises(BlockError, match=r"ledger\.duplicate_checkpoint"):
        one.create_checkpoint("x")
    with pytest.raises(BlockError, match=r"ledger\.unknown_checkpoint"):
        one.rollback("y")


@pytest.mark.parametrize("name", ["set", "append", "delete", "create_checkpoint", "rollback", "compact"])
def test_a_view_cannot_write(name: str) -> None:
    view = ledger().view
    with pytest.raises(LedgerOwnershipError) as caught:
        getattr(view, name)("k")
    assert caught.value.code == "runtime.ledger_not_owner"
    with pytest.raises(LedgerOwnershipError):
        view["k"] = BlockValue.of(1)  # type: ignore[index]


def test_the_window_keeps_the_newest_checkpoints_and_the_log_stays_whole() -> None:
    one = ledger()
    for number in range(CHECKPOINT_WINDOW + 2):
        one.set("n", number, "a")
        one.create_checkpoint(f"c{number}")
    assert len(one.checkpoints) == CHECKPOINT_WINDOW
    for gone in ("c0", "c1"):
        with pytest.raises(BlockError, match=r"ledger\.unknown_checkpoint"):
            one.rollback(gone)
    assert len(one.view.log()) == 2 * (CHECKPOINT_WINDOW + 2)
    one.rollback("c2")
    assert one.view["n"] == BlockValue.of(2)


def test_rollback_goes_on_from_the_restored_state() -> None:
    one = ledger()
    one.set("kept", 1, "a")
    one.create_checkpoint("here")
    one.set("kept", 2, "b")
    one.set("new", 3, "b")
    one.create_checkpoint("later")
    one.rollback("here")
    assert one.view.snapshot() == {"kept": BlockValue.of(1)}
    one.set("new", 4, "c")
    assert [op.op for op in one.view.log()][-2:] == [LedgerOpKind.ROLLBACK, LedgerOpKind.APPEND]
    one.rollback("here")
    assert dict(one.view) == {"kept": BlockValue.of(1)}
    with pytest.raises(BlockError, match=r"ledger\.unknown_checkpoint"):
        one.rollback("later")
    with pytest.raises(BlockError, match=r"ledger\.duplicate_checkpoint"):
        one.create_checkpoint("later")


def test_an_unnamed_checkpoint_is_named_by_its_place() -> None:
    one = ledger()
    one.set("k", 1, "a")
    assert [one.create_checkpoint(), one.create_checkpoint()] == ["op:2", "op:3"]


def test_deleting_is_recorded_once_and_can_be_rolled_back() -> None:
    one = ledger()
    one.set("k", 1, "a")
    one.create_checkpoint("x")
    one.delete("k")
    one.delete("k")
    one.delete("never")
    assert [op.op for op in one.view.log()].count(LedgerOpKind.DELETE) == 1
    assert one.view.get("k") is None
    assert one.view.get_entry("k") is None
    one.rollback("x")
    assert one.view.get("k") == BlockValue.of(1)


# -- in a run -------------------------------------------------------------------------------------------------------


async def test_entries_tell_where_they_came_from() -> None:
    workflow = Workflow("w", seed={"seeded": 1}).link(step("a"), Workflow("inner").add(step("b")))
    workflow.configure("a", store_as="first")
    report = await workflow.start("in", scope=scope()).result()
    assert report.ledger is not None
    assert list(report.ledger) == ["$input", "first", "inner", "seeded"]
    sources = {key: report.ledger.get_entry(key) for key in report.ledger}
    assert {key: entry.source_block_id for key, entry in sources.items() if entry} == {
        "seeded": "$seed",
        "$input": "$input",
        "first": "a",
        "inner": "inner",
    }
    entry = sources["first"]
    assert entry is not None
    assert entry.timestamp == "2026-01-01T00:00:00.000000Z"
    assert set(entry.metadata) == {"trace_id", "run_id", "span_id", "block_name", "node_name", "attempt", "visit"}
    assert (entry.metadata["run_id"], entry.metadata["node_name"]) == (report.run_id, "a")


async def test_a_second_visit_updates() -> None:
    count = step("count", lambda value, ctx: value.payload + 1)
    workflow = Workflow("w").branch(
        count, when(lambda response: response.data.payload < 3, count), otherwise(step("end"))
    )
    report = await workflow.start(0).result()
    assert report.ledger is not None
    ops = [(op.op.value, op.key) for op in report.ledger.log() if op.key == "count"]
    assert ops == [("append", "count"), ("update", "count"), ("update", "count")]


async def test_a_checkpoint_precedes_every_node_execution_in_both_disciplines() -> None:
    dataflow = Workflow("w").link(step("a"), step("b")).link("a", failing("c")).on_error("c", step("handler"))
    report = await dataflow.start().result()
    assert report.ledger is not None
    names = [op.checkpoint_id for op in report.ledger.log() if op.op is LedgerOpKind.CHECKPOINT]
    assert names == ["pre:a:1", "pre:b:1", "pre:c:1", "pre:handler:1"]
    routed = Workflow("w").branch(step("a"), otherwise(failing("b")))
    report = await routed.start().result()
    assert report.ledger is not None
    names = [op.checkpoint_id for op in report.ledger.log() if op.op is LedgerOpKind.CHECKPOINT]
    assert names == ["pre:a:1", "pre:b:1"]


async def test_a_failed_or_skipped_attempt_writes_nothing() -> None:
    for block in (failing("f"), step("f", raising(BlockSkip()))):
        report = await Workflow("w").add(block).start().result()
        assert report.ledger is not None
        assert list(report.ledger) == ["$input"]


async def test_a_block_sees_only_what_it_declared() -> None:
    states: list[Any] = []
    reader = step("reader", lambda value, ctx: states.append((dict(ctx.state), ctx.state.get("hidden"))))
    workflow = Workflow("w", seed={"shown": 1, "hidden": 2}).add(reader)
    await respond(workflow)
    await respond(workflow.configure(reader, reads=["shown", "$input"]), "in")
    assert states == [({}, None), ({"$input": BlockValue.of("in"), "shown": BlockValue.of(1)}, None)]


async def test_a_block_cannot_change_the_ledger() -> None:
    def assign(value: Any, ctx: Any) -> None:
        ctx.state["x"] = 1

    def delete(value: Any, ctx: Any) -> None:
        del ctx.state["seeded"]

    for action in (assign, delete):
        report = await Workflow("w", seed={"seeded": 1}).add(step("s", action)).start().result()
        assert report.response.code == "runtime.ledger_not_owner"
        assert report.ledger is not None
        assert list(report.ledger) == ["$input", "seeded"]


@settings(deadline=None, max_examples=60)
@given(workflows(), turns_to_live)
def test_the_ledger_of_any_run_replays_to_its_state(workflow: Workflow, life: int) -> None:
    report, _ = asyncio.run(driven(workflow, life))
    if report.ledger is None:
        assert life == 0
        return
    log = report.ledger.log()
    assert [op.seq for op in log] == list(range(1, len(log) + 1))
    assert {key: entry.value for key, entry in replay(log).items()} == report.ledger.snapshot()
    sources = {op.entry.source_block_id for op in log if op.entry is not None}
    assert sources <= {"$input", "$recovery", *report.nodes}
    if report.status == "succeeded":
        assert report.ledger._ledger.checkpoints == ()


async def test_two_runs_of_one_workflow_do_not_share_a_ledger() -> None:
    workflow = Workflow("w").add(step("s"))
    first, second = await workflow.start(1).result(), await workflow.start(2).result()
    assert first.ledger is not None
    assert second.ledger is not None
    assert (first.ledger["s"], second.ledger["s"]) == (BlockValue.of(1), BlockValue.of(2))


async def test_success_purges_checkpoints_and_failure_keeps_them() -> None:
    done = await Workflow("w").add(step("s")).start().result()
    broken = await Workflow("w").link(step("s"), failing("f")).start().result()
    assert done.ledger is not None
    assert broken.ledger is not None
    assert done.ledger._ledger.checkpoints == ()
    assert broken.ledger._ledger.checkpoints == ("pre:s:1", "pre:f:1")
    assert "f" not in broken.ledger
