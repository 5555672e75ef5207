"""What is read from a journal: which receipts blocks saw, in what order they are given again, and what a trace keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationReceipt
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.replay import trace as tracing
from runtime.replay.answers import changed_answers
from runtime.replay.plans import PlanTrace
from runtime.replay.record import Fate, Record
from runtime.replay.trace import fold_trace
from tests.support.journals import new_journal, receipt, start_operation

PLAN = PlanTrace(document={"contract": {"contract": {"nodes": [{"node_id": "s1", "block_type": "x", "after": []}]}}})


class Story:
    """A journal told step by step, with every entry it makes."""

    def __init__(self) -> None:
        self.journal, _, self.clock = new_journal()
        self.entries: list[Mapping[str, Any]] = []
        inner = self.journal._listener
        assert inner is None
        self.journal._listener = self.entries.append
        self.opened = {"kind": "journal_opened", "seq": 0, "journal_id": self.journal.journal_id}

    def step(self, status: str | None = None, step_id: str = "s1", **members: Any) -> Story:
        if status is None:
            self.journal.record_step(step_id, operation_type="x", **members)
        else:
            self.journal.complete_step(step_id, status, **members)
        return self

    def done(self, key: str = "k", **changes: Any) -> OperationReceipt:
        start_operation(self.journal, key)
        return self.journal.append_receipt(receipt(key, **changes))

    def crash(self) -> Story:
        self.journal.append("recovery", epoch=2, cause="gone", findings=[])
        return self

    @property
    def told(self) -> list[Mapping[str, Any]]:
        return [self.opened, *self.entries]

    @property
    def record(self) -> Record:
        return Record(self.told)


FAILED = {"status": "failed", "reason_code": "OP_FAILED"}
INTERRUPTED = {"status": "failed", "reason_code": "OP_INTERRUPTED"}


def codes(record: Record, times: int) -> list[tuple[str, str | None] | None]:
    found = [record.take("k") for _ in range(times)]
    return [None if item is None else (item.status, item.reason_code) for item in found]


def test_a_repeated_key_is_answered_in_the_order_it_was_and_then_as_often_as_asked() -> None:
    story = Story().step()
    story.done(**FAILED)
    story.done(attempt=2)
    assert codes(story.record, 4) == [("failed", "OP_FAILED"), ("success", None), ("success", None), ("success", None)]
    assert story.record.take("other") is None


def test_a_failure_is_not_an_answer_to_a_further_question() -> None:
    story = Story().step()
    story.done(**FAILED)
    assert codes(story.record, 2) == [("failed", "OP_FAILED"), None]


def test_after_a_crash_only_what_succeeded_is_answered_from_before() -> None:
    story = Story().step()
    story.done(**FAILED)
    story.crash().done(attempt=2)
    assert codes(story.record, 1) == [("success", None)]
    story = Story().step()
    story.done()
    story.crash()
    assert codes(story.record, 1) == [("success", None)]


def test_what_recovery_wrote_was_never_seen_by_a_block() -> None:
    story = Story().step()
    story.crash().done(**INTERRUPTED)
    story.done(attempt=2, status="failed", reason_code="OP_TIMEOUT")
    assert codes(story.record, 2) == [("failed", "OP_TIMEOUT"), None]
    assert story.record.total == 1


def test_a_refusal_after_a_crash_replaces_the_answer_from_before() -> None:
    story = Story().step()
    story.done()
    story.crash().done(attempt=2, status="escalated", reason_code="IDEMPOTENCY_DRIFT")
    assert codes(story.record, 2) == [("escalated", "IDEMPOTENCY_DRIFT"), None]


def test_a_finished_attempt_keeps_what_it_saw() -> None:
    story = Story().step()
    story.done(**FAILED)
    story.step("completed").crash()
    assert codes(story.record, 1) == [("failed", "OP_FAILED")]


@pytest.mark.parametrize(
    ("story", "fate"),
    [
        (Story().step().step("completed"), Fate.RUN),
        (Story().step().step("failed", code="runtime.timeout"), Fate.LATE),
        (Story().step().step("failed", code="op.test_failed"), Fate.RUN),
        (Story().step().step("completed", reused_from="run-0"), Fate.REUSED),
        (Story().step().step("cancelled"), Fate.CUT),
        (Story().step(), Fate.CUT),
        (Story(), Fate.BEYOND),
    ],
)
def test_the_fate_of_an_attempt(story: Story, fate: Fate) -> None:
    assert story.record.fate(("s1", 1, 1, 1)) is fate


def test_what_an_ended_record_does_not_hold_is_run() -> None:
    story = Story()
    story.journal.close("completed", result_commit=None)
    assert story.record.fate(("s1", 1, 1, 1)) is Fate.RUN


def test_a_trace_keeps_what_was_done_and_not_when() -> None:
    traces = []
    for seconds in (0, 90):
        story = Story()
        story.clock.advance(seconds)
        story.step(inputs={"value": "in"})
        story.done(reason_code=None)
        story.clock.advance(seconds)
        story.step("completed", outputs={"value": "out"})
        traces.append(fold_trace(story.told, PLAN, evidence={}))
    (one,), (two,) = traces[0].attempts, traces[1].attempts
    assert (one.duration_ms, two.duration_ms) == (0, 90_000)
    assert (one.input, one.output, one.status, one.operations) == (two.input, two.output, two.status, two.operations)


def test_a_handlers_input_is_the_same_at_another_moment_of_another_run() -> None:
    told = {
        "origin": "block",
        "domain": "op",
        "code": "x",
        "retry_disposition": "never",
        "workflow_id": "w",
        "block_id": "b",
    }
    inputs = [{"value": {**told, "ts": n, "run_id": f"r{n}"}} for n in range(2)] + [{"value": {**told, "code": "y"}}]
    digests = [fold_trace(Story().step(inputs=item).told, PLAN, evidence={}).attempts[0].input for item in inputs]
    assert digests[0] == digests[1] != digests[2]


def test_a_trace_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_ITEMS", 1)
    story = Story().step()
    fold_trace(story.told, PLAN, evidence={})
    story.done()
    with pytest.raises(Refused, match="REPLAY_TOO_LARGE"):
        fold_trace(story.told, PLAN, evidence={})


# -- scripted answers --------------------------------------------------------------------------------------------


def evidence_of(first: int, texts: Sequence[str]) -> dict[str, Any]:
    replies = [
        {
            "text_hash": digest_bytes(text.encode()),
            "details": {"role": "runner", "ordinal": first + index, "asked": ""},
        }
        for index, text in enumerate(texts)
    ]
    return {"details": {"request": "req", "replies": replies}}


def call(story: Story, number: int, *texts: str, first: int | None = None, status: str = "success") -> dict[str, Any]:
    """One model call that was answered with ``texts``, the answers from ``first`` on; returns its evidence by name."""
    name = "sha256:" + f"{number:064x}"
    story.done(f"k{number}", operation_id=f"s1.{number}", operation_type="llm_call", evidence_hash=name, status=status)
    return {name: evidence_of(number if first is None else first, texts)}


def changed(story: Story, evidence: dict[str, Any], *answers: str) -> list[str]:
    provider = ScriptedProvider({"runner": answers})
    return [item.scope for item in changed_answers(story.told, evidence, provider, "answers.yaml")]


def test_each_answer_is_compared_with_the_one_it_was() -> None:
    story = Story().step()
    evidence = call(story, 0, "a") | call(story, 1, "bad", "b") | call(story, 2, "c", first=3)
    assert changed(story, evidence, "a", "bad", "b", "c", "unused") == []
    assert changed(story, evidence, "a", "bad", "other", "c") == ["operation:s1.1"]
    assert changed(story, evidence, "a", "bad", "b") == ["operation:s1.2"]
    assert changed(story, evidence, "b", "bad", "a", "c") == ["operation:s1.0", "operation:s1.1"]


def test_a_reply_that_does_not_say_which_answer_it_was_is_passed_over() -> None:
    story = Story().step()
    evidence = call(story, 0, "a")
    next(iter(evidence.values()))["details"]["replies"][0]["details"] = {}
    assert changed(story, evidence, "other") == []
