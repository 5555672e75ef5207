"""Reading a journal back for resume and recorded replay (rulings R8, R19, R20)."""

from __future__ import annotations

from runtime.kernel.canonical import digest
from runtime.orchestration.journal_history import History, OperationState, step_of_operation
from runtime.orchestration.mission_journal import MissionJournal
from tests.support.journals import new_journal, receipt, start_operation


def budget(journal: MissionJournal, phase: str, operation: str, micros: int, tokens: int = 0) -> None:
    journal.append("budget", phase=phase, operation_id=operation, micros=micros, tokens=tokens, remaining_micros=100)


def test_finished_attempts_come_back_with_their_outputs() -> None:
    journal, store, _ = new_journal()
    journal.append("plan", plan_hash=digest({"p": 1}), contract_hash=digest({"c": 1}))
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
    assert [(step.step_id, step.visit) for step in history.open_steps()] == [("b", 3)]
    assert len(history.all_finished()) == 2
    assert history.opened is not None
    assert history.opened["mission_id"] == "m1"
    assert history.plan is not None
    assert history.closed is None
    assert history.last is not None
    assert history.last["seq"] == 6


def test_open_work_is_listed() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k1")
    journal.append_receipt(receipt("k1"))
    start_operation(journal, "k2", operation_id="s1.1")
    journal.append("compensation_started", operation_id="s1.0", compensates=journal.last_receipt_hash)
    history = History.fold(store.entries)
    assert history.operation("k1").state is OperationState.SUCCEEDED
    assert [entry["idempotency_key"] for entry in history.open_operations()] == ["k2"]
    assert [entry["operation_id"] for entry in history.open_compensations()] == ["s1.0"]


def test_an_undo_without_receipt_closes_the_crashed_operation() -> None:
    journal, store, _ = new_journal()
    start_operation(journal, "k", effect="write")
    journal.append("compensation_started", operation_id="s1.0", compensates=None)
    journal.append("compensation_finished", operation_id="s1.0", compensates=None, outcome="undone", verified=True)
    history = History.fold(store.entries)
    assert history.operation("k").state is OperationState.FAILED
    assert history.open_operations() == ()
    assert history.open_compensations() == ()


def test_answers_are_found_by_what_was_asked() -> None:
    journal, store, _ = new_journal()
    for name, subject in (("e1", "s-one"), ("e2", "s-two")):
        journal.append(
            "escalation",
            phase="asked",
            escalation_id=name,
            step_id="s1",
            reason="may I",
            severity="info",
            blocking=True,
            choices=["approve", "reject"],
            subject_digest=subject,
        )
    journal.append(
        "escalation", phase="answered", escalation_id="e1", resolution="approved", resolved_by="operator", notes=""
    )
    history = History.fold(store.entries)
    answer = history.answer("s-one")
    assert answer is not None
    assert answer["resolution"] == "approved"
    assert history.answer("s-two") is None
    assert [entry["escalation_id"] for entry in history.open_questions()] == ["e2"]


def test_a_crash_never_resets_the_spend() -> None:  # 10.k
    journal, store, _ = new_journal()
    budget(journal, "reserved", "a.0", 50, 500)
    budget(journal, "settled", "a.0", 30, 300)
    budget(journal, "reserved", "b.0", 40, 400)
    assert History.fold(store.entries).spent_micros == 70
    budget(journal, "lost", "b.0", 40, 400)
    budget(journal, "reserved", "b.0", 20, 200)
    budget(journal, "reserved", "b.0", 10, 100)
    history = History.fold(store.entries)
    assert (history.spent_micros, history.spent_tokens) == (100, 1000)


def test_operation_ids_name_their_attempt() -> None:
    assert step_of_operation("a/b", "a/b.0") == ("a/b", 1, 1, 1)
    assert step_of_operation("a/b", "a/b~2.3.4.0") == ("a/b", 2, 3, 4)
    assert step_of_operation("a", "a~1.1.2.key.with.dots") == ("a", 1, 1, 2)
