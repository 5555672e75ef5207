"""The ledger: replay equals state, rollback restores it, and nobody else writes (blocks spec §16)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.blocks.errors import BlockError, LedgerOwnershipError
from runtime.blocks.ledger import CHECKPOINT_WINDOW, Ledger, LedgerOpKind, replay
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import failing, step

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
            self.ledger.rollback(name)
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


async def test_success_purges_checkpoints_and_failure_keeps_them() -> None:
    done = await Workflow("w").add(step("s")).start().result()
    broken = await Workflow("w").link(step("s"), failing("f")).start().result()
    assert done.ledger is not None
    assert broken.ledger is not None
    assert done.ledger._ledger.checkpoints == ()
    assert broken.ledger._ledger.checkpoints == ("pre:s:1", "pre:f:1")
    assert "f" not in broken.ledger
