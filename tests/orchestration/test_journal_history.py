"""Reading a journal back for resume and recorded replay (rulings R8, R19, R20)."""

from __future__ import annotations

from runtime.orchestration.journal_history import History, step_of_operation
from runtime.orchestration.operation_table import Known
from tests.support.journals import new_journal, receipt, start_operation


def test_finished_attempts_come_back_with_their_outputs() -> None:
    journal, store, _ = new_journal()
    journal.record_step("a", operation_type="t", inputs={"value": 1})
    journal.complete_step("a", "failed", code="TEST_FAILED", error_message="red")
    journal.record_step("a", operation_type="t", attempt=2)
    journal.complete_step("a", "completed", outputs={"value": {"ok": True}})
    journal.record_step("b", operation_type="t", visit=3)
    history = History.fold(store.entries)
    first, second = history.finished("a"), history.finished("a", attempt=2)
    assert first is not None
    assert (first.record.status, first.code, first.accepted) == ("failed", "TEST_FAILED", False)
    assert second is not None
    assert second.record.outputs == {"value": {"ok": True}}
    assert history.finished("a", visit=2) is None
    assert history.finished("b", visit=3) is None


def test_open_work_is_listed() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k1")
    journal.append_receipt(receipt("k1"))
    start_operation(journal, "k2", operation_id="s1.1")
    history = History.fold(store.entries)
    assert [entry["idempotency_key"] for entry in history.open_operations()] == ["k2"]
    assert [(item.key, item.state) for item in history.operations.unresolved()] == [("k2", Known.OPEN)]


def test_operation_ids_name_their_attempt() -> None:
    assert step_of_operation("a/b", "a/b.0") == ("a/b", 1, 1, 1)
    assert step_of_operation("a/b", "a/b~2.3.4.0") == ("a/b", 2, 3, 4)
    assert step_of_operation("a", "a~1.1.2.key.with.dots") == ("a", 1, 1, 2)


def test_what_was_visited_inside_a_composite_when_it_ended_counts_what_was_cut_short() -> None:
    journal, store, _ = new_journal()
    for visit in (1, 2):
        journal.record_step("all", operation_type="mission", attempt=visit)
        for step, status in (("all/0", "completed"), ("all/1", "cancelled")):
            journal.record_step(step, operation_type="t", visit=visit)
            journal.complete_step(step, status, visit=visit)
        journal.complete_step("all", "failed", code="runtime.timeout", attempt=visit)
    history = History.fold(store.entries)
    first, second = history.finished("all"), history.finished("all", attempt=2)
    assert first is not None
    assert second is not None
    assert history.visited_inside(first) == {"all/0": 1, "all/1": 1}
    assert history.visited_inside(second) == {"all/0": 2, "all/1": 2}
