"""The view state is a fold: the same entries give the same screen, live or read back."""

from __future__ import annotations

import pytest
from support.fake_deck import AT, NODES, RUN, entry, lanes, run_summary, streams

from console.model.detail import step_pane
from console.model.fold import JOURNAL_TAIL, LOG_TAIL, RunState
from console.model.home import HomeState, title_text
from console.model.reasons import run_reason
from console.model.rows import lane_rows, notice_row, step_row
from runtime.events.facts import (
    Escalation,
    Finding,
    InboxChanged,
    JournalVerified,
    LanesChanged,
    OutputDelta,
    RunChanged,
    StreamGap,
    Verification,
)
from runtime.host.api import RunStatus


def begin() -> RunState:
    return RunState.begin(run_summary(), NODES)


def started(seq: int, step: str, **more: object):
    members = {"step_id": step, "operation_type": "run_tests", "status": "running", "attempt": 1, "started_at": AT}
    return entry(seq, "step_started", **{**members, **more})


def finished(seq: int, step: str, status: str, **more: object):
    members = {"step_id": step, "operation_type": "run_tests", "status": status, "attempt": 1, "started_at": AT}
    return entry(seq, "step_finished", **{**members, "completed_at": AT, **more})


def test_steps_follow_their_entries() -> None:
    state = begin()
    state.apply_all([started(0, "red"), finished(1, "red", "completed"), started(2, "propose")])
    assert [(row.step_id, row.status) for row in state.step_rows()][:3] == [
        ("red", "completed"),
        ("propose", "running"),
        ("apply", "pending"),
    ]


def test_a_recurring_run_tells_its_tick_and_how_to_end_it() -> None:
    state = begin()
    state.apply(started(0, "red"))
    assert not state.recurring
    assert notice_row(state) == ()
    state.apply_all([finished(1, "red", "completed"), started(2, "red", tick=2)])
    assert "".join(text for text, _ in notice_row(state)) == "recurring, tick 2   s end after this tick  x cancel"
    assert "tick 2" in step_row(state.steps["red"], 3)[-1][0]
    assert state.journal[-1].text == "step running  red tick 2"


def test_steps_inside_a_composite_stand_below_it_items_by_number() -> None:
    state = begin()
    order = [
        "red",
        "propose",
        "propose/0",
        "propose/10",
        "propose/2",
        "propose/10/ask",
        "propose/2/read",
        "propose/2/ask",
    ]
    state.apply_all([started(seq, step) for seq, step in enumerate(order)])
    state.apply(finished(len(order), "propose/0", "completed"))
    shown = [row.step_id for row in state.step_rows()]
    assert shown[:8] == [
        "red",
        "propose",
        "propose/0",
        "propose/2",
        "propose/2/read",
        "propose/2/ask",
        "propose/10",
        "propose/10/ask",
    ]
    assert shown[8] == "apply"
    assert "1 completed, 2 running" in "".join(text for row in step_pane(state, "propose") for text, *_ in row)


def test_an_accepted_failure_is_marked_and_so_are_its_violations() -> None:
    state = begin()
    denied = entry(1, "operation_denied", step_id="red", operation_id="red.0", idempotency_key="k", code="ENV_TOOL")
    state.apply_all([started(0, "red"), denied, finished(2, "red", "failed", code="op.env_tool", accepted=True)])
    assert state.steps["red"].accepted
    assert state.violation_count == 1
    assert [item.accepted for item in state.violations] == [True]


def test_an_entry_seen_twice_counts_once() -> None:
    """A page read from the store and the live feed overlap; the fold must not count twice."""
    state = begin()
    denied = entry(0, "operation_denied", step_id="red", operation_id="red.0", idempotency_key="k", code="ENV_TOOL")
    assert state.apply(denied)
    assert not state.apply(denied)
    assert state.violation_count == 1


def test_turn_state_comes_from_signals() -> None:
    state = begin()
    for seq, (signal, expected) in enumerate(
        [("turn_open_proposed", "Opening"), ("turn_open", "Active"), ("abort", "Terminal"), ("close", "Closed")]
    ):
        state.apply(entry(seq, "signal", signals=[{"signal": signal, "reason": "cancelled"}]))
        assert state.turn == expected
    assert state.turn_reason == "cancelled"


def test_events_of_other_runs_change_nothing() -> None:
    state = begin()
    other = entry(0, "step_started", run_id="other", step_id="red", operation_type="x", started_at=AT)
    assert not state.apply(other)
    assert state.revision == 0


def test_output_is_cut_into_safe_lines_and_keeps_its_origin() -> None:
    state = begin()
    state.apply(OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="one\ntw"))
    state.apply(OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="o\x1b[2J\n"))
    state.apply(OutputDelta(run_id=RUN, step_id="propose", stream="model", text="⟦tool⟧ fake\n"))
    assert [(line.origin, line.text) for line in state.log] == [
        ("tool", "one"),
        ("tool", "two"),
        ("model", "⟦tool⟧ fake"),
    ]


def test_a_line_without_end_does_not_grow_for_ever() -> None:
    state = begin()
    for _ in range(100):
        state.apply(OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="x" * 1000))
    assert max(len(line.text) for line in state.log) < 6000


def test_collections_are_bounded_and_losses_counted() -> None:
    state = begin()
    for seq in range(JOURNAL_TAIL + 50):
        state.apply(entry(seq, "evidence"))
    state.apply(OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="line\n" * (LOG_TAIL + 7)))
    state.apply(StreamGap(dropped=3))
    assert len(state.journal) == JOURNAL_TAIL
    assert state.journal[-1].seq == JOURNAL_TAIL + 49
    assert len(state.log) == LOG_TAIL
    assert state.log_dropped == 10


def test_budget_settlements_add_up() -> None:
    state = begin()
    state.apply(entry(0, "budget", phase="reserved", operation_id="a.0", micros=500, tokens=10, remaining_micros=0))
    state.apply(entry(1, "budget", phase="settled", operation_id="a.0", micros=120, tokens=7, remaining_micros=380))
    assert (state.spent_micros, state.spent_tokens, state.remaining_micros) == (120, 7, 380)


def test_gauges_verdicts_and_questions_replace_older_ones() -> None:
    state = begin()
    verdict = Verification(
        run_id=RUN,
        ok=False,
        entries=9,
        trusted_prefix=4,
        head_seq=8,
        head_hash=None,
        closed=False,
        findings=(Finding(code="J_ENTRY_HASH", severity="error", seq=4, detail="hash differs"),),
    )
    question = Escalation(
        escalation_id="q",
        run_id=RUN,
        step_id="ask",
        reason="Publish?",
        severity="info",
        blocking=True,
        choices=("approved", "rejected"),
        subject_digest="sha256:0",
        created_at=AT,
    )
    state.apply_all(
        [
            LanesChanged(run_id=RUN, lanes=lanes(), streams=streams(), pool_running=1, pool_slots=8),
            JournalVerified(verification=verdict),
            InboxChanged(escalations=(question,)),
            RunChanged(run=run_summary(status=RunStatus.WAITING)),
        ]
    )
    assert state.verification is verdict
    assert state.questions == (question,)
    assert state.run.status is RunStatus.WAITING
    assert len(state.lanes) == 3
    assert [edge.lane for edge in state.streams] == ["DataLane", "TelemetryLane"]


def pressed(seq: int, *told: tuple[str, str, int | None]):
    signals = [
        {"signal": signal, "edge_id": f"{edge}/telemetry", "target_lane": "TelemetryLane", "reason": "r"}
        | ({} if amount is None else {"amount": amount})
        for signal, edge, amount in told
    ]
    return entry(seq, "signal", signals=signals)


def test_what_passed_the_stream_edges_is_counted_from_the_journal() -> None:
    state = begin()
    kept = {"items": 300, "bytes": 4000, "content": "sha256:1", "index": "sha256:2"}
    state.apply_all(
        [
            pressed(0, ("watermark", "stream", None), ("flow_xoff", "stream", None), ("drop_notice", "stream", 256)),
            pressed(1, ("drop_notice", "stream", 4), ("flow_xon", "stream", None), ("watermark", "stream", None)),
            pressed(2, ("watermark", "plan/1", None), ("shed", "plan/1", 1)),
            started(3, "red"),
            finished(4, "red", "failed", stream=kept),
            started(5, "apply"),
            finished(6, "apply", "completed", stream=kept),
        ]
    )
    telemetry, data = state.totals["TelemetryLane"], state.totals["DataLane"]
    assert (telemetry.dropped, telemetry.saturated) == (260, 2), "attempts waiting for a lane are no stream"
    assert (data.kept, data.bytes, data.dropped) == (600, 8000, 0)
    assert list(state.indexes) == [("red", "sha256:2"), ("apply", "sha256:2")]


@pytest.mark.parametrize("stream", [3, {}, {"items": "many", "bytes": 1, "index": "x"}, {"items": 1, "bytes": 1}])
def test_a_malformed_stream_member_is_no_stream(stream: object) -> None:
    """A journal somebody rewrote is still shown; verification says what is wrong with it."""
    state = begin()
    state.apply_all([started(0, "red"), finished(1, "red", "completed", stream=stream)])
    assert (state.steps["red"].status, state.totals, list(state.indexes)) == ("completed", {}, [])
    assert "items" not in state.journal[-1].text


@pytest.mark.parametrize("width", [40, 50, 68])
def test_stream_rows_say_everything_at_every_width(width: int) -> None:
    state = begin()
    state.apply(LanesChanged(run_id=RUN, lanes=lanes(), streams=streams(), pool_running=1, pool_slots=8))
    texts = ["".join(text for text, _ in row) for row in lane_rows(state, width)]
    assert [text.split()[0] for text in texts] == ["CONTROL", "DATA", "└", "TELEMETRY", "pool"]
    assert all(len(text) <= width for text in texts)
    assert "│" in texts[2], "the high mark is drawn"
    assert "out 12k" in texts[2]
    assert ("sat" in texts[3], "sat" in texts[2]) == (True, False)
    assert "31k" in texts[3]
    state.apply(RunChanged(run=run_summary(status=RunStatus.CANCELLED)))
    state.apply(pressed(0, ("watermark", "stream", None), ("drop_notice", "stream", 31_870)))
    quiet = ["".join(text for text, _ in row) for row in lane_rows(state, width)]
    assert quiet[2].startswith("TELEMETRY closed")
    assert "31k" in quiet[2] or "31,870" in quiet[2]
    assert quiet[2].endswith("1×")
    assert all(len(text) <= width for text in quiet)


def test_undoing_a_step_is_shown() -> None:
    state = begin()
    undone = entry(
        2,
        "compensation_finished",
        operation_id="apply.0",
        compensates="sha256:0",
        outcome="done",
        verified=True,
        checks={},
    )
    state.apply_all([started(0, "apply"), finished(1, "apply", "completed"), undone])
    assert state.steps["apply"].status == "compensated"


def test_an_entry_after_a_gap_waits_for_the_missing_ones() -> None:
    state = begin()
    state.apply_all([started(0, "red"), finished(2, "red", "completed")])
    assert (state.last_seq, state.missing, state.steps["red"].status) == (0, True, "running")
    state.apply_all([entry(1, "evidence"), finished(2, "red", "completed")])
    assert (state.last_seq, state.missing, state.steps["red"].status) == (2, False, "completed")


def test_the_previewed_tail_is_shown_once_and_counted_by_the_fold() -> None:
    entries = [
        entry(seq, "operation_denied", step_id="red", operation_id="red.0", idempotency_key="k", code="ENV_TOOL")
        for seq in range(6)
    ]
    state = begin()
    state.preview(entries[3:])
    assert ([row.seq for row in state.journal], state.violation_count) == ([3, 4, 5], 0)
    state.apply_all(entries)
    assert ([row.seq for row in state.journal], state.violation_count) == ([3, 4, 5], 6)


def test_a_last_line_without_newline_is_shown_when_its_step_ends() -> None:
    state = begin()
    state.apply_all([started(0, "red"), OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="no newline")])
    assert not state.log
    state.apply(finished(1, "red", "completed"))
    assert [line.text for line in state.log] == ["no newline"]


def test_a_question_cannot_be_answered_once_nobody_holds_the_run() -> None:
    question = Escalation(
        escalation_id="q",
        run_id=RUN,
        step_id="ask",
        reason="?",
        severity="info",
        blocking=True,
        choices=("approved",),
        subject_digest="sha256:1",
        created_at=AT,
    )
    state = begin()
    state.apply(InboxChanged(escalations=(question,)))
    assert state.waiting == (question,)
    state.apply(RunChanged(run=run_summary(resumable=True)))
    assert state.waiting == ()
    assert run_reason("answer", "approved", state) == "nobody holds the run; r resumes it, and it asks again"
    assert run_reason("stop", "", state) == "nobody holds the run; r resumes it"


def test_an_answered_question_leaves_the_inbox_at_once() -> None:
    """The feed delivers the answer before the inbox, and the inbox may still list the question."""
    question = Escalation(
        escalation_id="q",
        run_id=RUN,
        step_id="ask",
        reason="?",
        severity="info",
        blocking=True,
        choices=("approved",),
        subject_digest="sha256:1",
        created_at=AT,
    )
    home = HomeState(store="s", read_only=False)
    home.apply(InboxChanged(escalations=(question,)))
    assert home.blocking() == [question]
    home.apply(entry(0, "escalation", phase="answered", escalation_id="q", resolution="approved", resolved_by="me"))
    home.apply(InboxChanged(escalations=(question,)))
    assert home.blocking() == []
    assert title_text(home) == "quarterdeck"
